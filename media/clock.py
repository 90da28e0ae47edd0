"""The wheel that turns every leg: one timer, a tick each 20 ms, no task or thread a call.

Ticks lie on an absolute schedule, so lateness does not add up. A late wake-up runs what it missed, at most
CATCH_UP_TICKS; what is older is skipped, and each member sees that from the tick's number.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

logger = logging.getLogger(__name__)

TICK_S = 0.02
CATCH_UP_TICKS = 2


class Member(Protocol):
    """What the wheel turns."""

    def tick(self, number: int, now: float) -> None:
        """One tick's work, in a few hundred microseconds. `number` has gaps where ticks were skipped."""

    def failed(self, error: Exception) -> None:
        """It raised; `tick` will not be called again."""


class Timer(Protocol):
    """A callback that is due."""

    def cancel(self) -> None:
        """Forget it."""


class Timers(Protocol):
    """What an asyncio loop offers; a test has its own."""

    def time(self) -> float:
        """Seconds, monotonic."""

    def call_at(self, when: float, callback: Callable[[], object]) -> Timer:
        """Call back at that time."""


class Clock:
    """Turns its members while it has any. A member that raises is taken off, told, and counted; the rest go on."""

    def __init__(self, timers: Timers) -> None:
        self.skipped_ticks = 0
        self.failures = 0
        self.worst_late_s = 0.0
        self._timers = timers
        self._members: dict[Member, None] = {}
        self._timer: Timer | None = None
        self._began = 0.0  # when tick 0 was due
        self._number = 0  # of the last tick run

    def __len__(self) -> int:
        return len(self._members)

    def time(self) -> float:
        """Seconds, monotonic: the time that ticks are told in."""
        return self._timers.time()

    def add(self, member: Member) -> None:
        """Turn it from the next tick on. With the first member the wheel starts."""
        first = not self._members
        self._members[member] = None
        if first and self._timer is None:
            self._began = self._timers.time() - self._number * TICK_S
            self._arm()

    def remove(self, member: Member) -> None:
        """Turn it no longer. Idempotent; with the last member the wheel stops."""
        self._members.pop(member, None)
        if not self._members and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def fail(self, member: Member, error: Exception) -> None:
        """Count it, say it, and turn that member no longer."""
        self.failures += 1
        logger.error("x a leg failed and is lost", exc_info=error)
        self.remove(member)
        member.failed(error)

    def _arm(self) -> None:
        self._timer = self._timers.call_at(self._began + (self._number + 1) * TICK_S, self._wake)

    def _wake(self) -> None:
        self._timer = None
        now = self._timers.time()
        due = max(self._number + 1, int((now - self._began) / TICK_S + 1e-6))
        self.worst_late_s = max(self.worst_late_s, now - self._began - (self._number + 1) * TICK_S)
        first = max(self._number + 1, due - CATCH_UP_TICKS)
        self.skipped_ticks += first - self._number - 1
        try:
            for number in range(first, due + 1):
                self._number = number
                self._turn(number, now)
        finally:  # whatever happens in here, the wheel turns on
            if self._members and self._timer is None:
                self._arm()

    def _turn(self, number: int, now: float) -> None:
        for member in list(self._members):
            if member not in self._members:
                continue  # taken off by another one in this very tick
            try:
                member.tick(number, now)
            except Exception as error:  # one leg's fault, ours or a library's, must not silence all the others
                self.fail(member, error)
