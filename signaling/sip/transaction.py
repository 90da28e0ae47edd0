"""Transactions (RFC 3261, section 17, with the Accepted state of RFC 6026), as tables.

A `Transaction` is told what happened and when; it answers with bytes in `outbox` and says when it wants to be called
again. Everything about states lives in the tables; what is not in a table has no effect.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from signaling.sip.message import Headers, Request, Response

COOKIE = "z9hG4bK"
"""A branch that begins with it is unique to its transaction (RFC 3261, section 8.1.1.7)."""

T1, T2, T4 = 0.5, 4.0, 5.0
"""Round-trip estimate, longest retransmission interval, longest life of a message in the network; seconds."""


@dataclass(frozen=True)
class Flow:
    """A way to a peer: a connection (its `serial` tells two apart), or a pair of UDP addresses. Hosts are literals.

    `local` is the address by which that peer reaches us, `spare` one to connect to for a request of ours, should the
    connection be gone, and `name` whom a TLS certificate there must be for ("": that address).
    """

    protocol: str
    remote: tuple[str, int]
    local: tuple[str, int]
    serial: int = 0
    spare: tuple[str, int] | None = field(default=None, compare=False)
    name: str = field(default="", compare=False)

    @property
    def reliable(self) -> bool:
        """Whether it loses nothing."""
        return self.protocol != "UDP"


class State(Enum):
    """Names of RFC 3261, figures 5-8, and RFC 6026, figure 5."""

    CALLING = "calling"
    TRYING = "trying"
    PROCEEDING = "proceeding"
    ACCEPTED = "accepted"
    COMPLETED = "completed"
    CONFIRMED = "confirmed"
    TERMINATED = "terminated"


class Input(Enum):
    """What can happen to a transaction."""

    REQUEST = "the request again"
    ACK = "an ACK that matches"
    PROVISIONAL = "1xx"
    SUCCESS = "2xx"
    FAILURE = "300-699"
    LOST = "the connection that the request went by is gone"
    TIMER_A, TIMER_B, TIMER_D, TIMER_E, TIMER_F, TIMER_G = "ABDEFG"
    TIMER_H, TIMER_I, TIMER_J, TIMER_K, TIMER_L, TIMER_M = "HIJKLM"


class Do(Enum):
    """What a transaction does on its way to the next state."""

    SEND = "keep the message and send it"
    RESEND = "send the last message again"
    TIMER_A, TIMER_B, TIMER_D, TIMER_E, TIMER_F, TIMER_G = "ABDEFG"  # start it
    TIMER_H, TIMER_I, TIMER_J, TIMER_K, TIMER_L, TIMER_M = "HIJKLM"


@dataclass(frozen=True)
class Timer:
    """`seconds` until it fires; with a `ceiling`, each start doubles it up to there."""

    seconds: float
    ceiling: float | None = None
    reliable: bool = True
    """Whether it is needed on a reliable transport too: nothing is sent again there."""
    linger: bool = False
    """Whether it fires at once on a reliable transport: nothing can come late there."""


TIMERS: Mapping[str, Timer] = {
    "TIMER_A": Timer(T1, 64 * T1, reliable=False),
    "TIMER_B": Timer(64 * T1),
    "TIMER_D": Timer(64 * T1, linger=True),
    "TIMER_E": Timer(T1, T2, reliable=False),
    "TIMER_F": Timer(64 * T1),
    "TIMER_G": Timer(T1, T2, reliable=False),
    "TIMER_H": Timer(64 * T1),
    "TIMER_I": Timer(T4, linger=True),
    "TIMER_J": Timer(64 * T1, linger=True),
    "TIMER_K": Timer(T4, linger=True),
    "TIMER_L": Timer(64 * T1),
    "TIMER_M": Timer(64 * T1),
}

Table = Mapping[tuple[State, Input], tuple[State, tuple[Do, ...]]]

INVITE_SERVER: Table = {
    (State.PROCEEDING, Input.REQUEST): (State.PROCEEDING, (Do.RESEND,)),
    (State.PROCEEDING, Input.PROVISIONAL): (State.PROCEEDING, (Do.SEND,)),
    (State.PROCEEDING, Input.SUCCESS): (State.ACCEPTED, (Do.SEND, Do.TIMER_L)),
    (State.PROCEEDING, Input.FAILURE): (State.COMPLETED, (Do.SEND, Do.TIMER_G, Do.TIMER_H)),
    # RFC 6026, section 7.1: repeated INVITEs are absorbed; the dialog, not the transaction, repeats the 2xx
    (State.ACCEPTED, Input.REQUEST): (State.ACCEPTED, ()),
    (State.ACCEPTED, Input.SUCCESS): (State.ACCEPTED, (Do.SEND,)),
    (State.ACCEPTED, Input.TIMER_L): (State.TERMINATED, ()),
    (State.COMPLETED, Input.REQUEST): (State.COMPLETED, (Do.RESEND,)),
    (State.COMPLETED, Input.TIMER_G): (State.COMPLETED, (Do.RESEND, Do.TIMER_G)),
    (State.COMPLETED, Input.ACK): (State.CONFIRMED, (Do.TIMER_I,)),
    (State.COMPLETED, Input.TIMER_H): (State.TERMINATED, ()),
    (State.CONFIRMED, Input.TIMER_I): (State.TERMINATED, ()),
}

SERVER: Table = {
    (State.TRYING, Input.PROVISIONAL): (State.PROCEEDING, (Do.SEND,)),
    (State.TRYING, Input.SUCCESS): (State.COMPLETED, (Do.SEND, Do.TIMER_J)),
    (State.TRYING, Input.FAILURE): (State.COMPLETED, (Do.SEND, Do.TIMER_J)),
    (State.PROCEEDING, Input.REQUEST): (State.PROCEEDING, (Do.RESEND,)),
    (State.PROCEEDING, Input.PROVISIONAL): (State.PROCEEDING, (Do.SEND,)),
    (State.PROCEEDING, Input.SUCCESS): (State.COMPLETED, (Do.SEND, Do.TIMER_J)),
    (State.PROCEEDING, Input.FAILURE): (State.COMPLETED, (Do.SEND, Do.TIMER_J)),
    (State.COMPLETED, Input.REQUEST): (State.COMPLETED, (Do.RESEND,)),
    (State.COMPLETED, Input.TIMER_J): (State.TERMINATED, ()),
}

CLIENT: Table = {
    (State.TRYING, Input.REQUEST): (State.TRYING, (Do.SEND, Do.TIMER_E, Do.TIMER_F)),
    (State.TRYING, Input.TIMER_E): (State.TRYING, (Do.RESEND, Do.TIMER_E)),
    (State.TRYING, Input.TIMER_F): (State.TERMINATED, ()),
    (State.TRYING, Input.PROVISIONAL): (State.PROCEEDING, ()),
    (State.TRYING, Input.SUCCESS): (State.COMPLETED, (Do.TIMER_K,)),
    (State.TRYING, Input.FAILURE): (State.COMPLETED, (Do.TIMER_K,)),
    (State.PROCEEDING, Input.TIMER_E): (State.PROCEEDING, (Do.RESEND, Do.TIMER_E)),
    (State.PROCEEDING, Input.TIMER_F): (State.TERMINATED, ()),
    (State.PROCEEDING, Input.SUCCESS): (State.COMPLETED, (Do.TIMER_K,)),
    (State.PROCEEDING, Input.FAILURE): (State.COMPLETED, (Do.TIMER_K,)),
    (State.COMPLETED, Input.TIMER_K): (State.TERMINATED, ()),
}

INVITE_CLIENT: Table = {
    (State.CALLING, Input.REQUEST): (State.CALLING, (Do.SEND, Do.TIMER_A, Do.TIMER_B)),
    (State.CALLING, Input.TIMER_A): (State.CALLING, (Do.RESEND, Do.TIMER_A)),
    (State.CALLING, Input.TIMER_B): (State.TERMINATED, ()),
    (State.CALLING, Input.LOST): (State.TERMINATED, ()),
    # RFC 3261, section 17.1.1.2: once it rings, nothing here gives up: who called does
    (State.CALLING, Input.PROVISIONAL): (State.PROCEEDING, ()),
    (State.CALLING, Input.SUCCESS): (State.ACCEPTED, (Do.TIMER_M,)),
    (State.CALLING, Input.FAILURE): (State.COMPLETED, (Do.SEND, Do.TIMER_D)),  # the ACK
    (State.PROCEEDING, Input.PROVISIONAL): (State.PROCEEDING, ()),
    (State.PROCEEDING, Input.SUCCESS): (State.ACCEPTED, (Do.TIMER_M,)),
    (State.PROCEEDING, Input.FAILURE): (State.COMPLETED, (Do.SEND, Do.TIMER_D)),
    # RFC 6026, section 7.2: each 2xx, repeated or of another fork, is for who called, and so is its ACK
    (State.ACCEPTED, Input.SUCCESS): (State.ACCEPTED, ()),
    (State.ACCEPTED, Input.TIMER_M): (State.TERMINATED, ()),
    (State.COMPLETED, Input.FAILURE): (State.COMPLETED, (Do.SEND,)),
    (State.COMPLETED, Input.TIMER_D): (State.TERMINATED, ()),
}

Key = tuple[str, ...]


def key(request: Request) -> Key:
    """What a request and its repetitions share (RFC 3261, section 17.2.3). An ACK has the key of its INVITE."""
    via = request.via
    branch = via.parameters.get("branch") or ""
    method = "INVITE" if request.method == "ACK" else request.method
    if branch.startswith(COOKIE) and branch != COOKIE:
        return (branch, via.host.lower(), str(via.port or 5060), method)
    # RFC 2543 had no unique branches. An ACK's To tag is ours, the INVITE's was none: it stays out.
    number = str(request.cseq[0])
    return (request.uri, request.from_tag, request.call_id, number, via.host.lower(), str(via.port or 5060), method)


def invite_key(cancel: Request) -> Key:
    """The key of the INVITE that a CANCEL is for (RFC 3261, section 9.2)."""
    return (*key(cancel)[:-1], "INVITE")


def response_key(response: Response) -> Key:
    """The key of the client transaction that a response is for (RFC 3261, section 17.1.3)."""
    return (response.via.parameters.get("branch") or "", response.cseq[1])


@dataclass
class Transaction:
    """One table at work. `outbox` is to be sent in order; `next_at` is when `fire` wants to be called."""

    table: Table
    state: State
    reliable: bool
    outbox: list[bytes] = field(default_factory=list)
    last: bytes = b""
    _deadlines: dict[str, float] = field(default_factory=dict)
    _intervals: dict[str, float] = field(default_factory=dict)

    def handle(self, what: Input, now: float, message: bytes = b"") -> bool:
        """Something happened; False when the table has no entry for it, and nothing was done."""
        entry = self.table.get((self.state, what))
        if entry is None:
            return False
        state, actions = entry
        if state is not self.state and (self.state, state) != (State.TRYING, State.PROCEEDING):
            self._deadlines.clear()  # but timers E and F run on in Proceeding
        self.state = state
        for action in actions:
            self._do(action, now, message)
        return True

    def answer(self, response: Response, now: float) -> bool:
        """The user's response, into a server transaction."""
        return self.handle(response_input(response.code), now, bytes(response))

    def fire(self, now: float) -> None:
        """Let every timer fire that is due."""
        while (at := self.next_at) is not None and at <= now:
            name = min(self._deadlines, key=lambda name: self._deadlines[name])
            del self._deadlines[name]
            self.handle(Input[name], now)

    @property
    def next_at(self) -> float | None:
        """When the next timer fires; None without one."""
        return min(self._deadlines.values(), default=None)

    def _do(self, action: Do, now: float, message: bytes) -> None:
        if action is Do.SEND:
            self.last = message
            self.outbox.append(message)
        elif action is Do.RESEND:
            self.outbox.extend([self.last] if self.last else [])
        else:
            self._start(action.name, now)

    def _start(self, name: str, now: float) -> None:
        timer = TIMERS[name]
        if self.reliable and not timer.reliable:
            return
        interval = 0.0 if self.reliable and timer.linger else timer.seconds
        if timer.ceiling is not None and name in self._intervals:
            # RFC 3261, section 17.1.2.2: once there was a provisional response, the longest interval
            proceeding = self.state is State.PROCEEDING
            interval = timer.ceiling if proceeding else min(2 * self._intervals[name], timer.ceiling)
        self._intervals[name] = interval
        self._deadlines[name] = now + interval


def response_input(code: int) -> Input:
    """How a response of that code looks to the tables."""
    if code < 200:
        return Input.PROVISIONAL
    return Input.SUCCESS if code < 300 else Input.FAILURE


def invite_server(reliable: bool) -> Transaction:
    """For an INVITE that came in (figure 7)."""
    return Transaction(INVITE_SERVER, State.PROCEEDING, reliable)


def server(reliable: bool) -> Transaction:
    """For any other request that came in (figure 8)."""
    return Transaction(SERVER, State.TRYING, reliable)


def client(request: Request, reliable: bool, now: float) -> Transaction:
    """For a request of ours (figures 5 and 6); it is sent at once."""
    invites = request.method == "INVITE"
    table, state = (INVITE_CLIENT, State.CALLING) if invites else (CLIENT, State.TRYING)
    transaction = Transaction(table, state, reliable)
    transaction.handle(Input.REQUEST, now, bytes(request))
    return transaction


def acknowledgement(invite: Request, response: Response) -> Request:
    """The ACK of a final response other than 2xx (RFC 3261, section 17.1.1.3)."""
    return _sibling(invite, "ACK", response.headers.get("To"))


def cancellation(invite: Request) -> Request:
    """The CANCEL of an INVITE of ours (section 9.1). It may go out once there was a provisional response."""
    return _sibling(invite, "CANCEL", invite.headers.get("To"))


def _sibling(invite: Request, method: str, to: str) -> Request:
    """A request that finds the INVITE by its topmost Via."""
    headers = invite.headers
    fields = (
        ("Via", headers.values("Via")[0]),
        ("Max-Forwards", "70"),
        ("From", headers.get("From")),
        ("To", to),
        ("Call-ID", invite.call_id),
        ("CSeq", f"{invite.cseq[0]} {method}"),
        *(("Route", route) for route in headers.values("Route")),
    )
    return Request(Headers(fields), b"", method, invite.uri)
