"""What a caller hears before anybody listens: that the call is recorded, or that a machine answers.

It is played from the answer on, and recorded; the model is not stepped before it is over, so nobody can talk it away.
Whoever does not agree hangs up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.slot import Frame
from voipagent.talk import AudioFileError, read_frames

LONGEST_S = 60.0
"""Of an announcement: nobody listens for longer before a word is said."""

PAUSE_S = 0.24
"""Of silence after it: before the first frame that the model hears, all of it has left."""

TONE_HZ, TONE_S, TONE_LEVEL, FADE_S = 1_400, 0.5, 0.25, 0.02
"""The recorder's warning tone as telephone users know it (FCC, 47 CFR 64.501: 1,400 Hz), once."""

SILENT = 0.001
"""Of full scale: an announcement that nowhere reaches this was not recorded."""


@dataclass(frozen=True)
class Announcement:
    """`name` is what the record calls it; `frames` are the engine's, with silence at the end."""

    name: str
    frames: tuple[Frame, ...]


def load_announcement(consent: str, sample_rate: int, frame_samples: int) -> Announcement | None:
    """`off`, `tone`, or an audio file. Raises AudioFileError where that cannot be used."""
    if consent == "off":
        return None
    sound = _tone(sample_rate) if consent == "tone" else _read(Path(consent), sample_rate, frame_samples)
    samples = len(sound) + round(PAUSE_S * sample_rate)
    padded = np.zeros(math.ceil(samples / frame_samples) * frame_samples, np.float32)
    padded[: len(sound)] = sound
    return Announcement(Path(consent).name, tuple(padded.reshape(-1, frame_samples)))


def _read(path: Path, sample_rate: int, frame_samples: int) -> Frame:
    pieces, samples = [], 0
    try:
        for piece in read_frames(path, sample_rate, frame_samples):
            pieces.append(piece)
            samples += len(piece)
            if samples > LONGEST_S * sample_rate:
                raise AudioFileError(f"{str(path)!r} is longer than {LONGEST_S:g} s")
        sound = np.concatenate([np.zeros(0, np.float32), *pieces])
        if not len(sound) or float(np.abs(sound).max()) < SILENT:
            raise AudioFileError(f"nothing is to be heard in {str(path)!r}")
    except AudioFileError as error:
        raise AudioFileError(f"VOIPAGENT_CALLS__CONSENT: {error}") from None
    return sound


def _tone(sample_rate: int) -> Frame:
    time = np.arange(round(TONE_S * sample_rate)) / sample_rate
    edge = np.clip(np.minimum(time, TONE_S - time) / FADE_S, 0, 1)
    tone: Frame = (TONE_LEVEL * edge * np.sin(2 * math.pi * TONE_HZ * time)).astype(np.float32)
    return tone
