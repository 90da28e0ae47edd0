"""Makes calls by SIP: who may be called, and by which ways."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import replace

from signaling.call import CallOffer, NotAllowed, OutgoingCall, SignalingError
from signaling.sip.endpoint import SipEndpoint
from signaling.sip.forked import ForkedCall
from signaling.sip.outbound import Denied, Outbound, Permit
from signaling.sip.outgoing import OutgoingSipCall, Way
from signaling.sip.placed import RING_S


class SipDialer:
    """Makes calls by an endpoint that is entered, as far as `policy` allows.

    `routes` has the proxies that a trunk's registrar wants calls to take, by its name; `ring_s` is how long it may ring
    where a trunk does not say. `at` is the time of day.
    """

    def __init__(
        self,
        endpoint: SipEndpoint,
        policy: Outbound,
        *,
        routes: Callable[[str], tuple[str, ...]] = lambda trunk: (),
        ring_s: float = RING_S,
        at: Callable[[], float] = time.time,
    ) -> None:
        self._endpoint, self._policy, self._routes, self._ring_s, self._at = endpoint, policy, routes, ring_s, at

    async def dial(self, target: str, trunk: str = "") -> OutgoingCall:
        """A call to a number, a SIP URI, or a user with phones of our own, of which all ring.

        Raises NotAllowed, or SignalingError where no way leads there.
        """
        permit = self._policy.begin(target, self._at(), trunk)
        if isinstance(permit, Denied):
            raise NotAllowed(permit.why, permit.setting)
        try:
            ways = self._phones(permit) if permit.phone else (await self._way(permit),)
        except BaseException:
            self._end(permit)
            raise
        if len(ways) == 1:
            return self._call(ways[0], permit, lambda: self._end(permit))
        branches = [self._call(way, permit, lambda: None) for way in ways]
        also = tuple(branch.offer.source[0] for branch in branches[1:])
        offer = replace(branches[0].offer, id=secrets.token_hex(8), also=also)
        return ForkedCall(self._endpoint, offer, branches, lambda: self._end(permit))

    def why_not_refer(self, offer: CallOffer, target: str) -> str:
        """Why the far end of a call is not to be asked to call `target` in our place; "" if it may be."""
        if self._policy.is_phone(target):
            return f"{target} is a phone of our own"
        denied = self._policy.reaches(target, offer.trunk)
        return denied.why if denied else ""

    def _call(self, way: Way, permit: Permit, when_over: Callable[[], None]) -> OutgoingSipCall:
        return OutgoingSipCall(self._endpoint, way, permit.longest_s, when_over)

    def _phones(self, permit: Permit) -> tuple[Way, ...]:
        """To each phone of a user. Raises SignalingError."""
        bindings = self._endpoint.phones(permit.phone)
        if not bindings:
            raise SignalingError(f"{permit.phone} has no phone that is registered now")
        return tuple(Way.to_phone(permit.phone, binding, self._ring_s) for binding in bindings)

    def _end(self, permit: Permit) -> None:
        self._policy.end(permit, self._at())

    async def _way(self, permit: Permit) -> Way:
        trunk = permit.trunk
        targets = await self._endpoint.resolver.resolve(trunk.next_hop if trunk else permit.uri)
        routes = self._routes(trunk.name) or trunk.routes if trunk else ()
        ring_s = trunk.ring_s if trunk is not None else None
        return Way(permit.uri, trunk, targets, routes, self._ring_s if ring_s is None else ring_s)
