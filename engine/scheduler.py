"""Which rows are taken, what waits for each, and what the device does next. No torch, no clock, no thread."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum
from typing import Generic, TypeVar

S = TypeVar("S")
"""What a waiting step is to the caller."""

C = TypeVar("C")
"""What a prime chunk is to the caller."""


class RowState(Enum):
    """Where a row is in its life."""

    FREE = "free"
    PRIMING = "priming"
    LIVE = "live"
    FAILED = "failed"


class Event(Enum):
    """What moves a row on."""

    PRIME = "prime"
    """Columns are to be run through it: it was just given out, or its conversation wants another prompt."""
    PRIMED = "primed"
    """The last of those columns has run."""
    FAIL = "fail"
    """What is in it is of no more use; its conversation has yet to hear of it."""
    FREE = "free"
    """Its conversation is over."""


TABLE: dict[tuple[RowState, Event], RowState] = {
    (RowState.FREE, Event.PRIME): RowState.PRIMING,
    (RowState.PRIMING, Event.PRIME): RowState.PRIMING,  # the new prompt replaces what is left of the last one
    (RowState.LIVE, Event.PRIME): RowState.PRIMING,
    (RowState.PRIMING, Event.PRIMED): RowState.LIVE,
    (RowState.PRIMING, Event.FREE): RowState.FREE,
    (RowState.LIVE, Event.FREE): RowState.FREE,
    (RowState.FREE, Event.FAIL): RowState.FAILED,  # it could not even be opened
    (RowState.PRIMING, Event.FAIL): RowState.FAILED,
    (RowState.LIVE, Event.FAIL): RowState.FAILED,
    (RowState.FAILED, Event.FREE): RowState.FREE,
}
"""State and event -> next state. What is not here is refused."""


@dataclass(slots=True)
class _Row(Generic[S, C]):
    state: RowState = RowState.FREE
    chunks: deque[C] = field(default_factory=deque)
    step: S | None = None


@dataclass(frozen=True, slots=True)
class Tick(Generic[S]):
    """One masked step: every row that has a frame."""

    steps: tuple[S, ...]


@dataclass(frozen=True, slots=True)
class Chunk(Generic[C]):
    """A bounded run of prompt columns through one row. `last`: the row is primed once it has run."""

    row: int
    columns: C
    last: bool


class Scheduler(Generic[S, C]):
    """Rows 0 to `rows` - 1. At most one step waits for each row: one step is in flight a call.

    A tick holds every step that waits for a LIVE row, and begins as soon as there is one. A step for a PRIMING row
    waits until the row is primed. Rows are primed one after the other, first come first served; at most one chunk runs
    between two ticks, so nobody's speech stutters while someone else is being put through.
    """

    def __init__(self, rows: int) -> None:
        self._rows: list[_Row[S, C]] = [_Row() for _ in range(rows)]
        self._priming: deque[int] = deque()
        self._chunk_ran = False

    def state(self, row: int) -> RowState:
        """Where `row` is in its life."""
        return self._rows[row].state

    def prime(self, row: int, chunks: list[C]) -> None:
        """Run `chunks` through `row`, in order. Raises ValueError without chunks."""
        if not chunks:
            raise ValueError("a prime has at least one chunk")
        self._move(row, Event.PRIME)
        self._rows[row].chunks = deque(chunks)
        if row not in self._priming:
            self._priming.append(row)

    def step(self, row: int, step: S) -> S | None:
        """Let `step` wait for the next tick. One that still waited is replaced, and returned: its caller gave it up."""
        state = self._rows[row]
        if state.state in (RowState.FREE, RowState.FAILED):
            raise ValueError(f"row {row} is {state.state.value}: nobody steps it")
        replaced, state.step = state.step, step
        return replaced

    def free(self, row: int) -> None:
        """Take `row` back; what waits for it is dropped."""
        self._move(row, Event.FREE)
        self._drop(row)

    def fail(self, row: int) -> tuple[S | None, tuple[C, ...]]:
        """Nothing runs in `row` any more until it is freed; the step and the chunks that waited for it are returned."""
        self._move(row, Event.FAIL)
        return self._drop(row)

    def _drop(self, row: int) -> tuple[S | None, tuple[C, ...]]:
        dropped = self._rows[row]
        self._rows[row] = _Row(dropped.state)
        if row in self._priming:
            self._priming.remove(row)
        return dropped.step, tuple(dropped.chunks)

    def next(self) -> Tick[S] | Chunk[C] | None:
        """What to run now; None when nothing waits. What is returned counts as run."""
        ready = [row for row in self._rows if row.state is RowState.LIVE and row.step is not None]
        if self._priming and not (ready and self._chunk_ran):
            self._chunk_ran = True
            return self._chunk()
        self._chunk_ran = False
        steps = tuple(row.step for row in ready if row.step is not None)
        for row in ready:
            row.step = None
        return Tick(steps) if steps else None

    def _chunk(self) -> Chunk[C]:
        row = self._priming[0]
        columns, last = self._rows[row].chunks.popleft(), not self._rows[row].chunks
        if last:
            self._priming.popleft()
            self._move(row, Event.PRIMED)
        return Chunk(row, columns, last)

    def _move(self, row: int, event: Event) -> None:
        state = self._rows[row].state
        if (state, event) not in TABLE:
            raise ValueError(f"row {row} is {state.value}: {event.value} is refused")
        self._rows[row].state = TABLE[state, event]
