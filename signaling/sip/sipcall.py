"""A call by SIP, as the pillar's noun."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from typing import TypeAlias

from signaling.call import Answered, Call, CallEnded, CallOffer, Referred, Rejection, Renegotiate, SignalingError
from signaling.sip.changes import Change
from signaling.sip.dialog import Dialog
from signaling.sip.events import Failed, Invited, Progressed, Taken
from signaling.sip.grammar import clean, parse_uri
from signaling.sip.identity import claims
from signaling.sip.refer import Referral
from signaling.sip.useragent import UserAgent

logger = logging.getLogger(__name__)

REJECTIONS = {
    Rejection.BUSY: 486,
    Rejection.OVERLOADED: 503,
    Rejection.NOT_FOUND: 404,
    Rejection.NOT_ACCEPTABLE: 488,
}

MAX_DIGITS = 64
"""Digits that nobody has read yet; then the oldest is forgotten."""

Act: TypeAlias = Callable[[Callable[[UserAgent, float], None]], None]
"""Tells the user agent something, and sends what follows from it."""


class SipCall:
    """A call by SIP, that came in unless it says so. Without a dialog, one comes when it is answered."""

    _dialog: Dialog

    def __init__(self, act: Act, dialog: Dialog | None, offer: CallOffer) -> None:
        self.renegotiate: Renegotiate | None = None
        self.answered: Answered | None = None
        self.referred: Referred | None = None
        self.transfers = True
        """Whether the peer may be asked to transfer the call."""
        self._act, self._offer = act, offer
        if dialog is not None:
            self._dialog = dialog
        self._ended: asyncio.Future[CallEnded] = asyncio.get_running_loop().create_future()
        self._digits: asyncio.Queue[str] = asyncio.Queue(MAX_DIGITS)
        self._tasks: set[asyncio.Task[None]] = set()
        self._change: asyncio.Task[None] | None = None

        self._asked: dict[object, asyncio.Future[str]] = {}

    @property
    def offer(self) -> CallOffer:
        """What was offered."""
        return self._offer

    async def ring(self, early_media: str | None = None) -> None:
        """180 Ringing, or 183 with early media."""
        self._act(lambda agent, now: agent.calls.ring(self._dialog, early_media, now))

    async def accept(self, media: str) -> None:
        """200 OK. It is repeated until the caller acknowledges it; 32 s without that end the call."""
        self._act(lambda agent, now: agent.calls.accept(self._dialog, media, now))

    async def reject(self, rejection: Rejection) -> None:
        """486, 503, 404 or 488."""
        code, why = REJECTIONS[rejection], rejection.value
        self._act(lambda agent, now: agent.calls.reject(self._dialog, code, why, now))

    async def hang_up(self, reason: str = "") -> None:
        """480 before the answer, BYE after it; `reason` goes along."""
        self._act(lambda agent, now: agent.calls.hang_up(self._dialog, reason, now))

    async def digits(self) -> AsyncIterator[str]:
        """Digits from INFO requests."""
        while True:
            yield await self._digits.get()

    async def wait_ended(self) -> CallEnded:
        """Wait for the end."""
        return await asyncio.shield(self._ended)

    async def propose(self, media: str) -> str:
        """A re-INVITE with our offer; gives the answer. Raises SignalingError where the peer refuses it."""
        change = Change(self._joined, media)
        return await self._settled(change, lambda agent, now: agent.changes.want(change, now))

    async def transfer(self, target: str | Call) -> None:
        """A REFER; with another call of ours, one whose Refer-To replaces that call. Raises SignalingError."""
        if not self.transfers:
            raise SignalingError(f"trunk {self.offer.trunk} is asked for no transfers (refer_out)")
        if isinstance(target, str):
            referral = Referral(self._joined, target)
        elif isinstance(target, SipCall):
            referral = Referral(self._joined, "", target._joined)
        else:
            raise SignalingError("only a call by SIP can be taken over by SIP")
        try:
            logger.info("- %s transfer to %s", self.offer.id, referral.refer_to)
        except ValueError as error:
            raise SignalingError(str(error)) from None
        await self._settled(referral, lambda agent, now: agent.referrals.refer(referral, now))

    @property
    def _joined(self) -> Dialog:
        """The dialog, once there is one. Raises SignalingError before."""
        dialog: Dialog | None = getattr(self, "_dialog", None)
        if dialog is None:
            raise SignalingError("the call is not answered yet")
        return dialog

    async def _settled(self, asked: object, ask: Callable[[UserAgent, float], None]) -> str:
        """Ask something of the peer, and wait for what becomes of it."""
        if self._ended.done():
            raise SignalingError("the call is over")
        self._asked[asked] = asyncio.get_running_loop().create_future()
        try:
            self._act(ask)
            return await self._asked[asked]
        finally:
            del self._asked[asked]

    def settle(self, asked: object, answer: str, why: str) -> None:
        """What was asked of the peer came to an end; nobody may be waiting for it any more."""
        waiting = self._asked.get(asked)
        if waiting is None or waiting.done():
            return
        if why:
            waiting.set_exception(SignalingError(why))
        else:
            waiting.set_result(answer)

    def press(self, key: str) -> None:
        """A digit came."""
        if self._digits.full():
            self._digits.get_nowait()
        self._digits.put_nowait(key)

    def change(self, negotiate: Callable[[], asyncio.Task[None]]) -> None:
        """Negotiate a change; the one before, if that still goes on, was taken back by the peer."""
        if self._change is not None:
            self._change.cancel()  # and feels it before the next one begins
        self._change = negotiate()
        self.keep(self._change)

    def keep(self, task: asyncio.Task[None]) -> None:
        """A task that is done for this call, and cancelled with it."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def end(self, ended: CallEnded) -> None:
        """The call is over."""
        if not self._ended.done():
            self._ended.set_result(ended)
        for asked in list(self._asked):
            self.settle(asked, "", f"the call is over: {ended.reason}")
        for task in self._tasks - {asyncio.current_task()}:  # one of them may be ending it
            task.cancel()


class PlacedCall(SipCall, ABC):
    """A call of ours, as far as the endpoint knows it."""

    @abstractmethod
    def progressed(self, event: Progressed) -> None:
        """A provisional response came."""

    @abstractmethod
    def taken(self, event: Taken) -> None:
        """Somebody took it."""

    @abstractmethod
    def failed(self, event: Failed) -> None:
        """It came to nothing."""

    @abstractmethod
    def stop(self, reason: str) -> None:
        """End it in whatever state it is."""


def offer_of(event: Invited) -> CallOffer:
    """What the session is told of an INVITE.

    `id` is our own name for the call, which is also our tag in its dialog. `caller` and `callee` are the user parts of
    From and of the Request-URI, or the whole URI where there is no user part.
    """
    request, dialog = event.request, event.dialog
    return CallOffer(
        id=dialog.id[1],
        kind="sip",
        caller=clean(request.from_.uri.user or str(request.from_.uri)),
        callee=clean(parse_uri(request.uri).user or request.uri),
        source=dialog.flow.remote,
        media=request.media,
        headers=claims(request),
    )
