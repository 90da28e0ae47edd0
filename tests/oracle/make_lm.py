"""Write the goldens of the language model, tests/data/oracle/lm*.{npz,json}; see weights.py for how to run it.

Tiny models of the published structure. Inputs and weights are drawn by name (lm_cases.py, weights.py), so the file
holds what the oracle gave: tokens, logits, and the noise that it drew. A seed is rejected when moving some logit by
1e-4 could change a token.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

os.environ["NO_TORCH_COMPILE"] = os.environ["NO_CUDA_GRAPH"] = "1"
import torch  # noqa: E402  - after the switches
from moshi.models import lm as oracle_lm  # noqa: E402
from moshi.models import loaders  # noqa: E402

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests/data/oracle"
sys.path.insert(0, str(ROOT))
from tests.oracle import lm_cases as cases  # noqa: E402
from tests.oracle.weights import draw_all  # noqa: E402

LEAST_MARGIN = 1e-4
Arrays = dict[str, np.ndarray]


class Watch:
    """Stands before the oracle's sampling: keeps logits and noise, and by how little a token won."""

    def __init__(self) -> None:
        self.sample_token = oracle_lm.sample_token
        self.logits: list[torch.Tensor] = []
        self.noise: list[torch.Tensor] = []
        self.margin = float("inf")
        self.running: torch.Tensor | None = None  # rows whose tokens count

    def __call__(self, logits: torch.Tensor, use_sampling: bool, temp: float, top_k: int) -> torch.Tensor:
        before = torch.get_rng_state()
        token = self.sample_token(logits, use_sampling, temp, top_k)
        flat = logits.reshape(-1, logits.shape[-1])
        self.logits.append(flat.clone())
        rows = range(len(flat)) if self.running is None else self.running.nonzero().flatten().tolist()
        if not use_sampling:
            top = flat.topk(2).values
            self.margin = min([self.margin, *(float(top[row, 0] - top[row, 1]) for row in rows)])
            return token
        after = torch.get_rng_state()
        torch.set_rng_state(before)
        noise = torch.empty(len(flat), min(top_k, flat.shape[-1])).exponential_(1)
        assert torch.equal(torch.get_rng_state(), after), "the oracle drew something else"
        self.noise.append(noise)
        for row in rows:
            won, margin = race(flat[row], noise[row], temp)
            assert won == token.flatten()[row], "the oracle drew in another order"
            self.margin = min(self.margin, margin)
        return token

    def take(self, per_step: int) -> Arrays:
        """Logits [steps, B, card], those of the codes [steps, B, dep_q, card], noise [steps, B, 1 + dep_q, k]."""
        steps = [self.logits[at : at + per_step] for at in range(0, len(self.logits), per_step)]
        out = {"text_logits": np.stack([step[0].numpy() for step in steps])}
        if per_step > 1:
            out["audio_logits"] = np.stack([torch.stack(step[1:], 1).numpy() for step in steps])
        if self.noise:
            width = max(noise.shape[-1] for noise in self.noise)
            wide = [torch.nn.functional.pad(noise, (0, width - noise.shape[-1]), value=1.0) for noise in self.noise]
            out["noise"] = torch.stack(wide).view(len(steps), per_step, -1, width).transpose(1, 2).numpy()
        return out


def race(logits: torch.Tensor, noise: torch.Tensor, temp: float) -> tuple[int, float]:
    """The token that wins, and how far logits may move before another does.

    Either the runner-up overtakes, or two neighbours in the order change places and with them their noise.
    """
    logits, noise = logits.double(), noise.double()
    order = logits.argsort(descending=True, stable=True)

    def run(order: torch.Tensor) -> tuple[int, float]:
        scores = logits[order[: len(noise)]] / temp - noise.log()
        best = scores.topk(2)
        return int(order[best.indices[0]]), float(best.values[0] - best.values[1]) * temp

    won, margin = run(order)
    for at in range(min(len(noise), len(order) - 1)):
        swapped = order.clone()
        swapped[at], swapped[at + 1] = order[at + 1], order[at]
        if run(swapped)[0] != won:
            margin = min(margin, float(logits[order[at]] - logits[order[at + 1]]))
    return won, margin


def file_name(name: str) -> tuple[str, int]:
    """The package's own parameter name -> the one in the published files, and which of its equal parts this is."""
    found = re.fullmatch(r"(.*self_attn\.)(in|out)_projs\.(\d+)\.weight", name)
    if not found:
        return name, 0
    return found[1] + {"in": "in_proj_weight", "out": "out_proj.weight"}[found[2]], int(found[3])


def shapes_of(model: oracle_lm.LMModel) -> dict[str, list[int]]:
    shapes: dict[str, list[int]] = {}
    for own, value in model.state_dict().items():
        name, part = file_name(own)
        shapes[name] = [value.shape[0] * (part + 1), *value.shape[1:]]
    return shapes


def build(case: str, seed: int) -> oracle_lm.LMModel:
    model = loaders.get_moshi_lm(None, lm_kwargs=dict(cases.CONFIGS[case]), device="cpu", dtype=torch.float32)
    weights = {name: torch.from_numpy(value) for name, value in draw_all(shapes_of(model), seed).items()}
    model.load_state_dict(weights, strict=True)
    return model.eval()


def generate(case: str, seed: int, watch: Watch) -> Arrays:
    """Two rows in step, greedy or sampled."""
    torch.manual_seed(seed)
    model = build(case, seed)
    generator = oracle_lm.LMGen(
        model,
        use_sampling=case == "sampled",
        temp=cases.AUDIO_TEMPERATURE,
        temp_text=cases.TEXT_TEMPERATURE,
        top_k=cases.AUDIO_TOP_K,
        top_k_text=cases.TEXT_TOP_K,
        check=True,
    )
    emitted, heads = [], []
    with generator.streaming(2):
        for codes in torch.from_numpy(cases.caller(case, 2, cases.STEPS, seed)):
            out = generator.step_with_extra_heads(codes[:, :, None])
            if out is not None:
                emitted.append(out[0][:, :, 0].numpy().astype(np.int16))
                heads.append([head[:, 0].numpy() for head in out[1]])
    result = {"emitted": np.stack(emitted), **watch.take(1 + model.dep_q)}
    if case == "stt":
        result["heads"] = np.stack(heads).transpose(0, 2, 1, 3).copy()  # [steps, B, heads, size]
    return result


def masked(case: str, seed: int, watch: Watch) -> Arrays:
    """Rows that run, pause and are reset, each in its own time."""
    generator = oracle_lm.LMGen(build(case, seed), use_sampling=False, check=True, support_out_of_sync=True)
    emitted = []
    with generator.streaming(cases.MASKED_ROWS):
        caller = torch.from_numpy(cases.caller(case, cases.MASKED_ROWS, cases.TICKS, seed))
        for tick, mask in enumerate(torch.from_numpy(cases.masks(seed))):
            for row in cases.RESETS.get(tick, ()):
                generator.reset_streaming(torch.arange(cases.MASKED_ROWS) == row)
            generator.set_exec_mask(mask)
            watch.running = mask
            emitted.append(generator.step(caller[tick, :, :, None])[:, :, 0].numpy().astype(np.int16))
    return {"emitted": np.stack(emitted), **{name: x[::6] for name, x in watch.take(9).items()}}


def forward(case: str, seed: int, watch: Watch) -> Arrays:
    """Logits of a known history, as in training."""
    model = build(case, seed)
    with torch.no_grad():
        out = model(torch.from_numpy(cases.history(seed)).permute(1, 2, 0))
    return {"text_logits": out.text_logits[0, 0].numpy(), "audio_logits": out.logits[0].numpy()}  # NaN at the edges


def prompted(case: str, seed: int, watch: Watch) -> Arrays:
    """A prompt forced into the columns by the oracle's hooks, then a live caller; 16 depth steps, as in PersonaPlex.

    Half of the depth steps stand for the caller's streams: their codes are put into the column by the hook too.
    """
    model = build(case, seed)
    told = torch.from_numpy(cases.prompt(2, seed))
    live = torch.from_numpy(cases.caller(case, 2, cases.LIVE_FRAMES, seed))
    column = 0

    def frame_of(stream: int) -> int:
        return column - 1 - model.delays[stream]

    def on_text(text: torch.Tensor) -> None:
        if frame_of(0) < len(told):
            text[:] = told[frame_of(0), :, 0]
        elif column in cases.FORCED_TEXT:
            text[:] = cases.FORCED_TEXT[column]

    def on_audio(codes: torch.Tensor) -> None:
        for stream in range(1, 17):
            frame = frame_of(stream)
            if 0 <= frame < len(told):
                codes[:, stream - 1] = told[frame, :, stream]
            elif stream > 8 and 0 <= frame - len(told) < len(live):
                codes[:, stream - 1] = live[frame - len(told), :, stream - 9]

    generator = oracle_lm.LMGen(model, use_sampling=False, check=True, on_text_hook=on_text, on_audio_hook=on_audio)
    emitted = []
    with generator.streaming(2):
        while column < cases.PROMPT_FRAMES + cases.LIVE_FRAMES:
            column += 1  # the one that this step makes
            out = generator.step(torch.zeros(2, 0, 1, dtype=torch.long))
            if out is not None:
                emitted.append(out[:, :9, 0].numpy().astype(np.int16))
    logits = watch.take(17)
    live_from = cases.PROMPT_FRAMES
    return {
        "emitted": np.stack(emitted),
        "text_logits": logits["text_logits"][live_from:],
        "audio_logits": logits["audio_logits"][live_from:, :, :8],
    }


RUNS: dict[str, Callable[[str, int, Watch], Arrays]] = {
    "greedy": generate,
    "sampled": generate,
    "stt": generate,
    "masked": masked,
    "forward": forward,
    "prompted": prompted,
}


def in_step(model: oracle_lm.LMModel, callers: np.ndarray, every: int, watch: Watch) -> Arrays:
    """Rows in step, greedily: callers' codes [steps, B, streams]; logits of each `every` steps."""
    generator = oracle_lm.LMGen(model, use_sampling=False, check=True)
    emitted = []
    with generator.streaming(callers.shape[1]):
        for codes in torch.from_numpy(callers):
            out = generator.step(codes[:, :, None])
            if out is not None:
                emitted.append(out[:, :, 0].numpy().astype(np.int16))
    logits = {name: value[::every] for name, value in watch.take(1 + model.dep_q).items()}
    return {"emitted": np.stack(emitted), **logits}


def write(name: str, runs: Mapping[str, Callable[[str, int, Watch], Arrays]]) -> None:
    """All cases, each with the first seed that keeps its tokens apart."""
    torch.set_num_threads(1)
    arrays: Arrays = {}
    for case, run in runs.items():
        for seed in range(100):
            watch = oracle_lm.sample_token = Watch()
            result = run(case, seed, watch)
            oracle_lm.sample_token = watch.sample_token
            print(f"{case}: seed {seed}, least margin {watch.margin:.2e}")
            if watch.margin >= LEAST_MARGIN:
                break
        else:
            raise SystemExit(f"{case}: no seed keeps its tokens apart")
        arrays[f"{case}/seed"] = np.int64(seed)
        arrays |= {f"{case}/{name}": value for name, value in result.items()}
    DATA.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(DATA / name, **arrays)


def main() -> None:
    write("lm.npz", RUNS)
    shapes = {case: shapes_of(build(case, 0)) for case in ("greedy", "stt", "prompted")}
    (DATA / "lm_shapes.json").write_text(json.dumps(shapes, indent=0) + "\n")


if __name__ == "__main__":
    main()
