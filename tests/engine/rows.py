"""Rows for the engine's tests."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from engine.batch import Batch, RowStep, Stepped
from engine.model.checkpoint import load_checkpoint
from engine.model.mimi import MimiState
from engine.model.moshi import MoshiState
from engine.slot import FRAME_SAMPLES, Frame, Sampling, Tokens

SEED_1, SEED_2 = Sampling(seed=1), Sampling(seed=2)


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


def talk(batch: Batch, row: int, frames: Sequence[Frame], sampling: Sampling = SEED_1) -> list[Stepped]:
    """One row by itself."""
    return [batch.step([RowStep(row, frame, None, sampling)])[0] for frame in frames]


def tokens(stepped: Sequence[Stepped]) -> NDArray[np.uint16]:
    return np.stack([one.tokens for one in stepped])


def same(one: Sequence[Stepped], other: Sequence[Stepped]) -> bool:
    return np.array_equal(tokens(one), tokens(other)) and all(
        np.allclose(mine.frame, yours.frame, atol=1e-5) for mine, yours in zip(one, other, strict=True)
    )


def tensors(state: MimiState | MoshiState) -> list[Tensor]:
    """Everything that the rows remember."""
    if isinstance(state, MoshiState):
        return [state.kv.keys, state.kv.values, state.kv.position, state.table]
    encoder, decoder = state.encoder, state.decoder
    kvs = (encoder.transformer, decoder.transformer)
    carries = (*encoder.convs.carries, *encoder.downsample.carries, *decoder.upsample.carries, *decoder.convs.carries)
    return [*carries, encoder.fresh, *(part for kv in kvs for part in (kv.keys, kv.values, kv.position))]


def fingerprint(batch: Batch, row: int) -> str:
    """Every bit that `row` remembers."""
    digest = hashlib.sha256()
    for tensor in [*tensors(batch._codec), *tensors(batch._state)]:
        assert len(tensor) == batch.rows
        digest.update(tensor[row].numpy().tobytes())
    return digest.hexdigest()
