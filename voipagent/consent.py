"""What a caller hears before anybody listens: that the call is recorded, or that a machine answers.

It is played from the answer on, and recorded; the model is not stepped before it is over, so nobody can talk it away.
Whoever does not agree hangs up.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine.slot import Frame
from media.leg import AudioFormat, Exchange, Leg, LegError
from voipagent.talk import AudioFileError, read_frames
from voipagent.tasks import first_of

LONGEST_S = 60.0
"""Of an announcement: nobody listens for longer before a word is said."""

PAUSE_S = 0.24
"""Of silence after it: before the first frame that the model hears, all of it has left."""

TONE_HZ, TONE_S, TONE_LEVEL, FADE_S = 1_400, 0.5, 0.25, 0.02
"""The recorder's warning tone as telephone users know it (FCC, 47 CFR 64.501: 1,400 Hz), once."""

READY_S = 5.0
"""How long the media's way may take to be found and keyed; then it is begun all the same."""

SILENT = 0.001
"""Of full scale: an announcement that nowhere reaches this was not recorded."""


@dataclass(frozen=True)
class Announcement:
    """`name` is what the record calls it; `frames` are the engine's, with silence at the end."""

    name: str
    frames: tuple[Frame, ...]

    def cut(self, samples: int) -> Iterator[Frame]:
        """The same in frames of so many samples, the last filled with silence."""
        sound = np.concatenate(self.frames)
        yield from np.pad(sound, (0, -len(sound) % samples)).reshape(-1, samples)


async def wait_ready(leg: Leg, exchange: Callable[[], Awaitable[Exchange]], frame_s: float) -> None:
    """Wait, frame by frame of `exchange`, until what is played is heard: a browser that has our answer still looks for
    a way, and agrees on keys."""
    for _ in range(round(READY_S / frame_s)):
        if leg.ready:
            break
        await exchange()


async def announce(
    announcement: Announcement,
    leg: Leg,
    exchange: Callable[[], Awaitable[Exchange]],
    note: dict[str, Any],
    audio_format: AudioFormat,
) -> None:
    """Play it to the far end of `leg`; `exchange` gives its next frame's time, in that format. A hold only delays it.

    `note` fills with what the record tells: what was `heard`, for how long, and if that was the `whole` of it.
    """
    note |= {"heard": announcement.name, "duration_s": 0.0, "whole": False}
    whole = True
    for frame in announcement.cut(audio_format.frame_samples):
        while (await exchange()).held:
            pass
        leg.play(frame)
        whole = whole and leg.ready
        note["duration_s"] = round(note["duration_s"] + audio_format.frame_s, 3)
    note["whole"] = whole


async def announce_alone(announcement: Announcement | None, leg: Leg, audio_format: AudioFormat) -> dict[str, Any]:
    """The same on a leg that nobody else uses yet; gives the note. Raises LegError where the media is lost."""
    note: dict[str, Any] = {}
    if announcement is None:
        return note

    async def play() -> None:
        await wait_ready(leg, leg.exchange, audio_format.frame_s)
        await announce(announcement, leg, leg.exchange, note, audio_format)

    async def lost() -> None:
        raise LegError(await leg.lost())

    await first_of(play(), lost())
    return note


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
