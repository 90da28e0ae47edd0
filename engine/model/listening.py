"""An ear: a model of the streaming speech-to-text form (dep_q 0), beside a talking checkpoint or in one of its own.

Beside it, ear.json names its weights; codec and tokenizer are those of the talking model. A checkpoint of its own, such
as `kyutai/stt-1b-en_fr-candle`, is read as any other, with a tokenizer of its own. Its codec may be the talking
model's, of which it usually reads more codebooks: then one codec of that many serves both, and a frame is encoded once.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from engine.model.checkpoint import (
    CONFIG,
    NAMES,
    Checkpoint,
    file_name,
    is_quantised,
    mimi_config,
    moshi_config,
    open_tokenizer,
    read_json,
)
from engine.model.mimi import Mimi
from engine.model.moshi import Moshi, MoshiConfig
from engine.model.source import Repository, Source, open_source
from engine.model.stored import Stored, fill
from engine.model.text import Tokenizer
from engine.slot import FRAME_SAMPLES, SAMPLE_RATE, CheckpointError

logger = logging.getLogger(__name__)

EAR_CONFIG = "ear.json"
"""Beside config.json where the checkpoint has an ear: a second model, over the same codec and tokenizer."""

NOT_ITS_OWN = {"mimi_name", "mimi_config_name", "tokenizer_name", "prompt_config", "lm_gen_config"}
"""Keys of its config that are not the language model's: the codec, the tokenizer, how one is told, and how one draws.
An ear is told nothing, and takes the likeliest token."""

MOST_DELAY_S = 10.0
"""Of an ear's text, and of the silence before it. Kyutai's models have 0.5 and 2.5 s; far more is not in seconds."""


@dataclass(frozen=True)
class EarCheckpoint:
    """A model that writes down what the caller says, its text `delay_frames` behind the sound.

    `codec` makes the codes that it reads. It serves the talking model as well unless it is the ear's `own`.
    `silence_frames`: of silence that it wants to hear before anything else.
    """

    moshi: Moshi
    tokenizer: Tokenizer
    codec: Mimi
    delay_frames: int
    revision: str
    own: bool = False
    silence_frames: int = 0


def load_ear(
    model: str, checkpoint: Checkpoint, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> EarCheckpoint | None:
    """Load the ear that lies beside `checkpoint`, which was loaded from `model`; None where there is none.

    It uses the codec and the tokenizer of `checkpoint`. Raises CheckpointError if it does not fit them.
    """
    source = open_source(model)
    if isinstance(source, Repository):
        source = open_source(checkpoint.revision)  # which names the commit that the talking model is of
    path = _find_ear(source)
    if path is None:
        return None
    config = read_json(path)
    weights = source.get(file_name(config, "moshi_name", file=EAR_CONFIG))
    stored = Stored(weights, is_quantised(config, EAR_CONFIG))
    try:
        sizes, delay, silence = _sizes(config, stored)
        _check_beside(sizes, checkpoint)
    except (TypeError, ValueError) as error:  # the values are anyone's, of any type
        raise CheckpointError(f"{EAR_CONFIG}: {error}") from None
    moshi = fill(lambda: Moshi(sizes), stored, device, dtype)
    revision = source.revision([path, weights])
    return EarCheckpoint(moshi, checkpoint.tokenizer, checkpoint.mimi, delay, revision, silence_frames=silence)


def load_listener(
    name: str, checkpoint: Checkpoint, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> EarCheckpoint:
    """Load folder or Hub repository `name` as an ear for `checkpoint`. Raises CheckpointError."""
    source = open_source(name)
    config_path = source.find(CONFIG)
    config = read_json(config_path)
    codec_name = file_name(config, "mimi_config_name") if "mimi_config_name" in config else None
    weights, codec_weights, pieces = (source.get(file_name(config, key, default)) for key, default in NAMES.items())
    stored = Stored(weights, is_quantised(config))
    try:
        sizes, delay, silence = _sizes(config, stored)
        if sizes.n_q < 2:
            raise ValueError(f"n_q is {sizes.n_q}; a codec has at least 2 codebooks")
        codec_sizes = mimi_config(source.get(codec_name) if codec_name else None, sizes)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"the ear {name!r}: {CONFIG}: {error}") from None
    tokenizer = open_tokenizer(pieces, sizes.text_card)
    own = fill(lambda: Mimi(codec_sizes, sizes.n_q), Stored(codec_weights), device, torch.float32)
    wider, narrower = (own, checkpoint.mimi) if own.codebooks > checkpoint.mimi.codebooks else (checkpoint.mimi, own)
    shared = holds(wider, narrower)
    moshi = fill(lambda: Moshi(sizes), stored, device, dtype)
    files = [path for path in (config_path, weights, codec_weights, pieces) if path]
    return EarCheckpoint(moshi, tokenizer, wider if shared else own, delay, source.revision(files), not shared, silence)


def holds(wider: Mimi, narrower: Mimi) -> bool:
    """Whether `wider` makes the codes that `narrower` makes, and maybe more: every weight of it is the same."""
    there = wider.state_dict()
    alike = [replace(codec.config, quantizer=replace(codec.config.quantizer, n_q=0)) for codec in (wider, narrower)]
    return alike[0] == alike[1] and all(
        name in there and there[name].shape == weight.shape and torch.equal(there[name], weight)
        for name, weight in narrower.state_dict().items()
    )


def _sizes(config: dict[str, Any], stored: Stored) -> tuple[MoshiConfig, int, int]:
    """The language model's, and in frames how far its text lies behind, and the silence before. Raises ValueError."""
    told = config.get("stt_config")
    sizes = moshi_config({key: value for key, value in config.items() if key not in NOT_ITS_OWN}, stored)
    if sizes.dep_q:
        raise ValueError(f"dep_q is {sizes.dep_q}; an ear makes no codes, so it must be 0")
    # A text that is delayed in the columns lies behind by that as well; with that alone, nothing else need be said.
    text, *codes = sizes.delays
    behind = max(0, text - min(codes, default=text))
    silence = _frames(told, "audio_silence_prefix_seconds", 0.0)
    return sizes, behind + _frames(told, "audio_delay_seconds", 0.0 if behind else None), silence


def _frames(config: object, key: str, default: float | None) -> int:
    """A time that stt_config tells in seconds. Raises ValueError."""
    seconds = config.get(key, default) if isinstance(config, dict) else default
    if not isinstance(seconds, int | float) or isinstance(seconds, bool) or not 0 <= seconds <= MOST_DELAY_S:
        raise ValueError(f"stt_config.{key} is {seconds!r}; it must be seconds, 0 to {MOST_DELAY_S:g}")
    return round(seconds * SAMPLE_RATE / FRAME_SAMPLES)


def _find_ear(source: Source) -> Path | None:
    try:
        return source.find(EAR_CONFIG)
    except CheckpointError as error:  # all else was in the cache: who works without the Hub can go on without an ear
        logger.warning("x the caller's words are not written down: %s", error)
        return None


def _check_beside(ear: MoshiConfig, checkpoint: Checkpoint) -> None:
    """Raises ValueError unless it listens to this codec, and writes with this tokenizer."""
    codebooks, bins = checkpoint.mimi.codebooks, checkpoint.mimi.config.quantizer.bins
    if not 1 <= ear.n_q <= codebooks:
        raise ValueError(f"n_q is {ear.n_q}; it must be 1 to {codebooks}, as many codebooks as the codec gives here")
    if ear.card != bins:
        raise ValueError(f"card is {ear.card}, but the codec's codebooks hold {bins} codes")
    if ear.text_card < len(checkpoint.tokenizer):
        raise ValueError(f"text_card is {ear.text_card}, but the tokenizer has {len(checkpoint.tokenizer)} pieces")
