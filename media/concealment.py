"""What is played in the place of lost packets: the last pitch period over and over, fading (ITU-T G.711, appendix I).

Appendix I says what every concealment of this kind does; the numbers here are ours.
"""

from __future__ import annotations

import numpy as np

from media.leg import Pcm
from media.pcm import FADE_S, crossfade, silence

MIN_PERIOD_S, MAX_PERIOD_S = 0.005, 0.015
"""Pitch periods looked for, 200 to 66 Hz. A higher voice repeats two or three of its periods."""

WINDOW_S = 0.015
"""What is compared with itself to find the period."""

FADE_OUT_S = 0.06
"""Sound that is invented fades to nothing within this time: repeated for longer, it rings like a bell."""


class Concealment:
    """Remembers what was played; invents what comes next; leads back into what is real again.

    `invented` is how many samples of the newest audio were invented in a row.
    """

    def __init__(self, sample_rate: int) -> None:
        self._min_period, self._max_period = round(MIN_PERIOD_S * sample_rate), round(MAX_PERIOD_S * sample_rate)
        self._window = round(WINDOW_S * sample_rate)
        self._fade = round(FADE_S * sample_rate)
        self._fade_out = round(FADE_OUT_S * sample_rate)
        self.reset()

    def reset(self) -> None:
        """Nothing was played yet."""
        self._past = silence(self._window + self._max_period)
        self._period: Pcm | None = None
        self.invented = 0

    @property
    def recent(self) -> Pcm:
        """The newest audio, real or not."""
        return self._past[-self._window :]

    def remember(self, pcm: Pcm) -> Pcm:
        """Real audio that is played next; given back with a cross-fade in front if what came before was invented."""
        if self._period is not None and len(pcm):
            fade = min(self._fade, len(pcm))
            pcm = np.concatenate([crossfade(self._repeat(self._period, fade), pcm[:fade]), pcm[fade:]])
            self._period = None
            self.invented = 0
        self._past = np.concatenate([self._past, pcm])[-len(self._past) :]
        return pcm

    def invent(self, count: int) -> Pcm:
        """The next `count` samples, of which nothing is known."""
        if not count:
            return silence(0)
        if self._period is None:
            self._period = self._find_period()
        pcm = self._repeat(self._period, count)
        if self.invented == 0:
            # The first repetition starts where the past ends: no step between them.
            fade = min(self._fade, count)
            pcm[:fade] += (self._past[-1] - pcm[0]) * np.linspace(1.0, 0.0, fade, dtype=np.float32)
        self.invented += count
        self._past = np.concatenate([self._past, pcm])[-len(self._past) :]
        return pcm

    def _repeat(self, period: Pcm, count: int) -> Pcm:
        """`count` samples from where the invention stands, faded as far as it has gone."""
        if self.invented >= self._fade_out:
            return silence(count)
        at = np.arange(self.invented, self.invented + count)
        gain = np.maximum(1.0 - at / self._fade_out, 0.0)
        return (period[at % len(period)] * gain).astype(np.float32)

    def _find_period(self) -> Pcm:
        """The last pitch period, its end bent so that it can follow itself."""
        length = self._pitch()
        period = self._past[-length:].copy()
        period[-self._fade :] = crossfade(period[-self._fade :], self._past[-length - self._fade : -length])
        return period

    def _pitch(self) -> int:
        """The lag at which the last `window` samples resemble what came before them most, in samples."""
        past = self._past.astype(np.float64)
        recent = past[-self._window :]
        earlier = past[len(past) - self._window - self._max_period : len(past) - self._min_period]
        likeness = np.correlate(earlier, recent, "valid")  # [lag = max_period ... min_period]
        energy = np.cumsum(np.square(earlier))
        energy[self._window :] -= energy[: -self._window].copy()
        likeness /= np.sqrt(energy[self._window - 1 :] + 1e-9)
        return self._max_period - int(np.argmax(likeness))
