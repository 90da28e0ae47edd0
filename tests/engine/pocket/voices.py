"""Stand-in voices made of arithmetic: tones under formants, with pauses. Enough for a codec to learn something from."""

from __future__ import annotations

import numpy as np

from engine.pocket.recipe.formats import Audio
from engine.slot import FRAME_SAMPLES, SAMPLE_RATE

FORMANTS_HZ = {"aa": (730, 1090), "iy": (270, 2290), "uw": (300, 870), "eh": (530, 1840)}
"""First and second formant (Peterson and Barney, JASA 24, 1952)."""

RMS = 0.08


def vowel(name: str, frames: int, pitch_hz: float = 200) -> Audio:
    """Harmonics of `pitch_hz`, each as loud as the formants near it make it."""
    seconds = np.arange(frames * FRAME_SAMPLES) / SAMPLE_RATE
    harmonics = np.arange(1, int(4000 / pitch_hz)) * pitch_hz
    apart = (harmonics[:, None] - np.array(FORMANTS_HZ[name])) / 150
    loudness = np.exp(-(apart**2)).sum(1) + 0.02
    wave = loudness @ np.sin(2 * np.pi * harmonics[:, None] * seconds)
    return np.asarray(RMS * wave / np.sqrt(np.mean(wave**2)), np.float32)


def word(names: list[str], pitch_hz: float = 200) -> Audio:
    """Two frames a vowel."""
    return np.concatenate([vowel(name, 2, pitch_hz) for name in names])


def stand_in(seed: int, frames: int) -> Audio:
    """Random vowels and pauses at a random pitch, exactly `frames` long."""
    random = np.random.default_rng(seed)
    pitch = random.uniform(110, 250)
    parts = [
        vowel(str(random.choice(sorted(FORMANTS_HZ))), 1, pitch) * float(random.random() > 0.2) for _ in range(frames)
    ]
    return np.concatenate(parts)
