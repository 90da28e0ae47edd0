"""How much longer ticks take where callers are heard too: the same rows with their ears and without, by turns.

By turns, so that what else the machine does meets both alike; on a CPU the process's own time is counted.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch

from engine.batch import Batch, KeyPrecision, RowStep
from engine.measure import LEAST, Graphs, drawn, fill, prepare
from engine.model.checkpoint import Checkpoint
from engine.model.listening import EarCheckpoint, load_ear, load_listener
from engine.model.mimi import Mimi, MimiConfig
from engine.model.moshi import Moshi, MoshiConfig
from engine.slot import FRAME_SAMPLES, EngineError, Sampling

STT_1B = MoshiConfig(
    dim=2_048,
    num_layers=16,
    num_heads=16,
    context=750,
    max_period=100_000.0,
    n_q=32,
    dep_q=0,
    text_card=8_000,
    delays=(0,) * 33,
    extra_heads_num_heads=4,
)
"""Kyutai's stt-1b-en_fr."""

TURNS = 60


@dataclass(frozen=True, slots=True)
class Growth:
    """Medians of so many turns each, in milliseconds, all windows full."""

    device: str
    rows: int
    turns: int
    without: float
    with_ears: float

    def __str__(self) -> str:
        more = self.with_ears - self.without
        return (
            f"{self.rows} rows on {self.device}: tick {self.without:.2f} ms, with ears {self.with_ears:.2f} ms, "
            f"{more:+.2f} ms ({more / self.without:+.0%}); medians of {self.turns} turns each"
        )


def open_ear(name: str, model: str, checkpoint: Checkpoint, dtype: torch.dtype) -> EarCheckpoint:
    """`1b` is one of random weights, of that size; `auto` that beside `model`; else a folder or a Hub repository.

    Raises EngineError.
    """
    device = next(checkpoint.mimi.parameters()).device
    if name == "1b":
        sizes = MimiConfig()
        codec = drawn(lambda: Mimi(sizes, STT_1B.n_q), device, torch.float32)
        return EarCheckpoint(drawn(lambda: Moshi(STT_1B), device, dtype), checkpoint.tokenizer, codec, 6, "random")
    if name != "auto":
        return load_listener(name, checkpoint, device, dtype)
    ear = load_ear(model, checkpoint, device, dtype)
    if ear is None:
        raise EngineError(f"no ear lies beside {model!r}")
    return ear


@torch.inference_mode()
def growth(
    checkpoint: Checkpoint,
    ear: EarCheckpoint,
    rows: int,
    window: int,
    kv: KeyPrecision = "full",
    graphs: Graphs = "auto",
    turns: int = TURNS,
) -> Growth:
    """Raises ValueError for so few turns that a median would say nothing."""
    if turns < LEAST:
        raise ValueError(f"{turns} turns are too few; at least {LEAST} are needed")
    batch = Batch(checkpoint, rows, ear, kv, ears=rows)
    prepare(batch, graphs)
    fill(batch, window)
    if batch.ears is not None:
        batch.ears.ear.fill()
    cuda = batch.state.kv.position.is_cuda
    clock = time.perf_counter if cuda else time.process_time
    silence = np.zeros(FRAME_SAMPLES, np.float32)
    times: tuple[list[float], list[float]] = [], []
    for _ in range(turns + 3):  # the first choose kernels
        for hears in (False, True):
            steps = [RowStep(row, silence, None, Sampling(), hears) for row in range(rows)]
            began = clock()
            batch.step(steps)
            times[hears].append(1000 * (clock() - began))
    without, with_ears = (float(np.median(each[3:])) for each in times)
    return Growth(torch.cuda.get_device_name() if cuda else "a CPU", rows, turns, without, with_ears)
