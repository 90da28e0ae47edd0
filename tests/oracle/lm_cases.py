"""The language model's cases: what make_lm.py feeds to the oracle, and the tests to ours. All is drawn by name."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.oracle.weights import uniform

TINY: dict[str, Any] = {
    "dim": 32,
    "num_heads": 4,
    "num_layers": 2,
    "hidden_scale": 4.125,
    "context": 10,
    "max_period": 10_000,
    "causal": True,
    "layer_scale": None,
    "gating": "silu",
    "norm": "rms_norm_f32",
    "positional_embedding": "rope",
    "card": 24,
    "text_card": 40,
    "existing_text_padding_id": 3,
    "n_q": 16,
    "dep_q": 8,
    "delays": [0, 0, 1, 1, 1, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1, 1, 1],
    "depformer_dim": 16,
    "depformer_num_heads": 2,
    "depformer_num_layers": 2,
    "depformer_dim_feedforward": 66,
    "depformer_layer_scale": None,
    "depformer_multi_linear": True,
    "depformer_context": 8,
    "depformer_max_period": 10_000,
    "depformer_gating": "silu",
    "depformer_pos_emb": "none",
    "depformer_weights_per_step": True,
}
STT = TINY | {"num_heads": 2, "max_period": 100_000.0, "n_q": 32, "dep_q": 0, "delays": [0] * 33}
STT |= {"extra_heads_num_heads": 4, "extra_heads_dim": 6}
PROMPTED = TINY | {"context": 40, "dep_q": 16}
"""As PersonaPlex: a depth step for each of the caller's codebooks too."""

CONFIGS = {
    "greedy": TINY,
    "sampled": TINY,
    "masked": TINY,
    "forward": TINY | {"context": 20},
    "stt": STT,
    "prompted": PROMPTED,
}

STEPS = 36
"""More than three times the context."""

TEXT_TEMPERATURE, TEXT_TOP_K, AUDIO_TEMPERATURE, AUDIO_TOP_K = 0.7, 25, 0.8, 12

MASKED_ROWS, TICKS = 4, 72
RESETS = {20: (1,), 33: (0, 2), 50: (1, 3)}
"""Before which tick which rows are reset."""

PROMPT_FRAMES, LIVE_FRAMES = 12, 20
FORCED_TEXT = {14: 5, 15: 0, 16: 7, 22: 3, 30: 11}
"""Column -> the text said in it, while the row is live."""


def tokens(label: str, shape: tuple[int, ...], card: int, seed: int) -> NDArray[np.int64]:
    """Values in [0, card)."""
    return np.floor((uniform(label, shape, seed) + 1) / 2 * card).astype(np.int64)


def caller(case: str, rows: int, frames: int, seed: int) -> NDArray[np.int64]:
    """The codes of what a caller says, undelayed [frames, rows, codebooks]."""
    codebooks = 32 if case == "stt" else 8
    return tokens(f"{case} caller", (frames, rows, codebooks), TINY["card"], seed)


def masks(seed: int) -> NDArray[np.bool_]:
    """Which rows run in each tick [TICKS, MASKED_ROWS]."""
    return uniform("masked mask", (TICKS, MASKED_ROWS), seed) < 0.4


def prompt(rows: int, seed: int) -> NDArray[np.int64]:
    """Frames of text, agent's and caller's codes, undelayed [PROMPT_FRAMES, rows, 17]."""
    shape = (PROMPT_FRAMES, rows, 17)
    frames = tokens("prompted frames", shape, TINY["card"], seed)
    frames[..., 0] = tokens("prompted text", shape[:2], TINY["text_card"], seed)
    return frames


def history(seed: int) -> NDArray[np.int64]:
    """A whole conversation, undelayed [14, 1, 17]."""
    frames = tokens("forward frames", (14, 1, 17), TINY["card"], seed)
    frames[..., 0] = tokens("forward text", (14, 1), TINY["text_card"], seed)
    return frames
