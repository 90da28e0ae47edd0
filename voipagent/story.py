"""What a call was about, as far as it went: the facts that the caller told, and a few of the words. No I/O.

A row that is primed anew in the middle of a call knows its persona and this, so it is bounded: every token is a frame.
What a fact says is taken from the agent's own words where it read them back, because those are known exactly; what the
caller said is as good as the ear that heard it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from engine.pocket.prompt import DIGITS, clean, render
from voipagent.context import Line

MOST_CHARACTERS = 1_200
"""Of a story's text, before it is measured in frames. Six frames are about a word and a half."""

_DIGIT = rf"(?:{'|'.join(DIGITS)}|oh|\d)"
_RUN = rf"({_DIGIT}(?:[ ,.-]*{_DIGIT}){{1,19}})(?![a-z\d])"
_WORD = r"([A-Z][a-z'-]+(?: [A-Z][a-z'-]+)?)"

_READ_BACK = {
    "name": re.compile(
        rf"\b(?:[Tt]hank you|[Tt]hanks|[Nn]ice to meet you|[Yy]our name is|[Hh]ello|[Hh]i),? {_WORD}\s*(?:[.!?,]|$)"
    ),
    "number": re.compile(rf"\b(?:you said|your (?:\w+ )?number is|i (?:have|noted|heard)),? {_RUN}", re.I),
}
_TOLD = {
    "name": re.compile(rf"(?:\b[Mm]y name is|\b[Cc]all me|\bI am|\bI'm|\b[Tt]his is|\b[Ii]t's),? {_WORD}"),
    "number": re.compile(rf"\b(?:number|code|it is|it's|is) ?{_RUN}", re.I),
}
_DAYS = frozenset({"Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"})
_NO_NAMES = _DAYS | {"Goodbye", "Bye", "Sir", "Madam", "Yes", "No", "Okay"}


@dataclass(frozen=True, slots=True)
class Story:
    """`facts`: `name` and `number` of the caller, where they are known. `text`: what else is worth a frame."""

    facts: Mapping[str, str] = field(default_factory=dict)
    text: str = ""

    def __str__(self) -> str:
        known = [f"The caller's {name} is {value}." for name, value in self.facts.items()]
        return " ".join([*known, self.text]).strip()

    def shorter(self) -> Story | None:
        """The same with a quarter less text, its oldest words gone first; then without; None if there is no less."""
        if words := self.text.split():
            return Story(self.facts, " ".join(words[(len(words) + 3) // 4 :]))
        return Story() if self.facts else None


Telling: TypeAlias = Callable[[str, Story], str]
"""Persona text and story -> the text of the prompt that a call goes on with."""


def tell_facts(persona: str, story: Story) -> str:
    """As the embedded model was taught it: its template, the facts alone."""
    return render(persona, story.facts)


def tell_all(persona: str, story: Story) -> str:
    """For weights that take any text: the persona, then the story, cleaned of tags and control characters."""
    told = clean(str(story), MOST_CHARACTERS)
    return f"{persona} The call so far: {told}" if told else persona


def extract(lines: Sequence[Line], words: int = 120) -> Story:
    """The facts, and the last lines of both sides in at most so many words; of what the agent says, answers only."""
    return Story(_facts(lines), _last_words(lines, words))


def carried(last: Story, found: Story) -> Story:
    """What was found in the last lines, with the facts that stood in those before."""
    return replace(found, facts={**last.facts, **found.facts})


def _facts(lines: Sequence[Line]) -> dict[str, str]:
    found = {name: _latest(lines, name) for name in ("name", "number")}
    return {name: value for name, value in found.items() if value}


def _latest(lines: Sequence[Line], fact: str) -> str:
    """What the agent read back last; else what the caller told last."""
    for role, patterns in (("agent", _READ_BACK), ("caller", _TOLD)):
        for line in reversed(lines):
            if line.role == role and (values := list(_values(patterns[fact], line.text))):
                return values[-1]
    return ""


def _values(pattern: re.Pattern[str], text: str) -> Iterable[str]:
    for match in pattern.finditer(text):
        value = re.sub(r"[ ,.-]+", " ", match[1]).strip()
        if value.split()[0] not in _NO_NAMES:
            yield value


def _last_words(lines: Sequence[Line], words: int) -> str:
    """From the end backwards, whole lines while they fit."""
    told: list[str] = []
    for line in reversed(lines):
        said = f"{line.speaker or line.role.capitalize()}: {line.text}"
        words -= len(said.split())
        if words < 0:
            break
        told.append(said)
    return " ".join(reversed(told))
