"""What is known in a call, as labels: which agent, company, greeting and caller's name, and which digits.

A language model finds out only after very many examples that a word of its prompt, or of the caller's, is what it is to
say dozens of frames later. Heads that are asked at any frame of a call what it was told so far have it look there
within a few hundred steps; what it knows there it soon says.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TypeAlias

from engine.pocket.recipe.domain import TELLING, Domain
from engine.pocket.recipe.formats import Event

LISTS = ("agent", "company", "greeting")
"""What personas tell."""

DIGITS = 4
"""Most digits of a number."""

Told: TypeAlias = tuple[int, ...]
"""A label for each of `kinds`; 0: nobody told."""

HEARD = 2
"""Frames after a question's last: then all of it can be known."""


def kinds(domain: Domain) -> tuple[int, ...]:
    """How many labels there are: of each of LISTS, of the caller's name, of each digit."""
    lists = [len(domain.lists[kind]) for kind in (*LISTS, "name")]
    return tuple(1 + size for size in (*lists, *[len(domain.lists["digit"])] * DIGITS))


def told_by(prompt: str, domain: Domain) -> Told:
    """The labels of a prompt's text, as `render` makes it. A stranger's name is nobody's."""
    persona, _, known = prompt.partition("Known: ")
    told = (fact.partition("=") for fact in known.removesuffix(".").split("; "))
    facts = {name: value.strip() for name, _, value in told}
    of_lists = [_only(persona, domain.lists[kind]) for kind in LISTS]
    return (*of_lists, *_of_facts(facts, domain))


def told_so_far(prompt: str, events: Iterable[Event], domain: Domain) -> tuple[tuple[int, Told], ...]:
    """What is known from which frame of the call on, in order: by its prompt, and by what the caller tells."""
    known = [(0, told_by(prompt, domain))]
    for event in events:
        if event.kind == "question" and event.intent in TELLING:
            name, *digits = _of_facts({TELLING[event.intent]: event.slot}, domain)
            before = known[-1][1]
            persona, (was, *were) = before[: len(LISTS)], before[len(LISTS) :]
            facts = (name, *were) if TELLING[event.intent] == "name" else (was, *digits)
            known.append((event.frame + HEARD, (*persona, *facts)))
    return tuple(known)


def _of_facts(facts: Mapping[str, str], domain: Domain) -> Told:
    digits = facts.get("number", "").split()[:DIGITS]
    digits += [""] * (DIGITS - len(digits))
    name = _place(facts.get("name", ""), domain.lists["name"])
    return (name, *(_place(digit, domain.lists["digit"]) for digit in digits))


def _only(text: str, values: tuple[str, ...]) -> int:
    """The place of the one value that is a word of the text."""
    found = [place for place, value in enumerate(values, 1) if re.search(rf"\b{re.escape(value)}\b", text)]
    return found[0] if len(found) == 1 else 0


def _place(value: str, values: tuple[str, ...]) -> int:
    return 1 + values.index(value) if value in values else 0
