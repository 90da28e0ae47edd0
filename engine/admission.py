"""Whether one more call could be served in time, by what ticks and prime chunks were seen to take. No clock, no torch.

A frame waits at most for the tick in flight and one prime chunk, and then takes its own tick. A row is in one of the
two ticks, not in both, for its next frame comes 80 ms later; so of n rows, the worst is the split a + b = n whose two
ticks take the longest. Times are kept by number of rows: first as measured with all windows full, which a young call's
are not for minutes, and never less than that afterwards; more, where the device turns out slower. What ears take, which
write down what callers say, is kept apart: where there is no time for them they give way, and the call goes on.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence

LIMIT_S = 0.064
"""Of the 80 ms of a frame: the rest is for packets and what no estimate knows."""

CHUNK_SHARE = 0.25
"""Of the limit: what a prime chunk may take. The two ticks share the rest."""

RISE, FALL = 0.1, 0.01
"""How fast an estimate follows longer and shorter times: it lies above four in five of them (an expectile)."""

MOST_RISE = 2.0
"""A time counts as no more than so many times the estimate: one hiccup is not what a tick takes."""


UNSEEN_FALL = 0.001
"""How fast the estimate of a count falls that is not seen, as while it is refused: by half in a minute of ticks."""


class Costs:
    """Seconds that so many of something take, from those counts that were seen."""

    def __init__(self, most: int) -> None:
        # By count, and as long from the start: read by another thread than the one that writes.
        self._measured: list[float | None] = [None] * (most + 1)
        self._seconds: list[float | None] = [None] * (most + 1)
        self._floor = [0.0] * (most + 1)

    def measured(self, count: int, seconds: float) -> None:
        """What `count` takes at best."""
        self._measured[count] = self._seconds[count] = seconds
        self._floor = _line(self._measured, len(self._measured) - 1)

    def saw(self, count: int, seconds: float) -> None:
        """What `count` took this time. Of a count that was never seen, the line between others was the estimate."""
        known = self._seconds[count]
        if known is None:
            known = self.of(count) or seconds
        change = min(seconds, MOST_RISE * known) - known
        now = max(self._floor[count], known + (RISE if change > 0 else FALL) * change)
        self._seconds[count] = now
        if self._floor[count]:
            self._fall(count, now / self._floor[count])

    def _fall(self, count: int, slower: float) -> None:
        """Larger counts fall to so many times what was measured: a burst is not to shut them out for good."""
        for larger in range(count + 1, len(self._seconds)):
            if (known := self._seconds[larger]) is not None:
                self._seconds[larger] = known + UNSEEN_FALL * min(0.0, slower * self._floor[larger] - known)

    def known(self) -> list[int]:
        """The counts that were seen, ascending."""
        return [count for count, seconds in enumerate(self._seconds) if seconds is not None]

    def of(self, count: int) -> float:
        """What `count` takes."""
        return self.up_to(count)[count]

    def up_to(self, most: int) -> list[float]:
        """What each count from 0 to `most` takes: between two that were seen, on a line; beyond the last, on as steep a
        one as its own from nothing; no less than any smaller count. 0 where nothing was seen, and of nothing."""
        return _line(list(self._seconds), most)


def _line(by_count: Sequence[float | None], most: int) -> list[float]:
    seen = [(count, seconds) for count, seconds in enumerate(by_count) if count and seconds is not None]
    out, least = [0.0] * (most + 1), 0.0
    below, at_below = 0, seen[0][1] if seen else 0.0
    for above, at_above in seen:
        for count in range(below + 1, min(above, most + 1)):
            share = (count - below) / (above - below)
            out[count] = max(least, at_below + share * (at_above - at_below))
        least = max(least, at_above)
        if above <= most:
            out[above] = least
        below, at_below = above, at_above
    for count in range(below + 1, most + 1) if seen else ():
        out[count] = max(least, at_below * count / below)
    return out


class Admission:
    """Of up to `rows` rows. `limit_s` None admits them all, whatever they take.

    One thread tells it what it saw; another may ask it.
    """

    def __init__(self, rows: int, limit_s: float | None) -> None:
        self.rows, self.limit_s = rows, limit_s
        self.ticks, self.ears, self.chunks = Costs(rows), Costs(rows), Costs(1)

    def saw(self, rows: int, ears: int, seconds: float) -> None:
        """What a tick of so many rows took, of which so many have an ear.

        What is more than without is the ears': where a device turns out slower, they are the first to give way.
        """
        if ears:
            self.ears.saw(ears, max(0.0, seconds - self.ticks.of(rows)))
        else:
            self.ticks.saw(rows, seconds)

    def wait_s(self, rows: int, ears: int = 0) -> float:
        """The longest that a frame takes from being complete to its reply, beside so many rows in all."""
        return _worst(self.ticks, rows) + _worst(self.ears, ears) + self.chunks.of(1)

    def admits(self, rows: int, ears: int = 0) -> bool:
        """Whether so many rows, so many of them with an ear, would all be served in time."""
        return self.limit_s is None or self.wait_s(rows, ears) <= self.limit_s

    def most(self) -> int:
        """How many rows would all be served in time."""
        return max(0, bisect_left(range(self.rows + 1), True, key=lambda rows: not self.admits(rows)) - 1)

    def most_ears(self, rows: int) -> int:
        """How many of so many rows may have an ear, all being served in time."""
        return max(0, bisect_left(range(rows + 1), True, key=lambda ears: not self.admits(rows, ears)) - 1)


def _worst(costs: Costs, count: int) -> float:
    """Of the ways in which so many are parted between two ticks, what the slowest takes."""
    takes = costs.up_to(count)
    splits = {count, *(each for each in costs.known() if each < count)}
    return max(takes[each] + takes[count - each] for each in splits)


def chunk_size(costs: Mapping[int, float], limit_s: float) -> int:
    """The most columns of a prime chunk that takes its share of the limit or less; the fewest if none does."""
    cheap = [columns for columns, seconds in costs.items() if seconds <= CHUNK_SHARE * limit_s]
    return max(cheap, default=min(costs))


def row_counts(rows: int) -> list[int]:
    """Of up to so many rows, how many at once are worth to be measured, or prepared for: ever fewer of all."""
    steps = [1, 2, 4, 8, 12, 16, 24, 32, 48, 64, *range(80, 128, 16), *range(128, max(129, rows), 32)]
    return [*(count for count in steps if count < rows), rows]
