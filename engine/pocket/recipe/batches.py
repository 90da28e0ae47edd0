"""Examples side by side, as the language model reads them, and what is asked of each frame; hearing may be spoilt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.model.mimi import Mimi
from engine.model.moshi_config import ZERO, MoshiConfig
from engine.model.text import EPAD, PAD
from engine.pocket.recipe import offline_lm
from engine.pocket.recipe.corpus import IGNORED, Example, Labels
from engine.pocket.recipe.init_lm import centroids

STOP_WEIGHT = 1.0
"""Of the PAD with which an interrupted agent stops, or one that listens says no second "mm-hm". With the weight of any
other PAD it went on even where stopping was three times as likely."""

PAD_WEIGHT, EPAD_WEIGHT, OPENING_WEIGHT, START_WEIGHT, LATE_WEIGHT = 0.3, 0.6, 4.0, 0.7, 0.7
"""Of a text token in the loss; any other is 1. The opening word of an answer is the whole decision, and the EPAD before
it that to speak at all. Drawn greedily, the agent speaks as soon as that is likelier than PAD by the ratio of their
weights: with 2 for it, one chance in eight was enough, and it spoke into every pause and noise; with 0.5, three in
eight, it left one question in twenty unanswered. An opening whose EPAD was missed is such a decision, too."""

CODE_NOISE = 0.02
"""Of the caller's codes, replaced at random: no telephone line is as clean as the data."""

NEAR_SHARE, NEAR = 0.15, 8
"""Of the caller's codes, replaced by one of so many that sound most alike: another voice says the same in those."""

DEAF_SHARE, DEAF_SPANS = 0.1, 0.02
"""Windows that hear the caller's first codebook only; starts of spans of two frames in which nothing is heard."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Columns [B, 1 + L, K] as they are read, the caller's side spoilt; what is asked of each frame [B, L]."""

    columns: Tensor
    weight: Tensor  # [B, L] float32, of the text token; 0 in the prompt and the padding
    opening: Tensor  # [B, L] bool
    live: Tensor  # [B, L] bool: frames of the call
    edges: Tensor  # [B, L] bool
    asked: Tensor  # [N, 3] row, frame, intent
    words: Tensor  # [N, words] float32: which the question has
    heard: Tensor  # [M, 3] row, frame, word
    prompts: Tensor  # [B] frames of the prompt
    told: Tensor  # [B, L, kinds] what is known by then, IGNORED where nothing is asked of it


def assemble(
    examples: Sequence[Example],
    config: MoshiConfig,
    labels: Labels,
    random: np.random.Generator | None,
    device: torch.device,
    near: NDArray[np.int64] | None = None,
) -> Batch:
    """Examples side by side, the shorter ones followed by silence that nothing is asked of; `random` spoils hearing."""
    length = max(len(example) for example in examples)
    frames = np.full((len(examples), length, config.streams), PAD, np.int64)
    flags = np.zeros((4, len(examples), length), np.bool_)
    words = np.zeros((sum(len(example.asked) for example in examples), len(labels.words)), np.float32)
    asked: list[tuple[int, int, int]] = []
    heard: list[tuple[int, int, int]] = []
    kinds = max((len(known) for example in examples for _, known in example.told), default=0)
    told = np.full((len(examples), length, kinds), IGNORED, np.int64)
    for row, example in enumerate(examples):
        size = len(example)
        frames[row, :size] = example.frames if random is None else spoil(example, config, random, near)
        flags[0, row, :size], flags[1, row, :size] = example.opening, example.edges
        flags[2, row, example.prompt : size] = True
        flags[1:, row, list(example.unasked)] = False
        flags[3, row, list(example.stopped)] = True
        for frame, intent, spoken in example.asked:
            words[len(asked), list(spoken)] = 1
            asked.append((row, frame, intent))
        heard += [(row, frame, word) for frame, word in example.heard]
        for frame, known in example.told:
            told[row, frame:size] = known
    opening, edges, live, stopped = (torch.from_numpy(flag).to(device) for flag in flags)
    columns = offline_lm.lay_out(config, torch.from_numpy(frames).to(device))
    return Batch(
        columns,
        _text_weight(columns[:, 1:, 0], opening, live, stopped),
        opening,
        live,
        edges,
        torch.tensor(asked, dtype=torch.int64, device=device).view(-1, 3),
        torch.from_numpy(words).to(device),
        torch.tensor(heard, dtype=torch.int64, device=device).view(-1, 3),
        torch.tensor([example.prompt for example in examples], device=device),
        torch.from_numpy(told).to(device),
    )


def apart(batch: Batch, most: int, random: np.random.Generator) -> Tensor:
    """Positions [B, L] of the columns that are read, as if up to `most` others lay between a prompt and its call.

    What a prompt told is asked for a window later, too, and a call of that length would cost as much as ten short ones.
    """
    rows, length = batch.columns.shape[0], batch.columns.shape[1] - 1
    gaps = torch.from_numpy(random.integers(0, most + 1, rows)).to(batch.columns.device)
    places = torch.arange(length, device=batch.columns.device)
    return places + gaps[:, None] * (places > batch.prompts[:, None])


def neighbours(mimi: Mimi) -> NDArray[np.int64]:
    """Of each codebook's each code the NEAR that lie next to it [codebooks, bins, NEAR]."""
    distances = torch.stack([torch.cdist(book, book) for book in centroids(mimi)])
    distances.diagonal(dim1=1, dim2=2).fill_(torch.inf)
    return distances.topk(NEAR, largest=False).indices.numpy()


def spoil(
    example: Example, config: MoshiConfig, random: np.random.Generator, near: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """The frames with the caller's codes as a bad line, or another voice, might give them; the prompt's stay."""
    frames = example.frames.copy()
    spoil_codes(frames[example.prompt :, config.made :], config, random, near)
    return frames


def spoil_codes(
    codes: NDArray[np.int64], config: MoshiConfig, random: np.random.Generator, near: NDArray[np.int64] | None = None
) -> None:
    """Codes [T, codebooks] in place, as a bad line, or another voice, might give them; `near`: their `neighbours`."""
    if near is not None:
        others = near[np.arange(codes.shape[1]), codes.clip(0), random.integers(0, NEAR, codes.shape)]
        codes[...] = np.where((random.random(codes.shape) < NEAR_SHARE) & (codes >= 0), others, codes)
    codes[...] = np.where(random.random(codes.shape) < CODE_NOISE, random.integers(0, config.card, codes.shape), codes)
    if random.random() < DEAF_SHARE:
        codes[:, 1:] = ZERO
    for start in np.flatnonzero(random.random(len(codes)) < DEAF_SPANS):
        codes[start : start + 2] = ZERO


def _text_weight(tokens: Tensor, opening: Tensor, live: Tensor, stopped: Tensor) -> Tensor:
    weight = torch.where(tokens == PAD, PAD_WEIGHT, torch.where(tokens == EPAD, EPAD_WEIGHT, 1.0))
    weight[stopped & (tokens == PAD)] = STOP_WEIGHT
    weight[:, :-1][opening[:, 1:] & (tokens[:, :-1] == EPAD)] = START_WEIGHT
    return torch.where(opening, OPENING_WEIGHT, weight) * live
