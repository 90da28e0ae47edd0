"""Who hears whom in a room, how loud and how late: each says beeps of a pitch of its own, which the others look for.

A `Sound` is what passed one microphone or loudspeaker, with its own clock's times. The clocks of two far ends differ by
what nobody knows to better than some 10 ms, so a delay one way has that error; there and back it cancels.
"""

from __future__ import annotations

import io
import wave
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from media.leg import Pcm

RATE = 8_000
HOP, WINDOW = 40, 160
HOP_S = HOP / RATE
BEEP_S, LOUD = 0.3, 0.3
LATEST_S = 1.5
"""A beep that comes later than this is none that was heard."""

Times = NDArray[np.float64]


@dataclass(frozen=True)
class Beeper:
    """A far end that beeps: at what pitch, and how often. Periods differ, so that beeps meet, and part again."""

    name: str
    hertz: float
    period_s: float

    def period(self, rate: int) -> Pcm:
        """One beep, and the silence until the next."""
        at = np.arange(round(self.period_s * rate)) / rate
        edge = np.clip(np.minimum(at, BEEP_S - at) / 0.005, 0.0, 1.0)
        return (LOUD * edge * np.sin(2 * np.pi * self.hertz * at)).astype(np.float32)

    def write(self, folder: Path) -> Path:
        """As a microphone that hears it again and again."""
        path = folder / f"{self.name}.wav"
        with wave.open(str(path), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(48_000)
            file.writeframes((self.period(48_000) * 32_767).astype("<i2").tobytes())
        return path


@dataclass(frozen=True)
class Sound:
    """Samples at RATE, and when each HOP of them was, in seconds of a clock that all share nearly."""

    pcm: Pcm
    times: Times

    @classmethod
    def steady(cls, pcm: Pcm, began: float) -> Sound:
        """What was recorded without a gap."""
        return cls(pcm, np.asarray(began + np.arange(len(pcm) // HOP) * HOP_S, np.float64))

    def envelope(self, hertz: float) -> Times:
        """How loud that pitch is, as an amplitude, at each HOP: within the WINDOW that begins there."""
        whole = len(self.pcm) // HOP * HOP
        turned = self.pcm[:whole] * np.exp(-2j * np.pi * hertz * np.arange(whole) / RATE)
        hann = np.hanning(WINDOW)
        loud = np.abs(np.convolve(turned, hann[::-1] / hann.sum() * 2, "full"))[WINDOW - 1 :: HOP]
        return np.asarray(loud[: len(self.times)], np.float64)

    def onsets(self, hertz: float) -> Times:
        """When beeps of that pitch began: where half their loudness is passed, after a silence, and for a while."""
        loud = self.envelope(hertz)
        half = np.percentile(loud, 97) / 2
        if half < LOUD / 20:
            return np.zeros(0)
        above = loud > half
        quiet, long = round(0.15 / HOP_S), round(0.12 / HOP_S)
        found = [
            self.times[n - 1] + (self.times[n] - self.times[n - 1]) * (half - loud[n - 1]) / (loud[n] - loud[n - 1])
            for n in range(quiet, len(above) - long)
            if above[n] and not above[n - quiet : n].any() and above[n : n + long].mean() > 0.5
        ]
        return np.array(found)


def stereo(webm: bytes) -> tuple[Pcm, Pcm]:
    """Both channels of a recording, at its rate, which has to be ours."""
    with av.open(io.BytesIO(webm), "r") as container:
        assert container.streams.audio[0].rate == RATE
        resampler = av.AudioResampler(format="fltp", layout="stereo", rate=RATE)
        pieces = [each.to_ndarray() for frame in container.decode(audio=0) for each in resampler.resample(frame)]
    left, right = np.concatenate(pieces, axis=1)
    return left, right


@dataclass(frozen=True)
class Way:
    """From one who speaks to one who listens.

    `said` beeps in all, of which `heard` arrived after `delay_s`, in the middle; `gain` is how loud they did, against
    how loud they were said.
    """

    said: int
    heard: int
    delay_s: float
    gain: float


def way(said: Sound, heard: Sound, hertz: float) -> Way:
    """What became of the beeps of that pitch."""
    begun, arrived = said.onsets(hertz), heard.onsets(hertz)
    begun = begun[(begun > heard.times[0] + 0.2) & (begun < heard.times[-1] - LATEST_S)]
    later = [arrived[(arrived > at - 0.2) & (arrived < at + LATEST_S)] for at in begun]
    delays = [float(each[0] - at) for at, each in zip(begun, later, strict=True) if len(each)]
    middle = float(np.median(delays)) if delays else float("nan")
    return Way(len(begun), len(delays), middle, _gain(said, heard, hertz))


def _gain(said: Sound, heard: Sound, hertz: float) -> float:
    """How much of what was said is in what is heard, at the delay at which it is most."""
    ours, theirs = said.envelope(hertz), heard.envelope(hertz)
    ours = ours - ours.mean()
    gains = [
        float(ours @ np.interp(said.times + late, heard.times, theirs) / (ours @ ours))
        for late in np.arange(-0.2, LATEST_S, 0.02)
    ]
    return max(gains)
