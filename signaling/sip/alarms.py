"""What wants to be woken, and when."""

from __future__ import annotations

import heapq
import itertools
from typing import Generic, TypeVar

T = TypeVar("T")

SLACK = 64
"""Alarms that are off by now and may be kept, besides as many as there are things."""


class Alarms(Generic[T]):
    """One alarm for each thing, by identity or hash. Setting it is cheap however often it is put off."""

    def __init__(self) -> None:
        self._at: dict[T, float] = {}
        self._heap: list[tuple[float, int, T]] = []
        self._count = itertools.count()

    def __len__(self) -> int:
        """How many are kept, those among them that are off."""
        return len(self._heap)

    def set(self, thing: T, at: float | None) -> None:
        """Wake it then, and no more when it was to be woken before; None: not at all."""
        if at == self._at.get(thing):
            return
        if at is None:
            del self._at[thing]
        else:
            self._at[thing] = at
            heapq.heappush(self._heap, (at, next(self._count), thing))
        if len(self._heap) > 2 * len(self._at) + SLACK:
            self._clear()

    def take(self, now: float) -> T | None:
        """The next thing that is due; its alarm is off then."""
        at = self.next_at
        if at is None or at > now:
            return None
        _, _, thing = heapq.heappop(self._heap)
        del self._at[thing]
        return thing

    @property
    def next_at(self) -> float | None:
        """When the next thing is due."""
        while self._heap and not self._is_on(self._heap[0]):
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def _is_on(self, alarm: tuple[float, int, T]) -> bool:
        at, _, thing = alarm
        return self._at.get(thing) == at

    def _clear(self) -> None:
        """Forget the alarms that are off: a heap drops only its first."""
        self._heap = [alarm for alarm in self._heap if self._is_on(alarm)]
        heapq.heapify(self._heap)
