"""Records of calls whose agent was killed: closed once, from what is there, and never under a living agent."""

from __future__ import annotations

import json
import logging
import os
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from voipagent.context import Line
from voipagent.record import CallFolder, CallRecord, lock
from voipagent.recording import Recorder
from voipagent.recovery import REASON, close_killed

STARTED = datetime(2026, 11, 24, 10, 30, tzinfo=UTC)
RECORD = CallRecord("id-1", "sip", "alice", "agent", "192.0.2.7:5060", STARTED.isoformat(), duration_s=12.5, seed=7)
SAID = [Line("agent", "Hello.", 0.1, 0.8), Line("caller", "Good day.", 1.0, 2.0)]
BEGUN = [Line("agent", "What can I", 2.4, 3.0)]


@pytest.fixture
def killed(recorder: Recorder, tmp_path: Path) -> Path:
    """What a call had written when its agent was killed: a copy, so that nobody holds a lock on it."""
    (tmp_path / "live").mkdir()
    folder = CallFolder(recorder, tmp_path / "live", STARTED, "id-1")
    for line in SAID:
        folder.write_line(line)
    folder.note(RECORD, BEGUN)
    recorder.do(lambda: None).result(5)
    return Path(shutil.copytree(folder.path, tmp_path / "calls" / folder.path.name))


def record(folder: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((folder / "call.json").read_text())
    return told


def lines(folder: Path) -> list[Line]:
    return [Line(**line) for line in json.loads((folder / "transcript.json").read_text())["lines"]]


def test_what_was_noted_becomes_the_record(killed: Path) -> None:
    (killed / "recording.wav").write_bytes(b"RIFF")
    assert close_killed(killed)
    left = record(killed)
    assert (left["ended_by"], left["reason"]) == ("agent", REASON)
    assert (left["id"], left["duration_s"], left["seed"], left["version"]) == ("id-1", 12.5, 7, 1)
    assert left["recording"] == "recording.wav"
    assert {path.name for path in killed.iterdir()} == {"call.json", *left["artefacts"]}
    assert lines(killed) == [*SAID, *BEGUN]
    assert "What can I" in (killed / "transcript.jsonl").read_text()


def test_a_call_whose_last_write_failed_keeps_its_reason(killed: Path) -> None:
    begun = json.loads((killed / "begun.json").read_text())
    begun["record"] |= {"ended_by": "caller", "reason": "hung up"}
    (killed / "begun.json").write_text(json.dumps(begun))
    assert close_killed(killed)
    assert (record(killed)["ended_by"], record(killed)["reason"]) == ("caller", "hung up")


def test_it_is_closed_once(killed: Path) -> None:
    assert close_killed(killed)
    before = (killed / "call.json").read_bytes()
    assert not close_killed(killed)
    assert (killed / "call.json").read_bytes() == before


def test_it_is_summed_up_where_the_caller_is_in_it(killed: Path) -> None:
    alone = Path(shutil.copytree(killed, killed.parent / "alone"))
    with (killed / "transcript.jsonl").open("a") as file:
        file.write(f"{Line('agent', 'Thank you, Maria.', 4.0, 5.0)}\n")
    assert close_killed(killed)
    assert record(killed)["summary"].startswith("The caller's name is Maria. Agent: Hello. Caller: Good day.")
    (alone / "transcript.jsonl").write_text(f"{Line('agent', 'Thank you, Maria.', 4.0, 5.0)}\n")
    assert close_killed(alone)
    assert record(alone)["summary"] == ""


def test_a_line_that_was_written_since_the_last_note_is_not_told_twice(killed: Path) -> None:
    with (killed / "transcript.jsonl").open("a") as file:
        file.write(f"{replace(BEGUN[0], text='What can I do for you?', end=4.0)}\n")
        file.write('{"role": "caller", "te')  # and the next was torn
    assert close_killed(killed)
    assert [line.text for line in lines(killed)] == ["Hello.", "Good day.", "What can I do for you?"]


def test_a_call_of_which_nothing_was_said_yet_has_no_transcript(killed: Path) -> None:
    (killed / "transcript.jsonl").unlink()
    begun = json.loads((killed / "begun.json").read_text())
    (killed / "begun.json").write_text(json.dumps({**begun, "lines": []}))
    assert close_killed(killed)
    assert (record(killed)["recording"], record(killed)["artefacts"]) == ("", [])
    assert [path.name for path in killed.iterdir()] == ["call.json"]


def test_a_living_agents_call_is_left_alone(killed: Path) -> None:
    held = lock(killed)
    before = sorted(path.name for path in killed.iterdir())
    assert not close_killed(killed)
    assert sorted(path.name for path in killed.iterdir()) == before
    os.close(held)
    assert close_killed(killed)


def test_a_record_that_was_there_already_stands(killed: Path) -> None:
    (killed / "call.json").write_text("{}")
    assert not close_killed(killed)
    assert (killed / "call.json").read_text() == "{}"
    assert not (killed / "begun.json").exists()


@pytest.mark.parametrize("torn", ["", "{", "[]", '{"record": 5, "lines": []}', '{"record": {}}', "\0"])
def test_a_note_that_is_none_is_told_of_and_left(killed: Path, torn: str, caplog: pytest.LogCaptureFixture) -> None:
    (killed / "begun.json").write_text(torn)
    with caplog.at_level(logging.WARNING):
        assert not close_killed(killed)
    assert "begun.json cannot be read" in caplog.text
    assert not (killed / "call.json").exists()


def test_a_folder_that_no_call_began_in_is_none(tmp_path: Path) -> None:
    assert not close_killed(tmp_path)
    assert not close_killed(tmp_path / "gone")


def test_what_was_heard_before_the_answer_is_told_of_too(killed: Path) -> None:
    (killed / "early.wav").write_bytes(b"RIFF")
    assert close_killed(killed)
    left = record(killed)
    assert left["early"] == "early.wav" in left["artefacts"]


def test_a_line_torn_within_a_letter_costs_that_line_alone(killed: Path) -> None:
    with (killed / "transcript.jsonl").open("ab") as file:
        file.write('{"role": "caller", "text": "Grü'.encode()[:-1])
    assert close_killed(killed)
    assert lines(killed) == [*SAID, *BEGUN]


def test_nothing_stays_open_or_locked_once_it_is_closed(killed: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    assert close_killed(killed)
    assert len(os.listdir("/proc/self/fd")) == before
    os.close(lock(killed))
