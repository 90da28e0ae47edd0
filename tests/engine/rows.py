"""Rows for the engine's tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from engine.batch import Batch
from engine.model.checkpoint import load_checkpoint
from engine.slot import FRAME_SAMPLES, Frame, Sampling, Tokens


def noise(frames: int, seed: int = 0) -> list[Frame]:
    """What a caller might say."""
    return list(np.random.default_rng(seed).normal(0, 0.1, (frames, FRAME_SAMPLES)).astype(np.float32))


def no_log(streams: int = 17) -> Tokens:
    """The log of a call that has not begun."""
    return np.zeros((0, streams), np.uint16)


def prime(batch: Batch, row: int, text: str = "", keep_frames: int = 0, sampling: Sampling | None = None) -> None:
    """Run a prompt through `row`, all its chunks at once."""
    frames = batch.layout.frames(batch.tokenizer, text)
    for chunk in batch.plan(row, frames, keep_frames, sampling or Sampling()):
        batch.prefill(chunk)


def live_batch(folder: Path, rows: int) -> Batch:
    """All rows open, and primed without a prompt."""
    batch = Batch(load_checkpoint(str(folder)), rows)
    for row in range(rows):
        batch.open(row, no_log())
        prime(batch, row)
    return batch
