"""Dialogs (RFC 3261, section 12) as tables.

A `Dialog` holds what two parties remember of each other: tags, CSeq, route set, remote target, where offer and answer
stand, the session timer. It sends nothing; the user agent asks it what comes next and tells it what happened.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum

from signaling.sip.digest import Authenticator
from signaling.sip.grammar import host_port, parse_uri, readable, split, split_address
from signaling.sip.message import SDP, Headers, Message, Request, Response
from signaling.sip.sessiontimer import MIN_SE, SessionTimer
from signaling.sip.transaction import COOKIE, T1, T2, Flow

RING_S = 180.0
"""How long a call may stay unanswered; proxies give up then (RFC 3261, section 16.6, timer C)."""

CHANGE_S = 5.0
"""How long the answer to a re-INVITE or UPDATE may take."""

LINGER_S = 64 * T1
"""How long a dialog is known after our BYE: the peer's may cross it."""


class State(Enum):
    """Where a call stands."""

    EARLY = "not answered"
    PLACED = "a call of ours, not answered"
    ACCEPTED = "our 2xx is not acknowledged"
    CONFIRMED = "both are in"
    ENDING = "to be ended as soon as our 2xx is acknowledged"
    TERMINATED = "over"


class Input(Enum):
    """What can happen to a call."""

    ACCEPT = "we take it, or a change of it"
    REFUSE = "we decline"
    HANG_UP = "we end it"
    CANCEL = "the caller gives up"
    BYE = "the peer ends it"
    ACK = "our 2xx is acknowledged"
    NO_ACK = "our 2xx was never acknowledged"
    UNANSWERED = "it rang too long"
    EXPIRED = "the session was not refreshed"
    TAKEN = "a call of ours is answered, and that acknowledged"
    DROPPED = "a call of ours came to nothing, or was answered by another fork"


class Do(Enum):
    """What is to be sent on the way to the next state."""

    REFUSE = "a final response other than 2xx to the INVITE"
    BYE = "a BYE"


Table = Mapping[tuple[State, Input], tuple[State, tuple[Do, ...]]]

CALL: Table = {
    (State.EARLY, Input.ACCEPT): (State.ACCEPTED, ()),
    (State.EARLY, Input.REFUSE): (State.TERMINATED, (Do.REFUSE,)),
    (State.EARLY, Input.HANG_UP): (State.TERMINATED, (Do.REFUSE,)),
    (State.EARLY, Input.CANCEL): (State.TERMINATED, (Do.REFUSE,)),
    (State.EARLY, Input.BYE): (State.TERMINATED, (Do.REFUSE,)),
    (State.EARLY, Input.UNANSWERED): (State.TERMINATED, (Do.REFUSE,)),
    (State.ACCEPTED, Input.ACK): (State.CONFIRMED, ()),
    (State.ACCEPTED, Input.BYE): (State.TERMINATED, ()),
    (State.ACCEPTED, Input.NO_ACK): (State.TERMINATED, (Do.BYE,)),
    # RFC 3261, section 15: the callee sends no BYE before the ACK, or before it has given up waiting for it
    (State.ACCEPTED, Input.HANG_UP): (State.ENDING, ()),
    (State.ACCEPTED, Input.EXPIRED): (State.ENDING, ()),
    (State.CONFIRMED, Input.ACCEPT): (State.ACCEPTED, ()),
    (State.CONFIRMED, Input.BYE): (State.TERMINATED, ()),
    (State.CONFIRMED, Input.HANG_UP): (State.TERMINATED, (Do.BYE,)),
    (State.CONFIRMED, Input.EXPIRED): (State.TERMINATED, (Do.BYE,)),
    (State.ENDING, Input.ACK): (State.TERMINATED, (Do.BYE,)),
    (State.ENDING, Input.NO_ACK): (State.TERMINATED, (Do.BYE,)),
    (State.ENDING, Input.BYE): (State.TERMINATED, ()),
    # RFC 3261, section 15: neither side sends a BYE in an early dialog of ours; one that comes changes nothing
    (State.PLACED, Input.TAKEN): (State.CONFIRMED, ()),
    (State.PLACED, Input.DROPPED): (State.TERMINATED, ()),
}


class Negotiation(Enum):
    """Where offer and answer stand (RFC 3264)."""

    STABLE = "nothing is open"
    OFFERED = "we owe an answer, or an offer that we were asked for"
    ANSWERED = "our answer is in a 2xx that is not acknowledged"
    OFFERING = "our offer is in a 2xx that is not acknowledged; the ACK brings the answer"
    ASKING = "our offer is in a request that is not answered"


GLARE: Mapping[tuple[Negotiation, str], int] = {
    (Negotiation.OFFERED, "INVITE"): 500,  # RFC 3261, section 14.2
    (Negotiation.OFFERED, "UPDATE"): 500,  # RFC 3311, section 5.2
    (Negotiation.OFFERED, "PRACK"): 500,  # RFC 3262, section 5: only what brought an answer lets it bring an offer
    (Negotiation.ANSWERED, "INVITE"): 500,
    (Negotiation.ANSWERED, "UPDATE"): 500,
    (Negotiation.OFFERING, "INVITE"): 500,
    (Negotiation.OFFERING, "UPDATE"): 491,
    (Negotiation.ASKING, "INVITE"): 491,  # RFC 3261, section 14.2
    (Negotiation.ASKING, "UPDATE"): 491,
}
"""What refuses a new offer, by what is open and the method that brings it; what is not here is let in."""

UNFINISHED: Mapping[State, int] = {State.EARLY: 500, State.PLACED: 491}
"""What refuses another INVITE while the first has no final response, be nothing else open (RFC 3261, section 14.2)."""


class Alarm(Enum):
    """What a dialog waits for."""

    REPEAT = "time to send the 2xx again"
    NO_ACK = "time to give up waiting for an ACK"
    UNANSWERED = "time to give up ringing"
    EXPIRED = "time to give up waiting for a refresh"
    PROVISIONAL = "time to send a reliable provisional response again"
    REFRESH = "time to refresh the session"
    TRANSFER = "time to give up a transfer, or to leave after one"
    OURS = "time for a change of our own to be tried again, or given up"
    CHANGE = "time to give up waiting for our own side's answer to a change"
    FORGET = "time to forget a call that is over"


@dataclass(eq=False)
class Dialog:
    """One call's peer relation. `id` is (Call-ID, local tag, remote tag)."""

    id: tuple[str, str, str]
    local: str
    """To of the INVITE with our tag: From of our requests."""
    remote: str
    """From of the INVITE: To of our requests."""
    target: str
    """URI of the peer's Contact: Request-URI of our requests."""
    routes: tuple[str, ...]
    flow: Flow
    """By which the peer's last request came."""
    remote_cseq: int
    natted: bool = False
    """Whether the peer names an address of its own that is not where its requests come from."""
    local_cseq: int = 0
    state: State = State.EARLY
    negotiation: Negotiation = Negotiation.OFFERED
    remote_media: str | None = None
    local_media: str = ""
    accepted_cseq: int = -1
    """CSeq of the INVITE whose 2xx waits, or waited, for its ACK."""
    success: tuple[bytes, Flow] | None = None
    """That 2xx, and where it goes."""
    farewell: str = ""
    """Why we end the call: what our BYE says."""
    peer: str = "caller"
    """What the peer is in this call: "caller", or "callee" in one of ours."""
    secure: bool = False
    """Whether it came by a SIPS URI."""
    authenticator: Authenticator | None = None
    """Answers what our requests are challenged with."""
    invite_cseq: int = 0
    """CSeq of the INVITE that began it."""
    early_answer: bool = False
    """Whether offer and answer are done, though the INVITE is not answered (RFC 3262, section 5)."""
    changed_early: bool = False
    """Whether the peer has changed since, by UPDATE, what was agreed before it answered our INVITE."""
    allowed: tuple[str, ...] = ()
    """The methods that the peer serves, as far as it has said."""
    timer: SessionTimer | None = None
    min_se: int = MIN_SE
    """The shortest session interval that the peer's side lets us ask for."""
    alarms: dict[Alarm, float] = field(default_factory=dict)
    _interval: float = T1

    @classmethod
    def invited(cls, request: Request, flow: Flow, tag: str, now: float) -> Dialog:
        """The dialog that an INVITE begins (RFC 3261, section 12.1.1)."""
        host = request.via.host.strip("[]")
        target = request.contact or split_address(request.headers.get("From"))[1]
        return cls(
            (request.call_id, tag, request.from_tag),
            f"{request.headers.get('To')};tag={tag}",
            request.headers.get("From"),
            target,
            request.headers.values("Record-Route"),
            flow,
            request.cseq[0],
            natted=host != flow.remote[0] and host == parse_uri(target).host.strip("[]"),
            secure=_is_secure(request),
            remote_media=request.media,
            invite_cseq=request.cseq[0],
            allowed=request.headers.values("Allow"),
            alarms={Alarm.UNANSWERED: now + RING_S},
        )

    @classmethod
    def placed(cls, invite: Request, response: Response, flow: Flow, authenticator: Authenticator | None) -> Dialog:
        """The dialog that a response to an INVITE of ours begins (section 12.1.2)."""
        routes = response.headers.values("Record-Route")
        return cls(
            (invite.call_id, invite.from_tag, response.to_tag),
            invite.headers.get("From"),
            response.headers.get("To"),
            response.contact or invite.uri,
            tuple(reversed(routes)) if readable(routes) else (),  # a way that nobody can go back is gone
            flow,
            remote_cseq=-1,
            local_cseq=invite.cseq[0],
            state=State.PLACED,
            negotiation=Negotiation.ASKING if invite.body else Negotiation.STABLE,
            local_media=invite.media or "",
            peer="callee",
            authenticator=authenticator,
            allowed=response.headers.values("Allow"),
            secure=invite.uri.lower().startswith("sips:"),  # section 12.1.2
        )

    def handle(self, what: Input) -> tuple[Do, ...] | None:
        """Something happened; what is to be sent now. None when the table has no entry for it: it has no effect."""
        entry = CALL.get((self.state, what))
        if entry is None:
            return None
        was_over = self.over
        self.state, actions = entry
        if self.state in (State.CONFIRMED, State.TERMINATED):
            self._silence(Alarm.REPEAT, Alarm.NO_ACK, Alarm.UNANSWERED, Alarm.PROVISIONAL)
        if self.over and not was_over:
            self._silence(Alarm.EXPIRED, Alarm.REFRESH, Alarm.CHANGE, Alarm.OURS, Alarm.TRANSFER)
        return actions

    def accepted(self, request: Request, success: bytes, flow: Flow, now: float) -> None:
        """Our 2xx to an INVITE was sent: it is repeated until its ACK, on every transport (section 13.3.1.4)."""
        self.success, self.accepted_cseq = (success, flow), request.cseq[0]
        asked = request.media is None and not self.early_answer
        self.negotiation = Negotiation.OFFERING if asked else Negotiation.ANSWERED
        self.early_answer = False
        self._silence(Alarm.UNANSWERED, Alarm.PROVISIONAL)
        self._interval = T1
        self.alarms[Alarm.REPEAT] = now + T1
        self.alarms[Alarm.NO_ACK] = now + 64 * T1

    def settled_early(self, media: str) -> None:
        """Our description in a reliable provisional response arrived: offer and answer are done, or will be at once."""
        self.early_answer, self.local_media, self.negotiation = True, media, Negotiation.STABLE

    def refreshed(self, timer: SessionTimer | None, now: float) -> None:
        """A session refresh succeeded, with that timer agreed on (RFC 4028, section 10) or with none."""
        self.timer = timer
        self._silence(Alarm.EXPIRED, Alarm.REFRESH)
        if timer is not None:
            self.alarms[Alarm.EXPIRED] = now + timer.patience_s
        if timer is not None and timer.refresh_s is not None:
            self.alarms[Alarm.REFRESH] = now + timer.refresh_s

    def due(self, now: float) -> Iterator[Alarm]:
        """What the time has come for, in order: what one of them does may take back the next.

        The 2xx is repeated at longer and longer intervals, up to T2.
        """
        for alarm in sorted((alarm for alarm, at in self.alarms.items() if at <= now), key=self.alarms.__getitem__):
            if self.alarms.get(alarm, math.inf) > now:
                continue
            del self.alarms[alarm]
            if alarm is Alarm.REPEAT:
                self._interval = min(2 * self._interval, T2)
                self.alarms[Alarm.REPEAT] = now + self._interval
            yield alarm

    @property
    def over(self) -> bool:
        """Whether it has ended for whoever answers calls."""
        return self.state in (State.ENDING, State.TERMINATED)

    @property
    def next_at(self) -> float | None:
        """When something is due; None if nothing will be."""
        return min(self.alarms.values(), default=None)

    def in_order(self, request: Request) -> bool:
        """Whether the request is not older than one we have seen (section 12.2.2)."""
        if request.cseq[0] < self.remote_cseq:
            return False
        self.remote_cseq = request.cseq[0]
        return True

    def retarget(self, message: Message) -> None:
        """A target refresh succeeded: further requests go where the peer's request or response says."""
        self.target = message.contact or self.target
        self.allowed = message.headers.values("Allow") or self.allowed

    @property
    def next_hop(self) -> str:
        """The URI to which our requests are sent: the first route, else the remote target."""
        return split_address(self.routes[0])[1] if self.routes else self.target

    def request(self, method: str, branch: str, *extra: tuple[str, str], media: str = "") -> Request:
        """Our next request in this dialog (section 12.2.1.1), with a session description where `media` is one."""
        self.local_cseq += 1
        return self._request(self.local_cseq, method, branch, extra, media)

    def ack(self, number: int, branch: str, media: str = "") -> Request:
        """The ACK of a 2xx to the INVITE of that number (section 13.2.2.4)."""
        return self._request(number, "ACK", branch, (), media)

    def _request(
        self, number: int, method: str, branch: str, extra: tuple[tuple[str, str], ...], media: str
    ) -> Request:
        uri, routes = self.target, self.routes
        if routes and not _is_loose(routes[0]):  # a strict router wants its own URI there
            uri, routes = split_address(routes[0])[1], (*routes[1:], f"<{uri}>")
        sent_by = host_port(*self.flow.local)
        fields = (
            ("Via", f"SIP/2.0/{self.flow.protocol} {sent_by};rport;branch={COOKIE}{branch}"),
            ("Max-Forwards", "70"),
            ("From", self.local),
            ("To", self.remote),
            ("Call-ID", self.id[0]),
            ("CSeq", f"{number} {method}"),
            *(("Route", route) for route in routes),
            *(self.authenticator.fields(method, uri) if self.authenticator else ()),
            *((("Content-Type", SDP),) if media else ()),
        )
        return Request(Headers((*fields, *extra)), media.encode(errors="surrogateescape"), method, uri)

    @property
    def contact(self) -> str:
        """Where the peer reaches us."""
        return contact(self.flow, self.secure)

    def _silence(self, *alarms: Alarm) -> None:
        for alarm in alarms:
            self.alarms.pop(alarm, None)


def _is_loose(route: str) -> bool:
    """Whether a route's URI has the parameter `lr`, which some proxies write as `lr=on`."""
    _, *parameters = split(split_address(route)[1], ";")
    return any(part.partition("=")[0].lower() == "lr" for part in parameters)


def contact(flow: Flow, secure: bool = False) -> str:
    """Our Contact for whoever is at the other end of a flow; a `secure` one is a SIPS URI, over TLS."""
    if secure and flow.protocol == "TLS":
        return f"<sips:{host_port(*flow.local)}>"
    transport = "" if flow.protocol == "UDP" else f";transport={flow.protocol.lower()}"
    return f"<sip:{host_port(*flow.local)}{transport}>"


def _is_secure(request: Request) -> bool:
    """Whether our Contact must be a SIPS URI (section 12.1.1): something on the way here is one."""
    routes = request.headers.values("Record-Route")
    way = split_address(routes[0])[1] if routes else request.contact
    return any(uri.lower().startswith("sips:") for uri in (request.uri, way))
