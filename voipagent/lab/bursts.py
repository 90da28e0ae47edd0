"""Noise bursts that can be told apart, and where they come back. No I/O.

Each burst is noise of its own, so it is found by correlation: a burst that lost a packet, or met concealment, is still
known for what it is, and its place is exact to the sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BURST_S = 0.1
"""Five packets: a burst that lost two of them at random is still found, and none is missed by mere chance."""

PACKET_S = 0.02
GAPS_S = (0.36, 0.9)
"""Silence between two bursts: uneven, so that no phase of an 80 ms clock is favoured."""

LONGEST_S = 0.8
"""A burst that is not back by then is missing: later, the next one might be near."""

FOUND = 0.4
"""Correlation from which a burst is found. Noise against noise stays under 0.25; without one packet it is over 0.7."""

BAND_HZ = (300.0, 3_400.0)
"""What every telephone codec carries."""

Samples = NDArray[np.float32]


@dataclass(frozen=True)
class Burst:
    """`start` is the sample of the sent stream where `noise` begins; always the first of a packet."""

    start: int
    noise: Samples


def make_bursts(count: int, sample_rate: int, seed: int, first_s: float) -> tuple[Burst, ...]:
    """`count` bursts, the first `first_s` seconds into the stream."""
    random = np.random.default_rng(seed)
    packet = round(PACKET_S * sample_rate)
    bursts, start = [], round(first_s / PACKET_S) * packet
    for _ in range(count):
        noise = _band_noise(round(BURST_S * sample_rate), sample_rate, random)
        bursts.append(Burst(start, noise))
        gap_s = random.uniform(*GAPS_S)
        start += len(noise) + round(gap_s / PACKET_S) * packet
    return tuple(bursts)


def _band_noise(samples: int, sample_rate: int, random: np.random.Generator) -> Samples:
    spectrum = np.fft.rfft(random.standard_normal(samples))
    frequencies = np.fft.rfftfreq(samples, 1 / sample_rate)
    spectrum[(frequencies < BAND_HZ[0]) | (frequencies > BAND_HZ[1])] = 0
    noise = np.fft.irfft(spectrum, samples)
    scaled: Samples = (0.3 * noise / np.abs(noise).max()).astype(np.float32)
    return scaled


def render(bursts: Sequence[Burst], sample_rate: int, tail_s: float = LONGEST_S) -> Samples:
    """The whole stream to send: silence with the bursts in it, and `tail_s` of silence after the last."""
    last = bursts[-1]
    stream = np.zeros(last.start + len(last.noise) + round(tail_s * sample_rate), np.float32)
    for burst in bursts:
        stream[burst.start : burst.start + len(burst.noise)] = burst.noise
    return stream


def find(noise: Samples, heard: Samples) -> int | None:
    """The sample of `heard` where `noise` begins; None where it is not in there."""
    if len(heard) < len(noise):
        return None
    dot = np.correlate(heard.astype(np.float64), noise.astype(np.float64), "valid")
    power = np.concatenate([[0.0], np.cumsum(np.square(heard, dtype=np.float64))])
    energy = power[len(noise) :] - power[: -len(noise)]
    floor = 1e-4 * float(np.square(noise, dtype=np.float64).sum())  # silence correlates with nothing
    score = dot / np.sqrt(np.maximum(energy, floor) * np.square(noise, dtype=np.float64).sum())
    best = int(np.argmax(score))
    return best if score[best] >= FOUND else None
