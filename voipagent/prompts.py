"""Whether the loaded weights can be told who they are, at the start and whenever the prompts' files are read anew."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated

from pydantic import AfterValidator, ValidationError

from engine.slot import Engine, Prompt, PromptError, PromptSize
from voipagent.environment import FILE, PREFIX, SettingsError, fault_line, nest
from voipagent.kinds import Section
from voipagent.persona import NamedPersona, Persona, Personas, name_each
from voipagent.trim import Memory

logger = logging.getLogger(__name__)


class _PersonaSettings(Section):
    """The settings of personas alone: what else lies in files is not touched, nor need it be there any more."""

    persona: Persona = Persona()
    personas: Annotated[dict[str, NamedPersona], AfterValidator(name_each)] = {}


def has_files(environ: Mapping[str, str]) -> bool:
    """Whether any text of a persona comes from a file."""
    return any(name.endswith(FILE) and environ[name] for name in _of_personas(environ))


def read_personas(environ: Mapping[str, str]) -> Personas:
    """Who answers, by an environment, its files read now. Raises SettingsError."""
    values = nest({name: environ[name] for name in _of_personas(environ)}, _PersonaSettings)
    try:
        settings = _PersonaSettings(**values)
    except ValidationError as error:
        raise SettingsError("\n".join(fault_line(fault) for fault in error.errors())) from None
    return Personas(settings.persona, settings.personas)


def _of_personas(environ: Mapping[str, str]) -> list[str]:
    return [name for name in environ if name.startswith(f"{PREFIX}PERSONA")]


def as_to_strangers(persona: Persona) -> Persona:
    """As in a call whose caller is unknown."""
    return persona.filled("unknown", "unknown", datetime.now().astimezone())


def as_told(persona: Persona) -> Prompt:
    """What such a call would begin with: about as long as any other's."""
    return as_to_strangers(persona).engine_prompt()


def check_size(engine: Engine, persona: Persona, memory: Memory | None = None) -> PromptSize:
    """What its prompt costs. Raises PromptError if that is more than it may be, or its voice is not there."""
    size, window = engine.measure(as_told(persona)), engine.window_frames
    if 1 + size.frames > window:
        raise PromptError(
            f"the persona {persona.name!r} takes {size.frames} frames, and the model's window holds {window}: "
            f"shorten {_cause(persona, size)}"
        )
    if memory is not None and size.frames > (most := round(memory.shares.prompt * window)):
        raise PromptError(
            f"the persona {persona.name!r} takes {size.frames} frames, and may take {most} of the model's window of "
            f"{window}: shorten {_cause(persona, size)}, raise VOIPAGENT_CONTEXT__PROMPT, "
            "or set VOIPAGENT_CONTEXT__POLICY=off"
        )
    return size


def _cause(persona: Persona, size: PromptSize) -> str:
    """The setting that takes most of it."""
    section = "PERSONAS__…" if isinstance(persona, NamedPersona) else "PERSONA"
    return f"{PREFIX}{section}__{'PROMPT' if 2 * size.tokens > size.frames else 'VOICE'}"


async def check_persona(engine: Engine, persona: Persona, memory: Memory | None = None) -> None:
    """Prime a row with it once, so that what no call could have is found at the start. Raises PromptError."""
    check_size(engine, persona, memory)
    async with engine.open(engine.sampling) as slot:
        await slot.prime(as_told(persona))


def read_anew(environ: Mapping[str, str], engine: Engine, memory: Memory | None, current: Personas) -> Personas:
    """Who answers new calls from now on: as the files say, or as before where any of them is no use."""
    try:
        personas = read_personas(environ)
        for persona in personas:
            check_size(engine, persona, memory)
    except (SettingsError, PromptError) as error:
        for line in str(error).splitlines():
            logger.error("x SIGHUP: %s; the prompts of before stay", line)
        return current
    before = {persona.name: persona for persona in current}
    changed = [persona.name for persona in personas if before.get(persona.name) != persona]
    logger.info("- SIGHUP: prompts were read again; changed: %s", ", ".join(changed) or "none")
    return personas
