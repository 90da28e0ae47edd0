"""Whether the model is stuck: silent though it is waited for, saying the same again and again, or never pausing.

Counted on the words alone, in frames. Who finds one has the row primed anew; the call goes on.
"""

from __future__ import annotations

from collections import deque
from enum import Enum

from pydantic import Field

from voipagent.kinds import Section

FRAME_S = 0.08

PAUSE_FRAMES = 12
"""Without a word for so long, about a second: what comes next is said anew."""

REPEATS, LOOP_PIECES, LONGEST_LOOP = 3, 15, 24
"""A loop is the same run of pieces so often, so many pieces in all; longer ones are not looked for."""

SPOKEN_FRAMES, PIECE_FRAMES = 6, 3
"""So many frames in which the caller spoke are a turn that wants an answer; "mm-hm" is not. A piece that an ear wrote
stands for so many of them."""

FORGOTTEN_S = 3.0
"""After so long what was no turn is forgotten: a click now and then is never one."""

AGAIN_S = 20.0
"""After one was found the next is not looked for so long: what was primed anew has to begin."""


class Trouble(Enum):
    """What is wrong."""

    DEAD_AIR = "dead air"
    LOOP = "loop"
    RUNAWAY = "runaway"


class WatchdogSettings(Section):
    """A model that is stuck is told anew who it is."""

    dead_air: float = Field(
        default=12, ge=0, description="seconds that a caller who said something waits for a word; 0: for ever"
    )
    runaway: float = Field(default=60, ge=0, description="seconds of speech without a pause; 0: any length")
    loops: bool = Field(default=True, description="whether saying the same three times without a pause is noticed")


class Watchdog:
    """Told of each step of one call; names a trouble once, when it is found."""

    def __init__(self, settings: WatchdogSettings) -> None:
        self._settings = settings
        self._pieces: deque[str] = deque(maxlen=REPEATS * LONGEST_LOOP)
        self._unanswered = self._waited = self._talked = self._quiet = 0
        self._leave = 0

    def stepped(self, text: str, *, spoke: int, saying: bool = False) -> Trouble | None:
        """Take a frame: the agent's piece of text, "" if none; in how many frames, as known by now, the caller `spoke`.

        With `saying` it is a given text, in which nothing is wrong. Returns what was found.
        """
        self._leave = max(0, self._leave - 1)
        self._listen(text, spoke)
        self._follow("" if saying else text)
        found = None if saying or self._leave else self._found()
        if found is not None:
            self._pieces.clear()
            self._unanswered = self._waited = self._talked = 0
            self._leave = round(AGAIN_S / FRAME_S)
        return found

    def _listen(self, text: str, spoke: int) -> None:
        """How long the caller waits for an answer."""
        if text:
            self._unanswered = self._waited = 0
        elif spoke:
            self._unanswered, self._waited = self._unanswered + spoke, 0
        else:
            self._waited += 1
            if not self._asked and self._waited * FRAME_S >= FORGOTTEN_S:
                self._unanswered = 0

    @property
    def _asked(self) -> bool:
        return self._unanswered >= SPOKEN_FRAMES

    def _follow(self, text: str) -> None:
        """What was said since the last pause, and for how long."""
        self._quiet = 0 if text else self._quiet + 1
        if self._quiet >= PAUSE_FRAMES:
            self._pieces.clear()
            self._talked = 0
        elif text or self._talked:
            self._talked += 1
        if text:
            self._pieces.append(text)

    def _found(self) -> Trouble | None:
        settings = self._settings
        if settings.dead_air and self._asked and self._waited * FRAME_S >= settings.dead_air:
            return Trouble.DEAD_AIR
        if settings.loops and self._pieces and self._quiet == 0 and self._loops():
            return Trouble.LOOP
        if settings.runaway and self._talked * FRAME_S >= settings.runaway:
            return Trouble.RUNAWAY
        return None

    def _loops(self) -> bool:
        """Whether the last pieces are one run, said over and over."""
        pieces = list(self._pieces)
        return any(_repeats(pieces, length) for length in range(1, min(LONGEST_LOOP, len(pieces) // REPEATS) + 1))


def _repeats(pieces: list[str], length: int) -> bool:
    """Whether they end on a run of `length`, said often enough and long enough."""
    span = max(REPEATS * length, LOOP_PIECES)
    return len(pieces) >= span and all(
        pieces[-number] == pieces[-number - length] for number in range(1, span - length + 1)
    )
