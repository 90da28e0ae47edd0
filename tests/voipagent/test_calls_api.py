"""web/calls.py: calls by POST: who may make them, and what is said where there is none."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from engine.slot import EngineFull
from signaling.call import NotAllowed, OutgoingCall, SignalingError
from tests.voipagent.outgoing import FakeOutgoingCall
from voipagent.outbound import UnknownPersona, Wanted
from voipagent.web.api import create_api, serve_http
from voipagent.web.calls import serve_calls

TOKEN = "Bearer s3cret"


class Desk:
    """What was wanted, over real HTTP. `error` is raised instead."""

    def __init__(self) -> None:
        self.wanted: list[Wanted] = []
        self.error: Exception | None = None
        self.port = 0

    async def place(self, wanted: Wanted) -> OutgoingCall:
        self.wanted.append(wanted)
        if self.error is not None:
            raise self.error
        return FakeOutgoingCall(wanted.target, "pbx")

    async def post(self, body: object, authorization: str = TOKEN) -> tuple[int, Any]:
        data = body if isinstance(body, str) else json.dumps(body)
        head = [
            *("POST /api/v1/calls HTTP/1.1", "Host: x", "Connection: close", "Content-Type: application/json"),
            *(f"Content-Length: {len(data)}", *([f"Authorization: {authorization}"] * bool(authorization))),
        ]
        async with asyncio.timeout(5):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            writer.write("\r\n".join([*head, "", data]).encode())
            answer, _, said = (await reader.read()).partition(b"\r\n\r\n")
            writer.close()
            await writer.wait_closed()
        return int(answer.split()[1]), json.loads(said)


@asynccontextmanager
async def desk(token: str = "s3cret") -> AsyncIterator[Desk]:
    api, opened = create_api(lambda: True), Desk()
    serve_calls(api, opened.place, token)
    async with serve_http(api, "127.0.0.1", 0) as opened.port:
        yield opened


async def test_a_call() -> None:
    async with desk() as on:
        code, said = await on.post({"target": "+4930", "trunk": "pbx", "persona": "ada", "digits": "w1,2#"})
        assert (code, said) == (202, {"id": "call-1", "target": "+4930", "trunk": "pbx"})
        assert on.wanted == [Wanted("+4930", "pbx", "ada", "w1,2#")]


@pytest.mark.parametrize("told", ["", "Bearer", "Bearer s3cre", "Bearer s3crett", "Basic s3cret", "s3cret"])
async def test_without_the_token_nobody_is_called(told: str) -> None:
    async with desk() as on:
        code, said = await on.post({"target": "+4930"}, told)
        assert (code, on.wanted) == (401, [])
        assert "VOIPAGENT_HTTP__TOKEN" in said["detail"]


@pytest.mark.parametrize("told", ["", "Bearer ", TOKEN])
async def test_where_there_is_no_token_nobody_can_have_it(told: str) -> None:
    async with desk("") as on:
        code, said = await on.post({"target": "+4930"}, told)
        assert (code, on.wanted) == (403, [])
        assert "VOIPAGENT_HTTP__TOKEN sets it" in said["detail"]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"target": ""},
        {"target": "1", "digits": "1" * 65},
        {"target": "1", "tronk": "pbx"},
        {"target": "1" * 300},
        [],
    ],
)
async def test_a_body_that_makes_no_sense(body: object) -> None:
    async with desk() as on:
        code, _ = await on.post(body)
        assert (code, on.wanted) == (422, [])


@pytest.mark.parametrize("body", ['{"target": NaN}', '{"target": "\\ud800", "digits": "x"}', '{"\\ud800": 1}', "["])
async def test_what_json_cannot_say_again_is_refused_all_the_same(body: str) -> None:
    async with desk() as on:
        code, said = await on.post(body, "")
        assert (code, on.wanted) == (422, [])
        assert set(said["detail"][0]) == {"type", "loc", "msg"}


async def test_keys_that_are_none_are_named() -> None:
    async with desk() as on:
        code, said = await on.post({"target": "1", "digits": "1x"})
        assert (code, on.wanted) == (422, [])
        assert "'x' is no key; there are 0-9 * # A-D" in said["detail"][0]["msg"]


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (NotAllowed("no pattern", ("trunks", "pbx", "outbound")), 403, "VOIPAGENT_TRUNKS__PBX__OUTBOUND"),
        (UnknownPersona("there is no persona 'x'"), 404, "no persona 'x'"),
        (EngineFull("no row is free"), 503, "no row is free"),
        (SignalingError("pbx.test has no address"), 502, "no address"),
    ],
)
async def test_why_there_is_no_call(error: Exception, code: int, said: str) -> None:
    async with desk() as on:
        on.error = error
        answered, detail = await on.post({"target": "+4930"})
        assert answered == code
        assert said in detail["detail"]
