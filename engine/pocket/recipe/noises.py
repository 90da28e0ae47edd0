"""What a caller's telephone also carries and the agent is to take no notice of: coughs, knocks, music, tones."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from engine.pocket.recipe.formats import Audio
from engine.pocket.recipe.voices import LEVEL
from engine.slot import SAMPLE_RATE

DTMF_ROWS_HZ = (697, 770, 852, 941)
DTMF_COLUMNS_HZ = (1209, 1336, 1477, 1633)
SCALE = (0, 2, 4, 5, 7, 9, 11)
"""Semitones of a major scale."""


def cough(random: np.random.Generator) -> Audio:
    """One to three bursts of throat-shaped noise."""
    return np.concatenate([_burst(random, random.uniform(0.12, 0.3), 700, 2_500) for _ in range(random.integers(1, 4))])


def knock(random: np.random.Generator) -> Audio:
    """A door, a cup, a click of keys."""
    return np.concatenate([_burst(random, random.uniform(0.03, 0.1), 150, 5_000) for _ in range(random.integers(1, 6))])


def breath(random: np.random.Generator) -> Audio:
    """A sigh into the microphone."""
    length = int(random.uniform(0.3, 0.9) * SAMPLE_RATE)
    return _levelled(_band(random.standard_normal(length), 300, 3_000) * np.hanning(length), random.uniform(0.2, 0.7))


def music(random: np.random.Generator) -> Audio:
    """Two to ten seconds of chords, a tune and a beat."""
    beat = int(random.uniform(0.25, 0.6) * SAMPLE_RATE)
    beats = int(random.uniform(2, 10) * SAMPLE_RATE) // beat
    root = random.uniform(110, 330)
    made = np.zeros(beats * beat)
    for number in range(beats):
        time = np.arange(beat) / SAMPLE_RATE
        degree = int(random.integers(7))
        notes = [SCALE[(degree + step) % 7] + 12 * ((degree + step) // 7) for step in (0, 2, 4)]
        tune = SCALE[int(random.integers(7))] + 12
        part = sum((_note(root * 2 ** (note / 12), time) for note in (*notes, tune)), np.zeros(beat))
        part[: beat // 8] += 2 * random.standard_normal(beat // 8) * np.exp(-np.arange(beat // 8) / 300)
        made[number * beat : (number + 1) * beat] = part
    return _levelled(made, random.uniform(0.2, 1))


def _note(hertz: float, time: NDArray[np.float64]) -> NDArray[np.float64]:
    wave = sum((np.sin(2 * np.pi * n * hertz * time) / n**1.5 for n in range(1, 6)), np.zeros(len(time)))
    return np.asarray(wave * np.minimum(1, time / 0.01) * np.exp(-2 * time))


def keys(random: np.random.Generator) -> Audio:
    """One to eight telephone keys (ITU-T Q.23)."""
    parts: list[Audio] = []
    for _ in range(random.integers(1, 9)):
        time = np.arange(int(random.uniform(0.06, 0.25) * SAMPLE_RATE)) / SAMPLE_RATE
        pair = random.choice(DTMF_ROWS_HZ), random.choice(DTMF_COLUMNS_HZ)
        tone = sum((np.sin(2 * np.pi * hertz * time) for hertz in pair), np.zeros(len(time)))
        parts += [
            _levelled(tone, random.uniform(0.5, 1.5)),
            np.zeros(int(random.uniform(0.05, 0.2) * 24_000), np.float32),
        ]
    return np.concatenate(parts)


def tone(random: np.random.Generator) -> Audio:
    """A beep, or a ring: one or two frequencies, once or several times."""
    hertz = random.uniform(300, 2_000, int(random.integers(1, 3)))
    length, pause = int(random.uniform(0.1, 1) * SAMPLE_RATE), int(random.uniform(0.1, 0.5) * SAMPLE_RATE)
    time = np.arange(length) / SAMPLE_RATE
    wave = sum((np.sin(2 * np.pi * each * time) for each in hertz), np.zeros(length))
    one = np.pad(_levelled(wave * np.minimum(1, time / 0.005), random.uniform(0.2, 1)), (0, pause))
    return np.tile(one, int(random.integers(1, 4)))


NOISES: Mapping[str, Callable[[np.random.Generator], Audio]] = {
    **{"cough": cough, "knock": knock, "breath": breath, "music": music, "keys": keys, "tone": tone}
}


def _burst(random: np.random.Generator, seconds: float, low_hz: float, high_hz: float) -> Audio:
    length = int(seconds * SAMPLE_RATE)
    time = np.arange(length) / length
    made = _band(random.standard_normal(length), low_hz, high_hz) * np.minimum(1, time / 0.05) * np.exp(-4 * time)
    return np.pad(_levelled(made, random.uniform(0.5, 2)), (0, int(random.uniform(0.05, 0.25) * SAMPLE_RATE)))


def _band(noise: NDArray[np.float64], low_hz: float, high_hz: float) -> NDArray[np.float64]:
    frequencies = np.fft.rfftfreq(len(noise), 1 / SAMPLE_RATE)
    shape = (frequencies / low_hz).clip(0, 1) * (high_hz / np.maximum(frequencies, 1)).clip(0, 1)
    return np.asarray(np.fft.irfft(np.fft.rfft(noise) * shape, len(noise)))


def _levelled(wave: NDArray[np.float64], level: float) -> Audio:
    made = wave * (LEVEL * level / (np.sqrt(np.mean(np.square(wave))) + 1e-9))
    return np.asarray(np.clip(made, -1, 1), np.float32)
