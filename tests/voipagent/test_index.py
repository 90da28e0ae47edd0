"""The index: what the folders say, and nothing else."""

from __future__ import annotations

import json
import logging
import random
import sqlite3
import stat
import string
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from voipagent.index import NAME, CallIndex, Entry, Query, Synced
from voipagent.record import CallFolder, CallRecord, FolderError
from voipagent.recording import Recorder

STARTED = datetime(2026, 11, 24, 10, 30, tzinfo=UTC)
EVERYTHING = Query(limit=1000)


def made_up(luck: random.Random, number: int) -> CallRecord:
    """A call's record with whatever a peer may have put into it."""
    odd = [*string.printable, "ü", "é", "😀", "\0", "\udce9", "'", '"', "%", "_"]
    words = ["".join(luck.choices(odd, k=luck.randrange(12))) for _ in range(6)]
    started = STARTED + timedelta(seconds=number, microseconds=luck.randrange(1_000_000))
    answered = luck.choice(["", started.isoformat()])
    return CallRecord(
        id=words[0] or "x",
        kind="sip",
        caller=words[1],
        callee=words[2],
        source="192.0.2.7:5060",
        started=started.isoformat(),
        persona=words[3],
        direction=luck.choice(["in", "out"]),
        duration_s=round(luck.uniform(0, 5000), 3),
        answered=answered,
        outcome="" if answered else luck.choice(["", "busy", "no answer"]),
        ended_by=luck.choice(["caller", "agent", "network"]),
        reason=words[4],
    )


async def keep(recorder: Recorder, index: CallIndex, record: CallRecord) -> Path:
    folder = CallFolder(recorder, index.root, datetime.fromisoformat(record.started), record.id, index.enter)
    await folder.write_record(record)
    assert folder.error == ""
    return folder.path


def named(**told: Any) -> CallRecord:
    record = CallRecord("id-1", "sip", "alice", "agent", "192.0.2.7:5060", STARTED.isoformat(), answered="now")
    return replace(record, **told)


@pytest.mark.parametrize("seed", range(4))
async def test_what_is_rebuilt_from_the_folders_equals_the_index(recorder: Recorder, tmp_path: Path, seed: int) -> None:
    luck, index = random.Random(seed), CallIndex(tmp_path)
    for number in range(luck.randrange(20, 40)):
        await keep(recorder, index, made_up(luck, number))
    entered = index.find(EVERYTHING)
    assert len(entered) >= 20
    assert index.sync() == Synced(0, 0, 0)
    assert index.find(EVERYTHING) == entered
    assert index.rebuild().entered == len(entered)
    assert index.find(EVERYTHING) == entered
    (tmp_path / NAME).unlink()
    assert index.sync() == Synced(len(entered), 0, 0)
    assert index.find(EVERYTHING) == entered


async def test_an_entry_says_who_when_and_how_it_ended(recorder: Recorder, tmp_path: Path) -> None:
    index = CallIndex(tmp_path)
    folder = await keep(recorder, index, named(persona="ada", duration_s=2.5, reason="hung up", ended_by="caller"))
    expected = Entry(
        *(folder.name, "id-1", STARTED.isoformat(), "alice", "agent", "ada", "in", 2.5, "answered", "hung up")
    )
    assert index.find(Query()) == [expected]
    assert index.get("id-1") == index.get(folder.name) == expected
    assert index.get("another") is None
    assert stat.S_IMODE((tmp_path / NAME).stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("answered", "outcome", "told"), [("now", "", "answered"), ("", "busy", "busy"), ("", "", "not answered")]
)
def test_how_a_call_came_out(answered: str, outcome: str, told: str) -> None:
    assert Entry.of("x", named(answered=answered, outcome=outcome).as_dict()).outcome == told


async def test_pages_follow_each_other_without_a_gap(recorder: Recorder, tmp_path: Path) -> None:
    index = CallIndex(tmp_path)
    for number in range(7):
        started = (STARTED + timedelta(seconds=number)).isoformat()
        await keep(recorder, index, named(id=f"id-{number}", started=started))
    query, got = Query(limit=3), []
    while page := index.find(query):
        got += [entry.id for entry in page]
        query = replace(query, before=page[-1].path)
    assert got == [f"id-{number}" for number in range(6, -1, -1)]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        (Query(caller="4930"), "b"),
        (Query(caller="ALICE"), "a"),
        (Query(callee="sales"), "bc"),
        (Query(persona="ada"), "a"),
        (Query(direction="out"), "c"),
        (Query(outcome="busy"), "c"),
        (Query(outcome="answered", callee="sales"), "b"),
        (Query(since=STARTED + timedelta(hours=1)), "bc"),
        (Query(until=STARTED + timedelta(hours=1)), "a"),
        (Query(since=datetime(2026, 11, 24, 13, 30)), "c"),
        (Query(caller="%"), ""),
        (Query(caller="' OR 1 --"), ""),
    ],
)
async def test_calls_are_found(recorder: Recorder, tmp_path: Path, query: Query, found: str) -> None:
    index = CallIndex(tmp_path)
    calls = [
        named(id="a", persona="ada"),
        named(id="b", caller="+493012345", callee="sales", started=(STARTED + timedelta(hours=1)).isoformat()),
        named(
            id="c",
            callee="sales",
            caller="bob",
            direction="out",
            answered="",
            outcome="busy",
            started=(STARTED + timedelta(hours=3)).isoformat(),
        ),
    ]
    for record in calls:
        await keep(recorder, index, record)
    assert "".join(sorted(entry.id for entry in index.find(query))) == found


async def test_a_start_enters_forgets_and_closes(recorder: Recorder, tmp_path: Path) -> None:
    index = CallIndex(tmp_path)
    gone = await keep(recorder, index, named(id="gone"))
    kept = await keep(recorder, index, named(id="kept", started=(STARTED + timedelta(1)).isoformat()))
    (gone / "call.json").unlink()
    gone.rmdir()
    killed = tmp_path / "20261130T000000.000000Z-killed"
    killed.mkdir()
    begun = {"record": named(id="killed").as_dict(), "lines": []}
    (killed / "begun.json").write_text(json.dumps(begun))
    living = CallFolder(recorder, tmp_path, STARTED, "living")
    living.note(named(id="living"), ())
    recorder.do(lambda: None).result(5)
    assert index.sync() == Synced(entered=1, forgotten=1, closed=1)
    assert [(entry.id, entry.reason) for entry in index.find(Query())] == [
        ("killed", "the agent was killed"),
        ("kept", ""),
    ]
    assert (kept / "call.json").exists() and not (living.path / "call.json").exists()
    await living.write_record(named(id="living"))


async def test_what_is_not_ours_is_neither_read_nor_changed(
    recorder: Recorder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    index, root = CallIndex(tmp_path / "calls"), tmp_path / "calls"
    root.mkdir()
    ours = await keep(recorder, index, named())
    for name in ("notes", "20261124", "20261130T000000.000000Z-file"):
        (root / name).write_text("mine")
    (root / "holiday").mkdir()
    (root / "holiday" / "call.json").write_text(json.dumps(named(id="not ours").as_dict()))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "begun.json").write_text(json.dumps({"record": {"id": "x"}, "lines": []}))
    (root / "20261130T000000.000000Z-link").symlink_to(tmp_path / "elsewhere")
    for number, torn in enumerate(["", "{", "[]", "5", "null", "{}", "\0"]):
        (folder := root / f"20261130T000000.00000{number}Z-torn").mkdir()
        (folder / "call.json").write_text(torn)
    with caplog.at_level(logging.WARNING):
        assert index.rebuild().entered == 1
    assert len([record for record in caplog.records if "cannot be read" in record.message]) == 7
    assert [entry.path for entry in index.find(Query())] == [ours.name]
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["begun.json"]


@pytest.mark.parametrize("torn", [b"no database at all" * 100, b"SQLite format 3\0" + b"\xff" * 4000])
async def test_a_file_that_is_no_database_is_made_anew(
    recorder: Recorder, tmp_path: Path, torn: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    index = CallIndex(tmp_path)
    await keep(recorder, index, named())
    index.path.write_bytes(torn)
    with pytest.raises(FolderError, match="voipagent calls rebuild"):
        index.find(Query())
    assert index.sync().entered == 1
    assert [entry.id for entry in index.find(Query())] == ["id-1"]


async def test_an_index_of_another_version_is_made_anew(recorder: Recorder, tmp_path: Path) -> None:
    index = CallIndex(tmp_path)
    await keep(recorder, index, named())
    database = sqlite3.connect(index.path)
    database.executescript("DROP TABLE calls; CREATE TABLE calls (other TEXT); PRAGMA user_version = 99")
    database.close()
    assert index.sync().entered == 1
    assert [entry.id for entry in index.find(Query())] == ["id-1"]


def test_where_there_is_no_index_it_is_said_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="voipagent calls rebuild"):
        CallIndex(tmp_path).find(Query())
    with pytest.raises(FolderError):
        CallIndex(tmp_path / "gone").get("x")
    assert list(tmp_path.iterdir()) == []


async def test_several_write_at_once_and_none_is_lost(recorder: Recorder, tmp_path: Path) -> None:
    index, errors = CallIndex(tmp_path), []

    def write(number: int) -> None:
        try:
            for each in range(10):
                name = f"20261124T103{number}0{each}.000000Z-x"
                (tmp_path / name).mkdir()
                (tmp_path / name / "call.json").write_text(named(id=f"{number}-{each}").as_json())
                index.enter(name, named(id=f"{number}-{each}").as_dict())
                if each == 5:
                    index.rebuild()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert errors == []
    assert len(index.find(EVERYTHING)) == 40
