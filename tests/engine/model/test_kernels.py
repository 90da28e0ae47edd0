"""Decode attention in Triton against torch's own; without a GPU in Triton's interpreter, which is exact but slow."""

from __future__ import annotations

import os

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when a kernel is defined
pytest.importorskip("triton", reason="triton is not installed: it comes with torch for CUDA")

from engine.model.kernels import SPLIT, decode  # noqa: E402  # after the switch above

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ROWS, LAYERS, HEADS, SLOTS, SIZE = 4, 2, 2, 2 * SPLIT + 40, 32


@pytest.fixture
def rings() -> Tensor:
    """Keys and values of all rows and layers [2, B, layers, H, C, h], as a state holds them."""
    return torch.randn(2, ROWS, LAYERS, HEADS, SLOTS, SIZE, generator=torch.Generator().manual_seed(0)).to(DEVICE)


def asked(count: int) -> Tensor:
    return torch.randn(count, HEADS, SIZE, generator=torch.Generator().manual_seed(1)).to(DEVICE)


def expected(query: Tensor, keys: Tensor, values: Tensor, rows: list[int], held: list[int]) -> Tensor:
    mixed = [
        F.scaled_dot_product_attention(one[None, :, None], keys[row, None, :, :slots], values[row, None, :, :slots])
        for one, row, slots in zip(query, rows, held, strict=True)
    ]
    return torch.cat(mixed)[:, :, 0]


def numbers(values: list[int]) -> Tensor:
    return torch.tensor(values, device=DEVICE)


@pytest.mark.parametrize("held", [[1, SLOTS], [SPLIT, SPLIT + 1], [37, 2 * SPLIT + 3]])
def test_each_row_attends_to_what_it_holds(rings: Tensor, held: list[int]) -> None:
    keys, values = rings[:, :, 1]
    query, rows = asked(2), [3, 1]
    got = decode(query, keys, values, numbers(rows), numbers(held))
    torch.testing.assert_close(got, expected(query, keys, values, rows, held), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [40, 24])
def test_heads_of_any_size(size: int) -> None:
    """The embedded ear has heads of 40."""
    keys, values = torch.randn(2, ROWS, HEADS, SLOTS, size, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    query = torch.randn(2, HEADS, size, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    got = decode(query, keys, values, numbers([3, 1]), numbers([SLOTS, 77]))
    torch.testing.assert_close(got, expected(query, keys, values, [3, 1], [SLOTS, 77]), atol=1e-5, rtol=1e-5)


@pytest.mark.skipif(DEVICE == "cuda", reason="a card has no memory that is never touched")
def test_the_rings_of_many_rows_are_more_than_32_bits_count() -> None:
    """As far apart as rows of Moshi 7B; what is not touched takes no memory."""
    apart, rows, few = 32 * 32 * 3_000 * 128, 8, 5
    cells = torch.empty(rows * apart, dtype=torch.int8)
    ring = cells.as_strided((rows, 1, SLOTS, SIZE), (apart, SLOTS * SIZE, SIZE, 1))
    scales = torch.full((rows, 1, SLOTS), 0.01)
    ring[-1, 0, :few] = torch.randint(-100, 100, (few, SIZE), generator=torch.Generator().manual_seed(0))
    query = asked(1)[:, :1]
    got = decode(query, ring, ring, numbers([rows - 1]), numbers([few]), (scales, scales))
    held = 0.01 * ring[-1:, :, :few].float()
    torch.testing.assert_close(got, expected(query, held, held, [0], [few]), atol=1e-5, rtol=1e-5)


def test_what_is_not_held_is_not_read(rings: Tensor) -> None:
    keys, values = rings[:, :, 0]
    query = asked(1)
    before = decode(query, keys, values, numbers([0]), numbers([70]))
    rings[:, :, :, :, 70:] = float("nan")
    assert torch.equal(decode(query, keys, values, numbers([0]), numbers([70])), before)


def test_a_row_that_holds_nothing_gives_zeros(rings: Tensor) -> None:
    keys, values = rings[:, :, 0]
    got = decode(asked(2), keys, values, numbers([0, 1]), numbers([0, 9]))
    assert not got[0].any() and got[1].all()


def test_a_row_is_the_same_alone_and_beside_others(rings: Tensor) -> None:
    keys, values = rings[:, :, 0]
    query, held = asked(3), [SLOTS, 300, 5]
    together = decode(query, keys, values, numbers([2, 0, 3]), numbers(held))
    for place, row in enumerate((2, 0, 3)):
        alone = decode(query[place : place + 1], keys, values, numbers([row]), numbers(held[place : place + 1]))
        assert torch.equal(alone[0], together[place])


def test_keys_and_values_in_8_bits_are_scaled_as_they_are_read(rings: Tensor) -> None:
    keys, values = rings[:, :, 1]
    scales = rings[:, :, 1].abs().amax(-1) / 127
    whole = (rings[:, :, 1] / scales[..., None]).round().to(torch.int8)
    query, rows, held = asked(2), [0, 2], [SLOTS, 77]
    got = decode(query, whole[0], whole[1], numbers(rows), numbers(held), (scales[0], scales[1]))
    restored = whole * scales[..., None]
    torch.testing.assert_close(got, expected(query, restored[0], restored[1], rows, held), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(got, expected(query, keys, values, rows, held), atol=0.02, rtol=0)


def test_numbers_of_16_bits_are_summed_in_32(rings: Tensor) -> None:
    """bfloat16 on a card; the interpreter, which has numpy's types, is given the other one."""
    kind = torch.bfloat16 if DEVICE == "cuda" else torch.float16
    keys, values = rings[:, :, 1].to(kind)
    query = asked(1).to(kind)
    got = decode(query, keys, values, numbers([1]), numbers([SLOTS]))
    assert got.dtype == kind
    exact = expected(query.float(), keys.float(), values.float(), [1], [SLOTS])
    torch.testing.assert_close(got.float(), exact, atol=2e-3, rtol=1e-2)
