"""The shell around the user agent: sockets, one timer, and each call as a `SipCall`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from dataclasses import replace
from typing import Any, Self

from signaling.call import Call, CallEnded
from signaling.sip import asked
from signaling.sip.admission import Refused
from signaling.sip.counts import Counts
from signaling.sip.dialog import Dialog
from signaling.sip.digest import Authenticator
from signaling.sip.events import (
    Changed,
    Ended,
    Event,
    Failed,
    Invited,
    Mapped,
    Pressed,
    Progressed,
    Referred,
    Refreshing,
    Settled,
    Shed,
    Taken,
)
from signaling.sip.flows import Flows
from signaling.sip.guard import Guard
from signaling.sip.keeper import Keeper
from signaling.sip.names import Dns
from signaling.sip.placed import Placed
from signaling.sip.registrar import Binding, Registrar
from signaling.sip.resolve import Names, Resolver
from signaling.sip.sipcall import PlacedCall, SipCall, offer_of
from signaling.sip.tls import Tls
from signaling.sip.trace import trace
from signaling.sip.transaction import Flow
from signaling.sip.transport import Gate, Network
from signaling.sip.trunk import Kept, Lines, Trunk
from signaling.sip.trunks import Trunks
from signaling.sip.useragent import BURST, RATE, UserAgent

logger = logging.getLogger(__name__)

CLOSING = "the agent is shutting down"
"""Why calls end then."""

CLOSE_S = 2.0
"""How long a closing endpoint waits for the answers to its BYEs."""

MAX_WAITING = 256
"""Calls that nobody has taken from `calls` yet; more are answered 503."""

REALM = "voipagent"
"""What phones of our own are told that they log in to."""

ASKED_FOR = ("MD5",)
"""And the digests that they are asked for, unless others are wanted. baresip 1.0.0 gives up where SHA-256 is offered,
though MD5 is beside it in either order; every phone knows MD5, and what can be guessed from one can be guessed from
the other.
"""


class SipEndpoint:
    """Answers calls over UDP and TCP on one port, and over TLS on another, for as long as it is entered.

    `allow` are the networks that are heard; `advertised` are addresses (one for each version of IP) or a name that
    Contact and Via carry instead of the one that routes to the peer, for who sits behind a NAT. `rate` and `burst`
    limit what one source may begin, in requests a second. Entering it raises SignalingError where a port or a
    certificate cannot be had.

    What calls of ours need is there as well: `resolver` leads a URI to targets by `names`, and `flows` has a way to
    each of them.

    `trunks` are peers that we have an arrangement with: they may call as it says, and we register with those that want
    it; `lines` count their calls together with those that we make.

    `users` are names and passwords of phones of our own: they may register, and call from the networks in `challenge`
    too, where everybody is asked for a password, by one of `digests`, best first (RFC 8760). Raises ValueError for a
    name that a phone could not say.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        allow: tuple[Network, ...],
        challenge: tuple[Network, ...] = (),
        users: Mapping[str, str] | None = None,
        digests: tuple[str, ...] = ASKED_FOR,
        advertised: Iterable[str] = (),
        tls: Tls | None = None,
        v6_only: bool = False,
        names: Names | None = None,
        trunks: Iterable[Trunk] = (),
        lines: Lines | None = None,
        rate: float = RATE,
        burst: float = BURST,
    ) -> None:
        self.available: Callable[[], bool] = lambda: True
        self.may_refer: Callable[[str], bool] = lambda host: False
        """Whether a host that is no trunk may have us call others (REFER)."""
        self.trunks = Trunks(trunks, lines or Lines())
        challenge = challenge if users else ()  # with no user, nobody there could show who they are
        self._gate = Gate(allow, challenge, self.trunks.admission.knows)
        registrar = _registrar(users, digests) if users else None
        self._registrar = registrar
        self._agent = UserAgent(
            available=lambda: self.available(),
            trusted=self._gate.allows,
            may_refer=self._may_refer,
            registrar=registrar,
            keeper=self.trunks.keeper,
            rate=rate,
            burst=burst,
        )
        uses = self._uses
        self.flows = Flows(
            host, port, self._gate, self._received, uses, self._gone, advertised=advertised, tls=tls, v6_only=v6_only
        )
        self._names = names or Dns()
        self._calls: dict[Dialog, SipCall] = {}
        self._admitted: dict[Dialog, Trunk] = {}
        self.outgoing: set[PlacedCall] = set()
        """Calls of ours that are not over; in `placed` those of which the user agent may tell something."""
        self.placed: dict[Placed, PlacedCall] = {}
        self._new: asyncio.Queue[SipCall] = asyncio.Queue(MAX_WAITING)
        self._timer: asyncio.TimerHandle | None = None
        self._quiet, self._closed = asyncio.Event(), False
        self._stack = contextlib.AsyncExitStack()

    @property
    def port(self) -> int:
        """The port that is bound, once entered."""
        return self.flows.port

    @property
    def counts(self) -> Counts:
        """What was counted so far."""
        trunks, guard = self.trunks, self._registrar.guard if self._registrar is not None else None
        return Counts(
            self._agent.dropped.copy(),
            self._gate.turned_away,
            guard.failures.total() if guard is not None else 0,
            guard.bans if guard is not None else 0,
            trunks.failures.copy(),
            trunks.refusals.copy(),
            self._gate.crowded,
        )

    def phones(self, user: str) -> tuple[Binding, ...]:
        """Where a user with phones of our own can be reached now, the place that was refreshed last first."""
        now = asyncio.get_running_loop().time()
        bindings = self._registrar.bindings(user, now) if self._registrar is not None else ()
        return tuple(binding for binding in bindings if self.flows.is_open(binding.flow))

    def _may_refer(self, dialog: Dialog) -> bool:
        """Whether a peer may have us call others: where its trunk or host may, and there is a session that would."""
        call = self._calls.get(dialog)
        if call is None or call.referred is None:
            return False
        trunk = self.trunks.named(call.offer.trunk)
        return self.may_refer(dialog.flow.remote[0]) if trunk is None else trunk.refer_in

    async def calls(self) -> AsyncIterator[Call]:
        """Each call as it is offered."""
        while True:
            yield await self._new.get()

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(self.flows)
            self._group = await stack.enter_async_context(asyncio.TaskGroup())
            versions, protocols = self.flows.versions, self.flows.protocols
            self.resolver = Resolver(
                self._names, time=loop.time, chance=random.random, versions=versions, protocols=protocols
            )
            self.trunks.start(self._group, self.resolver, self.flows, self._tell_keeper)
            stack.push_async_callback(self._close)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._stack.aclose()

    async def _close(self) -> None:
        """Hang up whatever is left, leave all registrars, and wait a little for the peers to hear it."""
        self.available = lambda: False
        self.trunks.stop()
        self.act(lambda agent, now: agent.keeper.stop(now))
        for call in list(self.outgoing):
            call.stop(CLOSING)
        self.act(lambda agent, now: agent.calls.close(CLOSING, now))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                while not self._agent.idle:
                    self._quiet.clear()
                    await self._quiet.wait()
        self._closed = True
        self._arm()

    # --- between sockets and user agent ---

    def _uses(self, flow: Flow) -> bool:
        return self._agent.uses(flow, asyncio.get_running_loop().time())

    def _gone(self, flow: Flow) -> None:
        """A connection ended."""
        if not self._closed:
            self.act(lambda agent, now: agent.lost(flow, now))

    def act(self, do: Callable[[UserAgent, float], None]) -> None:
        """Tell the user agent something, then send and deal with what it has for us."""
        now = asyncio.get_running_loop().time()
        try:
            do(self._agent, now)
        finally:  # whatever is wrong with one call, the others have their messages and their timers
            for data, flow in self._agent.take_outgoing():
                trace(logger, ">", data, flow)
                self.flows.send(data, flow)
            for event in self._agent.take_events():
                self._deal(event, now)
            self._quiet.set()
            self._arm()

    def _arm(self) -> None:
        """One timer, for whatever comes next."""
        at = None if self._closed else self._agent.next_at
        if self._timer is not None:
            if self._timer.when() == at and not self._timer.cancelled():
                return
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        self._timer = None if at is None else loop.call_at(at, self._fire)

    def _tell_keeper(self, do: Callable[[Keeper, float], None]) -> None:
        self.act(lambda agent, now: do(agent.keeper, now))

    def _fire(self) -> None:
        self._timer = None
        self.act(lambda agent, now: agent.fire(now))

    def _received(self, data: bytes, flow: Flow) -> None:
        trace(logger, "<", data, flow)
        self.act(lambda agent, now: agent.receive(data, flow, now))

    # --- calls of ours ---

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Do something for a call, for as long as we are entered."""
        return self._group.create_task(work)

    def adopt(self, dialog: Dialog, call: SipCall) -> None:
        """What is told of that dialog is for that call."""
        self._calls[dialog] = call

    def forget(self, call: PlacedCall) -> None:
        """It is over: nothing is told of it any more."""
        self._calls = {dialog: other for dialog, other in self._calls.items() if other is not call}
        self.placed = {placed: other for placed, other in self.placed.items() if other is not call}
        self.outgoing.discard(call)

    # --- events ---

    def _deal(self, event: Event, now: float) -> None:
        if isinstance(event, Invited):
            self._invited(event, now)
        elif isinstance(event, Shed):
            self._gate.log(event.source, now, "x %s: request turned away, %s", event.why)
        elif isinstance(event, Ended):
            if (trunk := self._admitted.pop(event.dialog, None)) is not None:
                self.trunks.admission.end(trunk)
            self._calls.pop(event.dialog).end(CallEnded(event.by, event.reason))
        elif isinstance(event, Kept):
            self.trunks.told(event)
        elif isinstance(event, Mapped):
            if self.flows.learn(event.flow.remote[0], event.place):
                self.trunks.moved(event.flow.remote[0])
        elif isinstance(event, Progressed | Taken | Failed):
            self._dialed(event)
        elif isinstance(event, Pressed):
            if (pressed := self._calls.get(event.dialog)) is not None:
                pressed.press(event.key)
        elif isinstance(event, Settled):
            if (settled := self._calls.get(event.dialog)) is not None:
                settled.settle(event.asked, event.answer, event.why)
        elif isinstance(event, Refreshing):
            refreshing = self._calls[event.dialog]
            refreshing.keep(self._group.create_task(asked.refreshed(refreshing)))
        elif isinstance(event, Referred):
            referred = self._calls[event.dialog]
            referred.keep(self._group.create_task(self._referred(referred, event)))
        elif isinstance(event, Changed):
            call = self._calls[event.dialog]
            call.change(lambda: self._group.create_task(self._renegotiate(call, event)))
        else:
            call = self._calls[event.dialog]
            call.keep(self._group.create_task(asked.answered(call, event.answer)))

    def _dialed(self, event: Progressed | Taken | Failed) -> None:
        call = self.placed.get(event.placed)
        if call is None:
            return
        if isinstance(event, Progressed):
            call.progressed(event)
        elif isinstance(event, Taken):
            call.taken(event)
        else:
            call.failed(event)

    def _invited(self, event: Invited, now: float) -> None:
        """A call, which may be from a trunk that is not allowed to make it."""
        offer = offer_of(event)
        trunk = self.trunks.admission.admit(offer.source[0], offer.callee, now)
        if isinstance(trunk, Trunk):
            offer = replace(offer, trunk=trunk.name)
            self._admitted[event.dialog] = trunk
            if trunk.login is not None:  # it may ask who we are in a call that it made, too
                event.dialog.authenticator = Authenticator(trunk.login, lambda: secrets.token_hex(8))
        call = SipCall(self.act, event.dialog, offer)
        call.transfers = not isinstance(trunk, Trunk) or trunk.refer_out
        self._calls[event.dialog] = call
        if isinstance(trunk, Refused):
            code, why = trunk.code, trunk.why
            self.trunks.refusals[trunk.trunk.name, code] += 1
            self._gate.log(offer.source[0], now, "x %s: call from trunk %s refused, %s", trunk.trunk.name, why)
            self.act(lambda agent, now: agent.calls.reject(event.dialog, code, why, now))
            return
        try:
            self._new.put_nowait(call)
        except asyncio.QueueFull:
            logger.warning("x %s refused: too many calls wait to be taken", call.offer.id)
            self.act(lambda agent, now: agent.calls.reject(event.dialog, 503, "overloaded", now))

    async def _renegotiate(self, call: SipCall, changed: Changed) -> None:
        outcome = await asked.renegotiated(call, changed.offer)
        self.act(lambda agent, now: agent.calls.change(changed, outcome, now))

    async def _referred(self, call: SipCall, event: Referred) -> None:
        code = await asked.referred(call, event.target)
        self.act(lambda agent, now: agent.referrals.report(event.order, code, now))


# --- small print ---------------------------------------------------------------------------------------------------


def _registrar(users: Mapping[str, str], digests: tuple[str, ...]) -> Registrar:
    """With nonces that no other run of ours takes."""
    return Registrar(Guard(REALM, users, secrets.token_bytes(32), lambda: secrets.token_hex(8), digests))
