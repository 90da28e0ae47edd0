"""A call that we make by SIP, as the pillar's noun: by which ways, and what becomes of it."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from signaling.call import CallEnded, CallOffer, Outcome, Rejection, SignalingError
from signaling.sip.dialog import CHANGE_S
from signaling.sip.endpoint import SipEndpoint
from signaling.sip.events import Failed, Progressed, Taken
from signaling.sip.grammar import clean, parse_uri, part_fields
from signaling.sip.outcome import Refusal
from signaling.sip.placed import Invitation, Placed
from signaling.sip.registrar import Binding
from signaling.sip.resolve import DEAD_S, Target
from signaling.sip.sipcall import PlacedCall
from signaling.sip.transaction import Flow
from signaling.sip.trunk import Trunk

logger = logging.getLogger(__name__)

OUR_NAME = "voipagent"
"""Who calls, where no trunk has a name for us."""

HEAD_OCTETS = 850
"""About as much has the header of an INVITE of ours, with credentials."""

GIVES_WAY = (408, 503)
"""After these, the next target is tried (RFC 3263, section 4.3), unless it rang."""

SILENT_S = 6.0
"""How long a target may say nothing at all while there is another one: a request that is lost twice is heard by then.
Timer B, the last one's, is half a minute, and whoever waits for this call has hung up by its end."""


@dataclass(frozen=True)
class Way:
    """What is to be called, and by which ways. A phone of our own is reached by its `flow`, its user is `phone`."""

    uri: str
    trunk: Trunk | None
    targets: tuple[Target, ...]
    routes: tuple[str, ...]
    ring_s: float
    phone: str = ""
    flow: Flow | None = None

    @classmethod
    def to_phone(cls, user: str, binding: Binding, ring_s: float) -> Way:
        """To where a phone of our own has registered, by the way that its REGISTER came."""
        flow = binding.flow
        target = Target(flow.protocol, *flow.remote, flow.remote[0])
        return cls(part_fields(binding.uri)[0], None, (target,), (), ring_s, user, flow)

    def invitation(self, flow: Flow) -> Invitation:
        """What is sent by that flow."""
        host = f"[{flow.local[0]}]" if ":" in flow.local[0] else flow.local[0]
        address = self.trunk.address if self.trunk else f"sip:{OUR_NAME}@{host}"
        login = self.trunk.login if self.trunk else None
        return Invitation(self.uri, address, self.routes, login, self.ring_s, pinned=self.flow is not None)

    @property
    def callee(self) -> str:
        """Who is called, as a person would say it."""
        return self.phone or clean(parse_uri(self.uri).user or self.uri)

    @property
    def caller(self) -> str:
        """Who we are there."""
        return (parse_uri(self.trunk.address).user if self.trunk else None) or OUR_NAME


class OutgoingSipCall(PlacedCall):
    """A call that we make by SIP. `invite` begins it; until then nobody has heard of it."""

    def __init__(self, endpoint: SipEndpoint, way: Way, longest_s: float, when_over: Callable[[], None]) -> None:
        first = way.targets[0]
        trunk = way.trunk.name if way.trunk else ""
        offer = CallOffer(secrets.token_hex(8), "sip", way.caller, way.callee, (first.host, first.port), trunk=trunk)
        super().__init__(endpoint.act, None, offer)
        self.transfers = way.trunk is None or way.trunk.refer_out
        self._endpoint, self._way, self._longest_s, self._when_over = endpoint, way, longest_s, when_over
        self._loop = asyncio.get_running_loop()
        self._placed: Placed | None = None
        self._placing: asyncio.Task[None] | None = None
        self._sign: asyncio.Future[Refusal | None] = self._loop.create_future()
        self._rings: asyncio.Future[None] = self._loop.create_future()
        self._early: asyncio.Future[None] = self._loop.create_future()
        self._answered: asyncio.Future[None] = self._loop.create_future()
        self._in_order = asyncio.Lock()  # descriptions are dealt with one after the other
        self._media: str | None = None
        self._timer: asyncio.TimerHandle | None = None
        endpoint.outgoing.add(self)

    # --- for whoever calls ---

    async def invite(self, media: str | None) -> None:
        """INVITE; where nobody answers at one target, at the next. Once."""
        if self._placing is None and not self._ended.done():
            self._placing = self._endpoint.spawn(self._place(media))

    async def wait_ringing(self) -> None:
        """Wait for a 18x, or the answer."""
        await asyncio.shield(self._rings)

    async def wait_early(self) -> None:
        """Wait for a session description in a 18x (RFC 3960)."""
        await asyncio.shield(self._early)

    async def wait_answered(self) -> None:
        """Wait for the answer."""
        await asyncio.shield(self._answered)

    async def ring(self, early_media: str | None = None) -> None:
        """Theirs to do."""

    async def accept(self, media: str) -> None:
        """Theirs to do."""

    async def reject(self, rejection: Rejection) -> None:
        """Theirs to do: whoever wants the call no more hangs up."""

    async def hang_up(self, reason: str = "") -> None:
        """CANCEL before the answer, BYE after it."""
        self.stop(reason or "hung up")

    @property
    def is_taken(self) -> bool:
        """Whether somebody took it, be their answer one that can be used or not."""
        return self._placed is not None and self._placed.taken is not None

    def stop(self, reason: str, elsewhere: bool = False, outcome: Outcome = Outcome.CANCELLED) -> None:
        """As `hang_up`; `elsewhere`: another phone has the call, and this one has missed none. `outcome`: if it was not
        answered.
        """
        placed = self._placed
        if self._ended.done():
            return
        if placed is not None and placed.taken is not None:
            dialog = placed.taken
            if placed.owes:
                self._act(lambda agent, now: agent.client.answer(placed, "", now))
            self._act(lambda agent, now: agent.calls.hang_up(dialog, reason, now))
            return
        if self._placing is not None:
            self._placing.cancel()  # no other target is tried
        if placed is not None and not (self._sign.done() and self._sign.result()):
            why = Refusal(outcome, "agent", reason)
            placed.elsewhere = elsewhere
            self._act(lambda agent, now: agent.client.give_up(placed, why, now))
        else:
            self.end(CallEnded("agent", reason, outcome))

    # --- one target after the other ---

    async def _place(self, media: str | None) -> None:
        try:
            await self._place_somewhere(media)
        except Exception:  # the fault of one call is not everybody's
            logger.exception("x %s cannot be placed", self.offer.id)
            self.stop("the call cannot be placed", outcome=Outcome.FAILED)

    async def _place_somewhere(self, media: str | None) -> None:
        why: Refusal | None = None
        for target in self._way.targets:
            patience_s = None if target is self._way.targets[-1] else SILENT_S
            why = await self._try(target, media, patience_s)
            if why is None:
                self._endpoint.resolver.worked(target)
                return
            if self._way.flow is not None or why.code not in GIVES_WAY:
                break
            self._endpoint.resolver.failed(target, why.retry_s or DEAD_S)
            logger.info("x %s %s: %s", self.offer.id, target, why.reason)
        assert why is not None  # there is a target at least
        self.end(CallEnded(why.by, why.reason, why.outcome))

    async def _try(self, target: Target, media: str | None, patience_s: float | None) -> Refusal | None:
        """Call there; None once it rings or is taken, else why it came to nothing.

        Who says nothing at all for so long, not even a 100, and something later, is sent a CANCEL then.
        """
        try:
            flow = self._way.flow or await self._endpoint.flows.connect(target, HEAD_OCTETS + len(media or ""))
        except SignalingError as error:
            return Refusal(Outcome.UNREACHABLE, "network", str(error), 503)
        self._sign = self._loop.create_future()
        invitation = self._way.invitation(flow)
        self._act(lambda agent, now: self._began(agent.client.invite(invitation, media, flow, now)))
        await asyncio.wait([self._sign], timeout=patience_s)
        placed = self._placed
        if placed is not None and placed.is_unheard and not self._sign.done():
            why = Refusal(Outcome.UNREACHABLE, "network", f"no answer from {target} within {patience_s:g} s", 408)
            self._act(lambda agent, now: agent.client.give_up(placed, why, now))
        return await asyncio.shield(self._sign)

    def _began(self, placed: Placed) -> None:
        self._placed = placed
        self._endpoint.placed[placed] = self

    # --- what the user agent tells ---

    def progressed(self, event: Progressed) -> None:
        """It rings, or there is early media."""
        if event.dialog is not None:
            self._endpoint.adopt(event.dialog, self)
        self._alive()
        if event.media is not None:
            self.keep(self._endpoint.spawn(self._hear(event.media, early=True)))

    def taken(self, event: Taken) -> None:
        """Somebody took it."""
        self._dialog = event.dialog
        self._endpoint.adopt(event.dialog, self)
        self._alive()
        self._timer = self._loop.call_later(self._longest_s, self._too_long)
        if event.placed.media is None:
            self.keep(self._endpoint.spawn(self._settle(event)))
        elif event.media is not None:
            self.keep(self._endpoint.spawn(self._hear(event.media, early=False)))
        elif not self._answered.done():
            self._answered.set_result(None)

    def failed(self, event: Failed) -> None:
        """It came to nothing there; before it rang, another target may be tried."""
        self._endpoint.placed.pop(event.placed, None)
        why = event.why
        if self._sign.done() or (self._placing is not None and self._placing.cancelling()):
            self.end(CallEnded(why.by, why.reason, why.outcome))
        else:
            self._sign.set_result(why)

    def _alive(self) -> None:
        for future in (self._sign, self._rings):
            if not future.done():
                cast("asyncio.Future[None]", future).set_result(None)

    def _too_long(self) -> None:
        self.stop(f"the call lasted {self._longest_s:g} s, which is the longest allowed")

    async def _hear(self, media: str, early: bool) -> None:
        """Hand over what the far end sends for our offer; an answer that cannot be used is the end."""
        async with self._in_order:
            try:
                if self.answered is not None and not (early and media == self._media):
                    await self.answered(media)
                self._media = media
            except Exception as error:
                logger.warning("x %s %s refused: %s", self.offer.id, "early media" if early else "answer", error)
                if not early:
                    self.stop(str(error))
                return
        told = self._early if early else self._answered
        if not told.done():
            told.set_result(None)

    async def _settle(self, event: Taken) -> None:
        """Answer the far end's offer."""
        answer, why = "", "there is nobody to answer the far end's offer"
        try:
            if self.renegotiate is not None:
                async with asyncio.timeout(CHANGE_S):
                    outcome = await self.renegotiate(event.media or "")
                answer, why = ("", outcome.value) if isinstance(outcome, Rejection) else (outcome, "")
        except Exception as error:  # whatever is wrong with our own side, the far end gets its ACK and a BYE
            why = f"no answer to the far end's offer: {str(error) or type(error).__name__}"
        if why:
            self.stop(why)
            return
        self._act(lambda agent, now: agent.client.answer(event.placed, answer, now))
        if not self._answered.done():
            self._answered.set_result(None)

    def end(self, ended: CallEnded) -> None:
        """The call is over."""
        if self._ended.done():
            return
        super().end(ended)
        if self._timer is not None:
            self._timer.cancel()
        self._endpoint.forget(self)
        self._when_over()
