"""What a trim of one call costs the others: a tick by itself, and a tick that a chunk of a prime came before, by turns.

By turns, so that what else the machine does meets both alike; on a CPU the process's own time is counted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass

import numpy as np
import torch

from engine.batch import Batch, KeyPrecision, RowStep
from engine.measure import LEAST, Graphs, fill, prepare
from engine.model.checkpoint import Checkpoint
from engine.slot import FRAME_SAMPLES, Sampling

TURNS = 60

KEEP_SHARE = 0.25
"""Of the window, in columns: what a trim keeps unless it is told otherwise. As many columns of a prompt come before."""


@dataclass(frozen=True, slots=True)
class TrimCost:
    """Medians of so many turns each, in milliseconds, all windows full."""

    device: str
    rows: int
    turns: int
    chunk_columns: int
    alone: float
    chunk: float
    beside: float

    @property
    def growth(self) -> float:
        """By how much a tick itself is longer for what the chunk before it has left behind, as a part of that chunk."""
        return (self.beside - self.alone) / self.chunk

    def __str__(self) -> str:
        return (
            f"{self.rows} rows on {self.device}: tick {self.alone:.2f} ms; while one is trimmed {self.beside:.2f} ms, "
            f"behind a chunk of {self.chunk_columns} columns of {self.chunk:.2f} ms: a reply comes "
            f"{self.chunk + self.beside - self.alone:+.2f} ms later, {1 + self.growth:.2f} of the chunk; "
            f"medians of {self.turns} turns each"
        )


@torch.inference_mode()
def trim_cost(
    checkpoint: Checkpoint,
    rows: int,
    window: int,
    kv: KeyPrecision = "full",
    graphs: Graphs = "auto",
    turns: int = TURNS,
) -> TrimCost:
    """Row 0 is trimmed again and again. Raises ValueError for so few turns that a median would say nothing."""
    if turns < LEAST:
        raise ValueError(f"{turns} turns are too few; at least {LEAST} are needed")
    batch = Batch(checkpoint, rows, kv=kv)
    prepare(batch, graphs)
    fill(batch, window)
    cuda = batch.state.kv.position.is_cuda
    clock = time.perf_counter if cuda else time.process_time
    steps = [RowStep(row, np.zeros(FRAME_SAMPLES, np.float32), None, Sampling()) for row in range(rows)]
    chunks = _chunks(batch)
    alone, chunk, beside = list[float](), list[float](), list[float]()
    for _ in range(turns + 3):  # the first choose kernels
        alone.append(_timed(clock, lambda: batch.step(steps)))
        chunk.append(_timed(clock, lambda: next(chunks)))
        beside.append(_timed(clock, lambda: batch.step(steps)))
    medians = (float(np.median(each[3:])) for each in (alone, chunk, beside))
    device = torch.cuda.get_device_name() if cuda else "a CPU"
    return TrimCost(device, rows, turns, batch.primer.chunk_columns, *medians)


def _chunks(batch: Batch) -> Generator[None, None, None]:
    """The chunks of one trim after the other, but for what catches up, which is shorter."""
    keep = round(KEEP_SHARE * batch.window_frames)
    prompt = np.zeros((keep, batch.streams), np.int64)
    size = batch.primer.chunk_columns
    while True:
        trim = batch.renew(0, prompt, 0, Sampling())
        for _ in range(max(1, keep // size)):  # whole ones
            next(trim)
            yield
        trim.close()


def _timed(clock: Callable[[], float], run: Callable[[], object]) -> float:
    began = clock()
    run()
    return 1000 * (clock() - began)
