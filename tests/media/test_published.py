"""published.py: who listens, by legs that do nothing."""

from __future__ import annotations

import asyncio
from typing import cast

import numpy as np
import pytest

from media.leg import Exchange, NoPort
from media.published import PublishedLeg
from media.webrtc import WebRtcLeg


class Listener:
    """A leg that takes its time to answer."""

    def __init__(self) -> None:
        self.asked, self.may = asyncio.Event(), asyncio.Event()
        self.closed = self.begun = self.is_lost = False

    async def answer(self, offer: str) -> str:
        self.asked.set()
        await self.may.wait()
        return f"answer to {offer}"

    def begin(self) -> None:
        self.begun = True

    async def exchange(self) -> Exchange:
        return Exchange(heard=np.ones(1920, np.float32), played=np.ones(1920, np.float32))

    async def close(self) -> None:
        self.asked.set()
        await self.may.wait()
        self.closed = True


async def test_there_is_a_limit_to_listeners_also_where_they_come_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("media.published.MAX_LISTENERS", 2)
    published, listeners = PublishedLeg(cast(WebRtcLeg, Listener())), [Listener() for _ in range(3)]
    async with asyncio.timeout(5):
        joining = [asyncio.create_task(published.listen(cast(WebRtcLeg, each), "offer")) for each in listeners]
        for each in listeners:
            await each.asked.wait()
            each.may.set()
        answers = await asyncio.gather(*joining, return_exceptions=True)
    assert answers[:2] == ["answer to offer"] * 2 and isinstance(answers[2], NoPort)
    assert [each.closed for each in listeners] == [False, False, True]
    assert [each.begun for each in listeners] == [True, True, False]


async def test_a_lost_listener_who_is_long_in_leaving_holds_nobody_up() -> None:
    """Its relay may be dead. Who closes the leg waits for it."""
    publisher, lost = Listener(), Listener()
    published = PublishedLeg(cast(WebRtcLeg, publisher))
    published.listeners.append(cast(WebRtcLeg, lost))
    lost.is_lost = True
    publisher.may.set()
    async with asyncio.timeout(5):
        exchange = await published.exchange()
        assert exchange.heard.all() and not exchange.played.any()  # there is nobody left to hear it
        assert published.listeners == [] and not lost.closed
        await lost.asked.wait()
        closing = asyncio.create_task(published.close())
        await asyncio.sleep(0)
        lost.may.set()
        await closing
    assert lost.closed and publisher.closed
