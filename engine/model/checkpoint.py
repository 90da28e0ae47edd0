"""A folder or a Hub repository as codec, language model, tokenizer and prompt layout; published forms, read strictly.

config.json holds the language model's arguments, and beside them file names and settings of other programs. Without it,
or where it is silent, a checkpoint is Moshi 7B's. A tensor that is missing, left over or of another shape is an error
that names it: weights which nearly fit make a model that nearly speaks. Only trailing codebooks and depth steps that
this model does not run may be left over.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from engine.model.lora import Lora
from engine.model.mimi import Mimi, MimiConfig
from engine.model.moshi import Moshi, MoshiConfig
from engine.model.prompt import SILENCE, SINE, PromptLayout
from engine.model.source import RECORDING, STATE, Repository, Source, VoiceFile, open_source
from engine.model.stored import Stored, fill
from engine.model.text import Tokenizer
from engine.model.voice import Voices, read_voice
from engine.model.weights import Packing
from engine.slot import FRAME_SAMPLES, SAMPLE_RATE, CheckpointError, Sampling

logger = logging.getLogger(__name__)

CONFIG = "config.json"

NAMES = {
    "moshi_name": "model.safetensors",
    "mimi_name": "tokenizer-e351c8d8-checkpoint125.safetensors",
    "tokenizer_name": "tokenizer_spm_32k_3.model",
}
"""Keys of config.json that name files, and the files' names in the repositories that do not say."""

OTHERS = {"model_type", "model_id", "version", "stt_config", "tts_config"}
"""Keys of config.json that are other programs' settings. PersonaPlex's holds model_type and version, and no more."""

LORA = {"lora": None, "lora_rank": 128, "lora_scaling": 2.0}
"""Keys of config.json on adapters, and the reference's defaults."""

STEADY_FRAMES = 13
"""A second of silence, or of a tone: from then on its codes do not change."""

TONE_HZ = 440


@dataclass(frozen=True)
class Checkpoint:
    """All that a checkpoint holds, its weights on their device. `revision` is exact enough to repeat a call.

    `voices` are those beside the weights, by name, and those that were asked for by path, by that.
    """

    mimi: Mimi
    moshi: Moshi
    tokenizer: Tokenizer
    layout: PromptLayout
    voices: Voices
    revision: str
    sampling: Sampling


def load_checkpoint(
    model: str,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    prompt_style: str = "auto",
    config_name: str = CONFIG,
    packing: Packing = "stored",
    voices: Sequence[str] = (),
) -> Checkpoint:
    """Load folder or Hub repository `model`. `dtype` is the language model's; the codec is float32 as in training.

    `packing` is how the language model's large linear maps lie in memory; `dtype` is then what it computes in.
    `prompt_style` stands where the checkpoint has no prompt_config; `auto` is `system` for weights that were trained on
    prompts, as depth steps for the caller's codes show, or voices beside them, else `text`. `config_name` is for a
    folder that holds two models, as the embedded one has an ear beside it. Paths among `voices` are read too.
    Raises CheckpointError.
    """
    source = open_source(model)
    config = read_json(source.find(config_name))
    quantised = is_quantised(config)
    lora_path, lora = _lora(config, source, quantised)
    prompt_config = config.pop("prompt_config", None)
    sampling = _sampling(config.pop("lm_gen_config", None))
    codec_name = file_name(config, "mimi_config_name") if "mimi_config_name" in config else None
    moshi_path, mimi_path, tokenizer_path = (source.get(file_name(config, key, name)) for key, name in NAMES.items())
    stored = Stored(moshi_path, quantised)
    try:
        sizes = moshi_config(config, stored)
        codec = mimi_config(source.get(codec_name) if codec_name else None, sizes)
    except (TypeError, ValueError) as error:  # the values are anyone's, of any type
        raise CheckpointError(f"{CONFIG}: {error}") from None
    tokenizer = open_tokenizer(tokenizer_path, sizes.text_card)
    mimi = fill(lambda: Mimi(codec, codec.quantizer.n_q), Stored(mimi_path), device, torch.float32)
    moshi = fill(lambda: Moshi(sizes), stored, device, dtype, packing, lora)
    beside = _voices(source)
    trained_on_prompts = stored.depth_steps > sizes.dep_q or bool(beside)
    style = ("system" if trained_on_prompts else "text") if prompt_style == "auto" else prompt_style
    layout = _layout(prompt_config, style, mimi, sizes)
    files = [path for path in (source.find(config_name), moshi_path, lora_path, mimi_path, tokenizer_path) if path]
    elsewhere = [VoiceFile.read(Path(voice).expanduser(), voice) for voice in voices if is_path(voice)]
    spoken = {file.name: read_voice(file, mimi, sizes) for file in (*beside, *elsewhere)}
    return Checkpoint(mimi, moshi, tokenizer, layout, spoken, source.revision(files), sampling)


# --- config.json ---------------------------------------------------------------------------------------------------


def read_json(path: Path | None) -> dict[str, Any]:
    """The object in a file; an empty one where there is no file. Raises CheckpointError."""
    if path is None:
        return {}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{str(path)!r} is no JSON: {error}") from None
    if not isinstance(config, dict):
        raise CheckpointError(f"{str(path)!r} must hold a JSON object, not {type(config).__name__}")
    return config


def file_name(config: dict[str, Any], key: str, default: str = "", file: str = CONFIG) -> str:
    """Take a file's name out of `config`. Raises CheckpointError if it leads out of the checkpoint."""
    name = config.pop(key, default)
    if not isinstance(name, str) or not name:
        raise CheckpointError(f"{file}: {key} must be a file name, not {name!r}")
    if "://" not in name and (PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts):
        raise CheckpointError(f"{file}: {key} is {name!r}; it must lie inside the checkpoint")
    return name


def is_quantised(config: dict[str, Any], file: str = CONFIG) -> bool:
    """Take out whether the large linear maps are stored in 8 bits. Raises CheckpointError."""
    value = config.pop("quantize", False)
    if not isinstance(value, bool):
        raise CheckpointError(f"{file}: quantize is {value!r}; it must be true or false")
    return value


def _lora(config: dict[str, Any], source: Source, quantised: bool) -> tuple[Path | None, Lora | None]:
    """Take out what is said of LoRA adapters, and open their file if one is named. Raises CheckpointError."""
    wanted, rank, scaling = (config.pop(key, default) for key, default in LORA.items())
    if config.get("lora_name") is None:
        config.pop("lora_name", None)
        if wanted:
            raise CheckpointError(f"{CONFIG}: lora is {wanted!r}, but no file of adapters is named (lora_name)")
        return None, None
    name = file_name(config, "lora_name")
    if wanted is False:
        raise CheckpointError(f"{CONFIG}: lora_name is {name!r}, but lora is false; keep one of the two")
    if quantised:
        raise CheckpointError(f"{CONFIG}: LoRA adapters (lora_name) cannot be fused into 8-bit weights (quantize)")
    if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
        raise CheckpointError(f"{CONFIG}: lora_rank is {rank!r}; it must be an integer above 0")
    if not isinstance(scaling, int | float) or isinstance(scaling, bool) or not math.isfinite(scaling):
        raise CheckpointError(f"{CONFIG}: lora_scaling is {scaling!r}; it must be a number")
    path = source.get(name)
    return path, Lora(path, rank, scaling)


GENERATION = {
    "temp_text": "text_temperature",
    "top_k_text": "text_top_k",
    "temp": "audio_temperature",
    "top_k": "audio_top_k",
}
"""Fields of lm_gen_config, and ours. Others are settings of programs that draw in other ways."""


def _sampling(config: object) -> Sampling:
    """As lm_gen_config says; the reference's where it is silent. Raises CheckpointError."""
    if config is None:
        return Sampling()
    if not isinstance(config, dict):
        raise CheckpointError(f"{CONFIG}: lm_gen_config must be an object, not {type(config).__name__}")
    given = {ours: config[theirs] for theirs, ours in GENERATION.items() if theirs in config}
    for theirs, ours in GENERATION.items():
        value, counts = given.get(ours, 1), "top_k" in ours
        number = isinstance(value, int if counts else (int, float)) and not isinstance(value, bool)
        if not number or not (1 <= value if counts else 0 <= value < float("inf")):
            wanted = "an integer above 0" if counts else "0 (greedy) or a number above it"
            raise CheckpointError(f"{CONFIG}: lm_gen_config.{theirs} is {value!r}; it must be {wanted}")
    return Sampling(**given)


def moshi_config(config: dict[str, Any], stored: Stored) -> MoshiConfig:
    """Where the arguments are silent on the depth steps and extra heads, the tensors show them. Raises ValueError."""
    arguments = {key: value for key, value in config.items() if key not in OTHERS}
    arguments.setdefault("dep_q", stored.depth_steps)
    if heads := stored.count("extra_heads"):
        arguments.setdefault("extra_heads_num_heads", heads)
        arguments.setdefault("extra_heads_dim", stored.shape("extra_heads.0.weight")[0])
    return MoshiConfig.from_kwargs(arguments, synthesis=config.get("model_type") == "tts" or "tts_config" in config)


def mimi_config(path: Path | None, moshi: MoshiConfig) -> MimiConfig:
    """The codec with as many codebooks as the model reads. Raises CheckpointError, ValueError."""
    config = MimiConfig.from_dict(read_json(path))
    if (config.sample_rate, config.frame_samples) != (SAMPLE_RATE, FRAME_SAMPLES):
        raise ValueError(
            f"the codec has frames of {config.frame_samples} samples at {config.sample_rate} Hz; "
            f"they must be {FRAME_SAMPLES} at {SAMPLE_RATE}"
        )
    if config.quantizer.bins != moshi.card:
        raise ValueError(f"card is {moshi.card}, but the codec's codebooks hold {config.quantizer.bins} codes")
    used = max(moshi.dep_q, moshi.n_q - moshi.dep_q)
    return replace(config, quantizer=replace(config.quantizer, n_q=used))


def open_tokenizer(path: Path, text_card: int) -> Tokenizer:
    try:
        tokenizer = Tokenizer(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{str(path)!r}: {error}") from None
    if len(tokenizer) > text_card:
        raise CheckpointError(f"{str(path)!r} has {len(tokenizer)} pieces, but the model's text_card is {text_card}")
    return tokenizer


# --- prompt layout -------------------------------------------------------------------------------------------------


def _layout(config: object, style: str, mimi: Mimi, moshi: MoshiConfig) -> PromptLayout:
    """As `config` says; without one, in `style`. Raises CheckpointError."""
    agent, caller = moshi.dep_q, moshi.n_q - moshi.dep_q
    try:
        if config is not None:
            return PromptLayout.parse(config, agent, caller, moshi.card)
        layout = default_layout(style, mimi, moshi)
        layout.check(agent, caller, moshi.card)
    except ValueError as error:
        raise CheckpointError(f"{CONFIG}: {error}") from None
    return layout


def _voices(source: Source) -> list[VoiceFile]:
    try:
        return source.voices()
    except CheckpointError as error:
        if not isinstance(source, Repository):
            raise
        logger.warning("x there are no voices beside the weights: %s", error)  # as of an ear
        return []


def is_path(voice: str) -> bool:
    """Whether a voice is named by a file of its own, and not as one that lies beside the weights."""
    return "/" in voice or voice.endswith((RECORDING, STATE))


def default_layout(style: str, mimi: Mimi, moshi: MoshiConfig) -> PromptLayout:
    """With the published codes if this is the published codec, as weights were trained with them; else measured."""
    if mimi.config.quantizer == replace(MimiConfig().quantizer, n_q=len(SILENCE)):
        return PromptLayout(style, SILENCE, SINE)
    return measured_layout(style, mimi, moshi.dep_q, moshi.n_q - moshi.dep_q)


def measured_layout(style: str, mimi: Mimi, agent: int, caller: int) -> PromptLayout:
    """A layout with what this codec itself makes of silence and of a tone."""
    seconds = np.arange(FRAME_SAMPLES * STEADY_FRAMES) / SAMPLE_RATE
    tone = 0.5 * np.sin(2 * np.pi * TONE_HZ * seconds).astype(np.float32)
    silence, sine = _steady_codes(mimi, np.zeros_like(tone)), _steady_codes(mimi, tone)
    return PromptLayout(style, silence[:agent], sine[:caller])


def _steady_codes(mimi: Mimi, samples: NDArray[np.float32]) -> tuple[int, ...]:
    """The codes of the last frame, the earlier ones being its past."""
    state = mimi.initial_state(1)
    device = state.encoder.fresh.device
    frames = torch.from_numpy(samples).to(device).view(-1, 1, 1, FRAME_SAMPLES)
    mask = torch.ones(1, dtype=torch.bool, device=device)
    codes = [mimi.encode(frame, state, mask) for frame in frames]
    return tuple(codes[-1][0, :, 0].tolist())
