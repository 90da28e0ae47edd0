"""The encoder learns on while the codebooks, and all that lies behind them, stay as they are.

Clips keep their codes and the decoder its voice, so nothing but callers has to be encoded anew. It reads phones four
times, from the first codebook, from all of them, from before them, and from all of them with some that come before and
behind, as a language model does; and the spectrum, so that it does not forget what is no phone. What the codebooks are
given is held near what they were given when the training began: what reads the codes goes on from what it knows.

The first half of the convolutions stays as it is: its gradients would take most of the time. A card waits for windows,
not the other way round: other processes make them ahead.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
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

WEIGHTS = {"first": 0.5, "all": 0.5, "free": 0.4, "near": 1.0}
"""Of the four losses over phones."""

MEL_WEIGHT, COMMIT_WEIGHT = 0.15, 0.15

ANCHOR_WEIGHT = 0.6
"""Of how far what the codebooks are given has moved, as a share of its own size."""

HELD_LAYERS = 7
"""Of the convolutions' list, from the sound on: up to a rate of 1,200 a second."""


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


class Reader(nn.Module):
    """Phones out of codes and REACH * DEPTH frames on both sides, [B, C, n] -> [B, n * SUBFRAMES, phones]."""

    DEPTH, REACH = 5, 2

    def __init__(self, dimension: int, width: int = 192) -> None:
        super().__init__()
        self.inner = nn.Conv1d(dimension, width, 1)
        self.layers = nn.ModuleList(
            nn.Conv1d(width, 2 * width, 2 * self.REACH + 1, padding=self.REACH) for _ in range(self.DEPTH)
        )
        self.norms = nn.ModuleList(nn.GroupNorm(1, width) for _ in range(self.DEPTH))
        self.out = nn.Linear(width, SUBFRAMES * len(PHONES))

    def forward(self, latent: Tensor) -> Tensor:
        x: Tensor = self.inner(latent)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = x + F.glu(layer(norm(x)), 1)
        return read(self.out, x)


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
        self.near = Reader(mimi.config.seanet.dimension).to(self.device)
        self.once = OfflineCodec(deepcopy(mimi).requires_grad_(False))
        self._steps, self._workers = _Steps(sounds, plan, rows), workers
        self._ahead: Iterator[tuple[Tensor, Tensor, Tensor]] | None = None
        mimi.requires_grad_(False)

    def _head(self, mimi: Mimi) -> nn.Linear:
        """What reads phones before anything is quantised."""
        return nn.Linear(mimi.config.seanet.dimension, SUBFRAMES * len(PHONES)).to(self.device)

    def weights(self) -> list[nn.Parameter]:
        readers = (self.heads, self.before, self.near)
        return [*tuned_weights(self.mimi), *(weight for part in readers for weight in part.parameters())]

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
            "near": self.near.state_dict(),
        }

    def restore(self, saved: dict[str, Any]) -> None:
        if "near" not in saved:
            raise ValueError("the checkpoint is of an older version of this training; delete it, and begin anew")
        with torch.no_grad():  # the rest is as the codec's folder has it: a decoder may have learnt on since
            for weight, learnt in zip(tuned_weights(self.mimi), saved["tuned"], strict=True):
                weight.copy_(learnt)
        self.heads.load_state_dict(saved["heads"])
        self.before.load_state_dict(saved["before"])
        self.near.load_state_dict(saved["near"])

    def _latent(self, codec: OfflineCodec, windows: Windows) -> Tensor:
        fast = fast_type(self.device)
        with torch.autocast(self.device.type, dtype=fast, enabled=fast is not None):
            latent = codec.latent(windows.heard.to(self.device)[:, None])
        return latent.float()

    def _moved(self, latent: Tensor, windows: Windows) -> Tensor:
        """How far what the codebooks are given is from what it was, in mean squares of that."""
        with torch.no_grad():
            before = given_to(self.once.mimi, self._latent(self.once, windows))
        now = given_to(self.mimi, latent)
        return torch.stack(
            [F.mse_loss(new, old) / old.square().mean() for new, old in zip(now, before, strict=True)]
        ).sum()

    def _measure(self, windows: Windows) -> tuple[Tensor, dict[str, float]]:
        latent = self._latent(self.offline, windows)
        quantised = quantise(self.mimi.quantizer, latent)
        labels = windows.phones.to(self.device).flatten()
        moved = self._moved(latent, windows)
        loss = COMMIT_WEIGHT * quantised.commit + ANCHOR_WEIGHT * moved
        figures = {"commit": quantised.commit.item(), "moved": moved.item()}
        for name, read_out in {
            "first": read(self.heads.semantic, quantised.semantic),
            "all": read(self.heads.phones, quantised.latent),
            "free": read(self.before, torch.stack(projected(self.mimi.quantizer, latent)).sum(0)),
            "near": self.near(quantised.latent),
        }.items():
            logits = read_out.flatten(0, 1)
            loss = loss + WEIGHTS[name] * F.cross_entropy(logits, labels, ignore_index=UNKNOWN)
            figures[name] = accuracy(logits, labels)
        target = self.log_mel(windows.clean.to(self.device))
        mel = (read(self.heads.mel, quantised.latent) - target).abs().mean()
        figures["mel"] = mel.item()
        return loss + MEL_WEIGHT * mel, figures


def tuned_weights(mimi: Mimi) -> list[nn.Parameter]:
    """The second half of the encoder, its transformer, downsampling, and the projections onto the codebooks."""
    branches = mimi.quantizer.rvq_first.input_proj, mimi.quantizer.rvq_rest.input_proj
    parts = (mimi.encoder.model[HELD_LAYERS:], mimi.encoder_transformer, mimi.downsample, *branches)
    return [weight for part in parts for weight in part.parameters()]


def given_to(mimi: Mimi, latent: Tensor) -> tuple[Tensor, Tensor]:
    """What the first codebook is given, and the others, [B, dimension, n] each."""
    first, rest = (branch.input_proj(latent) for branch in (mimi.quantizer.rvq_first, mimi.quantizer.rvq_rest))
    return first, rest
