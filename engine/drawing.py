"""How the rows of a step draw: settings as they travel to the device, and the noise that is made of them there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.model.sampling import SamplingRows, row_noise
from engine.slot import Sampling

NOISE_WIDTH = 250
"""Most candidates that a draw may choose from: the reference's top-k for audio."""

PRIME_NUMBER = 0
"""The step that ends a prime draws noise of this number; frame n of the call that of n + 1."""

Settings: TypeAlias = tuple[Tensor, Tensor]
"""How rows draw, as it is copied: seeds, numbers and both top-k [4, B] int64, both temperatures [2, B] float32."""


Draws: TypeAlias = Sequence[tuple[int, Sampling]]
"""Of each row, the number of its noise and how it draws."""


def numbers(draws: Draws) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """`Settings` on the host."""
    whole = [(one.seed, number, one.text_top_k, one.audio_top_k) for number, one in draws]
    broken = [(one.text_temperature, one.audio_temperature) for _, one in draws]
    return np.array(whole, np.int64).T, np.array(broken, np.float32).T


def settings(draws: Draws, device: torch.device) -> Settings | None:
    """How rows draw, on the device. None: all are greedy."""
    if all(sampling.greedy for _, sampling in draws):
        return None
    whole, broken = numbers(draws)
    return torch.from_numpy(whole).to(device), torch.from_numpy(broken).to(device)


def sampling_rows(settings: Settings | None, streams: int) -> SamplingRows | None:
    """What a model's step takes, with the noise of so many streams."""
    if settings is None:
        return None
    (seed, number, text_top_k, audio_top_k), (text_temperature, audio_temperature) = settings
    noise = row_noise(seed, number, streams, NOISE_WIDTH)
    return SamplingRows(text_temperature, text_top_k, audio_temperature, audio_top_k, noise)
