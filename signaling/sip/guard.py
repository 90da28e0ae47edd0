"""Who a peer is, by digest (RFC 7616; RFC 3261, section 22): asked, checked, and banned for guessing.

Pure: time, key and random text are passed in.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from signaling.sip.buckets import source_of
from signaling.sip.digest import ALGORITHMS, Challenge, Credentials, Login, Malformed, octets, parse_credentials
from signaling.sip.grammar import parse_uri
from signaling.sip.message import Request

NONCE_S = 60.0
"""Seconds within which a nonce of ours is taken."""

WINDOW = 64
"""How far behind the highest nonce count one may lie that was not seen yet: datagrams overtake each other."""

MAX_NONCES = 10_000
"""Nonces whose counts are remembered. While there are so many, others are stale: a forgotten one could be replayed."""

FAILURES, FAILURES_S, BAN_S = 10, 60.0, 600.0
"""So many wrong answers from one source within so many seconds, and it is not heard for so many."""

MAX_SOURCES = 10_000
"""Sources whose failures are remembered; the one that failed longest ago is forgotten for a new one."""


@dataclass(frozen=True)
class Outcome:
    """What a request's credentials are worth: `user` is who it is, "" where that is not shown.

    `stale`: it is another nonce that must be answered. `failed`: the answer was wrong, which counts against the source.
    """

    user: str = ""
    stale: bool = False
    failed: bool = False


@dataclass
class _Counts:
    """The nonce counts that one nonce was seen with: the highest, and a bit for each of the WINDOW below it."""

    expires_at: float
    highest: int = 0
    seen: int = 0

    def take(self, count: int) -> bool:
        """Whether this one is new."""
        if count > self.highest:
            self.seen = (self.seen << min(count - self.highest, WINDOW) | 1) & ((1 << WINDOW) - 1)
            self.highest = count
            return True
        bit = 1 << (self.highest - count)
        if count <= 0 or self.highest - count >= WINDOW or self.seen & bit:
            return False
        self.seen |= bit
        return True


class Guard:
    """Challenges peers, and tells who they are. Nonces need no table: they carry their time, and our seal.

    `users` are names and passwords, `key` seals nonces and is nobody else's. Only the counts of nonces that were
    answered rightly are kept, for as long as those live.
    """

    def __init__(
        self,
        realm: str,
        users: Mapping[str, str],
        key: bytes,
        token: Callable[[], str],
        algorithms: tuple[str, ...] = ALGORITHMS[:2],
    ) -> None:
        for name, password in users.items():
            Login(name, password)  # raises ValueError
        self.failures: Counter[str] = Counter()
        """Wrong answers for each user that there is; those for others count as ""."""
        self.bans = 0
        """How often a source was banned."""
        self._realm, self._users, self._key, self._token = realm, users, key, token
        self._algorithms = algorithms
        self._counts: dict[str, _Counts] = {}
        self._failures: dict[str, deque[float]] = {}
        self._banned: dict[str, float] = {}

    def __len__(self) -> int:
        """How many things are kept."""
        return len(self._counts) + len(self._failures) + len(self._banned)

    def challenge(self, source: str, now: float, stale: bool = False) -> tuple[tuple[str, str], ...]:
        """The header fields of a 401 to that host, one for each algorithm, the best first (RFC 8760, section 2.3)."""
        nonce = self._nonce(int(now * 1000), self._token(), source)
        made = (Challenge(self._realm, nonce, name, ("auth",), stale=stale) for name in self._algorithms)
        return tuple(("WWW-Authenticate", str(challenge)) for challenge in made)

    def question(self, request: Request, source: str, now: float) -> tuple[tuple[str, str], ...]:
        """The challenge to a request that answers none of ours to that host; empty where there is an answer to check.

        An answer shows that the source is no forged one, and is worth some state. Without it there is none.
        """
        told = self._told(request)
        if told is not None and self._made_at(told.nonce, source) is not None:
            return ()
        return self.challenge(source, now, stale=told is not None)

    def check(self, request: Request, source: str, now: float) -> Outcome:
        """What the credentials for our realm in a request from that host are worth. Never raises.

        An answer to a nonce that we did not send there is not looked at: it would tell right from wrong without being
        counted, or be counted against a host that never said it.
        """
        told = self._told(request)
        if told is None:
            return Outcome()
        made_at = self._made_at(told.nonce, source)
        if made_at is None:
            return Outcome(stale=True)
        password = self._users.get(told.username)
        # who does not exist takes as long as who gives a wrong password
        right = hmac.compare_digest(octets(told.expected(password or "", request.method)), octets(told.response))
        if not (right and password) or not _same_place(told.uri, request.uri):
            self._fail(told.username, source, now)
            return Outcome(failed=True)
        if not self._is_new(told, made_at, now):
            return Outcome(stale=True)
        return Outcome(told.username)

    def banned(self, source: str, now: float) -> bool:
        """Whether that host, or one that may be the same, has answered wrongly too often."""
        source = source_of(source)
        until = self._banned.get(source)
        if until is not None and until <= now:
            del self._banned[source]
            until = None
        return until is not None

    def _told(self, request: Request) -> Credentials | None:
        """The credentials that are meant for us."""
        for value in request.headers.getlist("Authorization"):
            try:
                told = parse_credentials(value)
            except Malformed:
                continue
            if told.realm == self._realm and told.algorithm in self._algorithms and told.qop in ("", "auth"):
                return told
        return None

    def _nonce(self, stamp: int, salt: str, source: str) -> str:
        seal = hmac.new(self._key, octets(f"{stamp}.{salt}.{source}"), hashlib.sha256).hexdigest()
        return f"{stamp:x}.{salt}.{seal[:32]}"

    def _made_at(self, nonce: str, source: str) -> float | None:
        """When we made that nonce for that host; None if we did not."""
        stamp, _, rest = nonce.partition(".")
        if not re.fullmatch("[0-9a-f]{1,16}", stamp):
            return None
        expected = self._nonce(int(stamp, 16), rest.partition(".")[0], source)
        return int(stamp, 16) / 1000 if hmac.compare_digest(octets(expected), octets(nonce)) else None

    def _is_new(self, told: Credentials, made_at: float, now: float) -> bool:
        """Whether the nonce is young, and not used with this count; without counts (RFC 2069) it serves once."""
        expires_at = made_at + NONCE_S
        if now > expires_at:
            return False
        self._forget(now)
        if len(self._counts) >= MAX_NONCES and told.nonce not in self._counts:
            return False
        counts = self._counts.setdefault(told.nonce, _Counts(expires_at))
        if told.qop:
            return counts.take(int(told.nc, 16))
        return counts.take(1) if not counts.highest else False

    def _forget(self, now: float) -> None:
        """Drop the counts of nonces that are over. They were first used in about the order in which they were made."""
        while self._counts and next(iter(self._counts.values())).expires_at < now:
            del self._counts[next(iter(self._counts))]

    def _fail(self, user: str, source: str, now: float) -> None:
        self.failures[user if user in self._users else ""] += 1
        source = source_of(source)
        times = self._failures.pop(source, deque(maxlen=FAILURES))
        times.append(now)
        self._failures[source] = times
        if len(times) == FAILURES and now - times[0] <= FAILURES_S:
            del self._failures[source]
            self._banned[source] = now + BAN_S
            self.bans += 1
        for table in (self._failures, self._banned):
            if len(table) > MAX_SOURCES:
                del table[next(iter(table))]


def _same_place(told: str, sent: str) -> bool:
    """Whether the digest is for the URI that was asked for: port and parameters apart, which a proxy may change."""
    try:
        one, other = parse_uri(told), parse_uri(sent)
    except ValueError:
        return False
    return (one.user, one.host.lower()) == (other.user, other.host.lower())
