"""A Leg on RTP (RFC 3550, 3551), plain or encrypted (RFC 3711), on a pair of UDP ports."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from ipaddress import ip_address

from media.clock import Clock
from media.crypto import Policy
from media.latch import Network
from media.leg import AudioFormat, Leg, LegError
from media.negotiation import Codecs, choose, confirm
from media.ports import Ports
from media.sdp import parse
from media.streamleg import StreamLeg
from media.transport import Transport


class RtpLeg(StreamLeg):
    """One party over RTP. `host` is where its signalling comes from; `advertised` replaces our own address,
    by the version of IP. The rest is said in `StreamLeg`.
    """

    def __init__(
        self,
        audio_format: AudioFormat,
        clock: Clock,
        ports: Ports,
        host: str,
        advertised: Mapping[int, str] | None = None,
        when_closed: Callable[[Leg], None] | None = None,
        srtp: Policy = "accept",
        codecs: Codecs = (),
        networks: tuple[Network, ...] = (),
    ) -> None:
        super().__init__(audio_format, clock, host, when_closed, srtp, codecs, networks)
        self._transport = Transport(ports, self._host, advertised or {}, self._readable, self._receive)

    @property
    def _way(self) -> Transport:
        return self._transport

    async def offer(self, hold: bool | None = None) -> str:
        """Our offer: everything we speak. Raises LegError."""
        self._check_open()
        hold = self._hold if hold is None else hold
        self._transport.settle(None)
        self._offered = self._describer.offer(self._transport.local, self._transport.port, hold)
        self._holding = hold
        return self._offered

    async def answer(self, offer: str) -> str:
        """Agree to what is offered, now or anew. Raises LegError; what was agreed before then stands."""
        self._check_open()
        description = parse(offer)
        stream = choose(description, self._host, self._srtp, self._codecs, self._hold, self._is_client)
        self._transport.settle(None if stream.is_hole else stream.remote[0])
        self._offered = ""
        text = self._describer.answer(description, stream, self._transport.local, self._transport.port)
        self._adopt(stream)
        return text

    async def accepted(self, answer: str) -> None:
        """Take an answer to our offer, early media's or another fork's too. Raises LegError; the last then stands."""
        self._check_open()
        if not self._offered:
            raise LegError("an answer came, but nothing was offered")
        description = parse(answer)
        offered, hold = parse(self._offered), self._holding
        stream = confirm(offered, description, self._host, self._srtp, self._codecs, hold)
        local, remote = self._transport.local, stream.remote[0]
        if not stream.is_hole and ip_address(remote).version != ip_address(local).version:
            raise LegError(f"the answer names {remote}, which {local}, as we offered, cannot reach")
        self._describer.accepted(description, stream)
        self._hold = hold
        self._adopt(stream)

    async def _leave(self) -> None:
        self._transport.close()

    def _give_up(self) -> None:
        self._transport.close()

    def _readable(self, rtcp: bool) -> None:
        """One datagram: if there are more, the loop asks again, and the next tick takes what is left."""
        try:
            self._transport.read(rtcp, self._clock.time())
        except Exception as error:  # as in the wheel: the fault of one leg is not everybody's
            self._clock.fail(self, error)
