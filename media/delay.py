"""How long packets wait in the playout buffer, how long they should, and when to step from one to the other. Pure.

A packet waits from its arrival to its tick; that is kept, smoothed, between a floor, two times the jitter above
nothing, and one block more, for ticks and packets are whole blocks. A step is one block. A clock that drifts by
200 ppm needs one step in 100 s.
"""

from __future__ import annotations

from enum import IntEnum

from media.pcm import BLOCKS_PER_S

BLOCK_S = 1 / BLOCKS_PER_S

GUARD_S = 0.004
"""What a packet should wait at least in a network without jitter: as late as our own tick often is."""

MAX_DELAY_S = 0.2
"""Ceiling of the delay; a network worse than that loses packets."""

STEP_S, SETTLING_STEP_S = 1.0, 0.2
"""Least time between two steps of the delay; the shorter one at the start, or while it is far off."""

SETTLING_S = 5.0
"""How long the start lasts."""

RESERVE_S = 10.0
"""How long the delay is a block longer after a packet came too late to tell of the lost one before it (FEC)."""

PATIENCE_S = 3.0
"""How long a step waits for quiet."""


class Step(IntEnum):
    """By how many blocks the delay should change now."""

    SHORTER = -1
    NONE = 0
    LONGER = 1


class Delay:
    """Of one stream, in seconds. `wait` is how long packets wait, smoothed."""

    def __init__(self) -> None:
        self.wait = 0.0
        self._jitter = 0.0
        self._spread = 0.0  # the jitter's upper envelope: follows it up at once, down over 3 s
        self._last: tuple[float, float] | None = None
        self._last_wait = MAX_DELAY_S
        self._started = self._stepped = 0.0
        self._wanted_since: float | None = None
        self._reserved_until = 0.0
        self._now = 0.0

    def begin(self, wait: float, now: float) -> None:
        """Playing starts, at first with this wait."""
        self.wait = wait
        self._started = self._stepped = now
        self._wanted_since = None

    def arrived(self, media_time: float, now: float) -> None:
        """RFC 3550, s. 6.4.1: deviation of arrival spacing from media spacing, gain 1/16; one outlier is limited."""
        if self._last is not None:
            deviation = abs((now - self._last[0]) - (media_time - self._last[1]))
            self._jitter += (min(deviation, MAX_DELAY_S / 2) - self._jitter) / 16
            self._spread += (self._jitter - self._spread) / (4 if self._jitter > self._spread else 128)
        self._last = now, media_time

    def waits(self, seconds: float) -> None:
        """A packet will have waited so long at its tick; negative if it is late.

        The lesser of two counts: of packets of 10, 30 or 50 ms every other one falls on the middle of a block.
        """
        lesser, self._last_wait = min(seconds, self._last_wait), seconds
        self.wait += (max(lesser, -MAX_DELAY_S) - self.wait) / 32

    @property
    def least(self) -> float:
        """Below this wait the delay grows."""
        reserve = BLOCK_S if self._now < self._reserved_until else 0.0
        return min(GUARD_S + reserve + 2 * self._spread, MAX_DELAY_S - BLOCK_S)

    @property
    def most(self) -> float:
        """Above this wait it shrinks, and after the step is still safely above the least."""
        return self.least + BLOCK_S + GUARD_S + self._spread / 2

    def reserve(self, now: float) -> None:
        """One packet more should be here when one is due, for the one after a lost one tells of it."""
        self._reserved_until = now + RESERVE_S

    def wanted(self, now: float) -> Step:
        """The step that is due now."""
        self._now = now
        if self.least <= self.wait <= self.most:
            self._wanted_since = None
            return Step.NONE
        if self._wanted_since is None:
            self._wanted_since = now
        settling = self._is_far or now - self._started < SETTLING_S
        if now - self._stepped < (SETTLING_STEP_S if settling else STEP_S):
            return Step.NONE
        return Step.LONGER if self.wait < self.least else Step.SHORTER

    def is_patient(self, now: float) -> bool:
        """Whether the step that is wanted can still wait for quiet."""
        waited = 0.0 if self._wanted_since is None else now - self._wanted_since
        return waited < PATIENCE_S and not self._is_far and self.wait > self.least - GUARD_S

    def stepped(self, step: Step, now: float) -> None:
        """It was made."""
        self._stepped, self._wanted_since = now, None
        self.wait += step * BLOCK_S

    @property
    def _is_far(self) -> bool:
        """Whether the delay is more than a small step from where it should be, as after ticks that were skipped."""
        return abs(self.wait - self.least) > 3 * BLOCK_S
