"""A call of ours to several phones at once: the first that answers has it, as where a proxy forks (RFC 3261, s. 16.7).

What they send before one has answered is heard by nobody: two announcements at once are none.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

from signaling.call import (
    Answered,
    Call,
    CallEnded,
    CallOffer,
    Outcome,
    Referred,
    Rejection,
    Renegotiate,
    SignalingError,
)
from signaling.sip.endpoint import SipEndpoint
from signaling.sip.outgoing import OutgoingSipCall

SAYS_MOST = (Outcome.DECLINED, Outcome.BUSY, Outcome.NO_ANSWER)
"""Of several failures, the one that is told: what a person did before what a network did."""

ELSEWHERE = "answered by another phone"


class ForkedCall:
    """Rings all `branches`, of which none has begun; `when_over` is called once it is over."""

    def __init__(
        self,
        endpoint: SipEndpoint,
        offer: CallOffer,
        branches: Sequence[OutgoingSipCall],
        when_over: Callable[[], None],
    ) -> None:
        self.renegotiate: Renegotiate | None = None
        self.answered: Answered | None = None
        self.referred: Referred | None = None
        self._endpoint, self._offer, self._branches, self._when_over = endpoint, offer, tuple(branches), when_over
        loop = asyncio.get_running_loop()
        self._winner: OutgoingSipCall | None = None
        self._failures: list[CallEnded] = []
        self._rings, self._answered = asyncio.Event(), asyncio.Event()
        self._ended: asyncio.Future[CallEnded] = loop.create_future()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def offer(self) -> CallOffer:
        """Whom we call."""
        return self._offer

    # --- until one has it ---

    async def invite(self, media: str | None) -> None:
        """INVITE to each. Once."""
        if self._tasks or self._ended.done():
            return
        for branch in self._branches:
            branch.answered = self._hearing(branch)
            branch.renegotiate = self._asking(branch)
            for follow in (self._follow, self._follow_ringing, self._follow_answer):
                self._tasks.append(self._endpoint.spawn(follow(branch)))
            await branch.invite(media)

    async def _follow(self, branch: OutgoingSipCall) -> None:
        """To its end, which is ours where it has the call, or where it was the last."""
        ended = await branch.wait_ended()
        self._failures.append(ended)
        if branch is self._winner:
            self._end(ended)
        elif self._winner is None and len(self._failures) == len(self._branches):
            self._end(min(self._failures, key=_rank))

    async def _follow_ringing(self, branch: OutgoingSipCall) -> None:
        await branch.wait_ringing()
        self._rings.set()

    async def _follow_answer(self, branch: OutgoingSipCall) -> None:
        await branch.wait_answered()
        if self._has(branch):
            self._answered.set()

    def _hearing(self, branch: OutgoingSipCall) -> Answered:
        async def answered(media: str) -> None:
            if branch.is_taken and self._has(branch) and self.answered is not None:
                await self.answered(media)

        return answered

    def _asking(self, branch: OutgoingSipCall) -> Renegotiate:
        async def renegotiate(offer: str | None) -> str | Rejection:
            if not branch.is_taken or not self._has(branch) or self.renegotiate is None:
                return Rejection.NOT_ACCEPTABLE
            return await self.renegotiate(offer)

        return renegotiate

    def _has(self, branch: OutgoingSipCall) -> bool:
        """Whether that phone has the call, which the first has that was answered; the others are told so."""
        if self._winner is None:
            self._winner = branch
            branch.referred = self.referred
            for other in self._branches:
                if other is not branch:
                    other.stop(ELSEWHERE, elsewhere=True)
        return self._winner is branch

    def _end(self, ended: CallEnded) -> None:
        if self._ended.done():
            return
        self._ended.set_result(ended)
        for task in self._tasks:
            if task is not asyncio.current_task():
                task.cancel()
        self._when_over()

    # --- for whoever calls ---

    async def wait_ringing(self) -> None:
        """Wait until one rings, or answers."""
        await self._rings.wait()

    async def wait_early(self) -> None:
        """For ever: see above."""
        await asyncio.get_running_loop().create_future()

    async def wait_answered(self) -> None:
        """Wait until one answers."""
        await self._answered.wait()

    async def ring(self, early_media: str | None = None) -> None:
        """Theirs to do."""

    async def accept(self, media: str) -> None:
        """Theirs to do."""

    async def reject(self, rejection: Rejection) -> None:
        """Theirs to do: whoever wants the call no more hangs up."""

    async def hang_up(self, reason: str = "") -> None:
        """CANCEL to each before the answer, BYE to the one after it."""
        if not self._tasks and not self._ended.done():
            self._end(CallEnded("agent", reason or "hung up", Outcome.CANCELLED))
        for branch in self._branches:
            branch.stop(reason or "hung up")

    async def propose(self, media: str) -> str:
        """As for one phone. Raises SignalingError."""
        return await self._one.propose(media)

    async def transfer(self, target: str | Call) -> None:
        """As for one phone. Raises SignalingError."""
        await self._one.transfer(target)

    async def digits(self) -> AsyncIterator[str]:
        """Digits of the one that has the call."""
        await self._answered.wait()
        async for key in self._one.digits():
            yield key

    async def wait_ended(self) -> CallEnded:
        """Wait for the end."""
        return await asyncio.shield(self._ended)

    @property
    def _one(self) -> OutgoingSipCall:
        if self._winner is None:
            raise SignalingError("the call is not answered yet")
        return self._winner


def _rank(ended: CallEnded) -> int:
    return SAYS_MOST.index(ended.outcome) if ended.outcome in SAYS_MOST else len(SAYS_MOST)
