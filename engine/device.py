"""What runs on the thread that owns the device: commands in, one at a time, and results out.

The queue of commands cannot grow without bound, because a conversation awaits its one step or prime before it asks
again; empty, it lets the thread sleep. Futures belong to the event loop: here they are only asked whether they are
cancelled, and handed back with their answers through `post`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from engine.batch import PrimeChunk, RowStep, Stepped
from engine.model.prompt import PromptLayout
from engine.model.text import Tokenizer
from engine.model.voice import Voices
from engine.scheduler import Chunk, Scheduler, Tick
from engine.slot import EngineError, EngineFull, Sampling, Tokens

logger = logging.getLogger(__name__)

Answers: TypeAlias = list[tuple[asyncio.Future[Any], Any]]
"""Futures with what they are to be resolved with; an EngineError is raised to who awaits it."""


class Rows(Protocol):
    """What the thread drives: `engine.batch.Batch`, or a test's stand-in. Attributes never change once it is made."""

    rows: int
    vocabulary: tuple[int, ...]  # how many tokens each of the K streams has
    window_frames: int
    hearing_delay_frames: int
    revision: str
    tokenizer: Tokenizer
    layout: PromptLayout
    voices: Voices
    sampling: Sampling

    def open(self, row: int, log: Tokens) -> None:
        """Make `row` as new, with `log` as its past. Raises EngineFull, and the others go on."""

    def plan(self, row: int, frames: NDArray[np.int64], keep_frames: int, sampling: Sampling) -> list[PrimeChunk]:
        """The chunks that prime `row`, at least one."""

    def prefill(self, chunk: PrimeChunk) -> None:
        """Run one of them. Raises EngineFull, and the others go on."""

    def step(self, steps: Sequence[RowStep]) -> list[Stepped]:
        """One masked step of these rows."""


# --- commands: what the loop asks of the thread --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Open:
    """Give `row` to a conversation with this past."""

    row: int
    log: Tokens
    sampling: Sampling


@dataclass(frozen=True, slots=True)
class Prime:
    """Run a prompt's frames through `row`, then its own last columns."""

    row: int
    frames: NDArray[np.int64]
    keep_frames: int
    sampling: Sampling
    done: asyncio.Future[None]


@dataclass(frozen=True, slots=True)
class Step:
    """Step a row; `asked` is when, by the performance counter."""

    step: RowStep
    done: asyncio.Future[Answer]
    asked: float


@dataclass(frozen=True, slots=True)
class Free:
    """The row's conversation is over."""

    row: int


@dataclass(frozen=True, slots=True)
class Stop:
    """Finish what runs, and return."""


Command: TypeAlias = Open | Prime | Step | Free | Stop


@dataclass(frozen=True, slots=True)
class Answer:
    """What a step gave, and the seconds that it waited and that its tick took."""

    stepped: Stepped
    waited_s: float
    step_s: float


# --- the thread ----------------------------------------------------------------------------------------------------


class Worker:
    """Serves the commands of one queue, on whatever thread calls `serve`. `post` hands answers to the loop.

    A row that fails takes no other down: whoever waits for it, and whoever asks it for anything until it is freed, is
    answered with the reason. Any other exception ends `serve`: the device is in an unknown state.
    """

    def __init__(
        self,
        rows: Rows,
        commands: queue.SimpleQueue[Command],
        post: Callable[[Answers], None],
    ) -> None:
        self._rows, self._commands, self._post = rows, commands, post
        self._scheduler: Scheduler[Step, tuple[PrimeChunk, asyncio.Future[None] | None]] = Scheduler(rows.rows)
        self._failed: dict[int, EngineError] = {}

    def serve(self) -> None:
        """Until it is told to stop."""
        work: object = None
        while True:
            for command in self._take(wait=work is None):
                if isinstance(command, Stop):
                    return
                self._obey(command)
            work = self._scheduler.next()
            if isinstance(work, Tick):
                self._tick(work.steps)
            elif isinstance(work, Chunk):
                self._chunk(work.row, *work.columns)

    def _take(self, wait: bool) -> Iterator[Command]:
        """Every command that is there; with `wait`, at least one."""
        with contextlib.suppress(queue.Empty):
            while True:
                yield self._commands.get(block=wait)
                wait = False

    def _obey(self, command: Command) -> None:
        match command:
            case Open(row, log, sampling):
                try:
                    self._rows.open(row, log)
                except EngineFull as error:
                    self._fail(row, error)
                else:
                    self._prime(row, self._rows.plan(row, self._no_frames(), len(log), sampling), None)
            case Prime(row, done=done) | Step(RowStep(row), done=done) if row in self._failed:
                self._post([(done, self._failed[row])])
            case Prime(row, frames, keep_frames, sampling, done):
                self._prime(row, self._rows.plan(row, frames, keep_frames, sampling), done)
            case Step(step):
                self._scheduler.step(step.row, command)  # one that still waited was given up by its conversation
            case Free(row):
                self._scheduler.free(row)
                self._failed.pop(row, None)

    def _prime(self, row: int, chunks: list[PrimeChunk], done: asyncio.Future[None] | None) -> None:
        *first, last = chunks
        self._scheduler.prime(row, [*((chunk, None) for chunk in first), (last, done)])

    def _chunk(self, row: int, chunk: PrimeChunk, done: asyncio.Future[None] | None) -> None:
        try:
            self._rows.prefill(chunk)
        except EngineFull as error:
            self._fail(row, error, done)
        else:
            if done is not None:
                self._post([(done, None)])

    def _fail(self, row: int, error: EngineError, *waiting: asyncio.Future[Any] | None) -> None:
        """End `row`, and it alone; those `waiting` hear of it, and who waits behind them."""
        logger.error("x row %d: %s", row, error)
        self._failed[row] = error
        step, chunks = self._scheduler.fail(row)
        told = [*waiting, *(done for _, done in chunks), step.done if step else None]
        self._post([(done, error) for done in told if done is not None])

    def _tick(self, steps: tuple[Step, ...]) -> None:
        began = time.perf_counter()
        wanted = [step for step in steps if not step.done.cancelled()]
        if not wanted:
            return
        stepped = self._rows.step([step.step for step in wanted])
        took = time.perf_counter() - began
        whole = [(step, one) for step, one in zip(wanted, stepped, strict=True) if not one.broken]
        self._post([(step.done, Answer(one, began - step.asked, took)) for step, one in whole])
        for step, one in zip(wanted, stepped, strict=True):
            if one.broken:
                why = EngineError("what the model computes for this call is no number any more; it cannot go on")
                self._fail(step.step.row, why, step.done)

    def _no_frames(self) -> NDArray[np.int64]:
        return np.zeros((0, len(self._rows.vocabulary)), np.int64)
