"""Who answers: the personas, which call gets which, and what the engine is told of it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from string import Formatter
from typing import Self

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
    temperature: float | None = Field(
        default=None, ge=0, le=2, description="of the words that are drawn; empty: as the weights are meant to be drawn"
    )

    @field_validator("prompt", "greeting")
    @classmethod
    def _fillable(cls, text: str) -> str:
        try:
            names = [name for _, name, _, _ in Formatter().parse(text) if name is not None]
        except ValueError as error:
            raise ValueError(f"{error}; a brace that is meant is written twice") from None
        if wrong := [name for name in names if name not in PLACEHOLDERS]:
            known = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
            raise ValueError(f"there is no {{{wrong[0]}}}, but {known}; a brace that is meant is written twice")
        return text

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
    trunks: tuple[str, ...] = Field(default=(), description="trunks whose calls it answers, whatever was called")

    @model_validator(mode="after")
    def _sayable(self) -> Self:
        if wrong := [number for number in self.numbers if not re.fullmatch(r"[^*]+\*?|\*", number)]:
            raise ValueError(f"{wrong[0]!r} is no number or user, such as +49301234, +4930*, or reception")
        return self


@dataclass(frozen=True)
class Personas:
    """Which persona a call gets. The one whose number was called, the more of it is given the better; else the one of
    the trunk; else `default`. Where a persona has both, both must be met, and that counts more than a number alone.
    """

    default: Persona = field(default_factory=Persona)
    named: Mapping[str, NamedPersona] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if clashes := list(self._clashes()):
            raise ValueError(clashes[0])

    def __iter__(self) -> Iterator[Persona]:
        return iter((self.default, *self.named.values()))

    def of(self, offer: CallOffer) -> Persona:
        """The one for this call."""
        if offer.wanted in self.named:
            return self.named[offer.wanted]
        fits = [(rank, each) for each in self.named.values() if (rank := _rank(each, offer)) > (0, 0)]
        return max(fits, key=lambda fit: fit[0], default=((0, 0), self.default))[1]

    def _clashes(self) -> Iterator[str]:
        """Two that would answer the same call with the same right."""
        claims: dict[tuple[str, str], str] = {}
        for name, persona in self.named.items():
            for claim in ((number, trunk) for number in persona.numbers or ("",) for trunk in persona.trunks or ("",)):
                if claim != ("", "") and (other := claims.setdefault(_normal(claim), name)) != name:
                    what = " on trunk ".join(part for part in claim if part)
                    yield f"{what} is answered by both {other!r} and {name!r}; leave it to one of them"


def _normal(claim: tuple[str, str]) -> tuple[str, str]:
    return bare_number(claim[0]), claim[1]


def bare_number(number: str) -> str:
    """A number without what is written differently from trunk to trunk: +49 30, 0049 30 and 49 30 are the same."""
    return re.sub(r"^(\+|00)|(?<=\d)[ ().-]+(?=\d)", "", number.lower())


def _rank(persona: NamedPersona, offer: CallOffer) -> tuple[int, int]:
    """How well it fits: given digits plus one, and whether the trunk is its own; (0, 0) where it does not."""
    trunk = offer.trunk in persona.trunks
    if persona.trunks and not trunk:
        return 0, 0
    if not persona.numbers:
        return 0, int(trunk)
    called = bare_number(offer.callee)
    digits = [
        2 * len(bare_number(number).rstrip("*")) + 1 + (not number.endswith("*"))
        for number in persona.numbers
        if (called.startswith(bare_number(number[:-1])) if number.endswith("*") else called == bare_number(number))
    ]
    return (max(digits), int(trunk)) if digits else (0, 0)


def name_each(personas: dict[str, NamedPersona]) -> dict[str, NamedPersona]:
    """Each called as its section is, unless it has a name. Raises ValueError where two would answer the same call."""
    named = {
        key: persona if "name" in persona.model_fields_set else persona.model_copy(update={"name": key})
        for key, persona in personas.items()
    }
    Personas(named=named)
    return named
