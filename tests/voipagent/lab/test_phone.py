"""The measuring caller's calls end at the other end, too, however they end here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import pytest

from signaling.sip.message import Request, Response, respond
from signaling.sip.wire import parse
from voipagent.lab.phone import Codec, PhoneError, Target, call

PCMU = Codec(0, "PCMU")
AUDIO = "v=0\r\nc=IN IP4 127.0.0.1\r\nm=audio 40000 RTP/AVP 0\r\n"


class Desk(asyncio.DatagramProtocol):
    """Answers an INVITE with that description, and a CANCEL with 487; without one it rings, until it is to `take`."""

    def __init__(self, answer: str = "") -> None:
        self._answer = answer
        self.asked: list[str] = []
        self.news = asyncio.Event()
        self.takes_when_cancelled = False
        self._invite: Request | None = None
        self._transport: asyncio.DatagramTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        request = parse(data)
        assert isinstance(request, Request)
        self.asked.append(request.method)
        self.news.set()
        if request.method == "INVITE":
            self._invite = request
            self._say(self._taken() if self._answer else respond(request, 180), addr)
        elif request.method != "ACK":
            self._say(respond(request, 200), addr)
        if request.method == "CANCEL":
            assert self._invite is not None
            self._say(self._taken() if self.takes_when_cancelled else respond(self._invite, 487), addr)

    def _taken(self) -> Response:
        assert self._invite is not None
        body = (self._answer or AUDIO).encode()
        return respond(self._invite, 200, ("Content-Type", "application/sdp"), body=body)

    def _say(self, response: Response, addr: tuple[str, int]) -> None:
        self._transport.sendto(bytes(response), addr)

    async def was_asked(self, *methods: str) -> None:
        async with asyncio.timeout(5):
            while self.asked != list(methods):
                self.news.clear()
                await self.news.wait()


@asynccontextmanager
async def answering(desk: Desk) -> AsyncIterator[Target]:
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(lambda: desk, local_addr=("127.0.0.1", 0))
    try:
        yield Target("desk", "127.0.0.1", transport.get_extra_info("sockname")[1])
    finally:
        transport.close()


async def test_a_call_whose_body_fails_is_hung_up() -> None:
    desk = Desk(AUDIO)
    async with answering(desk) as target:
        with pytest.raises(ZeroDivisionError):
            async with call(target, PCMU):
                raise ZeroDivisionError
        await desk.was_asked("INVITE", "ACK", "BYE")


async def test_a_call_that_is_given_up_by_its_task_is_hung_up() -> None:
    desk, held = Desk(AUDIO), asyncio.Event()

    async def hold() -> None:
        async with call(target, PCMU):
            held.set()
            await asyncio.Event().wait()

    async with answering(desk) as target:
        holding = asyncio.create_task(hold())
        await asyncio.wait_for(held.wait(), 5)
        holding.cancel()
        await asyncio.wait([holding])
        await desk.was_asked("INVITE", "ACK", "BYE")


async def test_an_answer_without_audio_is_hung_up_on() -> None:
    desk = Desk(AUDIO.replace("40000", "0"))
    async with answering(desk) as target:
        with pytest.raises(PhoneError, match="has no audio in it"):
            async with call(target, PCMU):
                pass
        await desk.was_asked("INVITE", "ACK", "BYE")


@pytest.mark.parametrize(("takes", "after"), [(False, ["CANCEL", "ACK"]), (True, ["CANCEL", "ACK", "BYE"])])
async def test_what_only_rings_is_made_to_stop(monkeypatch: pytest.MonkeyPatch, takes: bool, after: list[str]) -> None:
    monkeypatch.setattr("voipagent.lab.phone.RING_S", 0.1)
    desk = Desk()
    desk.takes_when_cancelled = takes
    async with answering(desk) as target:
        with pytest.raises(PhoneError, match="nobody answers"):
            async with call(target, PCMU):
                pass
        await desk.was_asked("INVITE", *after)
