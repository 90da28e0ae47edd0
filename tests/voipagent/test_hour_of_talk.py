"""An hour of the embedded model, asked something every quarter of a minute, as fast as it can be stepped.

No watchdog finds anything in calls that go as calls go; and whether the name that it greeted with is its name an hour
later is measured, and printed: that the row is told it after every trim is the session's doing, and asserted.
"""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from engine.local import LocalEngine
from engine.pocket import FOLDER
from engine.pocket.recipe.domain import TELLING, load_domain
from engine.slot import Frame, Slot
from tests.fakes import SILENCE
from tests.voipagent.longcall import Watched, hold_call
from tests.voipagent.test_recall import flite
from voipagent.events import Event, Troubled
from voipagent.persona import Persona
from voipagent.recording import Recorder
from voipagent.story import tell_facts
from voipagent.trim import Memory

PERSONA = Persona(prompt="You are Emma from Blue Harbor. Greet with Hello.")
WHO = "what is your name"
GREETED, FRAMES_A_MINUTE, FRAME_S = 60, 750, 0.08
TURN = 190
"""Frames from a question to the next."""

ANSWERED = 80


@cache
def spoken(text: str, number: int) -> tuple[Frame, ...]:
    return tuple(flite(text, number))


@cache
def questions() -> tuple[str, ...]:
    """Three wordings of everything that a caller may ask, in an order of no meaning; nobody says goodbye."""
    intents = load_domain().intents
    kinds = [name for name in intents if name not in {*TELLING, "goodbye"}]
    asked = [(wording, name) for name in kinds for wording in intents[name].wordings["train"][:3]]
    order = np.random.default_rng(3).permutation(len(asked))
    return tuple(asked[place][0] for place in order if "{" not in asked[place][0])


class Talk:
    """One caller of so many minutes, who asks the agent's name as the last thing."""

    def __init__(self, number: int, minutes: int, slot: Slot) -> None:
        self.number, self.frames_long = number, minutes * FRAMES_A_MINUTE
        self.row = Watched(slot)
        self.troubles: list[tuple[float, str]] = []
        self.asked_at = 0

    def __call__(self, call_id: str, event: Event) -> None:
        if isinstance(event, Troubled):
            self.troubles.append((event.at, event.trouble))

    def frames(self) -> Iterator[Frame]:
        """All that the agent hears."""
        yield from itertools.repeat(SILENCE, GREETED)
        asking = itertools.cycle(questions()[17 * self.number :] + questions()[: 17 * self.number])
        while len(self.row.texts) < self.frames_long - TURN:
            said = spoken(next(asking), self.number)
            yield from said
            yield from itertools.repeat(SILENCE, TURN - len(said))
        self.asked_at = len(self.row.texts)
        yield from spoken(WHO, self.number)
        yield from itertools.repeat(SILENCE, ANSWERED)

    @property
    def greeting(self) -> str:
        return self.row.said(0, GREETED)

    def before(self, at: float) -> str:
        """What it said in the quarter of a minute before a time."""
        frame = round(at / FRAME_S)
        return self.row.said(max(0, frame - TURN), frame)

    @property
    def last(self) -> str:
        return self.row.said(self.asked_at)


def named(text: str) -> set[str]:
    """Agents' names in it."""
    return set(load_domain().lists["agent"]) & set(re.findall(r"[A-Z][a-z]+", text))


@pytest.mark.peer("flite")
@pytest.mark.acceptance
@pytest.mark.parametrize(("calls", "minutes"), [(1, 2), (4, 15), (1, 60)])
async def test_an_hour(recorder: Recorder, tmp_path: Path, calls: int, minutes: int) -> None:
    async with LocalEngine(str(FOLDER), rows=calls, device="cpu") as engine:

        async def call(number: int) -> tuple[Talk, int]:
            async with engine.open(engine.sampling) as slot:
                talk = Talk(number, minutes, slot)
                memory = Memory(tell=tell_facts)
                left = await hold_call(slot, recorder, tmp_path, talk.frames(), memory, PERSONA, observers=[talk])
                assert not any(trim["error"] for trim in left["trims"])
                return talk, len(left["trims"])

        held = await asyncio.gather(*(call(number) for number in range(calls)))
    for talk, trims in held:
        spoken_frames = sum(bool(text) for text in talk.row.texts)
        print(
            f"\n{len(talk.row.texts) * 0.08 / 60:.1f} minutes, {trims} trims, words in {spoken_frames} frames; greeted "
            f"{talk.greeting!r}, at the end: {talk.last!r}; names {named(talk.greeting)} {named(talk.last)}; "
            f"watchdogs: {[(at, what, talk.before(at)) for at, what in talk.troubles]}"
        )
        assert trims >= minutes
        assert all(prompt.text.startswith(PERSONA.prompt) for prompt in talk.row.prompts)
        assert spoken_frames > 20 * minutes
        assert not talk.troubles
