"""What the codec's training hears: windows of callers through a telephone line, and of the agent's own voice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.pocket.recipe.channel import coloured
from engine.pocket.recipe.formats import Audio, Clip, Utterance
from engine.pocket.recipe.phones import PAUSE, PHONES
from engine.pocket.recipe.spectra import SUBFRAMES
from engine.slot import FRAME_SAMPLES, SAMPLE_RATE

Channel = Callable[[Audio, np.random.Generator], Audio]
"""A telephone line: what is said, to what arrives, sample for sample at the same time."""

LABEL_LAG_S = 0.04

UNKNOWN = -100
"""The label of what nobody labelled; the loss leaves it out."""

AGENT_SHARE = 0.25
CLIP_SHARE = 0.5
"""Of the agent's part: the clips themselves, which are all that it will ever say."""

ECHO_SHARE = 0.1
ECHO_DB = (-45.0, -15.0)
"""The agent's own voice in the caller's line; neither phones nor spectrum of it are asked for."""

QUIET_SHARE = 0.15
"""Windows in which nobody speaks, so that the line's noise is heard as silence."""

ECHO_ALONE_SHARE = 0.7
"""Of those: with the agent's own voice. An encoder that reads faint voices better reads that one, too, unless it hears
enough of it alone to know it."""

SPEED = 0.17
"""Callers play this much faster or slower, log-uniformly: more voices than there are."""

COLOURED_SHARE = 0.6
"""Callers who are coloured as another mouth and another microphone would."""


@dataclass(frozen=True, slots=True, eq=False)
class Voice:
    """Something said, and the phone at each of its milliseconds, an index into PHONES or UNKNOWN."""

    audio: Audio
    phones: NDArray[np.int8]


def voice_of(said: Utterance | Clip) -> Voice:
    """Between the phones of an utterance that has any is a pause."""
    length = len(said.audio) * 1000 // SAMPLE_RATE
    spans = said.phones if isinstance(said, Utterance) else ()
    track = np.full(length, PHONES.index(PAUSE) if spans else UNKNOWN, np.int8)
    for span in spans:
        track[round(1000 * span.start_s) : round(1000 * span.end_s)] = PHONES.index(span.label)
    return Voice(said.audio, track)


Row: TypeAlias = tuple[Audio, Audio, NDArray[np.int64]]
"""What is heard, what was said, and the phones of every 20 ms."""


@dataclass(frozen=True, slots=True)
class Windows:
    """A batch: what the codec hears and what was said [B, S], and the phones of every 20 ms [B, T]."""

    heard: Tensor
    clean: Tensor
    phones: Tensor


class Sounds:
    """Windows out of callers, through the channel, and out of the agent's voice, as it is and on its frame grid."""

    def __init__(
        self, callers: Sequence[Voice], clips: Sequence[Voice], agent: Sequence[Voice], channel: Channel
    ) -> None:
        if not callers or not clips:
            raise ValueError("there must be callers and clips; make them first with engine.pocket.recipe.generate")
        self._callers, self._clips, self._agent, self._channel = callers, clips, agent or clips, channel

    def batch(self, random: np.random.Generator, rows: int, frames: int) -> Windows:
        return _stacked([self._row(random, frames) for _ in range(rows)])

    def callers(self, random: np.random.Generator, rows: int, frames: int) -> Windows:
        """Callers alone, at a speed and through a line of any kind; now and then nobody speaks."""
        return _stacked([self._caller(random, frames, self._quiet_or_callers(random)) for _ in range(rows)])

    def _row(self, random: np.random.Generator, frames: int) -> Row:
        if random.random() < AGENT_SHARE:
            voices = self._clips if random.random() < CLIP_SHARE else self._agent
            clean, phones = row_of(voices, random, frames, on_grid=True)
            return clean, clean, phones
        return self._caller(random, frames, self._quiet_or_callers(random))

    def _quiet_or_callers(self, random: np.random.Generator) -> Sequence[Voice]:
        return () if random.random() < QUIET_SHARE else self._callers

    def _caller(self, random: np.random.Generator, frames: int, voices: Sequence[Voice]) -> Row:
        clean, phones = row_of(voices, random, frames)
        sent = coloured(clean, random) if voices and random.random() < COLOURED_SHARE else clean
        if random.random() < (ECHO_SHARE if voices else ECHO_ALONE_SHARE):
            echo, _ = row_of(self._clips, random, frames)
            sent = sent + echo * np.float32(10 ** (random.uniform(*ECHO_DB) / 20))
        return self._channel(sent, random), clean, phones


def _stacked(rows: Sequence[Row]) -> Windows:
    heard, clean, phones = (torch.from_numpy(np.stack(part)) for part in zip(*rows, strict=True))
    return Windows(heard, clean, phones)


def row_of(
    voices: Sequence[Voice], random: np.random.Generator, frames: int, on_grid: bool = False
) -> tuple[Audio, NDArray[np.int64]]:
    """Voices one after the other with pauses, beginning anywhere: samples, and the phone of every 20 ms.

    `on_grid`: at their own speed, each from a frame's edge on. No voices: silence.
    """
    samples = frames * FRAME_SAMPLES
    audio = np.zeros(samples, np.float32)
    phones = np.full(frames * SUBFRAMES, PHONES.index(PAUSE), np.int64)
    asked = (np.arange(len(phones)) + 0.5) * FRAME_SAMPLES / SUBFRAMES - LABEL_LAG_S * SAMPLE_RATE  # [T] samples
    grid = FRAME_SAMPLES if on_grid else 1
    at: int | None = None
    while voices:
        voice = voices[int(random.integers(len(voices)))]
        speed = 1.0 if on_grid else float(np.exp(random.uniform(-SPEED, SPEED)))
        length = int(len(voice.audio) / speed)
        if at is None:
            at = int(random.uniform(-length, 0.5 * SAMPLE_RATE)) // grid * grid
        if at >= samples:
            break
        first, last = max(0, at), min(samples, at + length)
        if last > first:
            source = (np.arange(first, last, dtype=np.float64) - at) * speed
            audio[first:last] = voice.audio[source.astype(np.int64)] if on_grid else _between(voice.audio, source)
            inside = (asked >= at) & (asked < at + length)
            ms = ((asked[inside] - at) * speed * 1000 / SAMPLE_RATE).astype(np.int64)
            phones[inside] = voice.phones[np.minimum(ms, len(voice.phones) - 1)]
        at += length + int(random.uniform(0.1, 1.0) * SAMPLE_RATE)
        at = -(-at // grid) * grid
    return audio, phones


def _between(audio: Audio, at: NDArray[np.floating[Any]]) -> Audio:
    """Linear interpolation at rising positions within the audio."""
    left = at.astype(np.int64)
    part = (at - left).astype(np.float32)
    return audio[left] + part * (audio[np.minimum(left + 1, len(audio) - 1)] - audio[left])
