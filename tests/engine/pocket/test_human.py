"""Recorded prompts are read as an exchange stores them."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
import pytest

from engine.pocket.recipe import human


def write(path: Path, seconds: float, rate: int = 8_000) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    sound = 6_000 * np.sin(np.arange(int(seconds * rate)) * 0.3)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.pad(sound, (800, 800)).astype("<i2").tobytes())


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    for digit in range(10):
        write(tmp_path / "digits" / f"{digit}.wav", 0.2 + 0.02 * digit)
    for name, seconds in (("word", 0.5), ("sentence", 2.5), ("speech", 9.0)):
        write(tmp_path / f"{name}.wav", seconds)
    return tmp_path


def test_numbers_are_joined_from_digits(prompts: Path) -> None:
    assert human.there(prompts) and not human.there(prompts / "digits")
    text, audio = human.number(prompts, np.random.default_rng(0))
    names = "zero one two three four five six seven eight nine".split()
    length = sum(0.2 + 0.02 * names.index(word) for word in text.split()) + 3 * human.PAUSE_S
    assert len(text.split()) == 3
    assert len(audio) / 24_000 == pytest.approx(length, abs=0.1)


def test_only_sentences_are_chosen(prompts: Path) -> None:
    ((name, audio),) = human.sentences(prompts, 5)
    assert name == "sentence" and len(audio) / 24_000 == pytest.approx(2.5, abs=0.1)


def test_a_file_of_another_form_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "fast.wav", 1, 16_000)
    with pytest.raises(ValueError, match="16000 Hz"):
        human.read(tmp_path / "fast.wav")
    (tmp_path / "torn.wav").write_bytes(b"RIFF")
    with pytest.raises(ValueError, match="cannot be read"):
        human.read(tmp_path / "torn.wav")
