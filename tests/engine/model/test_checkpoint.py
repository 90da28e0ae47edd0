"""Checkpoints in all published forms; what does not fit is refused by name."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import wave
from collections.abc import Callable
from operator import methodcaller
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from engine.model.checkpoint import Checkpoint, default_layout, load_checkpoint, measured_layout
from engine.model.listening import load_ear
from engine.model.mimi import Mimi, MimiConfig
from engine.model.moshi import MoshiConfig
from engine.model.prompt import SILENCE, SINE
from engine.model.stored import Stored
from engine.model.weights import Packing
from engine.slot import CheckpointError, Sampling
from tests.engine.ears import DELAY_FRAMES, write_ear
from tests.oracle.variant_cases import in_8_bits

Tensors = dict[str, Tensor]
Change = Callable[[Tensors], object]


@pytest.fixture
def folder(nano: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(nano, tmp_path / "copy"))


def rewrite(folder: Path, change: Change, file: str = "model.safetensors") -> None:
    tensors = load_file(folder / file)
    change(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / file)


def configure(folder: Path, *without: str, **settings: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    changed = {name: value for name, value in {**config, **settings}.items() if name not in without}
    (folder / "config.json").write_text(json.dumps(changed))


def equal(one: Checkpoint, other: Checkpoint) -> bool:
    ours = {**one.moshi.state_dict(), **one.mimi.state_dict()}
    theirs = {**other.moshi.state_dict(), **other.mimi.state_dict()}
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


# --- published forms -----------------------------------------------------------------------------------------------


def test_weights_are_those_of_the_file_in_the_type_asked_for(nano: Path) -> None:
    stored = load_file(nano / "model.safetensors")
    for dtype in (torch.float32, torch.bfloat16):
        checkpoint = load_checkpoint(str(nano), dtype=dtype)
        weights = checkpoint.moshi.state_dict()
        assert weights.keys() == stored.keys()
        assert all(torch.equal(weights[name], tensor.to(dtype)) for name, tensor in stored.items())
        assert {tensor.dtype for tensor in checkpoint.mimi.state_dict().values()} == {torch.float32}


def test_weights_do_not_change_with_the_file_once_they_are_loaded(nano: Path, folder: Path) -> None:
    """Whoever trains writes a newer file over it, while the agent is in a call."""
    checkpoint = load_checkpoint(str(folder))
    for name in ("model.safetensors", "mimi.safetensors"):
        with (folder / name).open("r+b") as file:
            file.write(bytes((folder / name).stat().st_size))
    assert equal(checkpoint, load_checkpoint(str(nano)))


def test_no_weight_is_left_without_values_nor_asks_for_gradients(nano: Path) -> None:
    checkpoint = load_checkpoint(str(nano))
    for module in (checkpoint.mimi, checkpoint.moshi):
        tensors = [*module.parameters(), *module.buffers()]
        assert not any(tensor.is_meta or tensor.requires_grad for tensor in tensors)
        assert not module.training


def test_torchs_compiler_is_not_imported_to_load(nano: Path) -> None:
    program = (
        "import sys; from engine.model.checkpoint import load_checkpoint; "
        f"load_checkpoint({str(nano)!r}); sys.exit('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[3], timeout=60, check=False)
    assert done.returncode == 0


def unfuse(tensors: Tensors) -> None:
    """The names that the reference's own modules write."""
    for name in list(tensors):
        steps = 8 if name.startswith("depformer") else 1
        for fused, parts in (("in_proj_weight", "in_projs"), ("out_proj.weight", "out_projs")):
            if name.endswith(f"self_attn.{fused}"):
                for step, part in enumerate(tensors.pop(name).chunk(steps)):
                    tensors[name.replace(fused, f"{parts}.{step}.weight")] = part


def rename(*pairs: tuple[str, str]) -> Change:
    def change(tensors: Tensors) -> None:
        for name in list(tensors):
            new = name
            for old, other in pairs:
                new = new.replace(old, other)
            tensors[new] = tensors.pop(name)

    return change


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("model.safetensors", unfuse),
        ("mimi.safetensors", unfuse),
        ("model.safetensors", rename(("in_proj_weight", "in_proj.weight"))),
        ("mimi.safetensors", rename(("_initialized", "inited"), ("cluster_usage", "cluster_size"))),
        ("mimi.safetensors", rename(("embedding_sum", "embed_avg"))),
        ("mimi.safetensors", rename(("embedding_sum", "embed_sum"))),
    ],
)
def test_names_of_other_programs_load_equal(nano: Path, folder: Path, file: str, change: Change) -> None:
    rewrite(folder, change, file)
    assert load_file(folder / file).keys() != load_file(nano / file).keys()
    assert equal(load_checkpoint(str(folder)), load_checkpoint(str(nano)))


def test_ten_parts_are_put_together_in_the_order_of_their_numbers(folder: Path, nano: Path) -> None:
    def twelve_steps(tensors: Tensors) -> None:
        for name in list(tensors):
            if name.startswith("depformer.layers.0.self_attn"):
                size = len(tensors[name]) // 8
                tensors[name] = torch.cat((tensors[name], torch.full((4 * size, *tensors[name].shape[1:]), 9.0)))
        unfuse_twelve = {name: tensors.pop(name) for name in list(tensors) if "depformer.layers.0.self_attn" in name}
        for name, tensor in unfuse_twelve.items():
            new = name.replace("in_proj_weight", "in_projs.{}.weight").replace("out_proj.weight", "out_projs.{}.weight")
            tensors.update({new.format(step): part for step, part in enumerate(tensor.chunk(12))})

    rewrite(folder, twelve_steps)
    assert equal(load_checkpoint(str(folder)), load_checkpoint(str(nano)))


def more_depth(tensors: Tensors) -> None:
    """As PersonaPlex's weights: sixteen depth steps, of which the last eight are never needed."""
    for name in list(tensors):
        if found := re.match(r"(.*(?:linears|depformer_in|gating)\.)(\d)(\..*)", name):
            if name.startswith(("linears", "depformer")):
                tensors[f"{found[1]}{int(found[2]) + 8}{found[3]}"] = torch.zeros_like(tensors[name])
        elif name.startswith("depformer.layers.0.self_attn"):
            tensors[name] = torch.cat((tensors[name], torch.zeros_like(tensors[name])))
    for step in range(7, 15):
        tensors[f"depformer_emb.{step}.weight"] = torch.zeros_like(tensors["depformer_emb.0.weight"])


@pytest.mark.parametrize("said", [None, 16, 8])
def test_depth_steps_that_are_not_run_may_be_left_over(nano: Path, folder: Path, said: int | None) -> None:
    rewrite(folder, more_depth)
    configure(folder, *(["dep_q"] if said is None else []), dep_q=said)
    checkpoint = load_checkpoint(str(folder))
    assert checkpoint.moshi.config.dep_q == 8
    assert equal(checkpoint, load_checkpoint(str(nano)))


def test_codebooks_that_are_not_used_may_be_left_over(nano: Path, folder: Path) -> None:
    def more_codebooks(tensors: Tensors) -> None:
        for name in list(tensors):
            if "rvq_rest.vq.layers.0." in name:
                for book in range(7, 31):
                    tensors[name.replace("layers.0.", f"layers.{book}.")] = tensors[name].clone()

    rewrite(folder, more_codebooks, "mimi.safetensors")
    codec = json.loads((folder / "mimi.json").read_text())
    codec["quantizer"]["n_q"] = 32
    (folder / "mimi.json").write_text(json.dumps(codec))
    assert equal(load_checkpoint(str(folder)), load_checkpoint(str(nano)))


def test_where_the_config_is_silent_it_is_moshi_7b_and_the_tensors_show_the_depth(nano: Path, folder: Path) -> None:
    """Nothing but the sizes that differ."""
    config = json.loads((folder / "config.json").read_text())
    sizes = {"dim", "num_heads", "num_layers", "context", "card", "text_card", "depformer_dim", "depformer_num_heads"}
    said = {*sizes, "depformer_num_layers", "moshi_name", "mimi_name", "mimi_config_name", "tokenizer_name"}
    configure(folder, *(config.keys() - said))
    assert equal(load_checkpoint(str(folder)), load_checkpoint(str(nano)))


def test_without_a_config_it_is_moshi_7b(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "mimi.safetensors").rename(folder / "tokenizer-e351c8d8-checkpoint125.safetensors")
    (folder / "tokenizer.model").rename(folder / "tokenizer_spm_32k_3.model")
    with pytest.raises(CheckpointError, match=r"checkpoint125.*shape \[4, 1, 7\]|shape .*config makes it \[64, 1, 7\]"):
        load_checkpoint(str(folder))


def test_personaplex_says_nothing_but_its_name(nano: Path, folder: Path) -> None:
    """Its published config.json, in full, beside the sizes in which nano differs from Moshi 7B."""
    rewrite(folder, more_depth)
    configure(folder, "dep_q", "prompt_config", model_type="personaplex", version="7b-v1")
    checkpoint = load_checkpoint(str(folder))
    assert equal(checkpoint, load_checkpoint(str(nano)))
    assert checkpoint.layout.style == "system"


def test_settings_of_other_programs_are_left_alone(nano: Path, folder: Path) -> None:
    configure(
        folder,
        model_type="moshi",
        model_id={"sig": "x"},
        stt_config={},
        tts_config={},
        depformer_causal=True,
    )
    assert equal(load_checkpoint(str(folder)), load_checkpoint(str(nano)))


def test_a_checkpoint_says_how_it_is_drawn(nano: Path, folder: Path) -> None:
    configure(folder, lm_gen_config={"temp": 0.2, "temp_text": 0, "top_k": 40, "cfg_coef": 1.0})
    drawn = load_checkpoint(str(folder)).sampling
    assert drawn == Sampling(text_temperature=0, audio_temperature=0.2, audio_top_k=40)
    configure(folder, "lm_gen_config")
    assert load_checkpoint(str(folder)).sampling == Sampling()


def test_heads_that_the_config_does_not_mention_are_read_from_the_tensors(folder: Path) -> None:
    rewrite(folder, lambda tensors: tensors.update({f"extra_heads.{i}.weight": torch.ones(6, 64) for i in range(4)}))
    assert load_checkpoint(str(folder)).moshi.config.extra_heads_num_heads == 4


def test_speech_to_text_weights_load_without_depth(folder: Path) -> None:
    def listen(tensors: Tensors) -> None:
        for name in [name for name in tensors if name.startswith(("depformer", "linears"))]:
            del tensors[name]

    rewrite(folder, listen)
    configure(folder, "prompt_config", "dep_q", n_q=8, delays=[0] * 9)
    rewrite(folder, lambda tensors: [tensors.pop(f"emb.{stream}.weight") for stream in range(8, 16)])
    checkpoint = load_checkpoint(str(folder))
    assert (checkpoint.moshi.config.dep_q, checkpoint.mimi.codebooks, checkpoint.layout.silence) == (0, 8, ())


# --- what does not fit ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["model.safetensors", "mimi.safetensors"])
def test_a_missing_tensor_is_named(nano: Path, folder: Path, file: str) -> None:
    for name in sorted(load_file(nano / file))[::5]:  # every fifth, of all kinds
        shutil.copy(nano / file, folder / file)
        rewrite(folder, methodcaller("pop", name), file)
        with pytest.raises(CheckpointError, match=re.escape(name)):
            load_checkpoint(str(folder))


@pytest.mark.parametrize(
    ("name", "shape", "right"),
    [
        ("text_linear.weight", (401, 64), [400, 64]),
        ("emb.15.weight", (129, 65), [129, 64]),
        ("linears.3.weight", (64, 128), [128, 32]),
        ("depformer.layers.0.self_attn.in_proj_weight", (7 * 96, 32), [768, 32]),
        ("depformer.layers.0.self_attn.out_proj.weight", (8 * 32 + 1, 32), [256, 32]),
        ("transformer.layers.1.self_attn.in_proj_weight", (192 * 2, 64), [192, 64]),
        ("out_norm.alpha", (64,), [1, 1, 64]),
    ],
)
def test_a_misshapen_tensor_is_named_with_what_would_be_right(
    folder: Path, name: str, shape: tuple[int, ...], right: list[int]
) -> None:
    rewrite(folder, lambda tensors: tensors.update({name: torch.zeros(shape)}))
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(str(folder))
    assert all(words in str(caught.value) for words in (name, "model.safetensors", str(list(shape)), str(right)))


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("model.safetensors", "condition_provider.conditioners.description.embed.weight"),
        ("model.safetensors", "emb.16.weight"),
        ("model.safetensors", "transformer.layers.2.norm1.alpha"),
        ("mimi.safetensors", "decoder.model.15.conv.conv.weight"),
        ("mimi.safetensors", "quantizer.rvq_first.vq.layers.1._codebook.embedding_sum"),
    ],
)
def test_a_tensor_too_many_is_named(folder: Path, file: str, name: str) -> None:
    rewrite(folder, lambda tensors: tensors.update({name: torch.zeros(1)}), file)
    with pytest.raises(CheckpointError, match=rf"{file}.* holds tensor '{re.escape(name)}'"):
        load_checkpoint(str(folder))


def test_a_tensor_under_two_names_is_refused(folder: Path) -> None:
    name = "transformer.layers.0.self_attn.in_proj.weight"
    rewrite(folder, lambda tensors: tensors.update({name: tensors[name.replace(".weight", "_weight")].clone()}))
    with pytest.raises(CheckpointError, match="twice"):
        load_checkpoint(str(folder))


def without_a_part(tensors: Tensors) -> None:
    unfuse(tensors)
    del tensors["depformer.layers.0.self_attn.in_projs.3.weight"]


def with_a_gap(tensors: Tensors) -> None:
    """As many parts as there should be, but the fourth is the ninth."""
    unfuse(tensors)
    prefix = "depformer.layers.0.self_attn.in_projs"
    tensors[f"{prefix}.8.weight"] = tensors.pop(f"{prefix}.3.weight")


def with_an_odd_part(tensors: Tensors) -> None:
    unfuse(tensors)
    tensors["depformer.layers.0.self_attn.in_projs.3.weight"] = torch.zeros(96, 31)


def with_a_number_for_a_part(tensors: Tensors) -> None:
    unfuse(tensors)
    tensors["depformer.layers.0.self_attn.in_projs.3.weight"] = torch.zeros(())


@pytest.mark.parametrize("change", [without_a_part, with_a_gap, with_an_odd_part, with_a_number_for_a_part])
def test_a_tensor_whose_parts_do_not_make_a_whole_is_named(folder: Path, change: Change) -> None:
    rewrite(folder, change)
    with pytest.raises(CheckpointError, match=r"depformer\.layers\.0\.self_attn\.in_projs?"):
        load_checkpoint(str(folder))


def test_a_missing_head_is_named(folder: Path) -> None:
    rewrite(folder, lambda tensors: tensors.update({"extra_heads.1.weight": torch.ones(6, 64)}))
    with pytest.raises(CheckpointError, match=r"lacks tensor 'extra_heads\.0\.weight'"):
        load_checkpoint(str(folder))


def to_8_bits(tensors: Tensors) -> None:
    """As the published 8-bit files."""
    stored = in_8_bits({name: tensor.float().numpy() for name, tensor in tensors.items()})
    for name, value in stored.items():
        rounded = value.dtype == np.int8 or name.endswith("_scb")
        tensors[name] = torch.from_numpy(value) if rounded else tensors[name]


@pytest.fixture
def q8(folder: Path) -> Path:
    rewrite(folder, to_8_bits)
    configure(folder, quantize=True)
    return folder


def test_the_published_8_bit_form_is_read_as_it_is(q8: Path, nano: Path) -> None:
    stored = load_file(q8 / "model.safetensors")
    weights = load_checkpoint(str(q8), dtype=torch.bfloat16).moshi.state_dict()
    for name, tensor in stored.items():
        if name.endswith("_scb"):
            base = name.removesuffix("_scb")
            assert torch.equal(weights[f"{base}.codes"], stored[base])
            assert weights[f"{base}.scale"].dtype is torch.float32
            assert torch.equal(weights[f"{base}.scale"], tensor / 127)
        elif f"{name}_scb" not in stored:
            assert torch.equal(weights[name], tensor)
    assert sum(name.endswith(".codes") for name in weights) == len([name for name in stored if name.endswith("_scb")])
    rounded_here = load_checkpoint(str(nano), packing="int8").moshi.state_dict()
    assert all(torch.equal(rounded_here[name], weights[name]) for name in weights if name.endswith(".codes"))


@pytest.mark.parametrize("packing", ["none", "int8", "int4"])
def test_8_bit_weights_are_packed_as_wanted(q8: Path, packing: Packing) -> None:
    moshi = load_checkpoint(str(q8), packing=packing).moshi
    kinds = {tensor.dtype for name, tensor in moshi.state_dict().items() if name.endswith(".codes")}
    assert kinds == {"none": set(), "int8": {torch.int8}, "int4": {torch.int8, torch.uint8}}[packing]


def test_more_depth_steps_in_8_bits_may_be_left_over(q8: Path) -> None:
    before = load_checkpoint(str(q8)).moshi.state_dict()

    def more(tensors: Tensors) -> None:
        for name in list(tensors):
            if name.startswith("depformer.layers.0.self_attn"):
                tensors[name] = torch.cat((tensors[name], torch.zeros_like(tensors[name])))
            elif found := re.match(r"(.*(?:linears|depformer_in|gating)\.)(\d)(\..*)", name):
                if name.startswith(("linears", "depformer")):
                    tensors[f"{found[1]}{int(found[2]) + 8}{found[3]}"] = torch.zeros_like(tensors[name])
        for step in range(7, 15):
            tensors[f"depformer_emb.{step}.weight"] = torch.zeros_like(tensors["depformer_emb.0.weight"])

    rewrite(q8, more)
    configure(q8, dep_q=16)
    after = load_checkpoint(str(q8)).moshi.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def scb_of(name: str, change: Callable[[Tensor], Tensor | None]) -> Change:
    def apply(tensors: Tensors) -> None:
        scales = change(tensors.pop(f"{name}_scb"))
        if scales is not None:
            tensors[f"{name}_scb"] = scales

    return apply


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (scb_of("text_linear.weight", lambda scb: None), r"lacks tensor 'text_linear\.weight_scb'"),
        (
            scb_of("transformer.layers.1.self_attn.in_proj_weight", lambda scb: None),
            r"lacks tensor 'transformer\.layers\.1\.self_attn\.in_proj_weight_scb'",
        ),
        (
            lambda tensors: tensors.update({"emb.0.weight_scb": torch.ones(129)}),
            r"holds tensor 'emb\.0\.weight_scb', which this model does not have",
        ),
        (
            scb_of("text_linear.weight", lambda scb: scb[:-1]),
            r"'text_linear\.weight_scb' .* has shape \[399\]; the config makes it \[400\]",
        ),
        (scb_of("linears.3.weight", torch.Tensor.bfloat16), r"'linears\.3\.weight_scb' .* is BF16; .* must be F32"),
        (
            lambda tensors: tensors.update({"linears.3.weight": torch.zeros(128, 32)}),
            r"'linears\.3\.weight' .* is F32; the config says that it is quantised \(quantize\), so it must be I8",
        ),
        (
            lambda tensors: tensors.update({"emb.2.weight": torch.zeros(129, 64, dtype=torch.int8)}),
            r"'emb\.2\.weight' .* is I8; it must be a floating-point type",
        ),
    ],
)
def test_8_bit_weights_that_do_not_fit_their_scales_are_refused(q8: Path, change: Change, complaint: str) -> None:
    rewrite(q8, change)
    with pytest.raises(CheckpointError, match=complaint):
        load_checkpoint(str(q8))


def test_8_bit_weights_of_which_the_config_says_nothing_are_refused(q8: Path) -> None:
    configure(q8, "quantize")
    with pytest.raises(CheckpointError, match=r"is I8; .* the config must say that it is quantised \(quantize\)"):
        load_checkpoint(str(q8))


def test_scales_without_8_bit_weights_are_refused(folder: Path) -> None:
    rewrite(folder, lambda tensors: tensors.update({"text_linear.weight_scb": torch.ones(400)}))
    with pytest.raises(
        CheckpointError, match=r"'text_linear\.weight_scb', the scales of 8-bit weights, but the config"
    ):
        load_checkpoint(str(folder))


@pytest.mark.parametrize("size", [0, 7, 100, 50_000])
@pytest.mark.parametrize("file", ["model.safetensors", "mimi.safetensors", "tokenizer.model"])
def test_a_torn_file_is_named(folder: Path, file: str, size: int) -> None:
    (folder / file).write_bytes((folder / file).read_bytes()[:size])
    with pytest.raises(CheckpointError, match=re.escape(file)):
        load_checkpoint(str(folder))


@pytest.mark.parametrize("file", ["model.safetensors", "mimi.safetensors", "tokenizer.model", "mimi.json"])
def test_a_missing_file_is_named(folder: Path, file: str) -> None:
    (folder / file).unlink()
    with pytest.raises(CheckpointError, match=rf"{re.escape(file)}.*missing"):
        load_checkpoint(str(folder))


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "no JSON"),
        (b"{", "no JSON"),
        (b"\xff\xfe", "no JSON"),
        (b"[]", "must hold a JSON object, not list"),
    ],
)
def test_a_config_that_is_none_is_refused(folder: Path, content: bytes, complaint: str) -> None:
    (folder / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"config\.json.*{complaint}"):
        load_checkpoint(str(folder))


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"dimm": 64}, "dimm"),
        ({"dim": "64"}, "config.json"),
        ({"dim": 65}, "dim 65"),
        ({"dep_q": 17}, "dep_q"),
        ({"delays": [0]}, "delays must be 17"),
        ({"card": 256}, "card is 256, but the codec's codebooks hold 128"),
        ({"text_card": 300}, "has 400 pieces, but the model's text_card is 300"),
        ({"quantize": True}, "lacks tensor .*_scb|is BF16; the config says that it is quantised"),
        ({"quantize": "q8"}, "quantize is 'q8'; it must be true or false"),
        ({"lora_name": "lora.safetensors"}, "lora.safetensors' is missing"),
        ({"lora_name": "../lora.safetensors"}, "lora_name is '../lora.safetensors'; it must lie inside"),
        ({"lora": True}, "lora is True, but no file of adapters is named"),
        ({"lora": False, "lora_name": "lora.safetensors"}, "lora_name is 'lora.safetensors', but lora is false"),
        ({"quantize": True, "lora_name": "lora.safetensors"}, "cannot be fused into 8-bit weights"),
        ({"lora_rank": 0, "lora_name": "lora.safetensors"}, "lora_rank is 0; it must be an integer above 0"),
        ({"lora_scaling": "2", "lora_name": "lora.safetensors"}, "lora_scaling is '2'; it must be a number"),
        ({"moshi_name": 3}, "moshi_name must be a file name"),
        ({"moshi_name": "../model.safetensors"}, "inside the checkpoint"),
        ({"tokenizer_name": "/etc/passwd"}, "inside the checkpoint"),
        ({"mimi_config_name": "/etc/passwd"}, "inside the checkpoint"),
        ({"tokenizer_name": "ftp://x/y"}, "ftp://x/y"),
        ({"lm_gen_config": 0.8}, "lm_gen_config must be an object"),
        ({"lm_gen_config": {"temp": -1}}, "lm_gen_config.temp is -1; it must be 0"),
        ({"lm_gen_config": {"temp_text": "hot"}}, "lm_gen_config.temp_text is 'hot'"),
        ({"lm_gen_config": {"top_k": 0}}, "lm_gen_config.top_k is 0; it must be an integer above 0"),
        ({"lm_gen_config": {"top_k_text": True}}, "lm_gen_config.top_k_text is True"),
        ({"prompt_config": []}, "prompt_config must be an object"),
        ({"prompt_config": {"stile": "text"}}, "no field 'stile'"),
        ({"prompt_config": {"style": "loud"}}, "style is 'loud'; it must be system, text or none"),
        ({"prompt_config": {"silence": [1, 2]}}, r"silence is \[1, 2\]; it must be 8 codes below 128"),
        ({"prompt_config": {"silence": 3}}, "silence must be a list"),
        ({"prompt_config": {"silence": [0] * 8, "sine": [128] * 8}}, "sine is"),
        ({"prompt_config": {"silence": [0] * 8, "sine": [True] * 8}}, "sine is"),
        ({"prompt_config": {"silence": [0] * 8, "sine": [0] * 8, "gap_frames": -1}}, "gap_frames is -1"),
    ],
)
def test_a_wrong_setting_is_named(folder: Path, settings: dict[str, Any], complaint: str) -> None:
    configure(folder, **settings)
    with pytest.raises(CheckpointError, match=complaint):
        load_checkpoint(str(folder))


def test_a_codec_of_another_frame_is_refused(folder: Path) -> None:
    codec = json.loads((folder / "mimi.json").read_text())
    codec["seanet"]["ratios"], codec["frame_rate"] = [8, 6, 5, 2], 25
    (folder / "mimi.json").write_text(json.dumps(codec))
    with pytest.raises(CheckpointError, match="frames of 960 samples"):
        load_checkpoint(str(folder))


# --- prompt layout -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("style", "meant"), [("auto", "text"), ("system", "system"), ("none", "none")])
def test_the_style_asked_for_stands_where_the_checkpoint_has_none(folder: Path, style: str, meant: str) -> None:
    assert load_checkpoint(str(folder), prompt_style=style).layout.style == "text"
    configure(folder, "prompt_config")
    assert load_checkpoint(str(folder), prompt_style=style).layout.style == meant


def test_sixteen_depth_steps_show_weights_that_know_prompts(folder: Path) -> None:
    rewrite(folder, more_depth)
    configure(folder, "prompt_config")
    assert load_checkpoint(str(folder)).layout.style == "system"
    assert load_checkpoint(str(folder), prompt_style="text").layout.style == "text"


def test_voices_beside_the_weights_show_them_too(folder: Path) -> None:
    (folder / "voices").mkdir()
    with wave.open(str(folder / "voices" / "ada.wav"), "wb") as file:
        file.setparams((1, 2, 24_000, 0, "NONE", ""))
        file.writeframes(bytes(2 * 1920))
    configure(folder, "prompt_config")
    checkpoint = load_checkpoint(str(folder))
    assert (checkpoint.layout.style, list(checkpoint.voices)) == ("system", ["ada"])


def test_a_codec_of_its_own_has_its_own_silence(folder: Path, nano: Path) -> None:
    """What nano writes into its config is what is measured where there is none."""
    configure(folder, "prompt_config")
    assert load_checkpoint(str(folder)).layout == load_checkpoint(str(nano)).layout


def test_silence_and_the_tone_are_what_the_codec_makes_of_them(nano: Path) -> None:
    checkpoint = load_checkpoint(str(nano))
    layout = measured_layout("text", checkpoint.mimi, 8, 8)
    state, mask = checkpoint.mimi.initial_state(1), torch.ones(1, dtype=torch.bool)
    silence = torch.zeros(1, 1, 1920)
    for _ in range(13):
        codes = checkpoint.mimi.encode(silence, state, mask)
    assert layout.silence == tuple(codes[0, :, 0].tolist())
    assert layout.sine != layout.silence


def test_a_prompt_is_a_gap_its_text_and_a_gap(folder: Path) -> None:
    configure(folder, prompt_config={"style": "system", "silence": [1] * 8, "sine": [2] * 8, "gap_frames": 2})
    checkpoint = load_checkpoint(str(folder))
    frames = checkpoint.layout.frames(checkpoint.tokenizer, " You are Ada. ")
    text = checkpoint.tokenizer.encode("<system> You are Ada. <system>")
    assert frames[:, 0].tolist() == [3, 3, *text, 3, 3]
    assert np.unique(frames[:, 1:9]).tolist() == [1]
    assert np.unique(frames[:, 9:]).tolist() == [2]
    tagged = checkpoint.layout.frames(checkpoint.tokenizer, "<system> You are Ada. <system>")
    assert np.array_equal(tagged, frames)


def test_no_text_is_no_prompt(folder: Path) -> None:
    layout, tokenizer = load_checkpoint(str(folder)).layout, load_checkpoint(str(folder)).tokenizer
    assert layout.frames(tokenizer, " \n").shape == (0, 17)
    configure(folder, prompt_config={"style": "none", "silence": [1] * 8, "sine": [2] * 8})
    assert load_checkpoint(str(folder)).layout.frames(tokenizer, "You are Ada.").shape == (0, 17)


def test_the_published_sizes_have_the_published_codes() -> None:
    """Drawn small enough to build; what counts is the codec's quantiser and the model's card."""
    with torch.device("meta"):
        mimi = Mimi(MimiConfig.from_dict({"quantizer": {"n_q": 8}}), 8)
    layout = default_layout("system", mimi, MoshiConfig())
    assert (layout.silence, layout.sine, layout.gap_frames) == (SILENCE, SINE, 6)


# --- the ear -------------------------------------------------------------------------------------------------------


def test_weights_without_an_ear_have_none(nano: Path) -> None:
    assert load_ear(str(nano), load_checkpoint(str(nano))) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_ear_is_read_alone(folder: Path, dtype: torch.dtype) -> None:
    """Codec and tokenizer are those that the talking model brought: they are not there any more."""
    write_ear(folder)
    checkpoint = load_checkpoint(str(folder))
    for name in ("mimi.safetensors", "mimi.json", "tokenizer.model", "model.safetensors"):
        (folder / name).unlink()
    ear = load_ear(str(folder), checkpoint, dtype=dtype)
    assert ear is not None
    assert ear.delay_frames == DELAY_FRAMES
    stored, weights = load_file(folder / "ear.safetensors"), ear.moshi.state_dict()
    assert weights.keys() == stored.keys()
    assert all(torch.equal(weights[name], tensor.to(dtype)) for name, tensor in stored.items())
    assert not any(weight.requires_grad for weight in ear.moshi.parameters())


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"dep_q": 4}, "ear.json: dep_q is 4; an ear makes no codes, so it must be 0"),
        ({"n_q": 9, "delays": [0] * 10}, "ear.json: n_q is 9; it must be 1 to 8, as many codebooks as the codec"),
        ({"n_q": 0, "delays": [0]}, "ear.json: n_q is 0; it must be 1 to 8"),
        ({"card": 64}, "ear.json: card is 64, but the codec's codebooks hold 128 codes"),
        ({"text_card": 399}, "ear.json: text_card is 399, but the tokenizer has 400 pieces"),
        ({"num_layers": 3}, "lacks tensor 'transformer.layers.2"),
        ({"delays": [0]}, "ear.json: delays must be 9 numbers"),
        ({"wings": 2}, "ear.json: unknown argument of the language model: 'wings'"),
        ({"moshi_name": "none.safetensors"}, "none.safetensors' is missing"),
        ({"moshi_name": ""}, "ear.json: moshi_name must be a file name"),
        ({"moshi_name": "../ear.safetensors"}, "ear.json: moshi_name is '../ear.safetensors'; it must lie inside"),
        ({"stt_config": None}, "ear.json: stt_config.audio_delay_seconds is None; it must be seconds, 0 to 10"),
        *(
            ({"stt_config": {"audio_delay_seconds": value}}, rf"audio_delay_seconds is {value!r}; it must be seconds")
            for value in (-0.1, 500, float("nan"), "0.5", True)
        ),
    ],
)
def test_an_ear_that_does_not_fit_is_refused(folder: Path, settings: dict[str, Any], complaint: str) -> None:
    write_ear(folder, **settings)
    with pytest.raises(CheckpointError, match=complaint):
        load_ear(str(folder), load_checkpoint(str(folder)))


# --- revision ------------------------------------------------------------------------------------------------------


def test_the_revision_changes_with_any_weight_or_setting(folder: Path, nano: Path) -> None:
    before = load_checkpoint(str(folder)).revision
    assert re.fullmatch(r"copy@[0-9a-f]{12}", before)
    assert load_checkpoint(str(folder)).revision == before
    assert load_checkpoint(str(nano)).revision.split("@")[1] == before.split("@")[1]
    rewrite(folder, lambda tensors: tensors["text_linear.weight"][7].add_(1))
    changed = load_checkpoint(str(folder)).revision
    configure(folder, max_period=5000)
    assert len({before, changed, load_checkpoint(str(folder)).revision}) == 3


def test_a_model_that_is_neither_folder_nor_repository_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="is a file; a checkpoint is a folder"):
        load_checkpoint(str(tmp_path / "file"))
    for name in ("nowhere", "a/b/c", "", str(tmp_path / "nowhere")):
        with pytest.raises(CheckpointError):
            load_checkpoint(name)


def test_a_file_that_is_written_anew_while_it_is_read_is_refused(folder: Path) -> None:
    """Half of one training and half of another would make a model that nearly speaks."""
    path = folder / "model.safetensors"
    stored = Stored(path)
    stored.read("text_linear.weight")
    shutil.copy(path, folder / "newer")
    (folder / "newer").replace(path)
    with pytest.raises(CheckpointError, match=r"model\.safetensors' was written anew while it was read; start again"):
        stored.read("text_linear.weight")
