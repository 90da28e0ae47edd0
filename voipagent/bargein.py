"""Whether the caller speaks over the agent's forced words.

While the greeting is forced into the text stream the model cannot yield by itself, so its words are stopped for it. In
the conversation the model alone decides who speaks; a level is looked at here, and to tell whether a caller whose words
nobody writes down waits for an answer.
"""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

SPEECH_LEVEL = 0.02
"""RMS of a frame that counts as speech, about -34 dBov: above line noise, below a quiet talker."""

ECHO_SHARE = 0.5
"""A caller's frame must also be this loud beside what we lately played, or it may be our own echo (up to -6 dB)."""

ECHO_FRAMES = 6
"""How long an echo may be on its way: 480 ms covers a mobile phone on the far side of the world."""

SPOKEN_FRAMES = 4
"""How many speech frames out of the last WINDOW_FRAMES are a barge-in: 320 ms, longer than a cough."""

WINDOW_FRAMES = 5


class Level:
    """Fed with each frame heard and played: whether the caller speaks in it, by level alone."""

    def __init__(self) -> None:
        self._played: deque[float] = deque([0.0], maxlen=ECHO_FRAMES)

    def hear(self, heard: NDArray[np.float32], played: NDArray[np.float32]) -> bool:
        """Take one frame's time; whether it is louder than noise of the line, and than our own echo may be."""
        self._played.append(_rms(played))
        return _rms(heard) > max(SPEECH_LEVEL, ECHO_SHARE * max(self._played))


class BargeIn:
    """Fed with each frame heard and played while the agent's words are forced."""

    def __init__(self) -> None:
        self._level = Level()
        self._spoken: deque[bool] = deque(maxlen=WINDOW_FRAMES)

    def hear(self, heard: NDArray[np.float32], played: NDArray[np.float32]) -> bool:
        """Take one frame's time; True once the caller has barged in."""
        self._spoken.append(self._level.hear(heard, played))
        return sum(self._spoken) >= SPOKEN_FRAMES


def _rms(samples: NDArray[np.float32]) -> float:
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64)))) if samples.size else 0.0
