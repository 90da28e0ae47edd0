"""Several sources in one stream of a connection: each is received by itself, and all are heard mixed. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from aiortc.rtp import RtcpReceiverInfo

from media.latch import Address, Network
from media.leg import Digit
from media.playout import Heard
from media.receiver import Receiver
from media.rtcp import Reports
from media.secure import Security
from media.stream import Stream

MAX_TRACKS = 16
"""At once. Full: the one that has been silent longest gives way once that is `IDLE_S`; else the new one is dropped."""

IDLE_S = 10.0


@dataclass
class _Track:
    receiver: Receiver
    reports: Reports
    heard_at: float


class Tracks(Receiver):
    """As a `Receiver`, which itself knows what was agreed and gets the reports; audio goes to the track of its SSRC."""

    def __init__(self, host: str, reports: Reports, security: Security, networks: tuple[Network, ...] = ()) -> None:
        super().__init__(host, reports, security, networks)
        self._networks = networks
        self._tracks: dict[int, _Track] = {}
        self._begun = False
        self.lost_before = 0
        """Packets that never came of tracks that are gone."""

    @property
    def receivers(self) -> list[Receiver]:
        """One for each track."""
        return [track.receiver for track in self._tracks.values()]

    @property
    def lost(self) -> int:
        """Packets that never came."""
        return self.lost_before + sum(track.reports.lost for track in self._tracks.values())

    @property
    def jitter_s(self) -> float:
        """Of the worst track."""
        return max((track.reports.jitter_s for track in self._tracks.values()), default=0.0)

    def adopt(self, stream: Stream, now: float) -> None:
        """From now on this is agreed, for all of them. In another codec all begin anew: what is mixed is of one."""
        super().adopt(stream, now)
        if stream.codec is not self.codec:
            self._switch(stream.codec, stream.payload_types)
            for ssrc in list(self._tracks):
                self._forget(ssrc)
        for receiver in self.receivers:
            receiver.adopt(stream, now)

    def begin(self, now: float) -> None:
        """The call's time begins."""
        super().begin(now)
        self._begun = True
        for receiver in self.receivers:
            receiver.begin(now)

    def blocks(self, now: float) -> list[RtcpReceiverInfo]:
        """Of each track."""
        return [block for track in self._tracks.values() for block in track.reports.blocks(now)]

    def _read_report(self, report: bytes, now: float) -> None:
        super()._read_report(report, now)
        for track in self._tracks.values():
            track.reports.read(report, now)

    def tick(self, now: float) -> Heard:
        """The next 20 ms of all of them."""
        blocks = [super().tick(now), *(receiver.tick(now) for receiver in self.receivers)]
        mixed = np.clip(np.sum([block.pcm for block in blocks], axis=0), -1.0, 1.0).astype(np.float32)
        return Heard(mixed, max(block.concealed for block in blocks))

    def poll(self, now: float) -> list[Digit]:
        """The digits whose packets have stopped coming."""
        return [digit for receiver in self.receivers for digit in receiver.poll(now)]

    def receive_rtp(self, data: bytes, source: Address, now: float) -> list[Digit]:
        """Take a datagram. A track begins with its first packet that is authentic."""
        packet = self._opened(data, source, now)
        if packet is None or not self._has_room(packet.ssrc, now):
            return []
        assert self._stream is not None
        track = self._tracks.get(packet.ssrc) or self._new(self._stream, now)
        before = track.receiver.packets
        digits = track.receiver._receive(packet, source, now)
        if track.receiver.packets > before:
            self.packets += 1
            track.heard_at = now
            self._tracks[packet.ssrc] = track
        elif packet.ssrc not in self._tracks:
            self.dropped += track.receiver.dropped
        return digits

    def _has_room(self, ssrc: int, now: float) -> bool:
        """Whether it has a track, or one can be made for it."""
        if ssrc in self._tracks or len(self._tracks) < MAX_TRACKS:
            return True
        oldest = min(self._tracks, key=lambda known: self._tracks[known].heard_at)
        if now - self._tracks[oldest].heard_at < IDLE_S:
            self.dropped["one track too many"] += 1
            return False
        self._forget(oldest)
        return True

    def _new(self, stream: Stream, now: float) -> _Track:
        reports = Reports(0, 0.0)  # which the leg's own speak for
        receiver = Receiver(self._host, reports, self._security, self._networks)
        receiver.adopt(stream, now)
        if self._begun:
            receiver.begin(now)
        return _Track(receiver, reports, now)

    def _forget(self, ssrc: int) -> None:
        gone = self._tracks.pop(ssrc)
        self.lost_before += gone.reports.lost
        self.dropped += gone.receiver.dropped + gone.receiver.playout.dropped
