"""Write the goldens of the language model's other forms, tests/data/oracle/lm_variants.npz; see make_lm.py, weights.py.

LoRA is the oracle's own: its adapters are drawn under the names of its file, and it steps with them unfused.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
from tests.oracle.make_lm import Arrays, Watch, in_step, shapes_of, write  # noqa: E402, I001  - sets switches, so first
import torch  # noqa: E402
from moshi.models import lm as oracle_lm  # noqa: E402
from moshi.models import loaders  # noqa: E402
from tests.oracle import variant_cases as cases  # noqa: E402
from tests.oracle.weights import draw, draw_all  # noqa: E402


def build(case: str, seed: int) -> oracle_lm.LMModel:
    config = dict(cases.CONFIGS[case])
    plain = {name: value for name, value in config.items() if not name.startswith("lora")}
    model = loaders.get_moshi_lm(None, lm_kwargs=plain, device="cpu", dtype=torch.float32)
    weights = draw_all(shapes_of(model), seed)
    if case == "int8":
        weights = cases.from_8_bits(cases.in_8_bits(weights))
    model.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()}, strict=True)
    if case == "lora":
        rank, scaling = config["lora_rank"], config["lora_scaling"]
        model = loaders.get_lora_moshi(model, None, rank, scaling, dtype=torch.float32, fuse_lora=False)
        for name, value in model.named_parameters():
            if ".lora_" in name:
                value.data.copy_(torch.from_numpy(draw(name, value.shape, seed)))
    return model.eval()


def generate(case: str, seed: int, watch: Watch) -> Arrays:
    return in_step(build(case, seed), cases.caller(case, seed), cases.LOGITS_EVERY, watch)


if __name__ == "__main__":
    write("lm_variants.npz", dict.fromkeys(cases.CONFIGS, generate))
