"""Attention of one new position over a ring of keys and values, in Triton: a row reads what it holds, and no more.

Two launches. `_part` takes a block of SPLIT slots of one row and head, and leaves that block's greatest score, sum and
weighted mean; `_join` puts a row's blocks together (the split softmax of flash decoding). How the slots are split does
not depend on how many rows there are or what they hold, so a row's result is bit for bit the same alone and beside
others. Keys and values may be 8-bit integers with a scale a position and head: a score is scaled once it is summed.

Needs triton, which comes with torch for CUDA. What it must equal is torch's own attention over the slots that are held.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

SPLIT = 256
"""Slots that one program reads: 64 kB of bfloat16 keys at Moshi's heads of 128, enough in flight to hide the memory."""

STEP = 64
"""Slots of a program at once."""


@triton.jit  # type: ignore[untyped-decorator]  # triton has no types
def _part(  # type: ignore[no-untyped-def]
    query,
    keys,
    values,
    key_scales,
    value_scales,
    rows,
    held,
    means,
    tops,
    sums,
    ring_row,
    ring_head,
    scale_row,
    scale_head,
    heads,
    softmax_scale,
    SIZE: tl.constexpr,
    WIDE: tl.constexpr,
    SPLIT: tl.constexpr,
    STEP: tl.constexpr,
    SHARED: tl.constexpr,
    SCALED: tl.constexpr,
):
    row, head, block = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    blocks = tl.num_programs(2)
    place = (row * heads + head) * blocks + block
    length = tl.load(held + row)
    first = block * SPLIT
    size = tl.arange(0, WIDE)
    inside = size < SIZE
    top = -float("inf")
    total = 0.0
    mean = tl.zeros((WIDE,), tl.float32)
    if first < length:
        asked = tl.load(query + (row * heads + head) * SIZE + size, mask=inside, other=0).to(tl.float32)
        source = tl.load(rows + row).to(tl.int64)  # the rings of six rows of Moshi 7B are 2^31 cells
        ring = source * ring_row + (head // SHARED) * ring_head
        scales = source * scale_row + (head // SHARED) * scale_head
        for start in range(first, min(first + SPLIT, length), STEP):
            slots = start + tl.arange(0, STEP)
            there = slots < length
            cells = ring + slots[:, None] * SIZE + size[None, :]
            key = tl.load(keys + cells, mask=there[:, None] & inside[None, :], other=0).to(tl.float32)
            scores = tl.sum(key * asked[None, :], axis=1) * softmax_scale
            if SCALED:
                scores = scores * tl.load(key_scales + scales + slots, mask=there, other=0).to(tl.float32)
            scores = tl.where(there, scores, -float("inf"))
            higher = tl.maximum(top, tl.max(scores, axis=0))
            weights = tl.exp(scores - higher)
            faded = tl.exp(top - higher)
            total = total * faded + tl.sum(weights, axis=0)
            if SCALED:
                weights = weights * tl.load(value_scales + scales + slots, mask=there, other=0).to(tl.float32)
            value = tl.load(values + cells, mask=there[:, None] & inside[None, :], other=0).to(tl.float32)
            mean = mean * faded + tl.sum(value * weights[:, None], axis=0)
            top = higher
    tl.store(means + place * SIZE + size, mean, mask=inside)
    tl.store(tops + place, top)
    tl.store(sums + place, total)


@triton.jit  # type: ignore[untyped-decorator]  # triton has no types
def _join(  # type: ignore[no-untyped-def]
    means, tops, sums, out, blocks, SIZE: tl.constexpr, WIDE: tl.constexpr, BLOCKS: tl.constexpr
):
    place = tl.program_id(0)
    block, size = tl.arange(0, BLOCKS), tl.arange(0, WIDE)
    there, inside = block < blocks, size < SIZE
    top = tl.load(tops + place * blocks + block, mask=there, other=-float("inf"))
    total = tl.load(sums + place * blocks + block, mask=there, other=0.0)
    cells = (place * blocks + block[:, None]) * SIZE + size[None, :]
    mean = tl.load(means + cells, mask=there[:, None] & inside[None, :], other=0.0)
    # A row that holds nothing has a top of -inf everywhere; it gives zeros, not NaN.
    highest = tl.max(top, axis=0)
    weight = tl.exp(top - tl.where(highest == -float("inf"), 0.0, highest))
    whole = tl.sum(weight * total, axis=0)
    mixed = tl.sum(mean * weight[:, None], axis=0) / tl.where(whole > 0, whole, 1.0)
    tl.store(out + place * SIZE + size, mixed.to(out.dtype.element_ty), mask=inside)


def decode(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    rows: Tensor,
    held: Tensor,
    scales: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """query [b, H, h] of rows [b] -> [b, H, h]; keys and values [B, G, C, h] of all rows, any strides of B and G.

    H / G query heads share the keys and values of one.

    `held` [b]: how many slots a row has written, from the first on; 0 gives zeros. `scales`: of 8-bit keys and values,
    [B, G, C] each. `rows` and `held` are integers on the device: nothing is read on the host.
    """
    count, heads, size = query.shape
    slots = keys.shape[2]
    blocks, wide = triton.cdiv(slots, SPLIT), triton.next_power_of_2(size)
    means = query.new_empty((count, heads, blocks, size), dtype=torch.float32)
    tops, sums = (query.new_empty((count, heads, blocks), dtype=torch.float32) for _ in range(2))
    out = torch.empty_like(query, memory_format=torch.contiguous_format)
    key_scales, value_scales = scales or (keys, values)
    grid: Any = (count, heads, blocks)
    _part[grid](
        query.contiguous(),
        keys,
        values,
        key_scales,
        value_scales,
        rows,
        held,
        means,
        tops,
        sums,
        keys.stride(0),
        keys.stride(1),
        key_scales.stride(0),
        key_scales.stride(1),
        heads,
        1 / math.sqrt(size),
        SIZE=size,
        WIDE=wide,
        SPLIT=SPLIT,
        STEP=STEP,
        SHARED=heads // keys.shape[1],
        SCALED=scales is not None,
    )
    _join[(count * heads,)](means, tops, sums, out, blocks, SIZE=size, WIDE=wide, BLOCKS=triton.next_power_of_2(blocks))
    return out
