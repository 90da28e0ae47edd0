"""A call of an hour, as fast as it can be stepped: memory is flat, no trim makes a frame late, and the voice is one."""

from __future__ import annotations

import gc
import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.batch import Batch, RowStep, Stepped
from engine.local import LocalEngine
from engine.model.checkpoint import load_checkpoint
from engine.model.mimi import MimiState
from engine.model.voice import VoiceState
from engine.slot import FRAME_SAMPLES, Frame, Sampling
from media.leg import Pcm
from tests.engine.rows import noise
from tests.voipagent.longcall import hold_call
from voipagent.recording import Recorder
from voipagent.trim import Memory

FRAMES_A_MINUTE = 750
FRAME_S = 0.08


class Watched(Batch):
    """A row of the nano model. What its thread computes is timed by that thread's own clock, which stands still while
    the machine is busy with others; the codes that it voices are kept until they are asked for."""

    def __init__(self, folder: Path) -> None:
        super().__init__(load_checkpoint(str(folder)), 1)
        self.voiced: deque[Tensor] = deque()
        self.ticks, self.chunks, self.late = 0, 0, 0
        self._chunk_s = 0.0
        self.plain_decode = self._mimi.decode
        self._mimi.decode = self._decode  # type: ignore[method-assign]

    def _decode(self, codes: Tensor, state: MimiState, mask: Tensor | None) -> Tensor:
        self.voiced.append(codes.clone())
        return self.plain_decode(codes, state, mask)

    def step(self, steps: Sequence[RowStep]) -> list[Stepped]:
        began = time.thread_time()
        stepped = super().step(steps)
        took = time.thread_time() - began
        self.ticks += 1
        self.late += took <= FRAME_S < took + self._chunk_s
        self._chunk_s = 0.0
        return stepped

    def renew(
        self,
        row: int,
        frames: NDArray[np.int64],
        keep_frames: int,
        sampling: Sampling,
        voice: VoiceState | None = None,
        wait: Callable[[], bool] = lambda: False,
    ) -> Generator[bool, None, None]:
        renewal = super().renew(row, frames, keep_frames, sampling, voice, wait)
        try:
            while True:
                began = time.thread_time()
                last = next(renewal)
                self._chunk_s += time.thread_time() - began
                self.chunks += 1
                yield last
                if last:
                    return
        finally:
            renewal.close()


def caller(frames: int) -> Iterator[Frame]:
    """Three seconds of noise a minute, else silence."""
    speech, silence = noise(40), np.zeros(FRAME_SAMPLES, np.float32)
    for number in range(frames):
        place = number % FRAMES_A_MINUTE
        yield speech[place] if place < len(speech) else silence


def resident() -> int:
    """Bytes that this process holds."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.acceptance
@pytest.mark.parametrize("minutes", [1, 6, 60])
async def test_a_long_call(nano: Path, recorder: Recorder, tmp_path: Path, minutes: int) -> None:
    frames = minutes * FRAMES_A_MINUTE
    batch = Watched(nano)
    with torch.inference_mode():
        whole = batch._mimi.initial_state(1)
    farthest, heard, held = 0.0, 0, list[int]()

    def said(pcm: Pcm) -> None:
        nonlocal farthest, heard
        with torch.inference_mode():
            again = batch.plain_decode(batch.voiced.popleft(), whole, None)[0, 0].clamp(-1, 1).numpy()
        farthest = max(farthest, float(np.abs(again - pcm).max()))
        heard += 1
        if heard % (frames // 20) == 0:
            held.append(resident())

    async with LocalEngine("nano", load=lambda: batch) as engine, engine.open(Sampling(seed=1)) as slot:
        left = await hold_call(slot, recorder, tmp_path, caller(frames), Memory(), said=said)
    trims = left["trims"]
    warm, last = held[4], max(held[-4:])  # a fifth of the call is for warming up
    paused = sum(trim["why"] == "pause" for trim in trims)
    print(
        f"\n{minutes} minutes: {len(trims)} trims, {paused} of them in a pause, "
        f"{batch.chunks} chunks, {batch.late} frames late for one; memory {warm >> 20} -> {last >> 20} MiB "
        f"({last / warm - 1:+.2%}); farthest sample {farthest:.1e}"
    )
    assert left["frames_stepped"] == heard == frames
    assert len(trims) >= 2 * minutes and not any(trim["error"] for trim in trims)
    assert batch.late == 0
    assert last <= 1.02 * warm
    assert farthest <= 1e-5
