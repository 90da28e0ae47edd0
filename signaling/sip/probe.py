"""Asks a peer now and then whether it lives: OPTIONS (RFC 3261, section 11), and what the answers come to. Pure.

Whoever drives it calls `start`, hands it each response that `receive` takes, calls `fire` when `next_at` has come, and
after each call sends `take_outgoing`. `up` is None until something is known. Any final answer is a sign of life but
408, which a proxy gives for who is not there, and 503, by which one asks to be left alone.
"""

from __future__ import annotations

from collections.abc import Callable

from signaling.sip.capabilities import ALLOW
from signaling.sip.dialog import contact
from signaling.sip.grammar import host_port
from signaling.sip.message import SDP, Headers, Request, Response
from signaling.sip.transaction import COOKIE, Flow, client, response_input, response_key
from signaling.sip.transactions import Asked
from signaling.sip.trunk import Trunk

ANSWER_S = 8.0
"""Seconds without an answer that are a miss."""

MISSES = 3
"""So many in a row, and the peer is down."""

SPREAD = 0.1
"""Share of the interval by which it varies, or all who ask would ask at once."""


class Probe:
    """One peer, asked each `trunk.probe_s` seconds. `chance` gives a number in [0, 1) each time."""

    def __init__(self, trunk: Trunk, flow: Flow, *, token: Callable[[], str], chance: Callable[[], float]) -> None:
        self.up: bool | None = None
        self.why = ""
        """What the last miss was."""
        self._trunk, self._flow, self._token, self._chance = trunk, flow, token, chance
        self._call_id, self._tag, self._cseq = token(), token(), 0
        self._asked: Asked | None = None
        self._miss_at: float | None = None
        self._due_at: float | None = None
        self._misses = 0
        self._outgoing: list[tuple[bytes, Flow]] = []

    def start(self, now: float) -> None:
        """Ask, and go on asking."""
        self._ask(now)

    def stop(self) -> None:
        """Ask no more."""
        self._asked = self._miss_at = self._due_at = None

    def moved(self, flow: Flow) -> None:
        """The peer is reached by another flow, from the next time on."""
        self._flow = flow

    def receive(self, response: Response, now: float) -> bool:
        """A response came in; False where it is not for us."""
        asked = self._asked
        if asked is None or response_key(response) != asked.key:
            return False
        asked.transaction.handle(response_input(response.code), now)
        if response.code in (408, 503):
            self._missed(f"answered {response.code} to OPTIONS")
        elif response.code >= 200:
            self._asked = self._miss_at = None
            self._misses, self.up, self.why = 0, True, ""
        return True

    def lost(self, why: str) -> None:
        """What was sent last cannot have arrived."""
        if self._asked is not None:
            self._missed(why)

    def fire(self, now: float) -> None:
        """Let everything happen that is due."""
        if self._miss_at is not None and self._miss_at <= now:
            self._missed("gave no answer to OPTIONS")
        if self._asked is not None:
            self._asked.transaction.fire(now)
            self._settle(self._asked)
        if self._due_at is not None and self._due_at <= now:
            self._ask(now)

    @property
    def next_at(self) -> float | None:
        """When `fire` wants to be called; None once it is stopped."""
        due = (self._due_at, self._miss_at, self._asked.transaction.next_at if self._asked else None)
        return min((at for at in due if at is not None), default=None)

    def take_outgoing(self) -> list[tuple[bytes, Flow]]:
        """What is to be sent, in order; each is given once."""
        outgoing, self._outgoing = self._outgoing, []
        return outgoing

    def _missed(self, why: str) -> None:
        self._asked = self._miss_at = None
        self._misses += 1
        self.why = why
        if self._misses >= MISSES:
            self.up = False

    def _ask(self, now: float) -> None:
        request = self._request()
        branch = request.via.parameters["branch"] or ""
        self._asked = Asked((branch, "OPTIONS"), self._flow, client(request, self._flow.reliable, now))
        self._settle(self._asked)
        every_s = self._trunk.probe_s
        self._miss_at = now + min(ANSWER_S, every_s * (1 - SPREAD))
        self._due_at = now + every_s * (1 + SPREAD * (2 * self._chance() - 1))

    def _settle(self, asked: Asked) -> None:
        self._outgoing += [(data, asked.flow) for data in asked.transaction.outbox]
        asked.transaction.outbox.clear()

    def _request(self) -> Request:
        self._cseq += 1
        trunk, sent_by = self._trunk, host_port(*self._flow.local)
        fields = (
            ("Via", f"SIP/2.0/{self._flow.protocol} {sent_by};rport;branch={COOKIE}{self._token()}"),
            ("Max-Forwards", "70"),
            *(("Route", route) for route in trunk.routes),
            ("From", f"<{trunk.address}>;tag={self._tag}"),
            ("To", f"<sip:{trunk.domain}>"),
            ("Call-ID", self._call_id),
            ("CSeq", f"{self._cseq} OPTIONS"),
            ("Contact", contact(self._flow)),
            ("Accept", SDP),
            ("Allow", ALLOW),
        )
        return Request(Headers(fields), b"", "OPTIONS", f"sip:{trunk.domain}")
