"""web/control.py: what the API does with calls that run, over real HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from signaling.call import NotAllowed, SignalingError
from tests.voipagent.test_transfer import Board
from voipagent.session import Session
from voipagent.transfer import Switchboard
from voipagent.web.api import create_api, serve_http
from voipagent.web.control import serve_control

TOKEN = "Bearer s3cret"


class Talk:
    """A session as far as the API knows one. `error` is raised instead."""

    def __init__(self) -> None:
        self.done: list[tuple[object, ...]] = []
        self.error: Exception | None = None

    async def hold(self, held: bool) -> None:
        self._do("hold", held)

    async def transfer(self, board: Switchboard, target: str, trunk: str) -> str:
        self._do("transfer", target, trunk)
        return "bridged"

    def _do(self, *what: object) -> None:
        if self.error is not None:
            raise self.error
        self.done.append(what)


class Api:
    def __init__(self) -> None:
        self.talk, self.port = Talk(), 0

    async def post(self, path: str, body: object = None, authorization: str = TOKEN) -> tuple[int, Any]:
        data = json.dumps(body) if body is not None else ""
        head = [
            *(f"POST /api/v1/calls/{path} HTTP/1.1", "Host: x", "Connection: close", "Content-Type: application/json"),
            *(f"Content-Length: {len(data)}", *([f"Authorization: {authorization}"] * bool(authorization))),
        ]
        async with asyncio.timeout(5):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            writer.write("\r\n".join([*head, "", data]).encode())
            answer, _, said = (await reader.read()).partition(b"\r\n\r\n")
            writer.close()
            await writer.wait_closed()
        return int(answer.split()[1]), json.loads(said) if said else None


@asynccontextmanager
async def serving() -> AsyncIterator[Api]:
    api, opened = create_api(lambda: True), Api()
    sessions = {"call-1": cast(Session, opened.talk)}
    serve_control(api, sessions, Board().board, "s3cret")
    async with serve_http(api, "127.0.0.1", 0) as opened.port:
        yield opened


async def test_hold_resume_and_transfer() -> None:
    async with serving() as on:
        assert await on.post("call-1/hold") == (204, None)
        assert await on.post("call-1/resume") == (204, None)
        assert await on.post("call-1/transfer", {"target": "+4930", "trunk": "pbx"}) == (200, {"how": "bridged"})
        assert on.talk.done == [("hold", True), ("hold", False), ("transfer", "+4930", "pbx")]


@pytest.mark.parametrize("path", ["call-1/hold", "call-1/resume", "call-1/transfer"])
@pytest.mark.parametrize(
    ("error", "code", "said"),
    [(SignalingError("603 Decline"), 502, "603 Decline"), (None, 401, "VOIPAGENT_HTTP__TOKEN")],
)
async def test_what_cannot_be_done(path: str, error: Exception | None, code: int, said: str) -> None:
    async with serving() as on:
        on.talk.error = error
        found, why = await on.post(path, {"target": "+4930"}, TOKEN if error else "Bearer wrong")
        assert found == code and said in why["detail"]
        assert on.talk.done == []


async def test_a_target_that_no_pattern_allows() -> None:
    async with serving() as on:
        on.talk.error = NotAllowed("no", ("outbound", "allow"))
        assert (await on.post("call-1/transfer", {"target": "+4930"}))[0] == 403


async def test_a_call_that_is_not_there() -> None:
    async with serving() as on:
        assert await on.post("another/hold") == (404, {"detail": "there is no call 'another' now"})


@pytest.mark.parametrize("body", [{}, {"target": ""}, {"target": "1", "other": 2}, {"target": "1" * 201}])
async def test_a_transfer_that_cannot_be_read(body: dict[str, object]) -> None:
    async with serving() as on:
        assert (await on.post("call-1/transfer", body))[0] == 422
        assert on.talk.done == []
