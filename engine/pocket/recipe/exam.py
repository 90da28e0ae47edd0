"""A checkpoint that is asked something: by whom, in which calls, and what it answered."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine.batch import Batch
from engine.model.checkpoint import Checkpoint
from engine.pocket.prompt import render
from engine.pocket.recipe.channel import g711
from engine.pocket.recipe.domain import UNKNOWN, Domain, Facts, Persona, State, Wording
from engine.pocket.recipe.formats import Utterance, read_clips, read_utterances, shards
from engine.pocket.recipe.scenes import Record, Scene, Turn, play
from engine.slot import FRAME_SAMPLES, SAMPLE_RATE, Sampling

FRAME_MS = 1000 * FRAME_SAMPLES / SAMPLE_RATE

NOTHING = Facts()

PERSONA = Persona("You are Emma from Blue Harbor. Greet with Hello.", "Emma", "Blue Harbor", "Hello")

STOPPED_FRAMES = 8
"""Of silence: it has stopped, and is not between two words."""

LATE_FRAMES = 40
"""Who has not stopped by then never did."""


class Material:
    """What is asked, and by whom: all that training did not see, and the agent's answers."""

    def __init__(self, work: Path, domain: Domain, seed: int = 0, callers: Path | None = None) -> None:
        """`callers` is where they lie; WORK/callers where it is not said. Raises ValueError where none are held out."""
        folder = callers or work / "callers"
        found = shards(folder, "held-out")
        if not found:
            raise ValueError(f"{folder} has no held-out callers; make them with engine.pocket.recipe.generate")
        said = [each for path in found for each in read_utterances(path)]
        self.domain, self.clips = domain, {clip.id: clip for clip in read_clips(work / "clips.npz")}
        self.random = np.random.default_rng(seed)
        self.said = [said[number] for number in self.random.permutation(len(said))]

    def asked(self, most: int, wording: str | None = None, intents: Callable[[str], bool] = bool) -> list[Utterance]:
        """Held-out voices who say something of these intents in that wording (None: any)."""
        chosen = [
            each
            for each in self.said
            if each.split == "held-out" and wording in {None, each.wording} and intents(each.intent)
        ]
        return chosen[:most]

    def answers(self, said: Utterance, facts: Facts = NOTHING, persona: Persona = PERSONA) -> set[str]:
        """Every right answer to it at a call's beginning."""
        wording = Wording(said.text, said.intent, said.slot)
        if said.intent == UNKNOWN:
            return {plain(text) for text in self.domain.fallbacks}
        return {plain(self.domain.clip_text(self.domain.answer(wording, State(persona, facts))))}


def plain(text: str) -> str:
    """As the text stream spells it."""
    return " ".join(text.split())


@dataclass(frozen=True, slots=True)
class Exam:
    """A checkpoint at work, and what to ask it; `most` is how many of each."""

    checkpoint: Checkpoint
    ear: Checkpoint | None
    batch: Batch
    material: Material
    sampling: Sampling
    most: int
    prompts: Path | None

    def play(self, scenes: Sequence[Scene]) -> list[Record]:
        return play(self.batch, scenes, self.sampling)

    def ask(self, said: Sequence[Utterance], **more: Any) -> list[Record]:
        """Each in a call of its own, after the greeting."""
        return self.play([Scene(START, (Turn(g711(each.audio)),), **more) for each in said])


START = render(PERSONA.text)


def answered(record: Record, turn: int = -1) -> str:
    """The text made since a turn began, until it is quiet or the next turn begins."""
    last = None if turn in {-1, len(record.starts) - 1} else record.starts[turn + 1]
    return record.said(record.starts[turn], last)


def unless_silence(text: str, question: str) -> str:
    """A text without the questions into a silence in it, also one that was cut off at its end."""
    left = text.replace(question, "").rstrip()
    for length in range(len(question) - 1, 2, -1):
        if left.endswith(question[:length]) and (length == len(left) or left[-length - 1] == " "):
            return left[:-length]
    return left


def but_for_mm_hm(text: str, domain: Domain) -> str:
    """A text as `plain` gives it, without each "mm-hm" that it begins with: to be heard out is no answer."""
    while text.startswith(domain.backchannel):
        text = text.removeprefix(domain.backchannel).lstrip()
    return text


def onset(record: Record, first: int) -> int | None:
    """The first frame from `first` on in which the agent is heard."""
    heard = np.flatnonzero(record.talking[first:])
    return first + int(heard[0]) if heard.size else None


def stopped(record: Record, first: int, most: int = LATE_FRAMES) -> int:
    """Frames from `first` until it has been silent for STOPPED_FRAMES; `most` if that is too late."""
    talking = record.talking[first : first + most + STOPPED_FRAMES]
    for frame in range(min(most, len(talking))):
        if not talking[frame : frame + STOPPED_FRAMES].any():
            return frame
    return most


def tell(line: str) -> None:
    """What went wrong, for whoever reads along."""
    print(f"  {line}", file=sys.stderr)
