"""Mimi, the codec: frames of 80 ms <-> codes (Moshi paper, section 3.3).

    encode: audio -> SeanetEncoder (25 Hz) -> transformer -> downsample (12.5 Hz) -> codes
    decode: codes -> upsample (25 Hz) -> transformer -> SeanetDecoder -> audio

Everything is causal and streamed; the past lies in a `MimiState`. Rows outside of `mask` do nothing: their state stays
bit-identical and their output means nothing. A mask of None runs every row. The outputs are those of the published
package called with the same number of frames a call; a frame a call is how it is deployed. More at once shifts the
attention's window a little once it is full (see `Transformer.forward`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from engine.model.quantizer import QuantizerConfig, SplitQuantizer
from engine.model.ring import KvState
from engine.model.rows import Rows
from engine.model.seanet import (
    CausalConv,
    CausalConvTranspose,
    ConvState,
    SeanetConfig,
    SeanetDecoder,
    SeanetEncoder,
    initial_state,
)
from engine.model.transformer import Transformer, TransformerConfig

POSITIONS = 2
"""Positions of the transformers in a frame: 25 Hz against 12.5 Hz."""

# The published config's names for our fields, and the only value that we know for the rest.
_SIZES = {
    "seanet": {field.name: field.name for field in fields(SeanetConfig)},
    "transformer": {
        "d_model": "dim",
        "num_heads": "heads",
        "num_layers": "layers",
        "dim_feedforward": "hidden",
        "context": "context",
        "max_period": "max_period",
    },
    "quantizer": {field.name: field.name for field in fields(QuantizerConfig)},
}
_FIXED: dict[str, dict[str, object]] = {
    "seanet": {
        "channels": 1,
        "causal": True,
        "n_residual_layers": 1,
        "activation": "ELU",
        "norm": "none",
        "disable_norm_outer_blocks": 0,
        "pad_mode": "constant",
        "true_skip": True,
    },
    "transformer": {
        "causal": True,
        "conv_layout": True,
        "gating": "none",
        "norm": "layer_norm",
        "positional_embedding": "rope",
    },
    "quantizer": {},
}
_TRAINING_ONLY = {"dilation_base", "layer_scale"}  # the first residual layer is not dilated; scales are in the weights


@dataclass(frozen=True)
class MimiConfig:
    """Sizes; the defaults are the published Mimi's. Raises ValueError where the parts do not fit together."""

    seanet: SeanetConfig = SeanetConfig()
    transformer: TransformerConfig = TransformerConfig(512, 8, 8, 2048, context=250, layer_scale=True)
    quantizer: QuantizerConfig = QuantizerConfig()
    sample_rate: int = 24_000

    def __post_init__(self) -> None:
        sizes = self.seanet.dimension, self.transformer.dim, self.quantizer.input_dimension
        if len(set(sizes)) > 1:
            raise ValueError(f"SEANet, transformer and quantiser must share one latent dimension, not {sizes}")

    @property
    def frame_samples(self) -> int:
        """Samples in a frame: 1920."""
        return POSITIONS * prod(self.seanet.ratios)

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> MimiConfig:
        """From the JSON form of the published package; what is left out is as published.

        Raises ValueError naming the key that is unknown or has a value of a codec that is not Mimi.
        """
        mimi = cls(
            replace(cls.seanet, **_sizes("seanet", config)),
            replace(cls.transformer, **_sizes("transformer", config)),
            replace(cls.quantizer, **_sizes("quantizer", config)),
            config.get("sample_rate", cls.sample_rate),
        )
        fixed = {"channels": 1, "frame_rate": mimi.sample_rate / mimi.frame_samples}
        _check("", {key: value for key, value in config.items() if key not in {*_SIZES, "sample_rate"}}, fixed)
        return mimi


def _sizes(section: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The section's fields under our names."""
    given, names = config.get(section, {}), _SIZES[section]
    latent = given.get("d_model", given.get("input_dimension"))
    fixed = _FIXED[section] | {"input_dimension": latent, "output_dimension": latent, "output_dimensions": [latent]}
    _check(f"{section}.", {key: value for key, value in given.items() if key not in {*names, *_TRAINING_ONLY}}, fixed)
    sizes = {name: given[key] for key, name in names.items() if key in given}
    return {name: tuple(size) if isinstance(size, list) else size for name, size in sizes.items()}


def _check(prefix: str, config: Mapping[str, Any], fixed: Mapping[str, object]) -> None:
    for key, value in config.items():
        if key not in fixed:
            raise ValueError(f"unknown key {prefix}{key} in the codec's config")
        if value != fixed[key]:
            raise ValueError(f"{prefix}{key} is {value!r} in the codec's config; Mimi has {fixed[key]!r}")


@dataclass
class EncoderState:
    """What encoding remembers of each row. `fresh` [B]: the row has not been encoded since its reset."""

    convs: ConvState
    transformer: KvState
    downsample: ConvState
    fresh: Tensor

    def reset(self, rows: Tensor) -> None:
        """Make `rows`, [B] bool, as new."""
        for part in (self.convs, self.transformer, self.downsample):
            part.reset(rows)
        self.fresh |= rows

    def select(self, rows: Rows) -> EncoderState:
        """The state of some rows, to run them alone; `merge` takes it back."""
        return EncoderState(
            self.convs.select(rows), self.transformer.select(rows), self.downsample.select(rows), rows.take(self.fresh)
        )

    def merge(self, rows: Rows, selected: EncoderState) -> None:
        """Take back what `select` gave, once it has run."""
        self.convs.merge(rows, selected.convs)
        self.transformer.merge(rows, selected.transformer)
        self.downsample.merge(rows, selected.downsample)
        rows.put(self.fresh, selected.fresh)


@dataclass
class DecoderState:
    """What decoding remembers of each row."""

    upsample: ConvState
    transformer: KvState
    convs: ConvState

    def reset(self, rows: Tensor) -> None:
        """Make `rows`, [B] bool, as new."""
        for part in (self.upsample, self.transformer, self.convs):
            part.reset(rows)

    def select(self, rows: Rows) -> DecoderState:
        """The state of some rows, to run them alone; `merge` takes it back."""
        return DecoderState(self.upsample.select(rows), self.transformer.select(rows), self.convs.select(rows))

    def merge(self, rows: Rows, selected: DecoderState) -> None:
        """Take back what `select` gave, once it has run."""
        self.upsample.merge(rows, selected.upsample)
        self.transformer.merge(rows, selected.transformer)
        self.convs.merge(rows, selected.convs)


@dataclass
class MimiState:
    """Both directions; each may run with a mask of its own."""

    encoder: EncoderState
    decoder: DecoderState

    def reset(self, rows: Tensor) -> None:
        """Make `rows`, [B] bool, as new."""
        self.encoder.reset(rows)
        self.decoder.reset(rows)

    def select(self, rows: Rows) -> MimiState:
        """The state of some rows, to run them alone; `merge` takes it back."""
        return MimiState(self.encoder.select(rows), self.decoder.select(rows))

    def merge(self, rows: Rows, selected: MimiState) -> None:
        """Take back what `select` gave, once it has run."""
        self.encoder.merge(rows, selected.encoder)
        self.decoder.merge(rows, selected.decoder)


class _Stack(nn.Module):
    """A transformer between convolutions, [B, C, T]."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.transformer = Transformer(config)

    def forward(self, x: Tensor, state: KvState, mask: Tensor | None) -> Tensor:
        out: Tensor = self.transformer(x.transpose(1, 2), state, mask)
        return out.transpose(1, 2)


class _Downsample(nn.Module):
    """Two positions to one. A row's first position stands for its past; every other convolution starts on zeros."""

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.conv = CausalConv(dimension, dimension, 2 * POSITIONS, POSITIONS, bias=False)

    def forward(self, x: Tensor, state: ConvState, fresh: Tensor, mask: Tensor | None) -> Tensor:
        (carry,) = state.carries
        first = fresh if mask is None else fresh & mask
        carry.copy_(torch.where(first[:, None, None], x[:, :, :1], carry))
        fresh &= ~first
        out: Tensor = self.conv(x, iter(state.carries), mask)
        return out


class _Upsample(nn.Module):
    """One position to two, each channel by itself."""

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.convtr = CausalConvTranspose(dimension, dimension, POSITIONS, bias=False, depthwise=True)

    def forward(self, x: Tensor, state: ConvState, mask: Tensor | None) -> Tensor:
        out: Tensor = self.convtr(x, iter(state.carries), mask)
        return out


class Mimi(nn.Module):
    """The codec's weights; all codebooks are held, the first `codebooks` used."""

    def __init__(self, config: MimiConfig, codebooks: int) -> None:
        super().__init__()
        self.config, self.codebooks = config, codebooks
        dimension = config.seanet.dimension
        self.encoder = SeanetEncoder(config.seanet)
        self.encoder_transformer = _Stack(config.transformer)
        self.downsample = _Downsample(dimension)
        self.quantizer = SplitQuantizer(config.quantizer, codebooks)
        self.upsample = _Upsample(dimension)
        self.decoder_transformer = _Stack(config.transformer)
        self.decoder = SeanetDecoder(config.seanet)

    def initial_state(self, rows: int, *, device: torch.device | str | None = None) -> MimiState:
        """Fresh rows, on the weights' device unless told otherwise."""
        device = device or next(self.parameters()).device
        return MimiState(
            EncoderState(
                initial_state(self.encoder, rows, device),
                self.encoder_transformer.transformer.initial_state(rows, device=device),
                initial_state(self.downsample, rows, device),
                torch.ones(rows, dtype=torch.bool, device=device),
            ),
            DecoderState(
                initial_state(self.upsample, rows, device),
                self.decoder_transformer.transformer.initial_state(rows, device=device),
                initial_state(self.decoder, rows, device),
            ),
        )

    @torch.no_grad()
    def encode(self, audio: Tensor, state: MimiState, mask: Tensor | None) -> Tensor:
        """Audio [B, 1, 1920 * n] -> codes [B, codebooks, n] int64, for the rows of mask [B].

        Raises ValueError unless the audio is a positive number of whole frames that fits the attention's ring.
        """
        return self.quantizer.encode(self.latent(audio, state, mask))

    @torch.no_grad()
    def latent(self, audio: Tensor, state: MimiState, mask: Tensor | None) -> Tensor:
        """What `encode` quantises: [B, dimension, n]."""
        size, past = self.config.frame_samples, state.encoder
        if audio.dim() != 3 or audio.shape[1] != 1 or not audio.shape[2] or audio.shape[2] % size:
            raise ValueError(
                f"audio of shape {list(audio.shape)}: [rows, 1, samples] with a positive multiple of {size} is needed"
            )
        self._check_frames(audio.shape[2] // size)
        x = self.encoder(audio, past.convs, mask)
        x = self.encoder_transformer(x, past.transformer, mask)
        out: Tensor = self.downsample(x, past.downsample, past.fresh, mask)
        return out

    @torch.no_grad()
    def decode(self, codes: Tensor, state: MimiState, mask: Tensor | None) -> Tensor:
        """Codes [B, k, n] of the first k codebooks -> audio [B, 1, 1920 * n], not clamped, for the rows of mask [B].

        A code outside of the codebook is taken as its nearest. Raises ValueError unless 1 <= k <= codebooks and the
        frames fit the attention's ring.
        """
        if codes.dim() != 3 or not 1 <= codes.shape[1] <= self.codebooks or not codes.shape[2]:
            raise ValueError(
                f"codes of shape {list(codes.shape)}: [rows, 1 to {self.codebooks} codebooks, frames] is needed"
            )
        self._check_frames(codes.shape[2])
        past = state.decoder
        x = self.upsample(self.quantizer.decode(codes), past.upsample, mask)
        x = self.decoder_transformer(x, past.transformer, mask)
        out: Tensor = self.decoder(x, past.convs, mask)
        return out

    def _check_frames(self, frames: int) -> None:
        if POSITIONS * frames > self.config.transformer.context:
            most = self.config.transformer.context // POSITIONS
            raise ValueError(f"{frames} frames in one call; at most {most} fit the attention's ring")
