"""What a trim costs the others: what is compared, that it is told, and that a tick does not bear the chunk's part."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from engine import bench
from engine.batch import Batch, RowStep, Stepped
from engine.model.checkpoint import load_checkpoint
from engine.prime import PrimeChunk, Primer
from engine.trimming import trim_cost


def test_ticks_and_chunks_take_turns(nano: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    step, prefill = Batch.step, Primer._run_chunk

    def stepped(batch: Batch, steps: list[RowStep]) -> list[Stepped]:
        assert min(batch.state.kv.position.tolist()) >= 400
        ran.append(f"tick of {len(steps)}")
        return step(batch, steps)

    def prefilled(primer: Primer, chunk: PrimeChunk, *others: object) -> None:
        ran.append(f"chunk of {len(chunk.columns) - 2}")
        prefill(primer, chunk, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(Batch, "step", stepped)
    monkeypatch.setattr(Primer, "_run_chunk", prefilled)
    cost = trim_cost(load_checkpoint(str(nano)), rows=2, window=400, turns=30)
    assert ran == ["tick of 2", "chunk of 64", "tick of 2"] * 33
    assert cost.chunk > 0
    assert cost.growth < 1  # the tick behind a chunk is hardly longer than any other
    assert re.fullmatch(r"2 rows on a CPU: tick .* while one is trimmed .* medians of 30 turns each", str(cost))


def test_so_few_turns_are_no_measurement(nano: Path) -> None:
    with pytest.raises(ValueError, match="29 turns are too few; at least 30"):
        trim_cost(load_checkpoint(str(nano)), 1, 10, turns=29)


def test_the_command_tells_it(nano: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--model", str(nano), "--device", "cpu", "--precision", "fp32", "--rows", "1", "--window", "50"]
    assert bench.main([*asked, "--trim"]) == 0
    assert "while one is trimmed" in capsys.readouterr().out
