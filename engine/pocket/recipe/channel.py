"""The telephone between the caller's mouth and the codec: level, room, noise, band, G.711, lost packets; and the echo.

Everything keeps time: what goes in at a sample comes out at that sample, so labels stay where they are. All that is
drawn comes from the generator that is passed in. Levels are relative to `LEVEL`, at which voices come.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from engine.pocket.recipe.formats import Audio
from engine.pocket.recipe.voices import LEVEL
from engine.slot import SAMPLE_RATE

Law: TypeAlias = Literal["ulaw", "alaw"]
Noise: TypeAlias = Literal["white", "pink", "babble", "hum"]

Samples: TypeAlias = NDArray[np.floating[Any]]

NOISES: tuple[Noise, ...] = get_args(Noise)

GAIN_DB = (-12.0, 12.0)
SNR_DB = (8.0, 40.0)
ECHO_DB = (-45.0, -15.0)
ECHO_DELAY_S = (0.03, 0.3)
COLOUR_HZ = 100, 8_000
COLOUR_KNOTS, COLOUR_DB = 7, 4.5
"""Between these frequencies, evenly on a logarithmic scale, so many gains of this standard deviation."""

GAP_S = (0.02, 0.06)
GAPS_A_SECOND = 0.5


def telephone(audio: Audio, random: np.random.Generator) -> Audio:
    """What arrives of `audio`: one call's line, drawn anew each time, of the same length."""
    heard = audio
    if random.random() < 0.25:
        heard = room(heard, random)
    if random.random() < 0.85:
        heard = heard + noise(NOISES[int(random.integers(len(NOISES)))], len(heard), random) * np.float32(
            LEVEL * from_db(-random.uniform(*SNR_DB))
        )
    heard = heard * np.float32(from_db(random.uniform(*GAIN_DB)))
    if random.random() < 0.5:
        heard = banded(heard, random.uniform(150, 320), random.uniform(3_000, 3_600))
    if random.random() < 0.7:
        heard = g711(heard, "ulaw" if random.random() < 0.5 else "alaw")
    if random.random() < 0.1:
        heard = gaps(heard, random)
    return np.clip(heard, -1, 1).astype(np.float32)


def from_db(level: float) -> float:
    """The factor of an amplitude."""
    return float(10 ** (level / 20))


def g711(audio: Audio, law: Law = "ulaw") -> Audio:
    """Through 8 kHz and eight bits a sample (ITU-T G.711, its curves without the steps' own rounding)."""
    length = len(audio)
    narrow = resampled(np.pad(audio, (0, -length % 3)), 8_000)
    wide = resampled(expand(np.round(compress(np.clip(narrow, -1, 1), law) * 127) / 127, law), SAMPLE_RATE)
    return np.clip(wide[:length], -1, 1).astype(np.float32)


def compress(x: Samples, law: Law) -> Samples:
    """G.711's curve, [-1, 1] to [-1, 1]: mu = 255, A = 87.6."""
    size = np.abs(x)
    if law == "ulaw":
        return np.asarray(np.sign(x) * np.log1p(255 * size) / np.log(256))
    curve = np.where(size < 1 / 87.6, 87.6 * size, 1 + np.log(np.maximum(87.6 * size, 1)))
    return np.asarray(np.sign(x) * curve / (1 + np.log(87.6)))


def expand(y: Samples, law: Law) -> Samples:
    """Its inverse."""
    size = np.abs(y)
    if law == "ulaw":
        return np.asarray(np.sign(y) * np.expm1(size * np.log(256)) / 255)
    size = size * (1 + np.log(87.6))
    return np.asarray(np.sign(y) * np.where(size < 1, size, np.exp(size - 1)) / 87.6)


def resampled(audio: Samples, rate: int, from_rate: int | None = None) -> Audio:
    """Between 24 kHz and 8 kHz by cutting or padding the spectrum: no delay, and flat up to the lower rate's half.

    The direction follows from `rate`; the length must divide.
    """
    length = len(audio) * rate // (from_rate or (SAMPLE_RATE if rate < SAMPLE_RATE else 8_000))
    spectrum = np.fft.rfft(audio)
    return np.asarray(np.fft.irfft(spectrum[: length // 2 + 1], length) * (length / len(audio)), np.float32)


def coloured(audio: Audio, random: np.random.Generator) -> Audio:
    """As another mouth, or another microphone, would: louder here and softer there in its spectrum, without delay."""
    frequencies = np.maximum(np.fft.rfftfreq(len(audio), 1 / SAMPLE_RATE), 1)
    gains = random.normal(0, COLOUR_DB, COLOUR_KNOTS)
    level_db = np.interp(np.log(frequencies), np.log(np.geomspace(*COLOUR_HZ, COLOUR_KNOTS)), gains)
    return np.asarray(np.fft.irfft(np.fft.rfft(audio) * 10 ** (level_db / 20), len(audio)), np.float32)


def banded(audio: Audio, low_hz: float, high_hz: float) -> Audio:
    """What a handset lets through: edges that fall over a tenth of their frequency, no delay."""
    frequencies = np.fft.rfftfreq(len(audio), 1 / SAMPLE_RATE)
    rise = 1 / (1 + np.exp(-(frequencies - low_hz) / (0.05 * low_hz)).clip(0, 1e12))
    fall = 1 / (1 + np.exp((frequencies - high_hz) / (0.02 * high_hz)).clip(0, 1e12))
    return np.asarray(np.fft.irfft(np.fft.rfft(audio) * rise * fall, len(audio)), np.float32)


def noise(kind: Noise, samples: int, random: np.random.Generator) -> Audio:
    """Of RMS 1."""
    time = np.arange(samples) / SAMPLE_RATE
    if kind == "hum":
        mains = float(random.choice([50, 60]))
        made = sum(
            (
                random.uniform(0.2, 1) / n * np.sin(2 * np.pi * n * mains * time + random.uniform(0, 6))
                for n in range(1, 8)
            ),
            np.zeros(samples),
        )
    elif kind == "white":
        made = random.standard_normal(samples)
    else:
        made = _coloured(samples, kind, random)
    return np.asarray(made / (np.sqrt(np.mean(np.square(made))) + 1e-9), np.float32)


def _coloured(samples: int, kind: Noise, random: np.random.Generator) -> NDArray[np.float64]:
    """Pink, or of speech's long-term spectrum and moving as several voices at once do, a few times a second."""
    frequencies = np.fft.rfftfreq(samples, 1 / SAMPLE_RATE)
    shape = 1 / np.sqrt(np.maximum(frequencies, 20))
    if kind == "babble":
        shape = np.maximum(frequencies, 20) / 200 / (1 + (np.maximum(frequencies, 20) / 500) ** 2) ** 1.5
    made = np.fft.irfft(np.fft.rfft(random.standard_normal(samples)) * shape, samples)
    if kind == "babble":
        steps = random.uniform(0.3, 1, samples // 3_000 + 3)
        made = made * np.interp(np.arange(samples), np.arange(len(steps)) * 3_000, steps)
    return np.asarray(made)


def room(audio: Audio, random: np.random.Generator) -> Audio:
    """With the decaying reverberation of a room, 80 to 300 ms long, 8 to 20 dB below the voice."""
    length = int(random.uniform(0.08, 0.3) * SAMPLE_RATE)
    tail = random.standard_normal(length) * np.exp(-6.9 * np.arange(length) / length)
    tail[: SAMPLE_RATE // 200] = 0  # the first reflection comes from somewhere
    tail *= from_db(-random.uniform(8, 20)) / np.sqrt(np.sum(np.square(tail)))
    size = 1 << (len(audio) + length - 1).bit_length()
    wet = np.fft.irfft(np.fft.rfft(audio, size) * np.fft.rfft(tail, size), size)[: len(audio)]
    return np.asarray(audio + wet, np.float32)


def gaps(audio: Audio, random: np.random.Generator) -> Audio:
    """Lost packets: 20 to 60 ms of silence, one each two seconds or so."""
    heard = audio.copy()
    for _ in range(1 + int(random.poisson(GAPS_A_SECOND * len(audio) / SAMPLE_RATE))):
        length = int(random.uniform(*GAP_S) * SAMPLE_RATE)
        start = int(random.integers(max(1, len(audio) - length)))
        heard[start : start + length] = 0
    return heard


def echo(
    spoken: Audio, random: np.random.Generator, level_db: float | None = None, delay_s: float | None = None
) -> Audio:
    """What comes back of the agent's own voice at the caller's end: later, softer, duller, bent by a cheap speaker."""
    delay = int((random.uniform(*ECHO_DELAY_S) if delay_s is None else delay_s) * SAMPLE_RATE)
    factor = from_db(random.uniform(*ECHO_DB) if level_db is None else level_db)
    back = np.pad(spoken, (delay, 0))[: len(spoken)]
    bent = np.tanh(back * np.float32(3)) / np.float32(3)
    return np.asarray(banded(bent, random.uniform(200, 400), random.uniform(2_000, 3_600)) * factor, np.float32)
