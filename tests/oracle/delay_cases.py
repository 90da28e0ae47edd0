"""Forms with other streams and token delays: what make_delays.py feeds to the oracle, and the tests to ours."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.oracle.lm_cases import STT, TINY, tokens

CONFIGS: dict[str, dict[str, Any]] = {
    "asr": STT | {"n_q": 8, "delays": [6, *[0] * 8], "extra_heads_num_heads": 0},
    "tts": TINY | {"n_q": 8, "dep_q": 8, "delays": [0, 25, *[27] * 7]},
}
"""Streaming recognition: text 6 frames after the audio that it hears. Synthesis: nobody is heard, and the audio comes
25 frames after the text, its acoustic codes 2 later."""

ROWS, STEPS, LOGITS_EVERY = 2, 72, 8
"""Far beyond both the delays and the context of 10."""


def caller(case: str, seed: int) -> NDArray[np.int64]:
    """The codes of what a caller says, undelayed [STEPS, ROWS, codebooks]; of none in synthesis."""
    config = CONFIGS[case]
    return tokens(f"{case} caller", (STEPS, ROWS, config["n_q"] - config["dep_q"]), config["card"], seed)
