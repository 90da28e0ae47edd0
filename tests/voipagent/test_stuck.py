"""Rows that are made to get stuck, in calls: each is found in time, primed anew and counted, and the call goes on."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Generator, Iterator, Sequence
from itertools import cycle, repeat
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.batch import Batch, RowStep, Stepped
from engine.local import LocalEngine
from engine.model.checkpoint import load_checkpoint
from engine.model.text import PAD
from engine.model.voice import VoiceState
from engine.slot import FRAME_SAMPLES, Frame, Sampling
from tests.engine.rows import noise
from tests.fakes import SILENCE
from tests.voipagent.longcall import hold_call
from voipagent.events import Event, Trimmed, Troubled
from voipagent.recording import Recorder
from voipagent.trim import Memory

FRAME_S = 0.08


class Stuck(Batch):
    """Rows of the nano model whose text is forced, a frame after the other, until they are primed anew.

    Their ear and voice cost nothing: what is at stake here is text.
    """

    def __init__(self, folder: Path, forced: Sequence[Iterator[int]], ends: Sequence[bool]) -> None:
        super().__init__(load_checkpoint(str(folder)), len(forced))
        self._mimi.encode = lambda audio, state, mask: (audio[:, 0, :8, None] * 1000).long() % 128  # type: ignore[method-assign]
        self._mimi.decode = lambda codes, state, mask: codes.new_zeros((len(codes), 1, FRAME_SAMPLES)).float()  # type: ignore[method-assign]
        self._forced: dict[int, Iterator[int]] = dict(enumerate(forced))
        self._ends = ends

    def step(self, steps: Sequence[RowStep]) -> list[Stepped]:
        return super().step([self._as_stuck(step) for step in steps])

    def _as_stuck(self, step: RowStep) -> RowStep:
        if step.row not in self._forced:
            return step
        return RowStep(step.row, step.frame, next(self._forced[step.row]), step.sampling)

    def renew(
        self,
        row: int,
        frames: NDArray[np.int64],
        keep_frames: int,
        sampling: Sampling,
        voice: VoiceState | None = None,
        wait: Callable[[], bool] = lambda: False,
    ) -> Generator[bool, None, None]:
        if self._ends[row] or not keep_frames:  # a trim that is due anyway cures nobody
            self._forced.pop(row, None)
        return super().renew(row, frames, keep_frames, sampling, voice, wait)


class Watching:
    """Counts what is told of a call."""

    def __init__(self) -> None:
        self.troubles: list[Troubled] = []
        self.trims: list[Trimmed] = []

    def __call__(self, call_id: str, event: Event) -> None:
        if isinstance(event, Troubled):
            self.troubles.append(event)
        elif isinstance(event, Trimmed):
            self.trims.append(event)


def words(count: int, seed: int = 0) -> Iterator[int]:
    """Pieces of words, one a frame, in an order that repeats nothing."""
    draw = random.Random(seed)
    return (draw.randrange(260, 400) for _ in range(count))


async def test_silence_a_loop_and_endless_talk_are_each_found_within_5_s_primed_anew_and_counted(
    nano: Path, recorder: Recorder, tmp_path: Path
) -> None:
    asks: list[Frame] = [*noise(10), *[SILENCE] * 250]  # 0.8 s, then 20 s of waiting
    listens: list[Frame] = [SILENCE] * 120
    hears_out: list[Frame] = [SILENCE] * 815
    forced = [repeat(PAD), cycle(words(6)), words(2_000)]
    watching = [Watching() for _ in forced]
    engine = LocalEngine("stuck", load=lambda: Stuck(nano, forced, [True, False, False]))
    async with engine, asyncio.timeout(500):

        async def call(number: int, frames: list[Frame]) -> dict[str, object]:
            async with engine.open(Sampling(seed=number)) as slot:
                return await hold_call(slot, recorder, tmp_path, frames, Memory(), observers=[watching[number]])

        # The order in which they open is the order of their rows.
        left = await asyncio.gather(*(call(number, frames) for number, frames in enumerate((asks, listens, hears_out))))
    found = [("dead air", 0.8 + 12, 0.8 + 20), ("loop", 1.2, 5.0), ("runaway", 60.0, 65.0)]
    for (trouble, first, last), record, watched in zip(found, left, watching, strict=True):
        told = record["troubles"]
        assert isinstance(told, list) and [each["trouble"] for each in told] == [trouble]
        assert first <= told[0]["at"] <= last
        assert [each.trouble for each in watched.troubles] == [trouble]
        trims = record["trims"]
        assert isinstance(trims, list)
        (cure,) = [trim for trim in trims if trim["why"] == trouble]
        assert cure["error"] == ""
        assert cure["at"] - told[0]["at"] <= 2 * FRAME_S
        assert len(watched.trims) == len(trims)
        assert (record["ended_by"], record["reason"]) == ("caller", "hung up")
