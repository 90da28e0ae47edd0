"""Samples: float and 16 bit, another rate, a queue of them, and cuts that do not click.

A *block* is 20 ms, the unit of the wire; a *frame* is what the user of a Leg wants, 80 ms for Moshi.
"""

from __future__ import annotations

from collections import deque
from functools import cache
from math import ceil, gcd

import numpy as np
from numpy.typing import NDArray

from media.leg import Pcm

BLOCKS_PER_S = 50
"""20 ms, the packet time every peer knows (RFC 3551, table 1) and the tick of all legs."""

FADE_S = 0.004
"""How long two pieces of audio overlap where one was cut: long enough not to click, shorter than a pitch period."""

QUIET_RMS = 0.01
"""-40 dBFS. Below it nobody hears that something was taken out or put in."""

S16_PEAK = 32767

FILTER_HALF = 16
"""What a resampler looks ahead, in samples of the lower rate: 2 ms at 8 kHz."""

CUTOFF, KAISER_BETA = 0.95, 7.0
"""Where its filter is at half, as a share of what the lower rate can carry; and its window."""

GROUP = 8
"""The least number of samples that it makes at a time."""


def to_s16(pcm: Pcm) -> NDArray[np.int16]:
    """Float to 16 bit: rounded, and limited to the range. Infinities are limited, NaN must have been removed."""
    limited = np.minimum(np.maximum(pcm, np.float32(-1)), np.float32(1))  # np.clip takes three times as long
    return np.rint(limited * np.float32(S16_PEAK)).astype(np.int16)


def from_s16(samples: NDArray[np.int16]) -> Pcm:
    """16 bit to float; the inverse of `to_s16` but for -32768."""
    return samples.astype(np.float32) * np.float32(1 / S16_PEAK)


def silence(samples: int) -> Pcm:
    """Zeros."""
    return np.zeros(samples, np.float32)


def is_quiet(pcm: Pcm) -> bool:
    """Whether a cut in here would pass unheard."""
    return float(np.dot(pcm, pcm)) <= QUIET_RMS**2 * len(pcm)


def crossfade(before: Pcm, after: Pcm) -> Pcm:
    """From `before` to `after`, which have the same length; linear, since the two are mostly alike."""
    rise = np.linspace(0.0, 1.0, len(after), dtype=np.float32)
    return before + (after - before) * rise


def best_cut(pcm: Pcm, count: int, fade: int) -> int:
    """Where `count` samples of `pcm` can be taken out with the least harm: where both sides are most alike.

    `pcm` must hold count + fade samples or more.
    """
    unlike = np.cumsum(np.square(pcm[: len(pcm) - count] - pcm[count:], dtype=np.float64))
    unlike[fade:] -= unlike[:-fade].copy()
    return int(np.argmin(unlike[fade - 1 :]))


def cut(pcm: Pcm, start: int, count: int, fade: int) -> Pcm:
    """`pcm` without the `count` samples from `start` on; the seam is a cross-fade of `fade` samples."""
    seam = crossfade(pcm[start : start + fade], pcm[start + count : start + count + fade])
    return np.concatenate([pcm[:start], seam, pcm[start + count + fade :]])


class Resampler:
    """Mono audio at another rate, in chunks of any length.

    A sinc under a Kaiser window, FILTER_HALF samples of the lower rate on either side: flat within 0.2 dB to 85 % of
    what that rate can carry, 70 dB down from 110 % on. It delays by one half, `delay_samples` at the target rate, but
    holds nothing back: after n samples in there are floor(n * target_rate / source_rate) samples out, from the first.

    The places of samples in and out repeat every `down` in and `up` out. So one matrix makes each group of outputs
    from the stretch of input under it: a quarter of the time that libswresample takes for 20 ms.
    """

    def __init__(self, source_rate: int, target_rate: int) -> None:
        self.source_rate, self.target_rate = source_rate, target_rate
        same = source_rate == target_rate
        self.delay_samples = 0 if same else FILTER_HALF * max(source_rate, target_rate) // source_rate
        self._down, self._up, self._matrix = _filter(source_rate, target_rate)
        self._past = silence(len(self._matrix) - self._down)  # what the filter sees before the group at hand
        self._taken = self._given = 0  # of that group and what came after it

    def __call__(self, pcm: Pcm) -> Pcm:
        """The next samples of the stream."""
        if self.source_rate == self.target_rate:
            return pcm
        self._taken += len(pcm)
        due = self._taken * self._up // self._down
        groups = -(-due // self._up)
        source = np.concatenate([self._past, pcm, silence(self._down)], dtype=np.float32)
        # Row by row the stretches of input, each `down` further on; they overlap.
        stretches = np.ndarray(
            (groups, len(self._matrix)), np.float32, source, strides=(self._down * source.itemsize, source.itemsize)
        )
        made: Pcm = np.dot(stretches, self._matrix).reshape(-1)[self._given : due]
        done = due // self._up
        self._past = source[done * self._down : len(source) - self._down]
        self._taken -= done * self._down
        self._given = due - done * self._up
        return made


@cache
def _filter(source_rate: int, target_rate: int) -> tuple[int, int, Pcm]:
    """Samples in and out of a group, and the matrix that makes these of those [history + in, out]."""
    common = gcd(source_rate, target_rate)
    groups = -(-GROUP * common // target_rate)
    down, up = groups * source_rate // common, groups * target_rate // common
    lower = min(1.0, target_rate / source_rate)
    half = FILTER_HALF / lower  # in samples of the source
    history = ceil(2 * half)
    age = np.arange(up) * down / up - (np.arange(history + down)[:, None] - history)  # of an input, at an output
    window = np.i0(KAISER_BETA * np.sqrt(np.clip(1 - np.square(age / half - 1), 0, 1)))
    matrix = np.where((age >= 0) & (age <= 2 * half), np.sinc(CUTOFF * lower * (age - half)) * window, 0.0)
    return down, up, (matrix / matrix.sum(axis=0)).astype(np.float32)


class SampleQueue:
    """Samples in, samples out, in any portions. Full: the oldest are dropped and counted. Empty: silence, counted."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.dropped = 0
        self.padded = 0
        self._parts: deque[Pcm] = deque()
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def put(self, pcm: Pcm) -> None:
        """Append. The samples are kept, not copied."""
        self._parts.append(pcm)
        self._length += len(pcm)
        surplus = self._length - self.capacity
        if surplus > 0:
            self._remove(surplus)
            self.dropped += surplus

    def take(self, count: int) -> Pcm:
        """Exactly `count` samples; silence at the end where there are fewer."""
        parts = self._remove(min(count, self._length))
        missing = count - sum(map(len, parts))
        if missing:
            self.padded += missing
            parts.append(silence(missing))
        return parts[0] if len(parts) == 1 else np.concatenate(parts) if parts else silence(0)

    def peek(self) -> Pcm:
        """Everything, and it stays."""
        if len(self._parts) != 1:
            self.replace(np.concatenate(self._parts) if self._parts else silence(0))
        return self._parts[0]

    def replace(self, pcm: Pcm) -> None:
        """Hold `pcm` instead of what is there."""
        self._parts = deque([pcm])
        self._length = len(pcm)

    def clear(self) -> None:
        """Forget everything; nothing is counted."""
        self._parts.clear()
        self._length = 0

    def _remove(self, count: int) -> list[Pcm]:
        """The first `count` samples, which are there."""
        parts = []
        self._length -= count
        while count:
            part = self._parts.popleft()
            if len(part) > count:
                self._parts.appendleft(part[count:])
                part = part[:count]
            count -= len(part)
            parts.append(part)
        return parts
