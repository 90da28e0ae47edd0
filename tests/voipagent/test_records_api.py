"""web/records.py over real HTTP: who may read of calls, which are found, and what is never handed out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import quote

import pytest

from voipagent.context import Line
from voipagent.index import NAME, CallIndex
from voipagent.record import CallFolder, CallRecord
from voipagent.recording import Recorder
from voipagent.session import Session
from voipagent.web.api import create_api, serve_http
from voipagent.web.records import serve_records

TOKEN = "Bearer s3cret"
STARTED = datetime(2026, 11, 24, 10, 30, tzinfo=UTC)
RECORD = CallRecord("id-0", "sip", "alice", "agent", "192.0.2.7:5060", STARTED.isoformat(), answered="now")
RIFF = bytes(range(256)) * 4


class Reader:
    """Somebody with HTTP."""

    port = 0

    async def get(self, path: str, *headers: str, authorization: str = TOKEN) -> tuple[int, dict[str, str], bytes]:
        head = [f"GET /api/v1/calls{path} HTTP/1.1", "Host: x", "Connection: close", *headers]
        head += [f"Authorization: {authorization}"] * bool(authorization)
        async with asyncio.timeout(5):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            writer.write("\r\n".join([*head, "", ""]).encode())
            answer, _, said = (await reader.read()).partition(b"\r\n\r\n")
            writer.close()
            await writer.wait_closed()
        first, *fields = answer.decode().split("\r\n")
        parted = (field.partition(": ") for field in fields)
        return int(first.split()[1]), {name.lower(): value for name, _, value in parted}, said

    async def told(self, path: str, code: int = 200) -> Any:
        got, _, said = await self.get(path)
        assert got == code, said
        return json.loads(said)


@asynccontextmanager
async def reading(root: Path, token: str = "s3cret", running: CallRecord | None = None) -> AsyncIterator[Reader]:
    api, reader = create_api(lambda: True), Reader()
    sessions = {running.id: cast(Session, SimpleNamespace(record=running))} if running else {}
    serve_records(api, CallIndex(root), sessions, token)
    async with serve_http(api, "127.0.0.1", 0) as reader.port:
        yield reader


@pytest.fixture
async def root(recorder: Recorder, tmp_path: Path) -> Path:
    """Five calls, one an hour, the last to sales; the first has all files."""
    index = CallIndex(tmp_path)
    for number in range(5):
        started = STARTED + timedelta(hours=number)
        callee = "sales" if number == 4 else "agent"
        record = replace(RECORD, id=f"id-{number}", callee=callee, started=started.isoformat())
        folder = CallFolder(recorder, tmp_path, started, record.id, index.enter)
        if number == 0:
            folder.write_line(Line("agent", "Good day, Ünï <3", 0.0, 1.0))
            recorder.do((folder.path / "recording.wav").write_bytes, RIFF)
            recorder.do((folder.path / "secret.txt").write_text, "of somebody else")
        await folder.write_record(record)
        assert folder.error == ""
    return tmp_path


async def test_calls_are_listed_the_latest_first_and_in_pages(root: Path) -> None:
    async with reading(root) as on:
        first = await on.told("?limit=2")
        assert [call["id"] for call in first["calls"]] == ["id-4", "id-3"]
        assert set(first["calls"][0]) >= {"path", "started", "caller", "callee", "persona", "direction", "duration_s"}
        second = await on.told(f"?limit=2&before={first['next']}")
        third = await on.told(f"?limit=2&before={second['next']}")
        assert [call["id"] for call in second["calls"] + third["calls"]] == ["id-2", "id-1", "id-0"]
        assert third["next"] == ""


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("callee=SALES", ["id-4"]),
        ("since=2026-11-24T13:00:00Z", ["id-4", "id-3"]),
        ("since=2026-11-24T13:00:00%2B02:00&until=2026-11-24T11:45:00", ["id-1"]),
        ("outcome=answered&limit=1", ["id-4"]),
        ("direction=out", []),
        ("since=0001-01-01T00:00:00%2B14:00&until=9999-12-31T23:59:59-14:00&limit=1", ["id-4"]),
    ],
)
async def test_calls_are_found(root: Path, query: str, found: list[str]) -> None:
    async with reading(root) as on:
        assert [call["id"] for call in (await on.told(f"?{query}"))["calls"]] == found


@pytest.mark.parametrize("query", ["limit=0", "limit=201", "limit=x", "direction=up", "since=monday", "colour=red"])
async def test_a_query_that_makes_no_sense(root: Path, query: str) -> None:
    async with reading(root) as on:
        await on.told(f"?{query}", 422)


async def test_one_call_with_its_record_and_files(root: Path) -> None:
    async with reading(root) as on:
        told = await on.told("/id-0")
        assert (told["state"], told["record"]["caller"], told["record"]["version"]) == ("over", "alice", 1)
        files = [
            "call.json",
            "recording.wav",
            "transcript.jsonl",
            "transcript.json",
            "transcript.vtt",
            "transcript.txt",
        ]
        assert told["files"] == files
        assert await on.told(f"/{told['path']}") == told


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("call.json", "application/json"),
        ("recording.wav", "audio/wav"),
        ("transcript.vtt", "text/vtt; charset=utf-8"),
        ("transcript.txt", "text/plain; charset=utf-8"),
    ],
)
async def test_a_file_is_handed_out_as_what_it_is(root: Path, name: str, kind: str) -> None:
    async with reading(root) as on:
        code, headers, said = await on.get(f"/id-0/files/{name}")
        assert (code, headers["content-type"]) == (200, kind)
        assert (headers["cache-control"], headers["x-content-type-options"]) == ("no-store", "nosniff")
        (path,) = root.glob(f"*id-0/{name}")
        assert said == path.read_bytes()


async def test_a_recording_can_be_heard_from_anywhere_in_it(root: Path) -> None:
    async with reading(root) as on:
        code, headers, said = await on.get("/id-0/files/recording.wav", "Range: bytes=100-199")
        assert (code, headers["content-range"], said) == (206, "bytes 100-199/1024", RIFF[100:200])


@pytest.mark.parametrize(
    "path",
    [
        *("/nobody", "/id-9/files/call.json", "/id-1/files/recording.wav", "/id-0/files/secret.txt"),
        *(
            "/id-0/files/begun.json",
            "/id-0/files/..%2F..%2Findex.sqlite3",
            f"/{NAME}",
            "/..",
            "/%2E%2E/files/call.json",
        ),
        f"/id-0/files/..%2f..%2f{NAME}",
    ],
)
async def test_what_is_not_there_or_nobodys_business(root: Path, path: str) -> None:
    async with reading(root) as on:
        code, _, said = await on.get(path)
        assert code == 404
        assert b"SQLite" not in said


async def test_links_lead_nowhere(root: Path) -> None:
    (folder,) = root.glob("*id-0")
    (folder / "recording.wav").unlink()
    (folder / "recording.wav").symlink_to("/etc/hostname")
    moved = folder.rename(root / "elsewhere")
    async with reading(root) as on:
        await on.told("/id-0", 404)
        folder.symlink_to(moved)
        await on.told("/id-0", 404)
        folder.unlink()
        moved.rename(folder)
        assert "recording.wav" not in (await on.told("/id-0"))["files"]
        await on.told("/id-0/files/recording.wav", 404)


async def test_what_retention_took_is_no_longer_told_of(root: Path) -> None:
    (folder,) = root.glob("*id-0")
    (folder / "recording.wav").unlink()
    async with reading(root) as on:
        told = await on.told("/id-0")
        assert "recording.wav" not in told["files"]
        (folder / "call.json").unlink()
        assert "no longer" in (await on.told("/id-0", 404))["detail"]


async def test_a_call_that_runs_is_shown_as_far_as_it_has_come(root: Path) -> None:
    async with reading(root, running=replace(RECORD, id="now", frames_stepped=7)) as on:
        told = await on.told("/now")
        assert (told["state"], told["record"]["frames_stepped"], told["files"]) == ("running", 7, [])


async def test_an_id_may_have_any_letters(recorder: Recorder, tmp_path: Path) -> None:
    folder = CallFolder(recorder, tmp_path, STARTED, "x", CallIndex(tmp_path).enter)
    await folder.write_record(replace(RECORD, id="a b@[::1]?x=1&ü"))
    async with reading(tmp_path) as on:
        told = await on.told(f"/{quote('a b@[::1]?x=1&ü', safe='')}")
        assert told["path"] == folder.path.name


async def test_without_the_token_nothing_is_told(root: Path) -> None:
    paths = ["", "/id-0", "/id-0/files/recording.wav", "/nobody"]
    async with reading(root) as on:
        for path, told in product(paths, ["", "Bearer", "Bearer s3cre", "Basic s3cret"]):
            code, _, said = await on.get(path, authorization=told)
            assert code == 401
            assert "VOIPAGENT_HTTP__TOKEN" in json.loads(said)["detail"]
    async with reading(root, token="") as on:
        assert [(await on.get(path))[0] for path in paths] == [403] * 4


async def test_an_index_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    async with reading(tmp_path) as on:
        assert "voipagent calls rebuild" in (await on.told("", 503))["detail"]
        assert "voipagent calls rebuild" in (await on.told("/x", 503))["detail"]
