"""One folder a call: what was said, heard and counted, kept for whoever asks later.

`<UTC time>-<call id>/` holds `call.json`, `recording.wav` or `.ogg`, and `transcript.jsonl`, `.json`, `.vtt` and
`.txt`, readable by the owner alone. `call.json` has a `version`; keys are only ever added.

While the call lasts `call.json` is not there, but `begun.json` is: the record so far and the lines that are not over
yet, written anew each second. The process that writes it holds a lock on the folder. A lock ends with its process:
where there is a begun record and no lock the agent was killed, and `recovery` closes the record.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import sqlite3
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from voipagent.context import Line
from voipagent.recording import Recorder, open_private, settled
from voipagent.transcript import FILES, LIVE

logger = logging.getLogger(__name__)

VERSION = 1
"""Of call.json. It rises only if a key changes its meaning."""

RECORD, BEGUN = "call.json", "begun.json"
RECORDINGS, EARLY = ("recording.wav", "recording.ogg"), ("early.wav", "early.ogg")
ARTEFACTS = (*RECORDINGS, *EARLY, LIVE, *FILES)
"""What a call may leave beside its record."""

FOLDER = re.compile(r"\d{8}T\d{6}\.\d{6}Z-[A-Za-z0-9_-]{1,64}")
"""A name of ours: nothing else in the directory is any of our business."""

MOST_NOTED = 1000
"""Keys, and holds: as long as a call lasts all of its record is written anew each second."""

TIME = "%Y%m%dT%H%M%S.%fZ"
"""How such a name begins: names sort as calls began."""


class FolderError(Exception):
    """Records cannot be kept here; the message says where and why."""


@dataclass(slots=True)
class CallRecord:
    """`call.json`. Times of day are UTC in ISO 8601; durations end in _s."""

    id: str
    kind: str
    caller: str
    callee: str
    source: str
    started: str
    headers: Mapping[str, str] = field(default_factory=dict)
    """What the far end says of itself and of the way here: proved by nobody, and never part of a prompt."""
    trunk: str = ""
    direction: str = "in"
    rang: str = ""
    early_s: float = 0.0
    early: str = ""
    """The file with what was heard before a call of ours was answered, if it lasted."""
    persona: str = ""
    language: str = ""
    """What the persona is set to speak; nobody has checked what was spoken."""
    model: str = ""
    seed: int = 0
    ear: str = ""
    """What wrote down the caller's words."""
    deaf: str = ""
    """Why nothing did; from `deaf_at` on, in seconds, where it did before."""
    deaf_at: float | None = None
    answered: str = ""
    setup_s: float | None = None
    """From the offer, or from our dialling, to the answer."""
    prime_s: float | None = None
    duration_s: float = 0.0
    frames_stepped: int = 0
    frames_held: int = 0
    frames_late: int = 0
    step_s_max: float = 0.0
    step_s_mean: float = 0.0
    consent: Mapping[str, Any] = field(default_factory=dict)
    """What the caller heard before anybody listened: `heard`, `duration_s`, and if that was the `whole` of it."""
    barged_in: bool = False
    response_latency: Mapping[str, Any] = field(default_factory=dict)
    """`count` of the agent's responses, `p50_s`, `p90_s`, `p95_s`; see `turns` for these and the next two."""
    interruptions: int = 0
    backchannels: int = 0
    digits: list[dict[str, Any]] = field(default_factory=list)
    holds: list[dict[str, Any]] = field(default_factory=list)
    transfers: list[dict[str, Any]] = field(default_factory=list)
    participants: list[dict[str, Any]] = field(default_factory=list)
    """Of a room: everybody who was there."""
    trims: list[dict[str, Any]] = field(default_factory=list)
    troubles: list[dict[str, Any]] = field(default_factory=list)
    summary: str = ""
    recording: str = ""
    recording_error: str = ""
    transcript_error: str = ""
    artefacts: Sequence[str] = ()
    """The files beside this one, as they were at the end of the call; retention may take them sooner."""
    media: Mapping[str, Any] = field(default_factory=dict)
    outcome: str = ""
    ended_by: str = ""
    reason: str = ""
    version: int = VERSION

    def as_dict(self) -> dict[str, Any]:
        """`version` first, the rest in the order above."""
        names = ["version", *(name for name in self.__dataclass_fields__ if name != "version")]
        return {name: getattr(self, name) for name in names}

    def as_json(self) -> str:
        """The file's text."""
        return told(self.as_dict())


def noted(entries: list[dict[str, Any]], entry: dict[str, Any]) -> None:
    """Add what a far end can do as often as it likes; of too many the latest are kept."""
    entries.append(entry)
    del entries[:-MOST_NOTED]


class CallFolder:
    """One call's files, written by the disk's thread. The disk may fail: it is logged and counted, the call goes on.

    `enter` is told of the call once its record is written, in that thread: (name of the folder, call.json).
    """

    def __init__(
        self,
        recorder: Recorder,
        root: Path,
        started: datetime,
        call_id: str,
        enter: Callable[[str, Mapping[str, Any]], None] | None = None,
    ) -> None:
        self.path = root / f"{started:{TIME}}-{_file_name(call_id)}"
        self.error = ""
        self._recorder, self._enter = recorder, enter
        self._lines: list[Line] = []
        self._lock = -1  # the disk thread's
        self._noted: Future[object] | None = None
        self._do("folder", self._make)

    @property
    def transcripts(self) -> Sequence[str]:
        """The names of the files in which the lines are, at the end of the call."""
        return (LIVE, *FILES) if self._lines else ()

    def write_line(self, line: Line) -> None:
        """Append to the transcript."""
        self._lines.append(line)
        self._do(LIVE, self._append, f"{line}\n")

    def note(self, record: CallRecord, begun: Sequence[Line]) -> None:
        """Write down how far the call has come, for the case that it ends in no other way.

        Left out while the disk has not written the last note yet: the next one tells more.
        """
        if self._noted is None or self._noted.done():
            text = _note(record.as_dict(), begun)
            self._noted = self._do(BEGUN, replace_file, self.path / BEGUN, text)

    async def write_record(self, record: CallRecord) -> None:
        """Write the transcripts, then call.json, the last of a call's files; again where it has changed since."""
        await settled(self._do(RECORD, self._finish, record.as_dict(), tuple(self._lines)))

    def _make(self) -> None:
        self.path.mkdir(mode=0o700)
        self._lock = lock(self.path)

    def _append(self, text: str) -> None:
        descriptor = os.open(self.path / LIVE, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "a", encoding="utf-8") as file:
            file.write(text)

    def _finish(self, record: Mapping[str, Any], lines: Sequence[Line]) -> None:
        try:
            finish(self.path, record, lines)
            if self._enter is not None:
                self._enter(self.path.name, record)
        except OSError:
            # The next start closes it: what is written in place of the last note says why the call ended.
            replace_file(self.path / BEGUN, _note(record, lines))
            raise
        finally:
            if self._lock >= 0:
                os.close(self._lock)
                self._lock = -1

    def _do(self, what: str, act: Callable[..., object], *arguments: object) -> Future[object]:
        return self._recorder.do(self._try, what, act, *arguments)

    def _try(self, what: str, act: Callable[..., object], *arguments: object) -> None:
        try:
            act(*arguments)
        except (OSError, sqlite3.Error) as error:
            if not self.error:
                logger.error("x call folder %s: %s: %s", self.path, what, error)
            self.error = f"{what}: {error}"


def finish(folder: Path, record: Mapping[str, Any], lines: Sequence[Line]) -> None:
    """Write what is written at the end of a call, its record last. Raises OSError."""
    for name, write in FILES.items():
        if lines:
            replace_file(folder / name, write(lines))
    replace_file(folder / RECORD, told(record))
    (folder / BEGUN).unlink(missing_ok=True)


def _note(record: Mapping[str, Any], lines: Sequence[Line]) -> str:
    """In one line, which is written in a third of the time: each call has it done once a second, between frames."""
    return json.dumps({"record": record, "lines": [line.as_dict() for line in lines]}, ensure_ascii=False) + "\n"


def told(value: Mapping[str, Any]) -> str:
    """As JSON that people read, too."""
    return json.dumps(value, ensure_ascii=False, indent=2) + "\n"


def replace_file(path: Path, text: str) -> None:
    """Write a private file whole: whoever is killed meanwhile leaves the one of before. Raises OSError."""
    part = path.with_name(f".{path.name}")
    with open_private(part) as file:
        file.write(text.encode("utf-8", "replace"))  # a peer's header may have half a character in it
    part.replace(path)


def lock(folder: Path) -> int:
    """A descriptor that says, while it is open, that this process writes to `folder`.

    Raises BlockingIOError where another does, OSError where it is not there. Where the file system knows no locks
    nobody is kept out.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise
    except OSError:
        pass
    return descriptor


def check_folder(root: Path) -> None:
    """Make the folder if it is not there, and see that we can write in it. Raises FolderError."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root):
            pass
    except OSError as error:
        raise FolderError(f"VOIPAGENT_CALLS__DIR: cannot write in {str(root)!r}: {error.strerror or error}") from None


def utc_now() -> datetime:
    """The time of day."""
    return datetime.now(UTC)


def _file_name(text: str) -> str:
    """A call id as part of a file name: it comes from the peer, so only harmless letters of it, and few."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", text)[:64] or "call"
