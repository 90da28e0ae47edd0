"""Loading: as many rows as asked for, on the device asked for, or one line that says why not."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from engine import load as load_module
from engine.batch import RowStep
from engine.load import load_batch
from engine.model.weights import Wanted
from engine.prime import CHUNK_COLUMNS
from engine.slot import CheckpointError, EngineError, Sampling
from tests.engine.rows import SEED_1, SEED_2, fingerprint, no_log, noise, prime


def test_rows_are_four_on_a_cpu_unless_said(nano: Path) -> None:
    assert load_batch(str(nano), None, "cpu", "auto").rows == 4
    assert load_batch(str(nano), 7, "cpu", "auto").rows == 7


def test_a_device_that_is_not_there_is_named(nano: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(EngineError, match="no device 'cuda'"):
        load_batch(str(nano), 1, "cuda", "auto")
    with pytest.raises(EngineError, match="no device 'abacus'"):
        load_batch(str(nano), 1, "abacus", "auto")
    assert load_batch(str(nano), 1, "auto", "auto")._device.type == "cpu"


def test_weights_lie_in_memory_as_wanted(nano: Path) -> None:
    def kinds(weights: Wanted) -> set[torch.dtype]:
        return {tensor.dtype for tensor in load_batch(str(nano), 1, "cpu", "auto", weights=weights)._moshi.buffers()}

    assert kinds("auto") == set()
    assert kinds("int8") == {torch.int8, torch.float32}
    with pytest.raises(EngineError, match="fp8 needs a CUDA card"):
        load_batch(str(nano), 1, "cpu", "auto", weights="fp8")


@pytest.mark.parametrize("step", ["load_checkpoint", "Batch"])
def test_a_device_that_is_too_small_is_told_in_one_line(nano: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 44.00 MiB.")

    monkeypatch.setattr(load_module, step, full)
    with pytest.raises(EngineError, match="do not fit the device's memory; ask for fewer"):
        load_batch(str(nano), 16, "cpu", "auto")


def test_weights_that_only_listen_are_refused(nano: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(nano, tmp_path / "stt")
    stored = load_file(folder / "model.safetensors")
    silent = {name: tensor for name, tensor in stored.items() if not name.startswith(("depformer", "linears"))}
    for stream in range(8, 16):
        del silent[f"emb.{stream}.weight"]
    save_file(silent, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    del config["prompt_config"], config["dep_q"]
    (folder / "config.json").write_text(json.dumps({**config, "n_q": 8, "delays": [0] * 9}))
    with pytest.raises(CheckpointError, match="listens but does not speak"):
        load_batch(str(folder), 1, "cpu", "auto")


@pytest.mark.parametrize("told_by", [{"delays": [0, 0, *[2] * 15]}, {"model_type": "tts"}, {"tts_config": {}}])
def test_weights_that_only_speak_are_refused(nano: Path, tmp_path: Path, told_by: dict[str, object]) -> None:
    """As many depth steps as streams, as in PersonaPlex; but all of one voice, as its delays or the file say."""
    folder = shutil.copytree(nano, tmp_path / "tts")
    config = json.loads((folder / "config.json").read_text())
    del config["prompt_config"]
    (folder / "config.json").write_text(json.dumps({**config, "dep_q": 16, **told_by}))
    stored = load_file(folder / "model.safetensors")
    for step in range(8, 16):
        for group in ("linears", "depformer_in", "depformer.layers.0.gating"):
            for name in [name for name in stored if name.startswith(f"{group}.{step - 8}.")]:
                stored[name.replace(f"{group}.{step - 8}.", f"{group}.{step}.")] = stored[name].clone()
        stored[f"depformer_emb.{step - 1}.weight"] = stored["depformer_emb.0.weight"].clone()
    for name in ("in_proj_weight", "out_proj.weight"):
        whole = f"depformer.layers.0.self_attn.{name}"
        stored[whole] = torch.cat([stored[whole]] * 2)
    save_file(stored, folder / "model.safetensors")
    codec = json.loads((folder / "mimi.json").read_text())
    codec["quantizer"]["n_q"] = 16
    (folder / "mimi.json").write_text(json.dumps(codec))
    mimi = load_file(folder / "mimi.safetensors")
    for name in [name for name in mimi if ".rvq_rest.vq.layers.0." in name]:
        for layer in range(7, 15):
            mimi[name.replace("layers.0", f"layers.{layer}")] = mimi[name].clone()
    save_file(mimi, folder / "mimi.safetensors")
    with pytest.raises(CheckpointError, match="speaks but does not listen .all of its 16 audio streams are its own"):
        load_batch(str(folder), 1, "cpu", "auto")


@pytest.fixture
def restored() -> Iterator[None]:
    """What determinism sets for the whole process is as it was."""
    space = os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)
    yield
    torch.use_deterministic_algorithms(False)
    os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)
    if space is not None:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = space


def test_deterministic_the_same_call_is_the_same_to_the_last_bit_whatever_else_is_on(
    nano: Path, restored: None
) -> None:
    """Alone; and in another row, among others who come, go and are primed, and with its prompt known from them."""
    alone, beside = (load_batch(str(nano), 4, "cpu", "auto", limit_s=9.0, deterministic=True) for _ in range(2))
    assert torch.are_deterministic_algorithms_enabled() and os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert alone.primer.chunk_columns == CHUNK_COLUMNS
    others = [RowStep(row, noise(1, seed=row)[0], None, Sampling(seed=row)) for row in range(4)]
    for row in (0, 1, 3):
        beside.open(row, no_log())
        prime(beside, row, "You are Ada, you know.", sampling=SEED_2)
        beside.step(others[row : row + 1])
    for batch, row in ((alone, 0), (beside, 2)):
        batch.open(row, no_log())
        prime(batch, row, "You are Ada, you know.", sampling=SEED_1)
    assert beside.prefixes.counts.whole == 3
    assert fingerprint(alone, 0) == fingerprint(beside, 2)
    for number, frame in enumerate(noise(6)):
        (one,) = alone.step([RowStep(0, frame, None, SEED_1)])
        more = [others[row] for row in (0, 1, 3) if (row + number) % 2]
        other = beside.step([*more, RowStep(2, frame, None, SEED_1)])[-1]
        assert np.array_equal(one.tokens, other.tokens) and np.array_equal(one.frame, other.frame)
    assert fingerprint(alone, 0) == fingerprint(beside, 2)


@pytest.mark.parametrize(
    ("rows", "cores", "threads"), [(1, 2, 1), (4, 64, 1), (8, 64, 2), (64, 64, 16), (64, 2, 1), (64, 1, 1)]
)
def test_threads_follow_the_rows_and_leave_a_core(
    monkeypatch: pytest.MonkeyPatch, rows: int, cores: int, threads: int
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    assert load_module.cpu_threads(rows) == threads
