"""Loading takes no more memory than the weights, and full-size models have the shapes that they should."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses import FakeTensorMode

from engine.model.moshi import UNGENERATED, Moshi, MoshiConfig
from engine.model.transformer import Transformer
from engine.model.weights import pack
from tests.engine.model.test_moshi_config import STT_1B, STT_26B

GIGABYTE = replace(MoshiConfig(), dim=2048, num_layers=2, num_heads=16, depformer_dim=512, depformer_num_heads=8)
"""A Moshi whose weights in 16 bits are about 1 GB: half as wide, and few layers."""

LOAD = """
import json, sys
from pathlib import Path
import torch
from engine.model.moshi import Moshi, MoshiConfig
from engine.model.stored import Stored, fill

torch.set_num_threads(1)
torch.zeros(1).bfloat16().abs()

def memory(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))

config = MoshiConfig(**{k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(sys.argv[2]).items()})
before = memory("VmRSS:")
model = fill(lambda: Moshi(config), Stored(Path(sys.argv[1])), "cpu", torch.bfloat16, sys.argv[3])
print(memory("VmHWM:") - before, sum(t.numel() * t.element_size() for t in model.state_dict().values()))
"""


def write_sparse(config: MoshiConfig, path: Path) -> int:
    """A checkpoint of zeros that takes no room on the disk; returns how many bytes it seems to have."""
    with torch.device("meta"):
        shapes = {name: list(value.shape) for name, value in Moshi(config).state_dict().items()}
    header, at = {}, 0
    for name, shape in shapes.items():
        end = at + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, end]}
        at = end
    told = json.dumps(header).encode()
    told += b" " * (-len(told) % 8)
    with path.open("wb") as file:
        file.write(len(told).to_bytes(8, "little") + told)
        file.truncate(8 + len(told) + at)
    return path.stat().st_size


def peak(config: MoshiConfig, path: Path, packing: str = "stored") -> tuple[int, int]:
    """Bytes that a process needs to load it, at the most, and those of its weights then."""
    command = [sys.executable, "-c", LOAD, str(path), json.dumps(asdict(config)), packing]
    root = Path(__file__).parents[3]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=2000, check=True)
    most, weights = map(int, done.stdout.split())
    return most, weights


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from Linux's /proc")
def test_a_gigabyte_is_loaded_in_a_gigabyte(tmp_path: Path) -> None:
    size = write_sparse(GIGABYTE, tmp_path / "model.safetensors")
    assert 0.9e9 < size < 1.1e9
    most, weights = peak(GIGABYTE, tmp_path / "model.safetensors")
    assert weights == pytest.approx(size, rel=0.001)
    assert most <= 1.1 * size


@pytest.mark.acceptance
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from Linux's /proc")
@pytest.mark.parametrize(("packing", "share"), [("stored", 1.0), ("int8", 0.53), ("int4", 0.33)])
def test_moshi_7b_is_loaded_in_its_size(tmp_path: Path, packing: str, share: float) -> None:
    """15.4 GB, and a tenth; packed on load it never lies in memory whole."""
    size = write_sparse(MoshiConfig(), tmp_path / "model.safetensors")
    assert size == pytest.approx(15.4e9, rel=0.005)
    most, weights = peak(MoshiConfig(), tmp_path / "model.safetensors", packing)
    assert weights <= share * size * 1.01
    assert most <= weights + 0.1 * size


# --- full size -----------------------------------------------------------------------------------------------------

PUBLISHED: Mapping[str, dict[str, Any]] = {
    "Moshi 7B": {},
    "PersonaPlex 7B": {"dep_q": 16},
    "stt-1b-en_fr": STT_1B,
    "stt-2.6b-en": STT_26B,
}


@pytest.mark.parametrize(("name", "kv_bytes"), list(zip(PUBLISHED, (524_288, 524_288, 131_072, 393_216), strict=True)))
def test_a_published_model_steps_at_full_size(name: str, kv_bytes: int) -> None:
    """On tensors without values; and a position's keys and values take as many bytes as they should."""
    config = MoshiConfig.from_kwargs(PUBLISHED[name])
    with FakeTensorMode():
        model = Moshi(config)
        state = model.initial_state(2)
        caller = torch.full((2, config.n_q - config.dep_q), UNGENERATED)
        step = model.step(state, caller, torch.full((2, config.made), UNGENERATED), None, None)
        model.prefill(state, torch.zeros(2, 70, config.streams, dtype=torch.int64), None)
    assert step.emitted.shape == (2, config.made) and step.column.shape == (2, config.streams)
    ring = state.kv.keys.shape
    assert ring == (2, config.num_layers, config.num_heads, config.context, config.dim // config.num_heads)
    assert 2 * 2 * math.prod(ring[1:3]) * ring[4] == kv_bytes


@pytest.mark.parametrize("packing", ["none", "int8"])
def test_one_full_size_layer_steps_on_a_cpu(packing: str) -> None:
    """A layer of Moshi 7B: three positions one by one give what three at once give, and stay of a sound size."""
    sizes = replace(MoshiConfig().temporal, layers=1, context=8)
    with torch.device("meta"):
        stack = Transformer(sizes)
    stack = stack.bfloat16().to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in stack.parameters():
            bound = (3 / weight.shape[-1]) ** 0.5
            weight.uniform_(-bound, bound, generator=generator) if weight.dim() == 2 else weight.fill_(1)
    if packing == "int8":
        attention = stack.get_submodule("layers.0.self_attn")
        packed = pack(attention.get_parameter("in_proj_weight"), "int8")
        delattr(attention, "in_proj_weight")
        attention.register_module("in_proj_weight", packed)
    x = torch.randn(1, 3, sizes.dim, generator=generator).bfloat16()
    with torch.no_grad():
        at_once = stack.prefill(x, stack.initial_state(1), None)
        state = stack.initial_state(1)
        one_by_one = torch.cat([stack(x[:, at : at + 1], state, None) for at in range(3)], 1)
    assert at_once.shape == (1, 3, 4096) and state.keys.shape == (1, 1, 32, 8, 128)
    torch.testing.assert_close(one_by_one.float(), at_once.float(), atol=0.05, rtol=0.02)
    added = (at_once - x).float().std().item()
    assert 0.1 < added < 3
