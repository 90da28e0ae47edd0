"""limits.py: a long body is refused before it is read, and nobody keeps a connection for nothing, over real HTTP."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from starlette.responses import StreamingResponse

from voipagent.web.api import create_api, serve_http
from voipagent.web.certificate import self_signed, server_context
from voipagent.web.limits import MAX_BODY


async def said(port: int, *headers: str, body: bytes = b"") -> int:
    """The status of the answer to a POST of something."""
    head = "\r\n".join(["POST /healthz HTTP/1.1", "Host: x", "Connection: close", *headers, "", ""])
    async with asyncio.timeout(5):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head.encode() + body)
        status = int((await reader.readline()).split()[1])
        writer.close()
    return status


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ([f"Content-Length: {MAX_BODY}"], b"x" * MAX_BODY, 405),  # heard, and then no method of /healthz
        ([], b"", 405),
        ([f"Content-Length: {MAX_BODY + 1}"], b"", 413),
        (["Content-Length: " + "9" * 18], b"", 413),
        (["Transfer-Encoding: chunked"], b"10000000\r\n", 411),
    ],
)
async def test_a_body_has_a_length_and_a_limit(headers: list[str], body: bytes, status: int) -> None:
    async with serve_http(create_api(lambda: True), "127.0.0.1", 0) as port:
        assert await said(port, *headers, body=body) == status


@pytest.mark.parametrize(
    "said",
    [
        "",
        "GET /healthz HT",
        "POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nx",
    ],
)
async def test_who_says_no_whole_request_in_time_is_hung_up_on(monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    monkeypatch.setattr("voipagent.web.limits.SAID_S", 0.2)
    async with asyncio.timeout(5), serve_http(create_api(lambda: True), "127.0.0.1", 0) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(said.encode())
        assert b"HTTP/1.1 200" not in await reader.read()
        writer.close()


async def test_the_time_of_a_second_request_runs_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("voipagent.web.limits.SAID_S", 1.0)
    async with asyncio.timeout(4), serve_http(create_api(lambda: True), "127.0.0.1", 0) as port:  # uvicorn waits for 5
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert await reader.readuntil(b'{"status":"ok"}')
        writer.write(b"GET /heal")
        assert not await reader.read()
        writer.close()


async def test_who_has_asked_may_wait_for_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("voipagent.web.limits.SAID_S", 0.5)
    api, closed = create_api(lambda: True), asyncio.Event()

    @api.get("/events")
    async def events() -> StreamingResponse:
        async def tell() -> AsyncIterator[str]:
            yield "first"
            await closed.wait()
            yield "last"

        return StreamingResponse(tell())

    async with asyncio.timeout(10), serve_http(api, "127.0.0.1", 0) as port:
        patient, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /events HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        silent, other = await asyncio.open_connection("127.0.0.1", port)
        assert not await silent.read()  # hung up on, though it came later
        closed.set()
        assert b"last" in await patient.read()
        for each in (writer, other):
            each.close()


@pytest.mark.parametrize("tls", [False, True])
async def test_there_is_a_limit_to_connections(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tls: bool) -> None:
    """Each one is a file, and calls need those for their ports; also while nobody has begun with TLS."""
    monkeypatch.setattr("voipagent.web.limits.MOST_CONNECTIONS", 2)
    context = server_context(self_signed(tmp_path, ["localhost"])) if tls else None
    async with asyncio.timeout(10), serve_http(create_api(lambda: True), "127.0.0.1", 0, context) as port:
        there = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
        assert not await there[2][0].read()
        for _, writer in there:
            writer.close()
        for _, writer in there[:2]:
            await writer.wait_closed()
        while not tls:  # until the server has seen them go
            with contextlib.suppress(ConnectionError, IndexError):
                if await said(port) == 405:
                    break
