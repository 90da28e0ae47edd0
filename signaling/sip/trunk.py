"""A trunk: a peer that we have an arrangement with, what it is allowed, and what it expects. Pure.

A provider, a PBX that has us as an extension, a proxy in front of us: each is one `Trunk`. Numbers are matched by
patterns, in which `*` is any text, `?` one character and `[0-4]` one of several; a pattern behind `!` takes back what
the others allow. `Lines` counts the calls that each trunk has, in and out.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from ipaddress import IPv4Network, IPv6Network
from typing import Literal, TypeAlias

from signaling.sip.digest import Login
from signaling.sip.grammar import parse_uri

Network: TypeAlias = IPv4Network | IPv6Network
Transport: TypeAlias = Literal["auto", "udp", "tcp", "tls"]
"""How it is reached; `auto`: as DNS says (RFC 3263, section 4.1), else over UDP."""
Srtp: TypeAlias = Literal["off", "accept", "demand", "dtls"]

USER = re.compile(r"[A-Za-z0-9._~+*#-]{1,64}")
"""What a number or name consists of that we call, or are called by: nothing that could end a user part early."""

PATTERN = re.compile(r"!?(?:[A-Za-z0-9._~+*#?@:-]|\[[A-Za-z0-9*?#-]+\])+")

_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
_HOST_V6 = re.compile(r"\[[0-9A-Fa-f:.]+\]")


@dataclass(frozen=True)
class Trunk:
    """One arrangement. Raises ValueError, in a sentence for who wrote the settings, for one that could not work.

    `host` is its domain, an address or a name; requests go there, or to `proxy` (host or host:port), at `port`, or at
    the one that DNS names, else the transport's own where it is 0. `user` is who we are there: the user part of our
    address, and of the login unless `auth_user` is. With `register` we keep ourselves registered for `expires` seconds
    at a time. `probe_s` is how often it is asked whether it lives; 0: never.

    Calls come from the trunk's own addresses and from `peers`, for `numbers` (or, with none, for any). `codecs` are
    rtpmap names, best first, empty for what we speak; `max_calls` bounds calls in both directions, `cps` the new ones
    a second in each. `refer_in` lets the trunk tell us to call somebody else, `refer_out` lets us tell it.

    `outbound` are patterns of what may be called through it: nothing by default. `caller_id` is the number that our
    calls show, empty for `user`; `ring_s` how long they may ring, None for as long as any.
    """

    name: str
    host: str
    port: int = 0
    transport: Transport = "auto"
    user: str = ""
    password: str = field(default="", repr=False)
    auth_user: str = ""
    register: bool = False
    expires: int = 600
    proxy: str = ""
    probe_s: float = 0.0
    srtp: Srtp = "accept"
    codecs: tuple[str, ...] = ()
    peers: tuple[Network, ...] = ()
    numbers: tuple[str, ...] = ()
    max_calls: int | None = None
    cps: float | None = None
    refer_in: bool = False
    refer_out: bool = True
    outbound: tuple[str, ...] = ()
    caller_id: str = ""
    ring_s: float | None = None

    def __post_init__(self) -> None:
        if not is_host(self.host):
            raise ValueError(f"host {self.host!r} is neither a domain nor an address, such as sip.example.com")
        if self.proxy and not _is_place(self.proxy):
            raise ValueError(f"proxy {self.proxy!r} is not like edge.example.com or 192.0.2.7:5060")
        for what, text in (("user", self.user), ("caller_id", self.caller_id)):
            if text and not USER.fullmatch(text):
                raise ValueError(f"{what} {text!r} has more than letters, digits and . _ ~ + * # -")
        if self.password and not self.login_user:
            raise ValueError("there is a password, but no user that it belongs to")
        if self.register and not (self.user and self.password):
            raise ValueError("registering takes a user and a password")
        if self.auth_user:
            Login(self.auth_user, "")  # says what is wrong with it
        for pattern in (*self.numbers, *self.outbound):
            check_pattern(pattern)

    @property
    def login_user(self) -> str:
        """By which name we log in."""
        return self.auth_user or self.user

    @property
    def login(self) -> Login | None:
        """Who we are to it; None where it knows us by our address alone."""
        return Login(self.login_user, self.password) if self.password else None

    @property
    def domain(self) -> str:
        """Host and, where one was given, port, as they stand in a URI."""
        return f"{self.host}:{self.port}" if self.port else self.host

    @property
    def next_hop(self) -> str:
        """The URI whose host requests are sent to: the proxy's, else the trunk's own."""
        transport = "" if self.transport == "auto" else f";transport={self.transport}"
        return f"sip:{self.proxy or self.domain}{transport}"

    @property
    def routes(self) -> tuple[str, ...]:
        """The Route of requests that begin something: its proxy, where it has one (RFC 3261, section 8.1.2)."""
        return (f"<{self.next_hop};lr>",) if self.proxy else ()

    def uri(self, user: str) -> str:
        """The Request-URI of a call to `user` through it."""
        return f"sip:{user}@{self.domain}"

    @property
    def address(self) -> str:
        """Our own address there: the From of what we send."""
        return f"sip:{self.caller_id or self.user or 'anonymous'}@{self.host}"

    def serves(self, callee: str) -> bool:
        """Whether it may call that number of ours, whatever parameters it writes behind it (RFC 4694, npdi and such).

        Its registration is a number of its own.
        """
        number = callee.partition(";")[0]
        return not self.numbers or (self.register and number == self.user) or matches(self.numbers, number)


@dataclass(frozen=True)
class TrunkState:
    """How a trunk fares. `registered` and `up` are None where we do not register, do not probe, or do not know yet."""

    name: str
    host: str
    registered: bool | None = None
    up: bool | None = None
    why: str = ""
    """What went wrong last; "" while nothing does."""

    def __str__(self) -> str:
        told = [] if self.registered is None else ["registered" if self.registered else "not registered"]
        told += [] if self.up is None else ["up" if self.up else "down"]
        words = f"{', '.join(told) or 'not known'} at {self.host}"
        return f"{words}: {self.why}" if self.why else words


@dataclass(frozen=True, eq=False)
class Kept:
    """A trunk's state changed; `failed` is the response code where a request of ours came to nothing, else 0."""

    state: TrunkState
    failed: int = 0
    retry_s: float = 0.0


def matches(patterns: Iterable[str], text: str) -> bool:
    """Whether a pattern allows `text`, and none behind a `!` takes it back."""
    taken_back = [pattern[1:] for pattern in patterns if pattern.startswith("!")]
    allowed = [pattern for pattern in patterns if not pattern.startswith("!")]
    return any(fnmatchcase(text, p) for p in allowed) and not any(fnmatchcase(text, p) for p in taken_back)


def check_pattern(pattern: str) -> None:
    """Raises ValueError for one that could match nothing."""
    if not PATTERN.fullmatch(pattern):
        raise ValueError(f"{pattern!r} is no pattern of numbers, such as +4930* or !+49900*")


def is_host(text: str) -> bool:
    """Whether it is a name or an address, the latter in brackets if it has colons."""
    return bool(_HOST.fullmatch(text) or _HOST_V6.fullmatch(text))


def _is_place(text: str) -> bool:
    try:
        return is_host(parse_uri(f"sip:{text}").host)
    except ValueError:
        return False


class Lines:
    """How many calls each trunk has. A trunk without a limit is never full."""

    def __init__(self) -> None:
        self._taken: Counter[str] = Counter()

    def __getitem__(self, name: str) -> int:
        return self._taken[name]

    def is_full(self, trunk: Trunk) -> bool:
        """Whether one more would be one too many."""
        return trunk.max_calls is not None and self._taken[trunk.name] >= trunk.max_calls

    def take(self, trunk: Trunk) -> None:
        """A call has begun."""
        self._taken[trunk.name] += 1

    def free(self, trunk: Trunk) -> None:
        """A call is over."""
        self._taken[trunk.name] -= 1
