"""What a batch runs before any call: kernels are chosen, and what ticks and primes will take is found."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch

from engine.admission import chunk_size, row_counts
from engine.batch import Batch, RowStep
from engine.room import peak_bytes
from engine.slot import FRAME_SAMPLES, Sampling

CHUNK_SIZES = 16, 32, 64, 128, 256
"""Columns of a prime chunk, to choose from."""

REHEARSALS = 4
"""Of each thing whose time is taken."""


def warm_up(batch: Batch) -> None:
    """Run primes and a step of no consequence, so that the first caller does not wait for kernels to be chosen.

    Before any row is opened.
    """
    device, columns = batch.state.kv.position.device, batch.primer.chunk_columns
    held = peak_bytes(device)
    for chunk in batch.plan(0, np.zeros((columns, batch.streams), np.int64), 0, Sampling()):
        batch.prefill(chunk)
    batch.prime_bytes = peak_bytes(device) - held
    _step_silence(batch, batch.rows, hears=True)
    frames = np.zeros((min(columns, batch.renewable_frames - 1), batch.streams), np.int64)
    for _ in batch.renew(0, frames, 0, Sampling()):
        pass
    batch.prefixes.clear()


def rehearse(batch: Batch, clock: Callable[[], float] = time.perf_counter, sizes: Sequence[int] = CHUNK_SIZES) -> None:
    """Time ticks and prime chunks as they are once all windows are full; and prime in chunks that are short enough.

    `sizes` are those to choose from.

    Before any row is opened, and only where there is a limit to keep.
    """
    admission = batch.admission
    if (limit_s := admission.limit_s) is None:
        return
    with torch.inference_mode():
        batch.state.kv.position.fill_(batch.window_frames)
    for rows in row_counts(batch.rows):
        admission.ticks.measured(rows, _best(partial(_step_silence, batch, rows), clock))
    if batch.ears:
        batch.ears.ear.fill()
        for rows in row_counts(batch.hearing.rows):
            took = _best(partial(_step_silence, batch, rows, hears=True), clock)
            admission.ears.measured(rows, max(0.0, took - admission.ticks.of(rows)))
    sizes = [size for size in sizes if size < batch.window_frames] or [1]
    costs = {size: _best(partial(batch.primer.run_zeros, size), clock) for size in sizes}
    chosen = chunk_size(costs, limit_s)
    batch.prime_by(chosen)
    admission.chunks.measured(1, costs[chosen])


def _step_silence(batch: Batch, rows: int, hears: bool = False) -> None:
    silence = np.zeros(FRAME_SAMPLES, np.float32)
    batch.step([RowStep(row, silence, None, Sampling(), hears) for row in range(rows)])


def _best(run: Callable[[], None], clock: Callable[[], float]) -> float:
    """The least seconds of a few runs, the first of which may have had kernels to choose."""
    times = []
    for _ in range(REHEARSALS):
        began = clock()
        run()
        times.append(clock() - began)
    return min(times[1:])
