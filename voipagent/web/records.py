"""Calls over the API: those that are over, what is kept of them, and the records of those that run."""

from __future__ import annotations

import asyncio
import json
import os
import stat
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Header, HTTPException, status
from fastapi import Query as FromQuery
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import FileResponse

from voipagent.index import CallIndex, Entry, Query
from voipagent.record import ARTEFACTS, FOLDER, RECORD, FolderError
from voipagent.session import Session
from voipagent.web.calls import check_token

MEDIA_TYPES: Mapping[str, str] = {
    ".wav": "audio/wav",
    ".ogg": "audio/ogg",
    ".json": "application/json",
    ".jsonl": "application/jsonl",
    ".vtt": "text/vtt; charset=utf-8",
    ".txt": "text/plain; charset=utf-8",
}

PRIVATE = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


class Wanted(BaseModel):
    """Which calls, the latest first; texts may be given in part."""

    model_config = ConfigDict(extra="forbid")

    caller: str = Field(default="", max_length=200)
    callee: str = Field(default="", max_length=200)
    persona: str = Field(default="", max_length=200)
    direction: Literal["", "in", "out"] = ""
    outcome: str = Field(default="", max_length=40, description="answered, not answered, busy, no answer, …")
    since: datetime | None = Field(default=None, description="began then or later; without a zone it is UTC")
    until: datetime | None = Field(default=None, description="began before")
    before: str = Field(default="", max_length=100, description="`next` of the page before")
    limit: int = Field(default=50, ge=1, le=200)


class Page(BaseModel):
    """`next` is what the next page's `before` is; empty: there is none."""

    calls: list[dict[str, Any]]
    next: str


class Kept(BaseModel):
    """A call: its record as far as it has come, and what is there of `/files/NAME` now."""

    state: Literal["running", "over"]
    path: str
    record: dict[str, Any]
    files: list[str]


def serve_records(api: FastAPI, index: CallIndex, sessions: Mapping[str, Session], token: str) -> None:
    """`GET /api/v1/calls`, `/api/v1/calls/{id}` and `/api/v1/calls/{id}/files/{name}`, for whoever has the token.

    A call is found by its id, the latest if a peer gave several the same, or by the name of its folder.
    """

    @api.get("/api/v1/calls")
    async def list_calls(wanted: Annotated[Wanted, FromQuery()], authorization: Annotated[str, Header()] = "") -> Page:
        check_token(authorization, token)
        found = await asyncio.to_thread(_found, index, Query(**(wanted.model_dump() | {"limit": wanted.limit + 1})))
        page, more = found[: wanted.limit], len(found) > wanted.limit
        return Page(calls=[asdict(entry) for entry in page], next=page[-1].path if more else "")

    @api.get("/api/v1/calls/{call_id}")
    async def show_call(call_id: str, authorization: Annotated[str, Header()] = "") -> Kept:
        check_token(authorization, token)
        if (session := sessions.get(call_id)) is not None:
            return Kept(state="running", path="", record=session.record.as_dict(), files=[])
        return await asyncio.to_thread(_kept, index, call_id)

    @api.get("/api/v1/calls/{call_id}/files/{name}", response_class=FileResponse)
    async def fetch_file(call_id: str, name: str, authorization: Annotated[str, Header()] = "") -> FileResponse:
        check_token(authorization, token)
        path = await asyncio.to_thread(_file, index, call_id, name)
        return FileResponse(path, media_type=MEDIA_TYPES[path.suffix], headers=PRIVATE)


def _found(index: CallIndex, query: Query) -> list[Entry]:
    try:
        return index.find(query)
    except FolderError as error:
        raise HTTPException(status.HTTP_503_SERVICE_UNAVAILABLE, str(error)) from None


def _folder(index: CallIndex, call_id: str) -> Path:
    """That of a call that is over. Raises HTTPException."""
    try:
        entry = index.get(call_id)
    except FolderError as error:
        raise HTTPException(status.HTTP_503_SERVICE_UNAVAILABLE, str(error)) from None
    if entry is None or not FOLDER.fullmatch(entry.path) or (index.root / entry.path).is_symlink():
        raise HTTPException(status.HTTP_404_NOT_FOUND, f"there is no record of a call {call_id!r}")
    return index.root / entry.path


def _kept(index: CallIndex, call_id: str) -> Kept:
    folder = _folder(index, call_id)
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise HTTPException(status.HTTP_404_NOT_FOUND, f"the record of call {call_id!r} is kept no longer") from None
    files = [name for name in (RECORD, *ARTEFACTS) if _is_file(folder / name)]
    return Kept(state="over", path=folder.name, record=record, files=files)


def _file(index: CallIndex, call_id: str, name: str) -> Path:
    path = _folder(index, call_id) / name
    if name not in (RECORD, *ARTEFACTS) or not _is_file(path):
        raise HTTPException(status.HTTP_404_NOT_FOUND, f"of call {call_id!r} there is no {name!r}, or no longer")
    return path


def _is_file(path: Path) -> bool:
    """Itself, not what a link leads to."""
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return False
