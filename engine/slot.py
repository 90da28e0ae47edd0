"""The engine's nouns: what a conversation may ask of the model, and what it gets back.

Standard library and numpy only. `EngineError` is the root of everything the engine raises on purpose:

    EngineError            the engine failed; the conversation cannot go on
    ├── EngineFull         no row is free, or one more would make the others late
    ├── PromptError        the prompt does not fit the row's window, or its voice is not there
    └── CheckpointError    weights, tokenizer or config.json cannot be used; says which and why
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import Enum
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE = 24_000
"""Hz. Mimi's rate, and so the rate of every `Frame`."""

FRAME_SAMPLES = 1_920
"""Samples in a frame: 80 ms at 24 kHz, the model's heartbeat of 12.5 Hz."""

Frame: TypeAlias = NDArray[np.float32]
"""Mono float32 of shape (1920,) in [-1, 1]. Handed over, then never written again."""

Tokens: TypeAlias = NDArray[np.uint16]
"""One column, shape (K,): text, the agent's codes, the caller's codes."""


class EngineError(Exception):
    """The engine failed; the conversation cannot go on."""


class EngineFull(EngineError):
    """No row is free, or one more would make the others late."""


class PromptError(EngineError):
    """The prompt does not fit the row's window, or its voice is not there; the message says what would."""


class CheckpointError(EngineError):
    """A checkpoint cannot be used; the message names the file, tensor or field, and what would be right."""


class EngineState(Enum):
    """Life of an engine: it loads once, serves, and then drains or fails for good."""

    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"
    DRAINING = "draining"


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the row is told before it listens: persona text, and the name of a voice ("" = the weights' own).

    `pinned`: the row never forgets it, however long it is stepped; it forgets the oldest behind it.
    """

    text: str = ""
    voice: str = ""
    pinned: bool = False


@dataclass(frozen=True, slots=True)
class PromptSize:
    """What a prompt costs: text tokens, those of its tags too, and the frames of a row's window that they take, with a
    voice and the silence around them."""

    tokens: int
    frames: int


@dataclass(frozen=True, slots=True)
class Pause:
    """When a live row may become what was primed beside it: once it has made no word for `quiet_frames`, or given text;
    and anywhere once it has been stepped for `latest_frames` since the prime was asked for."""

    quiet_frames: int
    latest_frames: int


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn (Moshi paper, section 3.4; the defaults are the reference's).

    A temperature of 0 means greedy. The same seed, prompt and frames give the same reply.
    """

    text_temperature: float = 0.7
    text_top_k: int = 25
    audio_temperature: float = 0.8
    audio_top_k: int = 250
    seed: int = 0

    @property
    def greedy(self) -> bool:
        """Whether nothing is drawn, but the likeliest taken."""
        return self.text_temperature <= 0 and self.audio_temperature <= 0


@dataclass(frozen=True, slots=True)
class Reply:
    """What one step gave back.

    `text` is "" on PAD; it is told as soon as it is made, a frame before its sound. `heard` is what the caller
    said `Slot.hearing_delay_frames` ago, "" where that is nothing, or nobody writes it down; `word_due`: there a word
    of theirs is about to begin. `quiet` is how likely it is that the caller says nothing in the next 0.5, 1, 2 and 3 s,
    or whatever the ear was taught to look for; empty where it was not. `tokens` is the column of
    the step, with the codes of the caller's frame that it heard: those of all replies of a call, (T, K), are its log,
    which `Engine.open` takes as `replay`. `number` is the frame of the call, from 0. `waited_s` is the time in the
    queue, `step_s` the time in the model.
    """

    frame: Frame
    text: str
    heard: str
    tokens: Tokens
    number: int
    waited_s: float
    step_s: float
    word_due: bool = False
    quiet: tuple[float, ...] = ()


class Slot(Protocol):
    """One conversation's place in the batch, for as long as `Engine.open` is entered."""

    @property
    def window_frames(self) -> int:
        """How many frames the row's context holds."""

    @property
    def hearing_delay_frames(self) -> int:
        """How far `Reply.heard` lies behind the sound; 0 where nobody writes down what the caller says."""

    @property
    def ear(self) -> str:
        """What writes down what the caller says, exactly enough to repeat it; "" where nothing ever did."""

    @property
    def deaf(self) -> str:
        """Why nothing writes down what the caller says; "" while something does. An ear that gave way stays away."""

    def prompt_frames(self, prompt: Prompt) -> int:
        """How many frames of the window `prompt` takes. Raises PromptError if its voice is not there."""

    async def prime(self, prompt: Prompt, keep_frames: int = 0, pause: Pause | None = None) -> None:
        """Run the prompt through the row, followed by the row's own last `keep_frames` columns. One at a time.

        A row that was never stepped waits for it. One that was is stepped on meanwhile, by another task, as if nothing
        were; this returns once what it remembers has been replaced, by the same and what was said since: as soon as can
        be, or in a `pause`. (Sooner where room runs short, or another row, whose time is up, waits to be primed.) A
        prime that is given up still comes about, unless the next replaces it.

        Raises EngineError if the engine died meanwhile, EngineFull if the device's memory does not hold the row,
        PromptError if the prompt does not fit the window.
        """

    async def step(self, frame: Frame) -> Reply:
        """Hear one frame and say one. One call at a time. Raises EngineError if the engine, or this row, has failed."""

    def say(self, text: str) -> None:
        """Force `text` into the text stream from the next step on, at a speakable pace.

        The audio is sampled as ever. A new text replaces what is left of the last one; "" stops it.
        """

    @property
    def saying(self) -> bool:
        """Whether forced text is still to come."""

    def sample(self, sampling: Sampling) -> None:
        """Use `sampling` from the next step on."""


class Engine(Protocol):
    """Rows of one model. `open` is how a conversation gets one."""

    @property
    def sample_rate(self) -> int:
        """Hz."""

    @property
    def frame_samples(self) -> int:
        """Samples in a frame."""

    @property
    def window_frames(self) -> int:
        """Frames a row's context holds."""

    @property
    def revision(self) -> str:
        """What is loaded, exactly enough to repeat a call."""

    @property
    def sampling(self) -> Sampling:
        """How the weights are meant to be drawn from."""

    @property
    def free(self) -> int:
        """Rows that `open` could give out now."""

    @property
    def state(self) -> EngineState:
        """Whether it can be asked for anything."""

    @property
    def prompt_style(self) -> str:
        """How a prompt is told: `system` to weights trained on prompts, `text` to others; `none`: not at all."""

    def measure(self, prompt: Prompt) -> PromptSize:
        """What `prompt` costs; no row is taken for it. Raises PromptError if its voice is not there."""

    def open(self, sampling: Sampling, replay: Tokens | None = None) -> AbstractAsyncContextManager[Slot]:
        """Reserve a row while entered; with `replay` (T, K) rebuild it from a call's columns.

        Entering raises EngineFull if there is no row, EngineError if the engine is not READY.
        """
