"""Retention by a made-up clock: what is due, and nothing else."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from voipagent import retention
from voipagent.calls import CallsSettings
from voipagent.index import CallIndex, Query
from voipagent.record import ARTEFACTS, RECORD, TIME, CallRecord, lock
from voipagent.retention import Removed, Retention, Tidying, kept, remove_due

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
WHOLE = (RECORD, *(name for name in ARTEFACTS if not name.endswith(".ogg") and name != "early.wav"))


def put(root: Path, days: float, call_id: str = "x", files: tuple[str, ...] = WHOLE) -> Path:
    """The folder of a call that began so many days ago."""
    began = NOW - timedelta(days=days)
    folder = root / f"{began:{TIME}}-{call_id}"
    folder.mkdir(parents=True)
    for name in files:
        (folder / name).write_text(name)
    if RECORD in files:
        record = CallRecord(call_id, "sip", "alice", "agent", "192.0.2.7:5060", began.isoformat())
        (folder / RECORD).write_text(record.as_json())
    return folder


def names(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*")}


@pytest.mark.parametrize(
    ("age", "days", "recordings", "due"),
    [
        (1.0, None, None, "nothing"),
        (4000.0, None, None, "nothing"),
        (29.99, 30.0, None, "nothing"),
        (30.0, 30.0, None, "all"),
        (8.0, 30.0, 7.0, "recordings"),
        (6.9, 30.0, 7.0, "nothing"),
        (31.0, 30.0, 7.0, "all"),
        (8.0, None, 7.0, "recordings"),
        (0.5, 0.25, None, "all"),
        (-1.0, 30.0, 7.0, "nothing"),
    ],
)
def test_what_is_due(age: float, days: float | None, recordings: float | None, due: str) -> None:
    found = Retention(days, recordings).due(NOW - timedelta(days=age), NOW)
    assert found == {"nothing": (), "recordings": retention.SOUNDS, "all": retention.FILES}[due]


def test_old_calls_go_with_their_folders_and_younger_ones_lose_their_recordings(tmp_path: Path) -> None:
    old, middle, new = put(tmp_path, 40), put(tmp_path, 10), put(tmp_path, 1)
    removed = remove_due(tmp_path, Retention(30, 7), NOW)
    assert removed == Removed((old.name,), 1)
    assert not old.exists()
    assert {path.name for path in middle.iterdir()} == set(WHOLE) - {"recording.wav"}
    assert {path.name for path in new.iterdir()} == set(WHOLE)
    assert remove_due(tmp_path, Retention(30, 7), NOW) == Removed()


def test_what_was_heard_before_the_answer_is_a_recording_too(tmp_path: Path) -> None:
    folder = put(tmp_path, 10, files=("early.ogg", RECORD))
    assert remove_due(tmp_path, Retention(30, 7), NOW).recordings == 1
    assert [path.name for path in folder.iterdir()] == [RECORD]


@pytest.mark.parametrize("seed", range(5))
def test_by_chance_nothing_but_what_is_due_goes(tmp_path: Path, seed: int) -> None:
    luck = random.Random(seed)
    ages = [luck.uniform(0, 60) for _ in range(30)]
    folders = {put(tmp_path, age, f"call-{number}"): age for number, age in enumerate(ages)}
    remove_due(tmp_path, Retention(30, 7), NOW)
    assert {folder for folder, age in folders.items() if folder.exists()} == {
        f for f, age in folders.items() if age < 30
    }
    assert {f for f, age in folders.items() if (f / "recording.wav").exists()} == {
        f for f, a in folders.items() if a < 7
    }
    assert all((folder / RECORD).exists() for folder, age in folders.items() if age < 30)


def test_what_is_not_ours_stays_whatever_its_age(tmp_path: Path) -> None:
    root = tmp_path / "calls"
    old = put(root, 40)
    for name in ("index.sqlite3", "README", "20200101T000000.000000Z-file", "20209901T000000.000000Z"):
        (root / name).write_text("mine")
    for name in ("notes", "20200101", "20209901T000000.000000Z-thirteenth", "x20200101T000000.000000Z-x"):
        (root / name).mkdir()
        (root / name / RECORD).write_text("mine")
    before = names(root) - {old.name, *(f"{old.name}/{name}" for name in WHOLE)}
    remove_due(root, Retention(1), NOW)
    assert names(root) == before


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "calls", put(tmp_path / "elsewhere", 40)
    root.mkdir()
    (root / f"{NOW - timedelta(days=40):{TIME}}-link").symlink_to(elsewhere)
    linked = put(root, 40, "y", (RECORD,))
    (linked / "recording.wav").symlink_to(elsewhere / "recording.wav")
    (linked / "transcript.txt").mkdir()
    before = names(tmp_path / "elsewhere")
    remove_due(root, Retention(30), NOW)
    assert names(tmp_path / "elsewhere") == before
    assert {path.name for path in linked.iterdir()} == {"recording.wav", "transcript.txt"}


def test_what_others_put_into_a_calls_folder_stays_and_the_call_is_gone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = put(tmp_path, 40, files=(*WHOLE, "begun.json", ".call.json", "timeline.png", "notes.txt"))
    with caplog.at_level(logging.WARNING):
        assert remove_due(tmp_path, Retention(30), NOW).calls == (folder.name,)
        assert remove_due(tmp_path, Retention(30), NOW) == Removed()
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]
    assert len([record for record in caplog.records if "not ours" in record.message]) == 1


def test_a_call_that_is_not_over_is_left_alone(tmp_path: Path) -> None:
    folder = put(tmp_path, 40)
    held = lock(folder)
    assert remove_due(tmp_path, Retention(30, 7), NOW) == Removed()
    assert {path.name for path in folder.iterdir()} == set(WHOLE)
    os.close(held)
    assert remove_due(tmp_path, Retention(30, 7), NOW).calls == (folder.name,)


def test_one_that_cannot_be_removed_does_not_keep_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stuck, other = put(tmp_path, 41), put(tmp_path, 40)
    rmdir = Path.rmdir

    def refuse(path: Path) -> None:
        if path == stuck:
            raise PermissionError("not yours")
        rmdir(path)

    monkeypatch.setattr(Path, "rmdir", refuse)
    with caplog.at_level(logging.WARNING):
        assert remove_due(tmp_path, Retention(30), NOW).calls == (other.name,)
    assert "not yours" in caplog.text


async def test_at_the_start_and_once_an_hour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, rounds, next_round = [NOW], asyncio.Queue[float](), asyncio.Event()

    async def an_hour(seconds: float) -> None:
        rounds.put_nowait(seconds)
        await next_round.wait()
        next_round.clear()

    monkeypatch.setattr(retention, "utc_now", lambda: now[0])
    monkeypatch.setattr("voipagent.retention.asyncio.sleep", an_hour)
    old, young = put(tmp_path, 31, "old"), put(tmp_path, 29, "young")
    async with asyncio.timeout(10), kept(CallsSettings(dir=tmp_path, retention_days=30)) as index:
        assert [entry.id for entry in index.find(Query())] == ["young"]
        assert not old.exists()
        assert await rounds.get() == 3_600
        now[0] = NOW + timedelta(days=1)
        next_round.set()
        assert await rounds.get() == 3_600  # the second round is over
        assert not young.exists()
        assert index.find(Query()) == []


async def test_a_round_that_fails_is_told_of_and_the_next_has_its_turn(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise OverflowError("days=inf")

    await retention._tried(fail)
    assert "OverflowError: days=inf" in caplog.text


def test_a_call_that_is_gone_is_forgotten_at_the_next_time_if_the_index_was_busy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("voipagent.index.BUSY_S", 0.05)
    put(tmp_path, 31, "old")
    index = CallIndex(tmp_path)
    index.sync()
    tidy = Tidying(index, Retention(30))
    with closing(sqlite3.connect(index.path, isolation_level=None)) as busy:
        busy.execute("BEGIN IMMEDIATE")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            tidy(NOW)
        busy.execute("ROLLBACK")
    assert [entry.id for entry in index.find(Query())] == ["old"]
    tidy(NOW)
    assert index.find(Query()) == []


async def test_an_index_that_fails_keeps_no_call_from_coming(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "index.sqlite3").mkdir()
    with caplog.at_level(logging.ERROR):
        async with asyncio.timeout(10), kept(CallsSettings(dir=tmp_path)):
            pass
    assert "the calls' folder" in caplog.text


def test_the_days_agree_with_each_other() -> None:
    assert CallsSettings(retention_days=30, recordings_days=7).recordings_days == 7
    with pytest.raises(ValueError, match=r"recordings_days \(31\) is longer than retention_days \(30\)"):
        CallsSettings(retention_days=30, recordings_days=31)
    with pytest.raises(ValueError, match="greater than 0"):
        CallsSettings(retention_days=0)
