"""limits.py: a long body is refused before it is read, over real HTTP."""

from __future__ import annotations

import asyncio

import pytest

from voipagent.web.api import create_api, serve_http
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
