"""Forms of the language model beside Moshi's own: what make_variants.py feeds to the oracle, and the tests to ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.oracle.lm_cases import STT, TINY, tokens

CONFIGS: dict[str, dict[str, Any]] = {
    "int8": TINY,
    "lora": TINY | {"lora": True, "lora_rank": 3, "lora_scaling": 1.5},
    "low rank": TINY | {"depformer_low_rank_embeddings": 6},
    "normed": TINY | {"depformer_norm": "rms_norm_f32"},
    "scheduled": TINY
    | {
        "depformer_weights_per_step_schedule": [0, 1, 2, 3, 3, 1, 4, 4],
        "depformer_dim_feedforward": [66, 48, 66, 30, 66],
    },
    "grouped": TINY | {"kv_repeat": 2},
    "stt of 20": STT | {"n_q": 20, "delays": [0] * 21, "extra_heads_num_heads": 0},
}
"""`int8`: in 8 bits; the oracle's weights are rounded likewise. `stt of 20`: fewer codebooks, and no heads."""

ROWS, STEPS, LOGITS_EVERY = 2, 24, 6


def caller(case: str, seed: int) -> NDArray[np.int64]:
    """The codes of what a caller says, undelayed [STEPS, ROWS, codebooks]."""
    config = CONFIGS[case]
    return tokens(f"{case} caller", (STEPS, ROWS, config["n_q"] - config["dep_q"]), config["card"], seed)


def in_8_bits(weights: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[Any]]:
    """The published 8-bit form: of each linear map int8 codes, and the greatest magnitude of each row as `_scb`."""
    stored: dict[str, NDArray[Any]] = {}
    for name, weight in weights.items():
        stored[name] = weight
        if weight.ndim == 2 and "emb" not in name:
            stored[f"{name}_scb"] = np.abs(weight).max(1)
            stored[name] = np.rint(weight * (127 / stored[f"{name}_scb"][:, None])).astype(np.int8)
    return stored


def from_8_bits(stored: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
    """What those weights are: codes * scb / 127."""
    return {
        name: np.asarray(value * (stored[f"{name}_scb"][:, None] / np.float32(127)), np.float32)
        if f"{name}_scb" in stored
        else value
        for name, value in stored.items()
        if not name.endswith("_scb")
    }
