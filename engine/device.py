"""What runs on the thread that owns the device: commands in, one at a time, and results out.

The queue of commands cannot grow without bound, because a conversation awaits its one step or prime before it asks
again; empty, it lets the thread sleep. Futures belong to the event loop: here they are only asked whether they are
cancelled, and handed back with their answers through `post`.
"""

from __future__ import annotations

import asyncio
import contextlib
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
from engine.slot import Sampling, Tokens

Answers: TypeAlias = list[tuple[asyncio.Future[Any], Any]]
"""Futures with what they are to be resolved with."""


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
        """Make `row` as new, with `log` as its past."""

    def plan(self, row: int, frames: NDArray[np.int64], keep_frames: int, sampling: Sampling) -> list[PrimeChunk]:
        """The chunks that prime `row`, at least one."""

    def prefill(self, chunk: PrimeChunk) -> None:
        """Run one of them."""

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
    """Serves the commands of one queue, on whatever thread calls `serve`. `post` hands answers to the loop."""

    def __init__(
        self,
        rows: Rows,
        commands: queue.SimpleQueue[Command],
        post: Callable[[Answers], None],
    ) -> None:
        self._rows, self._commands, self._post = rows, commands, post
        self._scheduler: Scheduler[Step, tuple[PrimeChunk, asyncio.Future[None] | None]] = Scheduler(rows.rows)

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
                self._chunk(*work.columns)

    def _take(self, wait: bool) -> Iterator[Command]:
        """Every command that is there; with `wait`, at least one."""
        with contextlib.suppress(queue.Empty):
            while True:
                yield self._commands.get(block=wait)
                wait = False

    def _obey(self, command: Command) -> None:
        match command:
            case Open(row, log, sampling):
                self._rows.open(row, log)
                self._prime(row, self._rows.plan(row, self._no_frames(), len(log), sampling), None)
            case Prime(row, frames, keep_frames, sampling, done):
                self._prime(row, self._rows.plan(row, frames, keep_frames, sampling), done)
            case Step(step):
                self._scheduler.step(step.row, command)  # one that still waited was given up by its conversation
            case Free(row):
                self._scheduler.free(row)

    def _prime(self, row: int, chunks: list[PrimeChunk], done: asyncio.Future[None] | None) -> None:
        *first, last = chunks
        self._scheduler.prime(row, [*((chunk, None) for chunk in first), (last, done)])

    def _chunk(self, chunk: PrimeChunk, done: asyncio.Future[None] | None) -> None:
        self._rows.prefill(chunk)
        if done is not None:
            self._post([(done, None)])

    def _tick(self, steps: tuple[Step, ...]) -> None:
        began = time.perf_counter()
        wanted = [step for step in steps if not step.done.cancelled()]
        if not wanted:
            return
        stepped = self._rows.step([step.step for step in wanted])
        took = time.perf_counter() - began
        answers = [Answer(one, began - step.asked, took) for step, one in zip(wanted, stepped, strict=True)]
        self._post([(step.done, answer) for step, answer in zip(wanted, answers, strict=True)])

    def _no_frames(self) -> NDArray[np.int64]:
        return np.zeros((0, len(self._rows.vocabulary)), np.int64)
