"""Which rows are taken, what waits for each, and what the device does next. No torch, no clock, no thread."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum
from typing import Generic, TypeVar

S = TypeVar("S")
"""What a waiting step is to the caller."""

C = TypeVar("C")
"""What a prime is to the caller."""


CATCH_UP_FRAMES = 16
"""So many steps of its row a shadow that is held lies behind before it catches up: little is left to its end."""


class RowState(Enum):
    """Where a row is in its life."""

    FREE = "free"
    PRIMING = "priming"
    READY = "ready"
    """Primed, and not stepped yet."""
    LIVE = "live"
    RENEWING = "renewing"
    """Stepped as if LIVE, while a shadow of it is primed."""
    FAILED = "failed"


class Event(Enum):
    """What moves a row on."""

    PRIME = "prime"
    """Columns are to be run through it: it was just given out, or its conversation wants another prompt."""
    PRIMED = "primed"
    """The last of those columns has run, or they are given up."""
    STEP = "step"
    """A frame has run through it."""
    FAIL = "fail"
    """What is in it is of no more use; its conversation has yet to hear of it."""
    FREE = "free"
    """Its conversation is over."""


TABLE: dict[tuple[RowState, Event], RowState] = {
    (RowState.FREE, Event.PRIME): RowState.PRIMING,
    (RowState.PRIMING, Event.PRIME): RowState.PRIMING,  # the new prompt replaces what is left of the last one
    (RowState.READY, Event.PRIME): RowState.PRIMING,
    (RowState.LIVE, Event.PRIME): RowState.RENEWING,
    (RowState.RENEWING, Event.PRIME): RowState.RENEWING,  # likewise
    (RowState.PRIMING, Event.PRIMED): RowState.READY,
    (RowState.RENEWING, Event.PRIMED): RowState.LIVE,
    (RowState.READY, Event.STEP): RowState.LIVE,
    (RowState.LIVE, Event.STEP): RowState.LIVE,
    (RowState.RENEWING, Event.STEP): RowState.RENEWING,
    (RowState.PRIMING, Event.FREE): RowState.FREE,
    (RowState.READY, Event.FREE): RowState.FREE,
    (RowState.LIVE, Event.FREE): RowState.FREE,
    (RowState.RENEWING, Event.FREE): RowState.FREE,
    (RowState.FREE, Event.FAIL): RowState.FAILED,  # it could not even be opened
    (RowState.PRIMING, Event.FAIL): RowState.FAILED,
    (RowState.READY, Event.FAIL): RowState.FAILED,
    (RowState.LIVE, Event.FAIL): RowState.FAILED,
    (RowState.RENEWING, Event.FAIL): RowState.FAILED,
    (RowState.FAILED, Event.FREE): RowState.FREE,
}
"""State and event -> next state. What is not here is refused."""

STEPPABLE = (RowState.READY, RowState.LIVE, RowState.RENEWING)
"""Where a row is in the next tick if a step waits for it."""


@dataclass(slots=True)
class _Row(Generic[S, C]):
    state: RowState = RowState.FREE
    prime: C | None = None
    step: S | None = None
    left: int = 0  # steps until its prime must end
    held: bool = False  # its prime has run as far as there is anything to run
    resumed: bool = False  # it was held, and is to end
    behind: int = 0  # steps since it was held


@dataclass(frozen=True, slots=True)
class Tick(Generic[S]):
    """One masked step: every row that has a frame."""

    steps: tuple[S, ...]


@dataclass(frozen=True, slots=True)
class Chunk(Generic[C]):
    """A bounded run of prompt columns: the next of this row's prime. `primed` is told once there is no next."""

    row: int
    prime: C


class Scheduler(Generic[S, C]):
    """Rows 0 to `rows` - 1. At most one step waits for each row: one step is in flight a call.

    A tick holds every step that waits for a row that is primed, and begins as soon as there is one. A step for a
    PRIMING row waits until the row is primed; one for a RENEWING row does not. At most one chunk runs between two
    ticks, so nobody's speech stutters while someone else is being put through.

    PRIMING rows are primed one after the other, first come first served; RENEWING ones in as many `shadows`, and while
    those are taken the others wait: who must be done the soonest is the next. The first of the ones and each of the
    others take turns, so a caller who is put through waits for no renewal, and a renewal has every (1 + shadows)th
    chunk or more.

    A renewal may be held, which keeps its shadow. Nothing runs for it but now and then a chunk that catches up, until
    it is resumed; then it is the next to run.
    """

    def __init__(self, rows: int, shadows: int) -> None:
        self._rows: list[_Row[S, C]] = [_Row() for _ in range(rows)]
        self._priming: deque[int] = deque()
        self._lanes: deque[deque[int]] = deque([self._priming, *(deque[int]() for _ in range(shadows))])
        self._shadowless: deque[int] = deque()
        self._chunk_ran = False

    def state(self, row: int) -> RowState:
        """Where `row` is in its life."""
        return self._rows[row].state

    def prime(self, row: int, prime: C, left: int = 0) -> C | None:
        """Run `prime` through `row`, or through a shadow of it: then it is RENEWING, and may be stepped `left` times
        before it must be done.

        One that was under way is replaced, and returned.
        """
        self._move(row, Event.PRIME)
        replaced, self._rows[row].prime = self._rows[row].prime, prime
        self._rows[row].left = left
        self._let_go(row)
        if replaced is None:
            renewing = self._rows[row].state is RowState.RENEWING
            (self._shadowless if renewing else self._priming).append(row)
            self._fill_shadows()
        return replaced

    def primed(self, row: int) -> None:
        """The chunk of `row` that ran was its last."""
        self._move(row, Event.PRIMED)
        self._rows[row].prime = None
        self._let_go(row)
        self._leave(row)

    def hold(self, row: int) -> None:
        """Nothing is left to run of the prime of `row`, and it is not to end yet."""
        self._rows[row].held, self._rows[row].resumed, self._rows[row].behind = True, False, 0

    def resume(self, row: int) -> None:
        """It may end."""
        self._rows[row].held, self._rows[row].resumed = False, True

    @property
    def held(self) -> list[int]:
        """Rows whose primes are held; who must be done the soonest is the first."""
        rows = [lane[0] for lane in self._lanes if lane and self._rows[lane[0]].held]
        return sorted(rows, key=lambda row: self._rows[row].left)

    def under_way(self, row: int) -> C:
        """The prime of a row that has one."""
        prime = self._rows[row].prime
        assert prime is not None  # a row stands in a lane, or waits to, while it has one
        return prime

    def must_end(self, row: int) -> bool:
        """Whether the prime of `row` is to end as soon as it can: its time is up, or its shadow is waited for by a row
        whose time is up."""
        late = sum(self._rows[waiting].left <= 0 for waiting in self._shadowless)
        others = [each for each in self.held if each != row and self._rows[each].left < self._rows[row].left]
        return self._rows[row].left <= 0 or late > len(others)

    def step(self, row: int, step: S) -> S | None:
        """Let `step` wait for the next tick. One that still waited is replaced, and returned: its caller gave it up."""
        state = self._rows[row]
        if state.state in (RowState.FREE, RowState.FAILED):
            raise ValueError(f"row {row} is {state.state.value}: nobody steps it")
        replaced, state.step = state.step, step
        return replaced

    def free(self, row: int) -> C | None:
        """Take `row` back; what waits for it is dropped. A prime that was under way is returned."""
        self._move(row, Event.FREE)
        return self._drop(row)[1]

    def fail(self, row: int) -> tuple[S | None, C | None]:
        """Nothing runs in `row` any more until it is freed; the step and the prime that waited for it are returned."""
        self._move(row, Event.FAIL)
        return self._drop(row)

    def _drop(self, row: int) -> tuple[S | None, C | None]:
        dropped = self._rows[row]
        self._rows[row] = _Row(dropped.state)
        self._leave(row)
        return dropped.step, dropped.prime

    def _let_go(self, row: int) -> None:
        self._rows[row].held = self._rows[row].resumed = False

    def _leave(self, row: int) -> None:
        """No prime of `row` is under way any more, nor waits."""
        for queue in (*self._lanes, self._shadowless):
            if row in queue:
                queue.remove(row)
        self._fill_shadows()

    def _fill_shadows(self) -> None:
        for lane in self._lanes:
            if lane is not self._priming and not lane and self._shadowless:
                soonest = min(self._shadowless, key=lambda row: self._rows[row].left)
                self._shadowless.remove(soonest)
                lane.append(soonest)

    def next(self) -> Tick[S] | Chunk[C] | None:
        """What to run now; None when nothing waits. A tick that is returned counts as run."""
        ready = [row for row, held in enumerate(self._rows) if held.state in STEPPABLE and held.step is not None]
        runnable = [lane[0] for lane in self._lanes if lane and not self._rests(lane[0])]
        if runnable and not (ready and self._chunk_ran):
            self._chunk_ran = True
            return self._chunk(runnable)
        self._chunk_ran = False
        return Tick(tuple(self._take(row) for row in ready)) if ready else None

    def _rests(self, row: int) -> bool:
        """Whether its prime is held, and not so far behind."""
        return self._rows[row].held and self._rows[row].behind < CATCH_UP_FRAMES

    def _chunk(self, runnable: list[int]) -> Chunk[C]:
        row = next((row for row in runnable if self._rows[row].resumed), None)
        while row is None:
            self._lanes.rotate(-1)
            row = self._lanes[0][0] if self._lanes[0] and self._lanes[0][0] in runnable else None
        return Chunk(row, self.under_way(row))

    def _take(self, row: int) -> S:
        self._move(row, Event.STEP)
        step, self._rows[row].step = self._rows[row].step, None
        self._rows[row].left -= 1
        self._rows[row].behind += 1
        assert step is not None  # `next` takes from rows that have one
        return step

    def _move(self, row: int, event: Event) -> None:
        state = self._rows[row].state
        if (state, event) not in TABLE:
            raise ValueError(f"row {row} is {state.value}: {event.value} is refused")
        self._rows[row].state = TABLE[state, event]
