"""Train the embedded language model:  python -m engine.pocket.recipe.train_lm --work DIR

    WORK/codec, WORK/coded, WORK/clips.npz, WORK/tokenizer.model
    -> WORK/lm/lm.pt, and WORK/lm/model.pt at every checkpoint

A loss over whole calls is soon small, because clips are easily learnt by heart and what was said tells what will be
said; the little that depends on the caller, or on the prompt, is drowned in it. So most steps see short windows around
one question, and heads which are thrown away read from the temporal layers what was asked, which word was just heard,
and what is known in the call so far. Some steps ask for nothing but what prompts told.

It stops after --minutes and goes on when called again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from engine.model.mimi import Mimi
from engine.model.moshi import Moshi
from engine.model.moshi_config import MoshiConfig
from engine.model.text import EPAD, PAD, Tokenizer
from engine.pocket.recipe import offline_lm
from engine.pocket.recipe.batches import LATE_WEIGHT, Batch, apart, assemble, neighbours
from engine.pocket.recipe.corpus import (
    IGNORED,
    Buckets,
    Example,
    Labels,
    bare,
    cut,
    cut_frame,
    example_of,
    excused,
    is_begun,
    is_told,
    labels_of,
    read_coded,
    telling,
)
from engine.pocket.recipe.domain import load_domain
from engine.pocket.recipe.encode import Voice, read_voice
from engine.pocket.recipe.export_codec import read_codec
from engine.pocket.recipe.formats import Dialogue, Event, read_clips, shards
from engine.pocket.recipe.heads import Heads, share
from engine.pocket.recipe.init_lm import LM, draw
from engine.pocket.recipe.retell import Retelling
from engine.pocket.recipe.stops import given_way_late
from engine.pocket.recipe.told import kinds, told_so_far
from engine.pocket.recipe.training import Plan, fast_type, generator_of, load, slice_of, train_moshi, use_device

STEPS, RATE, BUDGET = 3_000, 1e-3, 800
"""Frames of a step; on one core somewhat more than half a second."""

RECITED = 0.06
"""Of the steps, those that ask for nothing but what the prompt told."""

TELLING_SHARE = 0.5
"""Of those, the ones in which the caller tells it."""

WINDOWS = 0.8
"""Of the other steps, those that see windows; the rest see calls."""

OFTEN = {"tell_name": 2, "strays": 2, "asides": 2, "talked_into": 2}
"""How many times as often as any other a window is drawn, by what is asked in it, or by its kind; and as often as any
other of the asides, if the agent is talked into. Of the kinds, those may be missing; but of the asides it needs a tenth
of all: with a twentieth it talked into noise (MODEL_CARD.md)."""

NUMBERS_OFTEN = {2: 7, 3: 3, 4: 5}
"""The same of windows in which a number is told, by its digits. As often as they are told, most have three, and the
others were read back with three as well."""

BARE_SHARE = 0.7
"""Windows without a prompt, of those whose answer does not depend on it: it is two fifths of what is computed."""

DEPTH_SHARE = 0.1
"""Of the frames, those whose codes are asked for; turns' edges always are."""

CODED_SHARE = 0.5
"""Steps that ask for codes at all: they are soon known by heart, and a fifth of what is computed."""

FIRST_CODE_WEIGHT = 2.0

DROPOUT = 0.1
"""Of what the temporal layers add: there are fewer callers than would fill so many weights."""

OWN_NOISE = 0.02
"""Of the agent's own past codes, replaced at random: in a call nobody corrects them."""

MISSED_SHARE = 0.2
"""Of the EPADs that are read, PAD instead: who missed the frame to begin in begins in the next."""

RETOLD_SHARE = 0.25
"""Of the steps that see windows, those that see calls told anew: what depends on the prompt alone."""

FAR = 300
"""Positions that may lie between a prompt and what is told anew behind it."""

CUT_SHARE = 0.25
"""Whole calls that begin in the middle, as after the window was rebuilt."""

HELD_EVERY, HELD_BATCHES = 100, 12


Draw: TypeAlias = Callable[[np.random.Generator], Example]


@dataclass(frozen=True)
class Retold:
    """Calls told anew: greetings and answers that depend on the prompt, and prompts alone."""

    answered: Draw
    recited: Draw


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
        retold: Retold | None = None,
        near: NDArray[np.int64] | None = None,
        told: Sequence[int] = (),
    ) -> None:
        """`part`: the call of a number as it goes on, from somewhere on, in a fresh row. `retold`: others, told anew.

        `near`: `neighbours` of the codes. `told`: how many labels there are of each kind of what is known.
        """
        self.moshi, self.labels, self.plan, self.budget = moshi, labels, plan, budget
        self.windows, self.calls, self.part, self.held = windows, calls, part, held
        self.retold, self.near = retold, near
        self.device = next(moshi.parameters()).device
        torch.manual_seed(plan.seed)
        self.heads = Heads(moshi.config.dim, labels, told).to(self.device)
        self._telling = [each for each in map(telling, windows) if each is not None]
        self._window_buckets = Buckets([len(example) for example in windows])
        self._call_buckets = Buckets([len(example) for example in calls])

    def weights(self) -> list[nn.Parameter]:
        return [*self.moshi.parameters(), *self.heads.parameters()]

    def loss(self, step: int, random: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        if self.retold is not None and random.random() < RECITED:
            return self._recite(random)
        retold = False
        if random.random() >= WINDOWS:
            examples = [self._call(number, random) for number in self._call_buckets.draw(random, self.budget)]
        elif self.retold is not None and random.random() < RETOLD_SHARE:
            examples, retold = self._filled(self.retold.answered, random), True
        else:
            examples = [self.windows[number] for number in self._window_buckets.draw(random, self.budget)]
        batch = self._batch(examples, random)
        loss, figures = self.measure(batch, random, apart(batch, FAR, random) if retold else None)
        if self.held and step % HELD_EVERY == 0:
            figures |= self.hold()
        return loss, figures

    def measure(
        self, batch: Batch, random: np.random.Generator, positions: Tensor | None = None
    ) -> tuple[Tensor, dict[str, float]]:
        """The loss of a batch, and what it consists of. `positions` [B, L]: where its columns lie, if not in a row."""
        config = self.moshi.config
        given = self._own_noise(batch.columns[:, :-1], random)
        hidden = self._hidden(given, random, positions)
        missed = given[:, :, 0] != batch.columns[:, :-1, 0]
        weight = torch.where(missed & batch.opening, batch.weight.clamp_max(LATE_WEIGHT), batch.weight)
        made = batch.columns[:, 1:, : config.made]
        with self._fast():
            text_logits = self.moshi.text_linear(hidden)
        text, text_figures = self._text_loss(text_logits.float(), made[:, :, 0], weight, batch.opening & batch.live)
        codes, code_figures = self._code_loss(hidden, made, batch, random)
        heads, head_figures = self.heads.asked_loss(hidden.float(), batch)
        told, told_figures = self.heads.told_loss(hidden.float(), batch, random)
        figures = {**text_figures, **code_figures, **head_figures, **told_figures}
        return text + codes + heads + told, figures

    def _recite(self, random: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        """What is known is asked for, by the prompt or by the caller, and nothing else.

        Among all that a call asks for, where that stands is found too late, or never.
        """
        assert self.retold is not None
        if self._telling and random.random() < TELLING_SHARE:
            examples = self._filled(lambda random: self._telling[int(random.integers(len(self._telling)))], random)
        else:
            examples = self._filled(self.retold.recited, random)
        batch = self._batch(examples, random)
        hidden = self._hidden(batch.columns[:, :-1], random, apart(batch, FAR, random))
        return self.heads.told_loss(hidden.float(), batch, random)

    def _hidden(self, columns: Tensor, random: np.random.Generator, positions: Tensor | None) -> Tensor:
        torch.manual_seed(int(random.integers(1 << 62)))  # of what is dropped
        with self._fast():
            return offline_lm.temporal(self.moshi, columns, DROPOUT, positions)

    def _fast(self) -> torch.autocast:
        fast = fast_type(self.device)
        return torch.autocast(self.device.type, dtype=fast, enabled=fast is not None)

    def _chosen(self, batch: Batch, random: np.random.Generator) -> Tensor:
        """Whose codes are asked for, [B, L] bool."""
        drawn = torch.rand(batch.live.shape, generator=generator_of(random)).to(self.device) < DEPTH_SHARE
        return batch.edges | (batch.live & drawn)

    def _code_loss(
        self, hidden: Tensor, made: Tensor, batch: Batch, random: np.random.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        """hidden [B, L, dim] and what the next columns hold [B, L, 1 + S]; nothing is asked in some steps."""
        chosen = self._chosen(batch, random)
        if random.random() >= CODED_SHARE or not chosen.any():
            return hidden.new_zeros(()), {}
        with self._fast():
            logits = offline_lm.depth(self.moshi, hidden[chosen], made[chosen]).float()
        return _asked_codes(logits, made[chosen][:, 1:])

    def _text_loss(
        self, logits: Tensor, tokens: Tensor, weight: Tensor, opening: Tensor
    ) -> tuple[Tensor, dict[str, float]]:
        each = F.cross_entropy(logits.flatten(0, 1), tokens.flatten(), reduction="none").view_as(weight)
        loss = (each * weight).sum() / weight.sum()
        return loss, {"text": loss.item(), "opening": share(logits.argmax(2) == tokens, opening)}

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
        """The heads tell apart what they told apart before; the rest of them stays as it was drawn."""
        self.moshi.load_state_dict(saved["moshi"])
        self.heads.take(saved["heads"], saved["labels"], self.labels)

    def _call(self, number: int, random: np.random.Generator) -> Example:
        """A whole call, or a part."""
        return self.part(number, random) if random.random() < CUT_SHARE else self.calls[number]

    def _filled(self, draw: Draw, random: np.random.Generator) -> list[Example]:
        """As many of them as the budget holds."""
        examples = [draw(random)]
        while (len(examples) + 1) * max(map(len, examples)) <= self.budget:
            examples.append(draw(random))
        return examples

    def _batch(self, examples: Sequence[Example], random: np.random.Generator | None) -> Batch:
        return assemble(examples, self.moshi.config, self.labels, random, self.device, self.near)

    def _own_noise(self, columns: Tensor, random: np.random.Generator) -> Tensor:
        """Some of the agent's codes replaced, and EPADs missed, in what is read but not in what is asked for."""
        config, generator = self.moshi.config, generator_of(random)
        own = columns[:, :, 1 : config.made]
        spoilt = torch.rand(own.shape, generator=generator) < OWN_NOISE
        wrong = torch.randint(config.card, own.shape, generator=generator)
        missed = torch.rand(columns.shape[:2], generator=generator) < MISSED_SHARE
        spoilt, wrong, missed = (drawn.to(self.device) for drawn in (spoilt, wrong, missed))
        out = columns.clone()
        out[:, :, 1 : config.made] = torch.where(spoilt & (own < config.card), wrong, own)
        out[:, :, 0] = torch.where(missed & (columns[:, :, 0] == EPAD), PAD, columns[:, :, 0])
        return out


def _asked_codes(logits: Tensor, codes: Tensor) -> tuple[Tensor, dict[str, float]]:
    """logits [N, S, card], codes [N, S]; initial tokens are not asked for."""
    each = F.cross_entropy(
        logits.flatten(0, 1), torch.where(codes < logits.shape[2], codes, IGNORED).flatten(), reduction="none"
    ).view_as(codes)
    weight = torch.ones_like(each)
    weight[:, 0] = FIRST_CODE_WEIGHT
    loss = (each * weight).sum() / weight.sum().clamp_min(1)
    return loss, {"codes": loss.item(), "code": (logits.argmax(2) == codes).float().mean().item()}


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
    others = {kind: read_coded(work, kind) for kind in ("strays", "asides") if shards(work / "coded", kind)}
    held = read_coded(work, "probe") if list((work / "coded").glob("probe-*.npz")) else []
    labels = (None if again else _begun_with(work)) or labels_of([*windows, *calls, *chain(*others.values())])
    moshi = Moshi(MoshiConfig.from_kwargs(sizes))
    draw(moshi, material.mimi, plan.seed)

    def example(dialogue: Dialogue, random: np.random.Generator | None = None) -> Example:
        late: tuple[int, ...] = ()
        if random is not None:
            dialogue, late = given_way_late(dialogue, clips, encode, random)
        made = example_of(dialogue, material.voice, material.tokenizer, labels, late)
        known = told_so_far(dialogue.prompt, dialogue.events, domain)
        return replace(made, told=tuple((made.prompt + frame, told) for frame, told in known))

    def part(number: int, random: np.random.Generator) -> Example:
        return example(cut(calls[number], cut_frame(calls[number], random)), random)

    def answered(random: np.random.Generator) -> Example:
        return example(retelling.draw(random))

    def recited(random: np.random.Generator) -> Example:
        return example(retelling.recited(random))

    def window(number: int, dialogue: Dialogue) -> Example:
        with_prompt = number % 100 >= 100 * BARE_SHARE or is_told(dialogue, domain)
        return example(dialogue) if with_prompt else bare(example(dialogue))

    def often(dialogue: Dialogue) -> int:
        return max(map(how_often, dialogue.events), default=1)

    def aside(dialogue: Dialogue) -> Example:
        made = example(dialogue, drawn)
        return made if is_begun(dialogue) else excused(bare(made), dialogue)

    def aside_often(dialogue: Dialogue) -> int:
        into = any(event.kind == "stop" or event.text in domain.mutters for event in dialogue.events)
        return OFTEN["asides"] * (OFTEN["talked_into"] if into else 1)

    domain, drawn = load_domain(), np.random.default_rng(plan.seed)
    clips, encode = read_clips(work / "clips.npz"), cache(material.tokenizer.encode)
    retelling = Retelling(domain, clips, encode, windows, calls)
    of_windows = [window(number, each) for number, each in enumerate(windows) for _ in range(often(each))]
    of_windows += [window(number, each) for number, each in enumerate(others.get("strays", []))] * OFTEN["strays"]
    of_windows += [aside(each) for each in others.get("asides", []) for _ in range(aside_often(each))]
    of_calls, of_held = [example(each, drawn) for each in calls], [example(each) for each in held]
    more = Retold(answered, recited) if retelling else None, neighbours(material.mimi), kinds(domain)
    return LmTask(moshi.to(use_device()), labels, of_windows, of_calls, part, of_held, plan, budget, *more)


def how_often(event: Event) -> int:
    """The times that a window with it is drawn."""
    if event.intent == "tell_number":
        return NUMBERS_OFTEN.get(len(event.slot.split()), 1)
    return OFTEN.get(event.intent, 1)


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
