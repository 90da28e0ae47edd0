"""The transaction layer (RFC 3261, section 17): which transaction a message is for, and what all of them send.

Below the user agent, above the transports. A `Served` or `Asked` is one transaction with the way its messages go.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from signaling.sip.alarms import Alarms
from signaling.sip.dialog import Dialog
from signaling.sip.message import SDP, Request, Response, respond
from signaling.sip.transaction import (
    Flow,
    Input,
    Key,
    State,
    Transaction,
    acknowledgement,
    client,
    invite_key,
    invite_server,
    key,
    response_input,
    response_key,
    server,
)

MAX_SERVED = 10_000
"""Server transactions at once; a request beyond them is dropped."""


@dataclass(eq=False)
class Served:
    """A server transaction, and where its responses go. `dialog` is the one it belongs to, or begins."""

    request: Request
    flow: Flow
    transaction: Transaction
    tag: str
    dialog: Dialog | None

    @property
    def key(self) -> Key:
        """What its repetitions share."""
        return key(self.request)

    @property
    def merged_key(self) -> Key:
        """What it shares with the same request by another way (section 8.2.2.2)."""
        return self.request.from_tag, self.request.call_id, self.request.headers.get("CSeq")


Told: TypeAlias = Callable[[Response | None, float], None]
"""Called with each response to a request of ours, and when: every 1xx, the final one, each further 2xx to an INVITE.

None: nobody answered. It comes last, and instead of a final response.
"""

WAITING = (State.CALLING, State.TRYING, State.PROCEEDING)
"""What a client transaction is in before its final response."""


@dataclass(eq=False)
class Asked:
    """A client transaction, and where its request goes."""

    key: Key
    flow: Flow
    transaction: Transaction
    request: Request | None = None
    told: Told = lambda response, now: None


class Transactions:
    """All of them. `outgoing` is to be sent, in order; who takes it away empties it."""

    def __init__(self) -> None:
        self.outgoing: list[tuple[bytes, Flow]] = []
        self._served: dict[Key, Served] = {}
        self._merges: dict[Key, Served] = {}
        self._asked: dict[Key, Asked] = {}
        self._alarms: Alarms[Served | Asked] = Alarms()

    def __len__(self) -> int:
        """How many things are kept."""
        return len(self._served) + len(self._merges) + len(self._asked)

    @property
    def full(self) -> bool:
        """Whether no more can be served."""
        return len(self._served) >= MAX_SERVED

    @property
    def asking(self) -> bool:
        """Whether a request of ours waits for its answer."""
        return any(asked.transaction.state in WAITING for asked in self._asked.values())

    # --- what comes in ---

    def repeated(self, request: Request, now: float) -> bool:
        """Whether that request is being served; its transaction deals with it."""
        served = self._served.get(key(request))
        if served is None:
            return False
        served.transaction.handle(Input.REQUEST, now)
        self._settle(served)
        return True

    def acknowledged(self, ack: Request, now: float) -> bool:
        """Whether that ACK is for a final response other than 2xx, which its transaction was waiting to hear of."""
        served = self._served.get(key(ack))
        if served is None or not served.transaction.handle(Input.ACK, now):
            return False
        self._settle(served)
        return True

    def answered(self, response: Response, now: float) -> bool:
        """Whether that response is for a request of ours."""
        asked = self._asked.get(response_key(response))
        if asked is None:
            return False
        was = asked.transaction.state
        if not asked.transaction.handle(response_input(response.code), now, _ack(asked.request, response)):
            return False
        self._settle(asked)
        if was is not State.COMPLETED:
            asked.told(response, now)
        return True

    # --- requests that are served ---

    def serve(self, request: Request, flow: Flow, tag: str, dialog: Dialog | None) -> Served:
        """Open a server transaction; `tag` is ours for its responses."""
        make = invite_server if request.method == "INVITE" else server
        served = Served(request, flow, make(flow.reliable), tag, dialog)
        self._served[served.key] = served
        return served

    def is_merged(self, served: Served) -> bool:
        """Whether the same request came before, by another way."""
        return self._merges.setdefault(served.merged_key, served) is not served

    def invite_of(self, cancel: Request) -> Served | None:
        """The INVITE that a CANCEL is for (section 9.2)."""
        return self._served.get(invite_key(cancel))

    def answer(
        self, served: Served, code: int, now: float, *extra: tuple[str, str], media: str = "", phrase: str = ""
    ) -> None:
        """Send a response, with a session description where `media` is one."""
        tag = "" if code == 100 else served.tag
        fields = (*extra, ("Content-Type", SDP)) if media else extra
        body = media.encode(errors="surrogateescape")
        response = respond(served.request, code, *fields, to_tag=tag, body=body, phrase=phrase)
        served.transaction.answer(response, now)
        self._settle(served)

    # --- requests of ours ---

    def ask(self, request: Request, flow: Flow, now: float, told: Told = lambda response, now: None) -> None:
        """Send a request, and again until it is answered or nobody can be reached. An ACK is no such request."""
        branch = request.via.parameters["branch"] or ""
        asked = Asked((branch, request.method), flow, client(request, flow.reliable, now), request, told)
        self._asked[asked.key] = asked
        self._settle(asked)

    def abandon(self, request: Request) -> None:
        """Wait no more for the final response to a request of ours; once there was one, it has no effect."""
        asked = self._asked.get((request.via.parameters["branch"] or "", request.method))
        if asked is not None and asked.transaction.state in WAITING:
            del self._asked[asked.key]
            self._alarms.set(asked, None)

    def lost(self, flow: Flow, now: float) -> None:
        """A connection is gone (section 17.1.4). Only an INVITE that begins a call, and got no response yet, is over by
        that: it may be tried elsewhere. All others can still be answered, by another connection (section 18.2.2).
        """
        for asked in [each for each in self._asked.values() if each.flow == flow]:
            begins = asked.request is not None and not asked.request.to_tag
            if begins and asked.transaction.handle(Input.LOST, now):
                self._settle(asked)
                asked.told(None, now)

    # --- time ---

    def fire(self, now: float) -> None:
        """Let every timer fire that is due."""
        while (thing := self._alarms.take(now)) is not None:
            was = thing.transaction.state
            thing.transaction.fire(now)
            self._settle(thing)
            if isinstance(thing, Asked) and was in WAITING and thing.transaction.state is State.TERMINATED:
                thing.told(None, now)

    @property
    def next_at(self) -> float | None:
        """When the next timer fires."""
        return self._alarms.next_at

    def _settle(self, thing: Served | Asked) -> None:
        """After something happened to a transaction: send what it wants sent, wake it when it wants to be woken."""
        self.outgoing += [(data, thing.flow) for data in thing.transaction.outbox]
        thing.transaction.outbox.clear()
        self._alarms.set(thing, thing.transaction.next_at)
        if thing.transaction.state is not State.TERMINATED:
            return
        if isinstance(thing, Asked):
            self._asked.pop(thing.key, None)
            return
        self._served.pop(thing.key, None)
        if self._merges.get(thing.merged_key) is thing:
            del self._merges[thing.merged_key]


def _ack(request: Request | None, response: Response) -> bytes:
    """What goes out for a final response other than 2xx, if an INVITE met with it."""
    if request is None or request.method != "INVITE" or response.code < 300:
        return b""
    return bytes(acknowledgement(request, response))
