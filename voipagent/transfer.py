"""Putting a caller through to somebody else: by the far end itself where it will, else by a bridge of two legs.

A carrier that is asked to transfer may refuse. Then we call the other ourselves, and stay in the middle.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Never

from media.bridge import Bridge, Side
from media.leg import AudioFormat, Exchange, Leg, LegError
from signaling.call import Call, CallOffer, Dialer, OutgoingCall, SignalingError
from voipagent.consent import Announcement, announce_alone
from voipagent.renegotiation import renegotiate
from voipagent.tasks import first_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Line:
    """Somebody else, who has taken a call of ours."""

    call: OutgoingCall
    leg: Leg
    format: AudioFormat
    consent: Mapping[str, Any] = field(default_factory=dict)
    """What they have heard of being recorded."""

    async def close(self) -> None:
        """Hang up there, and give the port back. Idempotent."""
        await self.call.hang_up("the other party hung up")
        await self.leg.close()

    async def talk(self, leg: Leg, hear: Callable[[Exchange], None]) -> str:
        """Let the far end of `leg` and this one talk until one of them is gone; why. Nobody else may use `leg` then.

        `hear` is called with each exchange of `leg`: both sides of the conversation. Digits that come as signaling are
        pressed on the other side, as those in the audio are.
        """

        async def over() -> str:
            return (await self.call.wait_ended()).reason

        async def press() -> str:
            async for key in self.call.digits():
                await _press(leg, key)
            return await over()

        bridge = Bridge(Side(leg, self.format), Side(self.leg, self.format), hear)
        return await first_of(bridge.run(), press(), over())

    async def press(self, key: str) -> None:
        """A digit of the caller's that came as signaling, not in the audio."""
        await _press(self.leg, key)


class Switchboard:
    """Reaches somebody else for a caller. `open_leg` makes the leg of a call of ours, in that format.

    `why_not` says why the far end of a call is not to be asked to call somebody; "" if it may be. Whoever we call
    hears `announcement` before the caller hears them.
    """

    def __init__(
        self,
        dialer: Dialer,
        open_leg: Callable[[CallOffer], Leg],
        audio_format: AudioFormat,
        why_not: Callable[[CallOffer, str], str] = lambda offer, target: "",
        announcement: Announcement | None = None,
    ) -> None:
        self._dialer, self._open_leg, self._format, self._why_not = dialer, open_leg, audio_format, why_not
        self._announcement = announcement

    async def reach(self, call: Call, target: str, trunk: str = "") -> Line | None:
        """Have the far end call `target`; where it will not, call there ourselves, by that trunk if one is named.

        None: it has reached them, and leaves. A Line: they have answered us. Raises SignalingError where neither way
        leads there: the call goes on.
        """
        why = self._why_not(call.offer, target)
        try:
            if not why:
                await call.transfer(target)
                return None
        except SignalingError as error:
            why = str(error)
        logger.info("- %s the far end does not transfer: %s", call.offer.id, why)
        return await first_of(self._call(target, trunk), _gone(call))

    async def _call(self, target: str, trunk: str) -> Line:
        """Somebody who has answered. Raises SignalingError."""
        call = await self._dialer.dial(target, trunk)
        leg = self._open_leg(call.offer)
        line = Line(call, leg, self._format)
        try:
            call.answered = leg.accepted
            call.renegotiate = lambda offer: renegotiate(leg, offer, target)
            await call.invite(await leg.offer())
            await answered(call, target)
            consent = await first_of(announce_alone(self._announcement, leg, self._format), _unanswered(call, target))
            return replace(line, consent=consent)
        except BaseException as error:
            await line.close()
            if isinstance(error, LegError):
                raise SignalingError(f"no media for {target}: {error}") from error
            raise


async def _gone(call: Call) -> Line:
    raise SignalingError(f"the call is over: {(await call.wait_ended()).reason}")


async def answered(call: OutgoingCall, target: str) -> None:
    """Returns once they have answered. Raises SignalingError if nobody does."""
    await first_of(call.wait_answered(), _unanswered(call, target))


async def _unanswered(call: OutgoingCall, target: str) -> Never:
    raise SignalingError(f"{target} was not reached: {(await call.wait_ended()).reason}")


async def _press(leg: Leg, key: str) -> None:
    """A side that takes no digits has none pressed: who talks there hears the other all the same."""
    with contextlib.suppress(LegError):
        await leg.send_digits(key)
