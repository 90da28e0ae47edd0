"""Health over real HTTP."""

from __future__ import annotations

import asyncio
import json
import socket

import pytest

from voipagent.web.api import HttpError, create_api, serve_http
from voipagent.web.bearer import shows


async def get(port: int, path: str, *headers: str, host: str = "localhost") -> tuple[int, object]:
    async with asyncio.timeout(5):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head_lines = [f"GET {path} HTTP/1.1", f"Host: {host}", "Connection: close", *headers, "", ""]
        writer.write("\r\n".join(head_lines).encode())
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        await writer.wait_closed()
    return int(head.split()[1]), json.loads(body)


async def test_ready_says_whether_a_call_would_be_taken() -> None:
    state = {"ready": False}
    async with serve_http(create_api(lambda: state["ready"]), "127.0.0.1", 0) as port:
        assert await get(port, "/healthz") == (200, {"status": "ok"})
        assert await get(port, "/readyz") == (503, {"status": "unavailable"})
        state["ready"] = True
        assert await get(port, "/readyz") == (200, {"status": "ready"})


async def test_health_says_how_each_trunk_fares() -> None:
    down = {"name": "acme", "host": "sip.acme.example", "registered": False, "up": None, "why": "403", "calls": 0}
    async with serve_http(create_api(lambda: True, lambda: [down]), "127.0.0.1", 0) as port:
        assert await get(port, "/api/v1/health") == (200, {"status": "ready", "trunks": [down]})
        assert await get(port, "/readyz") == (200, {"status": "ready"}), "others may still call"
    async with serve_http(create_api(lambda: False), "127.0.0.1", 0) as port:
        assert await get(port, "/api/v1/health") == (200, {"status": "unavailable", "trunks": []})


async def test_of_trunks_only_this_machine_hears_and_who_has_the_token() -> None:
    """Where they are, and that one is down, is none of everybody's business; whether calls are taken is."""
    async with serve_http(create_api(lambda: True, lambda: [{"name": "acme"}], "hush"), "127.0.0.1", 0) as port:
        whole = {"status": "ready", "trunks": [{"name": "acme"}]}
        assert await get(port, "/api/v1/health") == (200, whole)
        for headers in ((), ("Authorization: Bearer nope",), ("Authorization: Basic hush",)):
            assert await get(port, "/api/v1/health", *headers, host="example.com") == (200, {"status": "ready"})
        shown = await get(port, "/api/v1/health", "Authorization: bearer hush", host="example.com")
        assert shown == (200, whole)
    async with serve_http(create_api(lambda: True, lambda: [{"name": "acme"}]), "127.0.0.1", 0) as port:
        shown = await get(port, "/api/v1/health", "Authorization: Bearer ", host="example.com")
        assert shown == (200, {"status": "ready"})


@pytest.mark.parametrize("authorization", ["Bearer ", "Bearer", ""])
def test_no_token_is_shown_by_nothing(authorization: str) -> None:
    assert not shows(authorization, "")


async def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(HttpError, match=f"cannot serve HTTP on 127.0.0.1:{port}: Address already in use"):
            async with serve_http(create_api(lambda: True), "127.0.0.1", port):
                pass
