"""A call's folder: names, modes, and a disk that fails."""

from __future__ import annotations

import errno
import json
import os
import sqlite3
import stat
import threading
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from voipagent.context import Line
from voipagent.record import (
    ARTEFACTS,
    FOLDER,
    VERSION,
    CallFolder,
    CallRecord,
    FolderError,
    check_folder,
    lock,
    replace_file,
)
from voipagent.recording import Recorder
from voipagent.recovery import close_killed

STARTED = datetime(2026, 11, 24, 10, 30, 5, 123456, tzinfo=UTC)
RECORD = CallRecord("id-1", "sip", "alice", "agent", "192.0.2.7:5060", STARTED.isoformat(), seed=7)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def made(recorder: Recorder, root: Path, call_id: str = "x") -> CallFolder:
    """A call's folder, once the disk has it."""
    folder = CallFolder(recorder, root, STARTED, call_id)
    recorder.do(lambda: None).result(5)
    return folder


def test_the_folder_is_named_by_time_and_call(recorder: Recorder, tmp_path: Path) -> None:
    folder = made(recorder, tmp_path, "a84b4c76e66710@pc33.example.com")
    assert folder.path.name == "20261124T103005.123456Z-a84b4c76e66710_pc33_example_com"
    assert folder.path.parent == tmp_path
    assert mode(folder.path) == 0o700


@pytest.mark.parametrize("call_id", ["../../etc/passwd", "/", "..", "a" * 500, "\0\n", ""])
def test_a_call_id_cannot_leave_the_folder(recorder: Recorder, tmp_path: Path, call_id: str) -> None:
    folder = made(recorder, tmp_path, call_id)
    assert folder.error == ""
    assert folder.path.resolve().parent == tmp_path.resolve()
    assert len(folder.path.name) < 100


async def test_files_are_private_and_read_back(recorder: Recorder, tmp_path: Path) -> None:
    folder = made(recorder, tmp_path)
    lines = [Line("agent", "Hello.", 0.08, 0.8), Line("agent", "Bye.", 2.0, 2.4)]
    for line in lines:
        folder.write_line(line)
    await folder.write_record(RECORD)
    written = (folder.path / "transcript.jsonl").read_text().splitlines()
    assert [Line.parse(line) for line in written] == lines
    record = json.loads((folder.path / "call.json").read_text())
    assert (record["version"], record["id"], record["seed"]) == (VERSION, "id-1", 7)
    assert {mode(path) for path in folder.path.iterdir()} == {0o600}


async def test_a_calls_transcript_is_told_in_each_form_at_its_end(recorder: Recorder, tmp_path: Path) -> None:
    folder = made(recorder, tmp_path)
    assert folder.transcripts == ()
    folder.write_line(Line("agent", "Hello.", 0.08, 0.8))
    await folder.write_record(RECORD)
    assert {path.name for path in folder.path.iterdir()} == {"call.json", *folder.transcripts}
    assert set(folder.transcripts) <= set(ARTEFACTS)
    assert "Hello." in (folder.path / "transcript.vtt").read_text()


async def test_where_nothing_was_said_there_is_no_transcript(recorder: Recorder, tmp_path: Path) -> None:
    folder = made(recorder, tmp_path)
    await folder.write_record(RECORD)
    assert [path.name for path in folder.path.iterdir()] == ["call.json"]


async def test_how_far_a_call_has_come_is_there_while_it_lasts(recorder: Recorder, tmp_path: Path) -> None:
    folder, line = made(recorder, tmp_path), Line("caller", "So I was", 3.0, 4.0)
    folder.note(RECORD, [line])
    recorder.do(lambda: None).result(5)
    begun = json.loads((folder.path / "begun.json").read_text())
    assert (begun["record"]["id"], begun["lines"]) == ("id-1", [line.as_dict()])
    assert mode(folder.path / "begun.json") == 0o600
    await folder.write_record(RECORD)
    assert not (folder.path / "begun.json").exists()


async def test_while_the_disk_is_slow_notes_do_not_pile_up(recorder: Recorder, tmp_path: Path) -> None:
    """The first is still to be written: those that follow are left out, until it is."""
    folder, unstuck = made(recorder, tmp_path), threading.Event()
    recorder.do(unstuck.wait, 10)
    for number in range(100):
        folder.note(replace(RECORD, frames_stepped=number), ())
    unstuck.set()
    assert stepped(recorder, folder) == 0
    folder.note(replace(RECORD, frames_stepped=100), ())
    assert stepped(recorder, folder) == 100


def stepped(recorder: Recorder, folder: CallFolder) -> int:
    recorder.do(lambda: None).result(5)
    return int(json.loads((folder.path / "begun.json").read_text())["record"]["frames_stepped"])


async def test_a_folder_is_locked_as_long_as_its_call_lasts(recorder: Recorder, tmp_path: Path) -> None:
    folder = made(recorder, tmp_path)
    with pytest.raises(BlockingIOError):
        lock(folder.path)
    await folder.write_record(RECORD)
    os.close(lock(folder.path))


async def test_who_keeps_the_index_is_told_once_the_record_is_there(recorder: Recorder, tmp_path: Path) -> None:
    told: list[tuple[str, str, bool]] = []

    def enter(name: str, record: Mapping[str, Any]) -> None:
        told.append((name, record["id"], (tmp_path / name / "call.json").exists()))
        raise sqlite3.OperationalError("database is locked")

    folder = CallFolder(recorder, tmp_path, STARTED, "x", enter)
    await folder.write_record(RECORD)
    assert told == [("20261124T103005.123456Z-x", "id-1", True)]
    assert folder.error == "call.json: database is locked"
    os.close(lock(folder.path))


async def test_half_a_character_in_a_peers_text_does_not_cost_the_record(recorder: Recorder, tmp_path: Path) -> None:
    folder = made(recorder, tmp_path)
    await folder.write_record(replace(RECORD, caller="al\udce9ce"))
    assert json.loads((folder.path / "call.json").read_text())["caller"] == "al?ce"


def test_names_are_told_from_those_of_others() -> None:
    assert FOLDER.fullmatch("20261124T103005.123456Z-a84b4c76e66710_pc33")
    for other in ("index.sqlite3", "20261124", "20261124T103005.123456Z-", "20261124T103005.123456Z-a.b", ".git"):
        assert not FOLDER.fullmatch(other)


def test_the_record_keeps_its_keys() -> None:
    """Keys are only ever added: whoever reads the records relies on these."""
    assert set(json.loads(RECORD.as_json())) >= {
        *("version", "id", "kind", "caller", "callee", "source", "started", "answered", "duration_s"),
        *("persona", "model", "seed", "prime_s", "frames_stepped", "frames_held", "step_s_max", "step_s_mean"),
        *("barged_in", "digits", "recording", "recording_error", "transcript_error", "media", "ended_by", "reason"),
        *("setup_s", "response_latency", "interruptions", "backchannels", "artefacts"),
    }


async def test_a_disk_that_fails_is_counted_and_never_raised(recorder: Recorder, tmp_path: Path) -> None:
    folder = made(recorder, tmp_path / "gone")
    folder.write_line(Line("agent", "Hello.", 0, 1))
    await folder.write_record(RECORD)
    assert folder.error.startswith("call.json: ")


async def test_a_record_that_cannot_be_written_says_in_its_note_why_the_call_ended(
    recorder: Recorder, tmp_path: Path
) -> None:
    folder = made(recorder, tmp_path)
    (folder.path / ".call.json").mkdir()
    await folder.write_record(replace(RECORD, ended_by="caller", reason="hung up"))
    assert folder.error.startswith("call.json: ")
    (folder.path / ".call.json").rmdir()
    assert close_killed(folder.path)
    assert json.loads((folder.path / "call.json").read_text())["reason"] == "hung up"


def test_check_makes_the_folder(tmp_path: Path) -> None:
    check_folder(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_check_refuses_what_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FolderError, match="VOIPAGENT_CALLS__DIR: cannot write in"):
        check_folder(tmp_path / "file" / "calls")


def test_what_the_far_end_says_of_itself_is_kept_apart() -> None:
    said = {"Diversion": "<sip:boss@example.com>;reason=no-answer"}
    record = CallRecord("id-1", "sip", "alice", "agent", "192.0.2.7:5060", STARTED.isoformat(), headers=said)
    assert json.loads(record.as_json())["headers"] == said


async def test_what_was_said_is_kept_in_whatever_letters(recorder: Recorder, tmp_path: Path) -> None:
    folder, line = made(recorder, tmp_path), Line("agent", "Grüß Gott, 你好.", 0.08, 0.8)
    folder.write_line(line)
    await folder.write_record(RECORD)
    assert Line.parse((folder.path / "transcript.jsonl").read_text(encoding="utf-8")) == line
    assert folder.error == ""


async def test_a_disk_that_goes_on_failing_is_one_line_of_the_log(
    recorder: Recorder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = made(recorder, tmp_path / "gone")
    for _ in range(5):
        folder.write_line(Line("agent", "Hello.", 0, 1))
    await folder.write_record(RECORD)
    assert len([each for each in caplog.records if each.name == "voipagent.record"]) == 1


def test_who_reads_while_a_file_is_replaced_has_the_one_of_before(tmp_path: Path) -> None:
    replace_file(tmp_path / "begun.json", "before")
    with (tmp_path / "begun.json").open() as reading:
        replace_file(tmp_path / "begun.json", "after")
        assert reading.read() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["begun.json"]


def test_a_lock_that_cannot_be_had_leaves_nothing_open(tmp_path: Path) -> None:
    held, before = lock(tmp_path), len(os.listdir("/proc/self/fd"))
    with pytest.raises(BlockingIOError):
        lock(tmp_path)
    assert len(os.listdir("/proc/self/fd")) == before
    os.close(held)


def test_where_there_are_no_locks_nobody_is_kept_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", flock)
    os.close(lock(tmp_path))


def test_check_refuses_a_folder_in_which_nothing_can_be_written() -> None:
    with pytest.raises(FolderError, match="VOIPAGENT_CALLS__DIR: cannot write in '/proc/self'"):
        check_folder(Path("/proc/self"))


async def test_a_record_that_cannot_be_written_has_its_lines_in_its_note(recorder: Recorder, tmp_path: Path) -> None:
    """Also those that the disk had refused before: it may be full for a while."""
    folder, line = made(recorder, tmp_path), Line("agent", "Hello.", 0.08, 0.8)
    for name in ("transcript.jsonl", ".transcript.json"):
        (folder.path / name).mkdir()
    folder.write_line(line)
    await folder.write_record(replace(RECORD, reason="hung up"))
    for name in ("transcript.jsonl", ".transcript.json"):
        (folder.path / name).rmdir()
    assert close_killed(folder.path)
    assert Line.parse((folder.path / "transcript.jsonl").read_text()) == line
