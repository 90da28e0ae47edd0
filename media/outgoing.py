"""From the user's frames to the blocks of the wire, one with each tick.

Some audio lies ready, the *lead*, so that a reply may come late. It is 20 ms; after an underrun it is 20 ms more, up
to 80; after 10 s without one, 20 ms less. The silence that an underrun sends is a *debt*: the replies that come after
it are late by as much, for ever, unless they are shortened. So as many samples are cut from them, silence first, and
what no silence could pay within half a second is cut in one piece.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from media.leg import AudioFormat, Pcm
from media.pcm import BLOCKS_PER_S, FADE_S, QUIET_RMS, Resampler, SampleQueue, best_cut, cut

LEAD_BLOCKS = 1
"""The lead at the start, the least it becomes again, and its step."""

MAX_LEAD_BLOCKS = 4

CALM_BLOCKS = 10 * BLOCKS_PER_S
"""Ticks without an underrun after which the lead becomes smaller."""

PAY_BLOCKS = BLOCKS_PER_S // 2
"""Ticks within which a debt is paid, counted from where it can be."""

CAPACITY_S = 1.0
"""What the queue holds. Full: the oldest is dropped and counted. Empty: silence is sent and counted."""


@dataclass(frozen=True, slots=True)
class Sent:
    """What leaves with one tick, 20 ms.

    `pcm` is at the codec's rate, for the encoder; `played` is the same at the user's rate. Of `played`, `padded`
    samples are silence because no reply was there; `cut` samples were taken out since the last tick, to pay for such.
    """

    pcm: Pcm
    played: Pcm
    padded: int = 0
    cut: int = 0


class Outgoing:
    """The user's audio in (`play`), one block out with each tick, always.

    `padded`, `cut` and `dropped` count samples at the user's rate, `underruns` how often replies did not come in time.
    Until the first `play`, and after `clear`, silence is no underrun.
    """

    def __init__(self, audio_format: AudioFormat, sample_rate: int) -> None:
        """`sample_rate` is the codec's."""
        self._rate = audio_format.sample_rate
        self._block = self._rate // BLOCKS_PER_S
        self._fade = round(FADE_S * self._rate)
        self._queue = SampleQueue(round(CAPACITY_S * self._rate))
        self._resampler = Resampler(self._rate, sample_rate)
        self._falling: Pcm = np.linspace(1.0, 0.0, self._fade, dtype=np.float32)
        self._rising: Pcm = self._falling[::-1].copy()
        self.padded = self.cut = self.underruns = 0
        self._lead = LEAD_BLOCKS * self._block
        self._cut_since = 0
        self.clear()

    @property
    def dropped(self) -> int:
        """Samples that did not fit."""
        return self._queue.dropped

    @property
    def lead_s(self) -> float:
        """Seconds by which a reply may be late now."""
        return self._lead / self._rate

    @property
    def waiting_s(self) -> float:
        """Seconds of audio in the queue."""
        return len(self._queue) / self._rate

    def clear(self) -> None:
        """Forget what was said, what waits and what is owed, as on hold. The next `play` begins with a lead."""
        self._queue.clear()
        self._resampler = Resampler(self._rate, self._resampler.target_rate)
        self._last = np.float32(0.0)
        self._playing = False
        self._dry = False
        self._debt = self._spare = self._calm_ticks = self._pay_ticks = 0

    def change_rate(self, sample_rate: int) -> None:
        """The codec has changed; what waits stays."""
        if sample_rate != self._resampler.target_rate:
            self._resampler = Resampler(self._rate, sample_rate)

    def play(self, pcm: Pcm) -> None:
        """Queue audio, any length. What is no number becomes silence: it would poison the resampler for good."""
        if not np.isfinite(pcm).all():
            pcm = np.nan_to_num(pcm, nan=0.0, posinf=0.0, neginf=0.0)
        if not self._playing:
            self._queue.put(np.zeros(self._lead, np.float32))
            self._playing = True
        if self._dry:
            pcm = pcm.copy()
            pcm[: self._fade] *= self._rising[: len(pcm)]
            self._dry = False
        # What is left of the last reply when the next one comes is how late that one could have been.
        self._spare = len(self._queue) - self._lead
        self._queue.put(pcm)

    def tick(self) -> Sent:
        """The next 20 ms. In one tick of a leg this comes first, then `Playout.tick`, then `Incoming.put`."""
        self._calm_ticks += 1
        if self._calm_ticks >= CALM_BLOCKS:
            self._calm_down()
        self._pay()
        missing = max(0, self._block - len(self._queue)) if self._playing else 0
        if missing:
            self._run_dry(missing)
        played = self._pad() if missing or not self._playing else self._queue.take(self._block)
        self._last = played[-1]
        removed, self._cut_since = self._cut_since, 0
        return Sent(self._resampler(played), played, missing, removed)

    def _pad(self) -> Pcm:
        """What there is, and silence behind it, into which the last sample fades."""
        played = np.zeros(self._block, np.float32)
        rest = self._queue.take(min(self._block, len(self._queue)))
        played[: len(rest)] = rest
        last = rest[-1] if len(rest) else self._last
        tail = played[len(rest) : len(rest) + self._fade]
        tail += last * self._falling[: len(tail)]
        return played

    def _run_dry(self, missing: int) -> None:
        """No reply, or not all of it: silence is sent, and owed, but for what the lead grows by."""
        self.padded += missing
        self._calm_ticks = self._spare = 0
        self._debt += missing
        if not self._dry:
            self._dry = True
            self.underruns += 1
            lead = min(self._lead + LEAD_BLOCKS * self._block, MAX_LEAD_BLOCKS * self._block)
            self._debt -= lead - self._lead
            self._lead = lead

    def _calm_down(self) -> None:
        """For long enough no reply was too late. What is owed still was for frames that were skipped: forgiven."""
        self._calm_ticks = 0
        lead = max(self._lead - LEAD_BLOCKS * self._block, LEAD_BLOCKS * self._block)
        self._debt = self._lead - lead
        self._spare += self._debt
        self._lead = lead

    def _pay(self) -> None:
        """Cut what is owed, as far as the replies would still come in time without it."""
        owed = min(self._debt, self._spare)
        if owed <= 0:
            self._pay_ticks = 0
            return
        self._pay_ticks += 1
        waiting = self._queue.peek()
        if self._pay_ticks >= PAY_BLOCKS and len(waiting) >= owed + self._fade:
            self._cut(waiting, best_cut(waiting, owed, self._fade), owed)
            return
        start, length = _longest_quiet(waiting, self._fade)
        if length > self._fade:
            self._cut(waiting, start, min(owed, length - self._fade))

    def _cut(self, waiting: Pcm, start: int, count: int) -> None:
        self._queue.replace(cut(waiting, start, count, self._fade))
        self._debt -= count
        self._spare -= count
        self._cut_since += count
        self.cut += count


def _longest_quiet(pcm: Pcm, piece: int) -> tuple[int, int]:
    """Start and length, in samples, of the longest run of quiet pieces of `piece` samples; (0, 0) if there is none."""
    pieces = pcm[: len(pcm) // piece * piece].reshape(-1, piece)
    quiet: NDArray[np.bool_] = np.square(pieces).mean(axis=1) <= QUIET_RMS**2 if len(pieces) else np.zeros(0, bool)
    edges = np.flatnonzero(np.diff(quiet, prepend=False, append=False))  # rising and falling by turns
    if not len(edges):
        return 0, 0
    starts, ends = edges[::2], edges[1::2]
    longest = int(np.argmax(ends - starts))
    return int(starts[longest]) * piece, int(ends[longest] - starts[longest]) * piece
