"""A row of the engine in this process, as its conversation holds it."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from engine.batch import RowStep
from engine.device import Answer, Command, Prime, Rows, Step
from engine.drawing import NOISE_WIDTH
from engine.model.sampling import SEEDS
from engine.model.text import EPAD, PAD, Forced, TextReader, schedule
from engine.model.voice import VoiceState, length_of, told
from engine.slot import FRAME_SAMPLES, EngineError, Frame, Pause, Prompt, PromptError, PromptSize, Reply, Sampling

Ask: TypeAlias = Callable[[Callable[[asyncio.Future[Any]], Command]], asyncio.Future[Any]]
"""Takes what makes a command of a future, and gives that future."""


def check_sampling(sampling: Sampling) -> None:
    """Raises ValueError if it makes no sense."""
    for name in ("text", "audio"):
        temperature, top_k = getattr(sampling, f"{name}_temperature"), getattr(sampling, f"{name}_top_k")
        if not 0 <= temperature < float("inf"):
            raise ValueError(f"{name}_temperature is {temperature}; it must be 0 (greedy) or a number above it")
        if not 1 <= top_k <= NOISE_WIDTH:
            raise ValueError(f"{name}_top_k is {top_k}; it must be 1 to {NOISE_WIDTH}")
    if not 0 <= sampling.seed < SEEDS:
        raise ValueError(f"seed is {sampling.seed}; it must be 0 to {SEEDS - 1}")


class LocalSlot:
    """One row, until it is closed. What is to be said and how to draw is kept here, on the loop.

    `ask` puts a command on the queue of the thread that owns `rows`; it raises EngineError once that is gone.
    """

    def __init__(self, ask: Ask, rows: Rows, row: int, sampling: Sampling) -> None:
        self._ask, self._rows, self.row = ask, rows, row
        self._sampling = sampling
        self._reader, self._listener = TextReader(rows.tokenizer), TextReader(rows.hearing.tokenizer)
        self.deaf = "" if row < rows.hearing.rows else rows.hearing.deaf
        """Why nothing writes down what the caller says; "" while something does."""
        self.ear = rows.hearing.revision if row < rows.hearing.rows else ""
        """What does, or did."""
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
        return self._rows.hearing.delay_frames if self.ear else 0

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
        check_sampling(sampling)
        self._sampling = sampling

    def prompt_frames(self, prompt: Prompt) -> int:
        """How many frames of the window `prompt` takes. Raises PromptError if its voice is not there."""
        return size_of(self._rows, prompt).frames

    async def prime(self, prompt: Prompt, keep_frames: int = 0, pause: Pause | None = None) -> None:
        """Run the prompt through the row, and its own last `keep_frames` columns; a live row is that from a `pause` on.

        Raises PromptError, EngineError.
        """
        frames, voice = self._lay_out(prompt, keep_frames)
        self._check_free(self._priming)
        sampling, pinned = self._sampling, prompt.pinned
        self._priming = self._ask(
            lambda done: Prime(self.row, frames, voice, keep_frames, sampling, done, pause, pinned)
        )
        await self._priming

    def _lay_out(self, prompt: Prompt, keep_frames: int) -> tuple[NDArray[np.int64], VoiceState | None]:
        rows = self._rows
        if keep_frames < 0:
            raise ValueError(f"keep_frames is {keep_frames}; it must not be negative")
        frames, voice = _frames(rows, prompt)
        length = len(frames) + length_of(voice)
        holds, what = rows.window_frames, "the model's window holds"
        if self._stepping is not None:
            holds, what = rows.renewable_frames, "a call can be primed with while it is spoken"
        if 1 + length + keep_frames > holds:
            raise PromptError(
                f"the prompt takes {length} frames and {keep_frames} are to be kept; together they must be fewer "
                f"than the {holds} that {what}"
            )
        if prompt.pinned:
            self._check_pinned(length)
        return frames, voice

    def _check_pinned(self, length: int) -> None:
        if not self._rows.pins:
            raise PromptError("no prompt can be pinned here: the engine was not made for it")
        if self._stepping is not None:
            raise PromptError("a prompt is pinned before the call begins, and this one has begun")
        if 1 + length > (most := self._rows.window_frames // 2):
            raise PromptError(
                f"the prompt takes {length} frames; pinned, it must be fewer than {most}, half the window"
            )

    async def step(self, frame: Frame) -> Reply:
        """Hear one frame and say one. Raises EngineError; ValueError if that is no frame."""
        if frame.shape != (FRAME_SAMPLES,) or frame.dtype != np.float32:
            raise ValueError(f"a frame is float32 of shape ({FRAME_SAMPLES},), not {frame.dtype} {frame.shape}")
        speech = self._speech
        forced = speech[0] if speech else None
        step = RowStep(self.row, frame, None if forced is None else forced.token, self._sampling, not self.deaf)
        self._check_free(self._stepping)
        self._stepping = self._ask(lambda done: Step(step, done, time.perf_counter()))
        answer: Answer = await self._stepping
        if forced is not None:
            speech.popleft()  # not before it was said: a step that is given up says nothing
        stepped = answer.stepped
        text = self._reader.read(stepped.text) if forced is None else forced.text
        heard = self._listener.read(stepped.heard)
        return Reply(
            stepped.frame,
            text,
            heard,
            stepped.tokens,
            stepped.number,
            answer.waited_s,
            answer.step_s,
            stepped.heard == EPAD,
            stepped.quiet,
        )

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


def size_of(rows: Rows, prompt: Prompt) -> PromptSize:
    """What `prompt` costs. Raises PromptError if its voice is not there."""
    frames, voice = _frames(rows, prompt)
    return PromptSize(int((frames[:, 0] != PAD).sum()), len(frames) + length_of(voice))


def _frames(rows: Rows, prompt: Prompt) -> tuple[NDArray[np.int64], VoiceState | None]:
    if prompt.voice and prompt.voice not in rows.voices:
        there = ", ".join(rows.voices) or "none"
        raise PromptError(
            f"no voice {prompt.voice!r} lies beside the weights; there are: {there} (a file of your own is named "
            "by its path, .wav or .pt)"
        )
    spoken, state = told(rows.voices[prompt.voice] if prompt.voice else None, len(rows.layout.silence))
    return rows.layout.frames(rows.tokenizer, prompt.text, spoken), state
