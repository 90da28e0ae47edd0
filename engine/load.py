"""A checkpoint by name on a device by name: rows that are warm, and as many as the device should serve."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch

from engine.admission import LIMIT_S, row_counts
from engine.batch import CHUNK_SIZES, Batch, KeyPrecision, has_cuda
from engine.model.checkpoint import load_checkpoint
from engine.model.listening import load_ear
from engine.model.moshi_config import MoshiConfig
from engine.model.weights import Wanted, precision
from engine.prefix import Prefixes
from engine.prime import CHUNK_COLUMNS
from engine.slot import CheckpointError, EngineError

Graphs: TypeAlias = Literal["auto", "on", "off"]
"""Whether steps are captured."""

PREFIX_BYTES = 256 << 20
"""For prompts that are remembered. One of 150 frames takes 79 MB of Moshi 7B's keys and values."""

CPU_ROWS = 4
CUDA_ROWS = 16
"""Rows where nobody says how many: on a card of 80 GB, 16 x 1.57 GB beside Moshi 7B's 15 GB."""


def load_batch(
    model: str,
    rows: int | None,
    device: str,
    prompt_style: str,
    ear: bool = True,
    weights: Wanted = "auto",
    kv: KeyPrecision = "full",
    voices: Sequence[str] = (),
    limit_s: float | Literal["auto"] | None = "auto",
    graphs: Graphs = "auto",
    prefix_bytes: int = PREFIX_BYTES,
    deterministic: bool = False,
) -> Batch:
    """Load a checkpoint and make rows for it, warm; and for its `ear`, if that is wanted and it has one.

    `graphs`: `on` runs static steps, on CUDA as graphs; `auto` is that on CUDA only. `prefix_bytes` hold what the model
    remembers of prompts.

    `deterministic`: the same call gives the same tokens whatever else is on, to the last bit: all steps have one width,
    all primes one split, and torch takes its deterministic algorithms, in the whole process. It costs time. (A call
    that is primed in its middle catches up with its own steps in chunks that others may delay: those it cannot fix.)

    Raises CheckpointError, EngineError if the device cannot be had, or cannot hold weights as `weights` wants them.
    """
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it is first used
        torch.use_deterministic_algorithms(True, warn_only=True)  # what has none is told, and no call fails by it
    chosen = _device(device)
    rows = rows or (CUDA_ROWS if chosen.type == "cuda" else CPU_ROWS)
    if chosen.type == "cpu":
        torch.set_num_threads(cpu_threads(rows))
    try:
        dtype, packing = precision(weights, chosen)
    except ValueError as error:
        raise EngineError(str(error)) from None
    try:
        checkpoint = load_checkpoint(model, chosen, dtype, prompt_style, packing=packing, voices=voices)
        _check_dialogue(model, checkpoint.moshi.config)
        if limit_s == "auto":
            limit_s = LIMIT_S if chosen.type == "cuda" else None
        prefixes = Prefixes(prefix_bytes, whole_only=deterministic)
        listener = load_ear(model, checkpoint, chosen, dtype) if ear else None
        batch = Batch(checkpoint, rows, listener, kv, limit_s, prefixes)
        batch.warm_up()
        if deterministic:
            batch.prepare([rows], graphs=False)
        elif graphs == "on" or (graphs == "auto" and chosen.type == "cuda"):
            batch.prepare(row_counts(rows), graphs=chosen.type == "cuda")
        batch.rehearse(sizes=[CHUNK_COLUMNS] if deterministic else CHUNK_SIZES)
    except torch.OutOfMemoryError as error:
        raise EngineError(f"{rows} rows of {model!r} do not fit the device's memory; ask for fewer") from error
    return batch


def _check_dialogue(model: str, sizes: MoshiConfig) -> None:
    if not sizes.dep_q:
        raise CheckpointError(f"{model!r} listens but does not speak (dep_q is 0): a call needs one that does both")
    if sizes.dep_q == sizes.n_q:
        raise CheckpointError(
            f"{model!r} speaks but does not listen (all of its {sizes.n_q} audio streams are its own): a call needs "
            "one that does both"
        )


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if has_cuda() else "cpu"
    there = {"cpu": True, "cuda": has_cuda(), "mps": torch.backends.mps.is_available()}
    if not there.get(name.partition(":")[0], False):
        raise EngineError(f"torch {torch.__version__} finds no device {name!r} on this machine; cpu is always there")
    return torch.device(name)


def cpu_threads(rows: int) -> int:
    """One, while one core serves the rows: a step is some thousand small operations, and to split each among threads
    costs more than it gains; the other cores are for packets. Beyond, one for every CPU_ROWS rows, a core left free."""
    return max(1, min(rows // CPU_ROWS, (os.cpu_count() or 1) - 1))
