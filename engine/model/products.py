"""Products with weights in 8 bits or 4, in Triton: a weight is read as it lies, and becomes a number in registers.

Decoding reads every weight once a step for a few rows, so the time is that of the bytes. Torch alone would write the
weights out as bfloat16 first and read them again: five bytes for one.

A program makes OUTPUTS columns of up to BM rows and goes through all inputs in one order, whatever rows there are.
Needs triton, which comes with torch for CUDA. What they must equal is `Packed.plain` multiplied in float32.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

MOST_ROWS = 256
"""Of x. With more, as in a long prompt, writing the weights out costs little beside the products."""

OUTPUTS, INPUTS = 32, 256
"""Columns of a program, and inputs at once: 8 kB of 8-bit weights, of which four are on their way."""

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
    return _launch(_by_rows, x, codes, scale, (), BK=min(INPUTS, _power(x.shape[-1])))


def by_groups(x: Tensor, codes: Tensor, scale: Tensor) -> Tensor:
    """x [..., in], codes [out, in / 2] of two weights each, scale [out, groups] float32 -> [..., out] of x's type."""
    groups = scale.shape[1]
    return _launch(_by_groups, x, codes, scale, (groups,), BYTES=x.shape[-1] // groups // 2)


def _launch(kernel: Any, x: Tensor, codes: Tensor, scale: Tensor, more: tuple[int, ...], **sizes: int) -> Tensor:
    rows = x.reshape(-1, x.shape[-1]).contiguous()
    outputs = len(codes)
    out = torch.empty(len(rows), outputs, dtype=x.dtype, device=x.device)
    most = min(64, max(16, _power(len(rows))))
    grid = triton.cdiv(outputs, OUTPUTS), triton.cdiv(len(rows), most)
    last = rows.shape[1], *more
    codes, scale = codes.contiguous(), scale.contiguous()
    kernel[grid](rows, codes, scale, out, len(rows), outputs, *last, BM=most, BN=OUTPUTS, num_stages=4, **sizes)
    return out.view(*x.shape[:-1], outputs)


def _power(number: int) -> int:
    power: int = triton.next_power_of_2(number)
    return max(16, power)
