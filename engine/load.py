"""A checkpoint by name on a device by name: rows that are warm, and as many as the device should serve."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, TypeAlias

import torch

from engine.admission import LIMIT_S, row_counts
from engine.batch import Batch, KeyPrecision
from engine.ear import NO_EAR
from engine.model.checkpoint import Checkpoint, load_checkpoint
from engine.model.listening import EarCheckpoint, load_ear, load_listener
from engine.model.moshi_config import MoshiConfig
from engine.model.weights import Wanted, precision
from engine.prefix import Prefixes
from engine.prime import CHUNK_COLUMNS
from engine.rehearsal import CHUNK_SIZES, rehearse, warm_up
from engine.room import NO_ROOM, has_cuda, rows_that_fit, spare_bytes, state_bytes
from engine.slot import CheckpointError, EngineError

logger = logging.getLogger(__name__)

Graphs: TypeAlias = Literal["auto", "on", "off"]
"""Whether steps are captured."""

PREFIX_BYTES = 256 << 20
"""For prompts that are remembered. One of 150 frames takes 79 MB of Moshi 7B's keys and values."""

CPU_ROWS = 4
CUDA_ROWS = 16
"""Rows where nobody says how many, on a card as many as fit: 16 x 1.57 GB beside Moshi 7B's 15 GB take 40 GB."""


def load_batch(
    model: str,
    rows: int | None,
    device: str,
    prompt_style: str,
    ear: str = "auto",
    weights: Wanted = "auto",
    kv: KeyPrecision = "full",
    voices: Sequence[str] = (),
    limit_s: float | Literal["auto"] | None = "auto",
    graphs: Graphs = "auto",
    prefix_bytes: int = PREFIX_BYTES,
    deterministic: bool = False,
    pins: bool = False,
) -> Batch:
    """Load a checkpoint and make rows for it, warm; and for its `ear`: `auto` is the one beside it, if there is one,
    `off` none; else it is a folder or a Hub repository. Where memory has no room for ears, there are fewer, or none.

    `graphs`: `on` runs static steps, on CUDA as graphs; `auto` is that on CUDA only. `prefix_bytes` hold what the model
    remembers of prompts. With `pins`, prompts can be pinned, and every step costs some more.

    `deterministic`: the same call gives the same tokens whatever else is on, to the last bit: all steps have one width,
    all primes one split, and torch takes its deterministic algorithms, in the whole process. It costs time. (A call
    that is primed in its middle catches up with its own steps in chunks that others may delay: those it cannot fix.)

    Raises CheckpointError, EngineError if the device cannot be had, or cannot hold weights as `weights` wants them.
    """
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it is first used
        torch.use_deterministic_algorithms(True, warn_only=True)  # what has none is told, and no call fails by it
    chosen = _device(device)
    if chosen.type == "cpu":
        rows = rows or CPU_ROWS
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
        rows = rows or _fitting(checkpoint, kv, pins)
        prefixes = Prefixes(prefix_bytes, whole_only=deterministic)
        make = partial(Batch, checkpoint, rows, kv=kv, limit_s=limit_s, prefixes=prefixes, pins=pins)
        batch = _warm(make, *_ear(ear, model, checkpoint, chosen, dtype))
        if deterministic:
            batch.prepare([rows], graphs=False)
        elif graphs == "on" or (graphs == "auto" and chosen.type == "cuda"):
            batch.prepare(row_counts(rows), graphs=chosen.type == "cuda")
        rehearse(batch, sizes=[CHUNK_COLUMNS] if deterministic else CHUNK_SIZES)
    except torch.OutOfMemoryError as error:
        raise EngineError(f"{rows or 'the'} rows of {model!r} do not fit the device's memory; ask for fewer") from error
    return batch


def _fitting(checkpoint: Checkpoint, kv: KeyPrecision, pins: bool) -> int:
    """As many rows as the device's memory holds beside the weights, up to CUDA_ROWS."""
    moshi, mimi = checkpoint.moshi, checkpoint.mimi
    row = moshi.initial_state(1, eight_bits=kv == "int8", pins=pins, device="meta")
    spare = spare_bytes(next(moshi.parameters()).device)
    return rows_that_fit(state_bytes(row) + state_bytes(mimi.initial_state(1, device="meta")), spare, CUDA_ROWS)


def _ear(
    name: str, model: str, checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype
) -> tuple[EarCheckpoint | None, str]:
    """What is to write down what callers say, and why nothing is. Raises CheckpointError."""
    if name == "off":
        return None, "no ear is wanted"
    try:
        load = load_ear if name == "auto" else load_listener
        return load(model if name == "auto" else name, checkpoint, device, dtype), NO_EAR
    except torch.OutOfMemoryError:
        return None, _no_room(device)


def _warm(make: Callable[..., Batch], ear: EarCheckpoint | None, deaf: str) -> Batch:
    """Rows that are warm: with ears, but without where those would take the memory that the rows need."""
    try:
        batch = make(ear=ear, deaf=deaf)
        warm_up(batch)
        return batch
    except torch.OutOfMemoryError:
        if ear is None:
            raise
    return _warm(make, None, _no_room(torch.device("cuda")))


def _no_room(device: torch.device) -> str:
    """Says it, and gives back what was held for an ear that does not fit."""
    logger.warning("x what callers say is not written down: %s", NO_ROOM)
    if device.type == "cuda" and has_cuda():
        torch.cuda.empty_cache()
    return NO_ROOM


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
