"""A tiny ear beside a nano checkpoint: random, so that it writes much, and other things for other sounds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save_file

from engine.model.moshi import Moshi, MoshiConfig
from engine.model.text import BOS, EOS, EPAD, PAD
from engine.nano import MOSHI, PIECES, _draw

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
