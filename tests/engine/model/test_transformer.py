"""Attention over the ring equals attention written out, row by row and query by query."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from engine.model.attention import rotate
from engine.model.ring import KvState
from engine.model.rows import Rows
from engine.model.transformer import (
    GatedFeedForward,
    Layer,
    RmsNormF32,
    Transformer,
    TransformerConfig,
    rotation,
)

CONFIG = TransformerConfig(dim=16, heads=2, layers=2, hidden=24, context=6)
GATED = replace(CONFIG, norm="rms_norm_f32", gating="silu")
MIMI = replace(CONFIG, layer_scale=True)


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def build(config: TransformerConfig, seed: int = 0) -> Transformer:
    stack = Transformer(config)
    draw = torch.Generator().manual_seed(seed)
    for weight in stack.parameters():
        weight.copy_(torch.randn(weight.shape, generator=draw) / math.sqrt(weight.shape[-1]))
        if weight.ndim != 2:
            weight.add_(1)
    return stack


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def everybody(rows: int) -> Tensor:
    return torch.ones(rows, dtype=torch.bool)


def written_out(stack: Transformer, x: Tensor, group: int = 1) -> Tensor:
    """The stack over x [T, dim] without ring or batch; queries come in calls of `group`."""
    config, size = stack.config, stack.config.head_dim
    for layer in stack.layers:
        assert isinstance(layer, Layer)
        weights = dict(layer.named_parameters())
        query, key, value = (
            (layer.norm1(x[None])[0] @ weights["self_attn.in_proj_weight"].T)
            .view(len(x), 3, config.heads, size)
            .unbind(1)
        )
        mixed = torch.zeros(len(x), config.heads, size)
        for t in range(len(x)):
            newest = t - t % group + group - 1
            first = max(0, newest - config.context + 1)
            for head in range(config.heads):
                scores = torch.stack(
                    [turned(query[t, head], t) @ turned(key[s, head], s) for s in range(first, t + 1)]
                ) / math.sqrt(size)
                mixed[t, head] = scores.softmax(0) @ value[first : t + 1, head]
        x = x + weights.get("layer_scale_1.scale", 1) * (mixed.flatten(1) @ weights["self_attn.out_proj.weight"].T)
        inner = layer.norm2(x[None])[0]
        if config.gating:
            gate, inner = (inner @ weights["gating.linear_in.weight"].T).chunk(2, -1)
            out = (F.silu(gate) * inner) @ weights["gating.linear_out.weight"].T
        else:
            out = F.gelu(inner @ weights["linear1.weight"].T) @ weights["linear2.weight"].T
        x = x + weights.get("layer_scale_2.scale", 1) * out
    return x


def turned(x: Tensor, position: int) -> Tensor:
    """RoPE as complex numbers: neighbours are real and imaginary part."""
    pairs = torch.view_as_complex(x.view(-1, 2).contiguous())
    speed = torch.tensor([10_000.0 ** (-2 * j / len(x)) for j in range(len(pairs))])
    return torch.view_as_real(pairs * torch.polar(torch.ones(len(pairs)), position * speed)).flatten()


def stream(stack: Transformer, x: Tensor, state: KvState, group: int = 1) -> Tensor:
    return torch.cat([stack(part, state, everybody(len(x))) for part in torch.split(x, group, 1)], 1)


@pytest.mark.parametrize("config", [CONFIG, GATED, MIMI], ids=["plain", "gated", "scaled"])
@pytest.mark.parametrize("group", [1, 2, 3])
def test_streaming_equals_attention_written_out(config: TransformerConfig, group: int) -> None:
    stack, x = build(config), noise(1, 18, 16)  # three times the context
    got = stream(stack, x, stack.initial_state(1), group)
    torch.testing.assert_close(got[0], written_out(stack, x[0], group), atol=1e-5, rtol=1e-5)
    if group == 2:  # of a pair, the first query has lost one key more than it would have alone
        assert not torch.allclose(got[0, 12:], written_out(stack, x[0])[12:], atol=1e-3)


def test_a_row_in_a_shorter_ring_becomes_one_in_the_whole() -> None:
    """Attention reaches as far as ever; in a whole ring the row then goes on as one that was always there."""
    stack = build(replace(CONFIG, context=20))
    x = noise(2, 30, CONFIG.dim)
    short, whole = stack.initial_state(1, slots=13), stack.initial_state(2)
    assert (short.slots, whole.slots) == (13, 20)
    stack.prefill(x[:, :25], whole, None)
    fresh = stack.initial_state(2)
    for start in (0, 6):
        stack.prefill(x[1:, start : start + 6], short, None)
    stack(x[1:, 12:13], short, None)
    whole.row(1).take_over(short, 13)
    stack.prefill(x[:, :13], fresh, None)
    want = [stack(x[1:, at : at + 1], fresh.row(1), None) for at in range(13, 30)]
    got = [stack(x[1:, at : at + 1], whole.row(1), None) for at in range(13, 30)]
    torch.testing.assert_close(got, want, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="exceed the ring of 13"):
        stack(x[1:, :14], short, None)


@pytest.mark.parametrize("chunks", [[18], [5, 13], [1, 6, 6, 5], [7, 1, 1, 9]], ids=str)
def test_prefill_equals_streaming(chunks: list[int]) -> None:
    stack, x = build(GATED), noise(2, 25, 16)
    single, whole = stack.initial_state(2), stack.initial_state(2)
    want = stream(stack, x, single)
    got = torch.cat([stack.prefill(part, whole, everybody(2)) for part in torch.split(x[:, :18], chunks, 1)], 1)
    torch.testing.assert_close(got, want[:, :18], atol=1e-5, rtol=0)
    torch.testing.assert_close(stream(stack, x[:, 18:], whole), want[:, 18:], atol=1e-5, rtol=0)
    for one, other in [(whole.keys, single.keys), (whole.values, single.values)]:
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)
    assert whole.position.tolist() == [25, 25]


@pytest.mark.parametrize("parallel", [False, True])
def test_a_masked_row_keeps_its_state_bit_for_bit(parallel: bool) -> None:
    stack, state = build(GATED), build(GATED).initial_state(3)
    stream(stack, noise(3, 11, 16), state)
    before = KvState(state.keys.clone(), state.values.clone(), state.position.clone())
    mask = torch.tensor([True, False, True])
    out = (stack.prefill if parallel else stack.forward)(noise(3, 2, 16), state, mask)
    assert torch.equal(state.keys[1], before.keys[1]) and torch.equal(state.values[1], before.values[1])
    assert state.position.tolist() == [13, 11, 13]
    assert not torch.equal(state.keys[0], before.keys[0])
    assert out.isfinite().all()


@pytest.mark.parametrize("parallel", [False, True])
def test_no_mask_is_a_mask_of_all(parallel: bool) -> None:
    stack, x = build(GATED), noise(2, 20, 16)
    masked, free = stack.initial_state(2), stack.initial_state(2)
    run = stack.prefill if parallel else stack.forward
    for part in torch.split(x, 4, 1):
        assert torch.equal(run(part, free, None), run(part, masked, everybody(2)))
    assert torch.equal(free.keys, masked.keys) and torch.equal(free.values, masked.values)
    assert free.position.tolist() == masked.position.tolist() == [20, 20]


def test_rows_that_come_and_go_equal_rows_alone() -> None:
    stack, draw = build(GATED), torch.Generator().manual_seed(3)
    state, x = stack.initial_state(4), noise(4, 40, 16)
    alone = [stack.initial_state(1) for _ in range(4)]
    used = [0] * 4
    for tick in range(60):
        mask = torch.rand(4, generator=draw) < 0.6
        now = torch.stack([x[row, used[row] % 40] for row in range(4)])[:, None]
        got = stack(now, state, mask)
        for row in range(4):
            if mask[row]:
                want = stack(now[row : row + 1], alone[row], everybody(1))
                torch.testing.assert_close(got[row : row + 1], want, atol=1e-5, rtol=0)
                used[row] += 1
        if tick % 17 == 16:
            row = tick % 4
            state.reset(torch.arange(4) == row)
            alone[row] = stack.initial_state(1)
    assert min(used) > 2 * CONFIG.context


def test_reset_leaves_nothing_of_the_row_and_all_of_the_others() -> None:
    stack = build(GATED)
    state = stack.initial_state(2)
    stream(stack, noise(2, 9, 16), state)
    state.values[0] = math.nan  # a row that went wrong must not stay wrong
    kept = state.values[1].clone()
    state.reset(torch.tensor([True, False]))
    assert not state.keys[0].any() and not state.values[0].any() and state.position.tolist() == [0, 9]
    assert torch.equal(state.values[1], kept)
    x = noise(2, 1, 16)
    fresh = stack(x[:1], stack.initial_state(1), everybody(1))
    torch.testing.assert_close(stack(x, state, everybody(2))[:1], fresh, atol=1e-5, rtol=0)


def test_a_row_can_be_filled_through_its_view() -> None:
    stack, x = build(GATED), noise(1, 8, 16)
    state = stack.initial_state(3)
    stack.prefill(x, state.row(1), everybody(1))
    assert state.position.tolist() == [0, 8, 0]
    alone = stack.initial_state(1)
    stream(stack, x, alone)
    torch.testing.assert_close(state.keys[1:2], alone.keys, atol=1e-5, rtol=0)
    assert not state.keys[0].any() and not state.keys[2].any()


def test_the_norm_is_computed_in_float32() -> None:
    norm = RmsNormF32(8).to(torch.float16)
    norm.alpha.fill_(2)
    x = torch.full((1, 1, 8), 300.0, dtype=torch.float16)  # its square is beyond float16
    assert norm(x).dtype is torch.float16
    assert norm(x).flatten().tolist() == [2.0] * 8


def test_silu_is_on_the_first_half() -> None:
    part = GatedFeedForward(1, 1)
    part.linear_in.weight.copy_(torch.tensor([[2.0], [3.0]]))
    part.linear_out.weight.fill_(1)
    assert part(torch.ones(1, 1, 1)).item() == pytest.approx(3 * 2 / (1 + math.exp(-2)))


def test_names_are_those_of_the_published_files() -> None:
    plain = [name for name, _ in Transformer(replace(MIMI, layers=1)).named_parameters()]
    assert sorted(plain) == sorted(
        f"layers.0.{name}"
        for name in (
            *("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"),
            *("self_attn.in_proj_weight", "self_attn.out_proj.weight", "linear1.weight", "linear2.weight"),
            *("layer_scale_1.scale", "layer_scale_2.scale"),
        )
    )
    gated = [name for name, _ in Transformer(replace(GATED, layers=1)).named_parameters()]
    assert sorted(gated) == sorted(
        f"layers.0.{name}"
        for name in (
            *("norm1.alpha", "norm2.alpha", "self_attn.in_proj_weight", "self_attn.out_proj.weight"),
            *("gating.linear_in.weight", "gating.linear_out.weight"),
        )
    )


def test_too_much_at_once_and_odd_sizes_are_refused() -> None:
    stack = build(CONFIG)
    with pytest.raises(ValueError, match="7 positions in one call exceed the ring of 6"):
        stack(noise(1, 7, 16), stack.initial_state(1), everybody(1))
    with pytest.raises(ValueError, match="multiple of twice the 3 heads"):
        replace(CONFIG, heads=3)
    with pytest.raises(ValueError, match="at least 1"):
        replace(CONFIG, context=0)


# --- pinned positions ----------------------------------------------------------------------------------------------


def written_out_with_pins(stack: Transformer, x: Tensor, pinned: int) -> Tensor:
    """The stack over x [T, dim], one call each: `pinned` first positions and the last others, together the context.

    Positions count within that window, so that nothing is ever farther than it is long.
    """
    config, size, out = stack.config, stack.config.head_dim, []
    past: list[list[tuple[Tensor, Tensor]]] = [[] for _ in stack.layers]
    for number, frame in enumerate(x):
        recent = config.context - pinned
        seen = [p for p in range(number + 1) if p < pinned or p > number - recent]
        shift = max(0, number - (config.context - 1))
        places = torch.tensor([p + shift if p < pinned else p for p in seen])
        for layer, memory in zip(stack.layers, past, strict=True):
            assert isinstance(layer, Layer)
            parts = layer.norm1(frame[None])[0] @ layer.self_attn.in_proj_weight.T
            query, key, value = (part.view(config.heads, size) for part in parts.chunk(3))
            memory.append((key, value))
            keys = turned_at(torch.stack([memory[p][0] for p in seen], 1), places)
            values = torch.stack([memory[p][1] for p in seen], 1)
            scores = turned_at(query[:, None], torch.tensor([number])) @ keys.mT / math.sqrt(size)
            mixed = (scores.softmax(-1) @ values)[:, 0].flatten()
            frame = frame + layer.self_attn.out_proj(mixed[None])[0]
            frame = frame + layer._feed_forward(layer.norm2(frame[None]))[0]
        out.append(frame)
    return torch.stack(out)


def turned_at(x: Tensor, positions: Tensor) -> Tensor:
    """x [H, T, h] at these positions."""
    return rotate(x, rotation(GATED, positions[None]))[0]


@pytest.mark.parametrize("pinned", [0, 1, 3])
def test_pinned_positions_stay_and_the_others_pass_by(pinned: int) -> None:
    stack, x = build(GATED), noise(3, 25, 16)
    state = stack.initial_state(3, pins=True)
    stack.prefill(x[:, :4], state, everybody(3))
    assert state.pinned is not None
    state.pinned[1] = pinned
    got = torch.cat([stack(x[:, at : at + 1], state, None) for at in range(4, 25)], 1)
    for row in range(3):
        want = written_out_with_pins(stack, x[row], pinned if row == 1 else 0)
        torch.testing.assert_close(got[row], want[4:], atol=1e-5, rtol=1e-5)


def test_a_row_without_pins_is_bit_for_bit_as_if_there_were_none_beside_it() -> None:
    stack, x = build(GATED), noise(2, 25, 16)
    plain, beside = stack.initial_state(2), stack.initial_state(2, pins=True)
    assert beside.pinned is not None
    beside.pinned[1] = 3
    for at in range(25):
        one, other = (stack(x[:, at : at + 1], state, None)[0] for state in (plain, beside))
        assert torch.equal(one, other)


@pytest.mark.parametrize("index", [[0, 1], [0, 2], [1, 3]])
def test_pins_are_those_of_the_rows_that_are_selected(index: list[int]) -> None:
    stack, x = build(GATED), noise(4, 12, 16)
    whole, some = stack.initial_state(4, pins=True), stack.initial_state(4, pins=True)
    for state in (whole, some):
        assert state.pinned is not None
        state.pinned.copy_(torch.tensor([3, 0, 2, 1]))
    rows = Rows.of(index, torch.device("cpu"))
    for at in range(12):
        want = stack(x[:, at : at + 1], whole, None)
        selected = some.select(rows)
        got = stack(x[index, at : at + 1], selected, None)
        some.merge(rows, selected)
        torch.testing.assert_close(got, want[index], atol=1e-6, rtol=1e-6)


def test_a_row_that_is_made_fresh_has_no_pins() -> None:
    state = build(GATED).initial_state(2, pins=True)
    assert state.pinned is not None
    state.pinned.fill_(2)
    state.reset(torch.tensor([True, False]))
    assert state.pinned.tolist() == [0, 2]
    state.row(1).take_over(build(GATED).initial_state(1), 2)
    assert state.pinned.tolist() == [0, 0]
