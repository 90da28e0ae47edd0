"""hibari's voice "heart": the agent's, and, warped, many callers'."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.pocket.recipe import letters
from engine.pocket.recipe.callers import Caller
from engine.pocket.recipe.formats import Audio
from engine.pocket.recipe.synthesis import Spoken

DURATIONS = "/Round_output_0"
"""The node of hibari's graph that holds how long each letter lasts."""


class Heart:
    """hibari's voice "heart", which also says where each phone is. Raises SynthesisError."""

    def __init__(self) -> None:
        self._tts = letters.hibari_voice()
        self._session = letters.session(Path(self._tts.model_path).read_bytes(), DURATIONS)

    def speak(self, text: str, speed: float = 1.0) -> Spoken:
        """The same sound every time. Raises SynthesisError if the words cannot be told apart in it."""
        return letters.speak(text, lambda written: self._sentence(written, speed))

    def _sentence(self, written: str, speed: float) -> tuple[Audio, NDArray[Any]]:
        given = {"ids": np.array([self._tts.ids(written)], np.int64), "speed": np.array([speed], np.float32)}
        names = [output.name for output in self._session.get_outputs()]
        values = dict(zip(names, self._session.run(None, given), strict=True))
        parts = [values[name][0] for name in ("lh", "theta", "ln", "lr", "phi", "f0")]
        synthesise = letters.installed("hibari.tts").dsp.synth
        audio: Audio = synthesise(*parts, np.random.default_rng(0))
        return audio, values[DURATIONS]


@cache
def heart_voice() -> Heart:
    return Heart()


def heart(text: str, caller: Caller) -> Spoken:
    """By hibari."""
    return heart_voice().speak(text, 1 / (caller.stretch * caller.size))
