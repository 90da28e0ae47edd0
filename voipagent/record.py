"""One folder a call: what was said, heard and counted, kept for whoever asks later.

`<UTC time>-<call id>/` holds `call.json`, `transcript.jsonl` and `recording.wav` or `.ogg`, readable by the owner
alone. `call.json` has a `version`; keys are only ever added.
"""

from __future__ import annotations

import json
import logging
import os
import re
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from voipagent.context import Line
from voipagent.recording import Recorder, open_private, settled

logger = logging.getLogger(__name__)

VERSION = 1
"""Of call.json. It rises only if a key changes its meaning."""


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
    persona: str = ""
    model: str = ""
    seed: int = 0
    answered: str = ""
    prime_s: float | None = None
    duration_s: float = 0.0
    frames_stepped: int = 0
    frames_held: int = 0
    frames_late: int = 0
    step_s_max: float = 0.0
    step_s_mean: float = 0.0
    barged_in: bool = False
    digits: list[dict[str, Any]] = field(default_factory=list)
    holds: list[dict[str, float]] = field(default_factory=list)
    transfers: list[dict[str, Any]] = field(default_factory=list)
    trims: list[dict[str, Any]] = field(default_factory=list)
    troubles: list[dict[str, Any]] = field(default_factory=list)
    summary: str = ""
    recording: str = ""
    recording_error: str = ""
    transcript_error: str = ""
    media: Mapping[str, Any] = field(default_factory=dict)
    outcome: str = ""
    ended_by: str = ""
    reason: str = ""
    version: int = VERSION

    def as_json(self) -> str:
        """The file's text: `version` first, the rest in the order above."""
        names = ["version", *(name for name in self.__dataclass_fields__ if name != "version")]
        return json.dumps({name: getattr(self, name) for name in names}, ensure_ascii=False, indent=2) + "\n"


class CallFolder:
    """One call's files, written by the disk's thread. The disk may fail: it is logged and counted, the call goes on."""

    def __init__(self, recorder: Recorder, root: Path, started: datetime, call_id: str) -> None:
        self.path = root / f"{started:%Y%m%dT%H%M%S.%fZ}-{_file_name(call_id)}"
        self.error = ""
        self._recorder = recorder
        self._do("folder", lambda: self.path.mkdir(mode=0o700))

    def write_line(self, line: Line) -> None:
        """Append to the transcript."""
        self._do("transcript.jsonl", self._append, f"{line}\n")

    async def write_record(self, record: CallRecord) -> None:
        """Write call.json, the last of a call's files."""
        await settled(self._do("call.json", self._write, record.as_json()))

    def _append(self, text: str) -> None:
        descriptor = os.open(self.path / "transcript.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "a", encoding="utf-8") as file:
            file.write(text)

    def _write(self, text: str) -> None:
        with open_private(self.path / "call.json") as file:
            file.write(text.encode())

    def _do(self, what: str, act: Callable[..., object], *arguments: object) -> Future[object]:
        return self._recorder.do(self._try, what, act, *arguments)

    def _try(self, what: str, act: Callable[..., object], *arguments: object) -> None:
        try:
            act(*arguments)
        except OSError as error:
            if not self.error:
                logger.error("x call folder %s: %s: %s", self.path, what, error)
            self.error = f"{what}: {error}"


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
