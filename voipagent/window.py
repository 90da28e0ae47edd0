"""When a conversation's row is told anew who it is, before it forgets. No I/O and no clock: time is frames.

A row's window is a ring: it forgets the oldest first, and the oldest thing in it is the persona (Moshi paper, section
3.2). So before it is full a shadow of it is primed with the persona, the story so far and the last of its own columns.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

PAUSE_FRAMES = 12
"""So many frames without a word, about a second, are a pause: within a sentence the longest word takes less."""

SOON = 0.75
"""Of the way from due to the hard limit: from here on no pause is waited for before a shadow is begun, so that it is
there in time."""

AGAIN_FRAMES = 60
"""Before what could not be done is tried again."""


@dataclass(frozen=True, slots=True)
class Shares:
    """Parts of the window: where a trim is `due`, and at the latest begun (`hard`); what is kept, what a prompt may be.

    Raises ValueError where the parts contradict each other.
    """

    due: float = 0.8
    hard: float = 0.95
    keep: float = 0.25
    prompt: float = 0.2

    def __post_init__(self) -> None:
        if not 0 < self.due <= self.hard <= 1:
            raise ValueError(f"due ({self.due:g}) must be above 0, and hard ({self.hard:g}) from there to 1")
        if not (self.keep >= 0 and self.prompt > 0 and self.keep + self.prompt <= 0.5):  # nor may one be no number
            raise ValueError(f"keep ({self.keep:g}) and prompt ({self.prompt:g}) must be at most 0.5 together")
        if self.keep + self.prompt >= self.due:
            raise ValueError(
                f"due ({self.due:g}) must be above keep and prompt together ({self.keep + self.prompt:g}): "
                "what a trim leaves would be due at once"
            )


class ContextWindow:
    """How full one row is."""

    def __init__(self, frames: int, shares: Shares) -> None:
        self._frames, self._shares = frames, shares
        self._held = self._quiet = self._stepped = 0
        self._not_before = 0

    @property
    def keep_frames(self) -> int:
        """How many of its last columns a row keeps."""
        return round(self._shares.keep * self._frames)

    @property
    def prompt_frames(self) -> int:
        """How long persona and story may be together."""
        return round(self._shares.prompt * self._frames)

    @property
    def due(self) -> bool:
        """Whether the row is to be trimmed at the next pause."""
        return self._has(self._shares.due)

    @property
    def soon(self) -> bool:
        """Whether the hard limit is so near that the trim is to begin, pause or no pause."""
        return self._has(self._shares.due + SOON * (self._shares.hard - self._shares.due))

    @property
    def must(self) -> bool:
        """Whether it is to be trimmed now, pause or no pause."""
        return self._has(self._shares.hard)

    @property
    def frames_left(self) -> int:
        """How many frames the row may take until it must be trimmed."""
        return max(0, math.ceil(self._shares.hard * self._frames) - self._held)

    def _has(self, share: float) -> bool:
        return self._held >= max(share * self._frames, self._not_before)

    @property
    def paused(self) -> bool:
        """Whether the agent is silent, and not for a word's time."""
        return self._quiet >= PAUSE_FRAMES

    def stepped(self, text: str, *, saying: bool = False) -> None:
        """The row took a frame; `text` is "" where it had no word, `saying`: a given text is not over yet."""
        self._held += 1
        self._stepped += 1
        self._quiet = 0 if text or saying else self._quiet + 1

    def priming(self) -> None:
        """A prime begins. What is stepped from here on is caught up with."""
        self._stepped = 0

    def primed(self, frames: int) -> None:
        """It came about: the row holds these frames, and what was stepped meanwhile."""
        self._held = frames + self._stepped
        self._not_before = 0

    def refused(self) -> None:
        """It did not: the row holds what it held, and is left alone for a while."""
        self._not_before = self._held + AGAIN_FRAMES
