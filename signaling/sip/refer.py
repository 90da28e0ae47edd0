"""Transfers (REFER, RFC 3515): ours, as a table, and those that the peer asks of us.

A `Referral` asks the peer to call somebody else. How far it got is told by NOTIFYs with a status line in them; what
became of it, by `Settled`. The call goes on until the peer says that it has reached the other, and then ends.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from signaling.sip import dialog as dialogs
from signaling.sip.calls import Calls
from signaling.sip.dialog import Alarm, Dialog
from signaling.sip.digest import DigestError
from signaling.sip.events import Referred, Settled
from signaling.sip.grammar import clean, parse_uri, part_fields, split_address
from signaling.sip.message import PHRASES, Request, Response
from signaling.sip.replaces import Replaces, escaped
from signaling.sip.sipfrag import SIPFRAG, status_line, status_of
from signaling.sip.transaction import T1
from signaling.sip.transactions import Served

FIRST_NOTIFY_S = 64 * T1
"""How long the peer may take for its first NOTIFY (RFC 6665, timer N)."""

TRANSFER_S = 180.0
"""How long it may take in all: the other's phone may ring for as long as ours does."""

LEAVE_S = 5.0
"""How long the peer, once transferred, may take to hang up before we do."""


class State(Enum):
    """Where a transfer of ours stands."""

    ASKED = "the REFER is not answered"
    TRYING = "the peer is calling the other"
    DONE = "it reached the other, and is to leave"
    OVER = "settled"


class Input(Enum):
    """What can happen to it."""

    ACCEPTED = "2xx, and it will be told how far it gets"
    UNTOLD = "2xx, and nothing will be told (RFC 4488)"
    AGAIN = "the request must be made again, with a password"
    REFUSED = "any other final response, or none"
    PROGRESS = "a NOTIFY of 1xx"
    REACHED = "a NOTIFY of 2xx"
    FAILED = "a NOTIFY of 300-699"
    SILENT = "no NOTIFY will come any more"
    LATE = "it is time"
    LEFT = "the peer has hung up"
    LOST = "the call has ended in any other way"


class Do(Enum):
    """What it does on its way to the next state."""

    SEND = "send the REFER"
    WAIT = "wait for the next NOTIFY"
    TELL = "our side is told that the peer is with the other"
    FAIL = "our side is told why not; the call goes on"
    LEAVE = "give the peer some time to hang up"
    HANG_UP = "hang up"


Table: TypeAlias = Mapping[tuple[State, Input], tuple[State, tuple[Do, ...]]]

REFERRAL: Table = {
    (State.ASKED, Input.ACCEPTED): (State.TRYING, (Do.WAIT,)),
    (State.ASKED, Input.UNTOLD): (State.DONE, (Do.TELL, Do.LEAVE)),
    (State.ASKED, Input.AGAIN): (State.ASKED, (Do.SEND,)),
    (State.ASKED, Input.REFUSED): (State.OVER, (Do.FAIL,)),
    # RFC 3515, section 2.4.4: a NOTIFY may overtake the 202
    (State.ASKED, Input.PROGRESS): (State.TRYING, (Do.WAIT,)),
    (State.ASKED, Input.REACHED): (State.DONE, (Do.TELL, Do.LEAVE)),
    (State.ASKED, Input.FAILED): (State.OVER, (Do.FAIL,)),
    (State.ASKED, Input.SILENT): (State.OVER, (Do.FAIL,)),
    (State.ASKED, Input.LEFT): (State.OVER, (Do.FAIL,)),
    (State.ASKED, Input.LOST): (State.OVER, (Do.FAIL,)),
    (State.TRYING, Input.REFUSED): (State.OVER, (Do.FAIL,)),
    (State.TRYING, Input.PROGRESS): (State.TRYING, (Do.WAIT,)),
    (State.TRYING, Input.REACHED): (State.DONE, (Do.TELL, Do.LEAVE)),
    (State.TRYING, Input.FAILED): (State.OVER, (Do.FAIL,)),
    (State.TRYING, Input.SILENT): (State.OVER, (Do.FAIL,)),
    (State.TRYING, Input.LATE): (State.OVER, (Do.FAIL,)),
    # many peers hang up as soon as they have agreed: they are where we sent them, as far as anybody can know
    (State.TRYING, Input.LEFT): (State.OVER, (Do.TELL,)),
    (State.TRYING, Input.LOST): (State.OVER, (Do.FAIL,)),
    (State.DONE, Input.LATE): (State.OVER, (Do.HANG_UP,)),
    (State.DONE, Input.LEFT): (State.OVER, ()),
    (State.DONE, Input.LOST): (State.OVER, ()),
}


@dataclass(eq=False)
class Referral:
    """A transfer that our own side wants. Raises ValueError for a target that is no SIP or tel URI, nor a number.

    With `taking`, the dialog of another call of ours, that one is taken over by the peer (RFC 3891).
    """

    dialog: Dialog
    target: str
    taking: Dialog | None = None
    state: State = State.ASKED
    number: int = 0
    """CSeq of the REFER, by which NOTIFYs may name it."""
    until: float = 0.0
    """When a transfer that goes on is given up."""
    why: str = ""
    """How far it got, or why it failed."""

    @property
    def refer_to(self) -> str:
        """Whom the peer is to call."""
        if self.taking is None:
            return f"<{target_uri(self.target, self.dialog)}>"
        uri, _ = part_fields(self.taking.target)
        return f"<{uri}?Replaces={escaped(Replaces.of(self.taking))}>"


@dataclass(frozen=True, eq=False)
class Order:
    """A transfer that the peer asks of us, and whether it wants to be told of it. `number` is its CSeq."""

    dialog: Dialog
    number: int
    told: bool


class Referrals:
    """All of them. `may_refer` says whether the peer in a dialog may have us call others."""

    def __init__(self, calls: Calls, may_refer: Callable[[Dialog], bool]) -> None:
        self._calls, self._may_refer = calls, may_refer
        self._ours: dict[Dialog, Referral] = {}
        self._theirs: dict[Dialog, Order] = {}
        calls.wakes[Alarm.TRANSFER] = self._late
        calls.when_over.append(self._over)

    def __len__(self) -> int:
        """How many calls have one."""
        return len(self._ours) + len(self._theirs)

    # --- ours ---

    def refer(self, referral: Referral, now: float) -> None:
        """Ask the peer to call somebody else."""
        dialog, before = referral.dialog, self._ours.get(referral.dialog)
        if dialog.over or dialog.state in (dialogs.State.EARLY, dialogs.State.PLACED):
            why = "the call is over" if dialog.over else "the call is not answered yet"
        elif before is not None and before.state is not State.OVER:
            why = "a transfer of this call is under way already"
        else:
            self._ours[dialog] = referral
            if dialog.authenticator is not None:
                dialog.authenticator.begin()
            referral.until = now + TRANSFER_S
            self._send(referral, now)
            return
        self._calls.events.append(Settled(dialog, referral, "", why))

    def notify(self, served: Served, now: float) -> None:
        """NOTIFY: how far the peer got (section 2.4.5)."""
        dialog, request = served.dialog, served.request
        event, _, parameter = request.headers.get("Event").partition(";")
        referral = self._ours.get(dialog) if dialog is not None else None
        if event.strip(" ").lower() != "refer":
            self._calls.answer(served, 489, now, ("Allow-Events", "refer"))
        elif referral is None or parameter.replace(" ", "") not in ("", f"id={referral.number}"):
            self._calls.answer(served, 481, now)
        else:
            self._calls.answer(served, 200, now)
            self._step(referral, self._read(referral, request), now)

    def _send(self, referral: Referral, now: float) -> None:
        dialog = referral.dialog
        fields = (
            ("Contact", dialog.contact),
            ("Refer-To", referral.refer_to),
            ("Referred-By", f"<{split_address(dialog.local)[1]}>"),
        )
        sent = self._calls.requests.ask(
            dialog, "REFER", now, *fields, told=lambda response, now: self._told(referral, response, now)
        )
        referral.number = sent.cseq[0]

    def _told(self, referral: Referral, response: Response | None, now: float) -> None:
        if response is not None and response.code < 200:
            return
        if response is None:
            referral.why, what = "no answer to the transfer", Input.REFUSED
        elif response.code < 300:
            untold = response.headers.get("Refer-Sub").strip(" ").lower() == "false"
            what = Input.UNTOLD if untold else Input.ACCEPTED
        else:
            referral.why = clean(f"{response.code} {response.phrase}", 100)
            what = Input.AGAIN if self._learns(referral, response) else Input.REFUSED
        self._step(referral, what, now)
        if response is not None and response.code == 481:
            self._calls.lose(referral.dialog, f"the far end knows nothing of the call any more ({referral.why})", now)

    def _learns(self, referral: Referral, response: Response) -> bool:
        """Whether the REFER can be made again as the peer wants it."""
        authenticator = referral.dialog.authenticator
        if response.code not in (401, 407) or authenticator is None:
            return False
        try:
            authenticator.learn(response)
        except DigestError as error:
            referral.why = str(error)
            return False
        return True

    def _read(self, referral: Referral, request: Request) -> Input:
        """What a NOTIFY says."""
        status = status_of(request)
        ended = request.headers.get("Subscription-State").partition(";")[0].strip(" ").lower() == "terminated"
        if status is not None:
            referral.why = f"{status[0]} {status[1]}".strip(" ")
        if status is not None and status[0] >= 200:
            return Input.REACHED if status[0] < 300 else Input.FAILED
        if ended:
            referral.why = f"the far end told no more of it than {referral.why or 'nothing'}"
            return Input.SILENT
        return Input.PROGRESS

    def _step(self, referral: Referral, what: Input, now: float) -> None:
        """One step of the table; without effect where it has no entry."""
        entry = REFERRAL.get((referral.state, what))
        if entry is None:
            return
        before, (referral.state, actions) = referral.state, entry
        for action in actions:
            self._do(referral, action, before, now)

    def _do(self, referral: Referral, action: Do, before: State, now: float) -> None:
        dialog = referral.dialog
        if action is Do.SEND:
            self._send(referral, now)
        elif action is Do.WAIT:
            first = before is State.ASKED and not referral.why
            self._wake_at(dialog, min(now + FIRST_NOTIFY_S, referral.until) if first else referral.until)
        elif action is Do.TELL:
            self._calls.events.append(Settled(dialog, referral, referral.why or "transferred", ""))
        elif action is Do.FAIL:
            self._wake_at(dialog, None)
            self._calls.events.append(Settled(dialog, referral, "", referral.why or "nothing was told of it in time"))
        elif action is Do.LEAVE:
            self._wake_at(dialog, now + LEAVE_S)
        else:
            self._calls.hang_up(dialog, "transferred", now)

    def _late(self, dialog: Dialog, now: float) -> None:
        if (referral := self._ours.get(dialog)) is not None:
            if referral.state is State.TRYING:
                referral.why = f"nothing final was told of it in time; last: {referral.why or 'nothing'}"
            self._step(referral, Input.LATE, now)

    def _over(self, dialog: Dialog, by: str, now: float) -> None:
        self._theirs.pop(dialog, None)
        if (referral := self._ours.pop(dialog, None)) is not None:
            what = Input.LEFT if by == dialog.peer else Input.LOST
            if referral.state is State.ASKED or (referral.state is State.TRYING and what is Input.LOST):
                referral.why = "the call is over"
            self._step(referral, what, now)

    def _wake_at(self, dialog: Dialog, at: float | None) -> None:
        if at is None:
            dialog.alarms.pop(Alarm.TRANSFER, None)
        elif not dialog.over:
            dialog.alarms[Alarm.TRANSFER] = at
        self._calls.rouse(dialog)

    # --- theirs ---

    def referred(self, served: Served, now: float) -> None:
        """REFER: the peer wants us to call somebody. Nobody may, unless it is said who."""
        dialog, request = served.dialog, served.request
        if dialog is not None and dialog.over:
            self._calls.answer(served, 481, now)
        elif dialog is None or dialog in self._theirs or not self._may_refer(dialog):
            self._calls.answer(served, 603, now)
        elif (target := _target(request)) is None:
            self._calls.answer(served, 400, now, phrase="Bad Request (Refer-To must be one SIP or tel URI)")
        elif target[1]:  # a call beside the one that is to be replaced would be worse than none
            self._calls.answer(served, 603, now, phrase="Decline (no attended transfer: Refer-To has header fields)")
        else:
            told = request.headers.get("Refer-Sub").strip(" ").lower() != "false"
            order = Order(dialog, request.cseq[0], told)
            self._calls.answer(
                served, 202, now, ("Contact", dialog.contact), *(() if told else (("Refer-Sub", "false"),))
            )
            self._theirs[dialog] = order
            self._notify(order, 100, now)
            self._calls.events.append(Referred(dialog, order, target[0]))

    def report(self, order: object, code: int, now: float) -> None:
        """Tell the peer what became of a transfer that it asked of us; too late, it has no effect."""
        for dialog, open_ in self._theirs.items():
            if open_ is order:
                if code >= 200:
                    del self._theirs[dialog]
                self._notify(open_, code, now)
                return

    def _notify(self, order: Order, code: int, now: float) -> None:
        """Section 2.4.4: one NOTIFY at once, one with the outcome."""
        if not order.told:
            return
        state = "active;expires=180" if code < 200 else "terminated;reason=noresource"
        fields = (
            ("Contact", order.dialog.contact),
            ("Event", f"refer;id={order.number}"),
            ("Subscription-State", state),
            ("Content-Type", SIPFRAG),
        )
        body = status_line(code, PHRASES.get(code, "")).encode()
        self._calls.requests.ask(order.dialog, "NOTIFY", now, *fields, body=body)


def target_uri(target: str, dialog: Dialog) -> str:
    """A URI, or a number at the peer's own domain. Raises ValueError for anything else."""
    if not target.lower().startswith(("sip:", "sips:", "tel:")):
        target = f"sip:{target}@{_domain(dialog)}"
    if "?" in target:
        raise ValueError(f"transfer target {clean(target)!r} has header fields in it")
    try:
        parse_uri(target)
    except ValueError:
        raise ValueError(f"transfer target {clean(target)!r} is neither a URI like sip:a@b.c nor a number") from None
    return target


def _domain(dialog: Dialog) -> str:
    """Where the peer's numbers are: what it calls itself has that, unless it hides (RFC 3323, section 4.1.1.3)."""
    for uri in (split_address(dialog.remote)[1], dialog.target):
        scheme, _, rest = part_fields(uri)[0].partition(":")
        domain = rest.rpartition("@")[2].partition(";")[0]
        if scheme.lower() in ("sip", "sips") and not domain.partition(":")[0].lower().endswith(".invalid"):
            return domain
    raise ValueError("the peer's address has no domain in which a number could be called")


def _target(request: Request) -> tuple[str, str] | None:
    """URI and header fields of the one Refer-To; None where there is no such that we could call."""
    try:
        (value,) = request.headers.values("Refer-To")
        bare, fields = part_fields(split_address(value)[1])
        if parse_uri(bare).scheme not in ("sip", "sips", "tel"):
            return None
    except ValueError:
        return None
    return bare, fields
