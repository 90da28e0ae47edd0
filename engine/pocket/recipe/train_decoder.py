"""The codec's second half: the decoder learns to say the agent's clips, and nothing else.

The clips' pitch periods are locked to the frame grid, so that codes and position in the frame decide the wave and a
loss on waves can be met (no discriminator, no GPU). Encoder and quantiser stay as they are: the tokens are final. Where
weights have other codes for some clips (`recover`), it learns those.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from engine.model.mimi import Mimi
from engine.pocket.recipe.encode import Voice
from engine.pocket.recipe.formats import Audio
from engine.pocket.recipe.init_codec import level_decoder
from engine.pocket.recipe.offline_codec import OfflineCodec
from engine.pocket.recipe.spectra import WaveLoss, snr_db
from engine.pocket.recipe.training import Average, Plan, fast_type
from engine.slot import FRAME_SAMPLES

ROWS, FRAMES = 2, 30
"""Of a step. Few rows stay within a CPU's cache, and it is the number of steps that a clip is learnt by."""

LONG_ROWS, LONG_FRAMES = 1, 130
"""More than ten seconds, the attention's whole window, for the last LONG_SHARE of the steps."""

LONG_SHARE = 0.15

DEAF_FRAMES = 3
"""At a window's start, without loss: what came before them is unknown here."""

GAP_FRAMES = (2, 8)
JOINED_SHARE = 0.15
"""Clips that follow each other at once, as the parts of one answer do."""

CUT_SHARE = 0.2
"""Clips that a barge-in ends: from a random frame on the codes are silence, and the sound fades within that frame."""

SOFT = 0.2
"""Of the clips' loudness: where an untrained decoder begins."""

SLIP_SHARE = 0.005
"""Of the codes, replaced at random: the language model will not always choose the right one."""


class Script:
    """All clips end to end as codes [N + 1, codebooks] and samples [N + 1, 1920]; the last frame is silence."""

    def __init__(self, voice: Voice, clips: Sequence[Audio]) -> None:
        coded = voice.clips()
        self.codes = np.concatenate([*coded, np.array(voice.layout.silence)[None]])
        self.samples = np.concatenate([*clips, np.zeros(FRAME_SAMPLES, np.float32)]).reshape(-1, FRAME_SAMPLES)
        self.lengths = np.array([len(codes) for codes in coded])
        self.starts = np.cumsum(self.lengths) - self.lengths

    @property
    def silence(self) -> int:
        """Index of the silent frame."""
        return len(self.codes) - 1

    def row(self, random: np.random.Generator, frames: int) -> tuple[NDArray[np.int64], Audio]:
        """A stretch of a call: codes [frames, codebooks], and what they shall sound like [frames * 1920]."""
        index = np.full(frames, self.silence)
        fade = np.full(frames, self.silence)  # what fades out in the frame, beside what the codes say
        odds = self.lengths / self.lengths.sum()
        at: int | None = None
        while at is None or at < frames:
            clip = random.choice(len(odds), p=odds)
            start, length = int(self.starts[clip]), int(self.lengths[clip])
            if at is None:
                at = int(random.integers(-length, GAP_FRAMES[1]))
            cut = length > 1 and random.random() < CUT_SHARE
            said = int(random.integers(1, length)) if cut else length
            for frame in range(max(0, at), min(frames, at + said)):
                index[frame] = start + frame - at
            if cut and 0 <= at + said < frames:
                fade[at + said] = start + said
            joined = not cut and random.random() < JOINED_SHARE
            at += said + (0 if joined else int(random.integers(GAP_FRAMES[0], GAP_FRAMES[1] + 1)))
        falling = np.linspace(1, 0, FRAME_SAMPLES, dtype=np.float32)
        return self.codes[index], (self.samples[index] + self.samples[fade] * falling).reshape(-1)


class DecoderTask:
    """Phase D. Initial weights of the decoder are drawn and levelled by whoever makes it (`level`)."""

    def __init__(self, mimi: Mimi, script: Script, plan: Plan, decay: float = 0.998) -> None:
        self.mimi, self.script, self.plan = mimi, script, plan
        self.device = next(mimi.parameters()).device
        self.offline = OfflineCodec(mimi)
        self.parts = nn.ModuleDict(
            {"upsample": mimi.upsample, "decoder_transformer": mimi.decoder_transformer, "decoder": mimi.decoder}
        )
        self.average = Average(self.parts, decay)
        self.measure = WaveLoss(torch.from_numpy(script.samples.reshape(-1)).to(self.device))

    def level(self) -> None:
        """A decoder that has not been trained yet: every layer at unit size on a batch, the sound soft.

        What is as loud as the clips, but wrong, would first have to be unlearnt. The average starts anew from there.
        """
        codes, target = self._batch(np.random.default_rng(self.plan.seed), 2 * ROWS, FRAMES)
        level_decoder(self.mimi, self.mimi.quantizer.decode(codes), SOFT * target.square().mean().sqrt().item())
        self.average = Average(self.parts, self.average.decay)

    def weights(self) -> list[nn.Parameter]:
        return list(self.parts.parameters())

    def loss(self, step: int, random: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        long = step >= (1 - LONG_SHARE) * self.plan.steps
        codes, target = self._batch(random, *((LONG_ROWS, LONG_FRAMES) if long else (ROWS, FRAMES)))
        made = self._said(codes)[:, DEAF_FRAMES * FRAME_SAMPLES :]
        target = target[:, DEAF_FRAMES * FRAME_SAMPLES :]
        loss, figures = self.measure(made, target)
        return loss, {**figures, "snr_db": snr_db(made.detach(), target)}

    def moved(self, step: int) -> None:
        self.average.update(self.parts)

    def save(self) -> dict[str, Any]:
        return {"parts": self.parts.state_dict(), "average": self.average.values, "averaged": self.average.steps}

    def restore(self, saved: dict[str, Any]) -> None:
        self.parts.load_state_dict(saved["parts"])
        self.average.steps = saved["averaged"]
        self.average.values = {name: value.to(self.device) for name, value in saved["average"].items()}

    def averaged(self) -> dict[str, Tensor]:
        """The averaged weights under the codec's names, for `Mimi.load_state_dict(..., strict=False)`."""
        return {name: value.clone() for name, value in self.average.values.items()}

    def _batch(self, random: np.random.Generator, rows: int, frames: int) -> tuple[Tensor, Tensor]:
        """Codes [B, codebooks, frames], some of them wrong, and samples [B, S]."""
        drawn = [self.script.row(random, frames) for _ in range(rows)]
        codes = np.stack([codes for codes, _ in drawn]).transpose(0, 2, 1)
        slips = random.random(codes.shape) < SLIP_SHARE
        codes = np.where(slips, random.integers(0, self.mimi.config.quantizer.bins, codes.shape), codes)
        target = np.stack([samples for _, samples in drawn])
        return torch.from_numpy(codes).to(self.device), torch.from_numpy(target).to(self.device)

    def _said(self, codes: Tensor) -> Tensor:
        """[B, S] float32."""
        with torch.no_grad():
            latent = self.mimi.quantizer.decode(codes)
        fast = fast_type(self.device)
        with torch.autocast(self.device.type, dtype=fast, enabled=fast is not None):
            audio = self.offline.audio(latent)
        return audio[:, 0].float()
