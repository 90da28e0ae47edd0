"""The media pillar's nouns: one party's audio, whatever carries it.

Standard library and numpy only. `LegError` is the root of what media raises on purpose: the far end's
description of its media cannot be served.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

Pcm: TypeAlias = NDArray[np.float32]
"""Mono float32 in [-1, 1], of any length, at a rate the holder states."""


class LegError(Exception):
    """No media session can be made from this description; the message says what would be needed."""


class NoPort(LegError):
    """There are more calls than ports for media: it is not the description's fault, and another time may do."""


@dataclass(frozen=True, slots=True)
class AudioFormat:
    """What the user of a Leg wants: `frame_samples` samples at `sample_rate` Hz, each time."""

    sample_rate: int
    frame_samples: int

    @property
    def frame_s(self) -> float:
        """Seconds a frame lasts."""
        return self.frame_samples / self.sample_rate


@dataclass(frozen=True, slots=True)
class Digit:
    """A keypad press (RFC 4733): one of 0-9 * # A-D, and how long the key was held."""

    key: str
    duration_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Exchange:
    """One frame's time on the line. The recording is written from it, so it cannot lie.

    `heard` and `played` have frame_samples samples each: what came in, and what really left in the same time.
    `held` says that the far end holds at its end, and that the model is not to be stepped: from the hold on both are
    silence, so only the first one on hold has sound, of what was before. The counts are samples at the user's rate:
    `concealed` were invented where no packet came in time, `padded` is silence sent because no reply was there, `cut`
    were taken out again to pay for it; `skipped` is how many samples the reader lost before this exchange because it
    came too late.
    """

    heard: Pcm
    played: Pcm
    held: bool = False
    speakers: tuple[str, ...] = ()
    concealed: int = 0
    padded: int = 0
    cut: int = 0
    skipped: int = 0


@dataclass(slots=True)
class LegStats:
    """Counters of a leg since it began; times in seconds. Each name is a key of the call record.

    A *frame* is the user's: `frames_concealed` had invented sound in them. Samples are at the user's rate, and
    `samples_dropped` did not fit in what waits to be sent. `packets_dropped` is the sum of `dropped_by_reason`.
    `encryption` has each suite that was agreed, "none" for plain, in order: more than one if it changed in the call.
    Of the lost packets, `packets_recovered` were told by the ones after them (FEC). `far_packets_lost` and
    `far_jitter_s` are what the far end last reported of what we send.
    """

    codec: str = ""
    encryption: tuple[str, ...] = ()
    remote: str = ""
    packets_received: int = 0
    packets_sent: int = 0
    packets_lost: int = 0
    packets_late: int = 0
    packets_recovered: int = 0
    packets_duplicate: int = 0
    packets_dropped: int = 0
    frames_concealed: int = 0
    samples_padded: int = 0
    samples_cut: int = 0
    samples_dropped: int = 0
    frames_skipped: int = 0
    jitter_s: float = 0.0
    playout_delay_s: float = 0.0
    round_trip_s: float | None = None
    far_packets_lost: int = 0
    far_jitter_s: float = 0.0
    reports_sent: int = 0
    reports_received: int = 0
    dropped_by_reason: dict[str, int] = field(default_factory=dict)


class Leg(Protocol):
    """One party's audio. The answerer calls `answer`; the offerer `offer`, then `accepted`. SDP is text here."""

    @property
    def held(self) -> bool:
        """Whether the far end holds (it sends nothing we should listen to)."""

    @property
    def ready(self) -> bool:
        """Whether what is played reaches the far end: its way is found, and the keys are agreed on."""

    @property
    def stats(self) -> LegStats:
        """Counters so far."""

    async def offer(self, hold: bool | None = None) -> str:
        """Open the transport and describe it. Raises LegError; `NoPort` when none is free.

        `hold`: once that is accepted, and until an offer with False is, we listen to nothing. What is played is sent.
        None: as it is now.
        """

    async def answer(self, offer: str) -> str:
        """Open or re-negotiate the transport from the far end's offer. Raises LegError; the old session then stands."""

    async def accepted(self, answer: str) -> None:
        """Take the far end's answer to our offer; another may follow, after early media. Raises LegError."""

    async def exchange(self) -> Exchange:
        """The next frame's time, heard or silent; never later than a frame's time after the last."""

    def play(self, pcm: Pcm) -> None:
        """Queue audio to be sent."""

    def digits(self) -> AsyncIterator[Digit]:
        """The far end's digits, as they are pressed."""

    async def send_digits(self, digits: str) -> None:
        """Press keys towards the far end: 0-9 * # A-D; `,` is a pause of 2 s, `w` of half a second.

        They are tones in the audio where the far end takes no telephone-event. Raises LegError for anything else.
        """

    async def lost(self) -> str:
        """Wait until the media is lost for good; the reason, in words a person understands."""

    async def close(self) -> None:
        """Stop sending and give the port back. Idempotent."""
