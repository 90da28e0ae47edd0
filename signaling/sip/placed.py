"""A call of ours until it is answered (RFC 3261, sections 9.1 and 13.2), as a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeAlias

from signaling.sip.dialog import Dialog
from signaling.sip.digest import Authenticator, Login
from signaling.sip.grammar import clean, parse_address, parse_uri
from signaling.sip.message import Request
from signaling.sip.sessiontimer import MIN_SE
from signaling.sip.transaction import Flow

RING_S = 60.0
"""How long it may ring, if nobody says otherwise."""


class State(Enum):
    """Where a call of ours stands."""

    CALLING = "nobody has said anything"
    RINGING = "there was a provisional response"
    PAUSED = "to be tried again in a moment"
    HASTY = "to be cancelled as soon as there is a provisional response"
    CANCELLING = "the CANCEL is sent"
    TAKEN = "somebody took it; other forks may do so too"
    LEAVING = "it is over; whoever takes it all the same is told so"
    OVER = "nothing can come any more"


class Input(Enum):
    """What can happen to it."""

    PROVISIONAL = "1xx"
    SUCCESS = "2xx of a fork that did not answer yet"
    HOLLOW = "such a 2xx, without the description that it owes"
    REPEATED = "2xx again"
    AGAIN = "a refusal after which the request is to be made in another way"
    LATER = "a refusal after which it is to be made again in a moment"
    FAILURE = "any other final response"
    NOBODY = "there is no final response"
    GIVE_UP = "we want it no more"
    DUE = "the pause is over"
    FORGET = "no response can come any more"


class Do(Enum):
    """What it does on its way to the next state."""

    PROGRESS = "tell what a provisional response says, and acknowledge it if that is asked for"
    TAKE = "acknowledge the 2xx and tell of it: its dialog is the call's"
    ACK = "acknowledge the 2xx again"
    RELEASE = "acknowledge the 2xx and say BYE"
    RETRY = "send the INVITE in another way"
    PAUSE = "wake up in a moment"
    CANCEL = "send a CANCEL"
    FAIL = "tell that it came to nothing"


Table: TypeAlias = Mapping[tuple[State, Input], tuple[State, tuple[Do, ...]]]

PLACING: Table = {
    (State.CALLING, Input.PROVISIONAL): (State.RINGING, (Do.PROGRESS,)),
    (State.CALLING, Input.SUCCESS): (State.TAKEN, (Do.TAKE,)),
    (State.CALLING, Input.HOLLOW): (State.LEAVING, (Do.RELEASE, Do.FAIL)),
    (State.CALLING, Input.AGAIN): (State.CALLING, (Do.RETRY,)),
    (State.CALLING, Input.LATER): (State.PAUSED, (Do.PAUSE,)),
    (State.CALLING, Input.FAILURE): (State.OVER, (Do.FAIL,)),
    (State.CALLING, Input.NOBODY): (State.OVER, (Do.FAIL,)),
    # section 9.1: no CANCEL before there was a provisional response
    (State.CALLING, Input.GIVE_UP): (State.HASTY, (Do.FAIL,)),
    (State.RINGING, Input.PROVISIONAL): (State.RINGING, (Do.PROGRESS,)),
    (State.RINGING, Input.SUCCESS): (State.TAKEN, (Do.TAKE,)),
    (State.RINGING, Input.HOLLOW): (State.LEAVING, (Do.RELEASE, Do.FAIL)),
    (State.RINGING, Input.AGAIN): (State.CALLING, (Do.RETRY,)),
    (State.RINGING, Input.LATER): (State.PAUSED, (Do.PAUSE,)),
    (State.RINGING, Input.FAILURE): (State.OVER, (Do.FAIL,)),
    (State.RINGING, Input.GIVE_UP): (State.CANCELLING, (Do.FAIL, Do.CANCEL)),
    (State.PAUSED, Input.DUE): (State.CALLING, (Do.RETRY,)),
    (State.PAUSED, Input.GIVE_UP): (State.OVER, (Do.FAIL,)),
    (State.HASTY, Input.PROVISIONAL): (State.CANCELLING, (Do.CANCEL,)),
    (State.HASTY, Input.SUCCESS): (State.LEAVING, (Do.RELEASE,)),
    (State.HASTY, Input.HOLLOW): (State.LEAVING, (Do.RELEASE,)),
    (State.HASTY, Input.AGAIN): (State.OVER, ()),
    (State.HASTY, Input.LATER): (State.OVER, ()),
    (State.HASTY, Input.FAILURE): (State.OVER, ()),
    (State.HASTY, Input.NOBODY): (State.OVER, ()),
    # section 9.1: the 2xx crossed our CANCEL, so there is a call, which is ended as calls are
    (State.CANCELLING, Input.SUCCESS): (State.LEAVING, (Do.RELEASE,)),
    (State.CANCELLING, Input.HOLLOW): (State.LEAVING, (Do.RELEASE,)),
    (State.CANCELLING, Input.AGAIN): (State.OVER, ()),
    (State.CANCELLING, Input.LATER): (State.OVER, ()),
    (State.CANCELLING, Input.FAILURE): (State.OVER, ()),
    (State.CANCELLING, Input.FORGET): (State.OVER, ()),
    # section 13.2.2.4: each 2xx is acknowledged each time; only the first is wanted
    (State.TAKEN, Input.SUCCESS): (State.TAKEN, (Do.RELEASE,)),
    (State.TAKEN, Input.HOLLOW): (State.TAKEN, (Do.RELEASE,)),
    (State.TAKEN, Input.REPEATED): (State.TAKEN, (Do.ACK,)),
    (State.TAKEN, Input.FORGET): (State.OVER, ()),
    (State.LEAVING, Input.SUCCESS): (State.LEAVING, (Do.RELEASE,)),
    (State.LEAVING, Input.HOLLOW): (State.LEAVING, (Do.RELEASE,)),
    (State.LEAVING, Input.REPEATED): (State.LEAVING, (Do.ACK,)),
    (State.LEAVING, Input.FORGET): (State.OVER, ()),
}


@dataclass(frozen=True)
class Invitation:
    """Whom to call, and as whom. Raises ValueError for text that is no SIP URI.

    `uri` is the Request-URI, `address` ours, `routes` name-addrs of proxies on the way. `pinned`: everything goes by
    the way that the INVITE goes, since what the far end says of itself leads nowhere.
    """

    uri: str
    address: str
    routes: tuple[str, ...] = ()
    login: Login | None = None
    ring_s: float = RING_S
    pinned: bool = False

    def __post_init__(self) -> None:
        for uri in (self.uri, self.address):
            if parse_uri(uri).scheme not in ("sip", "sips"):
                raise ValueError(f"{clean(uri)!r} is not like sip:ada@example.com")
        for route in self.routes:
            parse_address(route)


class Alarm(Enum):
    """What a call of ours waits for."""

    RING = "time to give up ringing"
    DUE = "time to try again"
    FORGET = "time after which no response can come"


@dataclass(eq=False)
class Placed:
    """One call of ours. `media` is our offer, None where the far end is to make one."""

    invitation: Invitation
    media: str | None
    flow: Flow
    call_id: str
    tag: str
    authenticator: Authenticator | None
    state: State = State.CALLING
    number: int = 0
    """CSeq of the last INVITE."""
    request: Request | None = None
    dialogs: dict[str, Dialog] = field(default_factory=dict)
    """By the far end's tag, one for each fork that said something."""
    taken: Dialog | None = None
    answers: dict[str, str] = field(default_factory=dict)
    """What a fork answered in a provisional response, after which its 2xx may have no answer (section 13.2.1)."""
    reliable: dict[str, int] = field(default_factory=dict)
    """RSeq of each fork's last reliable provisional response."""
    acks: dict[str, tuple[bytes, Flow] | None] = field(default_factory=dict)
    """The ACK of each fork's 2xx; None while our own side still owes the answer that is to be in it."""
    alarms: dict[Alarm, float] = field(default_factory=dict)
    min_se: int = MIN_SE
    """The session interval, in seconds, that a 422 made us ask for at least."""
    raised: int = 0
    """How often a 422 has."""
    paused: bool = False
    elsewhere: bool = False
    """Whether it is given up because another phone has the call."""

    @property
    def is_unheard(self) -> bool:
        """Whether nothing at all has come back yet: not even a 100, or a challenge."""
        return self.state is State.CALLING and self.number == 1

    @property
    def owes(self) -> bool:
        """Whether our own side owes an answer to the far end's offer."""
        return self.taken is not None and self.acks[self.taken.id[2]] is None

    @property
    def next_at(self) -> float | None:
        """When something is due; None if nothing will be."""
        return min(self.alarms.values(), default=None)
