"""Train the ear, which writes down what the caller says:  python -m engine.pocket.recipe.train_ear --work DIR

    WORK/codec, WORK/coded, WORK/tokenizer.model -> WORK/ear/ear.pt, and WORK/ear/model.pt at every checkpoint

The form of streaming speech-to-text: the same model without codes to make (dep_q 0), text DELAY frames behind the
sound. Every dialogue is used, whatever the agent says in it. A head that is thrown away reads phones, which there are
ten times as many of as words; and what the ear wrote itself stands for the truth now and then, as in a call, where
nobody corrects it. It stops after --minutes and goes on when called again.
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
from engine.pocket.recipe.phones import PAUSE, PHONES
from engine.pocket.recipe.sounds import LABEL_LAG_S, UNKNOWN
from engine.pocket.recipe.spectra import SUBFRAMES
from engine.pocket.recipe.train_encoder import accuracy
from engine.pocket.recipe.train_lm import Material
from engine.pocket.recipe.training import Plan, fast_type, generator_of, slice_of, train_moshi, use_device
from engine.slot import FRAME_SAMPLES, SAMPLE_RATE

STEPS, RATE = 3_000, 1.5e-3

DELAY = 16
"""Frames that have been heard of a word, and of what follows it, when its text begins: 1.28 s."""

BLIND_FRAMES = DELAY + 4
"""At the begin of a window that is cut out of a call: the words written there began before it."""

ROWS, WINDOW = 12, 128
"""Rows of a step, and their frames: ten seconds."""

PAD_WEIGHT = 0.3

PHONE_WEIGHT, PHONE_LAG = 0.3, 6
"""Of the phones' loss; and frames that have been heard by when a frame's are asked for, itself among them."""

OWN_STEPS, OWN_SHARE = 0.5, 0.4
"""Steps in which so much of what was written before is what the ear would have written, right or wrong."""

DROPOUT = 0.1
"""As of the language model; without it the ear knew by heart what its callers said, and got a third of others wrong."""

OTHERS = "strays", "asides", "talk"
"""Dialogues that there may be, besides windows and calls."""

HELD_EVERY = 100

READ = 1 + CODEBOOKS
"""Streams that the ear reads: its text and the codes."""


def ear_frames(dialogue: Dialogue, tokenizer: Tokenizer) -> NDArray[np.int64]:
    """What the ear is to write, what it hears, and the phones in it, [T, READ + SUBFRAMES]."""
    assert dialogue.codes is not None
    text = write_heard(dialogue.heard, dialogue.frames, tokenizer, DELAY)
    return np.concatenate((text[:, None], dialogue.codes.astype(np.int64), phones_of(dialogue)), 1)


def phones_of(dialogue: Dialogue) -> NDArray[np.int64]:
    """Of each 20 ms of a dialogue, [T, SUBFRAMES]; UNKNOWN throughout where words are known, but no phones."""
    silent = UNKNOWN if dialogue.heard and not dialogue.phones else PHONES.index(PAUSE)
    phones = np.full(dialogue.frames * SUBFRAMES, silent, np.int64)
    times = (np.arange(len(phones)) + 0.5) * (FRAME_SAMPLES / SAMPLE_RATE / SUBFRAMES) - LABEL_LAG_S
    for span in dialogue.phones:
        phones[(times >= span.start_s) & (times < span.end_s)] = PHONES.index(span.label)
    return phones.reshape(-1, SUBFRAMES)


class EarTask:
    """`frames` [T, READ + SUBFRAMES] each, of callers to learn from; `held` of others, for the log."""

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
        self.head = nn.Linear(moshi.config.dim, SUBFRAMES * len(PHONES)).to(self.device)
        self._odds = np.array([len(each) for each in frames], np.float64)
        self._odds /= self._odds.sum()

    def weights(self) -> list[nn.Parameter]:
        return [*self.moshi.parameters(), *self.head.parameters()]

    def loss(self, step: int, random: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        chosen = [self.frames[number] for number in random.choice(len(self.frames), self.rows, p=self._odds)]
        frames, known = zip(*(window_of(each, self.window, random) for each in chosen), strict=True)
        for each in frames:
            spoil_codes(each[:, 1:READ], self.moshi.config, random, self.near)
        torch.manual_seed(int(random.integers(1 << 62)))  # of what is dropped
        loss, figures = self.measure(np.stack(frames), np.stack(known), random)
        if self.held and step % HELD_EVERY == 0:
            with torch.no_grad():
                frames, known = zip(*(window_of(each, self.window, None) for each in self.held), strict=True)
                _, of_held = self.measure(np.stack(frames), np.stack(known))
            figures |= {f"held_{name}": value for name, value in of_held.items()}
        return loss, figures

    def measure(
        self, frames: NDArray[np.int64], known: NDArray[np.bool_], random: np.random.Generator | None = None
    ) -> tuple[Tensor, dict[str, float]]:
        """frames [B, T, READ + SUBFRAMES]; known [B, T], where the text can be. `random`: as while it learns."""
        given = torch.from_numpy(frames).to(self.device)
        columns = offline_lm.lay_out(self.moshi.config, given[:, :, :READ])
        read, text = columns[:, :-1], columns[:, 1:, 0]
        if random is not None and random.random() < OWN_STEPS:
            read = self._own(read, random)
        hidden, logits = self._written(read, 0.0 if random is None else DROPOUT)
        weight = torch.where(text == PAD, PAD_WEIGHT, 1.0) * torch.from_numpy(known).to(self.device)
        each = F.cross_entropy(logits.flatten(0, 1), text.flatten(), reduction="none").view_as(weight)
        loss = (each * weight).sum() / weight.sum().clamp_min(1)
        pieces = (weight > 0) & ~torch.isin(text, torch.tensor(sorted(SILENT), device=self.device))
        right = float(((logits.argmax(2) == text) & pieces).sum() / pieces.sum().clamp_min(1))
        phones, figures = self._phones(hidden, given[:, :, READ:])
        return loss + PHONE_WEIGHT * phones, {"text": loss.item(), "piece": right, **figures}

    def _written(self, read: Tensor, drop: float) -> tuple[Tensor, Tensor]:
        """Columns [B, T, READ] -> what the last layer makes of them [B, T, dim], and logits of the text."""
        fast = fast_type(self.device)
        with torch.autocast(self.device.type, dtype=fast, enabled=fast is not None):
            hidden = offline_lm.temporal(self.moshi, read, drop)
            return hidden.float(), self.moshi.text_linear(hidden).float()

    @torch.no_grad()
    def _own(self, read: Tensor, random: np.random.Generator) -> Tensor:
        """Columns in which OWN_SHARE of the text is what the ear writes if it reads the truth."""
        written = self._written(read, 0.0)[1].argmax(2)
        own = torch.rand(written.shape, generator=generator_of(random)).to(self.device) < OWN_SHARE
        made = read.clone()
        made[:, 1:, 0] = torch.where(own[:, 1:], written[:, :-1], read[:, 1:, 0])
        return made

    def _phones(self, hidden: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, float]]:
        """hidden [B, T, dim]; the phones of each frame [B, T, SUBFRAMES], asked for PHONE_LAG columns later."""
        asked = labels[:, : max(0, labels.shape[1] - PHONE_LAG)].flatten()
        if not (asked != UNKNOWN).any():
            return hidden.new_zeros(()), {}
        logits = self.head(hidden[:, PHONE_LAG:]).view(len(asked), len(PHONES))
        return F.cross_entropy(logits, asked, ignore_index=UNKNOWN), {"phone": accuracy(logits, asked)}

    def moved(self, step: int) -> None:
        """Nothing follows a step."""

    def save(self) -> dict[str, Any]:
        return {"moshi": self.moshi.state_dict(), "head": self.head.state_dict()}

    def restore(self, saved: dict[str, Any]) -> None:
        self.moshi.load_state_dict(saved["moshi"])
        if "head" in saved:  # weights that were adopted have none
            self.head.load_state_dict(saved["head"])


def window_of(
    frames: NDArray[np.int64], window: int, random: np.random.Generator | None
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """`window` frames from anywhere (without `random` the first), and where their text is known; then silence."""
    first = int(random.integers(-window // 2, max(1, len(frames) - window // 2))) if random else 0
    first = max(0, first)
    taken = frames[first : first + window]
    out = np.full((window, frames.shape[1]), ZERO, np.int64)
    out[:, 0], out[:, READ:] = PAD, UNKNOWN
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
    torch.manual_seed(plan.seed)  # of the head
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
