"""A call's recording: stereo, caller left, agent right, from the answer to the end.

It is written from `Exchange`, so both channels have the same length by construction. The disk has a thread of its own,
one for all that is kept of all calls: a slow disk must not make anybody's frame late. A recording whose disk fails, or
falls behind by MAX_BEHIND_S, stops and says so; the call goes on.

At any moment the file plays up to the last second: who kills the agent loses what was said in that. Nothing is synced
to the disk on purpose, so a power cut costs what the kernel had not written yet, 30 s by Linux's default.
"""

from __future__ import annotations

import asyncio
import logging
import os
import struct
import wave
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import IO, Literal, Protocol

import av
import numpy as np
from numpy.typing import NDArray

from media.leg import Exchange

logger = logging.getLogger(__name__)

BLOCK_S = 0.4
"""Audio is handed to the disk in blocks of this many seconds."""

PAGE_S = 0.2
"""Of Ogg: the last page but one is what a file that is being written ends with."""

MAX_BEHIND_S = 30
"""Seconds of audio that may wait for the disk before the recording is given up."""

CLOSE_S = 2.0
"""Seconds that the end of a call waits for the disk. What is not written by then is written later, if ever: the call's
row is not kept for it."""

Stereo = NDArray[np.int16]
"""Shape (T, 2): caller, agent."""

Channels = Literal["both", "agent", "none"]


class AudioFile(Protocol):
    """A stereo file being written."""

    def write(self, samples: Stereo) -> None:
        """Append. Raises OSError when the disk refuses."""

    def close(self) -> None:
        """Finish the file. Raises OSError."""


class WavFile:
    """PCM 16 bit. The header is mended with every write, so a torn file still plays."""

    def __init__(self, path: Path, sample_rate: int) -> None:
        self._handle = open_private(path)
        self._file = wave.open(self._handle, "wb")
        self._file.setnchannels(2)
        self._file.setsampwidth(2)
        self._file.setframerate(sample_rate)

    def write(self, samples: Stereo) -> None:
        """Append; OSError too where the format ends, at 4 GiB (12 hours)."""
        try:
            self._file.writeframes(samples.astype("<i2").tobytes())
        except struct.error:
            raise OSError("a WAV file ends at 4 GiB") from None
        self._handle.flush()

    def close(self) -> None:
        """Finish the file."""
        try:
            self._file.close()
        finally:
            self._handle.close()  # wave leaves a file that it was handed open


class OggFile:
    """Opus in Ogg, a tenth of the size."""

    def __init__(self, path: Path, sample_rate: int) -> None:
        self._handle = open_private(path)
        pages = {"page_duration": str(round(PAGE_S * 1_000_000))}
        self._container = av.open(self._handle, "w", format="ogg", options=pages)
        self._stream = self._container.add_stream("libopus", rate=sample_rate, layout="stereo", bit_rate=48_000)
        self._sample_rate = sample_rate
        self._samples = 0

    def write(self, samples: Stereo) -> None:
        """Append."""
        frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format="s16", layout="stereo")
        frame.sample_rate = self._sample_rate
        frame.pts = self._samples
        self._samples += len(samples)
        self._container.mux(self._stream.encode(frame))
        self._handle.flush()

    def close(self) -> None:
        """Finish the file."""
        try:
            self._container.mux(self._stream.encode(None))
            self._container.close()
        finally:
            self._handle.close()


FORMATS: dict[str, type[WavFile] | type[OggFile]] = {"wav": WavFile, "ogg": OggFile}


class Recorder(AbstractContextManager["Recorder"]):
    """The disk's thread, which does one thing after the other. Leaving it waits until everything is written."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="recorder")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(wait=True)

    def do(self, act: Callable[..., object], *arguments: object) -> Future[object]:
        """Do `act` after all that was asked before. It waits however long the disk takes; what it raises, it keeps."""
        return self._thread.submit(act, *arguments)

    def record(self, path: Path, sample_rate: int, channels: Channels) -> Recording:
        """Begin a recording at `path`, whose suffix names the format."""
        return Recording(self, path, sample_rate, channels)


class Recording:
    """One call's file. `error` says why it stopped early, if it did."""

    def __init__(self, recorder: Recorder, path: Path, sample_rate: int, channels: Channels) -> None:
        self.path = path
        self.error = "" if channels != "none" else "off"
        self.samples = 0
        self._recorder, self.sample_rate, self._channels = recorder, sample_rate, channels
        self._block: list[Stereo] = []  # the loop's, as `_behind` is
        self._behind: list[Future[object]] = []
        self._file: AudioFile | None = None  # the disk thread's

    @property
    def seconds(self) -> float:
        """How long the call has lasted, recorded or not."""
        return self.samples / self.sample_rate

    @property
    def of_caller(self) -> bool:
        """Whether anything that the caller says may be kept."""
        return self._channels == "both"

    @property
    def name(self) -> str:
        """The file's, "" where there is none: nothing was to be recorded, or the disk refused."""
        return self.path.name if self._file or (self._behind and not self.error) else ""

    def write(self, exchange: Exchange) -> None:
        """Append one frame's time, and before it silence for what was skipped."""
        block = _stereo(exchange, self._channels)
        self.samples += len(block)
        if self.error:
            self._block.clear()
            return
        self._block.append(block)
        if sum(map(len, self._block)) >= BLOCK_S * self.sample_rate:
            self._flush()

    async def close(self) -> None:
        """Write what is left and finish the file."""
        if self._block and not self.error:
            self._flush()
        await settled(self._recorder.do(self._close))

    def _flush(self) -> None:
        self._behind = [write for write in self._behind if not write.done()]
        if len(self._behind) * BLOCK_S >= MAX_BEHIND_S:
            self._stop(f"the disk is {MAX_BEHIND_S} s behind")
            return
        block, self._block = np.concatenate(self._block), []
        self._behind.append(self._recorder.do(self._write, block))

    def _write(self, block: Stereo) -> None:
        if self.error:
            return
        try:
            if self._file is None:
                self._file = FORMATS[self.path.suffix[1:]](self.path, self.sample_rate)
            self._file.write(block)
        except (OSError, av.FFmpegError) as error:
            self._stop(str(error))

    def _close(self) -> None:
        if self._file is None:
            return
        try:
            self._file.close()
        except (OSError, av.FFmpegError) as error:
            self._stop(str(error))

    def _stop(self, reason: str) -> None:
        """On either thread."""
        if not self.error:
            self.error = reason
            logger.error("x recording %s stopped: %s", self.path, reason)


async def settled(done: Future[object]) -> None:
    """Wait for the disk, but no longer than CLOSE_S."""
    _, late = await asyncio.wait([asyncio.wrap_future(done)], timeout=CLOSE_S)
    if late:
        logger.warning("x the disk is more than %g s late; a call's end does not wait for it", CLOSE_S)


def open_private(path: Path) -> IO[bytes]:
    """Open a new file for writing that only its owner may read."""
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600), "w+b")


def _stereo(exchange: Exchange, channels: Channels) -> Stereo:
    caller = exchange.heard if channels == "both" else np.zeros_like(exchange.heard)
    skipped = np.zeros(exchange.skipped, np.float32)
    pair = np.stack([np.concatenate([skipped, caller]), np.concatenate([skipped, exchange.played])], axis=1)
    samples: Stereo = np.round(np.clip(np.nan_to_num(pair), -1.0, 1.0) * 32767).astype(np.int16)
    return samples
