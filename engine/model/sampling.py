"""Drawing tokens: temperature and top-k per row, with noise that is an argument.

A token is drawn as argmax(p_i / E_i) with E_i ~ Exp(1), which is a draw from p (the exponential race; the reference
does the same). As the noise comes from outside, a step stays a plain function of tensors, and `row_noise` makes it from
a row's own seed and frame number: what a row says depends on no other row in the batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True, slots=True)
class SamplingRows:
    """How each row draws. A temperature of 0 means greedy; a top-k beyond the noise's width is cut to it.

    Where every row is greedy, None stands for all of this, and no noise need be made.
    """

    text_temperature: Tensor  # [B] float32
    text_top_k: Tensor  # [B] int64, at least 1
    audio_temperature: Tensor  # [B] float32
    audio_top_k: Tensor  # [B] int64, at least 1
    noise: Tensor  # [B, streams, k] float32 ~ Exp(1), see `row_noise`


def draw(logits: Tensor, rows: SamplingRows | None, stream: int) -> Tensor:
    """One token a row [B] of a stream, the text's being 0, from logits [B, V]."""
    if rows is None:
        return logits.argmax(-1)
    temperature = rows.audio_temperature if stream else rows.text_temperature
    return sample(logits, temperature, rows.audio_top_k if stream else rows.text_top_k, rows.noise[:, stream])


def sample(logits: Tensor, temperature: Tensor, top_k: Tensor, noise: Tensor) -> Tensor:
    """One token a row [B] from logits [B, V]; temperature and top_k [B], noise [B, k] float32 ~ Exp(1).

    The i-th noise of a row belongs to its i-th likeliest token. Softmax comes before top-k, and the kept
    probabilities are not scaled again: a race has the same winner.
    """
    wide = logits.float()
    drawn = temperature > 0
    probability = (wide / torch.where(drawn, temperature, 1.0)[:, None]).softmax(-1)
    width = min(noise.shape[-1], logits.shape[-1])
    likeliest, tokens = probability.topk(width)  # sorted, [B, width]
    beyond = torch.arange(width, device=logits.device) >= top_k[:, None]
    winner = (likeliest / noise[:, :width]).masked_fill(beyond, -1.0).argmax(-1, keepdim=True)
    return torch.where(drawn, tokens.gather(1, winner)[:, 0], wide.argmax(-1))


def row_noise(seed: int, number: int, draws: int, width: int) -> NDArray[np.float32]:
    """Exp(1) noise [draws, width] for step `number` of a row with `seed`; the same arguments give the same noise.

    Counter-based: any step's noise can be made without the steps before it.
    """
    generator = np.random.Generator(np.random.Philox(key=seed % 2**128, counter=[0, number, 0, 0]))
    uniform = generator.random((draws, width))  # [0, 1), 53 bits
    return np.maximum(-np.log1p(-uniform), np.finfo(np.float32).tiny).astype(np.float32)
