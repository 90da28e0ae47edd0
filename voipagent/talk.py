"""A file through the engine as if it were a live call, as fast as the machine allows."""

from __future__ import annotations

import wave
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain, combinations, groupby
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from engine.slot import Engine, Sampling, Slot
from voipagent.context import Line, Transcript
from voipagent.persona import Persona

Samples = NDArray[np.float32]


class AudioFileError(Exception):
    """A file cannot be read as audio, or not be written; the message names it and says why."""


async def talk(
    engine: Engine,
    persona: Persona,
    sampling: Sampling,
    source: Path,
    target: Path,
    write_line: Callable[[Line], None],
) -> None:
    """Let the model hear `source` and write what it says to `target`, exactly as long, mono at the engine's rate.

    What both say goes to `write_line`. Memory does not grow with the length. Raises AudioFileError, EngineError.
    """
    check_distinct(source, target)
    frames = read_frames(source, engine.sample_rate, engine.frame_samples)
    with writing(target), target.open("wb") as handle, wave.open(handle, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(engine.sample_rate)
        async with engine.open(sampling) as slot:
            await slot.prime(persona.engine_prompt())
            slot.say(persona.greeting)
            transcript = Transcript(write_line, slot.hearing_delay_frames)
            await _converse(slot, frames, file, transcript, engine)


def check_distinct(*paths: Path) -> None:
    """Raises AudioFileError if two are one file: what is to be read would be written over."""
    for one, other in combinations(paths, 2):
        if one.resolve() == other.resolve() or (one.exists() and other.exists() and one.samefile(other)):
            raise AudioFileError(f"{str(one)!r} and {str(other)!r} are the same; one file cannot be two of these")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """What the disk refuses in here becomes AudioFileError, with the file's name."""
    try:
        yield
    except OSError as error:
        raise AudioFileError(f"cannot write {str(path)!r}: {error.strerror or error}") from None


async def _converse(
    slot: Slot, frames: Iterator[Samples], file: wave.Wave_write, transcript: Transcript, engine: Engine
) -> None:
    frame_s = engine.frame_samples / engine.sample_rate
    for number, samples in enumerate(frames):
        forced = slot.saying
        reply = await slot.step(np.pad(samples, (0, engine.frame_samples - len(samples))))
        said = np.clip(reply.frame[: len(samples)], -1.0, 1.0)
        file.writeframes((said * 32767).astype("<i2").tobytes())
        began, ended = number * frame_s, (number + 1) * frame_s
        transcript.hear(reply.text, began, ended, heard=reply.heard, word_due=reply.word_due, saying=slot.saying)
        if forced and not slot.saying:
            transcript.end_line()
    transcript.close()


def read_frames(path: Path, sample_rate: int, frame_samples: int) -> Iterator[Samples]:
    """The file's first audio stream, mixed to mono, in frames; the last may be shorter. NaN becomes silence.

    Raises AudioFileError at once if the file holds no audio, later where it is torn.
    """
    try:
        container = av.open(str(path))
    except (OSError, av.FFmpegError, UnicodeDecodeError) as error:
        raise AudioFileError(f"cannot read {str(path)!r} as audio: {_reason(error)}") from None
    if not container.streams.audio:
        container.close()
        raise AudioFileError(f"cannot read {str(path)!r} as audio: it holds no audio stream")
    return _frames(_pieces(path, container, sample_rate), frame_samples)


def _pieces(path: Path, container: av.container.InputContainer, sample_rate: int) -> Iterator[Samples]:
    """Decoded, resampled pieces of whatever length the file has them in."""
    with container:
        try:
            for _, frames in groupby(container.decode(audio=0), _kind):  # it may change midway
                resampler = av.AudioResampler(format="flt", layout="mono", rate=sample_rate)
                for frame in chain(frames, [None]):
                    yield from map(_clean, resampler.resample(frame))
        except av.FFmpegError as error:
            raise AudioFileError(f"{str(path)!r} is torn: {_reason(error)}") from None


def _kind(frame: av.AudioFrame) -> tuple[str, str, int]:
    return frame.format.name, frame.layout.name, frame.sample_rate


def _clean(piece: av.AudioFrame) -> Samples:
    samples: Samples = np.clip(piece.to_ndarray()[0], -1.0, 1.0)
    samples[np.isnan(samples)] = 0.0
    return samples


def _frames(pieces: Iterator[Samples], frame_samples: int) -> Iterator[Samples]:
    """Cut into frames; never holds more than one piece and one frame."""
    rest = np.zeros(0, np.float32)
    for piece in pieces:
        rest = np.concatenate([rest, piece])
        whole = len(rest) - len(rest) % frame_samples
        yield from np.split(rest[:whole], range(frame_samples, whole, frame_samples)) if whole else ()
        rest = rest[whole:]
    if len(rest):
        yield rest


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
