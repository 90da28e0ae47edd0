"""From which trunk a call comes, and whether that trunk may make it. Pure.

A trunk is told by where the request came from: a network that was named for it, or an address that its name had in DNS.
Two trunks at one address (two accounts at the same provider) are told apart by whom they call: the name that one is
registered by, or a number that one serves.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address

from signaling.sip.buckets import Buckets
from signaling.sip.trunk import Lines, Trunk

MAX_HOSTS = 32
"""Addresses remembered for each trunk: a provider's name may have another one each time it is asked for."""


@dataclass(frozen=True)
class Refused:
    """A call that its trunk may not make: the status, why, and what to change, as the path to the setting."""

    trunk: Trunk
    code: int
    why: str
    setting: tuple[str, ...]


class Admission:
    """All trunks, and which calls of theirs are let in. `lines` are shared with the calls that we make."""

    def __init__(self, trunks: Iterable[Trunk], lines: Lines) -> None:
        self._trunks = tuple(trunks)
        self._lines = lines
        self._hosts: dict[str, dict[str, None]] = {trunk.name: {} for trunk in self._trunks}
        self._rates = {t.name: Buckets(t.cps, max(1.0, t.cps)) for t in self._trunks if t.cps is not None}

    def learn(self, name: str, hosts: Iterable[str]) -> None:
        """A trunk has these addresses now; what it had is remembered for a while, for the calls that go on."""
        known = self._hosts[name]
        for host in hosts:
            known.pop(host, None)
            known[host] = None
        while len(known) > MAX_HOSTS:
            del known[next(iter(known))]

    def knows(self, host: str) -> bool:
        """Whether a trunk has that address, a literal."""
        return any(self._has(trunk, host) for trunk in self._trunks)

    def admit(self, host: str, callee: str, now: float) -> Trunk | Refused | None:
        """A call to `callee` came from `host`: from which trunk, which it is counted for until `end`.

        Refused where the trunk may not make it; None where the call is from no trunk.
        """
        trunk = self._trunk_of(host, callee)
        if trunk is None:
            return None
        refused = self._refused(trunk, callee, now)
        if refused is None:
            self._lines.take(trunk)
        return refused or trunk

    def end(self, trunk: Trunk) -> None:
        """A call that was admitted is over."""
        self._lines.free(trunk)

    def _trunk_of(self, host: str, callee: str) -> Trunk | None:
        """The best of those that it can be from; of equals the first."""
        possible = [trunk for trunk in self._trunks if self._has(trunk, host)]
        return max(possible, key=lambda t: (t.register and t.user == callee, t.serves(callee)), default=None)

    def _has(self, trunk: Trunk, host: str) -> bool:
        if host in self._hosts[trunk.name]:
            return True
        try:
            address = ip_address(host)
        except ValueError:
            return False
        return any(address in network for network in trunk.peers)

    def _refused(self, trunk: Trunk, callee: str, now: float) -> Refused | None:
        """Busy, not unavailable: that would make many a trunk take us out of service."""
        name = trunk.name
        if not trunk.serves(callee):
            return Refused(trunk, 404, f"{callee} is none of its numbers", ("trunks", name, "numbers"))
        if self._lines.is_full(trunk):
            return Refused(trunk, 486, f"it has its {trunk.max_calls} calls", ("trunks", name, "max_calls"))
        rate = self._rates.get(name)
        if rate is not None and not rate.take(name, now):
            return Refused(trunk, 486, f"more than {trunk.cps:g} new calls a second", ("trunks", name, "cps"))
        return None
