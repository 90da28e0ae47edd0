"""The checkpoint that ships: it loads as any other, and a caller is understood and answered, in text and in sound.

The callers are the demo's, through G.711. How it does with voices, wordings and noise that it never met is
`engine.pocket.recipe.evaluate`'s to say.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from engine.batch import Batch, KeyPrecision, RowStep
from engine.model.checkpoint import load_checkpoint
from engine.model.listening import load_ear
from engine.model.text import TextReader
from engine.model.weights import Packing
from engine.pocket import FOLDER
from engine.pocket.prompt import render
from engine.pocket.recipe.agent import PERIOD
from engine.pocket.recipe.channel import g711, resampled
from engine.pocket.recipe.domain import load_domain
from engine.pocket.recipe.formats import Audio, whole_frames
from engine.pocket.recipe.judges import sphinx
from engine.slot import FRAME_SAMPLES, Frame, Tokens
from tests.engine.rows import no_log
from voipagent.lab.demo import read_sentence

GREETING = "Hello, this is the front desk. How can I help?"
GREETED = 60
"""Frames for the greeting."""

ANSWERED = 50
"""Frames for the answer."""

ASKED = {
    "sunday": ("are you open on Sunday", "On Sundays and holidays we are closed."),
    "rental": ("can I rent a bike", "Renting a bicycle costs twenty dollars a day."),
    "parking": ("do you have parking", "There is free parking behind the building."),
}


@dataclass
class Heard:
    """One row: what the agent said before and after the question ended, and what it understood."""

    greeting: str = ""
    answer: str = ""
    understood: str = ""
    frames: list[Frame] = field(default_factory=list)
    columns: list[Tokens] = field(default_factory=list)


@pytest.fixture(scope="module")
def heard() -> dict[str, Heard]:
    """Every question asked at once, each in a row of its own."""
    return ask("stored")


def ask(packing: Packing, kv: KeyPrecision = "full") -> dict[str, Heard]:
    torch.set_num_threads(1)
    checkpoint = load_checkpoint(str(FOLDER), packing=packing)
    ear = load_ear(str(FOLDER), checkpoint)
    assert ear is not None
    batch = Batch(checkpoint, len(ASKED), ear, kv)
    questions = [_question(name) for name in ASKED]
    frames = max(map(len, questions)) // FRAME_SAMPLES
    for row in range(batch.rows):
        batch.open(row, no_log(batch.streams))
        for chunk in batch.plan(row, batch.layout.frames(batch.tokenizer, render("")), 0, batch.sampling):
            batch.prefill(chunk)
    calls = {name: Heard() for name in ASKED}
    readers = [(TextReader(batch.tokenizer), TextReader(batch.tokenizer)) for _ in ASKED]
    for frame in range(GREETED + frames + ANSWERED):
        steps = [
            RowStep(row, _frame(question, frame - GREETED), None, batch.sampling)
            for row, question in enumerate(questions)
        ]
        for call, (said, understood), stepped in zip(calls.values(), readers, batch.step(steps), strict=True):
            call.frames.append(stepped.frame)
            call.columns.append(stepped.tokens)
            call.understood += understood.read(stepped.heard)
            text = said.read(stepped.text)
            if frame < GREETED:
                call.greeting += text
            else:
                call.answer += text
    return calls


def _question(name: str) -> Audio:
    return whole_frames(g711(resampled(read_sentence(name).astype(np.float32) / 32_768, 24_000)))


def _frame(audio: Audio, number: int) -> Frame:
    frame = np.zeros(FRAME_SAMPLES, np.float32)
    if number >= 0:
        part = audio[number * FRAME_SAMPLES : (number + 1) * FRAME_SAMPLES]
        frame[: len(part)] = part
    return frame


def test_a_caller_is_greeted(heard: dict[str, Heard]) -> None:
    assert {call.greeting.strip() for call in heard.values()} == {GREETING}


@pytest.mark.parametrize("name", ASKED)
def test_the_answer_is_right_in_text(heard: dict[str, Heard], name: str) -> None:
    assert heard[name].answer.strip() == ASKED[name][1]


def test_the_answers_are_the_same_in_8_bits(heard: dict[str, Heard]) -> None:
    """Weights, keys and values, all of them."""
    rounded = ask("int8", "int8")
    assert [(call.greeting, call.answer) for call in rounded.values()] == [
        (call.greeting, call.answer) for call in heard.values()
    ]


@pytest.mark.parametrize("name", ASKED)
def test_the_answer_is_right_in_sound(heard: dict[str, Heard], name: str) -> None:
    """Picked out of all that it could have said, through G.711."""
    domain = load_domain()
    pick = sphinx([domain.clip_text(answer) for answer in domain.answers()])
    assert pick(np.concatenate(heard[name].frames[GREETED:])) == ASKED[name][1]


@pytest.mark.parametrize("name", ASKED)
def test_the_voice_is_voiced_and_silent_in_between(heard: dict[str, Heard], name: str) -> None:
    """Its pitch periods are PERIOD samples long: in the loudest frames the sound repeats itself after as many."""
    frames = np.stack(heard[name].frames)
    rms = np.sqrt(np.mean(np.square(frames), 1))
    loud = frames[rms > 0.5 * rms.max()]
    assert len(loud) > 10
    likeness = [float(np.corrcoef(frame[:-PERIOD], frame[PERIOD:])[0, 1]) for frame in loud]
    assert np.median(likeness) > 0.7
    assert rms[-8:].max() < 0.1 * rms.max()  # the answer is over, and nothing hums on


def test_the_caller_is_understood(heard: dict[str, Heard]) -> None:
    """Four words in five."""
    asked = {name: question.lower().split() for name, (question, _) in ASKED.items()}
    got = {name: call.understood.lower().split() for name, call in heard.items()}
    understood = sum(word in got[name] for name, words in asked.items() for word in words)
    assert understood >= 0.8 * sum(map(len, asked.values())), got
