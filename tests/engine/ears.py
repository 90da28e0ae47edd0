"""Tiny ears, beside a nano checkpoint or in one of their own: random, so that they write much, and other things for
other sounds."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
import torch
from safetensors.torch import load_file, save_file

from engine.model.moshi import Moshi, MoshiConfig
from engine.model.text import BOS, EOS, EPAD, PAD
from engine.nano import MIMI, MOSHI, PIECES, TEXT, _draw

EAR: dict[str, Any] = {
    **{"dim": 32, "num_layers": 2, "num_heads": 2, "context": 50, "n_q": 8, "dep_q": 0, "card": MOSHI["card"]},
    **{"text_card": PIECES, "delays": [0] * 9},
}

DELAY_S = 0.4
DELAY_FRAMES = 5


def write_ear(folder: Path, seed: int = 0, **settings: Any) -> None:
    """Write ear.json and ear.safetensors into `folder`; `settings` stand in place of the usual ones."""
    weights = _draw(Moshi(MoshiConfig.from_kwargs(EAR)), np.random.default_rng(seed))
    head = weights["text_linear.weight"]
    head[PAD] *= 2  # silent now and then
    head[4:260] *= 0.2  # pieces of words rather than single bytes
    head[[EPAD, BOS, EOS]] = 0
    save_file(weights, folder / "ear.safetensors")
    config = {
        **{"moshi_name": "ear.safetensors", "mimi_name": "mimi.safetensors", "tokenizer_name": "tokenizer.model"},
        **{"model_type": "stt", "mimi_config_name": "mimi.json", "lm_gen_config": {"temp_text": 0.0}},
        **{"stt_config": {"audio_silence_prefix_seconds": 0.0, "audio_delay_seconds": DELAY_S}},
        **{"prompt_config": {"style": "none", "silence": [], "sine": [0] * 8, "gap_frames": 6}},
    }
    (folder / "ear.json").write_text(json.dumps({**config, **EAR, **settings}))


# --- in a checkpoint of its own, as stt-1b-en_fr is published: 32 codebooks, a tokenizer, four heads ---------------

LISTENER: dict[str, Any] = {
    **{"dim": 32, "num_layers": 2, "num_heads": 2, "hidden_scale": 4.125, "context": 40, "max_period": 100_000.0},
    **{"n_q": 32, "dep_q": 0, "card": MOSHI["card"], "text_card": 330, "delays": [0] * 33},
    **{"existing_text_padding_id": PAD, "causal": True, "layer_scale": None, "gating": "silu", "norm": "rms_norm_f32"},
    **{"positional_embedding": "rope", "depformer_dim": 64, "depformer_multi_linear": True},
}
HEADS, LISTENER_DELAY_FRAMES, SILENCE_FRAMES = 4, 6, 12


def write_listener(folder: Path, talking: Path, same_codec: bool = True, **settings: Any) -> Path:
    """Write a checkpoint that only listens into `folder`. Its codec has 32 codebooks; the first are those of the
    checkpoint `talking`, and all else of it too, if it is the `same_codec`."""
    folder.mkdir()
    random = np.random.default_rng(7)
    codec, weights = load_file(talking / "mimi.safetensors"), {}
    last = codec["quantizer.rvq_rest.vq.layers.6._codebook.embedding_sum"]
    for layer in range(7, 31):
        name = f"quantizer.rvq_rest.vq.layers.{layer}._codebook"
        codec[f"{name}._initialized"] = torch.ones(1)
        codec[f"{name}.cluster_usage"] = torch.ones(len(last))
        codec[f"{name}.embedding_sum"] = torch.from_numpy(random.normal(0, 0.1, last.shape).astype(np.float32))
    if not same_codec:
        codec["quantizer.rvq_first.vq.layers.0._codebook.embedding_sum"].neg_()
    save_file(codec, folder / "mimi-pytorch-e351c8d8@125.safetensors")
    sizes = MIMI | {"quantizer": MIMI["quantizer"] | {"n_q": 32}}
    (folder / "mimi.json").write_text(json.dumps(sizes))
    heads = {"extra_heads_num_heads": HEADS, "extra_heads_dim": 6}
    weights = _draw(Moshi(MoshiConfig.from_kwargs(LISTENER | heads)), random)
    weights["text_linear.weight"][[EPAD, PAD]] *= 2  # words with silence between them
    weights["text_linear.weight"][[BOS, EOS]] = 0
    weights["text_linear.weight"][4:260] *= 0.2
    save_file(weights, folder / "model.safetensors")
    (folder / "tokenizer_en_fr_audio_8000.model").write_bytes(_tokenizer(330))
    config = {
        **{"mimi_name": "mimi-pytorch-e351c8d8@125.safetensors", "mimi_config_name": "mimi.json"},
        **{"tokenizer_name": "tokenizer_en_fr_audio_8000.model", "model_type": "stt"},
        **{
            "model_id": {"sig": "aeb2c0a5", "epoch": 200},
            "lm_gen_config": {"temp": 0, "temp_text": 0, "top_k_text": 50},
        },
        **{"stt_config": {"audio_silence_prefix_seconds": 1.0, "audio_delay_seconds": 0.5}},
    }
    (folder / "config.json").write_text(json.dumps({**config, **LISTENER, **settings}))
    return folder


def _tokenizer(pieces: int) -> bytes:
    """Other pieces than the talking model's."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.strip().splitlines()[::2]),
        model_writer=model,
        vocab_size=pieces,
        unk_id=EPAD,
        bos_id=BOS,
        eos_id=EOS,
        pad_id=PAD,
        byte_fallback=True,
        character_coverage=1.0,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()
