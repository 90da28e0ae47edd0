"""Drawing tokens: temperature and top-k per row, with noise that is an argument.

A token is drawn as argmax(p_i / E_i) with E_i ~ Exp(1), which is a draw from p (the exponential race; the reference
does the same). As the noise comes from outside, a step stays a plain function of tensors. `row_noise` makes it from a
row's own seed and frame number: what a row says depends on no other row in the batch, nor on where in it the row lies.

The noise is counter-based: Philox 4x32 with 10 rounds (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
SC 2011), in integer operations on the device, with nothing remembered. So any step's noise can be made without the
steps before it, a CUDA graph may hold it, and CPU and GPU draw the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.model.moshi_config import UNGENERATED

SEEDS = 2**63
"""Seeds lie below this: they travel as int64, and are the generator's key."""

ROUNDS = 10
MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
WEYL = 0x9E3779B9, 0xBB67AE85
"""Of Philox 4x32, as published."""

WORD = 0xFFFFFFFF
"""A mask of 32 bits. Words lie in int64, which has no unsigned kin on all devices."""


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
    """One token a row [B] of a stream, the text's being 0, from logits [B, V]; UNGENERATED where one is no number."""
    if rows is None:
        most, likeliest = logits.max(-1)
        return torch.where(most.isfinite(), likeliest, UNGENERATED)
    temperature = rows.audio_temperature if stream else rows.text_temperature
    return sample(logits, temperature, rows.audio_top_k if stream else rows.text_top_k, rows.noise[:, stream])


def sample(logits: Tensor, temperature: Tensor, top_k: Tensor, noise: Tensor) -> Tensor:
    """One token a row [B] from logits [B, V]; temperature and top_k [B], noise [B, k] float32 ~ Exp(1).

    The i-th noise of a row belongs to its i-th likeliest token. Softmax comes before top-k, and the kept
    probabilities are not scaled again: a race has the same winner. One logit that is NaN or infinite makes them all NaN
    (but minus infinity, which is a token that cannot be), and the row's token UNGENERATED.
    """
    wide = logits if logits.dtype == torch.float64 else logits.float()
    drawn = temperature > 0
    probability = (wide / torch.where(drawn, temperature, 1.0)[:, None]).softmax(-1)
    width = min(noise.shape[-1], logits.shape[-1])
    likeliest, tokens = probability.topk(width)  # sorted, [B, width]
    beyond = torch.arange(width, device=logits.device) >= top_k[:, None]
    winner = (likeliest / noise[:, :width]).masked_fill(beyond, -1.0).argmax(-1, keepdim=True)
    token = torch.where(drawn, tokens.gather(1, winner)[:, 0], wide.argmax(-1))
    return torch.where(likeliest[:, 0].isnan(), UNGENERATED, token)


def row_noise(seed: Tensor, number: Tensor, streams: int, width: int) -> Tensor:
    """Exp(1) noise [B, streams, width] float32 for step `number` [B] int64 of rows with `seed` [B] int64, 0 to SEEDS.

    A stream's i-th noise depends on the row's seed, the number, the stream and i alone: it is made from word i mod 4 of
    the block with the counter (i div 4, stream, number's low word, its high word), under the seed as key.
    """
    device, blocks = seed.device, -(-width // 4)
    shape = len(seed), streams, blocks
    counter = (
        torch.arange(blocks, device=device).expand(shape),
        torch.arange(streams, device=device)[:, None].expand(shape),
        (number & WORD)[:, None, None].expand(shape),
        (number >> 32)[:, None, None].expand(shape),
    )
    words = torch.stack(philox(counter, (seed & WORD, seed >> 32)), -1).flatten(-2)[..., :width]
    # In (0, 1): 24 bits next to 1, and ever finer towards 0, where the races are won.
    uniform = ((words.float() + 0.5) * 2.0**-32).clamp_max(1 - 2.0**-24)
    return -torch.log1p(-uniform)


Words = tuple[Tensor, Tensor, Tensor, Tensor]


def philox(counter: Words, key: tuple[Tensor, Tensor]) -> Words:
    """Philox 4x32-10: four words [B, ...] of a counter and two [B] of a key, int64 each -> four random words [B, ...].

    A product of two words takes 64 bits; its high word is right though int64 wraps.
    """
    first = torch.arange(2, device=key[0].device) == 0
    dims = (2, *[1] * counter[0].dim())
    multiplier = torch.where(first, *MULTIPLIERS).view(dims)
    rounds = torch.arange(ROUNDS, device=key[0].device)[:, None, None]
    keys = (torch.stack(key) + rounds * torch.where(first, *WEYL)[:, None]) & WORD  # [ROUNDS, 2, B]
    factors, others = torch.stack((counter[0], counter[2])), torch.stack((counter[3], counter[1]))
    for round_key in keys.view(ROUNDS, 2, -1, *dims[2:]):
        product = factors * multiplier
        factors = (((product >> 32) & WORD) ^ others).flip(0) ^ round_key
        others = product & WORD
    return factors[0], others[1], factors[1], others[0]
