"""Moshi's language model: Temporal and Depth Transformer, delays, forced columns, one step (Moshi paper, section 3.4).

Columns and frames, and how the one lie in the other: `moshi_config.py`.

**The caller's first frame.** Whatever a caller says, the model reads column 0 as initial. So column 0 does not wait for
the caller: it is run when the row is primed (`prefill`, then one `step` without caller codes). The caller's first frame
then sits in column 1 and its acoustic codes in column 2: no frame is lost, none is late, and the first step with a
caller's frame already says one. (The reference loses that frame, or feeds it twice.)

**One step.** `Moshi.step` at column n takes the caller's codes of that frame, runs column n, and makes column n + 1:
each token is the forced one where there is one, else sampled; a forced token conditions those after it like any other.
It emits the text and the codes of one frame: with a delay of D, column n + 1 - D + delays[k] of each stream. Sampling,
speaking a given text, priming and replay are this one step with more or fewer forced tokens.

**Priming.** `MoshiConfig.columns` lays a prompt out as columns; `Moshi.prefill` runs all those that are wholly known,
in one call or several, and leaves the rest in the row's table. The column after the prompt is still to be sampled: one
`step` with the caller's codes UNGENERATED does it and emits the prompt's last frame, which nobody needs. The agent's
acoustic codes in the first live column are then still the prompt's. (The reference for prompted weights masks the
prompt's first frame; `frames[1:]` repeats that.)

Speech-to-text weights (`dep_q` 0, extra heads) are the same model: no codes are made, and with all delays 0 the text is
emitted by the step that makes it.

A mask of None runs every row, and greedy sampling is None if it is every row's: what the host knows before the step
need not be computed by it.

Modules hold weights only, under the names of the published checkpoints, fused.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.model.attention import Attention
from engine.model.moshi_config import UNGENERATED, ZERO, MoshiConfig
from engine.model.ring import KvState
from engine.model.rows import Rows
from engine.model.sampling import SamplingRows, draw
from engine.model.transformer import GatedFeedForward, RmsNormF32, Transformer
from engine.model.weights import Linear, project

__all__ = ["UNGENERATED", "ZERO", "DepthLayer", "Moshi", "MoshiConfig", "MoshiState", "Step"]


@dataclass(slots=True)
class MoshiState:
    """What the rows remember: keys and values, and a table of the columns around the next one.

    Column c lies in slot c mod W; the next one is `kv.position`. Passed columns are UNGENERATED again.
    """

    kv: KvState
    table: Tensor  # [B, W, K] int64
    delays: Tensor  # [B, K] int64, constant, the same for all rows
    initial: Tensor  # [B, K] int64, likewise

    def reset(self, rows: Tensor) -> None:
        """Make the rows where `rows` [B] bool is True fresh. Between steps only."""
        self.kv.reset(rows)
        self.table.index_fill_(0, rows.nonzero().squeeze(1).to(self.table.device), UNGENERATED)

    def row(self, index: int) -> MoshiState:
        """A view of one row, B = 1: what is done to it is done to the row."""
        one = slice(index, index + 1)
        return MoshiState(self.kv.row(index), self.table[one], self.delays[one], self.initial[one])

    def take_over(self, other: MoshiState, positions: int) -> None:
        """Become `other`, which has come so many `positions` and forgot none of them, if its rings are no longer."""
        self.kv.take_over(other.kv, positions)
        self.table.copy_(other.table)

    def select(self, rows: Rows) -> MoshiState:
        """The state of some rows, to run them alone; `merge` takes it back."""
        table = rows.take(self.table)
        return MoshiState(self.kv.select(rows), table, self.delays[: len(table)], self.initial[: len(table)])

    def merge(self, rows: Rows, selected: MoshiState) -> None:
        """Take back what `select` gave, once it has run."""
        self.kv.merge(rows, selected.kv)
        rows.put(self.table, selected.table)

    def ahead(self) -> Tensor:
        """The next 1 + D columns [B, 1 + D, K], as far as they are known."""
        width = self.table.shape[1]
        numbers = self.kv.position[:, None] + torch.arange(width // 2, device=self.table.device)
        return _look(self.table, (numbers % width)[:, :, None].expand(-1, -1, self.table.shape[2]))


@dataclass(frozen=True, slots=True)
class Step:
    """What one step gave. Rows that were masked emit UNGENERATED."""

    emitted: Tensor  # [B, 1 + dep_q] text and codes of one frame; UNGENERATED in the first D steps of a fresh row
    column: Tensor  # [B, K] as fed to the Temporal Transformer
    heads: Tensor  # [B, extra heads, size] float32 probabilities


class DepthAttention(nn.Module):
    """Attention over the steps of one frame; each step has its set of weights, and one tensor holds all sets."""

    def __init__(self, config: MoshiConfig) -> None:
        super().__init__()
        dim, sets = config.depformer_dim, config.depformer_sets
        self.schedule = config.depformer_schedule
        self.heads = config.depformer_num_heads
        self.parts = (self.heads, config.depformer_kv_heads, config.depformer_kv_heads)
        self.width = sum(self.parts) * (dim // self.heads)
        self.in_proj_weight = nn.Parameter(torch.zeros(sets * self.width, dim))
        self.out_proj = Linear(dim, sets * dim)

    def forward(self, x: Tensor, step: int, memory: Tensor) -> Tensor:
        """x [B, dim] -> [B, dim]; memory [steps, B, H + 2G, h] holds the frame's queries, keys and values so far."""
        dim, own = x.shape[-1], self.schedule[step]
        rows = slice(own * self.width, (own + 1) * self.width)
        memory[step] = project(x, self.in_proj_weight, rows).view(len(x), sum(self.parts), -1)
        query, keys, values = (
            memory[: step + 1].permute(1, 2, 0, 3).split_with_sizes(self.parts, 1)
        )  # [B, H or G, step + 1, h]
        mixed = F.scaled_dot_product_attention(query[:, :, step:], keys, values, enable_gqa=query.shape != keys.shape)
        return project(mixed.flatten(1), self.out_proj.weight, slice(own * dim, (own + 1) * dim))

    __call__ = forward


class DepthLayer(nn.Module):
    """As a temporal layer, without positions; the norms are shared by all steps."""

    def __init__(self, config: MoshiConfig) -> None:
        super().__init__()
        dim = config.depformer_dim
        self.schedule = config.depformer_schedule
        self.norm1, self.norm2 = RmsNormF32(dim), RmsNormF32(dim)
        self.self_attn = DepthAttention(config)
        self.gating = nn.ModuleList(GatedFeedForward(dim, hidden) for hidden in config.depformer_hidden)

    def forward(self, x: Tensor, step: int, memory: Tensor) -> Tensor:
        x = x + self.self_attn(self.norm1(x), step, memory)
        out: Tensor = x + self.gating[self.schedule[step]](self.norm2(x))
        return out

    __call__ = forward


class DepthTransformer(nn.Module):
    """Across the codebooks of one frame. What it remembers lasts one frame, and is made by `fresh`."""

    def __init__(self, config: MoshiConfig) -> None:
        super().__init__()
        self.steps, self.heads = config.dep_q, config.depformer_num_heads + 2 * config.depformer_kv_heads
        self.head_dim = config.depformer_dim // config.depformer_num_heads
        self.layers = nn.ModuleList(DepthLayer(config) for _ in range(config.depformer_num_layers))

    def fresh(self, like: Tensor) -> Tensor:
        """The memory of one frame, [layers, steps, B, H + 2G, h]; `like` [B, ...] gives rows, device and type."""
        return like.new_empty(len(self.layers), self.steps, len(like), self.heads, self.head_dim)

    def forward(self, x: Tensor, step: int, memory: Tensor) -> Tensor:  # [B, dim]
        for layer, own in zip(self.layers, memory, strict=True):
            x = layer(x, step, own)
        return x


class Moshi(nn.Module):
    """Both transformers, their embeddings and heads."""

    def __init__(self, config: MoshiConfig) -> None:
        super().__init__()
        self.config = config
        dim, steps = config.dim, config.dep_q
        self.emb = nn.ModuleList(nn.Embedding(config.card + 1, dim) for _ in range(config.n_q))
        self.text_emb = nn.Embedding(config.text_card + 1, dim)
        self.transformer = Transformer(config.temporal)
        self.out_norm = RmsNormF32(dim)
        self.text_linear = Linear(dim, config.text_card)
        heads = range(config.extra_heads_num_heads)
        self.extra_heads = nn.ModuleList(Linear(dim, config.extra_heads_dim) for _ in heads)
        self.depformer_in = nn.ModuleList(Linear(dim, config.depformer_dim) for _ in range(config.depformer_sets))
        self.linears = nn.ModuleList(Linear(config.depformer_dim, config.card) for _ in range(steps))
        if steps:
            self.depformer_text_emb = _depth_embedding(config.text_card + 1, config)
            self.depformer_emb = nn.ModuleList(_depth_embedding(config.card + 1, config) for _ in range(steps - 1))
            self.depformer = DepthTransformer(config)
            norms = steps if config.depformer_norm else 0
            self.depformer_norms = nn.ModuleList(RmsNormF32(config.depformer_dim) for _ in range(norms))
        self.schedule = config.depformer_schedule

    def initial_state(
        self,
        rows: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        eight_bits: bool = False,
        slots: int | None = None,
        pins: bool = False,
    ) -> MoshiState:
        """Fresh rows, on the weights' device and of their type unless told otherwise; keys and values in `eight_bits`
        if that is wanted, in rings of `slots` if not of the whole window; `pins`: as in `Transformer.initial_state`."""
        config = self.config
        kv = self.transformer.initial_state(
            rows, device=device, dtype=dtype, eight_bits=eight_bits, slots=slots, pins=pins
        )
        device = kv.position.device
        # Forced tokens reach D columns beyond the next, emitted ones lie up to D behind it.
        table = torch.full((rows, 2 * (config.delay + 1), config.streams), UNGENERATED, device=device)
        delays, initial = torch.tensor([config.delays, config.initial], device=device)[:, None].repeat(1, rows, 1)
        return MoshiState(kv, table, delays, initial)

    @torch.no_grad()
    def step(
        self, state: MoshiState, caller: Tensor, forced: Tensor, sampling: SamplingRows | None, mask: Tensor | None
    ) -> Step:
        """Run column n of every row where mask [B] bool is True, and make column n + 1.

        caller [B, n_q - dep_q]: the codes of the caller's frame, undelayed; UNGENERATED leaves what the table holds.
        forced [B, 1 + dep_q]: text and the agent's codes of column n + 1, delayed; UNGENERATED leaves what `prefill`
        put into the table, or else draws as `sampling` says, None being greedy.
        """
        config, table = self.config, state.table
        made, width = config.made, table.shape[1]
        number = state.kv.position.clone()[:, None]  # [B, 1]: n

        def running(there: Tensor) -> Tensor:
            return there if mask is None else there & mask[:, None]

        arriving = ((number + state.delays[:, made:]) % width)[:, None]
        _put(table[:, :, made:], arriving, caller[:, None], running(caller != UNGENERATED)[:, None])
        here = (number % width)[:, None].expand(-1, 1, config.streams)
        column = torch.where(running(number > state.delays), _look(table, here)[:, 0], state.initial)

        hidden, text_logits = self.temporal(column[:, None], state.kv, mask)
        target = ((number + 1) % width)[:, None].expand(-1, 1, made)
        forced = torch.where(forced == UNGENERATED, _look(table, target)[:, 0], forced)
        tokens = self.choose(hidden, text_logits[:, 0], forced, sampling)
        where = None if mask is None else mask[:, None, None]
        _put(table, target, tokens[:, None], where)

        leaving = ((number + 1 - config.delay + state.delays[:, :made]) % width)[:, None]
        emitted = torch.where(running(number >= config.delay), _look(table, leaving)[:, 0], UNGENERATED)
        passed = ((number - max(0, config.delay - 1)) % width)[:, None].expand(-1, 1, config.streams)
        _put(table, passed, torch.full_like(passed, UNGENERATED), where)
        return Step(emitted, column, self._heads(hidden))

    @torch.no_grad()
    def prefill(self, state: MoshiState, columns: Tensor, mask: Tensor | None) -> None:
        """Run columns [B, N, K] at once, from each row's next one on; the last 1 + D only enter the row's table.

        `MoshiConfig.columns` makes them. In chunks: columns[:, a : b + 1 + D] runs columns a to b - 1.
        Equals as many steps with everything forced. Raises ValueError if the columns to keep ahead are missing.
        """
        ahead, width = 1 + self.config.delay, state.table.shape[1]
        known = columns.shape[1] - ahead
        if known < 0:
            raise ValueError(f"the last {ahead} columns are kept for later; got {columns.shape[1]} in all")
        rows, total, streams = columns.shape
        in_use = ahead + max(0, self.config.delay - 1)  # some behind the next one are still to be emitted
        blank = columns.new_full((rows, width - in_use, streams), UNGENERATED)
        recent = torch.cat((columns[:, -in_use:], blank), 1)
        first = max(0, total - in_use)
        numbers = state.kv.position[:, None] + torch.arange(first, first + recent.shape[1], device=columns.device)
        slots = (numbers % width)[:, :, None].expand(-1, -1, streams)
        _put(state.table, slots, recent, None if mask is None else mask[:, None, None])
        if known:
            self.transformer.prefill(self._embed(columns[:, :known]), state.kv, mask)

    @torch.no_grad()
    def prefill_vectors(self, state: MoshiState, vectors: Tensor, mask: Tensor | None) -> None:
        """Run a fresh row's first columns, of which only the summed input vectors [B, N, dim] are known (a voice).

        `prefill` goes on from there: none of their tokens is emitted any more.
        """
        self.transformer.prefill(vectors.to(self.text_emb.weight.dtype), state.kv, mask)

    def temporal(self, columns: Tensor, kv: KvState, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """columns [B, T, K] -> (normed output [B, T, dim], text logits [B, T, text_card])."""
        hidden = self.out_norm(self.transformer(self._embed(columns), kv, mask))
        return hidden, self.text_linear(hidden)

    def depth(self, step: int, hidden: Tensor, previous: Tensor, memory: Tensor) -> Tensor:
        """Logits [B, card] of codebook `step`, from hidden [B, dim] and the token before it [B] (the text first)."""
        embedding = self.depformer_emb[step - 1] if step else self.depformer_text_emb
        x = self.depformer_in[self.schedule[step]](hidden) + _embedded(embedding, previous)
        x = self.depformer(x, step, memory)
        if self.depformer_norms:
            x = self.depformer_norms[step](x)
        logits: Tensor = self.linears[step](x)
        return logits

    def choose(self, hidden: Tensor, text_logits: Tensor, forced: Tensor, sampling: SamplingRows | None) -> Tensor:
        """Column n + 1 as far as we make it [B, 1 + dep_q]: forced tokens, else drawn ones.

        hidden [B, 1, dim], text_logits [B, text_card], forced [B, 1 + dep_q] with UNGENERATED where one is drawn.
        """
        free, given = (forced == UNGENERATED).unbind(1), forced.unbind(1)
        tokens = [torch.where(free[0], draw(text_logits, sampling, 0), given[0])]
        hidden = hidden[:, 0]
        memory = self.depformer.fresh(hidden) if self.config.dep_q else hidden
        for step in range(self.config.dep_q):
            code = draw(self.depth(step, hidden, tokens[step], memory), sampling, 1 + step)
            tokens.append(torch.where(free[1 + step], code, given[1 + step]))
        return torch.stack(tokens, 1)

    def _embed(self, columns: Tensor) -> Tensor:  # [B, T, K] -> [B, T, dim]
        text, *codes = columns.clamp_min(0).unbind(-1)
        given_text, *given = (columns >= 0).to(self.text_emb.weight.dtype)[..., None].unbind(-2)  # 1, but 0 for ZERO
        # The order of the sum matters in bfloat16: codes by index, the text last.
        total = self.emb[0](codes[0]) * given[0]
        for embedding, code, there in zip(self.emb[1:], codes[1:], given[1:], strict=True):
            total = torch.addcmul(total, embedding(code), there)
        return torch.addcmul(total, self.text_emb(text), given_text)

    def _heads(self, hidden: Tensor) -> Tensor:
        if not self.extra_heads:
            return hidden.new_zeros(len(hidden), 0, self.config.extra_heads_dim, dtype=torch.float32)
        return torch.cat([head(hidden) for head in self.extra_heads], 1).float().softmax(-1)


class LowRankEmbedding(nn.Embedding):
    """Vectors of a small rank, and a linear map of them to the full width."""

    def __init__(self, tokens: int, rank: int, dim: int) -> None:
        super().__init__(tokens, rank)
        self.low_rank = Linear(rank, dim)

    def forward(self, tokens: Tensor) -> Tensor:  # [...] -> [..., dim]
        return self.low_rank(super().forward(tokens))


def _depth_embedding(tokens: int, config: MoshiConfig) -> nn.Embedding:
    rank = config.depformer_low_rank_embeddings
    if rank is None:
        return nn.Embedding(tokens, config.depformer_dim)
    return LowRankEmbedding(tokens, rank, config.depformer_dim)


def linear_maps(module: nn.Module) -> frozenset[str]:
    """Names of the parameters that are linear maps: what 8-bit checkpoints hold in 8 bits."""
    fused = (Attention, DepthAttention)
    return frozenset(
        f"{name}.{'in_proj_weight' if isinstance(part, fused) else 'weight'}"
        for name, part in module.named_modules()
        if isinstance(part, (*fused, Linear))
    )


def _embedded(embedding: nn.Module, tokens: Tensor) -> Tensor:
    """tokens [...] -> [..., dim]; negative ones (ZERO) give zeros."""
    vectors: Tensor = embedding(tokens.clamp_min(0))
    return torch.where((tokens >= 0)[..., None], vectors, 0.0)


def _look(table: Tensor, slots: Tensor) -> Tensor:
    """What slots [B, n, S] of the first S streams of table [B, W, K] hold."""
    return table.gather(1, slots)


def _put(table: Tensor, slots: Tensor, values: Tensor, where: Tensor | None) -> None:
    """Write values [B, n, S] into slots [B, n, S] of the first S streams of table [B, W, K], `where` it is True."""
    table.scatter_(1, slots, values if where is None else torch.where(where, values, table.gather(1, slots)))
