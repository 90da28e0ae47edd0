"""What the language model's temporal layers are asked while it learns, by heads that are thrown away in the end."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.pocket.recipe.batches import Batch
from engine.pocket.recipe.corpus import IGNORED, Labels
from engine.pocket.recipe.training import generator_of

TOLD_FRAMES, TOLD_WEIGHT = 12, 0.3
"""Frames of each call that are asked what is known, and the weight of each kind's answer in the loss."""


class Heads(nn.Module):
    """What was asked, and which words, at its end; which word was just heard; at any time what is known.

    Thrown away in the end.
    """

    def __init__(self, dim: int, labels: Labels, told: Sequence[int]) -> None:
        """`told`: how many labels there are of each kind."""
        super().__init__()
        self.told = nn.ModuleList(nn.Linear(dim, size) for size in told)
        self.intent = nn.Linear(dim, max(1, len(labels.intents)))
        self.words = nn.Linear(dim, max(1, len(labels.words)))
        self.heard = nn.Linear(dim, max(1, len(labels.words)))

    @torch.no_grad()
    def take(self, saved: dict[str, Tensor], before: Labels, now: Labels) -> None:
        """What was learnt of the labels that were there before."""
        for name, weight in self.named_parameters():
            if name.startswith("told"):  # what personas tell stays the same; a file may be older than these heads
                weight.copy_(saved.get(name, weight))
                continue
            old, new = (each.intents if name.startswith("intent") else each.words for each in (before, now))
            places = {label: place for place, label in enumerate(old)}
            for place, label in enumerate(new):
                if label in places:
                    weight[place] = saved[name][places[label]]

    def asked_loss(self, hidden: Tensor, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """What was asked, twice: with the question's last frame and with the next. Each word heard, a frame later."""
        loss, figures = hidden.new_zeros(()), {}
        last = hidden.shape[1] - 1
        if len(batch.asked):
            row, frame, intent = batch.asked.T
            # Column i + 1 holds frame i's first code, column i + 2 all of it.
            states = torch.cat([hidden[row, (frame + later).clamp_max(last)] for later in (1, 2)])
            logits, twice = self.intent(states), intent.repeat(2)
            if (intent != IGNORED).any():
                loss = loss + F.cross_entropy(logits, twice, ignore_index=IGNORED)
                figures["intent"] = share(logits.argmax(1) == twice, twice != IGNORED)
            loss = loss + 10 * F.binary_cross_entropy_with_logits(self.words(states), batch.words.repeat(2, 1))
        if len(batch.heard):
            row, frame, word = batch.heard.T
            logits = self.heard(hidden[row, (frame + 2).clamp_max(last)])
            loss = loss + 0.5 * F.cross_entropy(logits, word)
            figures["word"] = (logits.argmax(1) == word).float().mean().item()
        return loss, figures

    def told_loss(self, hidden: Tensor, batch: Batch, random: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        """What is known, asked at TOLD_FRAMES frames of each call, wherever they are."""
        loss = hidden.new_zeros(())
        if not batch.told.numel() or not (batch.told != IGNORED).any():
            return loss, {}
        asked = (batch.told != IGNORED).any(2) & batch.live
        drawn = torch.rand(asked.shape, generator=generator_of(random)).to(hidden.device) * asked
        frames = drawn.topk(min(TOLD_FRAMES, drawn.shape[1])).indices
        rows = torch.arange(len(frames), device=hidden.device)[:, None]
        states, known = hidden[rows, frames].flatten(0, 1), batch.told[rows, frames].flatten(0, 1)
        right = told = 0
        for head, labels in zip(self.told, known.T, strict=True):
            if (labels != IGNORED).any():
                logits = head(states)
                loss = loss + TOLD_WEIGHT * F.cross_entropy(logits, labels, ignore_index=IGNORED)
                right += int(((logits.argmax(1) == labels) & (labels > 0)).sum())
                told += int((labels > 0).sum())
        return loss, {"told": right / max(1, told)}


def share(right: Tensor, counted: Tensor) -> float:
    return float((right & counted).sum() / counted.sum().clamp_min(1))
