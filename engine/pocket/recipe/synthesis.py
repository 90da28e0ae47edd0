"""What a synthesiser is, and what it gives."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Protocol

from engine.pocket.recipe.callers import Caller
from engine.pocket.recipe.formats import Audio, Span


class SynthesisError(Exception):
    """A synthesiser is not there, or refused a text; the message says which."""


@dataclass(frozen=True, slots=True, eq=False)
class Spoken:
    """What a synthesiser gives: sound at its own rate, and the spans of words and phones in seconds."""

    audio: Audio
    rate: int
    words: list[Span]
    phones: list[Span]


class Synthesiser(Protocol):
    def __call__(self, text: str, caller: Caller) -> Spoken: ...


def load(name: str, package: str) -> ctypes.CDLL:
    """A shared library, and the Debian package that has it. Raises SynthesisError."""
    try:
        return ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        raise SynthesisError(f"{name} cannot be loaded ({error}); install the package {package}") from None
