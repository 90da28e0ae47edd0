"""How much longer ticks take with ears: what is compared, and that it is told."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from engine import bench
from engine.batch import Batch, RowStep, Stepped
from engine.growth import STT_1B, growth, open_ear
from engine.model.checkpoint import load_checkpoint
from engine.model.moshi_config import MoshiConfig
from engine.slot import EngineError
from tests.engine.ears import write_listener
from tests.engine.model.test_moshi_config import STT_1B as PUBLISHED_1B


def test_the_same_rows_are_stepped_with_ears_and_without_by_turns(eared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint, steps = load_checkpoint(str(eared)), []
    ear = open_ear("auto", str(eared), checkpoint, torch.float32)
    step = Batch.step

    def counted(batch: Batch, asked: list[RowStep]) -> list[Stepped]:
        steps.append([one.hears for one in asked])
        assert batch.ears is not None
        assert min(batch.state.kv.position.tolist()) >= 100 and min(batch.ears.ear._state.kv.position.tolist()) >= 50
        return step(batch, asked)

    monkeypatch.setattr(Batch, "step", counted)
    found = growth(checkpoint, ear, rows=2, window=100, turns=30)
    assert steps == [[False] * 2, [True] * 2] * 33
    assert (found.rows, found.turns) == (2, 30) and 0 < found.without < found.with_ears
    assert re.fullmatch(r"2 rows on a CPU: tick .* with ears .* \+\d.* medians of 30 turns each", str(found))


def test_so_few_turns_are_no_measurement(eared: Path) -> None:
    checkpoint = load_checkpoint(str(eared))
    with pytest.raises(ValueError, match="29 turns are too few; at least 30"):
        growth(checkpoint, open_ear("auto", str(eared), checkpoint, torch.float32), 1, 10, turns=29)


def test_an_ear_is_found_by_its_name(nano: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(str(nano))
    with pytest.raises(EngineError, match="no ear lies beside"):
        open_ear("auto", str(nano), checkpoint, torch.float32)
    folder = write_listener(tmp_path / "stt", nano)
    assert open_ear(str(folder), str(nano), checkpoint, torch.float32).revision.startswith("stt@")


def test_the_random_one_is_of_the_published_size() -> None:
    assert STT_1B == MoshiConfig.from_kwargs(PUBLISHED_1B)


def test_the_command_tells_it(eared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--model", str(eared), "--device", "cpu", "--precision", "fp32", "--rows", "1", "--window", "50"]
    assert bench.main([*asked, "--ear", "auto"]) == 0
    assert "1 rows on a CPU: tick" in capsys.readouterr().out
    assert bench.main([*asked, "--ear", "/nowhere"]) == 2
    assert "there is no folder '/nowhere'" in capsys.readouterr().err
