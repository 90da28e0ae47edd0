"""Causal self-attention over a ring of past positions (Moshi paper, section 3.2), for all rows of one call at once.

What all layers of a call share is a `Call`, made once by the stack: how positions turn, which keys are hidden, where
new ones go. Where triton is, a row with one new position is read by a kernel. Nothing here reads a tensor's value on
the host.

Shapes: B rows, T positions of one call, C the ring's slots, H heads of size h, dim = H * h; G heads of keys and values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.model.ring import KvState, Ring
from engine.model.weights import Linear, project


@dataclass(frozen=True, slots=True)
class Part:
    """Some of a call's rows, in its own count, and where their rings lie."""

    own: slice
    rings: slice
    bias: Tensor  # [b, 1, T, S] of the activations' type: -inf hides a key; S = C, or C + T when parallel
    slots: Tensor  # [b, G, W, h] where the last W = min(T, C) of the new keys go
    mask: Tensor | None  # [b] bool
    pins: tuple[Tensor, Tensor] | None = None  # which slots are [b, 1, C, 1], and how far those turn [b, 1, 1, h/2]
    reach: tuple[Tensor, Tensor] | None = None  # where a kernel reads: rows of the rings [b], and slots they hold [b]

    def along(self, stretches: tuple[slice, ...]) -> tuple[Part, ...]:
        """Its rows by the stretches of rings they lie in; itself where there are none."""
        return tuple(self.of(own, rings) for own, rings in _places(stretches)) or (self,)

    def of(self, own: slice, rings: slice) -> Part:
        """Fewer of these rows."""
        mask, pins, reach = self.mask, self.pins, self.reach
        if pins is not None:
            pins = pins[0][own], pins[1][own]
        if reach is not None:
            reach = reach[0][: rings.stop - rings.start], reach[1][own]  # which counts from the first of its rings
        return Part(own, rings, self.bias[own], self.slots[own], None if mask is None else mask[own], pins, reach)


@dataclass(frozen=True, slots=True)
class Call:
    """What all layers of one call share."""

    turn: Tensor  # [B, 1, T, h/2] complex64
    parts: tuple[Part, ...]  # of neighbours in the rings, one for each stretch; more than one in no parallel call
    parallel: bool  # the ring is read as it was before the call, beside the new keys


def rotate(x: Tensor, turn: Tensor) -> Tensor:
    """Turn each pair (2j, 2j + 1) of x [..., B, H, T, h] by its angle; turn is [B, 1, T, h/2] complex64."""
    pairs = torch.view_as_complex(x.float().view(*x.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * turn).flatten(-2).to(x.dtype)


class Attention(nn.Module):
    """Causal self-attention; `in_proj_weight` holds q, then k, then v, each heads-major."""

    def __init__(self, dim: int, heads: int, kv_heads: int) -> None:
        super().__init__()
        self.heads, self.kv_heads = heads, kv_heads
        self.in_proj_weight = nn.Parameter(torch.zeros((heads + 2 * kv_heads) * (dim // heads), dim))
        self.out_proj = Linear(dim, dim)

    def forward(self, x: Tensor, rings: tuple[Ring, Ring], call: Call) -> Tensor:
        """x [B, T, dim] -> [B, T, dim]; this layer's rings, of keys and values, have as many rows in one part."""
        turned = self.heads + self.kv_heads
        projected = project(x, self.in_proj_weight).view(*x.shape[:2], turned + self.kv_heads, -1).transpose(1, 2)
        query, key = rotate(projected[:, :turned], call.turn).split_with_sizes(
            (self.heads, self.kv_heads), 1
        )  # [B, H or G, T, h]
        new = key, projected[:, turned:]
        if call.parallel:
            mixed = _attend_beside(query, new, rings, call.parts[0])
        elif len(call.parts) == 1:
            mixed = _attend(query, new, rings, call.parts[0])
        else:
            mixed = torch.cat([_attend_part(query, new, rings, part) for part in call.parts])
        return self.out_proj(mixed.transpose(1, 2).flatten(2))

    __call__ = forward


def _attend(query: Tensor, new: tuple[Tensor, ...], rings: tuple[Ring, ...], part: Part) -> Tensor:
    """query [b, H, T, h] -> [b, H, T, h], from the rings, once the `new` keys and values are in them."""
    for ring, made in zip(rings, new, strict=True):
        ring.store(made, part.slots, part.mask)
    if part.reach is not None:
        decode = _kernel()
        assert decode is not None
        return decode(query[:, :, 0], rings[0].cells, rings[1].cells, *part.reach, _scales(rings))[:, :, None]
    keys, values = (ring.read(query.dtype) for ring in rings)
    if part.pins is not None:
        keys = torch.where(part.pins[0], rotate(keys, part.pins[1]), keys)
    return _mixed(query, keys, values, part.bias)


def _mixed(query: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
    shared = query.shape[1] != keys.shape[1]
    return F.scaled_dot_product_attention(query, keys, values, attn_mask=bias, enable_gqa=shared)


def _scales(rings: tuple[Ring, ...]) -> tuple[Tensor, Tensor] | None:
    keys, values = (ring.scales for ring in rings)
    return None if keys is None or values is None else (keys[..., 0], values[..., 0])


@cache
def _kernel() -> Callable[..., Tensor] | None:
    """Attention that reads what a row holds, and no more: `kernels.decode`, where triton is."""
    try:
        from engine.model.kernels import decode
    except ImportError:
        return None
    return decode


def _has_kernel(x: Tensor) -> bool:
    return x.is_cuda and _kernel() is not None


def _attend_part(query: Tensor, new: tuple[Tensor, ...], rings: tuple[Ring, ...], part: Part) -> Tensor:
    """The same of some rows among others."""
    own, there = tuple(made[part.own] for made in new), tuple(ring.of(part.rings) for ring in rings)
    return _attend(query[part.own], own, there, part)


def _attend_beside(query: Tensor, new: tuple[Tensor, ...], rings: tuple[Ring, ...], part: Part) -> Tensor:
    """From the rings as they were, and beside them the `new` keys and values, which enter the rings then."""
    seen = [torch.cat((ring.read(made.dtype), ring.as_held(made)), 2) for ring, made in zip(rings, new, strict=True)]
    for ring, made in zip(rings, new, strict=True):
        ring.store(made, part.slots, part.mask)
    return _mixed(query, seen[0], seen[1], part.bias)


def _places(stretches: tuple[slice, ...]) -> Iterator[tuple[slice, slice]]:
    """Of each stretch of rings, the rows of a call that it holds, and itself."""
    start = 0
    for rings in stretches:
        end = start + rings.stop - rings.start
        yield slice(start, end), rings
        start = end


def reach_of(x: Tensor, positions: Tensor, state: KvState, mask: Tensor | None) -> tuple[Tensor, Tensor] | None:
    """A `Part.reach` for x [B, T, dim] at positions [B, T]; None where no kernel reads it."""
    if x.shape[1] != 1 or not _has_kernel(x):
        return None
    rows = torch.arange(len(x), device=x.device) if state.index is None else state.index
    held_slots = (positions[:, 0] + 1).clamp_max(state.slots)
    if mask is not None:
        held_slots = held_slots * mask  # a row that waits is not read
    return rows.to(torch.int32), held_slots.to(torch.int32)
