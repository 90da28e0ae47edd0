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
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np

from engine.batch import KeyPrecision
from engine.device import Answers, Command, Free, Open, Rows, Stop, Worker
from engine.load import PREFIX_BYTES, Graphs, load_batch
from engine.localslot import LocalSlot, check_sampling, size_of
from engine.model.weights import Wanted
from engine.prefix import PrefixCounts
from engine.slot import (
    FRAME_SAMPLES,
    SAMPLE_RATE,
    EngineError,
    EngineFull,
    EngineState,
    Prompt,
    PromptSize,
    Sampling,
    Tokens,
)

logger = logging.getLogger(__name__)

CLOSE_S = 1.0
"""Seconds that leaving the engine waits for the thread's last tick."""


class LocalEngine:
    """A checkpoint on a device of this machine. Entering loads it, which takes as long as it takes.

    `model` is a folder or a Hub repository `owner/name[@revision]`; `rows` None is chosen by device; `prompt_style` is
    how a prompt is laid out where the checkpoint does not say; `ear` is what writes down the caller's words: `auto`,
    the one beside the checkpoint, `off`, or a folder or repository; `weights` and `kv` are how the language model's lie
    in memory, and its keys and values. `voices` are those that calls will ask for: paths among them are read, beside
    what lies beside the weights.
    `limit_s` is the longest that a frame may take to its reply: a call that would make it longer is refused; None is
    any time, `auto` that on a CPU and LIMIT_S on a card, whose ticks take as long today as tomorrow.
    `graphs` is whether steps are captured, `auto` on a card. `prefix_bytes` hold what the model remembers of prompts,
    for the next call that begins with the same. `deterministic` and `pins`: `load_batch`.
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
        ear: str = "auto",
        weights: Wanted = "auto",
        kv: KeyPrecision = "full",
        voices: Sequence[str] = (),
        limit_s: float | Literal["auto"] | None = "auto",
        graphs: Graphs = "auto",
        prefix_bytes: int = PREFIX_BYTES,
        deterministic: bool = False,
        pins: bool = False,
        load: Callable[[], Rows] | None = None,
    ) -> None:
        self.state = EngineState.LOADING
        self._model = model
        self._load = load or partial(
            load_batch,
            model,
            rows,
            device,
            prompt_style,
            ear,
            weights,
            kv,
            voices,
            limit_s=limit_s,
            graphs=graphs,
            prefix_bytes=prefix_bytes,
            deterministic=deterministic,
            pins=pins,
        )
        self._commands: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self._waiting: set[asyncio.Future[Any]] = set()
        self._free_rows: list[int] = []
        self._slots: list[LocalSlot] = []  # those that are open, the oldest first
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
    def prompt_style(self) -> str:
        """How a prompt is told: `system` to weights trained on prompts, `text` to others; `none`: not at all."""
        return self._rows.layout.style

    def measure(self, prompt: Prompt) -> PromptSize:
        """What `prompt` costs; no row is taken for it. Raises PromptError if its voice is not there."""
        return size_of(self._rows, prompt)

    @property
    def prefix_counts(self) -> PrefixCounts:
        """How often a call began with a prompt that was known, and what is held of them."""
        return self._rows.prefixes.counts

    @property
    def free(self) -> int:
        """Rows that `open` could give out now."""
        if self.state is not EngineState.READY:
            return 0
        return max(0, self._rows.admission.most() - self._taken)

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
        check_sampling(sampling)
        if not self._free_rows:
            raise EngineFull(f"every one of the {self._rows.rows} rows is taken")
        self._check_in_time(1 + self._taken)
        row = heapq.heappop(self._free_rows)  # the lowest: rows that lie side by side are stepped without copies
        self._commands.put(Open(row, log, sampling))
        slot = LocalSlot(self.ask, self._rows, row, sampling)
        self._slots.append(slot)
        self._make_room()
        try:
            yield slot
        finally:
            slot.close()
            self._slots.remove(slot)
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

    def _make_room(self) -> None:
        """Ears for which there is no time beside so many calls give way, those of the youngest first."""
        hearing = [slot for slot in self._slots if not slot.deaf]
        if not hearing:
            return
        most = self._rows.admission.most_ears(self._taken)
        for slot in hearing[most:]:
            slot.deaf = f"beside {self._taken} calls there is no time for it"
            logger.warning("x row %d: what the caller says is not written down: %s", slot.row, slot.deaf)

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
