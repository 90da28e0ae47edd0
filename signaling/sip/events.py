"""What the user agent tells whoever answers calls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from signaling.sip.dialog import Dialog
from signaling.sip.message import Request
from signaling.sip.outcome import Refusal
from signaling.sip.placed import Placed
from signaling.sip.transaction import Flow
from signaling.sip.trunk import Kept


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
class Settled:
    """What was `asked` of the peer came to an end: with its `answer`, or without effect, and why."""

    dialog: Dialog
    asked: object
    answer: str
    why: str


@dataclass(frozen=True, eq=False)
class Refreshing:
    """The session is to be refreshed, and the peer serves no UPDATE: propose what our own side offers now.

    It comes again for as long as there is time (RFC 4028, sections 7.4 and 10).
    """

    dialog: Dialog


@dataclass(frozen=True, eq=False)
class Referred:
    """The peer wants us to call `target` in its place: answer with `report`."""

    dialog: Dialog
    order: object
    target: str


@dataclass(frozen=True, eq=False)
class Pressed:
    """A digit."""

    dialog: Dialog
    key: str


@dataclass(frozen=True, eq=False)
class Progressed:
    """Something is known of a call of ours: 180 is ringing. `media` answers our offer for now; `dialog` is early."""

    placed: Placed
    dialog: Dialog | None
    code: int
    phrase: str
    media: str | None


@dataclass(frozen=True, eq=False)
class Taken:
    """A call of ours is answered: `media` answers our offer, or is one that `Client.answer` is to answer.

    None: our offer was answered before, and an UPDATE changed what was agreed since; a description in the 2xx says
    nothing then (RFC 6337, section 3.1.1).
    """

    placed: Placed
    dialog: Dialog
    media: str | None


@dataclass(frozen=True, eq=False)
class Failed:
    """A call of ours came to nothing. Each has one Failed or one Taken, and after a Taken one Ended."""

    placed: Placed
    why: Refusal


@dataclass(frozen=True, eq=False)
class Ended:
    """The call is over; `by` is "caller", "callee", "agent" or "network". Comes once for each Invited or Taken."""

    dialog: Dialog
    by: str
    reason: str


@dataclass(frozen=True, eq=False)
class Mapped:
    """A peer sees us at another place than the one that it is told by that flow."""

    flow: Flow
    place: tuple[str, int]


@dataclass(frozen=True, eq=False)
class Shed:
    """A request was turned away unheard, and why."""

    source: str
    why: str


Event: TypeAlias = (
    Invited
    | Changed
    | Answered
    | Settled
    | Refreshing
    | Referred
    | Pressed
    | Progressed
    | Taken
    | Failed
    | Ended
    | Mapped
    | Shed
    | Kept
)
