"""Fakes of calls that we make."""

from __future__ import annotations

import asyncio

from signaling.call import CallEnded, CallOffer, Outcome, Rejection, SignalingError
from tests.fakes import FakeCall


class FakeOutgoingCall(FakeCall):
    """A call of ours: the test plays the far end."""

    def __init__(self, target: str, trunk: str = "") -> None:
        super().__init__(CallOffer("call-1", "sip", "agent", target, ("192.0.2.7", 5060), None, trunk))
        self.invited, self.rings, self.taken = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.early = asyncio.Event()

    async def invite(self, media: str | None) -> None:
        self.log.append(("invite", media))
        self.invited.set()

    async def wait_ringing(self) -> None:
        await self.rings.wait()

    async def wait_early(self) -> None:
        await self.early.wait()

    async def wait_answered(self) -> None:
        await self.taken.wait()

    async def take(self, media: str = "their answer") -> None:
        """The far end answers."""
        assert self.answered is not None
        await self.answered(media)
        self.rings.set()
        self.taken.set()

    async def reject(self, rejection: Rejection) -> None:
        self.log.append(("reject", rejection))

    async def hang_up(self, reason: str = "") -> None:
        if self.taken.is_set():
            await super().hang_up(reason)
        else:
            self.come_to_nothing(Outcome.CANCELLED, reason, "agent")

    def come_to_nothing(self, outcome: Outcome, reason: str, by: str = "network") -> None:
        if not self._ended.done():
            self._ended.set_result(CallEnded(by, reason, outcome))


class FakeDialer:
    """Makes fake calls; `error` is raised instead."""

    def __init__(self, error: SignalingError | None = None) -> None:
        self.error = error
        self.calls: list[FakeOutgoingCall] = []

    async def dial(self, target: str, trunk: str = "") -> FakeOutgoingCall:
        if self.error is not None:
            raise self.error
        self.calls.append(FakeOutgoingCall(target, trunk))
        return self.calls[-1]
