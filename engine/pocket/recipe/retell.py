"""Calls told anew: the caller and the sound stay, the persona and the facts are others.

What the agent takes from its prompt is learnt from many prompts, and a prompt needs no recording: of coded calls the
greetings, and the answers that name somebody or something, are written again as often as one likes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from engine.pocket.prompt import render
from engine.pocket.recipe.corpus import FRAME_S
from engine.pocket.recipe.dialogues import GREETING, Encode, Timeline
from engine.pocket.recipe.domain import ASKING, TELLING, Domain, Facts, Persona, State, Wording
from engine.pocket.recipe.formats import Clip, Dialogue, Event

GREETED = (48, 64)
"""Frames of a call's beginning: at least so many must pass before the caller speaks, and at most so many are told."""

GREETINGS = 0.2
"""Of what is told anew, those; the others are answers."""

NOBODY = 0.5
"""Of the answers, those of an agent who is told nothing but the caller's facts: what is short is sooner read."""

ASKED_OFTEN = 4
"""How many times as often as another answer that of a fact: which digit comes next is harder than who it is."""

RECITED_FRAMES = 24
"""Of a caller, while nothing but the prompt is asked for."""

AFTER = 8
"""Frames that an answer's end is followed by: that nothing comes after it is to be learnt, too."""

FACT = 0.8
"""How likely the caller has told a fact."""


class Retelling:
    """Draws examples from coded `windows` and `calls`."""

    def __init__(
        self,
        domain: Domain,
        clips: Sequence[Clip],
        encode: Encode,
        windows: Sequence[Dialogue],
        calls: Sequence[Dialogue],
    ) -> None:
        self._domain, self._clips, self._encode = domain, clips, encode
        self._greeted = [call for call in calls if _is_greeted(call)]
        asked = [window for window in windows if _told_answer(window, domain)]
        self._asked = [each for each in asked for _ in range(_often(_told_answer(each, domain)[0].intent))]

    def __bool__(self) -> bool:
        """Whether there is anything to tell anew: a caller who hears out the greeting."""
        return bool(self._greeted)

    def draw(self, random: np.random.Generator) -> Dialogue:
        """A call's beginning, or a window."""
        if not self._asked or random.random() < GREETINGS:
            return self._begun(self._greeted[int(random.integers(len(self._greeted)))], random)
        return self._answered(self._asked[int(random.integers(len(self._asked)))], random)

    def recited(self, random: np.random.Generator) -> Dialogue:
        """A prompt that tells much, and some of a call behind it in which the agent says nothing."""
        call = self._greeted[int(random.integers(len(self._greeted)))]
        assert call.codes is not None
        first = int(random.integers(max(1, call.frames - RECITED_FRAMES)))
        line = Timeline(min(call.frames, RECITED_FRAMES), self._clips, self._encode)
        persona, facts = self._persona(random), self._facts(random)
        return replace(
            call,
            prompt=render(persona.text, _known(facts)),
            schedule=line.schedule,
            text=line.text,
            codes=call.codes[first : first + line.frames],
            heard=(),
            events=(),
        )

    def _persona(self, random: np.random.Generator) -> Persona:
        return Persona() if random.random() < NOBODY else self._domain.persona(random)

    def _facts(self, random: np.random.Generator) -> Facts:
        name = str(random.choice(self._domain.lists["name"])) if random.random() < FACT else ""
        return Facts(name, self._domain.number(random) if random.random() < FACT else "")

    def _begun(self, call: Dialogue, random: np.random.Generator) -> Dialogue:
        """A call up to where the caller speaks, greeted by somebody else."""
        assert call.codes is not None
        frames, persona = min(GREETED[1], _quiet_until(call)), self._domain.persona(random)
        greeting = self._domain.greeting(persona)
        line = Timeline(frames, self._clips, self._encode)
        line.speak([self._domain.index[clip] for clip in greeting], GREETING)
        event = Event("greeting", GREETING, text=self._domain.clip_text(greeting))
        return replace(
            call,
            prompt=render(persona.text),
            schedule=line.schedule,
            text=line.text,
            codes=call.codes[:frames],
            heard=(),
            events=(event,),
        )

    def _answered(self, window: Dialogue, random: np.random.Generator) -> Dialogue:
        """A window with another answer to the same question."""
        asked, answer = _told_answer(window, self._domain)
        persona, facts = self._persona(random), self._facts(random)
        told = self._domain.answer(Wording(asked.text, asked.intent), State(persona, facts))
        clips = [self._domain.index[clip] for clip in told]
        end = answer.frame + sum(self._clips[clip].frames for clip in clips)
        frames = min(window.frames, end + AFTER)
        line = Timeline(frames, self._clips, self._encode)
        line.speak(clips, answer.frame)
        assert window.codes is not None
        return replace(
            window,
            prompt=render(persona.text, _known(facts)),
            schedule=line.schedule,
            text=line.text,
            codes=window.codes[:frames],
            heard=tuple(word for word in window.heard if word.end_s <= frames * FRAME_S),
            events=(asked, replace(answer, text=self._domain.clip_text(told))),
        )


def _often(intent: str) -> int:
    return ASKED_OFTEN if intent in ASKING else 1


def _known(facts: Facts) -> dict[str, str]:
    return {kind: value for kind, value in (("name", facts.name), ("number", facts.number)) if value}


def _is_greeted(call: Dialogue) -> bool:
    return any(event.kind == "greeting" for event in call.events) and _quiet_until(call) >= GREETED[0]


def _quiet_until(call: Dialogue) -> int:
    """The first frame of whatever is heard."""
    return min((event.start for event in call.events if event.kind == "question"), default=call.frames)


def _told_answer(window: Dialogue, domain: Domain) -> tuple[Event, ...]:
    """The question and its answer, where that names what the prompt told and nothing else is said; else nothing."""
    said = tuple(event for event in window.events if event.kind != "noise")
    fits = [event.kind for event in said] == ["question", "answer"] and said[0].intent in domain.naming - TELLING.keys()
    return said if fits else ()
