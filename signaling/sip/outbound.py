"""Which calls we may make. Nothing may be called until patterns allow it; then there are caps. Pure.

    allows(target) -> Denied | None        a look, without effect
    begin(target) -> Permit | Denied       the call begins: it is counted
    end(permit)                            and is over

`target` is a number (`+49 30 1234567`, `tel:+49301234567`), a SIP URI, or a user with phones of our own, who may always
be called: nobody is billed for that. A number goes through the trunk that is named, or the first whose patterns allow
it; a URI of a trunk's host likewise; any other URI is called directly, where patterns
for that say so. A toll-fraud bill is made of few numbers, many calls and long ones: hence patterns, caps by trunk, by
day (UTC) and by length.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from signaling.sip.buckets import Buckets
from signaling.sip.grammar import parse_uri
from signaling.sip.trunk import USER, Lines, Trunk, is_host, matches

DAY_S = 86_400

_SEPARATORS = re.compile(r"[ ()/.-]")  # how people part the digits of a number; those of RFC 3966 among them
_NUMBER = re.compile(r"\+[0-9]{1,32}|[0-9*#]{1,32}")


@dataclass(frozen=True)
class Denied:
    """A call that may not be made: why, and which setting says so, as the path to it ("*": any name)."""

    why: str
    setting: tuple[str, ...]

    def __str__(self) -> str:
        return self.why


@dataclass(frozen=True)
class Limits:
    """Caps on all calls that we make together; `direct` are patterns of user@host for calls through no trunk."""

    direct: tuple[str, ...] = ()
    calls_a_day: int = 500
    minutes_a_day: float = 6000.0
    longest_s: float = 3600.0


@dataclass(frozen=True, eq=False)
class Permit:
    """A call that may be made now: `uri` is its Request-URI, `longest_s` when it must be over at the latest.

    With `phone`, a user of ours, it goes to wherever that one has registered, and there is no `uri`.
    """

    trunk: Trunk | None
    uri: str
    longest_s: float
    at: float
    phone: str = ""


class Outbound:
    """The policy and what it counts. `at` is the time of day, in seconds since 1970, wherever it stands.

    `phones` are the users, in lower case, whose phones may register with us.
    """

    def __init__(
        self,
        trunks: Iterable[Trunk] = (),
        limits: Limits | None = None,
        lines: Lines | None = None,
        phones: Iterable[str] = (),
    ) -> None:
        self._phones = frozenset(phones)
        self._trunks = {trunk.name: trunk for trunk in trunks}
        self._limits = limits or Limits()
        self._lines = lines or Lines()
        self._rates = {t.name: Buckets(t.cps, max(1.0, t.cps)) for t in self._trunks.values() if t.cps is not None}
        self._day, self._calls, self._seconds = 0, 0, 0.0
        self._running: set[Permit] = set()

    def allows(self, target: str, at: float, trunk: str = "") -> Denied | None:
        """Why that may not be called now; None if it may."""
        found = self._find(target, at, trunk)
        return found if isinstance(found, Denied) else None

    def begin(self, target: str, at: float, trunk: str = "") -> Permit | Denied:
        """Begin a call, if it is allowed; `end` must follow. Until then it has all the time that it may last."""
        found = self._find(target, at, trunk)
        if isinstance(found, Denied):
            return found
        if found.trunk is not None:
            rate = self._rates.get(found.trunk.name)
            if rate is not None and not rate.take(found.trunk.name, at):
                why = f"trunk {found.trunk.name} takes no more than {found.trunk.cps:g} new calls a second"
                return Denied(why, ("trunks", found.trunk.name, "cps"))
            self._lines.take(found.trunk)
        self._calls += 1
        self._seconds += found.longest_s
        self._running.add(found)
        return found

    def end(self, permit: Permit, at: float) -> None:
        """The call is over: what it did not need may be used by others. Without effect the second time."""
        if permit not in self._running:
            return
        self._running.discard(permit)
        if permit.trunk is not None:
            self._lines.free(permit.trunk)
        self._turn(at)
        if int(permit.at // DAY_S) == self._day:
            self._seconds -= max(0.0, permit.longest_s - (at - permit.at))

    def reaches(self, target: str, trunk: str = "") -> Denied | None:
        """Why that may not be called at all, be it by the far end of a call, which came by that trunk; None if it may.

        The trunk is to call no number that it could not be called for; a URI elsewhere may be called directly, too.
        """
        place = self._place(target, trunk)
        if isinstance(place, Denied) and trunk and not number_of(target):
            place = self._place(target, "")
        return place if isinstance(place, Denied) else None

    def is_phone(self, target: str) -> bool:
        """Whether that is a user with phones of our own, and nobody elsewhere."""
        return target.lower() in self._phones

    # --- rules, in the order in which they are told ---

    def _find(self, target: str, at: float, name: str) -> Permit | Denied:
        if name and name not in self._trunks:
            known = ", ".join(sorted(self._trunks)) or "there is none"
            return Denied(f"no trunk is called {name!r}; known: {known}", ("trunks", "*", "host"))
        self._turn(at)
        phone = target.lower() if not name and self.is_phone(target) else ""
        place = (None, "") if phone else self._place(target, name)
        if isinstance(place, Denied):
            return place
        trunk, uri = place
        limits = self._limits
        left_s = 60 * limits.minutes_a_day - self._seconds
        if trunk is not None and self._lines.is_full(trunk):
            return Denied(f"trunk {trunk.name} has its {trunk.max_calls} calls", ("trunks", trunk.name, "max_calls"))
        if self._calls >= limits.calls_a_day:
            return Denied(f"{self._calls} calls were made today, and no more may be", ("outbound", "calls_a_day"))
        if left_s < 1:
            why = f"the {limits.minutes_a_day:g} minutes of today are used, or reserved by calls that go on"
            return Denied(why, ("outbound", "minutes_a_day"))
        return Permit(trunk, uri, min(limits.longest_s, left_s), at, phone)

    def _place(self, target: str, name: str) -> tuple[Trunk | None, str] | Denied:
        """Through which trunk, and by which URI."""
        number = number_of(target)
        if number:
            return self._through(self._named(name), number)
        try:
            user, host, scheme, transport = _parts(target)
        except ValueError as error:
            return Denied(str(error), ("outbound", "direct"))
        if trunks := [trunk for trunk in self._named(name) if host in (trunk.host.lower(), trunk.domain.lower())]:
            return self._through(trunks, user)
        if name:
            return Denied(f"trunk {name} does not reach {host}", ("trunks", name, "host"))
        if not matches(self._limits.direct, f"{user}@{host}"):
            why = f"no pattern allows calls to {user}@{host} that go through no trunk"
            return Denied(why, ("outbound", "direct"))
        return None, f"{scheme}:{user}@{host}{transport}"

    def _named(self, name: str) -> list[Trunk]:
        return [self._trunks[name]] if name else list(self._trunks.values())

    def _through(self, trunks: list[Trunk], user: str) -> tuple[Trunk, str] | Denied:
        """By the first that may call it; one that is full only if there is no other."""
        willing = [trunk for trunk in trunks if matches(trunk.outbound, user)]
        for trunk in sorted(willing, key=self._lines.is_full):
            return trunk, trunk.uri(user)
        name = trunks[0].name if len(trunks) == 1 else "*"
        through = f"through trunk {name}" if len(trunks) == 1 else "through any trunk" if trunks else "without a trunk"
        return Denied(f"no pattern allows calls to {user} {through}", ("trunks", name, "outbound"))

    def _turn(self, at: float) -> None:
        """Begin a new day, if it is one. Calls that go on are counted in the day in which they began."""
        day = int(at // DAY_S)
        if day != self._day:
            self._day, self._calls, self._seconds = day, 0, 0.0


def number_of(target: str) -> str:
    """The telephone number that a target is, without what people part digits by; "" if it is none.

    Patterns see it without, too: whoever may not call +49900 may not call +49-900 either.
    """
    bare = _SEPARATORS.sub("", target.removeprefix("tel:"))
    return bare if _NUMBER.fullmatch(bare) else ""


def _parts(target: str) -> tuple[str, str, str, str]:
    """(user, host with port in lower case, scheme, transport parameter) of a SIP URI. Raises ValueError."""
    try:
        uri = parse_uri(target)
    except ValueError:
        uri = None
    if uri is None or uri.scheme not in ("sip", "sips") or "?" in target:
        raise ValueError(f"{target[:80]!r} is neither a number, such as +49301234567, nor like sip:ada@example.com")
    user = uri.user or ""
    if not USER.fullmatch(user) or not is_host(uri.host):
        raise ValueError(f"{target[:80]!r}: the user has more than letters, digits and . _ ~ + * # -")
    user = number_of(user) or user
    if user.startswith("+") and not number_of(user):
        raise ValueError(f"{target[:80]!r}: what begins with + is a number, and has nothing but digits then")
    if uri.parameters.keys() - {"transport", "user"}:
        raise ValueError(f"{target[:80]!r}: the only parameter that may stand in a target is transport")
    transport = uri.parameters.get("transport")
    if transport is not None and transport.lower() not in ("udp", "tcp", "tls"):
        raise ValueError(f"{target[:80]!r}: transport is udp, tcp or tls")
    place = f"{uri.host}:{uri.port}" if uri.port else uri.host
    return user, place.lower(), uri.scheme, f";transport={transport.lower()}" if transport else ""
