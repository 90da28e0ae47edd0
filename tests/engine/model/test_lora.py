"""Adapters, fused as the oracle computes them unfused; what does not fit is refused by name."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from engine.model.checkpoint import load_checkpoint
from engine.model.lora import Lora
from engine.model.moshi import Moshi, linear_maps
from engine.model.stored import Stored, fill
from engine.slot import CheckpointError
from tests.engine.model.test_variants import config_of, drawn, equals_the_oracle, seed_of, write
from tests.oracle import variant_cases as cases
from tests.oracle.weights import draw

RANK, SCALING = cases.CONFIGS["lora"]["lora_rank"], cases.CONFIGS["lora"]["lora_scaling"]

Tensors = dict[str, Tensor]


def adapters_of(model: Moshi, rank: int, seed: int) -> Tensors:
    """As the reference would write them: the depth steps' apart."""
    tensors: Tensors = {}
    weights = model.state_dict()
    for name in linear_maps(model):
        outputs, inputs = weights[name].shape
        fused = re.fullmatch(r"(.*self_attn)\.(in|out)_proj[_.]weight", name)
        steps = model.config.dep_q if fused and name.startswith("depformer.") else 1
        for step in range(steps):
            base = f"{fused[1]}.{fused[2]}_projs.{step}" if fused else name.removesuffix(".weight")
            for half, shape in (("A", (rank, inputs)), ("B", (outputs // steps, rank))):
                key = f"{base}.lora_{half}.weight"
                tensors[key] = torch.from_numpy(draw(key, shape, seed))
    return tensors


def stacked(tensors: Tensors) -> Tensors:
    """All depth steps of a map in one adapter, under the names of the published files."""
    new: Tensors = {}
    for name in sorted(tensors, key=lambda name: [int(part) if part.isdigit() else 0 for part in name.split(".")]):
        joined = re.sub(r"(in|out)_projs\.\d+", r"\1_proj", name)
        new[joined] = torch.cat((new[joined], tensors[name])) if joined in new else tensors[name]
    return new


@pytest.mark.parametrize("form", [dict, stacked])
def test_fused_adapters_equal_the_oracles(
    tmp_path: Path, form: Callable[[Tensors], Tensors], monkeypatch: pytest.MonkeyPatch
) -> None:
    adapters = form(adapters_of(Moshi(config_of("lora")), RANK, seed_of("lora")))
    save_file(adapters, tmp_path / "lora.safetensors")
    weights = Stored(write(drawn("lora"), tmp_path / "model.safetensors"))
    lora = Lora(tmp_path / "lora.safetensors", RANK, SCALING)
    model = fill(lambda: Moshi(config_of("lora")), weights, "cpu", torch.float32, adapters=lora)
    equals_the_oracle(model, "lora", monkeypatch, 5e-4)  # which adds W x and B A x where we add W and B A


# --- as a checkpoint -----------------------------------------------------------------------------------------------


@pytest.fixture
def adapted(nano: Path, tmp_path: Path) -> Path:
    """The nano checkpoint with adapters of rank 2 beside it."""
    folder = Path(shutil.copytree(nano, tmp_path / "copy"))
    save_file(adapters_of(load_checkpoint(str(nano)).moshi, 2, 0), folder / "lora.safetensors")
    config = json.loads((folder / "config.json").read_text())
    config |= {"lora": True, "lora_rank": 2, "lora_scaling": 0.5, "lora_name": "lora.safetensors"}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def rewrite(folder: Path, change: Callable[[Tensors], object]) -> None:
    tensors = load_file(folder / "lora.safetensors")
    change(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "lora.safetensors")


def test_a_checkpoint_names_its_adapters(adapted: Path, nano: Path) -> None:
    checkpoint, plain = load_checkpoint(str(adapted)), load_checkpoint(str(nano))
    lora = load_file(adapted / "lora.safetensors")
    got, base = checkpoint.moshi.state_dict(), plain.moshi.state_dict()
    added = 0.5 * lora["text_linear.lora_B.weight"] @ lora["text_linear.lora_A.weight"]
    torch.testing.assert_close(got["text_linear.weight"], base["text_linear.weight"] + added)
    part = "depformer.layers.0.self_attn.in_projs.5"
    added = 0.5 * lora[f"{part}.lora_B.weight"] @ lora[f"{part}.lora_A.weight"]
    name, rows = "depformer.layers.0.self_attn.in_proj_weight", slice(5 * 96, 6 * 96)
    torch.testing.assert_close(got[name][rows], base[name][rows] + added)
    assert torch.equal(got["text_emb.weight"], base["text_emb.weight"])
    assert checkpoint.revision.partition("@")[2] != plain.revision.partition("@")[2]


def test_adapters_are_fused_before_weights_are_packed(adapted: Path) -> None:
    exact, packed = (load_checkpoint(str(adapted), packing=packing).moshi for packing in ("stored", "int8"))
    want = exact.get_parameter("text_linear.weight")
    weights = packed.state_dict()
    got = weights["text_linear.weight.codes"].float() * weights["text_linear.weight.scale"][:, None]
    assert ((got - want).abs() <= want.abs().amax(1, keepdim=True) * 0.501 / 127).all()


def test_adapters_of_depth_steps_that_are_not_run_may_be_left_over(adapted: Path) -> None:
    before = load_checkpoint(str(adapted)).moshi.state_dict()

    def more(tensors: Tensors) -> None:
        for name in list(tensors):
            if found := re.fullmatch(r"(linears|depformer_in|depformer\..*(?:gating|projs))\.(\d)\.(.*)", name):
                tensors[f"{found[1]}.{int(found[2]) + 8}.{found[3]}"] = torch.ones_like(tensors[name])

    rewrite(adapted, more)
    after = load_checkpoint(str(adapted)).moshi.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_some_maps_may_have_no_adapter(adapted: Path, nano: Path) -> None:
    def only_the_head(tensors: Tensors) -> None:
        for name in [name for name in tensors if not name.startswith("text_linear")]:
            del tensors[name]

    rewrite(adapted, only_the_head)
    got, base = load_checkpoint(str(adapted)).moshi.state_dict(), load_checkpoint(str(nano)).moshi.state_dict()
    assert [name for name in base if not torch.equal(got[name], base[name])] == ["text_linear.weight"]


IN_PROJ = "transformer.layers.1.self_attn.in_projs.0"


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        (
            {"wings.lora_A.weight": (2, 4), "wings.lora_B.weight": (4, 2)},
            "adapts 'wings.weight', which is no linear map",
        ),
        ({"text_emb.lora_A.weight": (2, 4), "text_emb.lora_B.weight": (4, 2)}, "adapts 'text_emb.weight', which is no"),
        ({"text_linear.weight": (400, 64)}, "holds tensor 'text_linear.weight', which is no LoRA weight"),
        ({"text_linear.lora_B.weight": None}, "the adapter of 'text_linear.weight' lacks a part"),
        ({"depformer.layers.0.self_attn.in_projs.3.lora_A.weight": None}, "'depformer.*in_proj_weight' lacks a part"),
        (
            {f"{IN_PROJ}.lora_A.weight": (3, 64), f"{IN_PROJ}.lora_B.weight": (192, 3)},
            r"'transformer.layers.1.self_attn.in_proj_weight' has shapes \[3, 64\] and \[192, 3\]; .* rank is 2",
        ),
        (
            {f"{IN_PROJ}.lora_A.weight": (4, 64), f"{IN_PROJ}.lora_B.weight": (192, 2)},
            r"has shapes \[4, 64\] and \[192, 2\]; .* rank is 2",
        ),
        ({"text_linear.lora_A.weight": (2, 65)}, "'text_linear.lora_A.weight' reads 65 channels; the map has 64"),
        ({"text_linear.lora_B.weight": (399, 2)}, "the adapter of 'text_linear.weight' makes 399 rows, not 400"),
        ({"text_linear.lora_B.weight": (400,)}, r"'text_linear.lora_B.weight' has shape \[400\]; it must be a matrix"),
    ],
)
def test_adapters_that_do_not_fit_are_refused(
    adapted: Path, changes: dict[str, tuple[int, ...] | None], complaint: str
) -> None:
    def change(tensors: Tensors) -> None:
        for name, shape in changes.items():
            tensors.pop(name, None)
            if shape is not None:
                tensors[name] = torch.ones(shape)

    rewrite(adapted, change)
    with pytest.raises(CheckpointError, match=rf"lora\.safetensors.*{complaint}"):
        load_checkpoint(str(adapted))


def test_a_torn_file_of_adapters_is_named(adapted: Path) -> None:
    (adapted / "lora.safetensors").write_bytes((adapted / "lora.safetensors").read_bytes()[:-9])
    with pytest.raises(CheckpointError, match=r"lora\.safetensors' is not a whole safetensors file"):
        load_checkpoint(str(adapted))
