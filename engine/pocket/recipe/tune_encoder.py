"""The encoder learns on while the codebooks, and all that lies behind them, stay as they are.

Clips keep their codes and the decoder its voice, so nothing but callers has to be encoded anew. It reads phones three
times, from the first codebook, from all of them and from before them, and the spectrum so that it does not forget what
is no phone. A card waits for windows, not the other way round: other processes make them ahead.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from engine.model.mimi import Mimi
from engine.pocket.recipe.export_codec import round_encoder
from engine.pocket.recipe.learn_quantizer import projected, quantise
from engine.pocket.recipe.offline_codec import OfflineCodec
from engine.pocket.recipe.phones import PHONES
from engine.pocket.recipe.sounds import UNKNOWN, Sounds, Windows
from engine.pocket.recipe.spectra import SUBFRAMES, LogMel
from engine.pocket.recipe.train_encoder import LONG, LONG_SHARE, SHORT, Heads, accuracy, read
from engine.pocket.recipe.training import Plan, fast_type

READ_AHEAD = 4
"""Steps that each process makes windows for before they are asked for."""

WEIGHTS = {"first": 1.0, "all": 1.0, "free": 0.4}
"""Of the three losses over phones."""

MEL_WEIGHT, COMMIT_WEIGHT = 0.15, 0.15


class _Steps(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """What each step hears: the same for its number, whoever makes it."""

    def __init__(self, sounds: Sounds, plan: Plan, rows: int) -> None:
        self._sounds, self._plan, self._rows = sounds, plan, rows

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        random = self._plan.random(step)
        long = random.random() < LONG_SHARE
        rows, frames = (-(-self._rows * SHORT // LONG), LONG) if long else (self._rows, SHORT)
        windows = self._sounds.callers(random, rows, frames)
        return windows.heard, windows.clean, windows.phones


class TuneTask:
    """`rows` short windows a step, made by `workers` other processes, or by this one. The first HEADS_FIRST steps move
    the heads alone: what they ask for before they know anything would undo what the encoder knows."""

    HEADS_FIRST, HELD_EVERY = 100, 100

    def __init__(
        self, mimi: Mimi, sounds: Sounds, held: Windows | None, plan: Plan, rows: int = 256, workers: int = 0
    ) -> None:
        self.mimi, self.held, self.plan = mimi, held, plan
        self.device = next(mimi.parameters()).device
        self.log_mel, self.offline = LogMel(self.device), OfflineCodec(mimi)
        torch.manual_seed(plan.seed)
        self.heads, self.before = Heads(mimi.config.seanet.dimension).to(self.device), self._head(mimi)
        self._steps, self._workers = _Steps(sounds, plan, rows), workers
        self._ahead: Iterator[tuple[Tensor, Tensor, Tensor]] | None = None
        mimi.requires_grad_(False)

    def _head(self, mimi: Mimi) -> nn.Linear:
        """What reads phones before anything is quantised."""
        return nn.Linear(mimi.config.seanet.dimension, SUBFRAMES * len(PHONES)).to(self.device)

    def weights(self) -> list[nn.Parameter]:
        return [*tuned_weights(self.mimi), *self.heads.parameters(), *self.before.parameters()]

    def loss(self, step: int, random: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        if self._ahead is None:
            left = range(step, self.plan.steps)
            prefetch = READ_AHEAD if self._workers else None
            self._ahead = iter(
                DataLoader(self._steps, None, sampler=left, num_workers=self._workers, prefetch_factor=prefetch)
            )
        for weight in tuned_weights(self.mimi):
            weight.requires_grad_(step >= self.HEADS_FIRST)
        windows = Windows(*next(self._ahead))
        loss, figures = self._measure(windows)
        if self.held and step % self.HELD_EVERY == 0:
            with torch.no_grad():
                _, held = self._measure(self.held)
            figures |= {f"held_{name}": held[name] for name in WEIGHTS}
        return loss, figures

    def moved(self, step: int) -> None:
        """The centroids do not follow."""

    def finish(self) -> None:
        """Round the encoder to what its file holds."""
        round_encoder(self.mimi)

    def save(self) -> dict[str, Any]:
        return {
            "tuned": [weight.detach() for weight in tuned_weights(self.mimi)],
            "heads": self.heads.state_dict(),
            "before": self.before.state_dict(),
        }

    def restore(self, saved: dict[str, Any]) -> None:
        if "tuned" not in saved:
            raise ValueError("the checkpoint is of an older version of this training; delete it, and begin anew")
        with torch.no_grad():  # the rest is as the codec's folder has it: a decoder may have learnt on since
            for weight, learnt in zip(tuned_weights(self.mimi), saved["tuned"], strict=True):
                weight.copy_(learnt)
        self.heads.load_state_dict(saved["heads"])
        self.before.load_state_dict(saved["before"])

    def _latent(self, windows: Windows) -> Tensor:
        fast = fast_type(self.device)
        with torch.autocast(self.device.type, dtype=fast, enabled=fast is not None):
            latent = self.offline.latent(windows.heard.to(self.device)[:, None])
        return latent.float()

    def _measure(self, windows: Windows) -> tuple[Tensor, dict[str, float]]:
        latent = self._latent(windows)
        quantised = quantise(self.mimi.quantizer, latent)
        labels = windows.phones.to(self.device).flatten()
        given = {
            "first": (self.heads.semantic, quantised.semantic),
            "all": (self.heads.phones, quantised.latent),
            "free": (self.before, torch.stack(projected(self.mimi.quantizer, latent)).sum(0)),
        }
        loss, figures = COMMIT_WEIGHT * quantised.commit, {"commit": quantised.commit.item()}
        for name, (head, codes) in given.items():
            logits = read(head, codes).flatten(0, 1)
            loss = loss + WEIGHTS[name] * F.cross_entropy(logits, labels, ignore_index=UNKNOWN)
            figures[name] = accuracy(logits, labels)
        target = self.log_mel(windows.clean.to(self.device))
        mel = (read(self.heads.mel, quantised.latent) - target).abs().mean()
        figures["mel"] = mel.item()
        return loss + MEL_WEIGHT * mel, figures


def tuned_weights(mimi: Mimi) -> list[nn.Parameter]:
    """Encoder, its transformer, downsampling, and the projections onto the codebooks."""
    branches = mimi.quantizer.rvq_first.input_proj, mimi.quantizer.rvq_rest.input_proj
    parts = (mimi.encoder, mimi.encoder_transformer, mimi.downsample, *branches)
    return [weight for part in parts for weight in part.parameters()]
