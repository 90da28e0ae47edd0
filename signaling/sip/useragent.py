"""The user agent (RFC 3261, section 8.2 and 12-15): datagrams in; datagrams, events and a deadline out.

No socket and no clock is named here. Whoever drives it calls `receive` with each message, `fire` when `next_at` has
come, and after each call sends `take_outgoing` and deals with `take_events`. It takes calls; it makes none.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import secrets
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

from signaling.sip import dialog as dialogs
from signaling.sip.dialog import GLARE, MIN_SE, Alarm, Dialog, IntervalTooSmall, Negotiation, contact
from signaling.sip.grammar import clean, parse_address, parse_uri, split
from signaling.sip.message import Request, Response, received_from, respond
from signaling.sip.transaction import (
    Flow,
    Input,
    Key,
    State,
    Transaction,
    client,
    invite_key,
    invite_server,
    key,
    response_input,
    response_key,
    server,
)
from signaling.sip.wire import WireError, parse

logger = logging.getLogger(__name__)

ALLOW = "INVITE, ACK, CANCEL, BYE, OPTIONS, INFO, UPDATE"
KNOWN = frozenset(("REGISTER", "SUBSCRIBE", "NOTIFY", "PUBLISH", "MESSAGE", "REFER", "PRACK"))
"""Methods that exist and are not served: 405. What nobody knows is 501."""
SUPPORTED = "timer"
SDP = "application/sdp"

MAX_TRANSACTIONS = 10_000
"""Server transactions at once; a request beyond them is dropped."""

RATE, BURST = 50.0, 100
"""Requests a second from one source that begin something new, and how many at once; more are dropped.

For peers on an allow list: a trunk that offers 20 calls a second has room, a flood does not.
"""

MAX_SOURCES = 10_000
CHANGE_RATE, CHANGE_BURST = 0.5, 5
"""Changes of a session a second, for each call: each of them costs the media something."""

RETRY_S = 10
"""Retry-After of a 503, in seconds."""

KEYS = "0123456789*#ABCD"
NUMBERED_KEYS = {str(10 + at): key for at, key in enumerate("*#ABCD")}
"""application/dtmf-relay may name an event by its number (RFC 4733, table 3)."""


# --- events --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Invited:
    """Somebody calls: answer with `ring`, `accept`, `reject` or `hang_up`."""

    dialog: Dialog
    request: Request


@dataclass(frozen=True, eq=False)
class Changed:
    """The peer offers to change the session, or asks for our offer (None): answer with `change`, within 5 s."""

    dialog: Dialog
    offer: str | None


@dataclass(frozen=True, eq=False)
class Answered:
    """The peer's answer to an offer of ours."""

    dialog: Dialog
    answer: str


@dataclass(frozen=True, eq=False)
class Pressed:
    """A digit."""

    dialog: Dialog
    key: str


@dataclass(frozen=True, eq=False)
class Ended:
    """The call is over; `by` is "caller", "agent" or "network". Comes once for each Invited."""

    dialog: Dialog
    by: str
    reason: str


@dataclass(frozen=True, eq=False)
class Shed:
    """A request was dropped to protect us."""

    source: str
    why: str


Event = Invited | Changed | Answered | Pressed | Ended | Shed


# --- what is kept --------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class _Served:
    """A server transaction, and where its responses go."""

    key: Key
    request: Request
    flow: Flow
    transaction: Transaction
    tag: str
    merges: tuple[str, ...]
    dialog: Dialog | None = None
    wake_at: float | None = None

    @property
    def next_at(self) -> float | None:
        return self.transaction.next_at


@dataclass(eq=False)
class _Asked:
    """A client transaction, and where its request goes."""

    key: Key
    flow: Flow
    transaction: Transaction
    dialog: Dialog
    wake_at: float | None = None

    @property
    def next_at(self) -> float | None:
        return self.transaction.next_at


class Buckets:
    """A token bucket for each source. The source that was quiet longest is forgotten when there are too many."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate, self._burst = rate, burst
        self._levels: dict[object, tuple[float, float]] = {}

    def take(self, source: object, now: float) -> bool:
        """Whether there is a token left for it."""
        level, at = self._levels.pop(source, (self._burst, now))
        level = min(self._burst, level + (now - at) * self._rate)
        taken = level >= 1
        self._levels[source] = (level - taken, now)
        if len(self._levels) > MAX_SOURCES:
            del self._levels[next(iter(self._levels))]
        return taken


# --- the user agent ------------------------------------------------------------------------------------------------


class UserAgent:
    """Takes calls. `trusted` says whether a host (a literal) is one that requests of ours may be sent to."""

    def __init__(
        self,
        *,
        trusted: Callable[[str], bool] = lambda host: False,
        rate: float = RATE,
        burst: float = BURST,
        token: Callable[[], str] = lambda: secrets.token_hex(8),
    ) -> None:
        self.draining = False
        self.dropped: Counter[str] = Counter()
        self._trusted, self._token = trusted, token
        self._buckets = Buckets(rate, burst)
        self._changes = Buckets(CHANGE_RATE, CHANGE_BURST)
        self._served: dict[Key, _Served] = {}
        self._merges: dict[tuple[str, ...], _Served] = {}
        self._asked: dict[Key, _Asked] = {}
        self._dialogs: dict[tuple[str, str, str], Dialog] = {}
        self._invites: dict[Dialog, _Served] = {}
        self._pending: dict[Dialog, tuple[Changed, _Served]] = {}
        self._alarms: list[tuple[float, int, _Served | _Asked | Dialog]] = []
        self._count = itertools.count()
        self._outgoing: list[tuple[bytes, Flow]] = []
        self._events: list[Event] = []
        self._methods: dict[str, Callable[[_Served, float], None]] = {
            "INVITE": self._invite,
            "BYE": self._bye,
            "CANCEL": self._cancel,
            "OPTIONS": self._options,
            "INFO": self._info,
            "UPDATE": self._update,
        }

    # --- for whoever drives it ---

    def receive(self, data: bytes, flow: Flow, now: float) -> None:
        """One whole message came in by `flow`. Never raises."""
        try:
            message = parse(data)
        except WireError as error:
            self.dropped["unreadable"] += 1
            if error.response is not None and self._buckets.take(flow.remote[0], now):
                self._outgoing.append((bytes(error.response), flow))
            return
        if isinstance(message, Response):
            self._response(message, now)
        elif message.method == "ACK":
            self._ack(message, flow, now)
        else:
            self._request(received_from(message, *flow.remote), flow, now)

    def fire(self, now: float) -> None:
        """Let everything happen that is due."""
        while self._alarms and self._alarms[0][0] <= now:
            thing = self._pop_alarm()
            if thing.next_at is None or thing.next_at > now:
                continue  # it was due when this alarm was set, and is no more
            if isinstance(thing, Dialog):
                self._wake(thing, now)
            else:
                thing.transaction.fire(now)
                self._settle(thing)

    @property
    def next_at(self) -> float | None:
        """When `fire` wants to be called; None while nothing is due ever."""
        while self._alarms and self._alarms[0][0] != self._alarms[0][2].next_at:
            self._pop_alarm()
        return self._alarms[0][0] if self._alarms else None

    def take_outgoing(self) -> list[tuple[bytes, Flow]]:
        """What is to be sent, in order; each is given once."""
        outgoing, self._outgoing = self._outgoing, []
        return outgoing

    def take_events(self) -> list[Event]:
        """What happened, in order; each is given once."""
        events, self._events = self._events, []
        return events

    def uses(self, flow: Flow) -> bool:
        """Whether a call goes by that flow."""
        return any(dialog.flow == flow for dialog in self._dialogs.values())

    @property
    def idle(self) -> bool:
        """Whether no call is left, nor any request of ours without its answer."""
        asking = (State.TRYING, State.PROCEEDING)
        return not any(asked.transaction.state in asking for asked in self._asked.values()) and all(
            dialog.state is dialogs.State.TERMINATED for dialog in self._dialogs.values()
        )

    def left_over(self) -> int:
        """How many things are kept: transactions, dialogs and what belongs to them."""
        kept = (self._served, self._merges, self._asked, self._dialogs, self._invites, self._pending)
        return sum(len(things) for things in kept)

    # --- for whoever answers calls; none has an effect on a call that is past it ---

    def ring(self, dialog: Dialog, media: str | None, now: float) -> None:
        """180, or 183 with early media."""
        if dialog.state is dialogs.State.EARLY:
            self._provisional(dialog, media, now)

    def accept(self, dialog: Dialog, media: str, now: float) -> None:
        """200 with our answer, or our offer where the INVITE had none."""
        if dialog.state is dialogs.State.EARLY:
            self._succeed(dialog, self._invites[dialog], media, now)

    def reject(self, dialog: Dialog, code: int, reason: str, now: float) -> None:
        """A final response other than 2xx."""
        self._step(dialog, dialogs.Input.REFUSE, now, "agent", reason, code)

    def change(self, changed: Changed, outcome: str | int, now: float) -> None:
        """Answer a Changed with a session description, or refuse it with a status; too late, it has no effect."""
        pending, served = self._pending.get(changed.dialog, (None, None))
        if served is None or pending is not changed:
            return
        if isinstance(outcome, int):
            self._unchanged(changed.dialog, outcome, now)
        else:
            self._drop_pending(changed.dialog)
            self._succeed(changed.dialog, served, outcome, now)

    def hang_up(self, dialog: Dialog, reason: str, now: float) -> None:
        """End the call in whatever state it is; a BYE waits for the ACK of our 2xx."""
        self._step(dialog, dialogs.Input.HANG_UP, now, "agent", reason or "hung up", 480)

    def close(self, reason: str, now: float) -> None:
        """End all calls, and wait for nobody's ACK."""
        for dialog in list(self._dialogs.values()):
            self.hang_up(dialog, reason, now)
            self._step(dialog, dialogs.Input.NO_ACK, now, "agent", reason)

    # --- requests ---

    def _request(self, request: Request, flow: Flow, now: float) -> None:
        served = self._served.get(key(request))
        if served is not None:
            served.transaction.handle(Input.REQUEST, now)
            self._settle(served)
            return
        dialog = self._dialogs.get((request.call_id, request.to_tag, request.from_tag))
        if dialog is None and not self._buckets.take(flow.remote[0], now):
            self._shed(request, flow, "too many requests a second")
        elif len(self._served) >= MAX_TRANSACTIONS:
            self._shed(request, flow, "too many transactions")
        else:
            self._dispatch(self._serve(request, _way_back(request, flow), dialog), now)

    def _shed(self, request: Request, flow: Flow, why: str) -> None:
        """Drop a request: silence is the cheapest answer, and what is lost is sent again, except on a connection."""
        self.dropped[why] += 1
        self._events.append(Shed(flow.remote[0], why))
        if flow.reliable:
            retry = ("Retry-After", str(RETRY_S))
            self._outgoing.append((bytes(respond(request, 503, retry, to_tag="shed")), flow))

    def _serve(self, request: Request, flow: Flow, dialog: Dialog | None) -> _Served:
        """Open a server transaction."""
        make = invite_server if request.method == "INVITE" else server
        if dialog is not None:
            dialog.flow = flow
        served = _Served(
            key(request),
            request,
            flow,
            make(flow.reliable),
            tag=request.to_tag or self._token(),
            merges=(request.from_tag, request.call_id, request.headers.get("CSeq")),
            dialog=dialog,
        )
        self._served[served.key] = served
        return served

    def _dispatch(self, served: _Served, now: float) -> None:
        """RFC 3261, section 8.2: method, then header, then content."""
        request, dialog = served.request, served.dialog
        method = self._methods.get(request.method)
        options = request.headers.options("Require")
        unknown = [option for option in options if option != SUPPORTED] if request.method != "CANCEL" else []
        if method is None:
            self._answer(served, 405 if request.method in KNOWN else 501, now, ("Allow", ALLOW))
        elif self._is_merged(served):
            self._answer(served, 482, now)
        elif unknown:
            self._answer(served, 420, now, ("Unsupported", ", ".join(unknown)))
        elif request.to_tag and dialog is None and request.method != "CANCEL":
            self._answer(served, 481, now)
        elif dialog is not None and request.method != "CANCEL" and not dialog.in_order(request):
            self._answer(served, 500, now, *_retry_soon())
        else:
            method(served, now)

    def _is_merged(self, served: _Served) -> bool:
        """Whether the same request came before, by another way (section 8.2.2.2)."""
        if served.request.to_tag or served.request.method == "CANCEL":
            return False
        return self._merges.setdefault(served.merges, served) is not served

    def _invite(self, served: _Served, now: float) -> None:
        if served.dialog is not None:
            self._offered(served, served.dialog, now)
        elif self.draining:
            self._answer(served, 503, now, ("Retry-After", str(RETRY_S)))
        elif not _readable(served.request.headers.values("Record-Route")):
            self._answer(served, 400, now, phrase="Bad Request (bad Record-Route)")
        elif self._acceptable(served, now):
            dialog = Dialog.invited(served.request, served.flow, served.tag, now)
            served.dialog = dialog
            self._dialogs[dialog.id] = dialog
            self._invites[dialog] = served
            self._answer(served, 100, now)
            self._alarm(dialog)
            self._events.append(Invited(dialog, served.request))

    def _update(self, served: _Served, now: float) -> None:
        dialog = served.dialog
        if dialog is None or dialog.state is dialogs.State.TERMINATED:
            self._answer(served, 481, now)
        elif served.request.body:
            self._offered(served, dialog, now)
        elif self._acceptable(served, now):
            self._succeed(dialog, served, "", now)

    def _offered(self, served: _Served, dialog: Dialog, now: float) -> None:
        """A re-INVITE, or an UPDATE with an offer (RFC 3261, section 14.2; RFC 3311)."""
        request = served.request
        offer = request.media
        if dialog.state in (dialogs.State.ENDING, dialogs.State.TERMINATED):
            self._answer(served, 481, now)
        elif glare := GLARE.get((dialog.negotiation, request.method)):
            self._answer(served, glare, now, *_retry_soon())
        elif not self._acceptable(served, now):
            return
        elif offer is not None and offer == dialog.remote_media:
            self._succeed(dialog, served, dialog.local_media, now)  # a refresh: nothing to negotiate
        elif not self._changes.take(dialog.id, now):
            self._answer(served, 500, now, *_retry_soon())
        else:
            self._change(served, Changed(dialog, offer), now)

    def _change(self, served: _Served, changed: Changed, now: float) -> None:
        """Ask our own side, while the peer waits."""
        dialog = changed.dialog
        dialog.negotiation = Negotiation.OFFERED
        dialog.alarms[Alarm.CHANGE] = now + dialogs.CHANGE_S
        self._pending[dialog] = changed, served
        if served.request.method == "INVITE":
            self._answer(served, 100, now)
        self._alarm(dialog)
        self._events.append(changed)

    def _acceptable(self, served: _Served, now: float) -> bool:
        """Whether body and session interval are such as we can serve; if not, it has been said."""
        request = served.request
        try:
            dialogs.session_interval(request)
        except IntervalTooSmall:
            self._answer(served, 422, now, ("Min-SE", str(MIN_SE)))
            return False
        if request.body and (request.content_type != SDP or not _plain(request)):
            self._answer(served, 415, now, ("Accept", SDP), ("Accept-Encoding", "identity"))
            return False
        return True

    def _bye(self, served: _Served, now: float) -> None:
        dialog = served.dialog
        if dialog is None:
            self._answer(served, 481, now)
            return
        self._answer(served, 200, now)
        self._step(dialog, dialogs.Input.BYE, now, "caller", _reason(served.request) or "hung up", 487)

    def _cancel(self, served: _Served, now: float) -> None:
        """RFC 3261, section 9.2."""
        target = self._served.get(invite_key(served.request))
        if target is None:
            self._answer(served, 481, now)
            return
        served.tag = target.tag
        self._answer(served, 200, now)
        dialog = target.dialog
        if dialog is None or target.transaction.state is not State.PROCEEDING:
            return
        if self._invites.get(dialog) is target:
            self._step(dialog, dialogs.Input.CANCEL, now, "caller", _reason(served.request) or "cancelled", 487)
        else:
            self._unchanged(dialog, 487, now)

    def _options(self, served: _Served, now: float) -> None:
        """RFC 3261, section 11.2. A dispatcher in front of us sends no more calls after a 503."""
        if self.draining and served.dialog is None:
            self._answer(served, 503, now, ("Retry-After", str(RETRY_S)))
            return
        accept = (("Allow", ALLOW), ("Accept", SDP), ("Accept-Encoding", "identity"), ("Supported", SUPPORTED))
        self._answer(served, 200, now, ("Contact", contact(served.flow)), *accept)

    def _info(self, served: _Served, now: float) -> None:
        """Digits, as some phones send them: application/dtmf-relay and application/dtmf."""
        dialog, kind = served.dialog, served.request.content_type
        if dialog is None or dialog.state is dialogs.State.TERMINATED:
            self._answer(served, 481, now)
        elif not served.request.body:
            self._answer(served, 200, now)
        elif kind not in ("application/dtmf-relay", "application/dtmf"):
            self._answer(served, 415, now, ("Accept", "application/dtmf-relay, application/dtmf"))
        elif digit := _digit(kind, served.request.body):
            self._answer(served, 200, now)
            self._events.append(Pressed(dialog, digit))
        else:
            self._answer(served, 400, now, phrase="Bad Request (no digit)")

    # --- ACK and responses ---

    def _ack(self, request: Request, flow: Flow, now: float) -> None:
        served = self._served.get(key(request))
        if served is not None and served.transaction.handle(Input.ACK, now):
            self._settle(served)
            return
        dialog = self._dialogs.get((request.call_id, request.to_tag, request.from_tag))
        if dialog is None or request.cseq[0] != dialog.accepted_cseq:
            self.dropped["ACK for nothing"] += 1
            return
        dialog.flow = _way_back(request, flow)
        owed = dialog.negotiation is Negotiation.OFFERING
        if not self._step(dialog, dialogs.Input.ACK, now, "agent", dialog.farewell):
            return  # repeated, because its 2xx was
        dialog.negotiation = Negotiation.STABLE
        if owed and dialog.state is dialogs.State.CONFIRMED:
            self._owed(dialog, request, now)

    def _owed(self, dialog: Dialog, ack: Request, now: float) -> None:
        """The ACK must bring the answer to our offer (RFC 3261, section 13.2.1)."""
        answer = ack.media if ack.content_type == SDP else None
        if answer is None:
            self.hang_up(dialog, "the ACK brought no answer to our offer", now)
        else:
            dialog.remote_media = None  # it is no offer that could be repeated
            self._events.append(Answered(dialog, answer))

    def _response(self, response: Response, now: float) -> None:
        asked = self._asked.get(response_key(response))
        if asked is None or not asked.transaction.handle(response_input(response.code), now):
            self.dropped["response to nothing"] += 1
            return
        self._settle(asked)

    # --- what is sent ---

    def _answer(
        self, served: _Served, code: int, now: float, *extra: tuple[str, str], media: str = "", phrase: str = ""
    ) -> bytes:
        tag = "" if code == 100 else served.tag
        fields = (*extra, ("Content-Type", SDP)) if media else extra
        body = media.encode(errors="surrogateescape")
        data = bytes(respond(served.request, code, *fields, to_tag=tag, body=body, phrase=phrase))
        served.transaction.handle(response_input(code), now, data)
        self._settle(served)
        return data

    def _provisional(self, dialog: Dialog, media: str | None, now: float) -> None:
        served = self._invites[dialog]
        self._answer(served, 183 if media else 180, now, *_in_dialog(dialog, served.request), media=media or "")

    def _succeed(self, dialog: Dialog, served: _Served, media: str, now: float) -> None:
        """200 to an INVITE, re-INVITE or UPDATE."""
        request = served.request
        interval = dialogs.session_interval(request)
        fields = [*_in_dialog(dialog, request), ("Allow", ALLOW), ("Supported", SUPPORTED)]
        if interval is not None:
            fields += [("Session-Expires", f"{interval};refresher=uac"), ("Require", "timer")]
        data = self._answer(served, 200, now, *fields, media=media)
        dialog.retarget(request)
        dialog.refreshed(interval, now)
        if media:
            dialog.local_media, dialog.remote_media = media, request.media
        if request.method == "INVITE":
            self._invites.pop(dialog, None)
            dialog.accepted(request, data, now)
            self._step(dialog, dialogs.Input.ACCEPT, now)
        elif media:
            dialog.negotiation = Negotiation.STABLE
        self._alarm(dialog)

    def _step(
        self, dialog: Dialog, what: dialogs.Input, now: float, by: str = "", reason: str = "", code: int = 0
    ) -> bool:
        """One step of the call's table, with what it sends; False where it has no effect."""
        was_over = dialog.state in (dialogs.State.ENDING, dialogs.State.TERMINATED)
        actions = dialog.handle(what)
        if actions is None:
            return False
        if not was_over and dialog.state in (dialogs.State.ENDING, dialogs.State.TERMINATED):
            dialog.farewell = reason
            self._events.append(Ended(dialog, by, reason))
            self._unchanged(dialog, 487, now)
        for action in actions:
            if action is dialogs.Do.REFUSE:
                retry = (("Retry-After", str(RETRY_S)),) if code == 503 else ()
                self._answer(self._invites.pop(dialog), code, now, *retry)
            else:
                self._ask(dialog, "BYE", now, ("Reason", f'SIP;text="{_quotable(dialog.farewell)}"'))
        self._alarm(dialog)
        self._forget(dialog)
        return True

    def _ask(self, dialog: Dialog, method: str, now: float, *extra: tuple[str, str]) -> None:
        """A request of ours."""
        request = dialog.request(method, self._token(), *extra)
        flow = self._way_to(dialog)
        asked = _Asked(
            (request.via.parameters["branch"] or "", method), flow, client(request, flow.reliable, now), dialog
        )
        self._asked[asked.key] = asked
        self._settle(asked)

    def _way_to(self, dialog: Dialog) -> Flow:
        """Where our requests go: as RFC 3261 has it if that is a host we trust, else back by the way the peer's came.

        A Contact or Record-Route must not turn us into somebody else's weapon, and behind a NAT it names no place.
        """
        flow = dialog.flow
        try:
            uri = parse_uri(dialog.next_hop)
        except ValueError:
            return flow
        host = uri.host.strip("[]").lower()
        if flow.reliable or dialog.natted or not (host == flow.remote[0] or self._trusted(host)):
            return flow
        return replace(flow, remote=(host, uri.port or 5060))

    # --- time, and what is forgotten ---

    def _wake(self, dialog: Dialog, now: float) -> None:
        """What a dialog's alarms mean."""
        for alarm in dialog.due(now):
            if alarm is Alarm.REPEAT and dialog.state in (dialogs.State.ACCEPTED, dialogs.State.ENDING):
                self._outgoing.append((dialog.success, dialog.flow))
            elif alarm is Alarm.NO_ACK:
                self._step(dialog, dialogs.Input.NO_ACK, now, "network", "our answer was never acknowledged")
            elif alarm is Alarm.UNANSWERED:
                self._step(dialog, dialogs.Input.UNANSWERED, now, "agent", "nobody answered", 480)
            elif alarm is Alarm.EXPIRED:
                self._step(dialog, dialogs.Input.EXPIRED, now, "network", "the session was not refreshed in time")
            elif alarm is Alarm.CHANGE:
                self._unchanged(dialog, 488, now)
        self._alarm(dialog)

    def _unchanged(self, dialog: Dialog, code: int, now: float) -> None:
        """Refuse the change that is pending, if one is: the old session stands."""
        served = self._drop_pending(dialog)
        if served is not None:
            dialog.negotiation = Negotiation.STABLE
            self._answer(served, code, now)
            self._alarm(dialog)

    def _drop_pending(self, dialog: Dialog) -> _Served | None:
        dialog.alarms.pop(Alarm.CHANGE, None)
        _, served = self._pending.pop(dialog, (None, None))
        return served

    def _settle(self, thing: _Served | _Asked) -> None:
        """After something happened to a transaction: send what it wants sent, wake it when it wants to be woken."""
        self._outgoing += [(data, thing.flow) for data in thing.transaction.outbox]
        thing.transaction.outbox.clear()
        if thing.transaction.state is not State.TERMINATED:
            self._alarm(thing)
        elif isinstance(thing, _Asked):
            self._asked.pop(thing.key, None)
            self._forget(thing.dialog)
        else:
            self._served.pop(thing.key, None)
            if self._merges.get(thing.merges) is thing:
                del self._merges[thing.merges]

    def _alarm(self, thing: _Served | _Asked | Dialog) -> None:
        """Wake a thing when it wants to be woken; an alarm that is set for then is enough."""
        if thing.next_at is not None and thing.next_at != thing.wake_at:
            thing.wake_at = thing.next_at
            heapq.heappush(self._alarms, (thing.next_at, next(self._count), thing))

    def _pop_alarm(self) -> _Served | _Asked | Dialog:
        at, _, thing = heapq.heappop(self._alarms)
        if at == thing.wake_at:
            thing.wake_at = None
        return thing

    def _forget(self, dialog: Dialog) -> None:
        """A dialog that is over stays for as long as our BYE does: the peer's may cross it."""
        if dialog.state is dialogs.State.TERMINATED and not any(
            asked.dialog is dialog for asked in self._asked.values()
        ):
            self._dialogs.pop(dialog.id, None)


# --- small print ---------------------------------------------------------------------------------------------------


def _way_back(request: Request, flow: Flow) -> Flow:
    """Where responses go (RFC 3261, section 18.2.2; RFC 3581): by the connection, or to where a datagram came from."""
    if flow.reliable or "rport" in request.via.parameters:
        return flow
    return replace(flow, remote=(flow.remote[0], request.via.port or 5060))


def _in_dialog(dialog: Dialog, request: Request) -> tuple[tuple[str, str], ...]:
    """What a response needs that makes or keeps a dialog (section 12.1.1)."""
    routes = tuple(("Record-Route", value) for value in request.headers.getlist("Record-Route"))
    return (*routes, ("Contact", dialog.contact))


def _readable(routes: tuple[str, ...]) -> bool:
    """Whether each is an address that we could send a request to."""
    try:
        return all(parse_address(route) for route in routes)
    except ValueError:
        return False


def _retry_soon() -> tuple[tuple[str, str], ...]:
    """Between 0 and 10 s, at random, so that two who collided do not collide again (section 14.2)."""
    return (("Retry-After", str(secrets.randbelow(11))),)


def _plain(request: Request) -> bool:
    """Whether the body is not compressed."""
    return request.headers.get("Content-Encoding", "identity").lower() == "identity"


def _digit(kind: str, body: bytes) -> str:
    """The key in an INFO, "" where there is none."""
    text = body.decode(errors="replace").strip().upper()
    if kind == "application/dtmf-relay":
        lines = (line.partition("=") for line in text.splitlines())
        text = next((value.strip() for name, _, value in lines if name.strip() == "SIGNAL"), "")
    text = NUMBERED_KEYS.get(text, text)
    return text if len(text) == 1 and text in KEYS else ""


def _reason(request: Request) -> str:
    """The text of a Reason field (RFC 3326)."""
    for value in request.headers.values("Reason"):
        for part in split(value, ";"):
            name, _, text = part.partition("=")
            if name.strip().lower() == "text":
                return clean(text.strip().strip('"'))
    return ""


def _quotable(text: str) -> str:
    return clean(text, 100).replace("\\", "").replace('"', "'")
