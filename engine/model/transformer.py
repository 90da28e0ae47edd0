"""Pre-norm transformer layers whose attention reads a ring of past positions (Moshi paper, sections 3.2 and 3.3).

Modules hold weights only, under the names of the published checkpoints. What a row remembers is a `KvState`, which is
passed in and updated in place; a row whose mask is False keeps its state bit for bit. A mask of None runs every row,
and saves the reading of what would be kept. Nothing here reads a tensor's value on the host, so a call can be captured
in a CUDA graph. Call it under `torch.no_grad()`.

Shapes: B rows, T positions of one call, C the ring's slots (= context, unless a state was made for fewer), H heads of
size h, dim = H * h; G heads of keys and values, as many but where several heads share them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.model.ring import KvState, Ring, positions_held, slots_of
from engine.model.weights import project

LAYER_NORM_EPSILON = 1e-5
RMS_NORM_EPSILON = 1e-8


@dataclass(frozen=True, slots=True)
class TransformerConfig:
    """Size and kind of one stack.

    `hidden` is the width between the two linear maps of the feed-forward part, as in the weights. `context` is how many
    positions a query may see, itself included. `kv_repeat` query heads share keys and values (grouped-query attention).
    Raises ValueError where the sizes do not fit together.
    """

    dim: int
    heads: int
    layers: int
    hidden: int
    context: int
    max_period: float = 10_000.0
    norm: Literal["layer_norm", "rms_norm_f32"] = "layer_norm"
    gating: Literal["silu"] | None = None
    layer_scale: bool = False
    kv_repeat: int = 1

    def __post_init__(self) -> None:
        if min(self.dim, self.heads, self.layers, self.hidden, self.context) < 1:
            raise ValueError(f"every size of a transformer must be at least 1: {self}")
        if self.dim % (2 * self.heads):
            raise ValueError(f"dim {self.dim} must be a multiple of twice the {self.heads} heads: rotation takes pairs")
        if self.kv_repeat < 1 or self.heads % self.kv_repeat:
            raise ValueError(f"kv_repeat {self.kv_repeat} must divide the {self.heads} heads")

    @property
    def head_dim(self) -> int:
        """Size of one head."""
        return self.dim // self.heads

    @property
    def kv_heads(self) -> int:
        """Heads of keys, and of values (G)."""
        return self.heads // self.kv_repeat


@dataclass(frozen=True, slots=True)
class _Part:
    """Some of a call's rows, in its own count, and where their rings lie."""

    own: slice
    rings: slice
    bias: Tensor  # [b, 1, T, S] of the activations' type: -inf hides a key; S = C, or C + T when parallel
    slots: Tensor  # [b, G, W, h] where the last W = min(T, C) of the new keys go
    mask: Tensor | None  # [b] bool
    pins: tuple[Tensor, Tensor] | None = None  # which slots are [b, 1, C, 1], and how far those turn [b, 1, 1, h/2]
    reach: tuple[Tensor, Tensor] | None = None  # where a kernel reads: rows of the rings [b], and slots they hold [b]

    def of(self, own: slice, rings: slice) -> _Part:
        """Fewer of these rows."""
        mask, pins, reach = self.mask, self.pins, self.reach
        if pins is not None:
            pins = pins[0][own], pins[1][own]
        if reach is not None:
            reach = reach[0][: rings.stop - rings.start], reach[1][own]  # which counts from the first of its rings
        return _Part(own, rings, self.bias[own], self.slots[own], None if mask is None else mask[own], pins, reach)


@dataclass(frozen=True, slots=True)
class _Call:
    """What all layers of one call share."""

    turn: Tensor  # [B, 1, T, h/2] complex64
    parts: tuple[_Part, ...]  # of neighbours in the rings, one for each stretch; more than one in no parallel call
    parallel: bool  # the ring is read as it was before the call, beside the new keys


class Linear(nn.Linear):
    """W x. A call is `forward` itself, here as below: a step makes hundreds, and torch's way there, past hooks that
    nobody has set, is longer than most of the products."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return project(x, self.weight)

    __call__ = forward


class RmsNormF32(nn.Module):
    """x * alpha / rms(x), computed in float32 whatever the activations are."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1, 1, dim))

    def forward(self, x: Tensor) -> Tensor:  # [..., dim]
        return F.rms_norm(x, x.shape[-1:], self.alpha.view(-1), RMS_NORM_EPSILON)

    __call__ = forward


class LayerScale(nn.Module):
    """One learnt factor a channel, on a branch's output."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class GatedFeedForward(nn.Module):
    """W_out (silu(a) * b), with a and b the two halves of W_in x."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.linear_in, self.linear_out = Linear(dim, 2 * hidden), Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.linear_in(x).chunk(2, -1)
        return self.linear_out(F.silu(gate) * value)

    __call__ = forward


def rotate(x: Tensor, turn: Tensor) -> Tensor:
    """Turn each pair (2j, 2j + 1) of x [..., B, H, T, h] by its angle; turn is [B, 1, T, h/2] complex64."""
    pairs = torch.view_as_complex(x.float().view(*x.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * turn).flatten(-2).to(x.dtype)


class Attention(nn.Module):
    """Causal self-attention; `in_proj_weight` holds q, then k, then v, each heads-major."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads = config.heads, config.kv_heads
        all_heads = config.heads + 2 * config.kv_heads
        self.in_proj_weight = nn.Parameter(torch.zeros(all_heads * config.head_dim, config.dim))
        self.out_proj = Linear(config.dim, config.dim)

    def forward(self, x: Tensor, rings: tuple[Ring, Ring], call: _Call) -> Tensor:
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


def _attend(query: Tensor, new: tuple[Tensor, ...], rings: tuple[Ring, ...], part: _Part) -> Tensor:
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


def _attend_part(query: Tensor, new: tuple[Tensor, ...], rings: tuple[Ring, ...], part: _Part) -> Tensor:
    """The same of some rows among others."""
    own, there = tuple(made[part.own] for made in new), tuple(ring.of(part.rings) for ring in rings)
    return _attend(query[part.own], own, there, part)


def _attend_beside(query: Tensor, new: tuple[Tensor, ...], rings: tuple[Ring, ...], part: _Part) -> Tensor:
    """From the rings as they were, and beside them the `new` keys and values, which enter the rings then."""
    seen = [torch.cat((ring.read(made.dtype), ring.as_held(made)), 2) for ring, made in zip(rings, new, strict=True)]
    for ring, made in zip(rings, new, strict=True):
        ring.store(made, part.slots, part.mask)
    return _mixed(query, seen[0], seen[1], part.bias)


class Layer(nn.Module):
    """x + s1 Attention(N1 x), then x + s2 FeedForward(N2 x)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        dim, hidden = config.dim, config.hidden
        self.norm1, self.norm2 = _norm(config), _norm(config)
        self.self_attn = Attention(config)
        if config.gating:
            self.gating = GatedFeedForward(dim, hidden)
        else:
            self.linear1, self.linear2 = Linear(dim, hidden), Linear(hidden, dim)
        self.gated = config.gating is not None
        self.layer_scale_1 = LayerScale(dim) if config.layer_scale else nn.Identity()
        self.layer_scale_2 = LayerScale(dim) if config.layer_scale else nn.Identity()

    def forward(self, x: Tensor, rings: tuple[Ring, Ring], call: _Call) -> Tensor:
        x = x + self.layer_scale_1(self.self_attn(self.norm1(x), rings, call))
        out: Tensor = x + self.layer_scale_2(self._feed_forward(self.norm2(x)))
        return out

    __call__ = forward

    def _feed_forward(self, x: Tensor) -> Tensor:
        return self.gating(x) if self.gated else self.linear2(F.gelu(self.linear1(x)))


class Transformer(nn.Module):
    """A stack of layers. There is no norm after the last."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))

    def initial_state(
        self,
        rows: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        eight_bits: bool = False,
        slots: int | None = None,
        pins: bool = False,
    ) -> KvState:
        """Fresh rows, on the weights' device and of their type unless told otherwise; or their rings in 8 bits.

        Rings have `context` slots, or only so many `slots`: for rows that will not come further. With `pins`, rows can
        have pinned positions, and every step costs some more.
        """
        weights = next(self.parameters())
        device, dtype = device or weights.device, torch.int8 if eight_bits else dtype or weights.dtype
        config = self.config
        shape = (rows, config.layers, config.kv_heads, slots or config.context, config.head_dim)

        def empty(size: int, dtype: torch.dtype) -> Tensor:
            return torch.zeros((*shape[:-1], size), dtype=dtype, device=device)

        return KvState(
            empty(config.head_dim, dtype),
            empty(config.head_dim, dtype),
            torch.zeros(rows, dtype=torch.int64, device=device),
            scales=(empty(1, torch.float32), empty(1, torch.float32)) if eight_bits else None,
            pinned=torch.zeros(rows, dtype=torch.int64, device=device) if pins else None,
        )

    def forward(self, x: Tensor, state: KvState, mask: Tensor | None) -> Tensor:
        """One streaming call: x [B, T, dim] -> [B, T, dim], for the rows where mask [B] bool is True.

        All T keys enter the ring before any query reads it, as in the reference: query t of a full ring sees
        C - (T - 1 - t) keys. So two positions a call (Mimi) differ slightly from one position twice.
        Raises ValueError if T exceeds the ring.
        """
        length = x.shape[1]
        if length > state.slots:
            raise ValueError(f"{length} positions in one call exceed the ring of {state.slots}; use prefill")
        positions = self._positions(state, length)
        held = positions_held(positions[:, -1:], state.slots, state.pinned)
        return self._run(x, state, mask, positions, held, parallel=False)

    def prefill(self, x: Tensor, state: KvState, mask: Tensor | None) -> Tensor:
        """T positions at once, T of any size, with the result of feeding them one call each.

        Every query sees `context` positions, also those that the same call pushes out of the ring. Of rows that have
        nothing pinned yet.
        """
        positions = self._positions(state, x.shape[1])
        held = torch.cat((positions_held(state.position[:, None] - 1, state.slots), positions), 1)
        return self._run(x, state, mask, positions, held, parallel=True)

    def _positions(self, state: KvState, length: int) -> Tensor:  # [B, T]
        return state.position[:, None] + torch.arange(length, device=state.position.device)

    def _run(
        self, x: Tensor, state: KvState, mask: Tensor | None, positions: Tensor, held: Tensor, *, parallel: bool
    ) -> Tensor:
        """Positions [B, T] are the queries', held [B, S] those of the keys they choose from (negative: none there)."""
        config, ring = self.config, state.slots
        query, key = positions[:, :, None], held[:, None, :]
        pins, pinned = None, None if parallel else state.pinned
        forgotten = key <= query - config.context
        if pinned is not None:
            forgotten &= key >= pinned[:, None, None]
            turned = rotation(config, (positions[:, -1:] - (ring - 1)).clamp_min(0))
            pins = (torch.arange(ring, device=pinned.device) < pinned[:, None])[:, None, :, None], turned
        hidden = (key < 0) | (key > query) | forgotten  # [B, T, S]
        # Numbers rather than truth values: each layer would make them of those.
        bias = x.new_zeros(hidden.shape).masked_fill_(hidden, -math.inf)[:, None]
        places = slots_of(positions[:, -ring:], ring, pinned)
        slots = places[:, None, :, None].expand(-1, config.kv_heads, -1, config.head_dim)
        reach = None
        if not parallel and x.shape[1] == 1 and pinned is None and _has_kernel(x):
            rows = torch.arange(len(x), device=x.device) if state.index is None else state.index
            held_slots = (positions[:, 0] + 1).clamp_max(ring)
            if mask is not None:
                held_slots = held_slots * mask  # a row that waits is not read
            reach = rows.to(torch.int32), held_slots.to(torch.int32)
        whole = _Part(slice(None), slice(None), bias, slots, mask, pins, reach)
        parts = tuple(whole.of(own, rings) for own, rings in _places(state.stretches)) or (whole,)
        call = _Call(rotation(config, positions), parts, parallel)
        for layer, rings in zip(self.layers, state.layers(), strict=True):
            x = layer(x, rings, call)
        state.position += positions.shape[1] if mask is None else positions.shape[1] * mask
        return x


def _places(stretches: tuple[slice, ...]) -> Iterator[tuple[slice, slice]]:
    """Of each stretch of rings, the rows of a call that it holds, and itself."""
    start = 0
    for rings in stretches:
        end = start + rings.stop - rings.start
        yield slice(start, end), rings
        start = end


def rotation(config: TransformerConfig, positions: Tensor) -> Tensor:
    """How absolute positions [B, T] turn pairs, [B, 1, T, h/2]; the angle is taken in float32 as in training."""
    pairs = torch.arange(config.head_dim // 2, device=positions.device, dtype=torch.float32)
    angle = positions.float()[:, None, :, None] * torch.exp(
        pairs * (-math.log(config.max_period) * 2 / config.head_dim)
    )
    return torch.polar(torch.ones_like(angle), angle)


def _norm(config: TransformerConfig) -> nn.Module:
    if config.norm == "rms_norm_f32":
        return RmsNormF32(config.dim)
    return nn.LayerNorm(config.dim, eps=LAYER_NORM_EPSILON)
