"""What is kept of calls is kept for so long and no longer: recordings, and all the rest.

Only files and folders that bear our names are removed, only in folders that we named, no link is followed, and the
folder of a call that is not over is left alone. When a call began is read from its folder's name: a copy has another
time of change.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sqlite3
import stat
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain
from pathlib import Path

from voipagent.calls import CallsSettings
from voipagent.index import CallIndex
from voipagent.record import ARTEFACTS, BEGUN, EARLY, FOLDER, RECORD, RECORDINGS, TIME, lock, utc_now

logger = logging.getLogger(__name__)

TIDY_S = 3_600.0

SOUNDS = (*RECORDINGS, *EARLY)

FILES = (*ARTEFACTS, RECORD, BEGUN, "timeline.png")
"""All that is ours in a call's folder: the picture is the lab's, and has words in it."""


@dataclass(frozen=True, slots=True)
class Retention:
    """Days; None is for ever."""

    days: float | None = None
    recordings_days: float | None = None

    def due(self, began: datetime, now: datetime) -> tuple[str, ...]:
        """Which files of a call that began then are to be removed now; FILES if all are, with their folder."""
        if _past(self.days, now - began):
            return FILES
        return SOUNDS if _past(self.recordings_days, now - began) else ()


def _past(days: float | None, age: timedelta) -> bool:
    return days is not None and age >= timedelta(days=days)


@dataclass(frozen=True, slots=True)
class Removed:
    """What one round has removed: `calls` by the names of their folders, and how many recordings of others."""

    calls: tuple[str, ...] = ()
    recordings: int = 0


def remove_due(root: Path, retention: Retention, now: datetime) -> Removed:
    """Remove what is due. What cannot be removed is told of in the log, and tried again the next time."""
    calls, recordings = [], 0
    for name, began in sorted(_ours(root)):
        names = retention.due(began, now)
        if not names:
            continue
        try:
            removed = _remove_files(root / name, names)
            if names is not FILES:
                recordings += removed
            elif _remove_folder(root / name, removed):
                calls.append(name)
        except BlockingIOError:
            logger.debug("- call folder %s is in use", root / name)
        except OSError as error:
            logger.warning("x call folder %s: not removed: %s", root / name, error)
    return Removed(tuple(calls), recordings)


def _ours(root: Path) -> Iterable[tuple[str, datetime]]:
    """The folders of calls, and when these began."""
    with os.scandir(root) as entries:
        for entry in entries:
            if FOLDER.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
                with contextlib.suppress(ValueError):  # a thirteenth month: not ours
                    stamp = entry.name.partition("-")[0]
                    yield entry.name, datetime.strptime(stamp, TIME).replace(tzinfo=UTC)


def _remove_files(folder: Path, names: Iterable[str]) -> int:
    """Remove these, and what was written of them when the agent was killed; how many were there. Raises OSError."""
    held, removed = lock(folder), 0
    try:
        for name in chain.from_iterable((name, f".{name}") for name in names):
            with contextlib.suppress(FileNotFoundError):
                if stat.S_ISREG(os.stat(name, dir_fd=held, follow_symlinks=False).st_mode):
                    os.unlink(name, dir_fd=held)
                    removed += 1
    finally:
        os.close(held)
    return removed


def _remove_folder(folder: Path, removed: int) -> bool:
    """Whether the call is gone; where somebody else has put something into its folder, that stays. Raises OSError."""
    with os.scandir(folder) as entries:
        foreign = any(True for _ in entries)
    if not foreign:
        folder.rmdir()
    elif removed:
        logger.warning("- call folder %s stays: there is something in it that is not ours", folder)
    return removed > 0 or not foreign


@asynccontextmanager
async def kept(calls: CallsSettings) -> AsyncIterator[CallIndex]:
    """The index of the calls, made right; what is due is removed now and once an hour, while entered.

    What fails of it is told of in the log: calls are taken all the same.
    """
    index = CallIndex(calls.dir)
    tidy = Tidying(index, Retention(calls.retention_days, calls.recordings_days))
    await _tried(lambda: _synced(index))
    await _tried(lambda: tidy(utc_now()))
    tidying = asyncio.create_task(_keep(tidy), name="retention")
    try:
        yield index
    finally:
        tidying.cancel()
        await asyncio.wait([tidying])


async def _keep(tidy: Tidying) -> None:
    while True:
        await asyncio.sleep(TIDY_S)
        await _tried(lambda: tidy(utc_now()))


async def _tried(act: Callable[[], None]) -> None:
    """Off the loop: a disk may be slow. Whatever goes wrong, the next hour has its turn."""
    try:
        await asyncio.to_thread(act)
    except (OSError, sqlite3.Error) as error:
        logger.error("x the calls' folder: %s", error)
    except Exception:
        logger.exception("x the calls' folder")


def _synced(index: CallIndex) -> None:
    synced = index.sync()
    if synced.entered or synced.forgotten or synced.closed:
        logger.info("- index of calls: %d entered, %d forgotten", synced.entered, synced.forgotten)


class Tidying:
    """Removes what is due, and has the index forget it: at the next time where that failed. Raises what they do."""

    def __init__(self, index: CallIndex, retention: Retention) -> None:
        self._index, self._retention = index, retention
        self._gone: set[str] = set()  # the index has them still

    def __call__(self, now: datetime) -> None:
        removed = remove_due(self._index.root, self._retention, now)
        self._gone.update(removed.calls)
        if removed != Removed():
            logger.info(
                "- retention: %d calls and %d recordings of others removed", len(removed.calls), removed.recordings
            )
        if self._gone:
            self._index.forget(self._gone)
            self._gone.clear()
