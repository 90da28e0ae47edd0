"""A tiny agent behind an endpoint, for tests: it takes every call and says the same thing."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from ipaddress import ip_network
from typing import Any

from signaling.call import Call, Rejection
from signaling.sip.endpoint import SipEndpoint

LOOPBACK = (ip_network("127.0.0.1/32"),)
ANSWER = "v=0\r\no=- 9 9 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 50000 RTP/AVP 0\r\n"

Serve = Callable[[Call], Coroutine[Any, Any, None]]


class Desk:
    """An endpoint, and the calls it was offered, in order."""

    def __init__(self, sip: SipEndpoint) -> None:
        self.sip = sip
        self.offered: asyncio.Queue[Call] = asyncio.Queue()
        self.calls: list[Call] = []

    @property
    def port(self) -> int:
        return self.sip.port

    async def next_call(self) -> Call:
        async with asyncio.timeout(5):
            return await self.offered.get()

    def kept(self) -> int:
        """What the user agent still remembers."""
        return self.sip._agent.left_over()

    def pass_time(self, seconds: float) -> None:
        """Let the user agent's timers run as if that time had passed."""
        now = asyncio.get_running_loop().time()
        self.sip.act(lambda agent, _: agent.fire(now + seconds))


async def take(call: Call) -> None:
    """Ring, accept, and stay until the end."""
    await call.ring()
    await call.accept(ANSWER)
    await call.wait_ended()


async def leave(call: Call) -> None:
    """Do nothing: the test does it."""


async def refuse(call: Call) -> None:
    await call.reject(Rejection.NOT_ACCEPTABLE)


@contextlib.asynccontextmanager
async def desk(serve: Serve = take, **settings: Any) -> AsyncIterator[Desk]:
    """An endpoint on loopback whose calls are served by `serve`."""
    settings = {"allow": LOOPBACK} | settings
    async with SipEndpoint("127.0.0.1", 0, **settings) as sip, asyncio.TaskGroup() as group:
        opened = Desk(sip)

        async def run() -> None:
            async for call in sip.calls():
                opened.calls.append(call)
                opened.offered.put_nowait(call)
                tasks.append(group.create_task(serve(call)))

        tasks = [group.create_task(run())]
        try:
            yield opened
        finally:
            for task in tasks:
                task.cancel()
