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
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.model.attention import Attention, Call, Part, reach_of
from engine.model.ring import KvState, Ring, positions_held, slots_of
from engine.model.weights import Linear

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


class Layer(nn.Module):
    """x + s1 Attention(N1 x), then x + s2 FeedForward(N2 x)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        dim, hidden = config.dim, config.hidden
        self.norm1, self.norm2 = _norm(config), _norm(config)
        self.self_attn = Attention(dim, config.heads, config.kv_heads)
        if config.gating:
            self.gating = GatedFeedForward(dim, hidden)
        else:
            self.linear1, self.linear2 = Linear(dim, hidden), Linear(hidden, dim)
        self.gated = config.gating is not None
        self.layer_scale_1 = LayerScale(dim) if config.layer_scale else nn.Identity()
        self.layer_scale_2 = LayerScale(dim) if config.layer_scale else nn.Identity()

    def forward(self, x: Tensor, rings: tuple[Ring, Ring], call: Call) -> Tensor:
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
        reach = None if parallel or pinned is not None else reach_of(x, positions, state, mask)
        whole = Part(slice(None), slice(None), bias, slots, mask, pins, reach)
        call = Call(rotation(config, positions), whole.along(state.stretches), parallel)
        for layer, rings in zip(self.layers, state.layers(), strict=True):
            x = layer(x, rings, call)
        state.position += positions.shape[1] if mask is None else positions.shape[1] * mask
        return x


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
