"""The codec's first half: encoder and quantiser learn to hear phones, through a telephone, from anyone.

No decoder takes part (a joint training starves the phones). Heads that are thrown away read the phones from the first
codebook and from all of them, and the spectrum of the clean voice from all. Labels lie 40 ms behind the sound, so the
causal encoder has heard a little of what follows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.model.mimi import Mimi
from engine.pocket.recipe.export_codec import round_encoder
from engine.pocket.recipe.init_codec import level_encoder
from engine.pocket.recipe.learn_quantizer import average, cluster, projected, quantise
from engine.pocket.recipe.offline_codec import OfflineCodec
from engine.pocket.recipe.phones import PAUSE, PHONES
from engine.pocket.recipe.sounds import UNKNOWN, Sounds, Windows
from engine.pocket.recipe.spectra import MELS, SUBFRAMES, LogMel
from engine.pocket.recipe.training import fast_type

SHORT, LONG = 24, 96
"""Frames of a window; a batch of long ones has as much sound, and teaches attention to look past two seconds."""

LONG_SHARE = 0.25


class Heads(nn.Module):
    """What reads the codes while they are learnt. Linear, as an embedding table is."""

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.semantic = nn.Linear(dimension, SUBFRAMES * len(PHONES))
        self.phones = nn.Linear(dimension, SUBFRAMES * len(PHONES))
        self.mel = nn.Linear(dimension, SUBFRAMES * MELS)


def read(head: nn.Linear, latent: Tensor) -> Tensor:
    """[B, C, n] -> [B, T, outputs of one 20 ms]."""
    out: Tensor = head(latent.transpose(1, 2))
    return out.view(len(out), -1, head.out_features // SUBFRAMES)


class EncoderTask:
    """Phase A. `free_steps` without quantisation, then k-means, then moving averages.

    Eight rows at a time: twice as many no longer fit a CPU's cache, and a second of sound then takes 1.6 times as long.
    """

    CLUSTER_BATCHES, CLUSTER_ROUNDS, DECAY = 32, 12, 0.99
    HELD_EVERY = 100

    def __init__(
        self,
        mimi: Mimi,
        sounds: Sounds,
        held: Windows | None,
        *,
        seed: int,
        rows: int = 8,
        free_steps: int = 200,
    ) -> None:
        """`held`: windows of voices that are not trained on, for the log. Initial weights are levelled here."""
        self.mimi, self.sounds, self.held = mimi, sounds, held
        self.rows, self.free_steps, self.seed, self.clustered = rows, free_steps, seed, False
        self.device = next(mimi.parameters()).device
        self.log_mel, self.offline = LogMel(self.device), OfflineCodec(mimi)
        torch.manual_seed(seed)
        self.heads = Heads(mimi.config.seanet.dimension).to(self.device)
        level_encoder(mimi, self._audio(self.sounds.batch(np.random.default_rng(seed), rows, SHORT)))

    def weights(self) -> list[nn.Parameter]:
        return [*encoder_weights(self.mimi), *self.heads.parameters()]

    def loss(self, step: int, random: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        if step >= self.free_steps and not self.clustered:
            self._cluster()
        long = random.random() < LONG_SHARE
        windows = self.sounds.batch(
            random, -(-self.rows * SHORT // LONG) if long else self.rows, LONG if long else SHORT
        )
        latent = self._latent(self._audio(windows))
        semantic, all_codes, commit = self._coded(latent)
        figures = {"commit": commit.item()}
        loss = 0.1 * commit
        for name, head, given, weight in (
            ("first", self.heads.semantic, semantic, 1.0),
            ("all", self.heads.phones, all_codes, 0.5),
        ):
            logits, labels = read(head, given).flatten(0, 1), windows.phones.to(self.device).flatten()
            if (labels != UNKNOWN).any():
                loss = loss + weight * F.cross_entropy(logits, labels, ignore_index=UNKNOWN)
                figures[name] = accuracy(logits, labels)
        mel = (read(self.heads.mel, all_codes) - self.log_mel(windows.clean.to(self.device))).abs().mean()
        figures["mel"] = mel.item()
        if self.held and step % self.HELD_EVERY == 0:
            figures |= self.hold(self.held)
        return loss + 0.3 * mel, figures

    @torch.no_grad()
    def hold(self, windows: Windows) -> dict[str, float]:
        """Phones read right in windows of voices that were not trained on."""
        semantic, all_codes, _ = self._coded(self._latent(self._audio(windows)), learn=False)
        labels = windows.phones.to(self.device).flatten()
        return {
            "held_first": accuracy(read(self.heads.semantic, semantic).flatten(0, 1), labels),
            "held_all": accuracy(read(self.heads.phones, all_codes).flatten(0, 1), labels),
        }

    def moved(self, step: int) -> None:
        """The centroids follow what chose them in this step."""
        if self.clustered:
            codes, left = self._chosen
            average(self.mimi.quantizer, codes, left, self.DECAY, self._generator(step))

    def finish(self, batches: int = 100) -> None:
        """Make the tokens final: round the encoder to what its file holds, and let the centroids settle on that."""
        round_encoder(self.mimi)
        for index in range(batches):
            windows = self.sounds.batch(np.random.default_rng((self.seed, 1, index)), self.rows, SHORT)
            with torch.no_grad():
                quantised = quantise(self.mimi.quantizer, self._latent(self._audio(windows), exact=True))
            average(self.mimi.quantizer, quantised.codes, quantised.left, 0.98, self._generator(-1 - index))

    def save(self) -> dict[str, Any]:
        return {"mimi": self.mimi.state_dict(), "heads": self.heads.state_dict(), "clustered": self.clustered}

    def restore(self, saved: dict[str, Any]) -> None:
        self.mimi.load_state_dict(saved["mimi"])
        self.heads.load_state_dict(saved["heads"])
        self.clustered = saved["clustered"]

    def _audio(self, windows: Windows) -> Tensor:  # [B, 1, S]
        return windows.heard.to(self.device)[:, None]

    def _latent(self, audio: Tensor, exact: bool = False) -> Tensor:
        fast = None if exact else fast_type(self.device)
        with torch.autocast(self.device.type, dtype=fast, enabled=fast is not None):
            latent = self.offline.latent(audio)
        return latent.float()

    def _coded(self, latent: Tensor, learn: bool = True) -> tuple[Tensor, Tensor, Tensor]:
        """What the first codebook gives, what all do [B, C, n], and how far off they are."""
        if not self.clustered:
            first, rest = projected(self.mimi.quantizer, latent)
            return first, first + rest, latent.new_zeros(())
        quantised = quantise(self.mimi.quantizer, latent)
        if learn:
            self._chosen = quantised.codes, quantised.left
        return quantised.semantic, quantised.latent, quantised.commit

    def _cluster(self) -> None:
        batches = (
            self.sounds.batch(np.random.default_rng((self.seed, 2, index)), self.rows, SHORT)
            for index in range(self.CLUSTER_BATCHES)
        )
        with torch.no_grad():
            latent = torch.cat([self._latent(self._audio(windows)) for windows in batches])
            cluster(self.mimi.quantizer, latent, self.CLUSTER_ROUNDS, self._generator(0))
        self.clustered = True

    def _generator(self, step: int) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed * 1_000_003 + step)


def encoder_weights(mimi: Mimi) -> list[nn.Parameter]:
    """Encoder, its transformer, downsampling, and the quantiser's projections."""
    parts = (mimi.encoder, mimi.encoder_transformer, mimi.downsample, mimi.quantizer)
    return [weight for part in parts for weight in part.parameters()]


@torch.no_grad()
def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Share of the phones, pauses left out, that are read right."""
    speech = (labels != UNKNOWN) & (labels != PHONES.index(PAUSE))
    right = (logits.argmax(1) == labels)[speech]
    return right.float().mean().item() if len(right) else 0.0
