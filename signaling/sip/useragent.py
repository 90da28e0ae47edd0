"""The user agent (RFC 3261, section 8.2): datagrams in; datagrams, events and a deadline out.

No socket and no clock is named here. Whoever drives it calls `receive` with each message, `fire` when `next_at` has
come, and after each call sends `take_outgoing` and deals with `take_events`. What can be done with a call is in
`calls`; calls of our own begin in `client`.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from signaling.sip.buckets import Buckets, source_of
from signaling.sip.calls import RETRY_S, Calls
from signaling.sip.capabilities import ALLOW, SUPPORTED, UNDERSTOOD
from signaling.sip.changes import Changes
from signaling.sip.client import Client
from signaling.sip.dialog import Dialog, contact
from signaling.sip.events import Event, Mapped, Shed
from signaling.sip.keeper import Keeper
from signaling.sip.mapped import mapped
from signaling.sip.message import SDP, Request, Response, received_from, respond
from signaling.sip.offers import retry_soon
from signaling.sip.refer import Referrals
from signaling.sip.registrar import Registrar
from signaling.sip.resolve import PORTS
from signaling.sip.transaction import Flow
from signaling.sip.transactions import Served, Transactions
from signaling.sip.wire import WireError, parse

KNOWN = frozenset(("REGISTER", "SUBSCRIBE", "PUBLISH", "MESSAGE"))
"""Methods that exist and are not served: 405. What nobody knows is 501."""

RATE, BURST = 50.0, 100
"""Requests a second from one source that begin something new, and how many at once; more are dropped.

For peers on an allow list: a trunk that offers 20 calls a second has room, a flood does not. One call may ask as much
of us: its transactions must not be all that there can be.
"""

BANNED = "too many wrong passwords"

RETRY_LATER = ("Retry-After", str(RETRY_S))


class UserAgent:
    """Takes calls and makes them. `available` is asked about each new call and OPTIONS: no is a 503.

    `trusted` says whether a host (a literal) is one that requests of ours may be sent to. With a `registrar`, whose
    users have phones of ours, REGISTER is served, and all who are not trusted must show that they are such a user.
    `may_refer` says whether the peer in a dialog may have us call others.
    `keeper` keeps what we have with trunks.
    """

    def __init__(
        self,
        *,
        available: Callable[[], bool] = lambda: True,
        trusted: Callable[[str], bool] = lambda host: False,
        registrar: Registrar | None = None,
        keeper: Keeper | None = None,
        rate: float = RATE,
        burst: float = BURST,
        may_refer: Callable[[Dialog], bool] = lambda dialog: False,
        token: Callable[[], str] = lambda: secrets.token_hex(8),
        chance: Callable[[], float] = lambda: secrets.randbelow(10**6) / 10**6,
    ) -> None:
        self.dropped: Counter[str] = Counter()
        self._available, self._trusted, self._token = available, trusted, token
        self._registrar = registrar
        self._buckets, self._inside = Buckets(rate, burst), Buckets(RATE, BURST)
        self._transactions = Transactions()
        self.calls = Calls(self._transactions, trusted, token)
        self.changes = Changes(self.calls, chance)
        self.referrals = Referrals(self.calls, may_refer)
        self.client = Client(self._transactions, self.calls, token)
        self.keeper = keeper or Keeper()
        self._methods: dict[str, Callable[[Served, float], None]] = {
            "INVITE": self._invite,
            "BYE": self.calls.bye,
            "CANCEL": self._cancel,
            "OPTIONS": self._options,
            "INFO": self.calls.info,
            "UPDATE": self.calls.update,
            "PRACK": self.calls.prack,
            "REFER": self.referrals.referred,
            "NOTIFY": self.referrals.notify,
        }
        if registrar is not None:
            self._methods["REGISTER"] = self._register

    # --- for whoever drives it ---

    def receive(self, data: bytes, flow: Flow, now: float) -> None:
        """One whole message came in by `flow`. Never raises."""
        try:
            message = parse(data)
        except WireError as error:
            self.dropped["unreadable"] += 1
            if error.response is not None and self._buckets.take(self._source(flow), now):
                self._transactions.outgoing.append((bytes(error.response), flow))
            return
        if isinstance(message, Response):
            if not (self._transactions.answered(message, now) or self.keeper.receive(message, now)):
                self.dropped["response to nothing"] += 1
            elif not flow.reliable and (place := mapped(message)) is not None:
                self.calls.events.append(Mapped(flow, place))
        elif message.method == "ACK":
            self._ack(message, flow, now)
        elif not self._transactions.repeated(message, now):
            self._request(received_from(message, *flow.remote), _way_back(message, flow), now)

    def lost(self, flow: Flow, now: float) -> None:
        """A connection is gone."""
        self._transactions.lost(flow, now)

    def fire(self, now: float) -> None:
        """Let everything happen that is due."""
        self._transactions.fire(now)
        self.calls.fire(now)
        self.client.fire(now)
        self.keeper.fire(now)

    @property
    def next_at(self) -> float | None:
        """When `fire` wants to be called; None while nothing is due ever."""
        due = (self._transactions.next_at, self.calls.next_at, self.client.next_at, self.keeper.next_at)
        return min((at for at in due if at is not None), default=None)

    def take_outgoing(self) -> list[tuple[bytes, Flow]]:
        """What is to be sent, in order; each is given once."""
        outgoing, self._transactions.outgoing = self._transactions.outgoing, []
        return outgoing + self.keeper.take_outgoing()

    def take_events(self) -> list[Event]:
        """What happened, in order; each is given once."""
        events, self.calls.events = self.calls.events, []
        return [*events, *self.keeper.take_events()]

    @property
    def idle(self) -> bool:
        """Whether no call is left, nor any request of ours without its answer."""
        return self.calls.idle and self.client.idle and self.keeper.idle and not self._transactions.asking

    def uses(self, flow: Flow, now: float) -> bool:
        """Whether a call goes by that flow, or a phone of ours is reached by it."""
        registered = self._registrar is not None and self._registrar.uses(flow, now)
        return registered or self.calls.uses(flow) or self.client.uses(flow)

    def left_over(self) -> int:
        """How many things are kept: transactions, dialogs and what belongs to them."""
        return len(self._transactions) + len(self.calls) + len(self.changes) + len(self.referrals) + len(self.client)

    # --- requests ---

    def _request(self, request: Request, flow: Flow, now: float) -> None:
        """A request that is no repetition."""
        dialog = self.calls.find(request)
        if not (self._buckets.take(self._source(flow), now) if dialog is None else self._inside.take(dialog.id, now)):
            self._shed(request, flow, "too many requests a second")
        elif dialog is None and self._is_banned(request, flow, now):
            self.dropped[BANNED] += 1
            self.calls.events.append(Shed(flow.remote[0], BANNED))
        elif question := self._question(request, dialog, flow, now):
            # section 26.3.2.4: once and without state, since whoever it is may have forged where it comes from
            self._transactions.outgoing.append((bytes(respond(request, 401, *question, to_tag="asked")), flow))
        elif request.method == "CANCEL" and self._transactions.invite_of(request) is None:
            # section 9.2; it was not asked who it is, so nothing is kept for it
            self._transactions.outgoing.append((bytes(respond(request, 481, to_tag="gone")), flow))
        elif self._transactions.full:
            self._shed(request, flow, "too many transactions")
        else:
            tag = request.to_tag or self._token()
            self._dispatch(self._transactions.serve(request, flow, tag, dialog), now)

    def _shed(self, request: Request, flow: Flow, why: str) -> None:
        """Drop a request: silence is the cheapest answer, and what is lost is sent again, except on a connection."""
        self.dropped[why] += 1
        self.calls.events.append(Shed(flow.remote[0], why))
        if flow.reliable:
            self._transactions.outgoing.append((bytes(respond(request, 503, RETRY_LATER, to_tag="shed")), flow))

    def _dispatch(self, served: Served, now: float) -> None:
        """RFC 3261, section 8.2: method, then header, then content."""
        request, dialog, answer = served.request, served.dialog, self._transactions.answer
        method = self._methods.get(request.method)
        if method is None:
            answer(served, 405 if request.method in KNOWN else 501, now, ("Allow", ALLOW))
        elif request.method == "CANCEL":  # which has neither order nor Require (sections 9.1 and 20.32)
            method(served, now)
        elif not request.to_tag and self._transactions.is_merged(served):
            answer(served, 482, now)
        elif not self._is_known(served, now):
            return
        elif dialog is not None and not dialog.in_order(request):
            answer(served, 500, now, retry_soon())
        elif unknown := [option for option in request.headers.options("Require") if option not in UNDERSTOOD]:
            answer(served, 420, now, ("Unsupported", ", ".join(unknown)))
        elif request.to_tag and dialog is None:
            answer(served, 481, now)
        else:
            if dialog is not None:
                dialog.flow = served.flow
            method(served, now)

    def _invite(self, served: Served, now: float) -> None:
        if served.dialog is None and not self._available():
            self._refuse(served, now)
        else:
            self.calls.invite(served, now)

    def _options(self, served: Served, now: float) -> None:
        """RFC 3261, section 11.2. A dispatcher in front of us sends no more calls after a 503."""
        if served.dialog is None and not self._available():
            self._refuse(served, now)
            return
        accept = (("Allow", ALLOW), ("Accept", SDP), ("Accept-Encoding", "identity"), ("Supported", SUPPORTED))
        self._transactions.answer(served, 200, now, ("Contact", contact(served.flow)), *accept)

    def _refuse(self, served: Served, now: float) -> None:
        self.calls.events.append(Shed(served.flow.remote[0], "no calls are taken now"))
        self._transactions.answer(served, 503, now, RETRY_LATER)

    def _register(self, served: Served, now: float) -> None:
        """RFC 3261, section 10.3, for phones of our own."""
        assert self._registrar is not None  # or it would be no method of ours
        made = self._registrar.register(served.request, served.flow, now)
        if made.failed:
            self._wrong(served)
        self._transactions.answer(served, made.code, now, *made.fields, phrase=made.phrase)

    # --- who asks ---

    def _source(self, flow: Flow) -> str:
        """Whose requests count together: a host that we trust speaks for itself."""
        host = flow.remote[0]
        return host if self._trusted(host) else source_of(host)

    def _is_foreign(self, dialog: Dialog | None, flow: Flow) -> bool:
        """Whether a host has to show who it is: it is none that we trust, nor that of the dialog's peer.

        What is in a dialog may have been overheard, and says where our own requests go.
        """
        host = flow.remote[0]
        known = self._registrar is None or self._trusted(host)
        return not known and (dialog is None or dialog.flow.remote[0] != host)

    def _question(self, request: Request, dialog: Dialog | None, flow: Flow, now: float) -> tuple[tuple[str, str], ...]:
        """What who has shown nothing is asked first; empty for who need not, or has answered, be it wrongly.

        A REGISTER is asked about from whatever host; a CANCEL, which has no answer of its own, never (section 22.1).
        """
        asks = request.method == "REGISTER" or self._is_foreign(dialog, flow)
        if self._registrar is None or request.method == "CANCEL" or not asks:
            return ()
        return self._registrar.guard.question(request, flow.remote[0], now)

    def _is_known(self, served: Served, now: float) -> bool:
        """Whether a request is from whom we know: in a dialog, by its host, or by its digest (RFC 3261, s. 22.2).

        If not, it has been asked. A REGISTER is the registrar's to check, from whatever host.
        """
        host, registers = served.flow.remote[0], served.request.method == "REGISTER"
        if self._registrar is None or registers or not self._is_foreign(served.dialog, served.flow):
            return True
        outcome = self._registrar.guard.check(served.request, host, now)
        if outcome.failed:
            self._wrong(served)
        if not outcome.user:
            challenge = self._registrar.guard.challenge(host, now, outcome.stale)
            self._transactions.answer(served, 401, now, *challenge)
        return bool(outcome.user)

    def _is_banned(self, request: Request, flow: Flow, now: float) -> bool:
        """Whether that host guessed too often. A trusted one may still call: it can be a proxy for many."""
        if self._registrar is None or not self._registrar.guard.banned(flow.remote[0], now):
            return False
        return request.method == "REGISTER" or not self._trusted(flow.remote[0])

    def _wrong(self, served: Served) -> None:
        self.calls.events.append(Shed(served.flow.remote[0], "wrong user name or password"))

    def _cancel(self, served: Served, now: float) -> None:
        """RFC 3261, section 9.2."""
        invite = self._transactions.invite_of(served.request)
        assert invite is not None  # or it would not be served
        served.tag = invite.tag
        self._transactions.answer(served, 200, now)
        self.calls.cancelled(invite, served.request, now)

    def _ack(self, ack: Request, flow: Flow, now: float) -> None:
        """For a transaction, where the response was other than 2xx; else for the dialog."""
        if self._transactions.acknowledged(ack, now):
            return
        dialog = self.calls.find(ack)
        foreign = dialog is not None and self._is_foreign(dialog, flow)
        if foreign or not self.calls.acknowledged(ack, _way_back(ack, flow), now):
            self.dropped["ACK for nothing"] += 1


def _way_back(request: Request, flow: Flow) -> Flow:
    """Where responses go (RFC 3261, section 18.2.2; RFC 3581): to where a datagram came from, or by the connection.

    Should that be gone, by a new one to the same host, where its Via says that it listens.
    """
    listens = (flow.remote[0], request.via.port or PORTS[flow.protocol])
    if flow.reliable:
        return flow if flow.spare else replace(flow, spare=listens)
    return flow if "rport" in request.via.parameters else replace(flow, remote=listens)
