"""Keeps a call going for longer than the model's window: tells the row anew who it is, while it talks."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Never, TypeVar

from engine.slot import EngineFull, Pause, Prompt, PromptError, Reply, Slot
from voipagent.context import Line
from voipagent.events import Trimmed
from voipagent.story import Story, Telling, carried, extract, tell_all
from voipagent.summary import LINES, Extractive, Summarizer, SummaryError
from voipagent.window import PAUSE_FRAMES, ContextWindow, Shares

logger = logging.getLogger(__name__)

T = TypeVar("T")

TOLD_TRIMS = 50
"""Of the last so many trims of a call it is kept what the row was told."""


@dataclass(frozen=True, slots=True)
class Trim:
    """One trim, as the record tells of it. `at` and `took_s` are seconds, from the answer and of the wall.

    `why` is what the row was replaced for, or where: a watchdog's finding; a "pause"; without one, the "hard limit", or
    "no room" to wait for either.
    """

    at: float
    why: str
    took_s: float
    kept_frames: int
    prompt_frames: int
    summary: str
    error: str = ""


@dataclass(frozen=True)
class Memory:
    """How calls are kept going: when, with whose summary, and how it is told. The same for every call.

    `pinned`: they are not trimmed, and the rows never forget their prompts.
    """

    shares: Shares = field(default_factory=Shares)
    tell: Telling = tell_all
    summarizer: Summarizer = field(default_factory=Extractive)
    pinned: bool = False


@dataclass
class Trimmer:
    """Runs beside a conversation; the conversation tells it of each step.

    `prompt` is what the row was primed with, `lines` gives what has been said so far, `seconds` the time of the call.
    `tell` hears of each trim; `trims` fills with what was done, for the record.
    """

    slot: Slot
    memory: Memory
    prompt: Prompt
    lines: Callable[[], Sequence[Line]]
    seconds: Callable[[], float]
    tell: Callable[[Trimmed], None] = lambda _: None
    trims: list[Trim] = field(default_factory=list)
    story: Story = field(default_factory=Story)

    def __post_init__(self) -> None:
        self._moved = asyncio.Event()
        self._wanted: tuple[str, bool] | None = None
        self._summed = "", -math.inf
        self.window = ContextWindow(self.slot.window_frames, self.memory.shares)
        self.window.primed(self.slot.prompt_frames(self.prompt))

    def stepped(self, reply: Reply, *, saying: bool) -> None:
        """The row took a frame."""
        self.window.stepped(reply.text, saying=saying)
        self._moved.set()

    def renew(self, why: str, *, keep: bool) -> None:
        """Trim now, for this reason; what was said last is kept only with `keep`."""
        self._wanted = why, keep
        self._moved.set()

    async def run(self) -> Never:
        """Trim whenever it is due or wanted, until cancelled. Raises EngineError if the engine died."""
        while True:
            await self._until(lambda: self.window.due or self._wanted is not None)
            error = "" if self._wanted else await self._summarize()
            await self._until(lambda: self.window.paused or self._is_late())
            if self._wanted:
                self.story = self._found_here()
            await self._trim(error)

    def _is_late(self) -> bool:
        return self.window.soon or self._wanted is not None

    def _found_here(self) -> Story:
        """The facts as they are now; what was summed up last, and the last words that were said since."""
        lines, (text, until) = self.lines(), self._summed
        since = extract([line for line in lines[-LINES:] if line.end > until])
        facts = carried(self.story, extract(lines[-LINES:])).facts
        return Story(facts, f"{text} {since.text}".strip())

    async def _until(self, holds: Callable[[], bool]) -> None:
        while not holds():
            self._moved.clear()
            await self._moved.wait()

    async def _before(self, holds: Callable[[], bool], work: Coroutine[Any, Any, T]) -> T:
        """What `work` gives. Raises TimeoutError if `holds` comes first: it is given up then."""
        done, limit = asyncio.ensure_future(work), asyncio.ensure_future(self._until(holds))
        try:
            await asyncio.wait({done, limit}, return_when=asyncio.FIRST_COMPLETED)
            if not done.done():
                raise TimeoutError
            return done.result()
        finally:
            done.cancel()
            limit.cancel()

    async def _summarize(self) -> str:
        """Have the story told while speech goes on, but not for too long. What failed, "" if nothing did."""
        lines = self.lines()
        try:
            self.story = await self._before(self._is_late, self.memory.summarizer.summarize(self.story, lines))
            self._summed = self.story.text, max((line.end for line in lines), default=-math.inf)
        except (SummaryError, TimeoutError) as failure:
            error = str(failure) or "the summary was not there in time"
            logger.warning("x %s; the call goes on with the facts found here", error)
            self.story = self._found_here()
            return error
        return ""

    async def _trim(self, error: str) -> None:
        """Have a shadow primed, and the row become it: in a pause, or at once if that is wanted."""
        why, kept = self._wanted or (self._why_now(), True)
        pause = None if self._wanted else Pause(PAUSE_FRAMES, self.window.frames_left)
        self._wanted = None
        began, at, keep = time.monotonic(), self.seconds(), self.window.keep_frames if kept else 0
        prompt, frames = self._fit(self.story)
        self.window.priming()
        try:
            await self._before(lambda: self._wanted is not None, self.slot.prime(prompt, keep, pause))
        except TimeoutError:
            return  # the model is stuck meanwhile; what is wanted now replaces this
        except (EngineFull, PromptError) as failure:
            logger.warning("x not trimmed, later again: %s", failure)
            self.window.refused()
            error = str(failure)
        else:
            why = self._why_now() if pause else why
            self.window.primed(frames + keep)
        took = round(time.monotonic() - began, 4)
        self.trims.append(Trim(round(at, 3), why, took, keep, frames, str(self.story), error))
        if len(self.trims) > TOLD_TRIMS:  # of a call that never ends
            self.trims[-TOLD_TRIMS - 1] = replace(self.trims[-TOLD_TRIMS - 1], summary="")
        self.tell(Trimmed(round(at, 3), why, error))

    def _why_now(self) -> str:
        return "pause" if self.window.paused else "hard limit" if self.window.must else "no room"

    def _fit(self, story: Story) -> tuple[Prompt, int]:
        """The prompt that tells the most of `story` within its share of the window, and its frames."""
        left: Story | None = story
        while left is not None:
            prompt = Prompt(self.memory.tell(self.prompt.text, left), self.prompt.voice)
            frames = self.slot.prompt_frames(prompt)
            if frames <= self.window.prompt_frames:
                return prompt, frames
            left = left.shorter()
        return self.prompt, self.slot.prompt_frames(self.prompt)
