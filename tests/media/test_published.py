"""published.py: who listens, by legs that do nothing."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from media.leg import NoPort
from media.published import PublishedLeg
from media.webrtc import WebRtcLeg


class Listener:
    """A leg that takes its time to answer."""

    def __init__(self) -> None:
        self.asked, self.may = asyncio.Event(), asyncio.Event()
        self.closed = self.begun = False

    async def answer(self, offer: str) -> str:
        self.asked.set()
        await self.may.wait()
        return f"answer to {offer}"

    def begin(self) -> None:
        self.begun = True

    async def close(self) -> None:
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
