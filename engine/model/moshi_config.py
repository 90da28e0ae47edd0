"""Sizes of Moshi's language model, read from a config.json, and how frames lie in its columns.

A *column* is what the Temporal Transformer reads at one position: K tokens, first the text, then the agent's codes,
then the caller's. A *frame* is 80 ms of talk. Frame f's token of stream k sits in column 1 + f + delays[k]; what comes
before is that stream's initial token, so column 0 is all-initial.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Self

from torch import Tensor

from engine.model.transformer import TransformerConfig

UNGENERATED = -2
"""Not known yet: in the forced tokens "sample it", in the caller's codes "none", in what is emitted "nothing"."""

ZERO = -1
"""A token whose embedding is zero: no input from this stream."""

FIXED: Mapping[str, tuple[object, ...]] = {
    "causal": (True,),
    "layer_scale": (None,),
    "gating": ("silu",),
    "norm": ("rms_norm_f32",),
    "norm_emb": (False,),
    "bias_proj": (False,),
    "positional_embedding": ("rope",),
    "cross_attention": (False,),
    "demux_second_text_stream": (False,),
    "demux_second_stream": (False,),
    "text_card_out": (None,),
    "conditioners": (None, {}),
    "lora": (False, None),
    "existing_text_padding_id": (3,),
    "existing_text_end_padding_id": (0,),
    "depformer_layer_scale": (None,),
    "depformer_gating": ("silu",),
    "depformer_pos_emb": ("none",),
    "depformer_multi_linear": (True,),
    "depformer_weights_per_step": (True,),
}
"""Arguments of the reference that we know, with the values that we can run."""

IGNORED = {"depformer_context", "depformer_max_period", "depformer_causal", "lora_rank", "lora_scaling"}
"""Arguments that change nothing: the Depth Transformer has no positions and sees all steps of its frame."""


@dataclass(frozen=True, slots=True)
class MoshiConfig:
    """Sizes, under the reference's names; the defaults are Moshi 7B's. Raises ValueError where they do not fit."""

    dim: int = 4_096
    num_layers: int = 32
    num_heads: int = 32
    hidden_scale: float = 4.125
    context: int = 3_000
    max_period: float = 10_000.0
    n_q: int = 16
    dep_q: int = 8
    card: int = 2_048
    text_card: int = 32_000
    delays: tuple[int, ...] = (0, *(0, 1, 1, 1, 1, 1, 1, 1), *(0, 1, 1, 1, 1, 1, 1, 1))
    depformer_dim: int = 1_024
    depformer_num_heads: int = 16
    depformer_num_layers: int = 6
    depformer_dim_feedforward: int | tuple[int, ...] | None = None
    depformer_low_rank_embeddings: int | None = None
    depformer_norm: str | None = None
    depformer_weights_per_step_schedule: tuple[int, ...] | None = None
    kv_repeat: int = 1
    extra_heads_num_heads: int = 0
    extra_heads_dim: int = 6

    def __post_init__(self) -> None:
        if not 0 <= self.dep_q <= self.n_q:
            raise ValueError(f"dep_q must lie between 0 and n_q = {self.n_q}, not {self.dep_q}")
        if len(self.delays) != self.streams or min(self.delays) < 0:
            raise ValueError(f"delays must be {self.streams} numbers (text and n_q), none negative: {self.delays}")
        heads = self.depformer_num_heads
        if self.dep_q and (heads < 1 or self.depformer_dim % heads):
            raise ValueError(f"depformer_dim {self.depformer_dim} must be a multiple of depformer_num_heads {heads}")
        if self.dep_q and (self.kv_repeat < 1 or heads % self.kv_repeat):
            raise ValueError(f"kv_repeat {self.kv_repeat} must divide the {heads} depformer_num_heads")
        if self.depformer_norm not in (None, "rms_norm_f32"):
            raise ValueError(
                f"depformer_norm: {self.depformer_norm!r} is not supported; it must be None or 'rms_norm_f32'"
            )
        self._check_sets()
        _ = self.temporal  # its sizes are checked too

    def _check_sets(self) -> None:
        schedule, feedforward = self.depformer_weights_per_step_schedule, self.depformer_dim_feedforward
        if schedule is not None and len(schedule) != self.dep_q:
            raise ValueError(
                f"depformer_weights_per_step_schedule must be {self.dep_q} numbers, one a depth step: {schedule}"
            )
        if isinstance(feedforward, tuple) and len(feedforward) != self.depformer_sets:
            raise ValueError(
                f"depformer_dim_feedforward must be one size, or {self.depformer_sets}, one for each set of depth "
                f"weights: {feedforward}"
            )

    @classmethod
    def from_kwargs(cls, kwargs: Mapping[str, Any], synthesis: bool = False) -> Self:
        """Read the language model's arguments of a config.json; what it leaves out is as in Moshi 7B.

        Where there are as many depth steps as audio streams, and these are two speakers' (PersonaPlex), the later half
        would only guess the caller's codes: the agent's never depend on them, so they are not run. Streams are two
        speakers' if those of the later half are delayed as those of the first; `synthesis` says that they are not.
        Raises ValueError that names an unknown argument, or a known one with a value that we cannot run.
        """
        sizes = {field.name: field.default for field in fields(cls)}
        chosen = {name: _argument(name, value, sizes[name]) for name, value in kwargs.items() if name in sizes}
        for name in sorted(kwargs.keys() - sizes.keys() - IGNORED):
            _check_fixed(name, kwargs[name], has_depth=chosen.get("dep_q") != 0)
        config = cls(**chosen)
        return config._halved() if config._guesses_the_caller and not synthesis else config

    @property
    def _guesses_the_caller(self) -> bool:
        half = self.n_q // 2
        return self.dep_q == self.n_q > 0 and self.delays[1 : 1 + half] == self.delays[1 + half :]

    def _halved(self) -> Self:
        """The same without the later half of the depth steps."""
        steps, schedule = self.n_q // 2, self.depformer_weights_per_step_schedule
        schedule = None if schedule is None else schedule[:steps]
        sets = steps if schedule is None else 1 + max(schedule, default=-1)
        feedforward = self.depformer_dim_feedforward
        return replace(
            self,
            dep_q=steps,
            depformer_weights_per_step_schedule=schedule,
            depformer_dim_feedforward=feedforward[:sets] if isinstance(feedforward, tuple) else feedforward,
        )

    @property
    def streams(self) -> int:
        """Tokens in a column (K)."""
        return 1 + self.n_q

    @property
    def made(self) -> int:
        """Tokens of a column that a step makes: the text and the agent's codes."""
        return 1 + self.dep_q

    @property
    def delay(self) -> int:
        """The greatest delay (D), in frames."""
        return max(self.delays)

    @property
    def initial(self) -> tuple[int, ...]:
        """The initial token of each stream."""
        return (self.text_card, *[self.card] * self.n_q)

    @property
    def temporal(self) -> TransformerConfig:
        """The Temporal Transformer's size."""
        return TransformerConfig(
            dim=self.dim,
            heads=self.num_heads,
            layers=self.num_layers,
            hidden=gated_hidden(self.dim, int(self.hidden_scale * self.dim)),
            context=self.context,
            max_period=self.max_period,
            norm="rms_norm_f32",
            gating="silu",
            kv_repeat=self.kv_repeat,
        )

    @property
    def depformer_schedule(self) -> tuple[int, ...]:
        """Which set of weights each depth step uses."""
        return self.depformer_weights_per_step_schedule or tuple(range(self.dep_q))

    @property
    def depformer_sets(self) -> int:
        """Sets of weights that the Depth Transformer has."""
        return 1 + max(self.depformer_schedule, default=-1)

    @property
    def depformer_kv_heads(self) -> int:
        """Heads of keys, and of values, in the Depth Transformer."""
        return self.depformer_num_heads // self.kv_repeat

    @property
    def depformer_hidden(self) -> tuple[int, ...]:
        """Width of the Depth Transformer's feed-forward part, in each set of weights."""
        sizes = self.depformer_dim_feedforward or int(self.hidden_scale * self.depformer_dim)
        sizes = sizes if isinstance(sizes, tuple) else (sizes,) * self.depformer_sets
        return tuple(gated_hidden(self.depformer_dim, size) for size in sizes)

    def columns(self, frames: Tensor) -> Tensor:
        """Lay frames [T, K] out as the columns that `Moshi.prefill` takes for a fresh row: [1 + T + D, K].

        Raises ValueError if a token is UNGENERATED.
        """
        if (frames == UNGENERATED).any():
            raise ValueError("a prompt's frames must be known: one holds an UNGENERATED token")
        columns = frames.new_full((len(frames) + 1 + self.delay, self.streams), UNGENERATED)
        for stream, (delay, initial) in enumerate(zip(self.delays, self.initial, strict=True)):
            columns[: 1 + delay, stream] = initial
            columns[1 + delay : 1 + delay + len(frames), stream] = frames[:, stream]
        return columns


def gated_hidden(dim: int, feed_forward: int) -> int:
    """Inner width of a gated feed-forward part: two thirds of the plain one's; the reference rounds 4 dim by itself."""
    return 21 * dim // 8 if feed_forward == 4 * dim else 2 * feed_forward // 3


def _argument(name: str, value: Any, default: object) -> Any:
    """The value of a field from a JSON file. Raises ValueError if it cannot be one."""
    if name == "depformer_norm":
        return value  # a name, which the class checks
    may_be_list = name == "depformer_dim_feedforward" and isinstance(value, list)
    must_be_list = name == "depformer_weights_per_step_schedule" and value is not None
    return _size(name, value, () if may_be_list or must_be_list else default)


def _size(name: str, value: Any, default: object) -> Any:
    """The value of a size from a JSON file. Raises ValueError unless it is a number, or for delays a list of them."""
    if isinstance(default, tuple) and isinstance(value, list):
        return tuple(_size(name, item, 0) for item in value)
    if value is None and default is None:
        return None
    kinds = (int, float) if isinstance(default, float) else (int,)
    if isinstance(default, tuple) or isinstance(value, bool) or not isinstance(value, kinds) or value < 0:
        raise ValueError(f"{name}: {value!r} is not {'a list of numbers' if isinstance(default, tuple) else 'a size'}")
    return value


def _check_fixed(name: str, value: Any, *, has_depth: bool) -> None:
    """Raises ValueError unless the argument `name` may have `value`."""
    if name == "fuser":
        if any(part for part in (value or {}).values() if isinstance(part, list)):
            raise ValueError(f"fuser: {value!r} is not supported; only one that fuses nothing is")
        return
    if name not in FIXED:
        raise ValueError(f"unknown argument of the language model: {name!r}")
    if value not in FIXED[name] and (has_depth or not name.startswith("depformer_")):
        raise ValueError(f"{name}: {value!r} is not supported; it must be {' or '.join(map(repr, FIXED[name]))}")
