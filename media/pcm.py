"""Samples: float and 16 bit, another rate, a queue of them, and cuts that do not click.

A *block* is 20 ms, the unit of the wire; a *frame* is what the user of a Leg wants, 80 ms for Moshi.
"""

from __future__ import annotations

from collections import deque

import av
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


def to_s16(pcm: Pcm) -> NDArray[np.int16]:
    """Float to 16 bit: rounded, and limited to the range. Infinities are limited, NaN must have been removed."""
    scaled: Pcm = np.clip(pcm, -1.0, 1.0) * np.float32(S16_PEAK)
    return np.rint(scaled).astype(np.int16)


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

    libswresample's filter holds the newest `delay_samples` back. They are put in front as zeros, so that after n
    samples in there are floor(n * target_rate / source_rate) samples out, from the first block on (the filter gives
    nothing at all until it has seen some 3 ms).

    PyAV's resampler is used without its `frame_size`, which would cost a whole block; soxr holds back 40 ms.
    """

    def __init__(self, source_rate: int, target_rate: int) -> None:
        self.source_rate, self.target_rate = source_rate, target_rate
        self.delay_samples = 0
        if source_rate != target_rate:
            self._swr = self._make()
            self.delay_samples = self._measure_delay()
        self._rest = silence(self.delay_samples)
        self._taken = self._given = 0

    def __call__(self, pcm: Pcm) -> Pcm:
        """The next samples of the stream."""
        if self.source_rate == self.target_rate:
            return pcm
        self._taken += len(pcm)
        ready = np.concatenate([self._rest, *self._run(self._swr, pcm)])
        due = min(len(ready), self._taken * self.target_rate // self.source_rate - self._given)
        self._given += due
        self._rest = ready[due:]
        return ready[:due]

    def _make(self) -> av.AudioResampler:
        return av.AudioResampler(format="fltp", layout="mono", rate=self.target_rate)

    def _measure_delay(self) -> int:
        """What a fresh resampler holds back of a tenth of a second, in samples at the target rate."""
        given = sum(map(len, self._run(self._make(), silence(self.source_rate // 10))))
        return self.target_rate // 10 - given

    def _run(self, swr: av.AudioResampler, pcm: Pcm) -> list[Pcm]:
        if not len(pcm):
            return []
        # Half the price of AudioFrame.from_ndarray and to_ndarray, which check and copy.
        frame = av.AudioFrame("fltp", "mono", len(pcm))
        frame.sample_rate = self.source_rate
        frame.planes[0].update(pcm.astype(np.float32, copy=False).tobytes())
        return [np.frombuffer(bytes(out.planes[0]), np.float32, out.samples) for out in swr.resample(frame)]


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
