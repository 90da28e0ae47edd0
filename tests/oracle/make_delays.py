"""Write the goldens of other token delays, tests/data/oracle/lm_delays.npz; see make_lm.py and weights.py."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
from tests.oracle.make_lm import LEAST_MARGIN, Arrays, Watch, shapes_of  # noqa: E402, I001  - sets switches, so first
import torch  # noqa: E402
from moshi.models import lm as oracle_lm  # noqa: E402
from moshi.models import loaders  # noqa: E402
from tests.oracle import delay_cases as cases  # noqa: E402
from tests.oracle.weights import draw_all  # noqa: E402


def generate(case: str, seed: int, watch: Watch) -> Arrays:
    """Two rows in step, greedily."""
    model = loaders.get_moshi_lm(None, lm_kwargs=dict(cases.CONFIGS[case]), device="cpu", dtype=torch.float32)
    weights = draw_all(shapes_of(model), seed)
    model.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()}, strict=True)
    generator = oracle_lm.LMGen(model.eval(), use_sampling=False, check=True)
    emitted = []
    with generator.streaming(cases.ROWS):
        for codes in torch.from_numpy(cases.caller(case, seed)):
            out = generator.step(codes[:, :, None])
            if out is not None:
                emitted.append(out[:, :, 0].numpy().astype(np.int16))
    logits = {name: value[:: cases.LOGITS_EVERY] for name, value in watch.take(1 + model.dep_q).items()}
    return {"emitted": np.stack(emitted), **logits}


def main() -> None:
    torch.set_num_threads(1)
    arrays: Arrays = {}
    for case in cases.CONFIGS:
        for seed in range(100):
            watch = oracle_lm.sample_token = Watch()
            result = generate(case, seed, watch)
            oracle_lm.sample_token = watch.sample_token
            print(f"{case}: seed {seed}, least margin {watch.margin:.2e}")
            if watch.margin >= LEAST_MARGIN:
                break
        else:
            raise SystemExit(f"{case}: no seed keeps its tokens apart")
        arrays[f"{case}/seed"] = np.int64(seed)
        arrays |= {f"{case}/{name}": value for name, value in result.items()}
    np.savez_compressed(ROOT / "tests/data/oracle/lm_delays.npz", **arrays)


if __name__ == "__main__":
    main()
