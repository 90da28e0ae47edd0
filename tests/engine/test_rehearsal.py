"""rehearsal.py: what is run before any call leaves no trace, and its times are those of full windows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from engine.batch import Batch, RowStep, Stepped
from engine.model.checkpoint import load_checkpoint
from engine.rehearsal import REHEARSALS, rehearse, warm_up
from tests.engine.rows import fingerprint, live_batch, no_log, noise, prime, same, talk


@pytest.fixture
def batch(nano: Path) -> Batch:
    return live_batch(nano, rows=4)


def test_warming_up_leaves_no_trace(batch: Batch, nano: Path) -> None:
    warm = Batch(load_checkpoint(str(nano)), 4)
    warm_up(warm)
    for row in range(4):
        warm.open(row, no_log())
        prime(warm, row)
    assert [fingerprint(warm, row) for row in range(4)] == [fingerprint(batch, row) for row in range(4)]


class Clock:
    """Time that passes by what is run: a millisecond, and so much more a row of a tick, or a column of a chunk."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 0.001
        return self.now


def test_ticks_are_timed_with_full_windows_and_chunks_fit_the_limit(
    nano: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch, clock, held = Batch(load_checkpoint(str(nano)), 3, limit_s=0.064), Clock(), set()
    step, zeros = batch.step, batch.primer.run_zeros

    def tick(steps: Sequence[RowStep]) -> list[Stepped]:
        held.update(batch.state.kv.position.tolist())
        clock.now += 0.010 + 0.001 * len(steps)
        return step(steps)

    def chunk(columns: int) -> None:
        clock.now += 0.0002 * columns
        zeros(columns)

    monkeypatch.setattr(batch, "step", tick)
    monkeypatch.setattr(batch.primer, "run_zeros", chunk)
    rehearse(batch, clock)
    monkeypatch.undo()
    ticks = batch.admission.ticks
    assert [ticks.of(rows) for rows in (1, 2, 3)] == pytest.approx([0.012, 0.013, 0.014])
    assert min(held) >= batch.window_frames
    assert batch.primer.chunk_columns == 64  # of 128, a quarter of the limit would be passed
    assert batch.admission.wait_s(3) == pytest.approx(0.012 + 0.013 + 0.0138)
    assert batch.renewable_frames == batch.primer.renewable_frames
    for row in range(3):
        batch.open(row, no_log())
        prime(batch, row)
    assert same(talk(batch, 2, noise(3)), talk(live_batch(nano, rows=1), 0, noise(3)))


def test_without_a_limit_nothing_is_timed(batch: Batch) -> None:
    rehearse(batch, lambda: pytest.fail("nobody asked"))
    assert batch.admission.admits(4)


def test_the_first_of_some_runs_does_not_count(nano: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have had kernels to choose; of the others the shortest counts, since the rest waited for something."""
    batch, clock, calls = Batch(load_checkpoint(str(nano)), 1, limit_s=0.064), Clock(), 0

    def tick(steps: Sequence[RowStep]) -> list[Stepped]:
        nonlocal calls
        calls += 1
        clock.now += [0.0, 0.040, 0.020, 0.030][(calls - 1) % REHEARSALS]
        return []

    monkeypatch.setattr(batch, "step", tick)
    rehearse(batch, clock, sizes=[16])
    assert calls == REHEARSALS
    assert batch.admission.ticks.of(1) == pytest.approx(0.021)
    assert batch.primer.chunk_columns == 16
