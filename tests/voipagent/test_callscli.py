"""`voipagent calls`: what it prints, and what it says where it cannot."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from voipagent.cli import cli
from voipagent.context import Line
from voipagent.index import NAME, CallIndex
from voipagent.record import CallFolder, CallRecord, FolderError
from voipagent.recording import Recorder

STARTED = datetime(2026, 11, 24, 10, 30, tzinfo=UTC)
RECORD = CallRecord("id-0", "sip", "alice", "agent", "192.0.2.7:5060", STARTED.isoformat(), answered="now")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., str]:
    monkeypatch.setenv("VOIPAGENT_CALLS__DIR", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str) -> str:
        return CliRunner().invoke(cli, ["calls", *arguments], catch_exceptions=False).stdout

    return run


@pytest.fixture
async def folders(recorder: Recorder, tmp_path: Path) -> list[Path]:
    made = []
    for number, caller in enumerate(["alice", "[red]bob\x1b[2J", "+493012345"]):
        started = STARTED + timedelta(hours=number)
        record = replace(RECORD, id=f"id-{number}", caller=caller, started=started.isoformat(), duration_s=61.25)
        folder = CallFolder(recorder, tmp_path, started, record.id, CallIndex(tmp_path).enter)
        folder.write_line(Line("agent", "Good day.", 0.5, 1.0))
        await folder.write_record(record)
        made.append(folder.path)
    return made


async def test_ls_has_a_line_for_each_call_and_no_peer_draws_in_it(
    run: Callable[..., str], folders: list[Path]
) -> None:
    told = run("ls")
    rows = [line for line in told.splitlines() if "id-" in line]
    assert [row.split("│")[-2].strip() for row in rows] == ["id-2", "id-1", "id-0"]
    assert "[red]bob\ufffd[2J" in told and "\x1b" not in told
    assert "2026-11-24 12:30:00" in rows[0] and "61.2" in rows[0] and "answered" in rows[0]


async def test_ls_finds(run: Callable[..., str], folders: list[Path]) -> None:
    assert "id-2" in run("ls", "--caller", "4930") and "id-0" not in run("ls", "--caller", "4930")
    assert "id-0" not in run("ls", "--since", "2026-11-24T11:00:00")
    assert "id-1" not in run("ls", "--limit", "1")


async def test_show_tells_record_and_words(run: Callable[..., str], folders: list[Path]) -> None:
    told = run("show", "id-1")
    assert str(folders[1]) in told.replace("\n", "")
    assert "[00:00:00] Agent: Good day." in told and "\x1b" not in told
    assert json.loads(run("show", folders[1].name, "--json")) == json.loads((folders[1] / "call.json").read_text())


async def test_rebuild_makes_the_index_anew(run: Callable[..., str], folders: list[Path], tmp_path: Path) -> None:
    (tmp_path / NAME).write_text("no database")
    with pytest.raises(FolderError, match="voipagent calls rebuild"):
        run("ls")
    assert run("rebuild").startswith("3 calls, 0 of them")
    assert "id-2" in run("ls")


async def test_what_is_not_there_is_said(run: Callable[..., str], folders: list[Path], tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="no record of a call 'nobody'"):
        run("show", "nobody")
    with pytest.raises(FolderError, match="no record of a call"):
        run("show", "\udcff")  # what a shell makes of an octet that is no text
    for torn in ("", '{"id": ', "[]"):
        (folders[0] / "call.json").write_text(torn)
        with pytest.raises(FolderError, match="call.json' is no record"):
            run("show", "id-0")
    (folders[0] / "call.json").unlink()
    with pytest.raises(FolderError, match="cannot read"):
        run("show", "id-0")


def test_without_a_folder_there_is_nothing(run: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VOIPAGENT_CALLS__DIR", "/nowhere/calls")
    with pytest.raises(FolderError, match="VOIPAGENT_CALLS__DIR: there is no folder '/nowhere/calls'"):
        run("ls")
