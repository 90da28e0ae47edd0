"""One recorded human who took no part in training: the prompts of a telephone exchange, as Debian packages them.

`asterisk-core-sounds-en-wav` (CC-BY-SA 3.0) is used to test with only. A folder of WAV files of 8 kHz, 16 bits; the
digits are in `digits`.
"""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np

from engine.pocket.recipe.channel import resampled
from engine.pocket.recipe.domain import load_domain
from engine.pocket.recipe.formats import Audio
from engine.pocket.recipe.voices import LEVEL, audible, speech_level
from engine.slot import SAMPLE_RATE

SENTENCE_S = (1.8, 5.0)
"""Of a prompt that is a sentence, not a word."""

PAUSE_S = 0.08
"""Between digits."""


def there(folder: Path) -> bool:
    return (folder / "digits" / "0.wav").is_file()


def number(folder: Path, random: np.random.Generator) -> tuple[str, Audio]:
    """Three digits, as words and as sound."""
    digits = random.integers(0, 10, 3).tolist()
    pause = np.zeros(int(PAUSE_S * SAMPLE_RATE), np.float32)
    sound = [part for digit in digits for part in (_trimmed(read(folder / "digits" / f"{digit}.wav")), pause)]
    return " ".join(load_domain().lists["digit"][digit] for digit in digits), np.concatenate(sound)


def sentences(folder: Path, most: int) -> list[tuple[str, Audio]]:
    """Names and sounds of prompts that have nothing to do with the agent's work."""
    found = []
    for path in sorted(folder.glob("*.wav")):
        audio = _trimmed(read(path))
        if SENTENCE_S[0] <= len(audio) / SAMPLE_RATE <= SENTENCE_S[1]:
            found.append((path.stem, audio))
    return [found[int(place)] for place in np.linspace(0, len(found) - 1, min(most, len(found)))]


def read(path: Path) -> Audio:
    """At the agent's rate, as loud as callers are. Raises ValueError where it is no such file."""
    try:
        with wave.open(str(path)) as file:
            form = file.getframerate(), file.getsampwidth(), file.getnchannels()
            data = file.readframes(file.getnframes())
    except (OSError, EOFError, wave.Error) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    if form != (8_000, 2, 1):
        raise ValueError(f"{path} has {form[0]} Hz, {8 * form[1]} bits and {form[2]} channels; 8000, 16 and 1 are read")
    audio = resampled(np.frombuffer(data, "<i2").astype(np.float32) / 32_768, SAMPLE_RATE)
    return np.asarray(audio * (LEVEL / (speech_level(audio) + 1e-6)), np.float32)


def _trimmed(audio: Audio) -> Audio:
    start_s, end_s = audible(audio)
    return audio[int(start_s * SAMPLE_RATE) : int(end_s * SAMPLE_RATE)]
