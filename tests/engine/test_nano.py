"""The nano checkpoint: complete, small, the same each time, and there completely or not at all."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from engine import nano as nano_module
from engine.batch import Batch, RowStep
from engine.model.checkpoint import load_checkpoint
from engine.model.moshi import MoshiConfig
from engine.model.text import PAD
from engine.nano import LEVEL, write_nano
from engine.slot import EngineError, Sampling
from tests.engine.rows import live_batch, noise


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_it_loads_as_any_other_checkpoint(nano: Path) -> None:
    checkpoint = load_checkpoint(str(nano))
    config = checkpoint.moshi.config
    assert (config.streams, config.dep_q, config.delays) == (17, 8, MoshiConfig().delays)
    assert (checkpoint.mimi.config.frame_samples, checkpoint.mimi.config.sample_rate) == (1920, 24_000)
    assert len(checkpoint.tokenizer) == config.text_card
    assert checkpoint.layout.style == "text"


def test_it_is_in_the_published_form_and_small(nano: Path) -> None:
    config = json.loads((nano / "config.json").read_text())
    assert {"moshi_name", "mimi_name", "tokenizer_name", "prompt_config"} < config.keys()
    with safe_open(nano / config["moshi_name"], framework="pt") as file:
        names = set(file.keys())
        assert file.get_tensor("text_emb.weight").dtype == torch.bfloat16
    assert "depformer.layers.0.self_attn.in_proj_weight" in names  # fused, as published
    assert sum(map(len, files(nano).values())) < 5_000_000


def test_the_same_seed_gives_the_same_files(nano: Path, tmp_path: Path) -> None:
    write_nano(tmp_path / "again", seed=0)
    write_nano(tmp_path / "other", seed=1)
    assert files(tmp_path / "again") == files(nano)
    other = files(tmp_path / "other")
    changed = {name for name in other if other[name] != files(nano)[name]}
    assert {"model.safetensors", "mimi.safetensors"} <= changed
    assert load_checkpoint(str(tmp_path / "other")).revision.split("@")[1] != load_checkpoint(str(nano)).revision


def test_writing_it_twice_is_as_good_as_once(tmp_path: Path) -> None:
    (tmp_path / "nano").mkdir()  # an empty folder is taken
    write_nano(tmp_path / "nano", seed=0)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "nano").iterdir()}
    write_nano(tmp_path / "nano", seed=0)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "nano").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["nano"]


def test_other_files_are_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("mine")
    with pytest.raises(EngineError, match="cannot write the nano checkpoint to .*not empty"):
        write_nano(tmp_path, seed=0)
    assert files(tmp_path) == {"config.json": b"mine"}


def test_a_torn_start_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def torn() -> bytes:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(nano_module, "train_tokenizer", torn)
    with pytest.raises(EngineError, match="No space left on device"):
        write_nano(tmp_path / "nano", seed=0)
    assert list(tmp_path.iterdir()) == []


def test_where_nothing_can_be_written_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EngineError, match="Not a directory"):
        write_nano(tmp_path / "file" / "nano", seed=0)


@pytest.fixture
def batch(nano: Path) -> Batch:
    return live_batch(nano, rows=4)


@pytest.fixture
def row(nano: Path) -> Batch:
    return live_batch(nano, rows=1)


def test_what_it_says_is_audible_and_does_not_blast(row: Batch) -> None:
    hears = noise(40)
    said = np.stack([row.step([RowStep(0, frame, None, Sampling())])[0].frame for frame in hears])
    level = float(np.sqrt(np.mean(np.square(said[10:]))))
    assert LEVEL / 2 < level < LEVEL * 2
    assert np.abs(said).max() < 1


def test_its_text_is_mostly_silent_and_never_dries_up(row: Batch) -> None:
    texts = [row.step([RowStep(0, frame, None, Sampling())])[0].text for frame in noise(100)]
    assert 0.5 < np.mean(np.array(texts) == PAD) < 0.95


def test_four_rows_are_far_faster_than_real_time_on_one_core(batch: Batch) -> None:
    hears = noise(30)
    times = []
    for frame in hears:
        began = time.process_time()
        batch.step([RowStep(row, frame, None, Sampling()) for row in range(4)])
        times.append(time.process_time() - began)
    assert sorted(times)[len(times) // 2] < 0.040  # about 0.012 on an idle core; half of the frame's 0.080 is the bound
