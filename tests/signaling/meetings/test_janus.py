"""What we make of a Janus that is broken, or none: by a server that says what a test tells it to.

A real one is talked to in tests/peers.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from signaling.call import CallEnded, Outcome
from signaling.meetings import janus
from signaling.meetings.janus import JanusCall
from signaling.meetings.place import Place

Message = dict[str, Any]
ANSWER = {"type": "answer", "sdp": "v=0\r\nm=audio 9\r\n"}


class Server:
    """Janus's API, as far as we use it. `events` wait to be polled."""

    def __init__(self, say: Callable[[Message], Message | None] = lambda message: None) -> None:
        self._say, self.asked, self.events = say, list[Message](), asyncio.Queue[Message]()
        self.port, self.broken = 0, b""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            lengths = [line[15:] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            if head.startswith(b"GET"):
                answer: Any = [await self.events.get()]
            else:
                answer = self._answer(json.loads(await reader.readexactly(int(lengths[0]))))
            body = self.broken or json.dumps(answer).encode()
            status = b"404 Not Found" if answer == [{"janus": "404"}] else b"200 OK"
            writer.write(b"HTTP/1.1 %s\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % (status, len(body)) + body)
            await writer.drain()
        finally:
            writer.close()

    def _answer(self, message: Message) -> Message:
        self.asked.append(message)
        said = self._say(message)
        if said is not None:
            return said
        if message["janus"] in ("create", "attach", "destroy"):
            return {"janus": "success", "data": {"id": 7}}
        request, transaction = message["body"]["request"], message["transaction"]
        data = {"audiobridge": "joined", "id": 42} if request == "join" else {"audiobridge": "event", "result": "ok"}
        self.event(transaction, data, **({"jsep": ANSWER} if request == "configure" else {}))
        return {"janus": "ack", "transaction": transaction}

    def event(self, transaction: str, data: Message, **more: Any) -> None:
        told = {"janus": "event", "transaction": transaction, "plugindata": {"data": data}, **more}
        self.events.put_nowait(told)


@asynccontextmanager
async def joining(server: Server, pin: str = "") -> AsyncIterator[tuple[JanusCall, list[str]]]:
    """A call to there that has been begun, and what its leg was told."""
    told: list[str] = []

    async def take(description: str) -> None:
        told.append(description)

    async with await asyncio.start_server(server.serve, "127.0.0.1", 0) as listening:
        server.port = listening.sockets[0].getsockname()[1]
        place = Place("janus", "127.0.0.1", server.port, "1", pin=pin, token="tick", secret="hush")
        call = JanusCall(place, ("127.0.0.1", server.port))
        call.answered = take
        await call.invite("our offer")
        try:
            yield call, told
        finally:
            await call.hang_up()


async def ended(call: JanusCall) -> CallEnded:
    async with asyncio.timeout(10):
        return await call.wait_ended()


async def test_our_offer_goes_there_and_candidates_come_later() -> None:
    server = Server()
    async with joining(server, "4711") as (call, told):
        await asyncio.wait_for(call.wait_answered(), 10)
        server.events.put_nowait({"janus": "keepalive"})
        server.events.put_nowait({"janus": "trickle", "candidate": {"candidate": "candidate:1 1 udp 1 192.0.2.7 9"}})
        server.events.put_nowait({"janus": "trickle", "candidate": {"completed": True}})
        server.event("", {"audiobridge": "event", "kicked": 42})
        assert await ended(call) == CallEnded("callee", f"we were thrown out of janus://127.0.0.1:{server.port}/1")
    assert told == ["v=0\r\nm=audio 9\r\n", "v=0\r\nm=audio 9\r\na=candidate:1 1 udp 1 192.0.2.7 9\r\n"]
    assert [message["janus"] for message in server.asked] == ["create", "attach", "message", "message", "destroy"]
    assert all((message["token"], message["apisecret"]) == ("tick", "hush") for message in server.asked)
    join, configure = server.asked[2]["body"], server.asked[3]
    assert join == {"request": "join", "room": 1, "display": "agent", "pin": "4711"}
    assert configure["jsep"] == {"type": "offer", "sdp": "our offer"}


async def test_others_may_come_and_go() -> None:
    server = Server()
    async with joining(server) as (call, _):
        await asyncio.wait_for(call.wait_answered(), 10)
        for data in ({"kicked": 41}, {"leaving": 41}, {"participants": [{"id": 43}]}):
            server.event("", {"audiobridge": "event", **data})
        server.event("", {"audiobridge": "destroyed"})
        assert "was closed" in (await ended(call)).reason


async def test_the_word_for_why_we_are_let_go_may_come_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server()
    async with joining(server) as (call, _):
        await asyncio.wait_for(call.wait_answered(), 10)
        server.events.put_nowait({"janus": "hangup", "reason": "Close PC"})
        server.event("", {"audiobridge": "event", "leaving": 42})
        assert "we are no longer in" in (await ended(call)).reason
    monkeypatch.setattr(janus, "WORD_S", 0.05)
    async with joining(server) as (call, _):
        await asyncio.wait_for(call.wait_answered(), 10)
        server.events.put_nowait({"janus": "hangup", "reason": "DTLS alert"})
        assert (await ended(call)).reason.endswith("let us go: DTLS alert")


async def test_a_server_that_forgot_us_is_the_end_at_once() -> None:
    for event in ({"janus": "404"}, {"janus": "timeout"}):
        server = Server()
        async with joining(server) as (call, _):
            await asyncio.wait_for(call.wait_answered(), 10)
            server.events.put_nowait(event)
            end = await ended(call)
            assert (end.by, end.outcome) == ("network", None) and "has forgotten us" in end.reason


async def test_a_server_that_is_gone_is_asked_again_within_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(janus, "GONE_S", 0.4)
    server = Server()
    async with joining(server) as (call, _):
        await asyncio.wait_for(call.wait_answered(), 10)
        server.broken = b"<html>502</html>"
        server.events.put_nowait({})
        server.events.put_nowait({})
        end = await ended(call)
        assert end.by == "network" and f"janus://127.0.0.1:{server.port} is gone" in end.reason


@pytest.mark.parametrize(
    ("said", "outcome", "reason"),
    [
        ({"janus": "error", "error": {"code": 403, "reason": "Unauthorized"}}, Outcome.FORBIDDEN, "token or secret"),
        ({"janus": "error", "error": {"code": 460, "reason": "No such plugin"}}, Outcome.DECLINED, "No such plugin"),
        ({"janus": "success"}, Outcome.FAILED, "does not speak as Janus does"),
        (["what?"], Outcome.FAILED, "is no Janus"),
    ],
)
async def test_what_is_wrong_there_is_said(said: Message, outcome: Outcome, reason: str) -> None:
    async with joining(Server(lambda message: said)) as (call, told):
        end = await ended(call)
        assert end.outcome is outcome and reason in end.reason and told == []
