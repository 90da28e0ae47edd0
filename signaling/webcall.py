"""A call whose signalling is HTTP: offered by a POST, answered by what that returns, ended by a DELETE (RFC 9725)."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable

from signaling.call import Answered, Call, CallEnded, CallOffer, Referred, Rejection, Renegotiate, SignalingError


class WebCall:
    """One call. `session` is the end of its URL: whoever knows it has the call in hand, so it is in no log.

    `etag` names the session of ICE, so that nobody adds to one that is over.
    """

    def __init__(self, offer: CallOffer) -> None:
        self.session = secrets.token_urlsafe(18)
        self.etag = f'"{secrets.token_hex(8)}"'
        self.renegotiate: Renegotiate | None = None
        self.answered: Answered | None = None
        self.referred: Referred | None = None
        self.answer = ""
        self.rejection: Rejection | None = None
        self.why = ""
        """Why it was rejected, where somebody said."""
        self.changing = asyncio.Lock()
        """Held while a change is agreed on."""
        self._offer = offer
        self._decided = asyncio.Event()
        self._ended: asyncio.Future[CallEnded] = asyncio.get_running_loop().create_future()

    @property
    def offer(self) -> CallOffer:
        """What was offered."""
        return self._offer

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self._ended.done()

    async def ring(self, early_media: str | None = None) -> None:
        """There is no such thing in HTTP: the POST waits."""

    async def accept(self, media: str) -> None:
        """Answer the POST with our description."""
        if not self.is_over:
            self.answer = media
            self._decided.set()

    async def reject(self, rejection: Rejection) -> None:
        """Answer the POST with a problem. Without effect once it is accepted or over."""
        if not self.is_over and not self._decided.is_set():
            self.rejection = rejection
            self.end("agent", rejection.value)

    async def propose(self, media: str) -> str:
        """Raises SignalingError: there is nobody whom we could ask."""
        raise SignalingError("this call came by HTTP, and its far end cannot be asked for a change")

    async def transfer(self, target: str | Call) -> None:
        """Raises SignalingError: who has come by HTTP cannot call anybody."""
        raise SignalingError("this call came by HTTP, and its far end cannot be sent elsewhere")

    async def hang_up(self, reason: str = "") -> None:
        """End the call. Idempotent. Said after a rejection, `reason` explains that."""
        if self.rejection is not None:
            self.why = self.why or reason
        self.end("agent", reason)

    async def digits(self) -> AsyncIterator[str]:
        """None come by HTTP."""
        await asyncio.Event().wait()
        yield ""

    async def wait_decided(self) -> None:
        """Wait until the call is taken, rejected or over."""
        await self._decided.wait()

    async def wait_ended(self) -> CallEnded:
        """Wait for the end. Safe to await many times."""
        return await asyncio.shield(self._ended)

    def end(self, by: str, reason: str) -> None:
        """It is over. Without effect if it was already."""
        if not self.is_over:
            self._ended.set_result(CallEnded(by, reason))
            self._decided.set()

    def when_over(self, tell: Callable[[], object]) -> None:
        """Call `tell` once it is."""
        self._ended.add_done_callback(lambda _: tell())
