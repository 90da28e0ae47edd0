"""Every form of the language model equals the oracle's goldens (tests/oracle/make_variants.py), read from a file."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from engine.model.moshi import Moshi, MoshiConfig
from engine.model.stored import Stored, fill
from engine.model.weights import Packing
from engine.slot import CheckpointError
from tests.engine.model.test_moshi import Driver, same_future
from tests.oracle import variant_cases as cases
from tests.oracle.lm_cases import TINY, tokens
from tests.oracle.weights import draw_all

GOLDENS = Path(__file__).parents[2] / "data" / "oracle" / "lm_variants.npz"
TOLERANCE = 5e-5

Weights = dict[str, NDArray[Any]]


@cache
def goldens() -> dict[str, NDArray[Any]]:
    with np.load(GOLDENS) as file:
        return dict(file)


def seed_of(case: str) -> int:
    return int(goldens()[f"{case}/seed"])


def config_of(case: str) -> MoshiConfig:
    return MoshiConfig.from_kwargs(
        {name: value for name, value in cases.CONFIGS[case].items() if not name.startswith("lora")}
    )


def drawn(case: str) -> Weights:
    """What the file of this case would hold."""
    shapes = {name: list(value.shape) for name, value in Moshi(config_of(case)).state_dict().items()}
    return dict(draw_all(shapes, seed_of(case)))


def write(weights: Weights, path: Path) -> Path:
    save_file({name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in weights.items()}, path)
    return path


def load(case: str, path: Path, packing: Packing = "stored", quantised: bool = False) -> Moshi:
    return fill(lambda: Moshi(config_of(case)), Stored(path, quantised), "cpu", torch.float32, packing)


def talk(model: Moshi, case: str, patch: pytest.MonkeyPatch) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """What is emitted [STEPS, ROWS, made], and the logits of every step."""
    driver = Driver(model, cases.ROWS, patch)
    emitted, text, audio = [], [], []
    for codes in torch.from_numpy(cases.caller(case, seed_of(case))):
        emitted.append(driver.step(codes).emitted)
        text.append(driver.text_logits())
        audio.append(driver.audio_logits() if model.config.dep_q else torch.zeros(0))
    return torch.stack(emitted), text, audio


def equals_the_oracle(model: Moshi, case: str, patch: pytest.MonkeyPatch, tolerance: float = TOLERANCE) -> None:
    """The same tokens, from nearly the same logits."""
    emitted, text, audio = talk(model, case, patch)
    assert torch.equal(emitted[model.config.delay :].short(), torch.from_numpy(goldens()[f"{case}/emitted"]))
    for got, name in ((text, "text_logits"), (audio, "audio_logits")):
        if name == "text_logits" or model.config.dep_q:
            want = torch.from_numpy(goldens()[f"{case}/{name}"])
            for one, golden in zip(got[:: cases.LOGITS_EVERY], want, strict=True):
                torch.testing.assert_close(one, golden, atol=tolerance, rtol=0)


# --- 8 bits --------------------------------------------------------------------------------------------------------


def unfused(weights: Weights) -> Weights:
    """Under the names of the reference's own modules, scales too."""
    new: Weights = {}
    for name, value in weights.items():
        parts = 8 if name.startswith("depformer.") else 1
        base, scale = name.removesuffix("_scb"), "_scb" if name.endswith("_scb") else ""
        for fused, apart in ((".in_proj_weight", ".in_projs"), (".out_proj.weight", ".out_projs")):
            if base.endswith(fused):
                split = np.split(value, parts)
                new |= {f"{base.removesuffix(fused)}{apart}.{i}.weight{scale}": part for i, part in enumerate(split)}
                break
        else:
            new[name] = value
    return new


@pytest.mark.parametrize("form", [dict, unfused])
def test_published_8_bit_weights_equal_the_oracles(
    tmp_path: Path, form: Callable[[Weights], Weights], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(form(cases.in_8_bits(drawn("int8"))), tmp_path / "q8.safetensors")
    model = load("int8", path, quantised=True)
    kinds = {tensor.dtype for name, tensor in model.state_dict().items() if name.endswith(".codes")}
    assert kinds == {torch.int8}
    equals_the_oracle(model, "int8", monkeypatch)


def test_published_8_bit_weights_are_made_plain_where_that_is_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(cases.in_8_bits(drawn("int8")), tmp_path / "q8.safetensors")
    model = load("int8", path, "none", quantised=True)
    assert not any(name.endswith(".codes") for name in model.state_dict())
    equals_the_oracle(model, "int8", monkeypatch)


def test_our_own_8_bits_are_the_published_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounded on load, from the weights that the published file was rounded from."""
    model = load("int8", write(drawn("int8"), tmp_path / "model.safetensors"), "int8")
    equals_the_oracle(model, "int8", monkeypatch)


@pytest.mark.parametrize(("packing", "text_bound", "audio_bound"), [("int8", 0.008, 0.025), ("int4", 0.1, 0.2)])
def test_logits_in_few_bits_stay_near_those_of_float32(
    tmp_path: Path, packing: Packing, text_bound: float, audio_bound: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the mean error over a known history, teacher-forced; the logits' own standard deviation is about 1."""
    path = write(drawn("int8"), tmp_path / "model.safetensors")
    exact, rounded = load("int8", path), load("int8", path, packing)
    frames = torch.from_numpy(tokens("known", (20, cases.ROWS, 17), 24, 1))
    errors = []
    drivers = [Driver(model, cases.ROWS, monkeypatch) for model in (exact, rounded)]
    for frame in frames:
        logits = []
        for driver in drivers:
            monkeypatch.setattr("engine.model.moshi.draw", driver._draw)
            driver.step(frame[:, 9:], frame[:, :9])
            logits.append((driver.text_logits(), driver.audio_logits()))
        errors.append([(got - want).abs().mean() for got, want in zip(*logits, strict=True)])
    text, audio = torch.tensor(errors).mean(0).tolist()
    assert 0 < text < text_bound and 0 < audio < audio_bound


def test_in_four_bits_heads_and_depth_have_eight(tmp_path: Path) -> None:
    weights = load("int8", write(drawn("int8"), tmp_path / "model.safetensors"), "int4").state_dict()
    kinds = {name: tensor.dtype for name, tensor in weights.items() if name.endswith(".codes")}
    assert kinds["transformer.layers.0.self_attn.in_proj_weight.codes"] is torch.uint8
    assert {name for name, kind in kinds.items() if kind is torch.uint8} == {
        f"transformer.layers.{layer}.{part}.codes"
        for layer in range(2)
        for part in (
            "self_attn.in_proj_weight",
            "self_attn.out_proj.weight",
            "gating.linear_in.weight",
            "gating.linear_out.weight",
        )
    }
    assert {name.partition(".")[0] for name, kind in kinds.items() if kind is torch.int8} == {
        *("text_linear", "depformer", "depformer_in", "linears")
    }
    assert weights["text_emb.weight"].dtype is torch.float32


# --- configurations ------------------------------------------------------------------------------------------------

FORMS = ("low rank", "normed", "scheduled", "grouped", "stt of 20")


@pytest.mark.parametrize("case", FORMS)
def test_every_configuration_equals_the_oracle(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    equals_the_oracle(load(case, write(drawn(case), tmp_path / "model.safetensors")), case, monkeypatch)


@pytest.mark.parametrize("case", ["low rank", "scheduled", "grouped"])
def test_every_configuration_may_be_in_8_bits(case: str, tmp_path: Path) -> None:
    """The linear map behind a low-rank embedding too, as the published form has it."""
    weights = drawn(case)
    packed = load(case, write(weights, tmp_path / "model.safetensors"), "int8")
    assert {name.removesuffix(".codes") for name in packed.state_dict() if name.endswith(".codes")} == {
        name for name, value in weights.items() if value.ndim == 2 and (".low_rank." in name or "emb" not in name)
    }
    driver = Driver(packed, cases.ROWS)
    assert all((driver.step(torch.from_numpy(codes)).column >= 0).all() for codes in cases.caller(case, 0)[:4])


def test_grouped_heads_remember_fewer_keys() -> None:
    model = Moshi(config_of("grouped"))
    keys = model.initial_state(3).kv.keys
    assert keys.shape == (3, 2, 2, 10, 8)  # of 4 query heads, 2 of keys
    assert {name: list(value.shape) for name, value in model.state_dict().items() if "layers.0.self_attn" in name} == {
        "transformer.layers.0.self_attn.in_proj_weight": [64, 32],
        "transformer.layers.0.self_attn.out_proj.weight": [32, 32],
        "depformer.layers.0.self_attn.in_proj_weight": [8 * 32, 16],
        "depformer.layers.0.self_attn.out_proj.weight": [8 * 16, 16],
    }


def test_prefill_with_grouped_heads_equals_stepping() -> None:
    model = Moshi(config_of("grouped"))
    for name, value in draw_all({name: v.shape for name, v in model.state_dict().items()}).items():
        model.state_dict()[name].copy_(torch.from_numpy(value))
    frames = torch.from_numpy(tokens("prompt", (14, 17), 24, 0))
    columns = model.config.columns(frames)[None]
    whole, stepped = Driver(model, 1), Driver(model, 1)
    model.prefill(whole.state, columns, None)
    whole.step()
    for number in range(15):
        stepped.step(frames[None, number - 1, 9:] if number else None, columns[:, number + 1, :9])
    same_future(whole, stepped)


def test_half_of_a_scheduled_depth_is_half_of_its_schedule() -> None:
    schedule = [0, 1, 2, 3, 4, 5, 6, 6, *[7] * 8]
    config = MoshiConfig.from_kwargs(
        TINY
        | {
            "dep_q": 16,
            "depformer_weights_per_step_schedule": schedule,
            "depformer_dim_feedforward": [66, 60, 54, 48, 42, 36, 30, 24],
        }
    )
    assert (config.dep_q, config.depformer_schedule, config.depformer_sets) == (8, tuple(schedule[:8]), 7)
    assert config.depformer_hidden == (44, 40, 36, 32, 28, 24, 20)


def test_a_listener_may_leave_codebooks_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trained on any number of the first; a model that speaks is not."""
    weights = drawn("stt of 20")
    extra = {f"emb.{stream}.weight": weights["emb.0.weight"].copy() for stream in range(20, 32)}
    equals_the_oracle(load("stt of 20", write(weights | extra, tmp_path / "stt.safetensors")), "stt of 20", monkeypatch)
    weights = drawn("normed")
    path = write(weights | {"emb.16.weight": weights["emb.0.weight"].copy()}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"holds tensor 'emb\.16\.weight', which this model does not have"):
        load("normed", path)
