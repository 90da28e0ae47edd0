"""A caller who says prepared sentences, each when its moment has come. No I/O and no clock: time is what it hears."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Pcm16 = NDArray[np.int16]

LOUD = 300
"""A sample above this is somebody talking; G.711 makes silence of at most 8."""

PAUSE_S = 0.6
"""Silence that is the end of what was said, and not between two words."""

PATIENCE_S = 8.0
"""Whoever hears nothing for so long says the next sentence in any case, or hangs up."""

LONGEST_S = 60.0
"""Whoever is talked to for so long without a pause does, too."""


@dataclass(frozen=True)
class Turn:
    """`audio` is said once the agent has been `quiet` for so long after it spoke, or has been `talking` for so long."""

    audio: Pcm16
    when: Literal["quiet", "talking"] = "quiet"
    seconds: float = 1.0


class Caller:
    """Hears and says audio of one rate, piece by piece. `over` once the last answer has been heard out."""

    def __init__(self, turns: Sequence[Turn], rate: int) -> None:
        self._turns, self._rate = deque(turns), rate
        self._saying: Iterator[Pcm16] | None = None
        self._talked_s = self._quiet_s = self._waited_s = 0.0
        self._heard_any = False
        self.over = False
        self.first_sound_s: float | None = None
        self._heard_s = 0.0

    def hear(self, audio: Pcm16) -> None:
        """What came from the agent, 20 ms or so."""
        seconds = len(audio) / self._rate
        self._heard_s += seconds
        if np.abs(audio.astype(np.int32)).max(initial=0) > LOUD:
            if self.first_sound_s is None:
                self.first_sound_s = self._heard_s
            self._talked_s += seconds + (self._quiet_s if self._talked_s else 0.0)
            self._quiet_s, self._heard_any = 0.0, True
            self._waited_s = 0.0
        else:
            self._quiet_s += seconds
            if self._quiet_s > PAUSE_S:
                self._talked_s = 0.0

    def say(self, samples: int) -> Pcm16:
        """The next piece, silence between sentences."""
        if self._saying is None and self._due(samples / self._rate):
            audio = self._turns.popleft().audio
            self._saying = iter(np.split(audio, range(samples, len(audio), samples)))
        said = np.zeros(samples, np.int16)
        if self._saying is not None:
            piece = next(self._saying, None)
            if piece is None:
                self._end_turn()
            else:
                said[: len(piece)] = piece
        return said

    def _end_turn(self) -> None:
        """Whatever the agent still said meanwhile was no answer."""
        self._saying, self._heard_any = None, False
        self._quiet_s = self._waited_s = 0.0

    def _due(self, seconds: float) -> bool:
        self._waited_s += seconds
        patient = self._waited_s < PATIENCE_S and self._talked_s < LONGEST_S
        if not self._turns:
            self.over = self.over or not patient or (self._heard_any and self._quiet_s > 2 * PAUSE_S)
            return False
        turn = self._turns[0]
        if turn.when == "talking":
            return self._talked_s >= turn.seconds or not patient
        return (self._heard_any and self._quiet_s >= turn.seconds) or not patient
