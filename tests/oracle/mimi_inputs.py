"""What the oracle's codec and ours are given alike: sizes, sound, codes, masks. Needs numpy only."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.oracle.weights import uniform

FRAMES = 36
CODEBOOKS = 6
BINS = 32
TINY: dict[str, Any] = {
    "sample_rate": 24000,
    "channels": 1,
    "frame_rate": 12.5,
    "seanet": {
        "channels": 1,
        "dimension": 16,
        "causal": True,
        "n_filters": 2,
        "n_residual_layers": 1,
        "activation": "ELU",
        "compress": 2,
        "dilation_base": 2,
        "disable_norm_outer_blocks": 0,
        "kernel_size": 7,
        "residual_kernel_size": 3,
        "last_kernel_size": 3,
        "norm": "none",
        "pad_mode": "constant",
        "ratios": [8, 6, 5, 4],
        "true_skip": True,
    },
    "quantizer": {"dimension": 8, "n_q": CODEBOOKS, "bins": BINS, "input_dimension": 16, "output_dimension": 16},
    "transformer": {
        "d_model": 16,
        "num_heads": 2,
        "num_layers": 2,
        "causal": True,
        "layer_scale": 0.01,
        "context": 8,
        "conv_layout": True,
        "max_period": 10000,
        "gating": "none",
        "norm": "layer_norm",
        "positional_embedding": "rope",
        "dim_feedforward": 32,
        "input_dimension": 16,
        "output_dimensions": [16],
    },
}

MASKS = np.ones((FRAMES, 3), bool)
"""Who runs: row 0 always; row 1 from the third call on, then now and then; row 2 is silent before its reset."""
MASKS[:2, 1] = MASKS[5:30:4, 1] = MASKS[14:17, 2] = MASKS[25, 2] = False
RESETS = {17: 2}
"""Call -> the row that is reset before it."""


def waveform(rows: int, frames: int) -> NDArray[np.float32]:
    """[rows, 1, frames * 1920] of about [-1, 1): noise at four rates under a loudness that changes each frame."""
    samples = frames * 1920
    sound = sum(
        uniform(f"sound {hold}", (rows, samples // hold), rows).repeat(hold, axis=1) / np.float32(2)
        for hold in (1, 10, 60, 480)
    )
    loudness = 1 + uniform("loudness", (rows, frames)).repeat(1920, axis=1)
    return np.asarray(sound * loudness, np.float32)[:, None]


def codes(rows: int, frames: int) -> NDArray[np.int64]:
    """[rows, CODEBOOKS, frames] of codes to decode."""
    return ((uniform("codes", (rows, CODEBOOKS, frames)) + 1) * (BINS // 2)).astype(np.int64)
