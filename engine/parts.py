"""How long the parts of a tick take, each by itself and not captured: for what is worth to be made faster first."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch

from engine.batch import Batch
from engine.model.checkpoint import Checkpoint
from engine.model.moshi import UNGENERATED
from engine.slot import FRAME_SAMPLES

TURNS = 40
"""Of each part."""

PERCENTILES = (50, 95, 99)


def parts(checkpoint: Checkpoint, batch: Batch) -> dict[str, list[float]]:
    """PERCENTILES in milliseconds of `encode`, `temporal`, `depth` with its draws, `decode`, and the `copies` of all
    rows' sound to the device and back; `depth` is left out of a model that does not speak."""
    moshi, mimi, state = checkpoint.moshi, checkpoint.mimi, batch.state
    device, sizes, rows = state.kv.position.device, moshi.config, batch.rows
    codec = mimi.initial_state(rows)
    audio = torch.zeros(rows, 1, FRAME_SAMPLES, device=device)
    codes = torch.zeros(rows, mimi.codebooks, 1, dtype=torch.int64, device=device)
    column = torch.zeros(rows, 1, sizes.streams, dtype=torch.int64, device=device)
    forced = torch.full((rows, sizes.made), UNGENERATED, device=device)
    hidden, logits = moshi.temporal(column, state.kv, None)
    sound = audio.cpu()
    runs: dict[str, Callable[[], object]] = {
        "encode": lambda: mimi.encode(audio, codec, None),
        "temporal": lambda: moshi.temporal(column, state.kv, None),
        "depth": lambda: moshi.choose(hidden, logits[:, 0], forced, None),
        "decode": lambda: mimi.decode(codes, codec, None),
        "copies": lambda: sound.to(device, copy=True).cpu(),
    }
    if not sizes.dep_q:
        del runs["depth"]
    return {name: np.percentile(times_ms(run, device), PERCENTILES).tolist() for name, run in runs.items()}


def times_ms(run: Callable[[], object], device: torch.device, turns: int = TURNS) -> list[float]:
    """How long each of so many turns takes, until the device is done."""
    times = []
    for _ in range(turns):
        _wait(device)
        began = time.perf_counter()
        run()
        _wait(device)
        times.append(1000 * (time.perf_counter() - began))
    return times


def median_ms(run: Callable[[], object], device: torch.device, turns: int = TURNS) -> float:
    """The median of those."""
    return float(np.median(times_ms(run, device, turns)))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
