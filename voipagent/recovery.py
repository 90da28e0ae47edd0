"""Closing the records of calls whose agent was killed, or whose disk was full, from what was written by then."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from voipagent.context import Line
from voipagent.record import BEGUN, EARLY, RECORD, RECORDINGS, finish, lock, replace_file
from voipagent.story import extract
from voipagent.transcript import FILES, LIVE, parse_lines

logger = logging.getLogger(__name__)

REASON = "the agent was killed"


def close_killed(folder: Path) -> bool:
    """Close the record of a call that has begun and whose agent lives no more; whether there was one to be closed.

    Nothing is touched where the agent lives, in this process or another. Raises OSError.
    """
    if not (folder / BEGUN).exists():
        return False
    try:
        held = lock(folder)
    except BlockingIOError:
        return False
    try:
        return _close(folder)
    finally:
        os.close(held)


def _close(folder: Path) -> bool:
    if (folder / RECORD).exists():  # killed between its last two acts
        (folder / BEGUN).unlink(missing_ok=True)
        return False
    begun = _read(folder / BEGUN)
    if begun is None:
        logger.warning("x call folder %s: %s cannot be read; the call's record stays open", folder, BEGUN)
        return False
    lines = _lines(folder, begun)
    if lines:
        replace_file(folder / LIVE, "".join(f"{line}\n" for line in lines))
    recording, early = (_there(folder, names) for names in (RECORDINGS, EARLY))
    left = {
        "recording": recording,
        "early": early,
        "artefacts": [*filter(None, [recording, early]), *((LIVE, *FILES) if lines else ())],
        **({} if begun["record"].get("reason") else {"ended_by": "agent", "reason": REASON}),
        # Who is not recorded leaves no words, and no summary either.
        "summary": str(extract(lines)) if any(line.role == "caller" for line in lines) else "",
    }
    record = {**begun["record"], **left}
    finish(folder, record, lines)
    logger.warning("- call folder %s: its record is closed: %s", folder, record["reason"])
    return True


def _there(folder: Path, names: Sequence[str]) -> str:
    return next((name for name in names if (folder / name).exists()), "")


def _lines(folder: Path, begun: Mapping[str, Any]) -> list[Line]:
    """What was written, and what was not over yet, unless that was written since."""
    path = folder / LIVE
    written = parse_lines(path.read_text(encoding="utf-8", errors="replace")) if path.exists() else []
    known = {(line.role, line.start) for line in written}
    unfinished = parse_lines("\n".join(json.dumps(line) for line in begun.get("lines", ())))
    return [*written, *(line for line in unfinished if (line.role, line.start) not in known)]


def _read(path: Path) -> Mapping[str, Any] | None:
    try:
        begun = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None
    whole = isinstance(begun, dict) and isinstance(begun.get("record"), dict) and isinstance(begun.get("lines"), list)
    return begun if whole else None
