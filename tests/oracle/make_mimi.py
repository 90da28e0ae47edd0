"""Write the goldens of the codec, tests/data/oracle/mimi*.{npz,json}; see weights.py for how to run it.

A tiny codec of the published structure, with a ring of 8 positions (4 frames). Inputs are drawn by name (`waveform`,
`codes` in mimi_inputs.py), so the file holds outputs only; of decoded audio every 7th sample, which meets every phase
of the up-sampling. A seed is rejected when any nearest centroid is nearer than the next by less than 1e-4, or when any
codebook says fewer than 9 different codes: equality with them would mean little.
"""

from __future__ import annotations

import json
import os
import sys
from copy import deepcopy
from pathlib import Path

import numpy as np

os.environ["NO_TORCH_COMPILE"] = os.environ["NO_CUDA_GRAPH"] = "1"
import torch  # noqa: E402  - after the switches
from moshi.models import loaders  # noqa: E402
from moshi.quantization.core_vq import EuclideanCodebook  # noqa: E402

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
from tests.oracle.mimi_inputs import FRAMES, MASKS, RESETS, TINY, codes, waveform  # noqa: E402
from tests.oracle.weights import draw_all  # noqa: E402

LEAST_MARGIN = 1e-4
LEAST_VARIETY = 9
margins: list[float] = []


def watch_margins() -> None:
    quantize = EuclideanCodebook._quantize

    def watched(self: EuclideanCodebook, x: torch.Tensor) -> torch.Tensor:
        distances = torch.cdist(x.double(), self.embedding.double())
        nearest = distances.topk(2, dim=1, largest=False).values
        margins.append(float((nearest[:, 1] - nearest[:, 0]).min()))
        return quantize(self, x)

    EuclideanCodebook._quantize = watched


def file_name(name: str) -> str:
    """The package's own parameter names -> those in the published files."""
    return name.replace("in_projs.0.weight", "in_proj_weight").replace("out_projs.0.", "out_proj.")


def build(config: dict, seed: int) -> loaders.MimiModel:
    mimi = loaders.get_mimi(None, deepcopy(config), num_codebooks=config["quantizer"]["n_q"])
    shapes = {file_name(name): tuple(value.shape) for name, value in mimi.state_dict().items()}
    weights = {name: torch.from_numpy(value) for name, value in draw_all(shapes, seed).items()}
    mimi.load_state_dict(weights, strict=True)
    return mimi.eval()


def encode(mimi: loaders.MimiModel, audio: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    latent = mimi._encode_to_unquantized_latent(audio)
    return latent.numpy().copy(), mimi.quantizer.encode(latent).numpy().copy()


def stream(mimi: loaders.MimiModel, audio: torch.Tensor, frames_a_call: int) -> dict[str, np.ndarray]:
    """Encode `audio` and decode drawn codes, call by call; with masks and resets if there are three rows."""
    rows, size = audio.shape[0], 1920 * frames_a_call
    spoken = torch.from_numpy(codes(rows, FRAMES))
    out: dict[str, list[np.ndarray]] = {"latents": [], "codes": [], "audio": []}
    with mimi.streaming(rows):
        for call in range(FRAMES // frames_a_call):
            if rows == 3 and call in RESETS:
                mimi.reset_streaming(torch.tensor([row == RESETS[call] for row in range(rows)]))
            if rows == 3:
                mimi.set_exec_mask(torch.from_numpy(MASKS[call]))
            latent, code = encode(mimi, audio[:, :, call * size : (call + 1) * size])
            reply = mimi.decode(spoken[:, :, call * frames_a_call : (call + 1) * frames_a_call])
            for values, value in zip(out.values(), (latent, code, reply.numpy()[:, 0, ::7].copy()), strict=True):
                values.append(value)
    return {name: np.stack(values) for name, values in out.items()}


def run(seed: int) -> dict[str, np.ndarray]:
    mimi = build(TINY, seed)
    goldens = {"seed": np.array(seed)}
    latent, code = encode(mimi, torch.from_numpy(waveform(1, 4)[:, :, : 3 * 1920 + 700]))
    goldens |= {"offline_latents": latent, "offline_codes": code}
    goldens["offline_audio"] = mimi.decode(torch.from_numpy(codes(1, 4))).numpy()[:, 0, ::7]
    goldens["prefix_audio"] = mimi.decode(torch.from_numpy(codes(1, 4)[:, :3])).numpy()[:, 0, ::7]
    for label, rows, frames_a_call in (("rows", 3, 1), ("pairs", 1, 2)):
        streamed = stream(build(TINY, seed), torch.from_numpy(waveform(rows, FRAMES)), frames_a_call)
        goldens |= {f"{label}_{name}": value for name, value in streamed.items()}
    return goldens


@torch.no_grad()
def main() -> None:
    torch.set_num_threads(1)
    watch_margins()
    for seed in range(1000):
        margins.clear()
        goldens = run(seed)
        variety = [len(np.unique(column)) for column in goldens["rows_codes"][:, 0, :, 0].T]
        print(f"seed {seed}: least margin {min(margins):.1e} in {len(margins)} searches, different codes {variety}")
        if min(margins) >= LEAST_MARGIN and min(variety) >= LEAST_VARIETY:
            break
    else:
        raise SystemExit("every seed has a near tie or too few codes")
    folder = ROOT / "tests/data/oracle"
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / "mimi.npz", **goldens)
    published = loaders.get_mimi(None, device="meta", num_codebooks=8).state_dict()
    shapes = {file_name(name): list(value.shape) for name, value in published.items()}
    (folder / "mimi_shapes.json").write_text(json.dumps(shapes, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
