"""The engine in this process: one thread owns the device, and conversations on the event loop ask it for steps.

Commands reach the thread through one queue; what a tick gave leaves through one callback on the loop. The queue cannot
grow without bound, because a conversation awaits its one step or prime before it asks again; empty, it lets the thread
sleep. Nothing but the thread touches torch.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from engine.batch import NOISE_WIDTH, PrimeChunk, RowStep, Stepped, load_batch
from engine.model.prompt import PromptLayout
from engine.model.text import Forced, TextReader, Tokenizer, schedule
from engine.scheduler import Chunk, Scheduler, Tick
from engine.slot import (
    FRAME_SAMPLES,
    SAMPLE_RATE,
    EngineError,
    EngineFull,
    EngineState,
    Frame,
    Prompt,
    PromptError,
    Reply,
    Sampling,
    Tokens,
)

logger = logging.getLogger(__name__)

CLOSE_S = 1.0
"""Seconds that leaving the engine waits for the thread's last tick."""


class Rows(Protocol):
    """What the thread drives: `engine.batch.Batch`, or a test's stand-in. Attributes never change once it is made."""

    rows: int
    streams: int
    window_frames: int
    revision: str
    tokenizer: Tokenizer
    layout: PromptLayout
    voices: tuple[str, ...]

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
class _Open:
    row: int
    log: Tokens
    sampling: Sampling


@dataclass(frozen=True, slots=True)
class _Prime:
    row: int
    frames: NDArray[np.int64]
    keep_frames: int
    sampling: Sampling
    done: asyncio.Future[None]


@dataclass(frozen=True, slots=True)
class _Step:
    step: RowStep
    done: asyncio.Future[_Answer]
    asked: float


@dataclass(frozen=True, slots=True)
class _Free:
    row: int


@dataclass(frozen=True, slots=True)
class _Stop:
    pass


_Command: TypeAlias = _Open | _Prime | _Step | _Free | _Stop


@dataclass(frozen=True, slots=True)
class _Answer:
    """What a step gave, and the seconds that it waited and that its tick took."""

    stepped: Stepped
    waited_s: float
    step_s: float


# --- the thread ----------------------------------------------------------------------------------------------------


class _Worker:
    """Runs on the engine's thread, from loading to the end. `post` hands results to the loop."""

    def __init__(
        self,
        rows: Rows,
        commands: queue.SimpleQueue[_Command],
        post: Callable[[list[tuple[asyncio.Future[Any], Any]]], None],
    ) -> None:
        self._rows, self._commands, self._post = rows, commands, post
        self._scheduler: Scheduler[_Step, tuple[PrimeChunk, asyncio.Future[None] | None]] = Scheduler(rows.rows)

    def serve(self) -> None:
        """Until it is told to stop."""
        work: object = None
        while True:
            for command in self._take(wait=work is None):
                if isinstance(command, _Stop):
                    return
                self._obey(command)
            work = self._scheduler.next()
            if isinstance(work, Tick):
                self._tick(work.steps)
            elif isinstance(work, Chunk):
                self._chunk(*work.columns)

    def _take(self, wait: bool) -> Iterator[_Command]:
        """Every command that is there; with `wait`, at least one."""
        with contextlib.suppress(queue.Empty):
            while True:
                yield self._commands.get(block=wait)
                wait = False

    def _obey(self, command: _Command) -> None:
        match command:
            case _Open(row, log, sampling):
                self._rows.open(row, log)
                self._prime(row, self._rows.plan(row, _no_frames(self._rows.streams), len(log), sampling), None)
            case _Prime(row, frames, keep_frames, sampling, done):
                self._prime(row, self._rows.plan(row, frames, keep_frames, sampling), done)
            case _Step(step):
                self._scheduler.step(step.row, command)  # one that still waited was given up by its conversation
            case _Free(row):
                self._scheduler.free(row)

    def _prime(self, row: int, chunks: list[PrimeChunk], done: asyncio.Future[None] | None) -> None:
        *first, last = chunks
        self._scheduler.prime(row, [*((chunk, None) for chunk in first), (last, done)])

    def _chunk(self, chunk: PrimeChunk, done: asyncio.Future[None] | None) -> None:
        self._rows.prefill(chunk)
        if done is not None:
            self._post([(done, None)])

    def _tick(self, steps: tuple[_Step, ...]) -> None:
        began = time.perf_counter()
        wanted = [step for step in steps if not step.done.cancelled()]
        if not wanted:
            return
        stepped = self._rows.step([step.step for step in wanted])
        took = time.perf_counter() - began
        answers = [_Answer(one, began - step.asked, took) for step, one in zip(wanted, stepped, strict=True)]
        self._post([(step.done, answer) for step, answer in zip(wanted, answers, strict=True)])


def _no_frames(streams: int) -> NDArray[np.int64]:
    return np.zeros((0, streams), np.int64)


# --- the loop's side -----------------------------------------------------------------------------------------------


class LocalEngine:
    """A checkpoint on a device of this machine. Entering loads it, which takes as long as it takes.

    `model` is a folder or a Hub repository `owner/name[@revision]`; `rows` None is chosen by device; `prompt_style` is
    how a prompt is laid out where the checkpoint does not say. Entering raises CheckpointError, or EngineError if the
    device cannot be had. `load` makes the rows, on the thread; a test gives its own.

    Once the thread has ended, by an exception or however else, the state is FAILED, all that waits gets EngineError,
    and `open` raises it: a device in an unknown state is not used again.
    """

    sample_rate = SAMPLE_RATE
    frame_samples = FRAME_SAMPLES

    def __init__(
        self,
        model: str,
        rows: int | None = None,
        device: str = "auto",
        prompt_style: str = "auto",
        load: Callable[[], Rows] | None = None,
    ) -> None:
        self.state = EngineState.LOADING
        self._model = model
        self._load = load or (lambda: load_batch(model, rows, device, prompt_style))
        self._commands: queue.SimpleQueue[_Command] = queue.SimpleQueue()
        self._waiting: set[asyncio.Future[Any]] = set()
        self._free_rows: list[int] = []
        self._why = "the engine is closed"
        self._cause: BaseException | None = None

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._loaded: asyncio.Future[Rows] = self._loop.create_future()
        self._ended = asyncio.Event()
        # A daemon: a tick that hangs on a broken device must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()
        try:
            self._rows = await self._loaded
        except BaseException:
            self.state = EngineState.FAILED
            await self._close()
            raise
        self._free_rows = list(reversed(range(self._rows.rows)))
        self.state = EngineState.READY
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.state is EngineState.READY:
            self.state = EngineState.DRAINING
        await self._close()

    async def _close(self) -> None:
        """End the thread; a tick that is under way is waited for, but not for long."""
        self._commands.put(_Stop())
        try:
            async with asyncio.timeout(CLOSE_S):
                await self._ended.wait()
        except TimeoutError:
            logger.warning("x the engine's thread is still busy after %g s; it is left to itself", CLOSE_S)
            self._resolve()
        else:
            self._thread.join()  # its last act was to say that it has ended

    @property
    def window_frames(self) -> int:
        """Frames a row's context holds."""
        return self._rows.window_frames

    @property
    def revision(self) -> str:
        """What is loaded, exactly enough to repeat a call."""
        return self._rows.revision

    @property
    def free(self) -> int:
        """Rows that `open` could give out now."""
        return len(self._free_rows) if self.state is EngineState.READY else 0

    @asynccontextmanager
    async def open(self, sampling: Sampling, replay: Tokens | None = None) -> AsyncIterator[LocalSlot]:
        """Reserve a row while entered; with `replay`, a call's `Reply.tokens` (T, K), rebuild it and go on from there.

        What is rebuilt is what the model remembers; the codec starts afresh. If the call had a prompt, prime with it
        and `keep_frames` T. Raises EngineFull, EngineError, ValueError if `replay` is no such log.
        """
        self.check_alive()
        log = self._check_log(replay)
        _check_sampling(sampling)
        if not self._free_rows:
            raise EngineFull(f"every one of the {self._rows.rows} rows is taken")
        row = self._free_rows.pop()
        self._commands.put(_Open(row, log, sampling))
        slot = LocalSlot(self, self._rows, row, sampling)
        try:
            yield slot
        finally:
            slot.close()
            self._commands.put(_Free(row))  # before any command of the row's next holder: the queue keeps order
            self._free_rows.append(row)

    def _check_log(self, replay: Tokens | None) -> Tokens:
        if replay is None:
            return np.zeros((0, self._rows.streams), np.uint16)
        if replay.ndim != 2 or replay.shape[1] != self._rows.streams or replay.dtype != np.uint16:
            raise ValueError(
                f"a replay is uint16 of shape (frames, {self._rows.streams}), not {replay.dtype} {replay.shape}"
            )
        return replay

    def check_alive(self) -> None:
        """Raises EngineError unless it is READY."""
        if self.state is EngineState.FAILED:
            raise self._gone()
        if self.state is not EngineState.READY:
            raise EngineError(f"the engine is {self.state.value}")

    def ask(self, command: Callable[[asyncio.Future[Any]], _Command]) -> asyncio.Future[Any]:
        """Put a command on the queue; what is returned is resolved with its answer, or with EngineError."""
        self.check_alive()
        done: asyncio.Future[Any] = self._loop.create_future()
        self._waiting.add(done)
        done.add_done_callback(self._waiting.discard)
        self._commands.put(command(done))
        return done

    # --- on the thread

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            rows = self._load()
            self._call(self._deliver, [(self._loaded, rows)])
            _Worker(rows, self._commands, lambda answers: self._call(self._deliver, answers)).serve()
        except BaseException as failure:  # whatever it is, the conversations must hear of it
            error = failure
            if not isinstance(failure, EngineError):
                logger.exception("x the engine's thread failed")
        finally:
            self._call(self._end, error)

    def _call(self, callback: Callable[..., None], *values: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to be told
            self._loop.call_soon_threadsafe(callback, *values)

    # --- on the loop, called from the thread

    def _deliver(self, answers: list[tuple[asyncio.Future[Any], Any]]) -> None:
        for done, answer in answers:
            if not done.done():
                done.set_result(answer)

    def _end(self, error: BaseException | None) -> None:
        """The thread is over: nobody waits for it any longer."""
        if self.state is EngineState.READY:
            self.state = EngineState.FAILED
            self._why = "the engine's thread died"
        if error is not None:
            told = isinstance(error, EngineError)
            self._why = str(error) if told else f"the engine failed: {type(error).__name__}: {error}"
            self._cause = error
            if told and not self._loaded.done():
                self._loaded.set_exception(error)  # a CheckpointError stays one
        self._resolve()
        self._ended.set()

    def _resolve(self) -> None:
        """Nobody waits any longer."""
        for done in [self._loaded, *self._waiting]:
            if not done.done():
                done.set_exception(self._gone())

    def _gone(self) -> EngineError:
        """Why nothing more can be asked; each who hears of it gets an error of its own."""
        error = EngineError(self._why)
        error.__cause__ = self._cause
        return error


def _check_sampling(sampling: Sampling) -> None:
    for name in ("text", "audio"):
        temperature, top_k = getattr(sampling, f"{name}_temperature"), getattr(sampling, f"{name}_top_k")
        if not 0 <= temperature < float("inf"):
            raise ValueError(f"{name}_temperature is {temperature}; it must be 0 (greedy) or a number above it")
        if not 1 <= top_k <= NOISE_WIDTH:
            raise ValueError(f"{name}_top_k is {top_k}; it must be 1 to {NOISE_WIDTH}")
    if sampling.seed < 0:
        raise ValueError(f"seed is {sampling.seed}; it must not be negative")


class LocalSlot:
    """One row of a `LocalEngine`, until it is closed. What is to be said and how to draw is kept here, on the loop."""

    def __init__(self, engine: LocalEngine, rows: Rows, row: int, sampling: Sampling) -> None:
        self._engine, self._rows, self._row = engine, rows, row
        self._sampling = sampling
        self._reader = TextReader(rows.tokenizer)
        self._speech: deque[Forced] = deque()
        self._asked: asyncio.Future[Any] | None = None
        self._closed = False

    @property
    def window_frames(self) -> int:
        """How many frames the row's context holds."""
        return self._rows.window_frames

    @property
    def saying(self) -> bool:
        """Whether forced text is still to come."""
        return bool(self._speech)

    def say(self, text: str) -> None:
        """Force `text` into the text stream from the next step on, at a speakable pace."""
        self._speech = schedule(self._rows.tokenizer, text)
        self._reader = TextReader(self._rows.tokenizer)

    def sample(self, sampling: Sampling) -> None:
        """Use `sampling` from the next step on. Raises ValueError if it makes no sense."""
        _check_sampling(sampling)
        self._sampling = sampling

    async def prime(self, prompt: Prompt, keep_frames: int = 0) -> None:
        """Run the prompt through the row, and its own last `keep_frames` columns. Raises PromptError, EngineError."""
        frames = self._lay_out(prompt, keep_frames)
        await self._ask(lambda done: _Prime(self._row, frames, keep_frames, self._sampling, done))

    def _lay_out(self, prompt: Prompt, keep_frames: int) -> NDArray[np.int64]:
        rows = self._rows
        if keep_frames < 0:
            raise ValueError(f"keep_frames is {keep_frames}; it must not be negative")
        if prompt.voice and prompt.voice not in rows.voices:
            there = ", ".join(rows.voices) or "none"
            raise PromptError(f"no voice {prompt.voice!r} lies beside the weights; there are: {there}")
        if prompt.voice:
            raise PromptError(f"the voice {prompt.voice!r} cannot be used yet: files of voices are not read")
        frames = rows.layout.frames(rows.tokenizer, prompt.text)
        if 1 + len(frames) + keep_frames > rows.window_frames:
            raise PromptError(
                f"the prompt takes {len(frames)} frames and {keep_frames} are to be kept; together they must be fewer "
                f"than the {rows.window_frames} that the model's window holds"
            )
        return frames

    async def step(self, frame: Frame) -> Reply:
        """Hear one frame and say one. Raises EngineError; ValueError if that is no frame."""
        if frame.shape != (FRAME_SAMPLES,) or frame.dtype != np.float32:
            raise ValueError(f"a frame is float32 of shape ({FRAME_SAMPLES},), not {frame.dtype} {frame.shape}")
        speech = self._speech
        forced = speech[0] if speech else None
        step = RowStep(self._row, frame, None if forced is None else forced.token, self._sampling)
        answer: _Answer = await self._ask(lambda done: _Step(step, done, time.perf_counter()))
        if forced is not None:
            speech.popleft()  # not before it was said: a step that is given up says nothing
        stepped = answer.stepped
        text = self._reader.read(stepped.text) if forced is None else forced.text
        return Reply(stepped.frame, text, stepped.tokens, stepped.number, answer.waited_s, answer.step_s)

    async def _ask(self, command: Callable[[asyncio.Future[Any]], _Command]) -> Any:
        if self._closed:
            raise EngineError("the slot is closed")
        if self._asked is not None and not self._asked.done():
            raise RuntimeError("a slot is asked for one step or prime at a time")
        self._asked = self._engine.ask(command)
        return await self._asked

    def close(self) -> None:
        """The row is given back; who still waits for it, in another task, gets EngineError."""
        self._closed = True
        if self._asked is not None and not self._asked.done():
            self._asked.set_exception(EngineError("the slot is closed"))
