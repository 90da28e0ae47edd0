"""Opens the right Leg for a session description, and owns what all legs share: the wheel and the ports."""

from __future__ import annotations

import asyncio
import copy
import socket
from collections.abc import Iterable
from ipaddress import ip_address
from types import TracebackType
from typing import Self

from media.clock import Clock
from media.codec import named
from media.crypto import Policy
from media.hearing import HearingLeg
from media.icesdp import wants_ice
from media.iceservers import IceServer
from media.latch import Network
from media.leg import AudioFormat, Leg, LegError
from media.pair import PairLeg
from media.ports import Ports
from media.rtp import RtpLeg
from media.webrtc import Ways, WebRtcLeg


class Legs:
    """`open_leg` while entered. Legs that are still open when it is left are closed.

    `ports` are the first and last UDP port for media. `advertised` are addresses, one for each version of IP, or a
    name that descriptions carry instead of our own; a name is looked up once, on entering, which raises LegError where
    it cannot be. `srtp` says which legs there are: plain ones, encrypted ones too, or these alone. `codecs` are names,
    best first; empty: all, and an offer's order decides. `ice_servers` tell WebRTC legs what they are reached by.
    Raises ValueError for a name that is none.
    """

    def __init__(
        self,
        audio_format: AudioFormat,
        *,
        ports: tuple[int, int],
        advertised: Iterable[str] = (),
        srtp: Policy = "accept",
        codecs: Iterable[str] = (),
        ice_servers: Iterable[IceServer] = (),
        clock: Clock | None = None,
    ) -> None:
        self._format, self._range, self._names = audio_format, ports, tuple(advertised)
        self._advertised: dict[int, str] = {}
        self._srtp, self._clock, self._codecs = srtp, clock, tuple(map(named, codecs))
        self._servers = tuple(ice_servers)
        self._ports: Ports | None = None
        self._open: set[Leg] = set()

    async def __aenter__(self) -> Self:
        if self._clock is None:
            self._clock = Clock(asyncio.get_running_loop())
        for name in self._names:
            for address in await _look_up(name):
                self._advertised.setdefault(ip_address(address).version, address)
        self._ports = Ports(*self._range, self._clock.time)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for leg in list(self._open):
            await leg.close()

    def open_leg(
        self,
        media: str | None,
        host: str,
        *,
        srtp: Policy | None = None,
        codecs: Iterable[str] | None = None,
        networks: Iterable[Network] = (),
    ) -> Leg:
        """A leg for a call whose signalling comes from `host` and whose offer is `media` (None: we shall offer).

        It has no port yet and refuses nothing: `Leg.answer` and `Leg.offer` do. `srtp` and `codecs` are for this call;
        so are `networks`, where its media may come from besides the addresses that the far end names.
        """
        assert self._clock is not None and self._ports is not None, "Legs is not entered"
        if wants_ice(media) and (srtp or self._srtp) != "off":
            return self.open_web_leg(host, codecs=codecs)
        spoken = self._codecs if codecs is None else tuple(map(named, codecs))
        leg = RtpLeg(
            *(self._format, self._clock, self._ports, host, self._advertised, self._open.discard),
            srtp=srtp or self._srtp,
            codecs=spoken,
            networks=tuple(networks),
        )
        self._open.add(leg)
        return leg

    def framed(self, audio_format: AudioFormat) -> Legs:
        """The same for those who want other frames, once entered: on our wheel, with our ports, closed with ours."""
        other = copy.copy(self)
        other._format = audio_format
        return other

    def open_web_leg(self, host: str, ways: Ways = "both", *, codecs: Iterable[str] | None = None) -> WebRtcLeg:
        """A leg for a browser, whichever of the two offers. It has no port yet; `ways`: see there."""
        assert self._clock is not None and self._ports is not None, "Legs is not entered"
        leg = WebRtcLeg(
            *(self._format, self._clock, self._ports, host, self._advertised, self._servers, self._open.discard),
            codecs=self._codecs if codecs is None else tuple(map(named, codecs)),
            ways=ways,
        )
        self._open.add(leg)
        return leg

    def open_pair_leg(self, host: str) -> PairLeg:
        """A leg for a conference server that has a connection for each direction. It has no port yet."""
        assert self._clock is not None and self._ports is not None, "Legs is not entered"
        hearing = HearingLeg(
            *(self._format, self._clock, self._ports, host, self._advertised, self._servers, self._open.discard),
            codecs=self._codecs,
        )
        self._open.add(hearing)
        return PairLeg(self.open_web_leg(host, "out"), hearing)


async def _look_up(name: str) -> list[str]:
    """The addresses of a name, or the address that it is."""
    try:
        return [str(ip_address(name))]
    except ValueError:
        pass
    try:
        found = await asyncio.get_running_loop().getaddrinfo(name, None, type=socket.SOCK_DGRAM)
    except OSError as error:
        raise LegError(f"the advertised address {name!r} cannot be looked up: {error.strerror}") from None
    return [str(address) for *_, (address, *_) in found]
