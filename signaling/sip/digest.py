"""Digest authentication (RFC 7616, RFC 8760; RFC 3261, section 22): what is asked, and how it is answered.

`Authenticator` answers challenges for one login of ours; others are challenged by `guard`. Random text is passed in.
Every pattern takes time linear in its input.

    DigestError
    ├── Malformed      a header that cannot be read
    ├── Unanswerable   no challenge that we know how to answer
    └── LoginRefused   our answer was heard and not accepted
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from signaling.sip.grammar import CONTROL, TOKEN, clean
from signaling.sip.message import Response

ALGORITHMS = ("SHA-256", "MD5", "SHA-256-sess", "MD5-sess")
"""What we can answer and check; without an algorithm it is MD5 (RFC 7616, section 3.3)."""

MAX_HEADER, MAX_PARAMETERS, MAX_VALUE = 4096, 24, 1024
"""Characters of a header, parameters in it, characters of one of their values."""

MAX_ROUNDS = 2
"""Challenges to one request that are answered, and one more where the last nonce was stale."""

MAX_REALMS = 4
"""Realms that one sequence of requests answers at once: each proxy on its way may have one."""

_HASHES = {"MD5": hashlib.md5, "SHA-256": hashlib.sha256}
_SCHEME = re.compile(rf" *+({TOKEN.pattern}) ++")
_PARAMETER = re.compile(
    rf'[ ,]*+({TOKEN.pattern}) *+= *+(?:"((?:[^"\\]|\\.)*+)"|((?:(?![ ,"])[\x21-\x7e])++)) *+(?=,|$)'
)
_END = re.compile(r"[ ,]*+")
_COUNT = re.compile(r"[0-9A-Fa-f]{8}")


class DigestError(Exception):
    """Digest authentication came to no result."""


class Malformed(DigestError):
    """A header that cannot be read."""


class Unanswerable(DigestError):
    """No challenge that we know how to answer."""


class LoginRefused(DigestError):
    """The peer heard our answer, and asks again: user name or password are wrong."""


@dataclass(frozen=True)
class Login:
    """Who we are to somebody. Raises ValueError for text that the protocol cannot carry."""

    user: str
    password: str = field(repr=False)

    def __post_init__(self) -> None:
        # RFC 7616 leaves open whether a quoted-pair is hashed with its backslash: peers differ
        if not self.user or re.search(r'["\\]', self.user) or CONTROL.search(self.user):
            raise ValueError("a user name is not empty and has neither quotes, backslashes nor control characters")


@dataclass(frozen=True)
class Challenge:
    """What a WWW-Authenticate or Proxy-Authenticate says. Text is as it stood within the quotes."""

    realm: str
    nonce: str
    algorithm: str = "MD5"
    qop: tuple[str, ...] = ()
    opaque: str | None = None
    stale: bool = False
    proxy: bool = False

    @property
    def answerable(self) -> bool:
        """Whether we know how: qop is "auth" or absent, as in RFC 2069, which had no session either."""
        known = self.algorithm in ALGORITHMS
        return known and ("auth" in self.qop or not (self.qop or self.algorithm.endswith("-sess")))

    def __str__(self) -> str:
        options = f', opaque="{self.opaque}"' if self.opaque is not None else ""
        options += f', qop="{",".join(self.qop)}"' if self.qop else ""
        options += ", stale=true" if self.stale else ""
        return f'Digest realm="{self.realm}", nonce="{self.nonce}", algorithm={self.algorithm}{options}'


@dataclass(frozen=True)
class Credentials:
    """What an Authorization or Proxy-Authorization says. Text is as it stood within the quotes."""

    username: str
    realm: str
    nonce: str
    uri: str
    response: str = ""
    algorithm: str = "MD5"
    qop: str = ""
    nc: str = ""
    cnonce: str = ""
    opaque: str | None = None
    proxy: bool = False

    def expected(self, password: str, method: str) -> str:
        """The response that is right (RFC 7616, section 3.4.1). The algorithm is one of ALGORITHMS."""
        secret = self._hash(f"{self.username}:{self.realm}:{password}")
        if self.algorithm.endswith("-sess"):
            secret = self._hash(f"{secret}:{self.nonce}:{self.cnonce}")
        what = self._hash(f"{method}:{self.uri}")
        if not self.qop:
            return self._hash(f"{secret}:{self.nonce}:{what}")
        return self._hash(f"{secret}:{self.nonce}:{self.nc}:{self.cnonce}:{self.qop}:{what}")

    def _hash(self, text: str) -> str:
        return _HASHES[self.algorithm.removesuffix("-sess")](octets(text), usedforsecurity=False).hexdigest()

    def __str__(self) -> str:
        options = f', opaque="{self.opaque}"' if self.opaque is not None else ""
        if self.qop:
            options += f', qop={self.qop}, nc={self.nc}, cnonce="{self.cnonce}"'
        who = f'username="{self.username}", realm="{self.realm}", nonce="{self.nonce}", uri="{self.uri}"'
        return f'Digest {who}, response="{self.response}", algorithm={self.algorithm}{options}'


# --- headers -------------------------------------------------------------------------------------------------------


def parse_challenge(value: str, proxy: bool = False) -> Challenge:
    """One challenge. Raises Malformed."""
    fields = _fields(value, "realm", "nonce")
    return Challenge(
        fields["realm"],
        fields["nonce"],
        _algorithm(fields.get("algorithm", "")),
        tuple(option.strip(" ").lower() for option in fields.get("qop", "").split(",") if option.strip(" ")),
        fields.get("opaque"),
        fields.get("stale", "").lower() == "true",
        proxy,
    )


def parse_credentials(value: str, proxy: bool = False) -> Credentials:
    """One answer. Raises Malformed."""
    fields = _fields(value, "username", "realm", "nonce", "uri", "response")
    qop = fields.get("qop", "").lower()
    if qop and not (_COUNT.fullmatch(fields.get("nc", "")) and fields.get("cnonce")):
        raise Malformed(f"qop={qop[:20]} without an nc of 8 hexadecimal digits and a cnonce")
    return Credentials(
        fields["username"],
        fields["realm"],
        fields["nonce"],
        fields["uri"],
        fields["response"].lower(),
        _algorithm(fields.get("algorithm", "")),
        qop,
        fields.get("nc", ""),
        fields.get("cnonce", ""),
        fields.get("opaque"),
        proxy,
    )


def challenges(response: Response) -> list[Challenge]:
    """The challenges of a 401 or 407 in order, as far as they can be read; a header holds one (RFC 3261, s. 20.44)."""
    found = []
    for name, proxy in (("WWW-Authenticate", False), ("Proxy-Authenticate", True)):
        for value in response.headers.getlist(name):
            try:
                found.append(parse_challenge(value, proxy))
            except Malformed:
                continue  # another scheme, or nonsense: there may be one that we know beside it
    return found


def _algorithm(text: str) -> str:
    """As we spell it, where we know it."""
    known = {name.lower(): name for name in ALGORITHMS}
    return known.get(text.lower(), text) if text else "MD5"


def _fields(value: str, *required: str) -> dict[str, str]:
    """The parameters of a Digest header by name, in lower case; those of RFC 7616 that we know are checked."""
    scheme = _SCHEME.match(value[:MAX_HEADER])
    if scheme is None or scheme[1].lower() != "digest":
        raise Malformed(f"scheme is not Digest: {clean(value, 20)!r}")
    if len(value) > MAX_HEADER:
        raise Malformed(f"longer than {MAX_HEADER} characters")
    found: dict[str, str] = {}
    at, end = scheme.end(), len(value)
    while _end(value, at) < end:
        match = _PARAMETER.match(value, at)
        if match is None:
            raise Malformed(f"no parameter: {clean(value[at:], 20)!r}")
        name, text = match[1].lower(), match[3] if match[2] is None else match[2]
        if name in found or len(found) == MAX_PARAMETERS or len(text) > MAX_VALUE or CONTROL.search(text):
            raise Malformed(f"{clean(name, 20)} comes twice, is one too many, or too long")
        found[name] = text
        at = match.end()
    if missing := [name for name in required if name not in found]:
        raise Malformed(f"no {missing[0]}")
    return found


def octets(text: str) -> bytes:
    """As they came: what is no UTF-8 was kept by `wire.parse`."""
    return text.encode(errors="surrogateescape")


def _end(value: str, at: int) -> int:
    """Where the next parameter begins, if there is one."""
    match = _END.match(value, at)
    return match.end() if match else at


# --- our answers ---------------------------------------------------------------------------------------------------


class Authenticator:
    """Answers the challenges to one sequence of requests, such as a registration or a call.

    `begin` before each new request, `learn` with each 401 or 407 to it; `fields` are what its next attempt carries, and
    with a nonce that is known, its first. An ACK or CANCEL carries those of the request that it belongs to.
    """

    def __init__(self, login: Login, token: Callable[[], str]) -> None:
        self._login, self._token = login, token
        self._known: dict[tuple[bool, str], Challenge] = {}
        self._counts: Counter[str] = Counter()  # how often a nonce was used
        self._answered: set[tuple[bool, str]] = set()
        self._rounds = 0

    def begin(self) -> None:
        """Another request."""
        self._answered, self._rounds = set(), 0

    def learn(self, response: Response) -> None:
        """Keep the first challenge of each realm that we can answer, which the peer prefers (RFC 8760, section 2.4).

        Raises Unanswerable, or LoginRefused where the same realm asks again and our nonce was not stale.
        """
        offered = challenges(response)
        chosen: dict[tuple[bool, str], Challenge] = {}
        for challenge in offered:
            if challenge.answerable:
                chosen.setdefault((challenge.proxy, challenge.realm), challenge)
        if not chosen:
            names = ", ".join(clean(challenge.algorithm, 20) for challenge in offered) or "none"
            raise Unanswerable(f"no Digest challenge that we can answer; algorithms offered: {names}")
        for place, challenge in chosen.items():
            if place in self._answered and not challenge.stale:
                self._known.pop(place, None)  # a wrong answer unasked would count against us too
                raise LoginRefused(f"user name or password refused by {clean(challenge.realm, 60)!r}")
        if self._rounds >= MAX_ROUNDS + any(challenge.stale for challenge in chosen.values()):
            raise LoginRefused("challenged again and again")
        self._rounds += 1
        self._answered |= chosen.keys()
        for place, challenge in chosen.items():
            self._keep(place, challenge)

    def fields(self, method: str, uri: str) -> tuple[tuple[str, str], ...]:
        """The header fields for a request; `uri` is the Request-URI that is really sent."""
        found = []
        for challenge in self._known.values():
            self._counts[challenge.nonce] += 1
            made = answer(challenge, self._login, method, uri, self._counts[challenge.nonce], self._token())
            found.append(("Proxy-Authorization" if made.proxy else "Authorization", str(made)))
        return tuple(found)

    def _keep(self, place: tuple[bool, str], challenge: Challenge) -> None:
        """The newest of each realm; of too many realms, the one learned longest ago goes."""
        self._known.pop(place, None)
        self._known[place] = challenge
        if len(self._known) > MAX_REALMS:
            del self._known[next(iter(self._known))]
        used = {known.nonce for known in self._known.values()}
        self._counts = Counter({nonce: count for nonce, count in self._counts.items() if nonce in used})


def answer(challenge: Challenge, login: Login, method: str, uri: str, count: int, cnonce: str) -> Credentials:
    """The answer to a challenge; `count` is how often its nonce was used, this time included."""
    told = Credentials(login.user, challenge.realm, challenge.nonce, uri, algorithm=challenge.algorithm)
    told = replace(told, opaque=challenge.opaque, proxy=challenge.proxy)
    if challenge.qop:
        told = replace(told, qop="auth", nc=f"{count:08x}", cnonce=cnonce)
    return replace(told, response=told.expected(login.password, method))
