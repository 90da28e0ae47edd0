"""Windows in which nobody wants anything of the agent: noise alone, and what is heard while it speaks.

When to keep silent, and when to go on, is learnt slowest from whole calls: most of a call is something else. So these
begin where it matters. Some of those into an answer are real interruptions, for the two to be told apart.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from engine.pocket.prompt import render
from engine.pocket.recipe.channel import NOISES as HISSES
from engine.pocket.recipe.channel import noise
from engine.pocket.recipe.dialogues import (
    ANSWERED,
    FRAMES,
    GREETING,
    INTERRUPTS_S,
    LEAD,
    SILENCE_FRAMES,
    Composer,
    Progress,
    Timeline,
    Turn,
)
from engine.pocket.recipe.domain import State
from engine.pocket.recipe.formats import Audio, Dialogue, Event
from engine.pocket.recipe.noises import NOISES
from engine.pocket.recipe.voices import LEVEL
from engine.slot import FRAME_SAMPLES, SAMPLE_RATE

KINDS = {
    **{"quiet": 0.12, "greeted": 0.2, "call": 0.05, "missed": 0.12},
    **{"mutter": 0.25, "interruption": 0.19, "nothing": 0.07},
}
"""What happens: noise alone, behind a greeting, or through a whole call, or a question that was not answered; into an
answer a mutter, a question, at most a cough."""

MISSED = 20
"""Frames behind a question that was not answered, in which it still may be."""

BEDS = {"music": 0.2, "keys": 0.2, "hiss": 0.2, "tone": 0.1, "cough": 0.1, "knock": 0.1, "breath": 0.1}
"""What noise lasts, and how often."""

QUIET = (40, SILENCE_FRAMES)
"""Frames of a window with noise alone: less than the agent's own patience."""

SPEAKS = LEAD + 1
"""The frame in which the agent is heard, in a window that begins with it."""

LONG = 16
"""Frames of an answer that somebody may talk into."""

THEN = (10, 24)
"""Frames behind an answer that was heard out."""


def compose(composer: Composer, random: np.random.Generator) -> Dialogue:
    """One of them. The prompt of a call says who is speaking; a window's is of no use, for it begins in the middle."""
    kind = str(random.choice(list(KINDS), p=list(KINDS.values())))
    if kind == "quiet":
        return _quiet(composer, random)
    if kind == "missed":
        return _missed(composer, random)
    return _talking(composer, random, kind) if kind not in {"greeted", "call"} else _greeted(composer, random, kind)


def _quiet(composer: Composer, random: np.random.Generator) -> Dialogue:
    line = Timeline(int(random.integers(*QUIET)), composer.clips, composer.encode)
    _hear_bed(line, int(random.integers(0, 12)), random)
    return composer.finished(random, line, "")


def _missed(composer: Composer, random: np.random.Generator) -> Dialogue:
    """A question was not answered, for whatever reason: the agent asks as it does in any other silence.

    That it is not answered is not asked for.
    """
    call = Progress(State(composer.domain.persona(random, composer.split)), *composer.caller(random))
    turn = composer.turn(random, call, story=False)
    sample = int(random.integers(2 * FRAME_SAMPLES, 10 * FRAME_SAMPLES))
    end = int(sample + turn.end_s * SAMPLE_RATE) // FRAME_SAMPLES
    line = Timeline(end + SILENCE_FRAMES + int(random.integers(8, 24)), composer.clips, composer.encode)
    line.hear(turn.audio, sample, turn.words, turn.phones)
    line.events.append(Event("missed", end + MISSED))
    call.quiet, call.over = end, turn.wording.intent == "goodbye"
    composer.wait(line, call, line.frames)
    return composer.finished(random, line, "")


def _greeted(composer: Composer, random: np.random.Generator, kind: str) -> Dialogue:
    """The agent greets, and in a whole call asks, into what is no silence but nobody either."""
    persona = composer.domain.persona(random, composer.split)
    greeting = composer.domain.greeting(persona)
    end = GREETING + composer.length(greeting)
    line = Timeline(FRAMES if kind == "call" else end + int(random.integers(*QUIET)), composer.clips, composer.encode)
    call = Progress(State(persona), "")
    composer.say(line, call, greeting, GREETING, Event("greeting", GREETING))
    _hear_bed(line, end + int(random.integers(0, 20)), random)
    composer.wait(line, call, line.frames)
    return composer.finished(random, line, render(persona.text))


def _talking(composer: Composer, random: np.random.Generator, kind: str) -> Dialogue:
    """The agent is speaking as the window begins, and goes on unless it is a question that is heard."""
    persona = composer.domain.persona(random, composer.split)
    said = _long_answer(composer, random, composer.domain.greeting(persona))
    end = SPEAKS + composer.length(said)
    call = Progress(State(persona, last=said), *composer.caller(random), turns=2)
    turn = _interrupting(composer, random, call) if kind == "interruption" else None
    start, frames = 0, end + int(random.integers(*THEN))
    if turn:
        start = int(random.integers(SPEAKS + 4, end - 6))
        frames = start + int(turn.end_s * SAMPLE_RATE) // FRAME_SAMPLES + ANSWERED
    line = Timeline(frames, composer.clips, composer.encode)
    composer.say(line, call, said, SPEAKS, Event("answer", SPEAKS))
    if turn:
        composer.ask(random, line, call, turn, start)
    elif kind == "mutter":
        for _ in range(1 + (random.random() < 0.3)):
            composer.mutter(random, line, call, int(random.integers(SPEAKS + 3, end - 8)))
    elif random.random() < 0.5:
        composer.noise(random, line, int(random.integers(SPEAKS, end)))
    return composer.finished(random, line, "")


def _long_answer(composer: Composer, random: np.random.Generator, greeting: tuple[str, ...]) -> tuple[str, ...]:
    """Any that one may talk into, or, one time in five, a greeting."""
    long = [answer for answer in composer.domain.answers() if composer.length(answer) >= LONG]
    return greeting if not long or random.random() < 0.2 else long[int(random.integers(len(long)))]


def _interrupting(composer: Composer, random: np.random.Generator, call: Progress) -> Turn | None:
    """A question that is long enough to be one, if one comes up."""
    for _ in range(10):
        turn = composer.turn(random, call, story=False)
        if turn.end_s - turn.start_s >= INTERRUPTS_S:
            return turn
    return None


def _hear_bed(line: Timeline, start: int, random: np.random.Generator) -> None:
    """One kind of noise, from frame `start` to the end."""
    name = str(random.choice(list(BEDS), p=list(BEDS.values())))
    made: Callable[[np.random.Generator], Audio] = NOISES.get(name, _hiss)
    samples = max(0, line.frames - start) * FRAME_SAMPLES
    parts: list[Audio] = []
    while sum(map(len, parts)) < samples:
        parts += [made(random), np.zeros(int(random.integers(SAMPLE_RATE // 2)), np.float32)]
    if parts:
        line.hear(np.concatenate(parts)[:samples], start * FRAME_SAMPLES)
        line.events.append(Event("noise", start, text=name))


def _hiss(random: np.random.Generator) -> Audio:
    """Some seconds of what a line has of its own, but loud."""
    level = np.float32(LEVEL * random.uniform(0.1, 0.6))
    return noise(HISSES[int(random.integers(len(HISSES)))], int(random.uniform(2, 8) * SAMPLE_RATE), random) * level
