"""Fakes of the nouns: real implementations with nothing behind them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import numpy as np

from engine.slot import FRAME_SAMPLES
from media.leg import Digit, Exchange, LegError, LegStats, Pcm
from signaling.call import Answered, Call, CallEnded, CallOffer, Referred, Rejection, Renegotiate

SILENCE = np.zeros(FRAME_SAMPLES, np.float32)


def offer(media: str | None = "offer", call_id: str = "call-1") -> CallOffer:
    return CallOffer(call_id, "sip", "alice", "agent", ("192.0.2.7", 5060), media)


class FakeCall:
    """Writes down what is done to it in `log`."""

    def __init__(self, call_offer: CallOffer | None = None) -> None:
        self._offer = call_offer or offer()
        self._ended: asyncio.Future[CallEnded] = asyncio.get_running_loop().create_future()
        self.keys: asyncio.Queue[str] = asyncio.Queue()
        self.accepted = asyncio.Event()
        self.log: list[tuple[str, object]] = []
        self.renegotiate: Renegotiate | None = None
        self.answered: Answered | None = None
        self.referred: Referred | None = None

    @property
    def offer(self) -> CallOffer:
        return self._offer

    async def ring(self, early_media: str | None = None) -> None:
        self.log.append(("ring", early_media))

    async def accept(self, media: str) -> None:
        self.log.append(("accept", media))
        self.accepted.set()

    async def reject(self, rejection: Rejection) -> None:
        if not self.accepted.is_set() and not self._ended.done():
            self.log.append(("reject", rejection))
            self.end("agent", rejection.value)

    async def propose(self, media: str) -> str:
        self.log.append(("propose", media))
        return f"answer to {media}"

    async def transfer(self, target: str | Call) -> None:
        self.log.append(("transfer", target))

    async def hang_up(self, reason: str = "") -> None:
        if not self._ended.done():
            self.log.append(("hang_up", reason))
            self.end("agent", reason)

    async def digits(self) -> AsyncIterator[str]:
        while True:
            yield await self.keys.get()

    async def wait_ended(self) -> CallEnded:
        return await asyncio.shield(self._ended)

    def end(self, by: str = "caller", reason: str = "hung up") -> None:
        if not self._ended.done():
            self._ended.set_result(CallEnded(by, reason))


class FakeLeg:
    """Gives out the exchanges that are put into `line`, in order; keeps what is played."""

    def __init__(self, refuse: str = "") -> None:
        self._refuse = refuse
        self.line: asyncio.Queue[Exchange] = asyncio.Queue()
        self.keys: asyncio.Queue[Digit] = asyncio.Queue()
        self.played: list[Pcm] = []
        self.closed = False
        self.held, self.ready = False, True
        self.stats = LegStats(codec="fake")
        self.broken: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.answers: list[str] = []
        self._taken = asyncio.Condition()
        self._returned = 0

    async def offer(self, hold: bool | None = None) -> str:
        return self._describe("our offer to hold" if hold else "our offer")

    async def answer(self, offer: str) -> str:
        return self._describe(f"answer to {offer}")

    def _describe(self, text: str) -> str:
        if self._refuse:
            raise LegError(self._refuse)
        return text

    async def accepted(self, answer: str) -> None:
        self.answers.append(answer)

    async def exchange(self) -> Exchange:
        async with self._taken:
            self._returned += 1
            self._taken.notify_all()
        return await self.line.get()

    async def heard(self, count: int) -> None:
        """Wait until the session has dealt with `count` exchanges: it asks for the next."""
        async with asyncio.timeout(5), self._taken:
            await self._taken.wait_for(lambda: self._returned > count)

    def hear(self, *frames: Pcm, held: bool = False) -> None:
        for frame in frames:
            self.line.put_nowait(Exchange(frame, SILENCE, held=held))

    def play(self, pcm: Pcm) -> None:
        self.played.append(pcm)

    async def digits(self) -> AsyncIterator[Digit]:
        while True:
            yield await self.keys.get()

    async def send_digits(self, digits: str) -> None:
        raise LegError("no keypad")

    async def lost(self) -> str:
        return await asyncio.shield(self.broken)

    async def close(self) -> None:
        self.closed = True


class FakeSource:
    """A CallSource fed by a test."""

    def __init__(self) -> None:
        self.available: Callable[[], bool] = lambda: True
        self.queue: asyncio.Queue[Call] = asyncio.Queue()

    async def calls(self) -> AsyncIterator[Call]:
        while True:
            yield await self.queue.get()
