"""What is exported loads strictly, says the same as what was trained, and is not too large."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from engine.load import load_batch
from engine.model.checkpoint import load_checkpoint
from engine.model.listening import EAR_CONFIG
from engine.model.moshi import Moshi
from engine.model.moshi_config import MoshiConfig
from engine.model.prompt import PromptLayout
from engine.pocket.recipe import export as export_file
from engine.pocket.recipe.adopt import adopt
from engine.pocket.recipe.encode import read_voice
from engine.pocket.recipe.export import MOST_BYTES, export
from engine.pocket.recipe.export_codec import MIMI as CODEC
from engine.pocket.recipe.export_codec import build, read_codec
from engine.pocket.recipe.init_lm import EAR, LM, draw
from engine.pocket.recipe.training import load, store
from engine.slot import CheckpointError
from tests.engine.pocket.work import EAR as SMALL_EAR
from tests.engine.pocket.work import LM as SMALL_LM


@pytest.fixture
def trained(work: Path, tmp_path: Path) -> Path:
    """A WORK folder with a language model and an ear, both as they are drawn."""
    for name in ("codec", "coded", "tokenizer.model"):
        (tmp_path / name).symlink_to(work / name)
    for part, sizes in (("lm", SMALL_LM), ("ear", SMALL_EAR)):
        moshi = Moshi(MoshiConfig.from_kwargs(sizes))
        draw(moshi, read_codec(work / "codec"), 1)
        store(tmp_path / part / "model.pt", {"sizes": sizes, "weights": moshi.state_dict()})
    return tmp_path


def test_a_round_trip(trained: Path, tmp_path: Path) -> None:
    size = export(trained, tmp_path / "out")
    assert size == sum(path.stat().st_size for path in (tmp_path / "out").glob("*.safetensors"))
    loaded = load_checkpoint(str(tmp_path / "out"))
    ear = load_checkpoint(str(tmp_path / "out"), config_name=EAR_CONFIG)
    for part, moshi in (("lm", loaded.moshi), ("ear", ear.moshi)):
        weights = torch.load(trained / part / "model.pt", weights_only=False)["weights"]
        for name, weight in moshi.state_dict().items():
            assert torch.equal(weight, weights[name].bfloat16().float()), name
    assert loaded.layout == read_voice(trained / "coded" / "voice.npz", 128).layout
    assert isinstance(loaded.layout, PromptLayout) and loaded.layout.style == "system"
    assert ear.moshi.config.dep_q == 0 and ear.layout.style == "none"
    codec, written = read_codec(trained / "codec").state_dict(), loaded.mimi.state_dict()
    assert all(torch.equal(codec[name], written[name]) for name in codec)
    assert loaded.revision != ear.revision


def test_what_was_exported_can_be_gone_on_from(trained: Path, tmp_path: Path) -> None:
    out, again, work = tmp_path / "out", tmp_path / "again", tmp_path / "work"
    export(trained, out)
    adopt(out, work)
    (work / "coded").symlink_to(trained / "coded")
    layout = json.loads((out / "config.json").read_text())["prompt_config"]
    assert json.loads((work / "layout.json").read_text()) == layout
    export(work, again)
    for path in out.iterdir():
        assert path.read_bytes() == (again / path.name).read_bytes(), path.name
    for place in ("lm", "ear"):
        begun = load(work / place / f"{place}.pt")["task"]["moshi"]
        assert begun.keys() == load(trained / place / "model.pt")["weights"].keys()
    with pytest.raises(ValueError, match="lm is there already"):
        adopt(out, work)
    with pytest.raises(ValueError, match="has no config.json"):
        adopt(tmp_path, tmp_path / "empty")


def test_the_engine_runs_it(trained: Path, tmp_path: Path) -> None:
    export(trained, tmp_path / "out")
    batch = load_batch(str(tmp_path / "out"), 1, "cpu", "auto")
    assert batch.window_frames == SMALL_LM["context"]
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["lm_gen_config"]["temp_text"] == 0


def test_without_an_ear(trained: Path, tmp_path: Path) -> None:
    (trained / "ear" / "model.pt").unlink()
    export(trained, tmp_path / "out")
    assert not (tmp_path / "out" / EAR_CONFIG).exists()
    with pytest.raises(CheckpointError):
        load_checkpoint(str(tmp_path / "out"), config_name=EAR_CONFIG)


def test_too_large_is_refused(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_file, "MOST_BYTES", 100_000)
    with pytest.raises(ValueError, match="at most 100000"):
        export(trained, tmp_path / "out")


def test_the_embedded_sizes_fit_the_package() -> None:
    """The codebooks take four bytes a number, all else two."""
    with torch.device("meta"):
        parts = [build(CODEC), *(Moshi(MoshiConfig.from_kwargs(sizes)) for sizes in (LM, EAR))]
    stored = [(name, tensor) for part in parts for name, tensor in part.state_dict().items()]
    size = sum((4 if "_codebook" in name else 2) * tensor.numel() for name, tensor in stored)
    assert size < 0.995 * MOST_BYTES
