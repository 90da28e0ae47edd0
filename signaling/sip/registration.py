"""Our place at somebody's registrar (RFC 3261, section 10.2; Path, RFC 3327; Service-Route, RFC 3608), as a table.

No socket and no clock is named here. Whoever drives it calls `start`, hands it each response that `receive` takes,
calls `fire` when `next_at` has come, and after each call sends `take_outgoing` and deals with `take_events`. After
`stop` it says Left once the registrar has forgotten us, or cannot be told.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from signaling.sip import transaction as transactions
from signaling.sip.capabilities import ALLOW
from signaling.sip.dialog import contact
from signaling.sip.digest import Authenticator, DigestError, Login
from signaling.sip.grammar import clean, host_port, parse_uri, readable, seconds_of
from signaling.sip.granted import granted_s, refresh_s
from signaling.sip.message import Headers, Request, Response
from signaling.sip.outcome import wait_of
from signaling.sip.transaction import COOKIE, Flow, client, response_input, response_key
from signaling.sip.transactions import Asked

BACK_OFF_S, MAX_BACK_OFF_S = 30.0, 900.0
"""Shortest wait after a first failure, longest after many; each lasts up to twice as long (RFC 5626, section 4.5)."""

MAX_EXPIRES = 86_400
"""Longest time, in seconds, that a registrar may make us ask for (423)."""


MAX_BEHIND = 4
"""Places of ours that one REGISTER takes off, the latest of them."""


class State(Enum):
    """Where a registration stands."""

    IDLE = "not begun"
    ASKING = "a REGISTER is under way"
    REGISTERED = "the registrar knows where we are"
    WAITING = "it failed, and will be tried again"
    STOPPING = "to leave as soon as the REGISTER that is under way is answered"
    LEAVING = "the REGISTER that ends it is under way"
    ENDED = "over"


class Input(Enum):
    """What can happen to it."""

    START = "we want to be reached"
    STOP = "we want to be reached no more"
    LEAVE = "the same, where the registrar may still know where we were"
    MOVED = "we are reached by another flow"
    DUE = "it is time"
    SUCCESS = "2xx"
    AGAIN = "the request must be made again, in another way"
    FAILURE = "any other final response, or none"


class Do(Enum):
    """What it does on its way to the next state."""

    BEGIN = "forget what the last request met with"
    SEND = "send a REGISTER"
    KEEP = "note for how long, and refresh before"
    BACK_OFF = "try again later"


Table: TypeAlias = Mapping[tuple[State, Input], tuple[State, tuple[Do, ...]]]

REGISTRATION: Table = {
    (State.IDLE, Input.START): (State.ASKING, (Do.BEGIN, Do.SEND)),
    (State.IDLE, Input.STOP): (State.ENDED, ()),
    (State.ASKING, Input.SUCCESS): (State.REGISTERED, (Do.KEEP,)),
    (State.ASKING, Input.AGAIN): (State.ASKING, (Do.SEND,)),
    (State.ASKING, Input.FAILURE): (State.WAITING, (Do.BACK_OFF,)),
    # RFC 3261, section 10.2: no REGISTER before the last one has its final response
    (State.ASKING, Input.STOP): (State.STOPPING, ()),
    (State.REGISTERED, Input.DUE): (State.ASKING, (Do.BEGIN, Do.SEND)),
    (State.REGISTERED, Input.MOVED): (State.ASKING, (Do.BEGIN, Do.SEND)),
    (State.REGISTERED, Input.STOP): (State.LEAVING, (Do.BEGIN, Do.SEND)),
    (State.WAITING, Input.DUE): (State.ASKING, (Do.BEGIN, Do.SEND)),
    (State.WAITING, Input.MOVED): (State.ASKING, (Do.BEGIN, Do.SEND)),
    (State.WAITING, Input.STOP): (State.ENDED, ()),
    (State.WAITING, Input.LEAVE): (State.LEAVING, (Do.BEGIN, Do.SEND)),
    (State.STOPPING, Input.SUCCESS): (State.LEAVING, (Do.BEGIN, Do.SEND)),
    (State.STOPPING, Input.AGAIN): (State.LEAVING, (Do.SEND,)),
    (State.STOPPING, Input.FAILURE): (State.ENDED, ()),
    (State.STOPPING, Input.LEAVE): (State.LEAVING, (Do.BEGIN, Do.SEND)),
    (State.LEAVING, Input.SUCCESS): (State.ENDED, ()),
    (State.LEAVING, Input.AGAIN): (State.LEAVING, (Do.SEND,)),
    (State.LEAVING, Input.FAILURE): (State.ENDED, ()),
}


@dataclass(frozen=True)
class Account:
    """Who we are at which registrar. Raises ValueError for what is no SIP URI.

    `registrar` is its domain as a URI without a user, `address` the address-of-record, `expires` the seconds to ask
    for, `instance` a URN that names this agent for good (RFC 5626, section 4.1), `routes` the proxies on the way.
    """

    registrar: str
    address: str
    login: Login
    expires: int = 600
    instance: str = ""
    routes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if parse_uri(self.registrar).scheme not in ("sip", "sips") or "@" in self.registrar:
            raise ValueError(f"registrar {self.registrar!r} is not like sip:example.com")
        if not parse_uri(self.address).user or parse_uri(self.address).scheme not in ("sip", "sips"):
            raise ValueError(f"address {self.address!r} is not like sip:1000@example.com")
        if not 0 < self.expires <= MAX_EXPIRES:
            raise ValueError(f"expires must be 1-{MAX_EXPIRES} seconds, not {self.expires}")

    @property
    def user(self) -> str:
        """The user part of the address, as it is written."""
        return self.address.partition(":")[2].rpartition("@")[0]


@dataclass(frozen=True)
class Registered:
    """We can be reached for so many seconds. Requests of ours take `routes`; `path` is how the registrar's reach us."""

    seconds: float
    routes: tuple[str, ...] = ()
    path: tuple[str, ...] = ()


@dataclass(frozen=True)
class Failed:
    """A REGISTER came to nothing, and why; it is tried again in `retry_s` seconds. 408: nobody answered."""

    code: int
    why: str
    retry_s: float


@dataclass(frozen=True)
class Left:
    """It is over. Comes once."""


Event: TypeAlias = Registered | Failed | Left


class Registration:
    """One account at work. `chance` gives a number in [0, 1) each time."""

    def __init__(self, account: Account, flow: Flow, *, token: Callable[[], str], chance: Callable[[], float]) -> None:
        self.state = State.IDLE
        self.valid_until = 0.0
        """Until when the registrar sends us calls, if nothing else happens."""
        self._account, self._flow, self._token, self._chance = account, flow, token, chance
        self._authenticator = Authenticator(account.login, token)
        self._call_id, self._tag, self._cseq = token(), token(), 0
        self._expires = account.expires
        self._told: list[str] = []
        """Contacts that the registrar may have of us; the last is the one that it was told last."""
        self._asked: Asked | None = None
        self._sent_at = 0.0
        self._due_at: float | None = None
        self._failures = 0
        self._raised = False  # by a 423 to the request that is under way
        self._outgoing: list[tuple[bytes, Flow]] = []
        self._events: list[Event] = []

    # --- for whoever drives it ---

    def start(self, now: float) -> None:
        """Register, and stay registered."""
        self._step(Input.START, now)

    def stop(self, now: float) -> None:
        """Take us off again, also after a refresh that failed: calls would still be sent to us until its time is up."""
        known = self.state is State.WAITING and now < self.valid_until
        self._step(Input.LEAVE if known else Input.STOP, now)

    def moved(self, flow: Flow, now: float) -> None:
        """The registrar is reached by another flow from now on: it must know where we are, or may be better heard."""
        self._flow = flow
        self._step(Input.MOVED, now)

    def lost(self, why: str, now: float) -> None:
        """What was sent last cannot have arrived."""
        if self._asked is not None:
            self._fail(503, why, now)

    def receive(self, response: Response, now: float) -> bool:
        """A response came in; False where it is not for us."""
        asked = self._asked
        if asked is None or response_key(response) != asked.key:
            return False
        asked.transaction.handle(response_input(response.code), now)
        if response.code < 200:
            return True
        self._asked = None
        try:
            what = self._learn(response)
        except DigestError as error:
            self._fail(response.code, str(error), now)
            return True
        if what is Input.SUCCESS:
            self._told = self._told[-1:]
        if what is Input.FAILURE:
            self._fail(response.code, _said(response), now, wait_of(response))
        elif what is Input.SUCCESS and self.state is State.ASKING:
            self._granted(response, now)
            if asked.flow != self._flow:  # we have moved meanwhile
                self._step(Input.MOVED, now)
        else:
            self._step(what, now)
        return True

    def fire(self, now: float) -> None:
        """Let everything happen that is due."""
        if self._asked is not None:
            self._asked.transaction.fire(now)
            self._settle(self._asked)
            if self._asked.transaction.state is transactions.State.TERMINATED:
                self._fail(408, "nobody answered", now)
        if self._due_at is not None and self._due_at <= now:
            self._step(Input.DUE, now)

    @property
    def next_at(self) -> float | None:
        """When `fire` wants to be called; None while nothing is due ever."""
        due = (self._due_at, self._asked.transaction.next_at if self._asked else None)
        return min((at for at in due if at is not None), default=None)

    def take_outgoing(self) -> list[tuple[bytes, Flow]]:
        """What is to be sent, in order; each is given once."""
        outgoing, self._outgoing = self._outgoing, []
        return outgoing

    def take_events(self) -> list[Event]:
        """What happened, in order; each is given once."""
        events, self._events = self._events, []
        return events

    # --- what happened ---

    def _step(self, what: Input, now: float, wait_s: float = 0.0) -> None:
        """One step of the table; `wait_s` is until what is due next."""
        entry = REGISTRATION.get((self.state, what))
        if entry is None:
            return
        self.state, actions = entry
        self._due_at = None
        for action in actions:
            if action is Do.BEGIN:
                self._authenticator.begin()
                self._raised = False
            elif action is Do.SEND:
                self._send(now)
            else:  # KEEP, BACK_OFF
                self._due_at = now + wait_s
        if self.state is State.ENDED:
            self.valid_until = 0.0
            self._events.append(Left())

    def _learn(self, response: Response) -> Input:
        """What a final response means for us. Raises DigestError."""
        if response.code < 300:
            return Input.SUCCESS
        if response.code in (401, 407):
            self._authenticator.learn(response)
            return Input.AGAIN
        least = seconds_of(response.headers.get("Min-Expires")) or 0
        if response.code == 423 and not self._raised and self._expires < least <= MAX_EXPIRES:
            self._expires, self._raised = least, True
            return Input.AGAIN
        return Input.FAILURE

    def _granted(self, response: Response, now: float) -> None:
        seconds = granted_s(response, self._contact, self._expires)
        if seconds <= 0:
            self._fail(response.code, "the registrar granted us no time", now)
            return
        self._failures = 0
        self.valid_until = self._sent_at + seconds
        self._step(Input.SUCCESS, now, refresh_s(seconds, self._chance()))
        routes, path = response.headers.values("Service-Route"), response.headers.values("Path")
        self._events.append(Registered(seconds, routes if readable(routes) else (), path))

    def _fail(self, code: int, why: str, now: float, asked_s: float = 0.0) -> None:
        """RFC 5626, section 4.5: the base doubles with each failure, and chance adds up to as much again."""
        self._asked = None
        if 400 <= code < 500 and code != 408:  # perhaps it takes no more than one Contact
            self._told = self._told[-1:]
        base = min(BACK_OFF_S * 2**self._failures, MAX_BACK_OFF_S)
        wait_s = max(base * (1 + self._chance()), asked_s)
        if self.state is State.ASKING:
            self._failures = min(self._failures + 1, 10)
            self._events.append(Failed(code, why, wait_s))
        known = self.state is State.STOPPING and code != 408 and now < self.valid_until
        self._step(Input.LEAVE if known else Input.FAILURE, now, wait_s)

    # --- what is sent ---

    def _send(self, now: float) -> None:
        request = self._request(0 if self.state is State.LEAVING else self._expires)
        branch = request.via.parameters["branch"] or ""
        self._asked = Asked((branch, "REGISTER"), self._flow, client(request, self._flow.reliable, now))
        self._sent_at = now
        self._settle(self._asked)

    def _settle(self, asked: Asked) -> None:
        self._outgoing += [(data, asked.flow) for data in asked.transaction.outbox]
        asked.transaction.outbox.clear()

    def _request(self, expires: int) -> Request:
        """Section 10.2: Call-ID and From stay the same for good, CSeq rises.

        Where we were before is taken off, or calls would ring there, too, until that runs out (section 10.2.2).
        """
        self._cseq += 1
        account = self._account
        sent_by = host_port(*self._flow.local)
        here = self._contact
        behind = [each for each in self._told if each != here][-MAX_BEHIND:]
        self._told = [*behind, here]
        fields = (
            ("Via", f"SIP/2.0/{self._flow.protocol} {sent_by};rport;branch={COOKIE}{self._token()}"),
            ("Max-Forwards", "70"),
            *(("Route", route) for route in account.routes),
            ("From", f"<{account.address}>;tag={self._tag}"),
            ("To", f"<{account.address}>"),
            ("Call-ID", self._call_id),
            ("CSeq", f"{self._cseq} REGISTER"),
            ("Contact", here),
            *(("Contact", f"{each};expires=0") for each in behind),
            ("Expires", str(expires)),
            ("Supported", "path"),
            ("Allow", ALLOW),
        )
        credentials = self._authenticator.fields("REGISTER", account.registrar)
        return Request(Headers((*fields, *credentials)), b"", "REGISTER", account.registrar)

    @property
    def _contact(self) -> str:
        """Where we are reached, by the name that we have there."""
        instance = f';+sip.instance="<{self._account.instance}>"' if self._account.instance else ""
        return contact(self._flow).replace("<sip:", f"<sip:{self._account.user}@", 1) + instance


# --- small print ---------------------------------------------------------------------------------------------------


def _said(response: Response) -> str:
    return f"{response.code} {clean(response.phrase, 60)}".strip()
