"""`voipagent calls`: what is kept of calls, on the machine where it is kept."""

from __future__ import annotations

import json
import os
import sqlite3
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from voipagent.index import CallIndex, Query
from voipagent.record import FOLDER, RECORD, FolderError
from voipagent.settings import Settings
from voipagent.transcript import LIVE, as_text, parse_lines

calls = typer.Typer(help="What is kept of calls, in VOIPAGENT_CALLS__DIR.", no_args_is_help=True)


@calls.command("ls")
def list_calls(
    caller: Annotated[str, typer.Option(help="part of a number or address")] = "",
    callee: Annotated[str, typer.Option(help="part of a number or address")] = "",
    persona: Annotated[str, typer.Option(help="part of its name")] = "",
    direction: Annotated[str, typer.Option(help="in or out")] = "",
    outcome: Annotated[str, typer.Option(help="answered, not answered, busy, no answer, …")] = "",
    since: Annotated[datetime | None, typer.Option(help="began then or later, in UTC")] = None,
    until: Annotated[datetime | None, typer.Option(help="began before, in UTC")] = None,
    limit: Annotated[int, typer.Option(help="how many at most", min=1)] = 50,
) -> None:
    """Calls that are over, the latest first."""
    query = Query(caller, callee, persona, direction, outcome, since, until, limit=limit)
    table = Table("began (UTC)", "caller", "callee", "persona", "way", "seconds", "outcome", "why it ended", "id")
    for entry in _index().find(query):
        told = [entry.started[:19].replace("T", " "), entry.caller, entry.callee, entry.persona, entry.direction]
        told += [f"{entry.duration_s:.1f}", entry.outcome, entry.reason, entry.id]
        table.add_row(*map(_plain, told))
    Console().print(table)


@calls.command()
def show(
    call: Annotated[str, typer.Argument(metavar="ID", help="of a call, or the name of its folder")],
    as_json: Annotated[bool, typer.Option("--json", help="print call.json as it is")] = False,
) -> None:
    """One call: its record, and what was said."""
    folder = _folder(_index(), call)
    text = _read(folder / RECORD)
    if as_json:
        print(text, end="")
        return
    console, record = Console(highlight=False), _parsed(folder / RECORD, text)
    console.print(_plain(str(folder)))
    for name, value in record.items():
        if value not in ("", None, [], {}):
            console.print(Text.assemble((f"{name:>18}  ", "bold"), _plain(_value(value))))
    if (folder / LIVE).exists():
        console.print(Text(f"\n{as_text(parse_lines(_read(folder / LIVE)))}"), end="")


@calls.command()
def rebuild() -> None:
    """Make the index anew from the folders, and close the records of calls whose agent was killed."""
    try:
        synced = _index().rebuild()
    except (OSError, sqlite3.Error) as error:
        raise FolderError(f"the index cannot be made: {error}") from None
    print(f"{synced.entered} calls, {synced.closed} of them were closed now: their agent had been killed")


def _index() -> CallIndex:
    root = Settings.load(os.environ).calls.dir
    if not root.is_dir():
        raise FolderError(f"VOIPAGENT_CALLS__DIR: there is no folder {str(root)!r}")
    return CallIndex(root)


def _folder(index: CallIndex, call: str) -> Path:
    entry = index.get(call)
    if entry is None or not FOLDER.fullmatch(entry.path):
        raise FolderError(f"there is no record of a call {call!r}; `voipagent calls ls` has them")
    return index.root / entry.path


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise FolderError(f"cannot read {str(path)!r}: {error.strerror}") from None


def _parsed(path: Path, text: str) -> dict[str, Any]:
    try:
        record = json.loads(text)
    except ValueError as error:
        raise FolderError(f"{str(path)!r} is no record: {error}") from None
    if not isinstance(record, dict):
        raise FolderError(f"{str(path)!r} is no record")
    return record


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _plain(text: str) -> Text:
    """A peer's text is no markup, and moves no cursor."""
    return Text("".join(letter if letter.isprintable() else "\ufffd" for letter in text))
