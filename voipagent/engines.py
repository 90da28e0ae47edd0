"""The engine that the settings name, and where the checkpoints with names of their own lie."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from engine.echo import EchoEngine
from engine.slot import Engine
from voipagent.settings import EngineSettings


@contextlib.asynccontextmanager
async def open_engine(
    settings: EngineSettings, voices: Sequence[str] = (), pins: bool = False
) -> AsyncIterator[Engine]:
    """The engine that the settings name, READY, with the voices that calls will ask for; `pins`: prompts can be pinned.

    Raises CheckpointError or EngineError with what is wrong.
    """
    async with _engine(settings, voices, pins) as engine:
        yield engine


def _engine(settings: EngineSettings, voices: Sequence[str], pins: bool) -> AbstractAsyncContextManager[Engine]:
    if settings.model == "echo":
        return EchoEngine(rows=settings.rows or 64)
    from engine.local import LocalEngine  # torch takes seconds to import; echo does without

    return LocalEngine(
        str(_folder(settings.model) or settings.model),
        rows=settings.rows,
        device=settings.device,
        prompt_style=settings.prompt_style,
        ear=settings.ear,
        weights=settings.weights,
        kv=settings.kv,
        voices=voices,
        limit_s="auto" if settings.longest_wait is None else settings.longest_wait / 1000 or None,
        graphs=settings.graphs,
        prefix_bytes=settings.prompt_memory << 20,
        deterministic=settings.deterministic,
        pins=pins,
    )


def _folder(model: str) -> Path | None:
    """Where the checkpoints with names of their own lie."""
    match model:
        case "pocket":
            from engine.pocket import FOLDER

            return FOLDER
        case "nano":
            return _nano_folder()
        case _:
            return None


def write_nano_checkpoint(folder: Path, seed: int) -> None:
    """Write a small random checkpoint. Raises EngineError where it cannot be written."""
    from engine.nano import write_nano

    write_nano(folder, seed)


def _nano_folder() -> Path:
    """Where the nano checkpoint lies; made at the first start."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "voipagent" / "nano"
    if not (folder / "config.json").exists():
        write_nano_checkpoint(folder, seed=0)
    return folder
