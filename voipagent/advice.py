"""What the loaded weights will not obey of a persona: better told than found out by a caller. No I/O."""

from __future__ import annotations

import re
from collections.abc import Iterator

from engine.slot import PromptSize
from voipagent.persona import Persona

POCKET = "pocket"

POCKET_NAMES = ("Emma", "Anna", "Julia", "Laura", "Grace", "Alice")
"""The agents' names that the embedded model was trained on: `engine/pocket/recipe/domain.yaml`."""

ENGLISH = re.compile(r"pocket|kyutai/moshi.*|nvidia/personaplex.*")
"""Weights that are known to speak English alone."""


def advice(persona: Persona, model: str, style: str, size: PromptSize) -> list[str]:
    """One line for each thing; `model` is VOIPAGENT_ENGINE__MODEL, `style` that of the engine's prompts."""
    return list(_pocket(persona) if model == POCKET else _prompt(persona, style, size)) + list(
        _language(persona, model)
    )


def _pocket(persona: Persona) -> Iterator[str]:
    if persona.greeting:
        yield (
            "the embedded model says the sentences of its own list only, and greets by itself: GREETING gives a voice "
            "that is hard to understand"
        )
    if persona.prompt:
        yield "the embedded model heeds little of a prompt, in four calls of ten all of it: its greeting, its names"
    named = re.search(r"\b(?:[Yy]ou are|[Yy]our name is|I am) ([A-Z]\w+)", persona.prompt)
    if named and named[1] not in POCKET_NAMES:
        yield f"the embedded model knows the names {', '.join(POCKET_NAMES)}, and will not call itself {named[1]}"


def _prompt(persona: Persona, style: str, size: PromptSize) -> Iterator[str]:
    if persona.prompt and (style == "none" or not size.tokens):
        yield "these weights are told nothing: PROMPT has no effect"
    elif persona.prompt and style == "text":
        yield (
            "these weights were not trained on prompts: PROMPT is run through their text stream, and binds little; "
            "nvidia/personaplex-7b-v1 was trained on them"
        )


def _language(persona: Persona, model: str) -> Iterator[str]:
    if persona.language and not persona.language.lower().startswith("en") and ENGLISH.fullmatch(model.split("@")[0]):
        yield f"these weights speak English: LANGUAGE={persona.language} is written into records, and changes nothing"
