"""From the blocks of the wire to the exchanges that the user of a Leg takes: one frame's time each."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

import numpy as np

from media.leg import AudioFormat, Exchange
from media.outgoing import Sent
from media.pcm import BLOCKS_PER_S, Resampler, SampleQueue
from media.playout import Heard

MAX_WAITING_S = 0.24
"""Seconds that wait for a reader: three of the model's frames. Full: the oldest exchange is dropped, and its samples
are counted as skipped in the next."""


class Incoming:
    """Put in what was heard and what was sent with each tick; take out an `Exchange` after each frame's time.

    Heard blocks stay at the codec's rate until a frame's time is there, then one resampler call makes the frame.
    Both sides of an exchange are of the same ticks, so they are aligned and equally long.
    """

    def __init__(self, audio_format: AudioFormat, sample_rate: int) -> None:
        """`sample_rate` is the codec's. Raises ValueError if a frame is no whole number of blocks."""
        self._format = audio_format
        block_samples, fraction = divmod(audio_format.sample_rate, BLOCKS_PER_S)
        if fraction or audio_format.frame_samples % block_samples:
            raise ValueError(f"a frame must be a multiple of 20 ms, not {1e3 * audio_format.frame_s:g} ms")
        self._blocks_a_frame = audio_format.frame_samples // block_samples
        self._max_waiting = max(1, round(MAX_WAITING_S / audio_format.frame_s))
        self._waiting: deque[Exchange] = deque()
        self._skipped = 0
        self._resampler = Resampler(sample_rate, audio_format.sample_rate)
        self._heard = SampleQueue(2 * audio_format.frame_samples)
        self._blocks: list[Heard] = []
        self._sent: list[Sent] = []
        self._concealed = 0

    @property
    def waiting(self) -> int:
        """Exchanges that can be taken."""
        return len(self._waiting)

    def change_rate(self, sample_rate: int) -> None:
        """The blocks to come are at another rate, for the codec has changed."""
        if sample_rate != self._resampler.source_rate:
            self._resample()
            self._resampler = Resampler(sample_rate, self._format.sample_rate)

    def put(self, heard: Heard, sent: Sent, held: bool = False, speakers: tuple[str, ...] = ()) -> None:
        """One tick: the block that was heard, and the block that left.

        The last tick of a frame says if it is held, and who speaks.
        """
        self._blocks.append(heard)
        self._sent.append(sent)
        if len(self._sent) == self._blocks_a_frame:
            self._complete(held, speakers)

    def skip(self, samples: int) -> None:
        """So many samples of the user's time are over, and were never put in."""
        self._skipped += samples

    def take(self) -> Exchange | None:
        """The oldest exchange, or None when its time is not over yet."""
        if not self._waiting:
            return None
        exchange = self._waiting.popleft()
        if self._skipped:
            exchange = replace(exchange, skipped=self._skipped)
            self._skipped = 0
        return exchange

    def _complete(self, held: bool, speakers: tuple[str, ...]) -> None:
        self._resample()
        exchange = Exchange(
            heard=self._heard.take(self._format.frame_samples),
            played=np.concatenate([sent.played for sent in self._sent]),
            held=held,
            speakers=speakers,
            concealed=self._concealed,
            padded=sum(sent.padded for sent in self._sent),
            cut=sum(sent.cut for sent in self._sent),
        )
        self._sent.clear()
        self._concealed = 0
        if len(self._waiting) == self._max_waiting:
            self._drop_oldest()
        self._waiting.append(exchange)

    def _resample(self) -> None:
        """Move the blocks collected so far into the queue, at the user's rate."""
        if self._blocks:
            self._heard.put(self._resampler(np.concatenate([block.pcm for block in self._blocks])))
            concealed = sum(block.concealed for block in self._blocks)
            self._concealed += concealed * self._format.sample_rate // self._resampler.source_rate
            self._blocks.clear()

    def _drop_oldest(self) -> None:
        """Its samples are skipped; what was counted in its time is told with the next one."""
        lost, after = self._waiting.popleft(), self._waiting[0]
        self._skipped += self._format.frame_samples
        self._waiting[0] = replace(
            after,
            concealed=after.concealed + lost.concealed,
            padded=after.padded + lost.padded,
            cut=after.cut + lost.cut,
        )
