"""Two WebRTC legs under one made-up clock, one of which calls the other, and a network between them that is bad.

ICE takes its time, which is no time of the calls'; keys and media go by the made-up clock, and packets by real sockets.
"""

from __future__ import annotations

import asyncio
import random
from types import TracebackType
from typing import Self

import numpy as np
import pytest

from media.clock import TICK_S, Clock
from media.leg import Exchange, Pcm
from media.ports import Ports
from media.webrtc import Ways, WebRtcLeg
from tests.media.line import FORMAT, Timers

HERE = "127.0.0.1"


class Network:
    """What comes to one leg: late by half of a normal distribution, in order, lost at random, or not at all."""

    def __init__(self, leg: WebRtcLeg, seed: int, patch: pytest.MonkeyPatch) -> None:
        self.loss = self.jitter_s = 0.0
        self.down = False
        self.lost = self.passed = 0
        self._chance, self._last = random.Random(seed), 0.0
        self._waiting: list[tuple[float, bytes]] = []
        self._leg, self._way = leg, leg._way
        patch.setattr(self._way, "take", self._receive)

    def _receive(self, data: bytes) -> None:
        now = self._leg._clock.time()
        if self.down or (data[0] >= 128 and not 192 <= data[1] <= 223 and self._chance.random() < self.loss):
            self.lost += 1
            return
        self._last = max(self._last, now + abs(self._chance.gauss(0.0, self.jitter_s)))
        self._waiting.append((self._last, data))
        self.pump(now)

    def pump(self, now: float) -> None:
        """Let through what is due."""
        while self._waiting and self._waiting[0][0] <= now:
            self.passed += 1
            due, data = self._waiting.pop(0)
            self._way.heard()
            self._leg._take(data, due)


class WebLine:
    """`caller` offers, `agent` answers."""

    def __init__(self, patch: pytest.MonkeyPatch, ways: Ways = "both", grace_s: float = 60.0) -> None:
        patch.setattr("media.candidates.get_host_addresses", lambda use_ipv4, use_ipv6: [])  # the loopback is left
        self._patch = patch
        self.timers = Timers()
        self.clock = Clock(self.timers)
        self.ports = Ports(32_000, 32_767, self.timers.time)
        self.agent = self.leg(ways, grace_s)
        self.caller = self.leg()
        self.networks: list[Network] = []

    def leg(self, ways: Ways = "both", grace_s: float = 60.0) -> WebRtcLeg:
        return WebRtcLeg(FORMAT, self.clock, self.ports, HERE, ways=ways, grace_s=grace_s)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.agent.close()
        await self.caller.close()

    async def connect(self) -> str:
        """Until both have keys; the answer."""
        answer = await self.agent.answer(await self.caller.offer())
        await self.caller.accepted(answer)
        await self.meet()
        return answer

    async def meet(self) -> None:
        """Go on until both have a way, and keys."""
        legs = (self.agent, self.caller)
        async with asyncio.timeout(10):
            while not all(leg._way.connected for leg in legs):
                await asyncio.sleep(0.005)
        for leg in legs:
            leg.begin()
        for _ in range(50):
            if not all(leg._security.ready for leg in legs):
                self.timers.run(TICK_S)
        assert all(leg._security.ready for leg in legs)

    def impair(self, leg: WebRtcLeg, seed: int = 1) -> Network:
        """The network to that leg from now on."""
        self.networks.append(Network(leg, seed, self._patch))
        return self.networks[-1]

    def tick(self, count: int = 1) -> None:
        for _ in range(count):
            for network in self.networks:
                network.pump(self.timers.now)
            self.timers.run(TICK_S)

    def skip(self) -> None:
        """Forget what has been heard so far."""
        for leg in (self.agent, self.caller):
            while leg._incoming.take():
                pass

    async def talk(self, pcm: Pcm, echo: bool = False) -> list[Exchange]:
        """The caller says that, a frame at a time; what the agent exchanges meanwhile."""
        exchanges = []
        for frame in pcm[: len(pcm) // FORMAT.frame_samples * FORMAT.frame_samples].reshape(-1, FORMAT.frame_samples):
            self.caller.play(frame)
            self.tick(4)
            while self.agent._incoming.waiting:
                exchanges.append(await self.agent.exchange())
                if echo:
                    self.agent.play(exchanges[-1].heard)
        return exchanges


def heard(exchanges: list[Exchange]) -> Pcm:
    return np.concatenate([exchange.heard for exchange in exchanges])
