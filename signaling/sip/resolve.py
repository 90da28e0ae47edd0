"""Where a SIP URI leads (RFC 3263): NAPTR, SRV and addresses, as a list to be tried in order.

The names come from a `Names`, time and chance are passed in; no socket is named here. `maddr` is not followed: a URI
that may be dialled must not lead to a host that its writer did not name.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Literal, Protocol, TypeAlias

from sipmessage import URI

from signaling.call import SignalingError
from signaling.sip.grammar import clean, host_port, parse_uri

DEAD_S = 60.0
"""A target that failed is tried after all others for so long (RFC 3263, section 4.3, leaves the time to us)."""

MIN_TTL_S, MAX_TTL_S = 5.0, 86_400.0
"""Answers are kept for as long as they say, within these bounds."""

STALE_TTL_S = 30.0
"""An answer that is too old and still used is asked for again after so long."""

MAX_KEPT, MAX_TARGETS = 1000, 16
"""Answers kept, of which the oldest goes for a new one; and targets of one URI, of which more are left out."""

PROTOCOLS = ("UDP", "TCP", "TLS")
"""What we speak, in the order that we prefer where the far end has no opinion."""

PORTS = {"UDP": 5060, "TCP": 5060, "TLS": 5061}
"""Where each is spoken if nobody says otherwise (RFC 3261, section 19.1.2)."""

SERVICES = {"SIP+D2U": "UDP", "SIP+D2T": "TCP", "SIPS+D2T": "TLS"}
"""RFC 3263, section 4.1, and what we make of each."""

_SRV = {"UDP": "_sip._udp", "TCP": "_sip._tcp", "TLS": "_sips._tcp"}

Kind: TypeAlias = Literal["NAPTR", "SRV", "A", "AAAA"]


class Unresolved(SignalingError):
    """The URI leads nowhere; the message says at which name it ended, and why."""


class LookUpFailed(SignalingError):
    """A name server gave no answer that can be used. That a name does not exist is an answer."""


@dataclass(frozen=True, slots=True)
class Target:
    """One place to send a request to. `host` is a literal; `name` is whom a TLS certificate must be for (RFC 5922)."""

    protocol: str
    host: str
    port: int
    name: str

    def __str__(self) -> str:
        place = f"{host_port(self.host, self.port)} over {self.protocol}"
        return place if self.name == self.host else f"{self.name} ({place})"


@dataclass(frozen=True, slots=True)
class Naptr:
    """RFC 3403, section 4.1."""

    order: int
    preference: int
    flags: str
    service: str
    replacement: str


@dataclass(frozen=True, slots=True)
class Srv:
    """RFC 2782. A `target` of "." or "" says that the service is not there."""

    priority: int
    weight: int
    port: int
    target: str


@dataclass(frozen=True, slots=True)
class Found:
    """What a name has of one kind, none where it has nothing of it, and for how long that holds."""

    records: tuple[Naptr | Srv | str, ...]
    ttl_s: float


class Names(Protocol):
    """A name service."""

    async def look_up(self, name: str, kind: Kind) -> Found:
        """Addresses come as literals. Raises LookUpFailed."""


class Resolver:
    """Leads URIs to targets. `versions` of IP are those that we have, the preferred one first."""

    def __init__(
        self,
        names: Names,
        *,
        time: Callable[[], float],
        chance: Callable[[], float],
        versions: tuple[int, ...] = (4, 6),
        protocols: tuple[str, ...] = PROTOCOLS,
    ) -> None:
        self._names, self._time, self._chance = names, time, chance
        self._versions, self._protocols = versions, protocols
        self._kept: dict[tuple[str, Kind], tuple[float, Found]] = {}
        self._dead: dict[Target, float] = {}

    async def resolve(self, uri: str) -> tuple[Target, ...]:
        """Where to send a request for `uri`, in the order to try; at least one. Raises Unresolved."""
        asked = _place(uri)
        try:
            found = [target async for target in self._targets(asked)]
        except LookUpFailed as error:
            raise Unresolved(f"{clean(uri)} cannot be looked up: {error}") from None
        if not found:
            raise Unresolved(f"{asked.host} has no address{self._of_which_kind()}, as far as the name server knows")
        self._forgive()
        return tuple(sorted(dict.fromkeys(found), key=self._dead.__contains__)[:MAX_TARGETS])

    def failed(self, target: Target, seconds: float = DEAD_S) -> None:
        """It gave no answer, or a 503: for so long it is tried after all others."""
        self._forgive()
        if len(self._dead) < MAX_KEPT or target in self._dead:
            self._dead[target] = self._time() + seconds

    def worked(self, target: Target) -> None:
        """It answered."""
        self._dead.pop(target, None)

    def _forgive(self) -> None:
        now = self._time()
        self._dead = {target: until for target, until in self._dead.items() if until > now}

    def _of_which_kind(self) -> str:
        return f" of IPv{self._versions[0]}" if len(self._versions) == 1 else ""

    # --- RFC 3263, section 4 ---

    async def _targets(self, asked: _Asked) -> AsyncIterator[Target]:
        """Section 4.1 where the protocol is open, section 4.2 where it is known."""
        if asked.literal:
            protocol = asked.protocol or ("TLS" if asked.secure else "UDP")
            self._check(protocol)
            yield Target(protocol, asked.host, asked.port or PORTS[protocol], asked.host)
            return
        failure: LookUpFailed | None = None
        if asked.port is None:
            served, lost = False, None
            async for protocol, name in self._services(asked):
                try:
                    records = await self._look_up(name, "SRV")
                except LookUpFailed as error:
                    failure = error
                    continue
                try:
                    async for target in self._serving(protocol, records, asked.host):
                        served = True
                        yield target
                except LookUpFailed as error:
                    lost = error
            if served:
                return
            if lost is not None:  # it is said who serves: the name itself does not
                raise lost
        protocol = asked.protocol or ("TLS" if asked.secure else "UDP")
        self._check(protocol)
        hosts = await self._addresses(asked.host)
        if not hosts and failure is not None:
            raise failure
        for host in hosts:  # also where nobody answers what is asked for SRV: some relays of home networks never do
            yield Target(protocol, host, asked.port or PORTS[protocol], asked.host)

    def _check(self, protocol: str) -> None:
        if protocol not in self._protocols:
            raise Unresolved(f"{protocol} is none of {', '.join(self._protocols)}, which we speak")

    async def _services(self, asked: _Asked) -> AsyncIterator[tuple[str, str]]:
        """Names to look up as SRV, by protocol."""
        wanted = [asked.protocol] if asked.protocol else list(self._protocols)
        if asked.secure:
            wanted = [protocol for protocol in wanted if protocol == "TLS"]
        if not asked.protocol:
            known = await self._naptr(asked.host)
            offered = [(protocol, name) for protocol, name in known if protocol in wanted]
            for service in offered:
                yield service
            if offered:
                return
        for protocol in wanted:
            self._check(protocol)
            yield protocol, f"{_SRV[protocol]}.{asked.host}"

    async def _naptr(self, host: str) -> list[tuple[str, str]]:
        """(protocol, name) of each service, the best first. Some servers answer no NAPTR at all: then there is none."""
        try:
            found = await self._look_up(host, "NAPTR")
        except LookUpFailed:
            return []
        records = [record for record in found if isinstance(record, Naptr) and record.flags.lower() == "s"]
        records.sort(key=lambda record: (record.order, record.preference))
        named = [(SERVICES.get(record.service.upper()), record.replacement) for record in records]
        return [(protocol, name.rstrip(".")) for protocol, name in named if protocol and name.rstrip(".")]

    async def _serving(self, protocol: str, records: Iterable[Naptr | Srv | str], whom: str) -> AsyncIterator[Target]:
        served, failure = False, None
        for record in self._in_order([record for record in records if isinstance(record, Srv)]):
            try:
                hosts = await self._addresses(record.target.rstrip("."))
            except LookUpFailed as error:  # the next may have an address that is known
                failure = error
                continue
            for host in hosts:
                served = True
                yield Target(protocol, host, record.port, whom)
        if failure is not None and not served:
            raise failure

    def _in_order(self, records: list[Srv]) -> Iterator[Srv]:
        """By priority; within one, by chance in proportion to weight (RFC 2782)."""
        left = [record for record in records if record.target.rstrip(".") and record.port]
        # those of no weight first, so that they have a chance at all: "very small", says the RFC
        left.sort(key=lambda record: (record.priority, record.weight > 0))
        while left:
            same = [record for record in left if record.priority == left[0].priority]
            at = self._chance() * sum(record.weight for record in same)
            chosen = _at(same, at)
            left.remove(chosen)
            yield chosen

    async def _addresses(self, name: str) -> list[str]:
        found: list[str] = []
        failure: LookUpFailed | None = None
        for version in self._versions:
            try:
                records = await self._look_up(name, "A" if version == 4 else "AAAA")
            except LookUpFailed as error:
                failure = error
                continue
            found += [record for record in records if isinstance(record, str)]
        if failure is not None and not found:
            raise failure
        return found

    async def _look_up(self, name: str, kind: Kind) -> tuple[Naptr | Srv | str, ...]:
        """By memory, or by asking. Where nobody answers, what was known last is better than nothing (RFC 8767)."""
        name = name.lower()
        until, known = self._kept.get((name, kind), (0.0, None))
        if known is not None and until > self._time():
            return known.records
        try:
            found = await self._names.look_up(name, kind)
        except LookUpFailed:
            if known is None:
                raise
            found = replace(known, ttl_s=STALE_TTL_S)
        self._kept.pop((name, kind), None)
        if len(self._kept) >= MAX_KEPT:
            del self._kept[next(iter(self._kept))]
        ttl_s = min(max(found.ttl_s, MIN_TTL_S), MAX_TTL_S)
        self._kept[name, kind] = self._time() + ttl_s, found
        return found.records


# --- small print ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a URI says of the way: `protocol` is "" where it says nothing."""

    host: str
    literal: bool
    port: int | None
    protocol: str
    secure: bool


def _place(uri: str) -> _Asked:
    """Raises Unresolved."""
    try:
        parsed = parse_uri(uri)
    except ValueError as error:
        raise Unresolved(f"{clean(uri)!r} is no URI: {error}") from None
    if parsed.scheme not in ("sip", "sips"):
        raise Unresolved(f"{clean(uri)!r} names no host; a URI such as sip:1000@example.com does")
    host, secure = parsed.host.strip("[]").rstrip(".").lower(), parsed.scheme == "sips"
    return _Asked(host, _is_literal(host), parsed.port, _protocol(parsed, secure), secure)


def _protocol(uri: URI, secure: bool) -> str:
    """RFC 3261, section 26.2.2: sips with transport=tcp is TLS, too."""
    protocol = (uri.parameters.get("transport") or "").upper()
    if secure and protocol == "TCP":
        return "TLS"
    if secure and protocol not in ("", "TLS"):
        raise Unresolved(f"{clean(str(uri))!r}: sips is never spoken over {clean(protocol)}")
    return protocol


def _is_literal(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _at(records: list[Srv], weight: float) -> Srv:
    """The first of them up to which the weights add up to as much."""
    total = 0
    for record in records:
        total += record.weight
        if total >= weight:
            return record
    return records[-1]
