"""Attention of one new position over a ring of keys and values, in Triton: a row reads what it holds, and no more.

Two launches. `_part` takes a block of SPLIT slots of one row and head, and leaves that block's greatest score, sum and
weighted mean; `_join` puts a row's blocks together (the split softmax of flash decoding). How the slots are split does
not depend on how many rows there are or what they hold, so a row's result is bit for bit the same alone and beside
others. Keys and values may be 8-bit integers with a scale a position and head: a score is scaled once it is summed.
Matrix units make the products: by the others, summing takes longer than reading does.

Needs triton, which comes with torch for CUDA. What it must equal is torch's own attention over the slots that are held.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

SPLIT = 512
"""Slots that one program reads: 128 kB of bfloat16 keys at Moshi's heads of 128."""

STEP = 64
"""Slots of a program at once."""

LANES = 16
"""Queries that a matrix unit takes at least. One is asked; the others are zeros, and nothing waits for them."""

WARPS, STAGES = 4, 3
"""Of a program; and the steps whose keys and values may be on their way: 70 kB of the 99 that an L4's programs share.

Sizes were chosen on an H200, where 64 full rows of Moshi 7B are then read as fast as its memory gives them; twice as
many bytes in float32 are left to one step at a time."""


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
    LANES: tl.constexpr,
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
    only = tl.arange(0, LANES) == 0
    kind = query.dtype.element_ty
    top = tl.full((LANES,), -float("inf"), tl.float32)
    total = tl.zeros((LANES,), tl.float32)
    mean = tl.zeros((LANES, WIDE), tl.float32)
    if first < length:
        asked = tl.load(query + (row * heads + head) * SIZE + size, mask=inside, other=0)
        asked = tl.where(only[:, None], asked[None, :], 0.0).to(kind)
        source = tl.load(rows + row).to(tl.int64)  # the rings of six rows of Moshi 7B are 2^31 cells
        ring = source * ring_row + (head // SHARED) * ring_head
        scales = source * scale_row + (head // SHARED) * scale_head
        for start in range(first, min(first + SPLIT, length), STEP):
            slots = start + tl.arange(0, STEP)
            there = slots < length
            cells = ring + slots[:, None] * SIZE + size[None, :]
            known = there[:, None] & inside[None, :]
            key = tl.load(keys + cells, mask=known, other=0).to(kind)
            scores = tl.dot(asked, tl.trans(key), input_precision="ieee") * softmax_scale
            if SCALED:
                scores = scores * tl.load(key_scales + scales + slots, mask=there, other=0).to(tl.float32)[None, :]
            scores = tl.where(there[None, :], scores, -float("inf"))
            higher = tl.maximum(top, tl.max(scores, axis=1))
            weights = tl.exp(scores - higher[:, None])
            faded = tl.exp(top - higher)
            total = total * faded + tl.sum(weights, axis=1)
            if SCALED:
                weights = weights * tl.load(value_scales + scales + slots, mask=there, other=0).to(tl.float32)[None, :]
            value = tl.load(values + cells, mask=known, other=0).to(kind)
            mean = tl.dot(weights.to(kind), value, mean * faded[:, None], input_precision="ieee")
            top = higher
    tl.store(means + place * SIZE + size, tl.sum(tl.where(only[:, None], mean, 0.0), axis=0), mask=inside)
    tl.store(tops + place, tl.max(tl.where(only, top, -float("inf")), axis=0))
    tl.store(sums + place, tl.sum(tl.where(only, total, 0.0), axis=0))


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
    blocks, wide = triton.cdiv(slots, SPLIT), max(LANES, triton.next_power_of_2(size))
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
        LANES=LANES,
        SPLIT=SPLIT,
        STEP=STEP,
        SHARED=heads // keys.shape[1],
        SCALED=scales is not None,
        num_warps=WARPS,
        num_stages=STAGES if query.element_size() == 2 else 1,
    )
    _join[(count * heads,)](means, tops, sums, out, blocks, SIZE=size, WIDE=wide, BLOCKS=triton.next_power_of_2(blocks))
    return out
