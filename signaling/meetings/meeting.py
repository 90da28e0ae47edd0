"""A call into a meeting: what all protocols have in common.

One task a call goes there, listens until it is over, and leaves. Whoever hangs up waits for that.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator
from dataclasses import replace

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
from signaling.meetings.place import Place

logger = logging.getLogger(__name__)

JOIN_S = 15.0
"""From the first word to the server until we are in."""

LEAVE_S = 2.0
"""Saying goodbye may take so long; whoever hangs up waits for it."""

KIND = "meeting"
"""Of its `CallOffer`."""


class NotJoined(SignalingError):
    """The meeting does not take us; `outcome` is its reason as for other calls of ours."""

    def __init__(self, why: str, outcome: Outcome) -> None:
        super().__init__(why)
        self.outcome = outcome


class Over(Exception):
    """The meeting is over for us: who ended it, and why."""

    def __init__(self, by: str, reason: str) -> None:
        super().__init__(reason)
        self.ended = CallEnded(by, reason)


class MeetingCall:
    """A call of ours into a meeting at `address`, which is that of its server. `invite` begins it."""

    def __init__(self, place: Place, address: tuple[str, int]) -> None:
        self.place = place
        self._offer = CallOffer(secrets.token_hex(8), KIND, place.name, str(place), address)
        self.renegotiate: Renegotiate | None = None
        self.answered: Answered | None = None
        self.referred: Referred | None = None
        loop = asyncio.get_running_loop()
        self._in: asyncio.Future[None] = loop.create_future()
        self._ended: asyncio.Future[CallEnded] = loop.create_future()
        self._going: asyncio.Task[None] | None = None
        self._why = "hung up"

    @property
    def offer(self) -> CallOffer:
        """Where it goes."""
        return self._offer

    # --- for whoever calls ---

    async def invite(self, media: str | None) -> None:
        """Go there. Raises SignalingError without an offer: meetings take ours."""
        if media is None:
            raise SignalingError("a meeting is joined with an offer of ours")
        if self._going is None and not self._ended.done():
            self._going = asyncio.create_task(self._go(media), name=f"meeting {self._offer.id}")

    async def wait_ringing(self) -> None:
        """A meeting does not ring."""
        await asyncio.shield(self._in)

    async def wait_early(self) -> None:
        """Nor is there sound before we are in it."""
        await asyncio.Event().wait()

    async def wait_answered(self) -> None:
        """Wait until we are in."""
        await asyncio.shield(self._in)

    async def ring(self, early_media: str | None = None) -> None:
        """Theirs to do."""

    async def accept(self, media: str) -> None:
        """Theirs to do."""

    async def reject(self, rejection: Rejection) -> None:
        """Theirs to do: whoever wants the meeting no more hangs up."""

    async def propose(self, media: str) -> str:
        """There is no hold in a meeting. Raises SignalingError."""
        raise SignalingError("a meeting cannot be put on hold")

    async def transfer(self, target: str | Call) -> None:
        """Nobody in a meeting can be put through. Raises SignalingError."""
        raise SignalingError("a meeting cannot be put through")

    async def digits(self) -> AsyncIterator[str]:
        """A meeting has no keys."""
        await asyncio.Event().wait()
        yield ""

    async def hang_up(self, reason: str = "") -> None:
        """Leave, and wait until that is said."""
        if self._ended.done():
            return
        self._why = reason or "hung up"
        if self._going is None:
            self._end(CallEnded("agent", self._why, Outcome.CANCELLED))
            return
        self._going.cancel()
        await asyncio.wait([self._going])

    async def wait_ended(self) -> CallEnded:
        """Wait for the end."""
        return await asyncio.shield(self._ended)

    # --- the way through it ---

    async def _go(self, media: str) -> None:
        ended = CallEnded("agent", self._why)
        try:
            await self._live(media)
        except asyncio.CancelledError:
            ended = self._unless_in(CallEnded("agent", self._why), Outcome.CANCELLED)
        except NotJoined as error:
            ended = self._unless_in(CallEnded("callee", str(error)), error.outcome)
        except Over as over:
            ended = self._unless_in(over.ended, Outcome.FAILED)
        except Exception as error:  # what our leg makes of their description, say; or a fault of ours
            logger.warning("x %s meeting: %s: %s", self._offer.id, type(error).__name__, error, exc_info=error)
            ended = self._unless_in(CallEnded("agent", str(error) or type(error).__name__), Outcome.FAILED)
        finally:
            self._end(ended)

    def _unless_in(self, ended: CallEnded, outcome: Outcome) -> CallEnded:
        return ended if self._in.done() else replace(ended, outcome=outcome)

    def _end(self, ended: CallEnded) -> None:
        if not self._ended.done():
            self._ended.set_result(ended)

    async def _take(self, description: str, candidates: list[str]) -> None:
        """Have our leg take an answer of the server's, or the same with more candidates."""
        if self.answered is None:
            raise SignalingError("there is nobody to take the server's answer")
        await self.answered(with_candidates(description, candidates))

    def _joined(self) -> None:
        """We are in."""
        if not self._in.done():
            logger.info("- %s is in the meeting %s", self._offer.id, self.place)
            self._in.set_result(None)

    async def _live(self, media: str) -> None:
        """Go there with our offer, `_take` the answer, be `_joined`, and stay. Cancelled, it leaves in `LEAVE_S`.

        Raises NotJoined, and Over at the meeting's end.
        """
        raise NotImplementedError  # each protocol has its own


def with_candidates(description: str, candidates: list[str]) -> str:
    """A description with candidates that came after it (RFC 8838), in each of its streams."""
    head, *streams = description.replace("\r\n", "\n").split("\nm=")
    lines = "".join(f"a={text}\n" for text in candidates)
    whole = [head, *(stream.rstrip("\n") + "\n" + lines.rstrip("\n") for stream in streams)]
    return "\nm=".join(part.rstrip("\n") for part in whole).replace("\n", "\r\n") + "\r\n"
