"""Products with weights in 8 bits or 4, in Triton: a weight is read as it lies, and becomes a number in registers.

Decoding reads every weight once a step for a few rows, so the time is that of the bytes. Torch alone would write the
weights out as bfloat16 first and read them again: five bytes for one.

A program makes OUTPUTS columns of up to BM rows and goes through all inputs in one order, whatever rows there are.
Needs triton, which comes with torch for CUDA. What they must equal is `Packed.plain` multiplied in float32.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

MOST_ROWS = 256
"""Of x. With more, as in a long prompt, writing the weights out costs little beside the products."""


class Tile(NamedTuple):
    """What a program makes and reads: rows and columns of the product, and inputs at once; and by how many warps."""

    rows: int
    outputs: int
    inputs: int
    warps: int


TILES = Tile(16, 32, 256, 4), Tile(64, 32, 128, 4), Tile(64, 64, 128, 4)
"""The first that holds all rows is taken, or the last. Chosen on an H200 by the products of Moshi 7B."""

SHARED_BYTES = 99 << 10
"""What one program may hold in shared memory on an L4, the least of the cards in question; a Hopper card has 227 kB."""

LEAST_BYTES = 16
"""Of a group of 4-bit weights, as a matrix unit takes it; smaller groups are not for this kernel."""


@triton.jit  # type: ignore[untyped-decorator]  # triton has no types
def _by_rows(  # type: ignore[no-untyped-def]
    x, codes, scale, out, count, outputs, inputs, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr
):
    row = tl.program_id(1) * BM + tl.arange(0, BM)
    column = tl.program_id(0) * BN + tl.arange(0, BN)
    there, wanted = row < count, column < outputs
    total = tl.zeros((BM, BN), tl.float32)
    for first in range(0, inputs, BK):
        place = first + tl.arange(0, BK)
        inside = place < inputs
        given = tl.load(x + row[:, None] * inputs + place[None, :], mask=there[:, None] & inside[None, :], other=0)
        weight = tl.load(codes + column[None, :] * inputs + place[:, None], mask=wanted[None, :] & inside[:, None])
        weight = tl.where(inside[:, None], weight.to(given.dtype), 0.0)  # what is beside the weights may be no number
        total = tl.dot(given, weight.to(given.dtype), total, input_precision="ieee")
    total = total * tl.load(scale + column, mask=wanted, other=0)[None, :]
    cells = out + row[:, None] * outputs + column[None, :]
    tl.store(cells, total.to(out.dtype.element_ty), mask=there[:, None] & wanted[None, :])


@triton.jit  # type: ignore[untyped-decorator]  # triton has no types
def _by_groups(  # type: ignore[no-untyped-def]
    x, codes, scale, out, count, outputs, inputs, groups, BM: tl.constexpr, BN: tl.constexpr, BYTES: tl.constexpr
):
    row = tl.program_id(1) * BM + tl.arange(0, BM)
    column = tl.program_id(0) * BN + tl.arange(0, BN)
    there, wanted = row < count, column < outputs
    total = tl.zeros((BM, BN), tl.float32)
    for group in range(0, groups):
        place = group * BYTES + tl.arange(0, BYTES)
        pairs = tl.load(codes + column[None, :] * (inputs // 2) + place[:, None], mask=wanted[None, :], other=0)
        even = x + row[:, None] * inputs + 2 * place[None, :]
        first = tl.load(even, mask=there[:, None], other=0)
        second = tl.load(even + 1, mask=there[:, None], other=0)
        lower = ((pairs & 15).to(tl.int8) - 8).to(first.dtype)
        upper = ((pairs >> 4).to(tl.int8) - 8).to(first.dtype)
        part = tl.dot(first, lower, input_precision="ieee")
        part = tl.dot(second, upper, part, input_precision="ieee")
        total += part * tl.load(scale + column * groups + group, mask=wanted, other=0)[None, :]
    cells = out + row[:, None] * outputs + column[None, :]
    tl.store(cells, total.to(out.dtype.element_ty), mask=there[:, None] & wanted[None, :])


def takes(x: Tensor, scale: Tensor) -> bool:
    """Whether these kernels are for that: x [..., in], and the scales of a `RowScaled` or a `GroupScaled` weight."""
    inputs = x.shape[-1]
    if x.numel() > MOST_ROWS * inputs:
        return False
    half = inputs // scale.shape[1] // 2 if scale.ndim == 2 else LEAST_BYTES
    return half >= LEAST_BYTES and half & (half - 1) == 0


def by_rows(x: Tensor, codes: Tensor, scale: Tensor) -> Tensor:
    """x [..., in], codes [out, in] of a byte each, scale [out] float32 -> [..., out] of x's type."""
    tile = _tile(x)
    tile = tile._replace(inputs=min(tile.inputs, max(16, triton.next_power_of_2(x.shape[-1]))))
    return _launch(_by_rows, x, codes, scale, tile, (), BK=tile.inputs, num_stages=stages(tile, x.element_size()))


def by_groups(x: Tensor, codes: Tensor, scale: Tensor) -> Tensor:
    """x [..., in], codes [out, in / 2] of two weights each, scale [out, groups] float32 -> [..., out] of x's type."""
    groups = scale.shape[1]
    return _launch(_by_groups, x, codes, scale, _tile(x), (groups,), BYTES=x.shape[-1] // groups // 2, num_stages=4)


def _launch(
    kernel: Any, x: Tensor, codes: Tensor, scale: Tensor, tile: Tile, more: tuple[int, ...], **sizes: int
) -> Tensor:
    rows = x.reshape(-1, x.shape[-1]).contiguous()
    outputs = len(codes)
    out = torch.empty(len(rows), outputs, dtype=x.dtype, device=x.device)
    grid = triton.cdiv(outputs, tile.outputs), triton.cdiv(len(rows), tile.rows)
    given = rows, codes.contiguous(), scale.contiguous(), out, len(rows), outputs, rows.shape[1], *more
    kernel[grid](*given, BM=tile.rows, BN=tile.outputs, num_warps=tile.warps, **sizes)
    return out.view(*x.shape[:-1], outputs)


def stages(tile: Tile, number_bytes: int) -> int:
    """How many tiles' inputs may be on their way at once, x in numbers of so many bytes and weights in one byte each.

    All but one lie in shared memory; and there, too, one tile's weights become numbers.
    """
    on_the_way = tile.inputs * (tile.rows * number_bytes + tile.outputs)
    numbers = tile.inputs * tile.outputs * number_bytes
    return max(1, min(4, 1 + (SHARED_BYTES - numbers) // on_the_way))


def _tile(x: Tensor) -> Tile:
    rows = x.numel() // x.shape[-1]
    return next((tile for tile in TILES if rows <= tile.rows), TILES[-1])
