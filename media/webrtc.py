"""A Leg on WebRTC: a browser, or whoever speaks its ways (RFC 8825). Its packets go by ICE, its keys are made by DTLS.

The way may be another in the middle of a call: an offer with other ICE credentials replaces it (a page that was loaded
anew, another network), and what is said meanwhile is silence. While there is none, the call's time goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Literal, TypeAlias

from media.clock import Clock
from media.ice import IceWay
from media.icesdp import PORT, Fragment, Local, Remote, at
from media.iceservers import IceServer
from media.keying import DTLS_PROFILES
from media.leg import AudioFormat, Leg, LegError, LegStats
from media.negotiation import Codecs, choose, confirm
from media.ports import Ports
from media.sdp import Description, parse, shown
from media.stream import Stream
from media.streamleg import StreamLeg

logger = logging.getLogger(__name__)

AWAY_S = 8.0
"""Nothing came for so long, neither media nor a check of ICE, of which there is one in five seconds: they are away."""

GRACE_S = 60.0
"""They may be away for so long, and come back by the same way or by another."""

FIRST_PACKET_S = 30.0
"""There is a way, but no audio came for so long."""


Ways: TypeAlias = Literal["both", "in", "out"]


class OtherIce(LegError):
    """Candidates are of another session of ICE than the one that goes on: a restart, which takes an offer."""


class WebRtcLeg(StreamLeg):
    """One party over WebRTC. `host` is where its signalling comes from; `advertised` replaces our own addresses, by
    the version of IP; `servers` tell more of them. The rest is said in `StreamLeg`.

    `ways`: "in" is a publisher's leg (RFC 9725), which only sends to us, and does not hold by that; "out" is a
    listener's, to whom we only send.
    """

    def __init__(
        self,
        audio_format: AudioFormat,
        clock: Clock,
        ports: Ports,
        host: str,
        advertised: Mapping[int, str] | None = None,
        servers: Sequence[IceServer] = (),
        when_closed: Callable[[Leg], None] | None = None,
        codecs: Codecs = (),
        ways: Ways = "both",
        grace_s: float = GRACE_S,
    ) -> None:
        super().__init__(audio_format, clock, host, when_closed, "demand", codecs)
        self._ports, self._advertised, self._servers = ports, advertised or {}, servers
        self._ways, self._grace_s = ways, grace_s
        self._ice: IceWay | None = None
        self._remote: Remote | None = None
        self._ever = self._away = False
        self._began: float | None = None

    # --- Leg: descriptions ---

    async def answer(self, offer: str) -> str:
        """Agree to what is offered, now or anew, by the way that there is or another. Raises LegError; what was agreed
        before then stands.
        """
        self._check_open()
        description = at(parse(offer), self._host)
        _check_profile(description)
        stream = self._read(choose(description, self._host, "demand", self._codecs, self._hold, self._is_client))
        remote = Remote.read(offer, description.media[stream.number])
        if self._is_another(remote, stream):
            stream = self._read(choose(description, self._host, "demand", self._codecs, self._hold))
        ice = self._ice if self._ice and _goes_on(self._remote, remote) else await self._gathered(controlling=False)
        self._offered = ""
        text = self._describer.answer(description, stream, *ice.default, self._local(ice))
        await self._go(ice, remote, stream)
        return text

    async def offer(self, hold: bool | None = None) -> str:
        """Our offer: everything we speak. Raises LegError."""
        self._check_open()
        hold = self._hold if hold is None else hold
        if self._ice is None:
            self._ice = await self._gathered(controlling=True)
        self._offered = self._describer.offer(*self._ice.default, hold, self._local(self._ice))
        self._holding = hold
        return self._offered

    async def accepted(self, answer: str) -> None:
        """Take an answer to our offer. Raises LegError; what was agreed before then stands."""
        self._check_open()
        if not self._offered or self._ice is None:
            raise LegError("an answer came, but nothing was offered")
        description = at(parse(answer), self._host)
        offered, hold = parse(self._offered), self._holding
        stream = self._read(confirm(offered, description, self._host, "demand", self._codecs, hold))
        remote = Remote.read(answer, description.media[stream.number])
        self._describer.accepted(description, stream)
        self._hold = hold
        await self._go(self._ice, remote, stream)

    async def add_candidates(self, fragment: str) -> None:
        """More of the far end's candidates (RFC 8840). Raises LegError: `OtherIce` where they are not this way's."""
        more = Fragment.parse(fragment)
        if self._ice is None or self._remote is None:
            raise LegError("candidates came before a description")
        if (more.ufrag, more.password) != (self._remote.ufrag, self._remote.password):
            raise OtherIce("the fragment is of another ICE session; a restart takes an offer")
        await self._ice.add(more.candidates)

    def _read(self, stream: Stream) -> Stream:
        if stream.dtls is None:
            raise LegError("the audio stream is without a=fingerprint and a=setup; WebRTC makes its keys by DTLS")
        if self._ways == "in":
            if not stream.receives:
                raise LegError("the offer's audio is not to be sent to us; this is where it is published")
            return replace(stream, sends=False, one_way=True)
        if self._ways == "out":
            if not stream.sends:
                raise LegError("the offer's audio is not to be sent by us; this is where it is listened to")
            return replace(stream, receives=False)
        return stream

    async def _gathered(self, controlling: bool) -> IceWay:
        """A new way, which is yet to be found."""
        time = self._clock.time
        ice = IceWay(self._ports, self._host, self._advertised, self._servers, self._take, time, controlling)
        await ice.gather()
        if self._closed:
            await ice.close()
            raise LegError("the leg was closed")
        return ice

    def _local(self, ice: IceWay) -> Local:
        return Local(ice.ufrag, ice.password, ice.candidates, self._sender.ssrc, self._reports.name)

    def _is_another(self, remote: Remote, stream: Stream) -> bool:
        """Whether somebody else is to shake hands."""
        return not _goes_on(self._remote, remote) and not _same_peer(self._remote, self._stream, remote, stream)

    async def _go(self, ice: IceWay, remote: Remote, stream: Stream) -> None:
        """By that way from now on."""
        way, peer = self._ice, self._remote
        another = not _goes_on(peer, remote)
        if self._is_another(remote, stream):
            self._security.renew()
        self._ice, self._remote = ice, remote
        self._adopt(stream)
        if not another:
            await ice.add(remote.candidates)
            return
        logger.info("- WebRTC: %s", "a way is looked for" if peer is None else "another way is looked for")
        ice.connect(remote)
        if way is not None and way is not ice:
            await way.close()

    # --- StreamLeg: the way ---

    @property
    def _way(self) -> IceWay:
        assert self._ice is not None
        return self._ice

    @property
    def stats(self) -> LegStats:
        """Counters so far."""
        stats = super().stats
        stats.remote = self._ice.remote if self._ice else ""
        return stats

    async def _leave(self) -> None:
        if self._ice is not None:
            await self._ice.close()

    def _give_up(self) -> None:
        """The ports are given back by `close`."""

    def _take(self, data: bytes, now: float) -> None:
        """A packet of the far end's: ICE has seen to it that it is. Its address says no more than that."""
        try:
            self._receive(data, (self._host, PORT), False, now)
        except Exception as error:  # as in the wheel: the fault of one leg is not everybody's
            self._clock.fail(self, error)

    def _shake(self, stream: Stream, now: float) -> None:
        if self._way.connected:
            super()._shake(stream, now)

    def _may_send(self, now: float) -> bool:
        stream = self._stream
        return stream is not None and stream.sends and self._way.connected and self._security.ready

    def _may_begin(self, now: float) -> bool:
        return self._way.connected  # which ICE has made sure of

    def _why_lost(self, now: float) -> str | None:
        ice, stream = self._way, self._stream
        self._ever = self._ever or ice.connected
        if not self._ever:
            return ice.failure or None
        silent_s = now - ice.heard_at
        if (silent_s >= AWAY_S) != self._away:
            self._away = not self._away
            logger.info("- WebRTC: %s", f"nothing came for {AWAY_S:g} s" if self._away else "the far end is back")
        if silent_s >= self._grace_s:
            return (
                f"nothing came from the far end for {self._grace_s:g} s, not even a check of ICE: the network between "
                "is down, or it has gone without saying so"
            )
        if self._began is None or self._reports.source is not None or not (stream and stream.receives):
            self._began = now
        if now - self._began >= FIRST_PACKET_S:
            failed = f"; {self._security.failed} handshakes by DTLS failed" if self._security.failed else ""
            return f"there is a way by ICE to {ice.remote}, but no audio came by it in {FIRST_PACKET_S:g} s{failed}"
        return None


def _check_profile(description: Description) -> None:
    """Raises LegError where no audio is encrypted as WebRTC's is."""
    profiles = [line.profile for line in description.media if line.kind == "audio" and line.port]
    if profiles and not set(profiles) & set(DTLS_PROFILES):
        raise LegError(f"the offer's audio is {shown(profiles[0])}; WebRTC's is {DTLS_PROFILES[1]}")


def _goes_on(before: Remote | None, now: Remote) -> bool:
    """Whether that is the session of ICE that there is (RFC 8839, section 4.4.1.1.1)."""
    return before is not None and (before.ufrag, before.password) == (now.ufrag, now.password)


def _same_peer(peer: Remote | None, before: Stream | None, remote: Remote, stream: Stream) -> bool:
    """Whether keys of before still hold: ICE was restarted, but by the same peer connection (RFC 8842, section 4)."""
    if peer is None or before is None or before.dtls is None or stream.dtls is None or not peer.session:
        return False
    return peer.session == remote.session and before.dtls.fingerprints == stream.dtls.fingerprints
