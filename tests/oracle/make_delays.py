"""Write the goldens of other token delays, tests/data/oracle/lm_delays.npz; see make_lm.py and weights.py."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
from tests.oracle.make_lm import Arrays, Watch, in_step, shapes_of, write  # noqa: E402, I001  - sets switches, so first
import torch  # noqa: E402
from moshi.models import loaders  # noqa: E402
from tests.oracle import delay_cases as cases  # noqa: E402
from tests.oracle.weights import draw_all  # noqa: E402


def generate(case: str, seed: int, watch: Watch) -> Arrays:
    model = loaders.get_moshi_lm(None, lm_kwargs=dict(cases.CONFIGS[case]), device="cpu", dtype=torch.float32)
    weights = draw_all(shapes_of(model), seed)
    model.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()}, strict=True)
    return in_step(model.eval(), cases.caller(case, seed), cases.LOGITS_EVERY, watch)


if __name__ == "__main__":
    write("lm_delays.npz", dict.fromkeys(cases.CONFIGS, generate))
