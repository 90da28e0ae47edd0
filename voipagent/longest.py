"""How long the agent talks to a caller, and how it ends that: with a goodbye, and for certain. No I/O and no clock."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

GOODBYE_S = 15.0
"""Seconds that a goodbye may take, or whatever weights make of it that cannot say it."""

TAIL_S = 1.2
"""After its last word's text: the word is still to be heard."""


class Act(Enum):
    """What is to be done."""

    SAY = "say goodbye"
    HANG_UP = "hang up"


@dataclass
class Longest:
    """One call's. `seconds` None: there is no limit; `goodbye` "": nothing is said."""

    seconds: float | None = None
    goodbye: str = ""

    def __post_init__(self) -> None:
        self._began: float | None = None  # when the goodbye did, in seconds of the call
        self._said: float | None = None  # when its text was over

    @property
    def reason(self) -> str:
        """Why it ended."""
        return f"the call lasted {self.seconds or 0:g} s, which is the longest allowed"

    def passed(self, now: float, *, saying: bool, held: bool = False) -> Act | None:
        """A frame's time has passed; `saying`: a given text is not over yet, `held`: nobody would hear one."""
        if self.seconds is None or now < self.seconds:
            return None
        if held or not self.goodbye:
            return Act.HANG_UP
        if self._began is None:
            self._began = now
            return Act.SAY
        if saying:
            self._said = None
        elif self._said is None:
            self._said = now
        over = self._said is not None and now - self._said >= TAIL_S
        return Act.HANG_UP if over or now - self._began >= GOODBYE_S else None
