"""The hearing half of a conference server's client: one connection in, with a track of each who speaks, heard mixed.

The server offers, and offers anew whenever somebody comes or goes (as LiveKit does for what is subscribed to).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from media.clock import Clock
from media.icesdp import bundled
from media.iceservers import IceServer
from media.leg import AudioFormat, Exchange, Leg, LegStats
from media.negotiation import Codecs
from media.ports import Ports
from media.sdp import Description, Media, parse
from media.stream import Stream
from media.tracks import Tracks
from media.webrtc import WebRtcLeg

DIRECTIONS = ("sendrecv", "sendonly", "recvonly", "inactive")


class HearingLeg(WebRtcLeg):
    """As a publisher's leg, but of many tracks: all audio lines of an offer are accepted if they are alike.

    None of them may ever send: a room may be empty.
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
    ) -> None:
        super().__init__(audio_format, clock, ports, host, advertised, servers, when_closed, codecs, "in")
        self._receiver = self._tracks = Tracks(self._host, self._reports, self._security)

    async def answer(self, offer: str) -> str:
        """Agree to all tracks, now or anew. Raises LegError; what was agreed before then stands."""
        text = await super().answer(offer)
        assert self._stream is not None
        return "\r\n".join([*_all_tracks(bundled(parse(offer)), text, self._stream.number), ""])

    def take(self) -> Exchange | None:
        """The oldest exchange, or None where its time is not over yet."""
        return self._incoming.take()

    def skip_to_newest(self) -> None:
        """Forget the exchanges that wait, but the last."""
        while self._incoming.waiting > 1:
            self._incoming.take()

    @property
    def stats(self) -> LegStats:
        """Counters so far, of all tracks together."""
        stats, playouts = super().stats, [receiver.playout for receiver in self._tracks.receivers]
        stats.packets_lost, stats.jitter_s = self._tracks.lost, self._tracks.jitter_s
        stats.packets_late = sum(playout.late for playout in playouts)
        stats.packets_recovered = sum(playout.recovered for playout in playouts)
        stats.packets_duplicate = sum(playout.duplicate for playout in playouts)
        stats.playout_delay_s = max((playout.delay_s for playout in playouts), default=0.0)
        return stats

    def _read(self, stream: Stream) -> Stream:
        """Which of the lines sends at the moment is no matter: others may."""
        return replace(super()._read(replace(stream, receives=True)), receives=True)

    def _why_lost(self, now: float) -> str | None:
        self._began = now  # audio may be long in coming
        return super()._why_lost(now)


def _all_tracks(offer: Description, answer: str, number: int) -> Iterator[str]:
    """An answer that accepts one line, with the others accepted as that one is, each under its own name."""
    head, *sections = answer.rstrip("\r\n").split("\r\nm=")
    chosen, tracks = sections[number].split("\r\n"), [_alike(line, offer.media[number]) for line in offer.media]
    mids = [line.attribute("mid") or "" for line, track in zip(offer.media, tracks, strict=True) if track]
    for text in head.split("\r\n"):
        yield f"a=group:BUNDLE {' '.join(mids)}" if text.startswith("a=group:BUNDLE") else text
    for line, track, section in zip(offer.media, tracks, sections, strict=True):
        yield from _track(line, chosen) if track else f"m={section}".split("\r\n")


def _alike(line: Media, chosen: Media) -> bool:
    """Whether that is a track of the same codecs under the same numbers, on the same way."""
    mine, theirs = line.codecs(), chosen.codecs()
    same = line.kind == "audio" and line.profile == chosen.profile and mine == theirs
    return bool(same and line.port and line.attribute("ice-ufrag") == chosen.attribute("ice-ufrag"))


def _track(line: Media, chosen: list[str]) -> Iterator[str]:
    """The chosen section again, for another line."""
    direction = "recvonly" if line.direction in ("sendrecv", "sendonly") else "inactive"
    yield f"m={chosen[0]}"
    for text in chosen[1:]:
        if text.startswith("a=mid:"):
            yield f"a=mid:{line.attribute('mid')}"
        elif text.removeprefix("a=") in DIRECTIONS:
            yield f"a={direction}"
        else:
            yield text
