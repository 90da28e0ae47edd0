"""The index of all calls: SQLite beside their folders.

It holds nothing that `call.json` does not, so it may be removed, and is made anew from the folders. Every use opens it,
and waits BUSY_S for others: the disk's thread enters calls, the API and `voipagent calls` read, in whatever process.
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

from voipagent.record import FOLDER, RECORD, TIME, FolderError
from voipagent.recovery import close_killed

logger = logging.getLogger(__name__)

NAME = "index.sqlite3"

VERSION = 1
"""Of the table. An index of another version is made anew."""

BUSY_S = 5.0

SCHEMA = (
    "DROP TABLE IF EXISTS calls",
    """CREATE TABLE calls (
        path TEXT PRIMARY KEY, id TEXT NOT NULL, started TEXT NOT NULL, caller TEXT NOT NULL, callee TEXT NOT NULL,
        persona TEXT NOT NULL, direction TEXT NOT NULL, duration_s REAL NOT NULL, outcome TEXT NOT NULL,
        reason TEXT NOT NULL
    )""",
    "CREATE INDEX calls_by_id ON calls (id)",
    f"PRAGMA user_version = {VERSION}",
)

Value: TypeAlias = str | float | int


@dataclass(frozen=True, slots=True)
class Entry:
    """A call that is over. `path` is the name of its folder, by which calls sort as they began.

    `outcome` is "answered", or why the call was not, as far as that is known.
    """

    path: str
    id: str
    started: str
    caller: str
    callee: str
    persona: str
    direction: str
    duration_s: float
    outcome: str
    reason: str

    @classmethod
    def of(cls, path: str, record: Mapping[str, Any]) -> Entry:
        """From a call's record. Raises ValueError where it is none."""
        if not isinstance(record, Mapping) or "id" not in record:
            raise ValueError("it is no call's record")
        told = {name: _text(record.get(name)) for name in ("id", "started", "caller", "callee", "persona", "reason")}
        outcome = "answered" if record.get("answered") else _text(record.get("outcome")) or "not answered"
        duration_s = record.get("duration_s")
        return cls(
            path=path,
            direction=_text(record.get("direction")) or "in",
            duration_s=float(duration_s) if isinstance(duration_s, int | float) else 0.0,
            outcome=outcome,
            **told,
        )


@dataclass(frozen=True, slots=True)
class Query:
    """Which calls, the latest first. Empty means any; numbers and names may be given in part.

    `before` is the last path of the page before this one.
    """

    caller: str = ""
    callee: str = ""
    persona: str = ""
    direction: str = ""
    outcome: str = ""
    since: datetime | None = None
    until: datetime | None = None
    before: str = ""
    limit: int = 50

    def conditions(self) -> Iterator[tuple[str, Value]]:
        """Each as SQL, and its value."""
        for name in ("caller", "callee", "persona"):
            if value := getattr(self, name):
                yield f"instr(lower({name}), lower(?)) > 0", value
        for name in ("direction", "outcome"):
            if value := getattr(self, name):
                yield f"{name} = ?", value
        if self.since is not None:
            yield "path >= ?", _stamp(self.since)
        if self.until is not None:
            yield "path < ?", _stamp(self.until)
        if self.before:
            yield "path < ?", self.before


@dataclass(frozen=True, slots=True)
class Synced:
    """How many calls were entered, forgotten because their folder is gone, or closed because their agent was killed."""

    entered: int
    forgotten: int
    closed: int


class CallIndex:
    """The index of the calls in `root`. What the database refuses is `sqlite3.Error`, but where it says otherwise."""

    def __init__(self, root: Path) -> None:
        self.root, self.path = root, root / NAME

    def enter(self, name: str, record: Mapping[str, Any]) -> None:
        """Enter the call in the folder of that name."""
        with self._writing() as database:
            _insert(database, [Entry.of(name, record)])

    def forget(self, names: Iterable[str]) -> None:
        """The folders of these calls are gone."""
        with self._writing() as database:
            _delete(database, names)

    def find(self, query: Query) -> list[Entry]:
        """The calls that it asks for. Raises FolderError where there is no index."""
        wanted = list(query.conditions())
        where = " AND ".join(condition for condition, _ in wanted) or "1"
        values = [value for _, value in wanted]
        return self._read(f"{_SELECT} WHERE {where} ORDER BY path DESC LIMIT ?", *values, query.limit)

    def get(self, key: str) -> Entry | None:
        """The call of that id, the latest if a peer gave several the same, or in the folder of that name.

        Raises FolderError where there is no index.
        """
        return next(iter(self._read(f"{_SELECT} WHERE path = ? OR id = ? ORDER BY path DESC LIMIT 1", key, key)), None)

    def sync(self) -> Synced:
        """Make it right after a start: enter what is missing, forget what is gone, close what was killed.

        A file that is no database is replaced.
        """
        try:
            return self._sync(anew=False)
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):  # locked, or a disk that fails: not to be mended so
                raise
            logger.warning("x %s: %s; the index is made anew", self.path, error)
            return self.rebuild()

    def rebuild(self) -> Synced:
        """Make it anew from the folders. Calls that are entered meanwhile by others are not lost."""
        try:
            return self._sync(anew=True)
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise
            for path in (self.path, self.path.with_name(f"{NAME}-journal")):
                path.unlink(missing_ok=True)
            return self._sync(anew=True)

    def _sync(self, anew: bool) -> Synced:
        """The files are read before the database is locked: that may take long, and others want to enter calls."""
        with self._writing() as database:
            known = {path for (path,) in database.execute("SELECT path FROM calls")}
        names = {entry.name for entry in os.scandir(self.root) if _is_ours(entry)}
        closed = sum(_closed(self.root / name) for name in names)
        found = [_entry(self.root / name) for name in sorted(names if anew else names - known)]
        entries = [entry for entry in found if entry is not None]
        gone = known - ({entry.path for entry in entries} if anew else names)
        with self._writing() as database:
            _insert(database, entries)
            _delete(database, gone)
        return Synced(len(entries), len(gone), closed)

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction; the file is made where it is not there, for its owner alone."""
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
        database = sqlite3.connect(self.path, timeout=BUSY_S, isolation_level=None)
        try:
            database.execute("PRAGMA synchronous = OFF")  # what a power cut spoils is made anew
            database.execute("BEGIN IMMEDIATE")
            if database.execute("PRAGMA user_version").fetchone() != (VERSION,):
                for statement in SCHEMA:
                    database.execute(statement)
            yield database
            database.execute("COMMIT")
        finally:
            database.close()  # which rolls back what was not committed

    def _read(self, sql: str, *values: Value) -> list[Entry]:
        try:
            database = sqlite3.connect(f"{self.path.absolute().as_uri()}?mode=ro", timeout=BUSY_S, uri=True)
            try:
                asked = [_text(value) if isinstance(value, str) else value for value in values]
                return [Entry(*row) for row in database.execute(sql, asked)]
            finally:
                database.close()
        except sqlite3.Error as error:
            raise FolderError(
                f"{str(self.path)!r} cannot be read: {error}; `voipagent calls rebuild` makes it anew"
            ) from None


_SELECT = f"SELECT {', '.join(field.name for field in fields(Entry))} FROM calls"


def _insert(database: sqlite3.Connection, entries: Iterable[Entry]) -> None:
    marks = ", ".join("?" for _ in fields(Entry))
    database.executemany(f"INSERT OR REPLACE INTO calls VALUES ({marks})", map(astuple, entries))


def _delete(database: sqlite3.Connection, names: Iterable[str]) -> None:
    database.executemany("DELETE FROM calls WHERE path = ?", [(name,) for name in names])


def _is_ours(entry: os.DirEntry[str]) -> bool:
    return FOLDER.fullmatch(entry.name) is not None and entry.is_dir(follow_symlinks=False)


def _closed(folder: Path) -> bool:
    try:
        return close_killed(folder)
    except OSError as error:
        logger.warning("x call folder %s: its record cannot be closed: %s", folder, error)
        return False


def _entry(folder: Path) -> Entry | None:
    """A call that is over; None where it is not, or the record is none of ours."""
    try:
        return Entry.of(folder.name, json.loads((folder / RECORD).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        logger.warning("x call folder %s: %s cannot be read: %s", folder, RECORD, error)
        return None


def _text(value: object) -> str:
    """A peer's text may have half a character in it, which no file and no database takes."""
    return str(value or "").encode("utf-8", "replace").decode()


def _stamp(moment: datetime) -> str:
    """As folders are named; without a zone, and at the ends of time, it is UTC."""
    try:
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except OverflowError:
        moment = moment.replace(tzinfo=UTC)
    return f"{moment:{TIME}}"
