"""What the embedded model is told, from the one template in prompt.toml, and how foreign text is made fit for it.

Standard library only: the generator of its training data and a call's context both import this.
"""

from __future__ import annotations

import re
import tomllib
import unicodedata
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
"""A number is told in words, digit by digit, as it is said."""


def render(persona: str, known: Mapping[str, str] | None = None) -> str:
    """The prompt's text, without the tags that the layout puts around it.

    `known` None is a call's beginning. Else the call goes on, and these are the facts that the caller told: `name` and
    `number`, {} if none. All of it is cleaned. Raises ValueError for a fact of another name.

    >>> render("You are Emma.", {"name": "Maria", "number": "352"})
    'You are Emma. Known: name= Maria; number= three five two.'
    """
    template = _template()
    persona = clean(persona, template["persona"])
    if known is None:
        return str(template["first"]).format(persona=persona).strip()
    if unknown := sorted(known.keys() - template["facts"].keys()):
        raise ValueError(f"the prompt has no fact {unknown[0]!r}; it has {', '.join(template['facts'])}")
    facts = {name: _value(known.get(name, ""), limit) for name, limit in template["facts"].items()}
    told = [template["fact"].format(name=name, value=value) for name, value in facts.items() if value]
    text = template["between"].join(told) or template["nothing"]
    return str(template["resumed"]).format(persona=persona, facts=text).strip()


def clean(text: str, most: int) -> str:
    """One line of at most so many characters, ended at a word, without tags, control and formatting characters."""
    text = unicodedata.normalize("NFC", text)
    text = "".join(" " if unicodedata.category(character)[0] in "CZ" else character for character in text)
    while (bare := re.sub(r"<[^<>]*>", " ", text)) != text:  # a tag within a tag
        text = bare
    text = " ".join(re.sub(r"[<>]", " ", text).split())
    if len(text) <= most:
        return text
    whole, _, _ = text[: most + 1].rpartition(" ")
    return whole or text[:most]


def _value(text: str, most: int) -> str:
    """A fact's value: nothing in it can end it or begin another."""
    text = re.sub(r"[;=.]", " ", clean(text, most))
    text = re.sub(r"[0-9]", lambda digit: f" {DIGITS[int(digit[0])]} ", text)
    return clean(text, most)


@cache
def _template() -> dict[str, Any]:
    return tomllib.loads(Path(__file__).with_name("prompt.toml").read_text(encoding="utf-8"))
