"""Voices in, for each who listens the voices of all others out; and who of them speaks. Numpy only, no I/O.

A mix without one's own voice is the sum of all less one's own. It is made in double precision, so that what is left of
the own voice is nothing that 16 bits could hold. Sums are louder than voices, so each goes through a limiter of its
own: a gain that is shared would let everybody hear how loud he is himself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import numpy as np

from media.leg import Pcm
from media.pcm import BLOCKS_PER_S

CEILING = 0.97
"""No sample of a mix is beyond it. Up to it a mix is the plain sum."""

PIECES_A_BLOCK = 4
"""A limiter decides by pieces of 5 ms, and looks one ahead: by so much it delays."""

RELEASE = 1 / (0.3 * BLOCKS_PER_S * PIECES_A_BLOCK)
"""How much its gain rises with each piece: from nothing to all in 0.3 s, so that it does not pump between words."""

SPEECH_RMS, QUIET_RMS = 0.02, 0.01
"""A block above the first, -34 dBFS, speaks; one below the second is silent; between them it stays what it was."""

LISTEN_BLOCKS, SPEAKING_BLOCKS = 5, 3
"""Who was loud in so many of the last so many blocks begins to speak: 60 ms in 100, longer than a click."""

HANG_BLOCKS = 20
"""And speaks until he was silent for so long: 400 ms, longer than the pause before a plosive or between two words."""

SMOOTHING = 0.1
"""The share of a new block in the power that speakers are ordered by: about 200 ms."""


class Limiter:
    """Keeps streams, the rows of a matrix, below CEILING, each by a gain of its own.

    A gain is down before what is too loud comes, so all is delayed by a piece.
    """

    def __init__(self, rows: int = 1) -> None:
        self._gains = np.ones(rows, np.float32)  # [N], at the end of what was given out
        self._tails: Pcm | None = None  # [N, piece], the last ones, and the gains that they need
        self._tail_needs = np.ones(rows, np.float32)  # [N]

    def __call__(self, block: Pcm) -> Pcm:
        """The next samples of each, as many as come in, (N, T): PIECES_A_BLOCK pieces of always the same length."""
        rows, samples = block.shape
        pieces = block.reshape(rows, PIECES_A_BLOCK, -1)
        tails = np.zeros_like(pieces[:, 0]) if self._tails is None else self._tails
        needs = np.empty((rows, PIECES_A_BLOCK + 1), np.float32)
        needs[:, 0] = self._tail_needs
        needs[:, 1:] = np.float32(CEILING) / np.maximum(np.abs(pieces).max(axis=2), np.float32(CEILING))
        edges = np.empty_like(needs)
        edges[:, 0] = self._gains
        for at in range(PIECES_A_BLOCK):
            rising = np.minimum(needs[:, at + 1], edges[:, at] + np.float32(RELEASE))
            edges[:, at + 1] = np.minimum(needs[:, at], rising)
        made = np.concatenate([tails[:, None], pieces[:, :-1]], axis=1)
        if edges.min() < 1.0:
            made *= _ramps(edges, tails.shape[1])
        self._gains, self._tails, self._tail_needs = edges[:, -1], pieces[:, -1].copy(), needs[:, -1]
        return made.reshape(rows, samples)

    def with_rows(self, sources: list[int | None]) -> Limiter:
        """One that goes on with those rows of this one, and begins anew where there is None."""
        other = Limiter(len(sources))
        if self._tails is not None:
            other._tails = np.zeros((len(sources), self._tails.shape[1]), np.float32)
        for row, source in enumerate(sources):
            if source is not None and self._tails is not None and other._tails is not None:
                other._gains[row], other._tail_needs[row] = self._gains[source], self._tail_needs[source]
                other._tails[row] = self._tails[source]
        return other


def _ramps(edges: Pcm, length: int) -> Pcm:
    """From each edge to the next in `length` samples, (N, pieces, length).

    Both ends of a piece are what it needs, or less.
    """
    rise = np.arange(length, dtype=np.float32) / np.float32(length)
    return edges[:, :-1, None] + (edges[:, 1:] - edges[:, :-1])[:, :, None] * rise


class Mixer:
    """Mix-minus for whoever is there: names may come and go with each block."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._limiter = Limiter(0)

    def mix(self, voices: Mapping[str, Pcm]) -> dict[str, Pcm]:
        """20 ms of each voice, equally long; gives what each of them hears. What is no number is silence."""
        names = sorted(voices)  # a sum of floats depends on its order
        rows = np.stack([voices[name] for name in names]).astype(np.float64)
        if not np.isfinite(rows).all():
            rows = np.nan_to_num(rows, nan=0.0, posinf=0.0, neginf=0.0)
        others = (rows.sum(axis=0) - rows).astype(np.float32)
        if names != self._names:
            before = {name: row for row, name in enumerate(self._names)}
            self._limiter = self._limiter.with_rows([before.get(name) for name in names])
            self._names = names
        return dict(zip(names, self._limiter(others), strict=True))


class _Voice:
    """What is known of one participant's level."""

    def __init__(self) -> None:
        self.power = 0.0
        self.speaks = False
        self._loud: deque[bool] = deque(maxlen=LISTEN_BLOCKS)
        self._silent = 0

    def hear(self, rms: float) -> None:
        self.power += SMOOTHING * (rms**2 - self.power)
        self._loud.append(rms > SPEECH_RMS)
        self._silent = self._silent + 1 if rms < QUIET_RMS else 0
        if sum(self._loud) >= SPEAKING_BLOCKS:
            self.speaks = True
        elif self._silent >= HANG_BLOCKS:
            self.speaks = False


class Speakers:
    """Who speaks, by the levels of blocks of 20 ms, with hysteresis in level and in time."""

    def __init__(self) -> None:
        self._voices: dict[str, _Voice] = {}

    def hear(self, levels: Mapping[str, float]) -> tuple[str, ...]:
        """Take a block's level (RMS) of everybody who is there; gives who speaks, the loudest first."""
        self._voices = {name: self._voices.get(name) or _Voice() for name in sorted(levels)}
        for name, rms in levels.items():
            self._voices[name].hear(rms)
        speaking = [name for name, voice in self._voices.items() if voice.speaks]
        return tuple(sorted(speaking, key=lambda name: -self._voices[name].power))


def level(pcm: Pcm) -> float:
    """RMS; 0 for no samples, and for what is no number."""
    rms = float(np.sqrt(np.dot(pcm, pcm) / len(pcm))) if len(pcm) else 0.0
    return rms if np.isfinite(rms) else 0.0
