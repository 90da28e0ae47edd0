"""Train the ear, which writes down what the caller says:  python -m engine.pocket.recipe.train_ear --work DIR

    WORK/codec, WORK/coded, WORK/tokenizer.model -> WORK/ear/ear.pt, and WORK/ear/model.pt at every checkpoint

The form of streaming speech-to-text: the same model without codes to make (dep_q 0), text DELAY frames behind the
sound. Every dialogue is used, whatever the agent says in it. It stops after --minutes and goes on when called again.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from engine.model.moshi import Moshi
from engine.model.moshi_config import ZERO, MoshiConfig
from engine.model.text import PAD, SILENT, Tokenizer
from engine.pocket.recipe import offline_lm
from engine.pocket.recipe.batches import neighbours, spoil_codes
from engine.pocket.recipe.corpus import read_coded, write_heard
from engine.pocket.recipe.formats import CODEBOOKS, Dialogue, shards
from engine.pocket.recipe.init_lm import EAR, draw
from engine.pocket.recipe.train_lm import Material
from engine.pocket.recipe.training import Plan, fast_type, slice_of, train_moshi, use_device

STEPS, RATE = 3_000, 1.5e-3

DELAY = 8
"""Frames that have been heard of a word, and of what follows it, when its text begins: 0.64 s, nearly any word."""

BLIND_FRAMES = DELAY + 4
"""At the begin of a window that is cut out of a call: the words written there began before it."""

ROWS, WINDOW = 12, 128
"""Rows of a step, and their frames: ten seconds."""

PAD_WEIGHT = 0.3

DROPOUT = 0.1
"""As of the language model; without it the ear knew by heart what its callers said, and got a third of others wrong."""

OTHERS = "strays", "asides"
"""Dialogues that there may be, besides windows and calls."""

HELD_EVERY = 100


def ear_frames(dialogue: Dialogue, tokenizer: Tokenizer) -> NDArray[np.int64]:
    """What the ear is to write and what it hears, [T, 1 + codebooks]."""
    assert dialogue.codes is not None
    text = write_heard(dialogue.heard, dialogue.frames, tokenizer, DELAY)
    return np.concatenate((text[:, None], dialogue.codes.astype(np.int64)), 1)


class EarTask:
    """`frames` [T, 1 + codebooks] each, of callers to learn from; `held` of others, for the log."""

    def __init__(
        self,
        moshi: Moshi,
        frames: Sequence[NDArray[np.int64]],
        held: Sequence[NDArray[np.int64]],
        rows: int,
        window: int,
        near: NDArray[np.int64] | None = None,
    ) -> None:
        """`near`: `neighbours` of the codes."""
        self.near = near
        self.moshi, self.frames, self.held, self.rows, self.window = moshi, frames, held, rows, window
        self.device = next(moshi.parameters()).device
        self._odds = np.array([len(each) for each in frames], np.float64)
        self._odds /= self._odds.sum()

    def weights(self) -> list[nn.Parameter]:
        return list(self.moshi.parameters())

    def loss(self, step: int, random: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        chosen = [self.frames[number] for number in random.choice(len(self.frames), self.rows, p=self._odds)]
        frames, known = zip(*(window_of(each, self.window, random) for each in chosen), strict=True)
        for each in frames:
            spoil_codes(each[:, 1:], self.moshi.config, random, self.near)
        torch.manual_seed(int(random.integers(1 << 62)))  # of what is dropped
        loss, figures = self.measure(np.stack(frames), np.stack(known), DROPOUT)
        if self.held and step % HELD_EVERY == 0:
            with torch.no_grad():
                frames, known = zip(*(window_of(each, self.window, None) for each in self.held), strict=True)
                _, of_held = self.measure(np.stack(frames), np.stack(known))
            figures |= {f"held_{name}": value for name, value in of_held.items()}
        return loss, figures

    def measure(
        self, frames: NDArray[np.int64], known: NDArray[np.bool_], drop: float = 0.0
    ) -> tuple[Tensor, dict[str, float]]:
        """frames [B, T, 1 + codebooks]; known [B, T], where the text can be."""
        columns = offline_lm.lay_out(self.moshi.config, torch.from_numpy(frames).to(self.device))
        given, text = columns[:, :-1], columns[:, 1:, 0]
        fast = fast_type(self.device)
        with torch.autocast(self.device.type, dtype=fast, enabled=fast is not None):
            logits = self.moshi.text_linear(offline_lm.temporal(self.moshi, given, drop)).float()
        weight = torch.where(text == PAD, PAD_WEIGHT, 1.0) * torch.from_numpy(known).to(self.device)
        each = F.cross_entropy(logits.flatten(0, 1), text.flatten(), reduction="none").view_as(weight)
        loss = (each * weight).sum() / weight.sum().clamp_min(1)
        pieces = (weight > 0) & ~torch.isin(text, torch.tensor(sorted(SILENT), device=self.device))
        right = float(((logits.argmax(2) == text) & pieces).sum() / pieces.sum().clamp_min(1))
        return loss, {"text": loss.item(), "piece": right}

    def moved(self, step: int) -> None:
        """Nothing follows a step."""

    def save(self) -> dict[str, Any]:
        return {"moshi": self.moshi.state_dict()}

    def restore(self, saved: dict[str, Any]) -> None:
        self.moshi.load_state_dict(saved["moshi"])


def window_of(
    frames: NDArray[np.int64], window: int, random: np.random.Generator | None
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """`window` frames from anywhere (without `random` the first), and where their text is known; then silence."""
    first = int(random.integers(-window // 2, max(1, len(frames) - window // 2))) if random else 0
    first = max(0, first)
    taken = frames[first : first + window]
    out = np.full((window, frames.shape[1]), ZERO, np.int64)
    out[:, 0] = PAD
    out[: len(taken)] = taken
    known = np.arange(window) < len(taken)
    known[: BLIND_FRAMES if first else 0] = False
    return out, known


def ear_task(work: Path, sizes: dict[str, Any], plan: Plan, rows: int = ROWS, window: int = WINDOW) -> EarTask:
    """A model of these sizes, and its data. Raises ValueError where something is missing."""
    material = Material.read(work)
    assert sizes["n_q"] == CODEBOOKS
    told = [*read_coded(work, "stage1"), *read_coded(work, "stage2")]
    told += [each for kind in OTHERS if shards(work / "coded", kind) for each in read_coded(work, kind)]
    held = read_coded(work, "probe")[:64] if list((work / "coded").glob("probe-*.npz")) else []
    moshi = Moshi(MoshiConfig.from_kwargs(sizes))
    draw(moshi, material.mimi, plan.seed)
    frames, held_frames = ([ear_frames(each, material.tokenizer) for each in group] for group in (told, held))
    return EarTask(moshi.to(use_device()), frames, held_frames, rows, window, neighbours(material.mimi))


def train_ear(
    work: Path,
    sizes: dict[str, Any],
    plan: Plan,
    minutes: float,
    rows: int = ROWS,
    window: int = WINDOW,
    again: bool = False,
) -> bool:
    """True once the plan is done. `again`: from the weights that there are, with a new plan."""
    return train_moshi(ear_task(work, sizes, plan, rows, window), work / "ear" / "ear.pt", sizes, plan, minutes, again)


def main(arguments: list[str] | None = None) -> None:
    options = slice_of("train_ear", __doc__, STEPS, RATE, arguments)
    train_ear(options.work, EAR, options.plan, options.minutes, again=options.again)


if __name__ == "__main__":
    main()
