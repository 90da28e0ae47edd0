"""Weights drawn by name, so that the oracle and our model hold the same ones and no file has to carry them.

The oracle is the published reference package, in an environment of its own that only `tests/oracle/make_*.py` need
(its metadata asks for an older torch than ours, hence `--no-deps`):

    python3.11 -m venv ORACLE
    ORACLE/bin/pip install "torch==2.13.0" "numpy<2.3" "safetensors<0.8" "einops<0.9" "sentencepiece<0.3" \
                           "sphn<0.3" "aiohttp<3.12" "huggingface-hub<1.0" tqdm
    ORACLE/bin/pip install --no-deps "moshi==0.2.13"
    ORACLE/bin/python tests/oracle/make_mimi.py          # from the root of the repository

The goldens in tests/data/oracle/ hold inputs and outputs only. `draw` uses nothing of numpy but the raw PCG64 stream
and exact arithmetic: any numpy, torch or machine draws the same bits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray


def uniform(label: str, shape: Sequence[int], seed: int = 0) -> NDArray[np.float32]:
    """Values in [-1, 1), 23 bits each, that depend on `label`, `shape` and `seed` alone."""
    digest = hashlib.sha256(f"{label}|{list(shape)}|{seed}".encode()).digest()
    raw = np.random.PCG64(int.from_bytes(digest[:16], "little")).random_raw(int(np.prod(shape)))
    return ((np.asarray(raw, np.uint64) >> np.uint64(40)).astype(np.float32) / np.float32(2**23) - 1).reshape(shape)


def draw(name: str, shape: Sequence[int], seed: int = 0) -> NDArray[np.float32]:
    """The weight that a checkpoint file would hold under `name` (fused names), float32.

    Uniform, of a size that keeps a tiny model lively: standard deviation 1/sqrt(fan in) for matrices and convolutions,
    0.5 for embeddings and codebooks, norms near 1, layer scales near 0.5, biases near 0.1, usage in [0.5, 1.5).
    """
    values, (*owner, field) = uniform(name, shape, seed), name.split(".")
    if field == "_initialized":
        return np.ones(shape, np.float32)
    if field == "cluster_usage":
        return np.float32(1) + values / np.float32(2)
    if field == "scale":
        return (values + np.float32(2)) / np.float32(4)
    if field == "alpha" or (field == "weight" and "norm" in owner[-1]):
        return np.float32(1) + values / np.float32(4)
    if field == "bias":
        return values / np.float32(5)
    if field == "embedding_sum" or any(part.endswith("emb") for part in owner):
        return values * np.float32(0.5 * 3**0.5)
    fan_in = int(np.prod(shape[1:]))
    if "convtr" in owner:  # [in, out / groups, k], k = 2 strides: two taps of each input channel reach an output
        fan_in = 2 * shape[0] if shape[1] > 1 else 2
    return values * np.float32((3 / fan_in) ** 0.5)


def draw_all(shapes: Mapping[str, Sequence[int]], seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """`draw` for every name of a state dictionary."""
    return {name: draw(name, shape, seed) for name, shape in shapes.items()}
