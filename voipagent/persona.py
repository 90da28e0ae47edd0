"""Who answers: the personas, which call gets which, and what the engine is told of it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import product
from string import Formatter
from typing import Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from engine.slot import Prompt, Sampling
from signaling.call import CallOffer

PLACEHOLDERS = ("caller", "called", "date")

MOST_CHARACTERS = 32
"""Of a number or a name that a placeholder is filled with: it comes from the peer."""


class Persona(BaseModel):
    """One persona. Texts are the operator's own, so they go to the model as they are, their placeholders filled."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(default="agent", description="what the persona is called in records and logs")
    prompt: str = Field(
        default="",
        description="who the agent is and what it knows, with {caller}, {called} and {date} where wanted; "
        "how far it binds depends on the weights",
    )
    voice: str = Field(
        default="", description="a voice beside the weights, by name, or a .wav or .pt file; empty: the weights' own"
    )
    greeting: str = Field(default="", description="spoken first, word for word; empty: the model begins as it likes")
    language: str = Field(
        default="",
        description="what it speaks, such as en or de-AT, for the records; the weights speak what they have learnt",
    )
    temperature: float | None = Field(
        default=None, ge=0, le=2, description="of the words that are drawn; empty: as the weights are meant to be drawn"
    )

    @field_validator("prompt", "greeting")
    @classmethod
    def _fillable(cls, text: str) -> str:
        try:
            fields = [field for field in Formatter().parse(text) if field[1] is not None]
        except ValueError as error:
            raise ValueError(f"{error}; a brace that is meant is written twice") from None
        for _, name, form, conversion in fields:
            if name not in PLACEHOLDERS:
                known = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
                raise ValueError(f"there is no {{{name}}}, but {known}; a brace that is meant is written twice")
            if form or conversion:
                raise ValueError(f"{{{name}}} is filled in as it is, so that nothing else stands in its braces")
        return text

    @field_validator("language")
    @classmethod
    def _tagged(cls, language: str) -> str:
        if language and not re.fullmatch(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*", language):
            raise ValueError(f"{language!r} is no language tag (BCP 47), such as en, fr or de-AT")
        return language

    def engine_prompt(self) -> Prompt:
        """What a row is primed with before the call begins."""
        return Prompt(text=self.prompt, voice=self.voice)

    def filled(self, caller: str, called: str, now: datetime) -> Self:
        """The same with its placeholders filled. What comes from the peer is one word of letters and digits."""
        values = {"caller": _word(caller), "called": _word(called), "date": f"{now:%A, %d %B %Y}"}
        return self.model_copy(update={name: getattr(self, name).format(**values) for name in _FILLED})

    def draw(self, weights: Sampling, seed: int) -> Sampling:
        """How the tokens of a call are drawn: as the weights are meant to be, but for what is set here."""
        temperature = weights.text_temperature if self.temperature is None else self.temperature
        return replace(weights, seed=seed, text_temperature=temperature)


_FILLED = ("prompt", "greeting")


def _word(text: str) -> str:
    """Nothing in it reads like a sentence that the model should mind."""
    return re.sub(r"[^\w+.-]+", "", text)[:MOST_CHARACTERS] or "unknown"


class NamedPersona(Persona):
    """One of several; it answers what is listed here. Its name is that of the section, in lower case."""

    numbers: tuple[str, ...] = Field(
        default=(), description="called numbers that it answers; a * at the end stands for any digits"
    )
    callers: tuple[str, ...] = Field(
        default=(), description="callers whom it answers, as NUMBERS; whoever calls can claim to be one"
    )
    trunks: tuple[str, ...] = Field(default=(), description="trunks whose calls it answers, whatever was called")

    @model_validator(mode="after")
    def _sayable(self) -> Self:
        if wrong := [number for number in (*self.numbers, *self.callers) if not re.fullmatch(r"[^*]+\*?|\*", number)]:
            raise ValueError(f"{wrong[0]!r} is no number or user, such as +49301234, +4930*, or reception")
        return self


Rank: TypeAlias = tuple[int, int, int]
"""How well a persona fits a call: by the caller, by what was called, and by the trunk; 0 is not at all."""

NO_RANK: Rank = (0, 0, 0)


@dataclass(frozen=True)
class Personas:
    """Which persona a call gets. The one that is asked for by name, where its caller may ask; else the one for the
    caller; else the one whose number was called; the more of a number is given the better; else the one of the trunk;
    else `default`. Where a persona has several of these, all must be met, and that counts more than some of them alone.
    """

    default: Persona = field(default_factory=Persona)
    named: Mapping[str, NamedPersona] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if clashes := list(self._clashes()):
            raise ValueError(clashes[0])

    def __iter__(self) -> Iterator[Persona]:
        return iter((self.default, *self.named.values()))

    def of(self, offer: CallOffer) -> Persona:
        """The one for this call. (Whether a caller may ask for one by name is decided where the offer is made.)"""
        if offer.wanted in self.named:
            return self.named[offer.wanted]
        fits = [(rank, each) for each in self.named.values() if (rank := _rank(each, offer)) > NO_RANK]
        return max(fits, key=lambda fit: fit[0], default=(NO_RANK, self.default))[1]

    def find(self, name: str) -> Persona | None:
        """The one of that section or name; the default one for ""."""
        if not name:
            return self.default
        known = {self.default.name: self.default, **self.named}
        return known.get(name) or next((each for each in self if each.name == name), None)

    def _clashes(self) -> Iterator[str]:
        """Two that would answer the same call with the same right."""
        claims: dict[tuple[str, ...], str] = {}
        for name, persona in self.named.items():
            for claim in product(persona.numbers or ("",), persona.callers or ("",), persona.trunks or ("",)):
                if any(claim) and (other := claims.setdefault(_normal(*claim), name)) != name:
                    called, caller, trunk = claim
                    what = " on trunk ".join(filter(None, (" from ".join(filter(None, (called, caller))), trunk)))
                    yield f"{what} is answered by both {other!r} and {name!r}; leave it to one of them"


def _normal(called: str, caller: str, trunk: str) -> tuple[str, ...]:
    return bare_number(called), bare_number(caller), trunk


def bare_number(number: str) -> str:
    """A number without what is written differently from trunk to trunk: +49 30, 0049 30 and 49 30 are the same."""
    return re.sub(r"^(\+|00)|(?<=\d)[ ().-]+(?=\d)", "", number.lower())


def _rank(persona: NamedPersona, offer: CallOffer) -> Rank:
    """How well it fits; NO_RANK where any of what it asks for is not met."""
    parts = (
        (persona.callers, _given(persona.callers, offer.caller)),
        (persona.numbers, _given(persona.numbers, offer.callee)),
        (persona.trunks, int(offer.trunk in persona.trunks)),
    )
    if any(wanted and not met for wanted, met in parts):
        return NO_RANK
    caller, called, trunk = (met for _, met in parts)
    return caller, called, trunk


def _given(numbers: Iterable[str], number: str) -> int:
    """How much of `number` is given by the one of `numbers` that fits it best; 0 where none does."""
    bare = bare_number(number)
    return max(
        (
            2 * len(bare_number(each).rstrip("*")) + 1 + (not each.endswith("*"))
            for each in numbers
            if (bare.startswith(bare_number(each[:-1])) if each.endswith("*") else bare == bare_number(each))
        ),
        default=0,
    )


def those_there(personas: Iterable[str]) -> str:
    """What to say to who names one that there is not."""
    names = ", ".join(personas)
    return f"there is {names}" if names else "there is none but the default one"


def name_each(personas: dict[str, NamedPersona]) -> dict[str, NamedPersona]:
    """Each called as its section is, unless it has a name. Raises ValueError where two would answer the same call."""
    named = {
        key: persona if "name" in persona.model_fields_set else persona.model_copy(update={"name": key})
        for key, persona in personas.items()
    }
    Personas(named=named)
    return named
