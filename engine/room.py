"""How much of the device's memory is left, and what fits into it."""

from __future__ import annotations

import logging
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from engine.ear import Hearing
from engine.model.listening import EarCheckpoint

logger = logging.getLogger(__name__)

NO_ROOM = "the device's memory has no room for more ears"

RESERVE = 1 << 30
"""Bytes that are left free: for what a step, a prime or a capture takes for a moment."""

SHADOWS = 2
"""Rows that are primed beside the others take no more than so many of these."""


def has_cuda() -> bool:
    """Whether this machine has a CUDA device that torch can use."""
    return torch.cuda.is_available()


def spare_bytes(device: torch.device) -> int | None:
    """What is left of the device's memory, as far as it can be told."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def peak_bytes(device: torch.device) -> int:
    """The most that was held so far; 0 where it cannot be told."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0


def hearing(ear: EarCheckpoint, rows: int, spare: int | None) -> Hearing:
    """What so many rows, or fewer, can hear by: as many ears as `spare` bytes hold, all where nobody knows them."""
    if spare is not None:
        row = state_bytes(ear.moshi.initial_state(1, device="meta"))
        row += state_bytes(ear.codec.initial_state(1, device="meta")) if ear.own else 0
        ears = min(rows, max(0, spare - RESERVE) // row)
        if ears < rows:
            logger.warning("x what callers say is written down in %d of %d rows: %s", ears, rows, NO_ROOM)
        rows = ears
    return Hearing(ear.tokenizer, rows, ear.delay_frames, ear.revision if rows else "", NO_ROOM)


def rows_that_fit(row_bytes: int, spare: int | None, most: int) -> int:
    """Of up to `most` rows of so many bytes each, those that `spare` bytes hold with their shadows; at least one."""
    return most if spare is None else max(1, min(most, (spare - RESERVE) // row_bytes - SHADOWS))


def state_bytes(state: Any) -> int:
    """Of all tensors in a state, and in the states in it."""
    if isinstance(state, Tensor):
        return state.numel() * state.element_size()
    parts = [getattr(state, each.name) for each in fields(state)] if is_dataclass(state) else state
    return sum(map(state_bytes, parts)) if isinstance(parts, list | tuple) else 0
