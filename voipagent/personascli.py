"""`voipagent personas`: who answers, and what the loaded weights make of it."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from engine.slot import PromptSize
from voipagent.advice import advice
from voipagent.engines import open_engine
from voipagent.memory import open_memory
from voipagent.outbound import UnknownPersona
from voipagent.persona import Persona
from voipagent.prompts import as_to_strangers, as_told, check_size
from voipagent.settings import Settings
from voipagent.story import tell_all

FRAME_S = 0.08

SHOWN = 60
"""Characters of a prompt in a list."""

personas = typer.Typer(help="Who answers, as the environment says.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="the section or the name of a persona; empty: the default")]


@personas.command("ls")
def list_personas() -> None:
    """All of them, and which calls they get; the first is for all others."""
    settings = Settings.load(os.environ)
    table = Table("section", "name", "called", "caller", "trunk", "voice", "language", "prompt")
    who = settings.who_answers
    for section, persona in [("", who.default), *who.named.items()]:
        chosen = [", ".join(getattr(persona, kind, ())) for kind in ("numbers", "callers", "trunks")]
        told = [section, persona.name, *chosen, persona.voice, persona.language, _short(persona.prompt)]
        table.add_row(*map(_plain, told))
    Console().print(table)


@personas.command()
def show(name: Name = "") -> None:
    """One of them, its texts with their placeholders filled as for a caller whom nobody knows."""
    persona = _persona(Settings.load(os.environ), name)
    console = Console(highlight=False, soft_wrap=True)
    for field, value in as_to_strangers(persona).model_dump().items():
        if value not in ("", None, ()):
            console.print(_plain(f"{field}: {', '.join(value) if isinstance(value, tuple) else value}"))


@personas.command()
def test(name: Name = "") -> None:
    """Load the weights, prime a row with it, and say what that costs and what they will not obey."""
    settings = Settings.load(os.environ)
    persona = _persona(settings, name)
    tried = asyncio.run(rehearse(settings, persona))
    print(f"{persona.name}: {tried}")
    for line in tried.advice:
        print(f"beware: {line}")


@dataclass(frozen=True)
class Rehearsal:
    """What it costs to tell the weights who they are, and what they will not obey."""

    size: PromptSize
    window_frames: int
    prime_s: float
    advice: tuple[str, ...]

    def __str__(self) -> str:
        share = self.size.frames / self.window_frames
        return (
            f"{self.size.tokens} tokens, {self.size.frames} frames ({self.size.frames * FRAME_S:.1f} s, {share:.1%} of "
            f"the window of {self.window_frames}), primed in {1000 * self.prime_s:.0f} ms"
        )


async def rehearse(settings: Settings, persona: Persona) -> Rehearsal:
    """Raises EngineError, and PromptError where no call could have it."""
    alone = settings.engine.model_copy(update={"rows": 1, "ear": "off"})
    async with (
        open_engine(alone, [persona.voice]) as engine,
        open_memory(settings.context, settings.summary, tell_all) as memory,
    ):
        size = check_size(engine, persona, memory)
        async with engine.open(engine.sampling) as slot:
            began = time.perf_counter()
            await slot.prime(as_told(persona))
            took = time.perf_counter() - began
        found = advice(persona, settings.engine.model, engine.prompt_style, size)
        return Rehearsal(size, engine.window_frames, took, tuple(found))


def _persona(settings: Settings, name: str) -> Persona:
    who = settings.who_answers
    if (found := who.find(name)) is None:
        raise UnknownPersona(f"there is no persona {name!r}; known: {', '.join([who.default.name, *who.named])}")
    return found


def _short(text: str) -> str:
    """In one line, and not the whole of a long one."""
    line = " ".join(text.split())
    return line if len(line) <= SHOWN else f"{line[: SHOWN - 1]}…"


def _plain(text: str) -> Text:
    """Nothing in it is markup."""
    return Text(text)
