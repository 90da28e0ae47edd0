"""A call's folder: names, modes, and a disk that fails."""

from __future__ import annotations

import json
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest

from voipagent.context import Line
from voipagent.record import VERSION, CallFolder, CallRecord, FolderError, check_folder
from voipagent.recording import Recorder

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


def test_the_record_keeps_its_keys() -> None:
    """Keys are only ever added: whoever reads the records relies on these."""
    assert set(json.loads(RECORD.as_json())) >= {
        *("version", "id", "kind", "caller", "callee", "source", "started", "answered", "duration_s"),
        *("persona", "model", "seed", "prime_s", "frames_stepped", "frames_held", "step_s_max", "step_s_mean"),
        *("barged_in", "digits", "recording", "recording_error", "transcript_error", "media", "ended_by", "reason"),
    }


async def test_a_disk_that_fails_is_counted_and_never_raised(recorder: Recorder, tmp_path: Path) -> None:
    folder = made(recorder, tmp_path / "gone")
    folder.write_line(Line("agent", "Hello.", 0, 1))
    await folder.write_record(RECORD)
    assert folder.error.startswith("call.json: ")


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
