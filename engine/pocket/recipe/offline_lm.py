"""The language model over whole sequences at once, for training: what `Moshi.step` computes a column at a time.

The modules and so the parameters are `engine.model.moshi`'s own; only the order of work differs. The Temporal
Transformer runs over all columns of a sequence, the Depth Transformer over all codebooks of chosen columns, each with
the true tokens for its past (teacher forcing). A test holds both to the streamed logits.

Shapes: B sequences, T columns read, N chosen columns, S depth steps (dep_q), V a vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from engine.model.attention import rotate
from engine.model.moshi import DepthLayer, Moshi
from engine.model.moshi_config import MoshiConfig
from engine.model.transformer import Layer, TransformerConfig, rotation

SHORT = 256
"""Positions up to which attention is written out on a CPU: the gradient of torch's own takes five times as long there,
a fifth of a whole step."""


def lay_out(config: MoshiConfig, frames: Tensor) -> Tensor:
    """Undelayed frames [B, T, K] of fresh rows as columns [B, 1 + T, K], all known.

    Column c is read to predict column c + 1; it is `MoshiConfig.columns` but for the acoustic codes of the last D
    frames, which lie beyond the last whole column. Streams that are shorter than others are padded by the caller.
    """
    rows, length, streams = frames.shape
    columns = frames.new_empty(rows, 1 + length, streams)
    for stream, (delay, initial) in enumerate(zip(config.delays, config.initial, strict=True)):
        columns[:, : 1 + delay, stream] = initial
        columns[:, 1 + delay :, stream] = frames[:, : length - delay, stream]
    return columns


def temporal(moshi: Moshi, columns: Tensor, drop: float = 0.0, positions: Tensor | None = None) -> Tensor:
    """Columns [B, T, K] of fresh rows -> normed output [B, T, dim].

    `drop`: the share of what is embedded, and of what each branch adds, that is left out (dropout); the rest grows.
    `positions` [B, T] ascending, within one window: where the columns lie; without, one after the other from 0.
    """
    x = F.dropout(embed(moshi, columns), drop)
    config = moshi.config.temporal
    if positions is None:
        positions = torch.arange(columns.shape[1], device=columns.device)[None]
    turn = rotation(config, positions)
    band = _band(config, columns.shape[1], columns.device)
    for layer in moshi.transformer.layers:
        assert isinstance(layer, Layer)
        x = _layer(layer, x, turn, band, drop)
    out: Tensor = moshi.out_norm(x)
    return out


def embed(moshi: Moshi, columns: Tensor) -> Tensor:
    """The sum of a column's token embeddings, [B, T, K] -> [B, T, dim]; a negative token (ZERO) adds nothing.

    One lookup in all tables laid end to end: sixteen small ones, and their gradients, would take longer than a layer.
    """
    tables = torch.cat([moshi.text_emb.weight, *[table.weight for table in moshi.emb]])  # type: ignore[list-item]
    sizes = [moshi.config.text_card + 1] + [moshi.config.card + 1] * moshi.config.n_q
    starts = torch.tensor([sum(sizes[:stream]) for stream in range(len(sizes))], device=columns.device)
    flat = columns.flatten(0, 1)
    weight = (flat >= 0).to(tables.dtype)
    summed = F.embedding_bag(flat.clamp_min(0) + starts, tables, mode="sum", per_sample_weights=weight)
    return summed.view(*columns.shape[:2], -1)


def _band(config: TransformerConfig, length: int, device: torch.device) -> Tensor | None:
    """Which keys each query sees [T, T] where the window ends within the sequence; None: simply all before it."""
    if length <= config.context:
        return None
    apart = torch.arange(length, device=device)[:, None] - torch.arange(length, device=device)
    return (apart >= 0) & (apart < config.context)


def _layer(layer: Layer, x: Tensor, turn: Tensor, band: Tensor | None, drop: float) -> Tensor:
    attention = layer.self_attn
    projected = F.linear(layer.norm1(x), attention.in_proj_weight).view(*x.shape[:2], 3, attention.heads, -1)
    query, key, value = projected.permute(2, 0, 3, 1, 4)  # [B, H, T, h] each
    query, key = rotate(query, turn), rotate(key, turn)
    mixed = _attend(query, key, value, band)
    x = x + F.dropout(attention.out_proj(mixed.transpose(1, 2).flatten(2)), drop)
    out: Tensor = x + F.dropout(layer.gating(layer.norm2(x)), drop)
    return out


def _attend(query: Tensor, key: Tensor, value: Tensor, band: Tensor | None) -> Tensor:
    """Causal attention, [B, H, T, h] of each -> [B, H, T, h]; `band` [T, T]: which keys each query sees."""
    length = query.shape[2]
    if query.device.type != "cpu" or length > SHORT:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=band, is_causal=band is None)
    seen = torch.ones(length, length, dtype=torch.bool, device=query.device).tril() if band is None else band
    scores = (query @ key.transpose(2, 3)).float() * float(query.shape[3] ** -0.5)
    return scores.masked_fill(~seen, -torch.inf).softmax(3).to(value.dtype) @ value


def depth(moshi: Moshi, hidden: Tensor, tokens: Tensor) -> Tensor:
    """Normed output [N, dim] of chosen columns, and what the next column holds [N, 1 + S] (the text first) ->
    logits of its codes [N, S, card]."""
    steps = moshi.config.dep_q
    into = torch.stack([linear.weight for linear in moshi.depformer_in])  # type: ignore[misc]  # [S, d, dim]
    tables = [moshi.depformer_text_emb, *moshi.depformer_emb]
    before = torch.stack([table(tokens[:, step]) for step, table in enumerate(tables)])  # [S, N, d]
    x = torch.matmul(hidden, into.transpose(1, 2)) + before
    for layer in moshi.depformer.layers:
        assert isinstance(layer, DepthLayer)
        x = _depth_layer(layer, x, steps)
    heads = torch.stack([linear.weight for linear in moshi.linears])  # type: ignore[misc]  # [S, card, d]
    return torch.matmul(x, heads.transpose(1, 2)).transpose(0, 1)


def _depth_layer(layer: DepthLayer, x: Tensor, steps: int) -> Tensor:
    """x [S, N, d]: each step has its own weights, so a step is a matrix of one batched product."""
    attention, dim = layer.self_attn, x.shape[-1]
    weight = attention.in_proj_weight.view(steps, 3 * dim, dim)
    projected = torch.matmul(layer.norm1(x), weight.transpose(1, 2)).view(
        steps, -1, 3, attention.heads, dim // attention.heads
    )
    query, key, value = projected.permute(2, 1, 3, 0, 4)  # [N, H, S, h] each
    mixed = _attend(query, key, value, None)  # [N, H, S, h]
    out = attention.out_proj.weight.view(steps, dim, dim)
    x = x + torch.matmul(mixed.permute(2, 0, 1, 3).flatten(2), out.transpose(1, 2))
    up = torch.stack([part.linear_in.weight for part in layer.gating])  # type: ignore[misc, union-attr]
    down = torch.stack([part.linear_out.weight for part in layer.gating])  # type: ignore[misc, union-attr]
    gate, value = torch.matmul(layer.norm2(x), up.transpose(1, 2)).chunk(2, -1)
    return x + torch.matmul(F.silu(gate) * value, down.transpose(1, 2))
