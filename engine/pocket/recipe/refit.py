"""The language model's text head learns on, alone:  python -m engine.pocket.recipe.refit --work DIR

    WORK/lm/model.pt, WORK/coded, none of whose calls it was trained on -> WORK/lm/model.pt

What the layers say of windows that they often saw is more certain than what they say of any other, and the head has
learnt to trust them as far. Over calls that they never saw it learns how far they are to be trusted. And it learns to
begin late: in every call that is told an answer begins when it should, so a model that missed that frame is where it
has never been, and stays silent. What the layers hold there is computed by keeping it silent in those calls, too.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from engine.model.moshi import Moshi
from engine.model.moshi_config import MoshiConfig
from engine.model.text import EPAD, PAD
from engine.pocket.recipe import offline_lm
from engine.pocket.recipe.batches import assemble
from engine.pocket.recipe.corpus import Example, Labels, example_of, read_coded
from engine.pocket.recipe.formats import shards
from engine.pocket.recipe.train_lm import Material
from engine.pocket.recipe.training import fast_type, load, store, use_device

KINDS = ("stage1", "strays", "asides", "stage2")

LATE = range(3, 14)
"""Frames after the one to begin in, in which it is to begin all the same. Sooner it often still does by itself."""

LATE_WEIGHT = 0.01
"""Of those, beside all that calls ask for. With five times that hardly any question stays unanswered, but it speaks
twice as often where it should not."""

SOON, ANSWER = -2, 12
"""Frames from a question's last in which its answer begins."""

RATE, ROWS, LATE_ROWS = 3e-4, 4096, 512

NO_LABELS = Labels((), ())


@dataclass(frozen=True, slots=True)
class States:
    """What the head is given, and to say: `hidden` [N, dim], `tokens` [N] and their `weight` [N], and `late` [M, dim],
    where it is to begin late."""

    hidden: Tensor
    tokens: Tensor
    weight: Tensor
    late: Tensor


@torch.no_grad()
def states_of(moshi: Moshi, examples: Sequence[Example], silence: Sequence[int]) -> States:
    """Of every frame of the calls, as nobody hears them spoilt. Raises ValueError where none of them has a question."""
    device = next(moshi.parameters()).device
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    late: list[Tensor] = []
    for example in examples:
        batch = assemble([example], moshi.config, NO_LABELS, None, device)
        live = batch.live[0]
        tokens, hidden = batch.columns[0, 1:, 0], _hidden(moshi, batch.columns[:, :-1])
        parts.append((hidden[live], tokens[live], batch.weight[0, live]))
        for start in starts(example):
            columns = offline_lm.lay_out(moshi.config, torch.from_numpy(kept_silent(example, start, silence))[None])
            late.append(_hidden(moshi, columns[:, :-1].to(device))[start + LATE.start : start + LATE.stop])
    if not late:
        raise ValueError("in none of these calls is a question answered; encode some of stage1 first")
    hidden, tokens, weight = map(torch.cat, zip(*parts, strict=True))
    return States(hidden, tokens, weight, torch.cat(late))


def starts(example: Example) -> Iterator[int]:
    """The frames of the EPADs with which the answers to its questions begin, where enough of the call follows."""
    text = example.frames[:, 0]
    for question, *_ in example.asked:
        first = max(question + SOON, 0)
        begun = first + np.flatnonzero(text[first : question + ANSWER] == EPAD)
        if len(begun) and begun[0] + LATE.stop <= len(text):
            yield int(begun[0])


def kept_silent(example: Example, start: int, silence: Sequence[int]) -> NDArray[np.int64]:
    """Its frames [start + LATE.stop, K], the agent silent from that frame on as if it had not thought of beginning."""
    frames = example.frames[: start + LATE.stop].copy()
    frames[start:, 0] = PAD
    frames[start:, 1 : 1 + len(silence)] = silence
    return frames


def refit(head: nn.Linear, states: States, steps: int, seed: int = 0, rate: float = RATE) -> dict[str, float]:
    """Move the head's weights; gives the means of the last tenth of the steps: what calls ask for, the same of late
    beginnings, and the share of those that it makes."""
    random, ends = np.random.default_rng(seed), list[tuple[float, float, float]]()
    optimiser = torch.optim.AdamW(head.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0)
    for step in range(steps):
        some, others = (
            torch.from_numpy(random.integers(0, len(given), rows)).to(given.device)
            for given, rows in ((states.hidden, ROWS), (states.late, LATE_ROWS))
        )
        each = F.cross_entropy(head(states.hidden[some].float()), states.tokens[some], reduction="none")
        text = (each * states.weight[some]).sum() / states.weight[some].sum()
        logits = head(states.late[others].float())
        late = F.cross_entropy(logits, torch.full_like(others, EPAD))
        optimiser.param_groups[0]["lr"] = rate * (1 - step / steps)
        optimiser.zero_grad()
        torch.autograd.backward(text + LATE_WEIGHT * late)
        optimiser.step()
        if step + 1 > 0.9 * steps:
            ends.append((text.item(), late.item(), (logits.argmax(1) == EPAD).float().mean().item()))
    return dict(zip(("text", "late", "begun"), np.mean(ends, axis=0).tolist(), strict=True))


def _hidden(moshi: Moshi, columns: Tensor) -> Tensor:
    """Columns [1, L, K] -> [L, dim] bfloat16: a few hours of calls fit a small machine's memory."""
    fast = fast_type(columns.device)
    with torch.autocast(columns.device.type, dtype=fast, enabled=fast is not None):
        return offline_lm.temporal(moshi, columns)[0].bfloat16()


def refit_model(work: Path, most: int, steps: int, seed: int = 0) -> dict[str, float]:
    """Refit WORK/lm/model.pt over at most so many calls of each kind. Raises ValueError where there is no model, or no
    call."""
    path = work / "lm" / "model.pt"
    if not path.exists():
        raise ValueError(f"{path} is missing; engine.pocket.recipe.train_lm leaves it there")
    saved: dict[str, Any] = load(path)
    moshi = Moshi(MoshiConfig.from_kwargs(saved["sizes"])).to(use_device())
    moshi.load_state_dict(saved["weights"])
    material = Material.read(work)
    examples = [
        example_of(told, material.voice, material.tokenizer, NO_LABELS)
        for kind in KINDS
        if shards(work / "coded", kind)
        for told in read_coded(work, kind)[:most]
    ]
    states = states_of(moshi, examples, material.voice.layout.silence)
    print(f"{len(states.hidden)} frames of {len(examples)} calls, {len(states.late)} of them late", flush=True)
    figures = refit(moshi.text_linear, states, steps, seed)
    store(path, {**saved, "weights": moshi.state_dict()})
    return figures


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="refit", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/pocket"), help="where the data lies (build/pocket)")
    parser.add_argument("--most", type=int, default=4000, help="calls of each kind (4000)")
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    figures = refit_model(options.work, options.most, options.steps, options.seed)
    print(", ".join(f"{name} {value:.3f}" for name, value in figures.items()))


if __name__ == "__main__":
    main()
