"""An engine that says back what it hears. It ships, so that an agent can be tried without model or torch."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self

import numpy as np

from engine.slot import (
    FRAME_SAMPLES,
    SAMPLE_RATE,
    EngineError,
    EngineFull,
    EngineState,
    Frame,
    Pause,
    Prompt,
    PromptSize,
    Reply,
    Sampling,
    Tokens,
)

WINDOW_FRAMES = 3_000
"""As Moshi's: 240 s."""

STREAMS = 17
"""As Moshi's: text, eight of the agent's codebooks, eight of the caller's."""

LETTERS_A_FRAME = 1.2
"""The pace of forced text: 15 letters a second."""


class EchoSlot:
    """One row: a frame comes back `delay_frames` later. It writes nothing down."""

    window_frames = WINDOW_FRAMES
    hearing_delay_frames = 0
    ear = ""
    deaf = "an echo listens to nobody"

    def __init__(self, delay_frames: int, before_step: Callable[[int], Awaitable[None]] | None) -> None:
        self._waiting = deque([np.zeros(FRAME_SAMPLES, np.float32)] * delay_frames)
        self._before_step = before_step
        self._words: deque[str] = deque()
        self._quiet_frames = 0
        self._number = 0

    def prompt_frames(self, prompt: Prompt) -> int:
        """A frame a word."""
        return len(prompt.text.split())

    async def prime(self, prompt: Prompt, keep_frames: int = 0, pause: Pause | None = None) -> None:
        """Nothing to tell it."""

    async def step(self, frame: Frame) -> Reply:
        """Say back what was heard `delay_frames` ago."""
        began = time.perf_counter()
        if self._before_step is not None:
            await self._before_step(self._number)
        self._waiting.append(frame)
        tokens: Tokens = np.zeros(STREAMS, np.uint16)
        step_s = time.perf_counter() - began
        reply = Reply(self._waiting.popleft(), self._next_text(), "", tokens, self._number, 0.0, step_s)
        self._number += 1
        return reply

    def say(self, text: str) -> None:
        """Give `text` out as a speaker would, a word at a time; the audio stays the echo."""
        first, *rest = text.split() or [""]
        self._words = deque([first, *(f" {word}" for word in rest)] if first else [])
        self._quiet_frames = 0

    @property
    def saying(self) -> bool:
        """Whether words are left."""
        return bool(self._words)

    def sample(self, sampling: Sampling) -> None:
        """Nothing is drawn."""

    def _next_text(self) -> str:
        if self._quiet_frames or not self._words:
            self._quiet_frames = max(0, self._quiet_frames - 1)
            return ""
        word = self._words.popleft()
        self._quiet_frames = round(len(word) / LETTERS_A_FRAME)
        return word


class EchoEngine:
    """`rows` echoes. `before_step(number)` is awaited in each step, so that a test can stall or fail it."""

    sample_rate = SAMPLE_RATE
    frame_samples = FRAME_SAMPLES
    window_frames = WINDOW_FRAMES
    sampling = Sampling()
    revision = "echo"
    prompt_style = "none"

    def __init__(
        self, rows: int, delay_frames: int = 0, before_step: Callable[[int], Awaitable[None]] | None = None
    ) -> None:
        self.free = rows
        self.state = EngineState.LOADING
        self._delay_frames, self._before_step = delay_frames, before_step

    async def __aenter__(self) -> Self:
        self.state = EngineState.READY
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.state = EngineState.DRAINING

    def measure(self, prompt: Prompt) -> PromptSize:
        """A frame a word."""
        words = len(prompt.text.split())
        return PromptSize(words, words)

    @asynccontextmanager
    async def open(self, sampling: Sampling, replay: Tokens | None = None) -> AsyncIterator[EchoSlot]:
        """Reserve a row. Raises EngineFull, EngineError."""
        if self.state is not EngineState.READY:
            raise EngineError(f"the engine is {self.state.value}")
        if self.free == 0:
            raise EngineFull("every row is taken")
        self.free -= 1
        try:
            yield EchoSlot(self._delay_frames, self._before_step)
        finally:
            self.free += 1
