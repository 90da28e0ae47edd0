"""What a prompt tells is read from its text as it was told."""

from __future__ import annotations

import numpy as np
import pytest

from engine.pocket.prompt import render
from engine.pocket.recipe.domain import Persona, load_domain
from engine.pocket.recipe.formats import Event, Split
from engine.pocket.recipe.told import DIGITS, HEARD, LISTS, kinds, told_by, told_so_far

DOMAIN = load_domain()


def placed(kind: str, value: str) -> int:
    return 1 + DOMAIN.lists[kind].index(value) if value else 0


def labels(persona: Persona, name: str, number: str) -> tuple[int, ...]:
    digits = [*number.split(), *[""] * DIGITS][:DIGITS]
    said = [placed(kind, getattr(persona, kind)) for kind in LISTS]
    return (*said, placed("name", name), *(placed("digit", digit) for digit in digits))


@pytest.mark.parametrize("split", ["train", "held-out"])
def test_the_labels_are_what_the_prompt_was_made_of(split: Split) -> None:
    random = np.random.default_rng(5)
    for _ in range(500):
        persona = DOMAIN.persona(random, split)
        name = str(random.choice(["", *DOMAIN.lists["name"]]))
        number = DOMAIN.number(random) if random.random() < 0.7 else ""
        known = {kind: value for kind, value in (("name", name), ("number", number)) if value}
        assert told_by(render(persona.text, known), DOMAIN) == labels(persona, name, number)
        assert told_by(render(persona.text), DOMAIN) == labels(persona, "", "")


def test_nothing_is_told_by_nothing_nor_by_strangers_names() -> None:
    nobody = (0,) * len(kinds(DOMAIN))
    assert told_by("", DOMAIN) == told_by(render("", {}), DOMAIN) == nobody
    assert told_by(render("You are Zelda.", {"name": "Beate"}), DOMAIN) == nobody


def test_each_label_is_one_of_its_kind() -> None:
    persona = "You are Alice from Golden Gate. Greet with Welcome."
    told = told_by(render(persona, {"name": "Henry", "number": "9999"}), DOMAIN)
    assert [label + 1 for label in told] == list(kinds(DOMAIN))


def test_what_the_caller_tells_is_known_once_it_is_heard_and_the_rest_stays() -> None:
    events = (
        Event("question", 30, 10, "hours", "when"),
        Event("question", 60, 40, "tell_number", "it is four two", "four two"),
        Event("answer", 65, 60, "tell_number"),
        Event("question", 90, 80, "tell_name", "I am Peter", "Peter"),
    )
    emma, maria, number = Persona(agent="Emma"), "Maria", "three five two"
    known = told_so_far(render("You are Emma.", {"name": maria, "number": number}), events, DOMAIN)
    assert known == (
        (0, labels(emma, maria, number)),
        (60 + HEARD, labels(emma, maria, "four two")),
        (90 + HEARD, labels(emma, "Peter", "four two")),
    )
