"""Products with packed weights in Triton against torch's; without a GPU in Triton's interpreter, exact but slow."""

from __future__ import annotations

import os

import pytest
import torch
from torch import Tensor

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when a kernel is defined
pytest.importorskip("triton", reason="triton is not installed: it comes with torch for CUDA")

from engine.model.products import MOST_ROWS, SHARED_BYTES, TILES, Tile, by_groups, by_rows, stages, takes  # noqa: E402  # after the switch above
from engine.model.weights import GroupScaled, RowScaled, pack  # noqa: E402

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(DEVICE)


@pytest.mark.parametrize(("rows", "outputs", "inputs"), [(1, 32, 256), (3, 70, 300), (17, 33, 24), (70, 40, 512)])
def test_8_bits_are_scaled_by_row(rows: int, outputs: int, inputs: int) -> None:
    x, packed = drawn(rows, inputs), pack(drawn(outputs, inputs), "int8")
    assert isinstance(packed, RowScaled)
    made = by_rows(x, packed.codes, packed.scale)
    torch.testing.assert_close(made, x @ packed.plain().T, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize(("rows", "outputs", "inputs"), [(1, 32, 256), (5, 70, 384), (18, 40, 160)])
def test_4_bits_are_scaled_by_group(rows: int, outputs: int, inputs: int) -> None:
    x, packed = drawn(rows, inputs), pack(drawn(outputs, inputs), "int4")
    assert isinstance(packed, GroupScaled) and takes(x, packed.scale)
    made = by_groups(x, packed.codes, packed.scale)
    torch.testing.assert_close(made, x @ packed.plain().T, atol=1e-4, rtol=1e-5)


def test_some_rows_of_a_weight_and_any_shape_of_what_passes_through() -> None:
    x, packed = drawn(2, 3, 64), pack(drawn(50, 64), "int8")
    assert isinstance(packed, RowScaled)
    made = by_rows(x, packed.codes[10:30], packed.scale[10:30])
    torch.testing.assert_close(made, x @ packed.plain()[10:30].T, atol=1e-4, rtol=1e-5)


def test_numbers_of_16_bits_are_summed_in_32() -> None:
    """bfloat16 on a card; the interpreter, which has numpy's types, is given the other one."""
    kind = torch.bfloat16 if DEVICE == "cuda" else torch.float16
    x, eight, four = drawn(4, 512).to(kind), pack(drawn(32, 512), "int8"), pack(drawn(32, 512), "int4")
    assert isinstance(eight, RowScaled) and isinstance(four, GroupScaled)
    for made, packed in ((by_rows(x, eight.codes, eight.scale), eight), (by_groups(x, four.codes, four.scale), four)):
        assert made.dtype == kind
        torch.testing.assert_close(made.float(), x.float() @ packed.plain().T, atol=0.05, rtol=1e-2)


def test_what_is_not_for_these_kernels_is_left_to_torch() -> None:
    few, many = drawn(MOST_ROWS, 64), drawn(MOST_ROWS + 1, 64)
    by_row, small, odd = torch.ones(8), torch.ones(8, 4), torch.ones(8, 3)
    assert takes(few, by_row) and not takes(many, by_row)
    assert not takes(few, small)  # groups of 16: a matrix unit takes no less than 32
    assert not takes(drawn(1, 144), odd)  # groups of 48 are no power of two


@pytest.mark.parametrize("number_bytes", [2, 4])
@pytest.mark.parametrize("tile", TILES, ids=str)
def test_what_is_on_its_way_fits_the_smallest_card(tile: Tile, number_bytes: int) -> None:
    most = stages(tile, number_bytes)
    held = (most - 1) * tile.inputs * (tile.rows * number_bytes + tile.outputs)
    assert held + tile.inputs * tile.outputs * number_bytes <= SHARED_BYTES
    assert most >= 3 or number_bytes == 4  # float32 is not what cards are for
