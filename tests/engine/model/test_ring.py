"""Keys and values in 8 bits: close to those in full, and else in every way the same."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from engine.model import attention
from engine.model.ring import KvState, rounded
from engine.model.rows import Rows
from engine.model.transformer import Transformer, TransformerConfig

CONFIG = TransformerConfig(64, 4, 2, 96, 12, norm="rms_norm_f32", gating="silu")
STEPS = 30  # two and a half times the context


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def stack() -> Transformer:
    made = Transformer(CONFIG)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in made.parameters():
            weight.copy_(torch.randn(weight.shape, generator=draw) / math.sqrt(weight.shape[-1]) + (weight.ndim != 2))
    return made


def noise(rows: int, steps: int = STEPS) -> Tensor:
    return torch.randn(rows, steps, CONFIG.dim, generator=torch.Generator().manual_seed(1))


def stream(stack: Transformer, x: Tensor, state: KvState, mask: Tensor | None = None) -> Tensor:
    return torch.cat([stack(part, state, mask) for part in torch.split(x, 1, 1)], 1)


def small(stack: Transformer, rows: int) -> KvState:
    return stack.initial_state(rows, eight_bits=True)


def test_each_vector_is_known_to_a_part_of_its_greatest_number() -> None:
    vectors = noise(3) * torch.logspace(-6, 3, STEPS)[:, None]
    whole, scales = rounded(vectors)
    error = (whole * scales - vectors).abs()
    assert (error <= vectors.abs().amax(-1, keepdim=True) / 127 * 0.501).all()
    assert whole.abs().amax(-1).eq(127).all()


def test_a_vector_of_zeros_stays_one() -> None:
    whole, scales = rounded(torch.zeros(2, 8))
    assert not (whole * scales).any()


def test_what_comes_out_is_within_a_hundredth_of_full_precision(stack: Transformer) -> None:
    x = noise(2)
    full, less = stream(stack, x, stack.initial_state(2)), stream(stack, x, small(stack, 2))
    error = (full - less).square().mean().sqrt() / full.square().mean().sqrt()
    assert 0 < error < 0.01


def test_it_takes_little_more_than_a_quarter_of_float32(stack: Transformer) -> None:
    def size(state: KvState) -> int:
        tensors = (state.keys, state.values, *(state.scales or ()))
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    scale = 4 / CONFIG.head_dim
    assert size(small(stack, 3)) == pytest.approx(size(stack.initial_state(3)) * (1 + scale) / 4)


@pytest.mark.parametrize("chunks", [[18], [5, 13], [1, 12, 5]], ids=str)
def test_prefill_reads_what_streaming_would(stack: Transformer, chunks: list[int]) -> None:
    x, one, other = noise(2), small(stack, 2), small(stack, 2)
    streamed = stream(stack, x, one)
    whole = [stack.prefill(part, other, None) for part in torch.split(x[:, :18], chunks, 1)]
    together = torch.cat([*whole, stream(stack, x[:, 18:], other)], 1)
    torch.testing.assert_close(together, streamed, atol=1e-4, rtol=1e-4)
    assert (one.keys != other.keys).float().mean() < 0.01  # where the last bit of a sum decides how one is rounded


def test_a_row_that_does_not_run_keeps_all_it_has(stack: Transformer) -> None:
    state = small(stack, 2)
    stream(stack, noise(2, 9), state)
    before = [tensor[1].clone() for tensor in (state.keys, state.values, *(state.scales or ()))]
    stream(stack, noise(2, 5), state, torch.tensor([True, False]))
    after = [tensor[1] for tensor in (state.keys, state.values, *(state.scales or ()))]
    assert len(after) == 4 and all(map(torch.equal, before, after))


def test_a_row_is_forgotten_with_its_scales(stack: Transformer) -> None:
    state = small(stack, 2)
    stream(stack, noise(2, 9), state)
    state.reset(torch.tensor([True, False]))
    assert state.scales is not None
    for tensor in (state.keys, state.values, *state.scales):
        assert not tensor[0].any() and tensor[1].any()


def test_rows_that_are_selected_run_in_place(stack: Transformer) -> None:
    x = noise(4)
    state, alone = small(stack, 4), small(stack, 2)
    rows = Rows.of([0, 2], torch.device("cpu"))
    selected = state.select(rows)
    got = stream(stack, x[[0, 2]], selected)
    state.merge(rows, selected)
    assert torch.equal(got, stream(stack, x[[0, 2]], alone))
    assert torch.equal(state.keys[[0, 2]], alone.keys) and not state.keys[[1, 3]].any()
    of_one, of_alone = state.row(2).scales, alone.scales
    assert of_one is not None and of_alone is not None and torch.equal(of_one[0][0], of_alone[0][1])


@pytest.mark.parametrize("eight_bits", [False, True], ids=["full", "int8"])
def test_the_kernel_is_given_what_it_must_read(
    stack: Transformer, monkeypatch: pytest.MonkeyPatch, eight_bits: bool
) -> None:
    """Written out in torch here; `test_kernels` holds Triton's against the same."""

    def decode(
        query: Tensor, keys: Tensor, values: Tensor, rows: Tensor, held: Tensor, scales: tuple[Tensor, Tensor] | None
    ) -> Tensor:
        out = []
        for one, row, slots in zip(query, rows.tolist(), held.tolist(), strict=True):
            pair = [ring[row, :, :slots].float() for ring in (keys, values)]
            if scales is not None:
                pair = [ring * scale[row, :, :slots, None] for ring, scale in zip(pair, scales, strict=True)]
            weights = (pair[0] @ one[:, :, None] / math.sqrt(one.shape[-1])).softmax(1)
            out.append((weights * pair[1]).sum(1))
        return torch.stack(out)

    x = noise(4)
    rows = Rows.of([0, 2, 3], torch.device("cpu"))
    states = [stack.initial_state(4, eight_bits=eight_bits) for _ in range(2)]
    want = stream(stack, x[[0, 2, 3]], states[0].select(rows))
    monkeypatch.setattr(attention, "_has_kernel", lambda _: True)
    monkeypatch.setattr(attention, "_kernel", lambda: decode)
    got = stream(stack, x[[0, 2, 3]], states[1].select(rows))
    torch.testing.assert_close(got, want, atol=2e-4 if eight_bits else 1e-5, rtol=1e-3)
