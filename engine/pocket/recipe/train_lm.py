"""Train the embedded language model:  python -m engine.pocket.recipe.train_lm --work DIR

    WORK/codec, WORK/coded, WORK/clips.npz, WORK/tokenizer.model
    -> WORK/lm/lm.pt, and WORK/lm/model.pt at every checkpoint

Understanding comes first. A loss over whole calls is soon small, because clips are easily learnt by heart and what was
said tells what will be said; the little that depends on the caller is drowned in it. So the first part of the steps
sees short windows around one question, and heads which are thrown away read from the temporal layers what was asked
and which word was just heard. Whole calls come after, and some windows still.

It stops after --minutes and goes on when called again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.model.mimi import Mimi
from engine.model.moshi import Moshi
from engine.model.moshi_config import ZERO, MoshiConfig
from engine.model.text import EPAD, PAD, Tokenizer
from engine.pocket.recipe import offline_lm
from engine.pocket.recipe.corpus import (
    IGNORED,
    Buckets,
    Example,
    Labels,
    bare,
    cut,
    cut_frame,
    example_of,
    is_told,
    labels_of,
    read_coded,
)
from engine.pocket.recipe.domain import load_domain
from engine.pocket.recipe.encode import Voice, read_voice
from engine.pocket.recipe.export_codec import read_codec
from engine.pocket.recipe.formats import Dialogue, read_clips
from engine.pocket.recipe.init_lm import LM, draw
from engine.pocket.recipe.retell import Retelling
from engine.pocket.recipe.training import Plan, fast_type, load, slice_of, train_moshi, use_device

STEPS, RATE, BUDGET = 3_000, 1e-3, 800
"""Frames of a step; on one core somewhat more than half a second."""

STAGE_1_SHARE = 0.5
WINDOWS_LATER = 0.3
"""Of the steps after stage 1, those that see windows again."""

BARE_SHARE = 0.7
"""Windows without a prompt, of those whose answer does not depend on it: it is two fifths of what is computed."""

DEPTH_SHARE = 0.1
"""Of the frames, those whose codes are asked for; turns' edges always are."""

PAD_WEIGHT, EPAD_WEIGHT, OPENING_WEIGHT, START_WEIGHT = 0.3, 0.6, 4.0, 2.0
"""Of a text token in the loss; any other is 1. The opening word of an answer is the whole decision, and the EPAD before
it that to speak at all: drawn greedily, what is not begun in its frame with more than even odds is never begun."""

FIRST_CODE_WEIGHT = 2.0

CODE_NOISE = 0.02
"""Of the caller's codes, replaced at random: no telephone line is as clean as the data."""

DEAF_SHARE, DEAF_SPANS = 0.1, 0.01
"""Windows that hear the caller's first codebook only; starts of spans of two frames in which nothing is heard."""

OWN_NOISE = 0.02
"""Of the agent's own past codes, replaced at random: in a call nobody corrects them."""

MISSED_SHARE = 0.2
"""Of the EPADs that are read, PAD instead: who missed the frame to begin in begins in the next."""

RETOLD_SHARE = 0.3
"""Of the steps that see windows, those that see calls told anew: what depends on the prompt alone."""

CUT_SHARE = 0.25
"""Whole calls that begin in the middle, as after the window was rebuilt."""

HELD_EVERY, HELD_BATCHES = 100, 12


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


class Heads(nn.Module):
    """What was asked, and which words, at its end; which word was just heard. Thrown away in the end."""

    def __init__(self, dim: int, labels: Labels) -> None:
        super().__init__()
        self.intent = nn.Linear(dim, max(1, len(labels.intents)))
        self.words = nn.Linear(dim, max(1, len(labels.words)))
        self.heard = nn.Linear(dim, max(1, len(labels.words)))


class LmTask:
    """Both stages. `windows`, `calls` and `held` are examples; held-out ones are only looked at, for the log."""

    def __init__(
        self,
        moshi: Moshi,
        labels: Labels,
        windows: Sequence[Example],
        calls: Sequence[Example],
        part: Callable[[int, np.random.Generator], Example],
        held: Sequence[Example],
        plan: Plan,
        budget: int = BUDGET,
        retold: Callable[[np.random.Generator], Example] | None = None,
    ) -> None:
        """`part`: the call of a number as it goes on, from somewhere on, in a fresh row. `retold`: one told anew."""
        self.moshi, self.labels, self.plan, self.budget = moshi, labels, plan, budget
        self.windows, self.calls, self.part, self.held = windows, calls, part, held
        self.retold = retold
        self.device = next(moshi.parameters()).device
        torch.manual_seed(plan.seed)
        self.heads = Heads(moshi.config.dim, labels).to(self.device)
        self._window_buckets = Buckets([len(example) for example in windows])
        self._call_buckets = Buckets([len(example) for example in calls])

    def weights(self) -> list[nn.Parameter]:
        return [*self.moshi.parameters(), *self.heads.parameters()]

    def loss(self, step: int, random: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        if step < STAGE_1_SHARE * self.plan.steps or random.random() < WINDOWS_LATER:
            examples = self._windows(random)
        else:
            examples = [self._call(number, random) for number in self._call_buckets.draw(random, self.budget)]
        batch = self._batch(examples, random)
        loss, figures = self.measure(batch, random)
        if self.held and step % HELD_EVERY == 0:
            figures |= self.hold()
        return loss, figures

    def measure(self, batch: Batch, random: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        """The loss of a batch, and what it consists of."""
        config = self.moshi.config
        given = self._own_noise(batch.columns[:, :-1], random)
        made = batch.columns[:, 1:, : config.made]
        fast = fast_type(self.device)
        with torch.autocast(self.device.type, dtype=fast, enabled=fast is not None):
            hidden = offline_lm.temporal(self.moshi, given)
            text_logits = self.moshi.text_linear(hidden)
            chosen = self._chosen(batch, random)
            code_logits = offline_lm.depth(self.moshi, hidden[chosen], made[chosen])
        text, text_figures = self._text_loss(text_logits.float(), made[:, :, 0], batch)
        codes, code_figures = _code_loss(code_logits.float(), made[chosen][:, 1:])
        heads, head_figures = self._head_loss(hidden.float(), batch)
        return text + codes + heads, {**text_figures, **code_figures, **head_figures}

    def _chosen(self, batch: Batch, random: np.random.Generator) -> Tensor:
        """Whose codes are asked for, [B, L] bool."""
        drawn = torch.rand(batch.live.shape, generator=_generator(random)).to(self.device) < DEPTH_SHARE
        return batch.edges | (batch.live & drawn)

    def _text_loss(self, logits: Tensor, tokens: Tensor, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        each = F.cross_entropy(logits.flatten(0, 1), tokens.flatten(), reduction="none").view_as(batch.weight)
        loss = (each * batch.weight).sum() / batch.weight.sum()
        return loss, {"text": loss.item(), "opening": _share(logits.argmax(2) == tokens, batch.opening)}

    def _head_loss(self, hidden: Tensor, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """What was asked, twice: with the question's last frame and with the next. Each word heard, a frame later."""
        loss, figures = hidden.new_zeros(()), {}
        last = hidden.shape[1] - 1
        if len(batch.asked):
            row, frame, intent = batch.asked.T
            # Column i + 1 holds frame i's first code, column i + 2 all of it.
            states = torch.cat([hidden[row, (frame + later).clamp_max(last)] for later in (1, 2)])
            logits, twice = self.heads.intent(states), intent.repeat(2)
            if (intent != IGNORED).any():
                loss = loss + F.cross_entropy(logits, twice, ignore_index=IGNORED)
                figures["intent"] = _share(logits.argmax(1) == twice, twice != IGNORED)
            loss = loss + 10 * F.binary_cross_entropy_with_logits(self.heads.words(states), batch.words.repeat(2, 1))
        if len(batch.heard):
            row, frame, word = batch.heard.T
            logits = self.heads.heard(hidden[row, (frame + 2).clamp_max(last)])
            loss = loss + 0.5 * F.cross_entropy(logits, word)
            figures["word"] = (logits.argmax(1) == word).float().mean().item()
        return loss, figures

    @torch.no_grad()
    def hold(self) -> dict[str, float]:
        """Openings and intents of callers that were not trained on, nothing spoilt."""
        random, sums = np.random.default_rng(0), [0.0, 0.0, 0.0, 0.0]
        buckets = Buckets([len(example) for example in self.held])
        for _ in range(HELD_BATCHES):
            batch = self._batch([self.held[number] for number in buckets.draw(random, self.budget)], None)
            hidden = offline_lm.temporal(self.moshi, batch.columns[:, :-1])
            right = self.moshi.text_linear(hidden).argmax(2) == batch.columns[:, 1:, 0]
            sums[0] += float((right & batch.opening).sum())
            sums[1] += float(batch.opening.sum())
            if len(batch.asked):
                row, frame, intent = batch.asked.T
                logits = self.heads.intent(hidden[row, (frame + 2).clamp_max(hidden.shape[1] - 1)])
                sums[2] += float((logits.argmax(1) == intent)[intent != IGNORED].sum())
                sums[3] += float((intent != IGNORED).sum())
        return {"held_opening": sums[0] / max(1, sums[1]), "held_intent": sums[2] / max(1, sums[3])}

    def moved(self, step: int) -> None:
        """Nothing follows a step."""

    def save(self) -> dict[str, Any]:
        return {"moshi": self.moshi.state_dict(), "heads": self.heads.state_dict(), "labels": self.labels}

    def restore(self, saved: dict[str, Any]) -> None:
        """Heads that told other intents or words apart stay as they were drawn."""
        self.moshi.load_state_dict(saved["moshi"])
        if saved["labels"] == self.labels:
            self.heads.load_state_dict(saved["heads"])

    def _call(self, number: int, random: np.random.Generator) -> Example:
        """A whole call, or a part."""
        return self.part(number, random) if random.random() < CUT_SHARE else self.calls[number]

    def _windows(self, random: np.random.Generator) -> list[Example]:
        """A batch of windows, or of calls told anew."""
        if self.retold is None or random.random() >= RETOLD_SHARE:
            return [self.windows[number] for number in self._window_buckets.draw(random, self.budget)]
        examples = [self.retold(random)]
        while (len(examples) + 1) * max(map(len, examples)) <= self.budget:
            examples.append(self.retold(random))
        return examples

    def _batch(self, examples: Sequence[Example], random: np.random.Generator | None) -> Batch:
        return assemble(examples, self.moshi.config, self.labels, random, self.device)

    def _own_noise(self, columns: Tensor, random: np.random.Generator) -> Tensor:
        """Some of the agent's codes replaced, and EPADs missed, in what is read but not in what is asked for."""
        config, generator = self.moshi.config, _generator(random)
        own = columns[:, :, 1 : config.made]
        spoilt = torch.rand(own.shape, generator=generator) < OWN_NOISE
        wrong = torch.randint(config.card, own.shape, generator=generator)
        missed = torch.rand(columns.shape[:2], generator=generator) < MISSED_SHARE
        spoilt, wrong, missed = (drawn.to(self.device) for drawn in (spoilt, wrong, missed))
        out = columns.clone()
        out[:, :, 1 : config.made] = torch.where(spoilt & (own < config.card), wrong, own)
        out[:, :, 0] = torch.where(missed & (columns[:, :, 0] == EPAD), PAD, columns[:, :, 0])
        return out


def assemble(
    examples: Sequence[Example],
    config: MoshiConfig,
    labels: Labels,
    random: np.random.Generator | None,
    device: torch.device,
) -> Batch:
    """Examples side by side, the shorter ones followed by silence that nothing is asked of; `random` spoils hearing."""
    length = max(len(example) for example in examples)
    frames = np.full((len(examples), length, config.streams), PAD, np.int64)
    flags = np.zeros((3, len(examples), length), np.bool_)
    words = np.zeros((sum(len(example.asked) for example in examples), len(labels.words)), np.float32)
    asked: list[tuple[int, int, int]] = []
    heard: list[tuple[int, int, int]] = []
    for row, example in enumerate(examples):
        size = len(example)
        frames[row, :size] = example.frames if random is None else spoil(example, config, random)
        flags[0, row, :size], flags[1, row, :size] = example.opening, example.edges
        flags[2, row, example.prompt : size] = True
        for frame, intent, known in example.asked:
            words[len(asked), list(known)] = 1
            asked.append((row, frame, intent))
        heard += [(row, frame, word) for frame, word in example.heard]
    opening, edges, live = (torch.from_numpy(flag).to(device) for flag in flags)
    columns = offline_lm.lay_out(config, torch.from_numpy(frames).to(device))
    return Batch(
        columns,
        _text_weight(columns[:, 1:, 0], opening, live),
        opening,
        live,
        edges,
        torch.tensor(asked, dtype=torch.int64, device=device).view(-1, 3),
        torch.from_numpy(words).to(device),
        torch.tensor(heard, dtype=torch.int64, device=device).view(-1, 3),
    )


def spoil(example: Example, config: MoshiConfig, random: np.random.Generator) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The frames with the caller's codes as a bad line might give them; the prompt's stay."""
    frames = example.frames.copy()
    call = frames[example.prompt :, config.made :]
    call[...] = np.where(random.random(call.shape) < CODE_NOISE, random.integers(0, config.card, call.shape), call)
    if random.random() < DEAF_SHARE:
        call[:, 1:] = ZERO
    for start in np.flatnonzero(random.random(len(call)) < DEAF_SPANS):
        call[start : start + 2] = ZERO
    return frames


def _text_weight(tokens: Tensor, opening: Tensor, live: Tensor) -> Tensor:
    weight = torch.where(tokens == PAD, PAD_WEIGHT, torch.where(tokens == EPAD, EPAD_WEIGHT, 1.0))
    weight[:, :-1][opening[:, 1:] & (tokens[:, :-1] == EPAD)] = START_WEIGHT
    return torch.where(opening, OPENING_WEIGHT, weight) * live


def _code_loss(logits: Tensor, codes: Tensor) -> tuple[Tensor, dict[str, float]]:
    """logits [N, S, card], codes [N, S]; initial tokens are not asked for."""
    each = F.cross_entropy(
        logits.flatten(0, 1), torch.where(codes < logits.shape[2], codes, IGNORED).flatten(), reduction="none"
    ).view_as(codes)
    weight = torch.ones_like(each)
    weight[:, 0] = FIRST_CODE_WEIGHT
    loss = (each * weight).sum() / weight.sum().clamp_min(1)
    return loss, {"codes": loss.item(), "code": (logits.argmax(2) == codes).float().mean().item()}


def _share(right: Tensor, counted: Tensor) -> float:
    return float((right & counted).sum() / counted.sum().clamp_min(1))


def _generator(random: np.random.Generator) -> torch.Generator:
    """Torch's draws depend on the step alone, on any device."""
    return torch.Generator().manual_seed(int(random.integers(1 << 62)))


@dataclass(frozen=True, slots=True)
class Material:
    """What is on disk for the language model and the ear."""

    mimi: Mimi
    voice: Voice
    tokenizer: Tokenizer

    @classmethod
    def read(cls, work: Path) -> Material:
        mimi = read_codec(work / "codec")
        voice = read_voice(work / "coded" / "voice.npz", mimi.config.quantizer.bins)
        return cls(mimi, voice, Tokenizer((work / "tokenizer.model").read_bytes()))


def lm_task(work: Path, sizes: dict[str, Any], plan: Plan, budget: int = BUDGET, again: bool = False) -> LmTask:
    """A model of these sizes, and its data. Raises ValueError where something is missing.

    `again`: its heads tell apart what there is now, whatever they told apart before.
    """
    material = Material.read(work)
    windows, calls = read_coded(work, "stage1"), read_coded(work, "stage2")
    held = read_coded(work, "probe") if list((work / "coded").glob("probe-*.npz")) else []
    labels = (None if again else _begun_with(work)) or labels_of([*windows, *calls])
    moshi = Moshi(MoshiConfig.from_kwargs(sizes))
    draw(moshi, material.mimi, plan.seed)

    def example(dialogue: Dialogue) -> Example:
        return example_of(dialogue, material.voice, material.tokenizer, labels)

    def part(number: int, random: np.random.Generator) -> Example:
        return example(cut(calls[number], cut_frame(calls[number], random)))

    def retold(random: np.random.Generator) -> Example:
        return example(retelling.draw(random))

    def window(number: int, dialogue: Dialogue) -> Example:
        with_prompt = number % 100 >= 100 * BARE_SHARE or is_told(dialogue, domain)
        return example(dialogue) if with_prompt else bare(example(dialogue))

    domain = load_domain()
    retelling = Retelling(domain, read_clips(work / "clips.npz"), cache(material.tokenizer.encode), windows, calls)
    of_windows = [window(number, each) for number, each in enumerate(windows)]
    of_calls, of_held = ([example(each) for each in group] for group in (calls, held))
    return LmTask(
        moshi.to(use_device()), labels, of_windows, of_calls, part, of_held, plan, budget, retold if retelling else None
    )


def _begun_with(work: Path) -> Labels | None:
    """What the heads tell apart, if the training has begun: dialogues that were coded since are simply more data."""
    begun = work / "lm" / "lm.pt"
    labels: Labels | None = load(begun)["task"]["labels"] if begun.exists() else None
    return labels


def train_lm(
    work: Path, sizes: dict[str, Any], plan: Plan, minutes: float, budget: int = BUDGET, again: bool = False
) -> bool:
    """True once the plan is done. `again`: from the weights that there are, with a new plan."""
    task = lm_task(work, sizes, plan, budget, again)
    return train_moshi(task, work / "lm" / "lm.pt", sizes, plan, minutes, again)


def main(arguments: list[str] | None = None) -> None:
    options = slice_of("train_lm", __doc__, STEPS, RATE, arguments)
    train_lm(options.work, LM, options.plan, options.minutes, again=options.again)


if __name__ == "__main__":
    main()
