"""Loading: as many rows as asked for, on the device asked for, or one line that says why not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine import load as load_module
from engine.load import load_batch
from engine.model.weights import Wanted
from engine.slot import CheckpointError, EngineError


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


@pytest.mark.parametrize(
    ("rows", "cores", "threads"), [(1, 2, 1), (4, 64, 1), (8, 64, 2), (64, 64, 16), (64, 2, 1), (64, 1, 1)]
)
def test_threads_follow_the_rows_and_leave_a_core(
    monkeypatch: pytest.MonkeyPatch, rows: int, cores: int, threads: int
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    assert load_module.cpu_threads(rows) == threads
