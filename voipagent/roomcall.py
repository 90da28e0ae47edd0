"""A room as a session sees it: a call without a far end of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from media.leg import Leg
from media.roomleg import EVERYBODY_LEFT, RoomLeg
from signaling.call import Answered, Call, CallEnded, CallOffer, Referred, Rejection, Renegotiate, SignalingError


class RoomCall:
    """It is taken when the session rings, for then there is a row for it. It ends with the last participant, or when
    the session does; `when_over` is called then. `leg` is the agent's place.
    """

    def __init__(self, offer: CallOffer, leg: RoomLeg, when_over: Callable[[CallEnded], None]) -> None:
        loop = asyncio.get_running_loop()
        self.leg = leg
        self.roll: list[dict[str, Any]] = []
        """Everybody who was there, for the record: times are seconds of the agent's time."""
        self.renegotiate: Renegotiate | None = None
        self.answered: Answered | None = None
        self.referred: Referred | None = None
        self._offer, self._when_over = offer, when_over
        self._taken: asyncio.Future[Rejection | None] = loop.create_future()
        self._ended: asyncio.Future[CallEnded] = loop.create_future()

    @property
    def offer(self) -> CallOffer:
        """The room: its name, and the persona that is wanted."""
        return self._offer

    def open_leg(self, offer: CallOffer) -> Leg:
        """The agent's place."""
        return self.leg

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self._ended.done()

    async def wait_taken(self) -> Rejection | None:
        """Wait until the agent takes part: None, or why it will not."""
        return await asyncio.shield(self._taken)

    def forsake(self, reason: str) -> None:
        """Whoever opened it has gone; unless the agent has it already, it need not come any more."""
        if not self._taken.done():
            self._take(Rejection.OVERLOADED)
            self._end("caller", reason)

    async def ring(self, early_media: str | None = None) -> None:
        """There is a row."""
        self._take(None)

    async def accept(self, media: str) -> None:
        """The agent is about to speak."""
        self._take(None)

    async def reject(self, rejection: Rejection) -> None:
        """There is no row, or its prompt failed."""
        self._take(rejection)
        self._end("agent", rejection.value)

    async def propose(self, media: str) -> str:
        """Raises SignalingError."""
        raise SignalingError("a room has nobody in particular to propose that to")

    async def transfer(self, target: str | Call) -> None:
        """Raises SignalingError."""
        raise SignalingError("a room cannot be transferred as a whole")

    async def hang_up(self, reason: str = "") -> None:
        """End the room. Idempotent."""
        self._take(Rejection.OVERLOADED)
        self._end("caller" if reason == EVERYBODY_LEFT else "agent", reason)

    async def digits(self) -> AsyncIterator[str]:
        """None: those of participants come by the leg."""
        await self.wait_ended()
        keys: tuple[str, ...] = ()
        for key in keys:
            yield key

    async def wait_ended(self) -> CallEnded:
        """Wait for the end."""
        return await asyncio.shield(self._ended)

    def _take(self, verdict: Rejection | None) -> None:
        if not self._taken.done():
            self._taken.set_result(verdict)

    def _end(self, by: str, reason: str) -> None:
        if not self._ended.done():
            ended = CallEnded(by, reason)
            self._ended.set_result(ended)
            self._when_over(ended)
