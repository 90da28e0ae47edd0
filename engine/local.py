"""The engine in this process: one thread owns the device, and conversations on the event loop ask it for steps.

Commands reach the thread through one queue; what a tick gave leaves through one callback on the loop. Nothing but the
thread touches torch.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from engine.batch import KeyPrecision, RowStep
from engine.device import Answer, Answers, Command, Free, Open, Prime, Rows, Step, Stop, Worker
from engine.drawing import NOISE_WIDTH
from engine.load import PREFIX_BYTES, Graphs, load_batch
from engine.model.sampling import SEEDS
from engine.model.text import Forced, TextReader, schedule
from engine.model.voice import VoiceState, length_of, told
from engine.model.weights import Wanted
from engine.prefix import PrefixCounts
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


class LocalEngine:
    """A checkpoint on a device of this machine. Entering loads it, which takes as long as it takes.

    `model` is a folder or a Hub repository `owner/name[@revision]`; `rows` None is chosen by device; `prompt_style` is
    how a prompt is laid out where the checkpoint does not say; `ear` is whether the caller's words are written down, if
    the checkpoint has an ear; `weights` and `kv` are how the language model's lie in memory, and its keys and values.
    `voices` are those that calls will ask for: paths among them are read, beside what lies beside the weights.
    `limit_s` is the longest that a frame may take to its reply: a call that would make it longer is refused; None is
    any time, `auto` that on a CPU and LIMIT_S on a card, whose ticks take as long today as tomorrow.
    `graphs` is whether steps are captured, `auto` on a card. `prefix_bytes` hold what the model remembers of prompts,
    for the next call that begins with the same. `deterministic`: `load_batch`.
    Entering raises CheckpointError, or EngineError if the device cannot be had. `load` makes the rows, on the thread; a
    test gives its own.

    A row that fails ends its own conversation only, with EngineError; EngineFull, if memory was short while it was put
    through. Once the thread has ended, by an exception or however else, the state is FAILED, all that waits gets
    EngineError, and `open` raises it: a device in an unknown state is not used again.
    """

    sample_rate = SAMPLE_RATE
    frame_samples = FRAME_SAMPLES

    def __init__(
        self,
        model: str,
        rows: int | None = None,
        device: str = "auto",
        prompt_style: str = "auto",
        ear: bool = True,
        weights: Wanted = "auto",
        kv: KeyPrecision = "full",
        voices: Sequence[str] = (),
        limit_s: float | Literal["auto"] | None = "auto",
        graphs: Graphs = "auto",
        prefix_bytes: int = PREFIX_BYTES,
        deterministic: bool = False,
        load: Callable[[], Rows] | None = None,
    ) -> None:
        self.state = EngineState.LOADING
        self._model = model
        self._load = load or (
            lambda: load_batch(model, rows, device, prompt_style, ear, weights, kv, voices, limit_s, graphs)
        )
        self._commands: queue.SimpleQueue[Command] = queue.SimpleQueue()
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
            if self._ended.is_set():
                raise self._gone()
        except BaseException:
            self.state = EngineState.FAILED
            await self._close()
            raise
        self._free_rows = list(range(self._rows.rows))
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
        self._commands.put(Stop())
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
    def sampling(self) -> Sampling:
        """How the weights are meant to be drawn from."""
        return self._rows.sampling

    @property
    def prefix_counts(self) -> PrefixCounts:
        """How often a call began with a prompt that was known, and what is held of them."""
        return self._rows.prefixes.counts

    @property
    def free(self) -> int:
        """Rows that `open` could give out now."""
        there = self.state is EngineState.READY and self._rows.admission.admits(1 + self._taken)
        return len(self._free_rows) if there else 0

    @property
    def _taken(self) -> int:
        return self._rows.rows - len(self._free_rows)

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
        self._check_in_time(1 + self._taken)
        row = heapq.heappop(self._free_rows)  # the lowest: rows that lie side by side are stepped without copies
        self._commands.put(Open(row, log, sampling))
        slot = LocalSlot(self, self._rows, row, sampling)
        try:
            yield slot
        finally:
            slot.close()
            self._commands.put(Free(row))  # before any command of the row's next holder: the queue keeps order
            heapq.heappush(self._free_rows, row)

    def _check_in_time(self, rows: int) -> None:
        admission = self._rows.admission
        if not admission.admits(rows):
            wait, limit = 1000 * admission.wait_s(rows), 1000 * (admission.limit_s or 0)
            raise EngineFull(
                f"beside {rows - 1} calls, one more would wait {wait:.0f} ms for a reply; "
                f"it must be {limit:.0f} at most"
            )

    def _check_log(self, replay: Tokens | None) -> Tokens:
        vocabulary = np.array(self._rows.vocabulary)
        if replay is None:
            return np.zeros((0, len(vocabulary)), np.uint16)
        if replay.ndim != 2 or replay.shape[1] != len(vocabulary) or replay.dtype != np.uint16:
            raise ValueError(
                f"a replay is uint16 of shape (frames, {len(vocabulary)}), not {replay.dtype} {replay.shape}"
            )
        for frame, stream in np.argwhere(replay >= vocabulary)[:1]:
            raise ValueError(
                f"stream {stream} of the replay holds token {replay[frame, stream]}; "
                f"this model has {vocabulary[stream]}"
            )
        return replay

    def check_alive(self) -> None:
        """Raises EngineError unless it is READY."""
        if self.state is EngineState.FAILED:
            raise self._gone()
        if self.state is not EngineState.READY:
            raise EngineError(f"the engine is {self.state.value}")

    def ask(self, command: Callable[[asyncio.Future[Any]], Command]) -> asyncio.Future[Any]:
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
            Worker(rows, self._commands, lambda answers: self._call(self._deliver, answers)).serve()
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

    def _deliver(self, answers: Answers) -> None:
        for done, answer in answers:
            if done.done():
                continue
            if isinstance(answer, EngineError):
                done.set_exception(type(answer)(*answer.args))  # one of its own for each who hears of it
            else:
                done.set_result(answer)

    def _end(self, error: BaseException | None) -> None:
        """The thread is over: nobody waits for it any longer."""
        if self.state is not EngineState.DRAINING:
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
    if not 0 <= sampling.seed < SEEDS:
        raise ValueError(f"seed is {sampling.seed}; it must be 0 to {SEEDS - 1}")


class LocalSlot:
    """One row of a `LocalEngine`, until it is closed. What is to be said and how to draw is kept here, on the loop."""

    def __init__(self, engine: LocalEngine, rows: Rows, row: int, sampling: Sampling) -> None:
        self._engine, self._rows, self._row = engine, rows, row
        self._sampling = sampling
        self._reader, self._listener = TextReader(rows.tokenizer), TextReader(rows.tokenizer)
        self._speech: deque[Forced] = deque()
        self._stepping: asyncio.Future[Any] | None = None
        self._priming: asyncio.Future[Any] | None = None
        self._closed = False

    @property
    def window_frames(self) -> int:
        """How many frames the row's context holds."""
        return self._rows.window_frames

    @property
    def hearing_delay_frames(self) -> int:
        """How far `Reply.heard` lies behind the sound; 0 without an ear."""
        return self._rows.hearing_delay_frames

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

    def prompt_frames(self, prompt: Prompt) -> int:
        """How many frames of the window `prompt` takes. Raises PromptError if its voice is not there."""
        frames, voice = self._frames(prompt)
        return len(frames) + length_of(voice)

    async def prime(self, prompt: Prompt, keep_frames: int = 0) -> None:
        """Run the prompt through the row, and its own last `keep_frames` columns. Raises PromptError, EngineError."""
        frames, voice = self._lay_out(prompt, keep_frames)
        self._check_free(self._priming)
        self._priming = self._engine.ask(
            lambda done: Prime(self._row, frames, voice, keep_frames, self._sampling, done)
        )
        await self._priming

    def _lay_out(self, prompt: Prompt, keep_frames: int) -> tuple[NDArray[np.int64], VoiceState | None]:
        rows = self._rows
        if keep_frames < 0:
            raise ValueError(f"keep_frames is {keep_frames}; it must not be negative")
        frames, voice = self._frames(prompt)
        length = len(frames) + length_of(voice)
        holds, what = rows.window_frames, "the model's window holds"
        if self._stepping is not None:
            holds, what = rows.renewable_frames, "a call can be primed with while it is spoken"
        if 1 + length + keep_frames > holds:
            raise PromptError(
                f"the prompt takes {length} frames and {keep_frames} are to be kept; together they must be fewer "
                f"than the {holds} that {what}"
            )
        return frames, voice

    def _frames(self, prompt: Prompt) -> tuple[NDArray[np.int64], VoiceState | None]:
        rows = self._rows
        if prompt.voice and prompt.voice not in rows.voices:
            there = ", ".join(rows.voices) or "none"
            raise PromptError(
                f"no voice {prompt.voice!r} lies beside the weights; there are: {there} (a file of your own is named "
                "by its path, .wav or .pt)"
            )
        spoken, state = told(rows.voices[prompt.voice] if prompt.voice else None, len(rows.layout.silence))
        return rows.layout.frames(rows.tokenizer, prompt.text, spoken), state

    async def step(self, frame: Frame) -> Reply:
        """Hear one frame and say one. Raises EngineError; ValueError if that is no frame."""
        if frame.shape != (FRAME_SAMPLES,) or frame.dtype != np.float32:
            raise ValueError(f"a frame is float32 of shape ({FRAME_SAMPLES},), not {frame.dtype} {frame.shape}")
        speech = self._speech
        forced = speech[0] if speech else None
        step = RowStep(self._row, frame, None if forced is None else forced.token, self._sampling)
        self._check_free(self._stepping)
        self._stepping = self._engine.ask(lambda done: Step(step, done, time.perf_counter()))
        answer: Answer = await self._stepping
        if forced is not None:
            speech.popleft()  # not before it was said: a step that is given up says nothing
        stepped = answer.stepped
        text = self._reader.read(stepped.text) if forced is None else forced.text
        heard = self._listener.read(stepped.heard)
        return Reply(stepped.frame, text, heard, stepped.tokens, stepped.number, answer.waited_s, answer.step_s)

    def _check_free(self, asked: asyncio.Future[Any] | None) -> None:
        if self._closed:
            raise EngineError("the slot is closed")
        if asked is not None and not asked.done():
            raise RuntimeError("a slot is asked for one step at a time, and for one prime")

    def close(self) -> None:
        """The row is given back; who still waits for it, in another task, gets EngineError."""
        self._closed = True
        for asked in (self._stepping, self._priming):
            if asked is not None and not asked.done():
                asked.set_exception(EngineError("the slot is closed"))
