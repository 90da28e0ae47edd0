"""What runs on the thread that owns the device: commands in, one at a time, and results out.

The queue of commands cannot grow without bound, because a conversation awaits its one step, and its one prime, before
it asks again; empty, it lets the thread sleep. Futures belong to the event loop: here they are only asked whether they
are cancelled, and handed back with their answers through `post`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from engine.admission import Admission
from engine.batch import RowStep, Stepped
from engine.ear import Hearing
from engine.model.prompt import PromptLayout
from engine.model.text import SILENT, Tokenizer
from engine.model.voice import Voices, VoiceState
from engine.prefix import Prefixes
from engine.prime import SHADOWS, PrimeChunk
from engine.scheduler import Chunk, RowState, Scheduler, Tick
from engine.slot import EngineError, EngineFull, Pause, Sampling, Tokens

logger = logging.getLogger(__name__)

Answers: TypeAlias = list[tuple[asyncio.Future[Any], Any]]
"""Futures with what they are to be resolved with; an EngineError is raised to who awaits it."""


class Rows(Protocol):
    """What the thread drives: `engine.batch.Batch`, or a test's stand-in. Attributes never change once it is made."""

    rows: int
    vocabulary: tuple[int, ...]  # how many tokens each of the K streams has
    window_frames: int
    renewable_frames: int
    pins: bool  # whether a prompt can be pinned
    hearing: Hearing
    revision: str
    tokenizer: Tokenizer
    layout: PromptLayout
    voices: Voices
    sampling: Sampling
    admission: Admission
    prefixes: Prefixes

    def open(self, row: int, log: Tokens) -> None:
        """Make `row` as new, with `log` as its past. Raises EngineFull, and the others go on."""

    def plan(
        self,
        row: int,
        frames: NDArray[np.int64],
        keep_frames: int,
        sampling: Sampling,
        voice: VoiceState | None = None,
        pinned: bool = False,
    ) -> list[PrimeChunk]:
        """The chunks that prime `row`, at least one; `pinned`: it never forgets what it is primed with."""

    def prefill(self, chunk: PrimeChunk) -> None:
        """Run one of them. Raises EngineFull, and the others go on."""

    def renew(
        self,
        row: int,
        frames: NDArray[np.int64],
        keep_frames: int,
        sampling: Sampling,
        voice: VoiceState | None = None,
        wait: Callable[[], bool] = lambda: False,
    ) -> Generator[bool, None, None]:
        """Prime `row` beside its steps; each item is a chunk, the last one True. Raises EngineFull, and it goes on.

        `wait` is asked whether the last is to wait, once there is nothing else to run.
        """

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
    """Run a prompt's frames through `row`, behind a voice that is a state, then its own last columns; a live row is
    that from a `pause` on, in any other the prompt may be `pinned`."""

    row: int
    frames: NDArray[np.int64]
    voice: VoiceState | None
    keep_frames: int
    sampling: Sampling
    done: asyncio.Future[None]
    pause: Pause | None = None
    pinned: bool = False


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


@dataclass(frozen=True, slots=True)
class _Priming:
    """A prime under way: each item of `chunks` runs one, and tells whether it was the last."""

    chunks: Generator[bool, None, None]
    done: asyncio.Future[None] | None
    pause: Pause | None = None


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
        self._scheduler: Scheduler[Step, _Priming] = Scheduler(rows.rows, SHADOWS)
        self._failed: dict[int, EngineError] = {}
        self._quiet = [0] * rows.rows  # frames since each row's last word

    def serve(self) -> None:
        """Until it is told to stop."""
        work: object = None
        while True:
            for command in self._take(wait=work is None):
                if isinstance(command, Stop):
                    return
                self._obey(command)
            self._resume()
            work = self._scheduler.next()
            if isinstance(work, Tick):
                self._tick(work.steps)
            elif isinstance(work, Chunk):
                self._chunk(work.row, work.prime)

    def _take(self, wait: bool) -> Iterator[Command]:
        """Every command that is there; with `wait`, at least one."""
        with contextlib.suppress(queue.Empty):
            while True:
                yield self._commands.get(block=wait)
                wait = False

    def _obey(self, command: Command) -> None:
        match command:
            case Open(row, log, sampling):
                self._quiet[row] = 0
                try:
                    self._rows.open(row, log)
                except EngineFull as error:
                    self._fail(row, error)
                else:
                    self._prime(row, _Priming(self._in_place(row, self._no_frames(), len(log), sampling, None), None))
            case Prime(row, done=done) | Step(RowStep(row), done=done) if row in self._failed:
                self._post([(done, self._failed[row])])
            case Prime(row, frames, voice, keep_frames, sampling, done, pause, pinned):
                if self._scheduler.state(row) in (RowState.LIVE, RowState.RENEWING):
                    wait = partial(self._waits, row, pause)
                    chunks = self._rows.renew(row, frames, keep_frames, sampling, voice, wait)
                else:
                    chunks = self._in_place(row, frames, keep_frames, sampling, voice, pinned)
                self._prime(row, _Priming(chunks, done, pause))
            case Step(step):
                self._scheduler.step(step.row, command)  # one that still waited was given up by its conversation
            case Free(row):
                _close(self._scheduler.free(row))
                self._failed.pop(row, None)

    def _prime(self, row: int, priming: _Priming) -> None:
        left = priming.pause.latest_frames if priming.pause else 0
        _close(self._scheduler.prime(row, priming, left))  # one that was under way was given up by its conversation

    def _is_to_wait(self, row: int, pause: Pause | None) -> bool:
        """Whether `row` may not become yet what is primed beside it."""
        return bool(pause and self._quiet[row] < pause.quiet_frames and not self._scheduler.must_end(row))

    def _waits(self, row: int, pause: Pause | None) -> bool:
        """The same; and if so, nothing runs for it until that changes."""
        if waits := self._is_to_wait(row, pause):
            self._scheduler.hold(row)
        return waits

    def _resume(self) -> None:
        """Those whose pause, or time, has come."""
        for row in self._scheduler.held:
            if not self._is_to_wait(row, self._scheduler.under_way(row).pause):
                self._scheduler.resume(row)

    def _in_place(
        self,
        row: int,
        frames: NDArray[np.int64],
        keep_frames: int,
        sampling: Sampling,
        voice: VoiceState | None,
        pinned: bool = False,
    ) -> Generator[bool, None, None]:
        """As `Rows.renew`, of a row that is not stepped meanwhile."""
        *first, last = self._rows.plan(row, frames, keep_frames, sampling, voice, pinned)
        for chunk in first:
            self._rows.prefill(chunk)
            yield False
        self._rows.prefill(last)
        yield True

    def _chunk(self, row: int, priming: _Priming) -> None:
        began = time.perf_counter()
        try:
            last, answer = next(priming.chunks), None
            self._rows.admission.chunks.saw(1, time.perf_counter() - began)
        except EngineFull as error:
            if self._scheduler.state(row) is RowState.PRIMING:
                self._fail(row, error)
                return
            logger.warning("x row %d goes on as it was: %s", row, error)
            last, answer = True, error
        if last:
            priming.chunks.close()
            self._scheduler.primed(row)
            if priming.done is not None:
                self._post([(priming.done, answer)])

    def _fail(self, row: int, error: EngineError, *waiting: asyncio.Future[Any]) -> None:
        """End `row`, and it alone; those `waiting` hear of it, and who waits behind them."""
        logger.error("x row %d: %s", row, error)
        self._failed[row] = error
        step, priming = self._scheduler.fail(row)
        _close(priming)
        told = [*waiting, priming.done if priming else None, step.done if step else None]
        self._post([(done, error) for done in told if done is not None])

    def _tick(self, steps: tuple[Step, ...]) -> None:
        began = time.perf_counter()
        wanted = [step for step in steps if not step.done.cancelled()]
        if not wanted:
            return
        stepped = self._rows.step([step.step for step in wanted])
        took = time.perf_counter() - began
        self._rows.admission.saw(len(wanted), sum(step.step.hears for step in wanted), took)
        for step, one in zip(wanted, stepped, strict=True):
            silent = step.step.forced is None and one.text in SILENT
            self._quiet[step.step.row] = self._quiet[step.step.row] + 1 if silent else 0
        whole = [(step, one) for step, one in zip(wanted, stepped, strict=True) if not one.broken]
        self._post([(step.done, Answer(one, began - step.asked, took)) for step, one in whole])
        for step, one in zip(wanted, stepped, strict=True):
            if one.broken:
                why = EngineError("what the model computes for this call is no number any more; it cannot go on")
                self._fail(step.step.row, why, step.done)

    def _no_frames(self) -> NDArray[np.int64]:
        return np.zeros((0, len(self._rows.vocabulary)), np.int64)


def _close(priming: _Priming | None) -> None:
    """It will not be run to its end: a shadow that it has is given back."""
    if priming is not None:
        priming.chunks.close()
