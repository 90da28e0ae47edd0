"""A publisher's audio in, and ours out to whoever listens: the two halves of a leg whose far end only sends (RFC 9725).

What the agent says has its time by the publisher's leg, as on any other: that is what the recording is written from,
and while nobody listens, it is silence.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import numpy as np

from media.leg import Digit, Exchange, LegError, LegStats, NoPort, Pcm
from media.webrtc import WebRtcLeg

MAX_LISTENERS = 16
"""At once. Full: the next one is refused."""


class PublishedLeg:
    """A Leg: `publisher` is heard; each of `listeners` is played to. One that is lost is closed, and nobody minds."""

    when_closed: Callable[[], None] | None = None

    def __init__(self, publisher: WebRtcLeg) -> None:
        self.listeners: list[WebRtcLeg] = []
        self._publisher = publisher
        self._leaving: set[asyncio.Task[None]] = set()
        self._closed = False

    async def listen(self, listener: WebRtcLeg, offer: str) -> str:
        """Play to that one too; the answer to its offer. Raises LegError, and it is closed then."""
        try:
            self._check_room()
            answer = await listener.answer(offer)
            self._check_room()  # others have come meanwhile, or the end
        except BaseException:
            await listener.close()
            raise
        self.listeners.append(listener)
        listener.begin()
        return answer

    def _check_room(self) -> None:
        """Raises LegError; `NoPort` where too many listen."""
        if self._closed:
            raise LegError("there is nothing to listen to any more")
        if len(self.listeners) >= MAX_LISTENERS:
            raise NoPort(f"{MAX_LISTENERS} listen already")

    async def leave(self, listener: WebRtcLeg) -> None:
        """That one listens no longer. Idempotent."""
        if listener in self.listeners:
            self.listeners.remove(listener)
        await listener.close()

    # --- Leg

    @property
    def held(self) -> bool:
        """Whether the publisher holds."""
        return self._publisher.held

    @property
    def ready(self) -> bool:
        """Whether somebody listens."""
        return any(listener.ready for listener in self.listeners)

    @property
    def stats(self) -> LegStats:
        """The publisher's."""
        return self._publisher.stats

    async def offer(self, hold: bool | None = None) -> str:
        """Raises LegError: a publisher is who offers."""
        raise LegError("a publisher cannot be offered anything")

    async def answer(self, offer: str) -> str:
        """Agree to what the publisher offers. Raises LegError."""
        return await self._publisher.answer(offer)

    async def accepted(self, answer: str) -> None:
        """Raises LegError: nothing was offered."""
        raise LegError("an answer came, but nothing was offered")

    async def add_candidates(self, fragment: str) -> None:
        """More of the publisher's candidates. Raises LegError."""
        await self._publisher.add_candidates(fragment)

    async def exchange(self) -> Exchange:
        """The next frame's time."""
        exchange = await self._publisher.exchange()
        for listener in [each for each in self.listeners if each.is_lost]:
            self.listeners.remove(listener)
            task = asyncio.create_task(listener.close(), name="close a lost listener")  # a dead relay takes its time
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)
        return exchange if self.ready else replace(exchange, played=np.zeros_like(exchange.played))

    def play(self, pcm: Pcm) -> None:
        """Queue audio for all that listen."""
        self._publisher.play(pcm)
        for listener in self.listeners:
            listener.play(pcm)

    def digits(self) -> AsyncIterator[Digit]:
        """The publisher's digits."""
        return self._publisher.digits()

    async def send_digits(self, digits: str) -> None:
        """Raises LegError: nothing is sent to a publisher."""
        raise LegError("a publisher hears no digits")

    async def lost(self) -> str:
        """Wait until the publisher is lost for good; the reason."""
        return await self._publisher.lost()

    async def close(self) -> None:
        """Leave all. Idempotent."""
        self._closed = True
        if self.when_closed is not None:
            self.when_closed()
        await self._publisher.close()
        await asyncio.gather(*(self.leave(listener) for listener in list(self.listeners)), *self._leaving)
