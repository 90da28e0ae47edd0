"""Voices in, for each who listens the voices of all others out; and who of them speaks. Numpy only, no I/O.

A mix without one's own voice is the sum of all less one's own. It is made in double precision, so that what is left of
the own voice is nothing that 16 bits could hold. Sums are louder than voices, so each goes through a limiter of its
own: a gain that is shared would let everybody hear how loud he is himself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from itertools import pairwise

import numpy as np

from media.leg import Pcm
from media.pcm import BLOCKS_PER_S, silence

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
    """Keeps one stream below CEILING, by a gain that is down before what is too loud comes. It delays by a piece."""

    def __init__(self) -> None:
        self._gain = np.float32(1.0)  # at the end of what was given out
        self._tail: Pcm | None = None  # the last piece, and the gain that it needs
        self._tail_need = np.float32(1.0)

    def __call__(self, block: Pcm) -> Pcm:
        """The next samples, as many as come in: PIECES_A_BLOCK pieces of always the same length."""
        pieces = block.reshape(PIECES_A_BLOCK, -1)
        tail = silence(pieces.shape[1]) if self._tail is None else self._tail
        needs = np.float32(CEILING) / np.maximum(np.abs(pieces).max(axis=1), np.float32(CEILING))
        edges = [self._gain]
        for need, after in pairwise([self._tail_need, *needs]):
            edges.append(min(need, after, edges[-1] + np.float32(RELEASE)))
        made = np.concatenate([tail, pieces[:-1].reshape(-1)])
        if min(edges) < 1.0:
            made *= _ramps(edges, len(tail))
        self._gain, self._tail, self._tail_need = edges[-1], pieces[-1].copy(), needs[-1]
        return made


def _ramps(edges: list[np.float32], length: int) -> Pcm:
    """From each edge to the next in `length` samples. Both ends of a piece are what it needs, or less."""
    rise = np.arange(length, dtype=np.float32) / np.float32(length)
    at = np.array(edges, np.float32)
    return (at[:-1, None] + (at[1:] - at[:-1])[:, None] * rise).reshape(-1)


class Mixer:
    """Mix-minus for whoever is there: names may come and go with each block."""

    def __init__(self) -> None:
        self._limiters: dict[str, Limiter] = {}

    def mix(self, voices: Mapping[str, Pcm]) -> dict[str, Pcm]:
        """20 ms of each voice, equally long; gives what each of them hears. What is no number is silence."""
        names = sorted(voices)  # a sum of floats depends on its order
        rows = np.stack([voices[name] for name in names]).astype(np.float64)
        if not np.isfinite(rows).all():
            rows = np.nan_to_num(rows, nan=0.0, posinf=0.0, neginf=0.0)
        others = (rows.sum(axis=0) - rows).astype(np.float32)
        self._limiters = {name: self._limiters.get(name) or Limiter() for name in names}
        return {name: self._limiters[name](heard) for name, heard in zip(names, others, strict=True)}


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
