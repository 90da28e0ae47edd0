"""Calls that came in: how they begin, change and end (RFC 3261, sections 12-15; UPDATE, RFC 3311).

`Calls` is the part of the user agent that knows dialogs. Requests reach it as `Served`; what happens is told by
`events`.
"""

from __future__ import annotations

from collections.abc import Callable

from signaling.sip import dialog as dialogs
from signaling.sip.alarms import Alarms
from signaling.sip.capabilities import ALLOW, SUPPORTED
from signaling.sip.dialog import Alarm, Dialog, Negotiation
from signaling.sip.early import Early
from signaling.sip.events import Answered, Changed, Ended, Event, Invited, Pressed
from signaling.sip.grammar import readable
from signaling.sip.info import KINDS, read
from signaling.sip.message import SDP, Request
from signaling.sip.offers import Offers
from signaling.sip.reason import reason_of
from signaling.sip.replaces import refusal, replaces_of
from signaling.sip.requests import Requests
from signaling.sip.sessiontimer import answer_fields, asked_for
from signaling.sip.transaction import Flow, State
from signaling.sip.transactions import Served, Transactions

RETRY_S = 10
"""Retry-After of a 503, in seconds."""


class Calls:
    """All calls. `trusted` says whether a host (a literal) is one that requests of ours may be sent to."""

    def __init__(self, transactions: Transactions, trusted: Callable[[str], bool], token: Callable[[], str]) -> None:
        self.events: list[Event] = []
        self._transactions, self._trusted = transactions, trusted
        self.requests = Requests(transactions, trusted, token, self.rouse)
        self._offers = Offers(transactions, self._succeed, lambda changed: self.events.append(changed))
        self._dialogs: dict[tuple[str, str, str], Dialog] = {}
        self._invites: dict[Dialog, Served] = {}
        self._alarms: Alarms[Dialog] = Alarms()
        self._early = Early(transactions)
        self._taking: dict[Dialog, Dialog] = {}  # the call whose place one takes
        self.wakes: dict[Alarm, Callable[[Dialog, float], None]] = {}
        """What else alarms mean, to those who set them."""
        self.when_over: list[Callable[[Dialog, str, float], None]] = []
        """Told of each call that ends, and by whom it does: "caller", "callee", "agent", "network"."""

    def __len__(self) -> int:
        """How many things are kept: dialogs, and requests in them that wait for our own side."""
        return len(self._dialogs) + len(self._invites) + len(self._offers) + len(self._early) + len(self._taking)

    @property
    def idle(self) -> bool:
        """Whether no call is left, but for those that are over."""
        return all(dialog.state is dialogs.State.TERMINATED for dialog in self._dialogs.values())

    def uses(self, flow: Flow) -> bool:
        """Whether a call goes by that flow."""
        return any(dialog.flow == flow and not dialog.over for dialog in self._dialogs.values())

    def find(self, request: Request) -> Dialog | None:
        """The dialog that a request is in (section 12.2.2)."""
        return self._dialogs.get((request.call_id, request.to_tag, request.from_tag))

    # --- for whoever answers calls; none has an effect on a call that is past it ---

    def ring(self, dialog: Dialog, media: str | None, now: float) -> None:
        """180, or 183 with early media."""
        if dialog.state is dialogs.State.EARLY:
            served = self._invites[dialog]
            self._early.ring(dialog, served, media or "", _in_dialog(dialog, served.request), now)
            self.rouse(dialog)

    def accept(self, dialog: Dialog, media: str, now: float) -> None:
        """200 with our answer, or our offer where the INVITE had none; what rings reliably has its PRACK before.

        RFC 3262, section 3, asks that of early media alone; but not everybody can take a 200 before their PRACK's.
        """
        if dialog.state is dialogs.State.EARLY:
            waits = self._early.waits(dialog)
            if waits is not None:
                waits.then = media
            else:
                self._succeed(dialog, self._invites[dialog], media, now)

    def reject(self, dialog: Dialog, code: int, reason: str, now: float) -> None:
        """A final response other than 2xx."""
        self._step(dialog, dialogs.Input.REFUSE, now, "agent", reason, code)

    def change(self, changed: Changed, outcome: str | int, now: float) -> None:
        """Answer a Changed with a session description, or refuse it with a status; too late, it has no effect."""
        self._offers.change(changed, outcome, now)
        self.rouse(changed.dialog)

    def hang_up(self, dialog: Dialog, reason: str, now: float) -> None:
        """End the call in whatever state it is; a BYE waits for the ACK of our 2xx."""
        self._step(dialog, dialogs.Input.HANG_UP, now, "agent", reason or "hung up", 480)

    def close(self, reason: str, now: float) -> None:
        """End all calls, and wait for nobody's ACK."""
        for dialog in list(self._dialogs.values()):
            self.hang_up(dialog, reason, now)
            self._step(dialog, dialogs.Input.NO_ACK, now, "agent", reason)

    # --- calls of ours, for `client` ---

    def keep(self, dialog: Dialog) -> None:
        """A dialog of a call of ours, early or taken: requests in it are served."""
        self._dialogs[dialog.id] = dialog
        self._alarms.set(dialog, dialog.next_at)

    def drop(self, dialog: Dialog, now: float) -> None:
        """An early dialog that came to nothing."""
        if dialog.handle(dialogs.Input.DROPPED) is not None:
            self._offers.unchanged(dialog, 487, now)
            del self._dialogs[dialog.id]
            self._alarms.set(dialog, None)

    def release(self, dialog: Dialog, reason: str, now: float) -> None:
        """BYE in the dialog of a fork that was taken, and acknowledged, although nobody wants it; nothing is told."""
        if dialog.handle(dialogs.Input.TAKEN) is not None and dialog.handle(dialogs.Input.HANG_UP) is not None:
            dialog.farewell = reason
            self.requests.bye(dialog, now)
            self._alarms.set(dialog, dialog.next_at)

    # --- for those who ask the peer something within a call ---

    def answer(self, served: Served, code: int, now: float, *fields: tuple[str, str], phrase: str = "") -> None:
        """Answer a request that is served elsewhere."""
        self._transactions.answer(served, code, now, *fields, phrase=phrase)

    def lose(self, dialog: Dialog, why: str, now: float) -> None:
        """End a call that the peer has lost."""
        self._step(dialog, dialogs.Input.EXPIRED, now, "network", why)

    def rouse(self, dialog: Dialog) -> None:
        """Something was changed about when it wants to be woken."""
        self._alarms.set(dialog, dialog.next_at)

    # --- requests ---

    def invite(self, served: Served, now: float) -> None:
        """INVITE, the first or another."""
        if served.dialog is not None:
            self._offers.offered(served, served.dialog, now)
            self.rouse(served.dialog)
        elif not readable(served.request.headers.values("Record-Route")):
            self._transactions.answer(served, 400, now, phrase="Bad Request (bad Record-Route)")
        elif self._offers.acceptable(served, now) and self._replaces(served, now):
            dialog = Dialog.invited(served.request, served.flow, served.tag, now)
            served.dialog = dialog
            self._dialogs[dialog.id] = dialog
            self._invites[dialog] = served
            if (named := replaces_of(served.request)) is not None:
                self._taking[dialog] = self._dialogs[named.id]
            self._transactions.answer(served, 100, now)
            self.rouse(dialog)
            self.events.append(Invited(dialog, served.request))

    def _replaces(self, served: Served, now: float) -> bool:
        """Whether a call takes nobody's place, or that of one it may have (RFC 3891, section 3); if not, it is said."""
        try:
            named = replaces_of(served.request)
        except ValueError as error:
            self._transactions.answer(served, 400, now, phrase=f"Bad Request ({error})")
            return False
        if named is None:
            return True
        code = refusal(named, self._dialogs.get(named.id), served.flow.remote[0], self._trusted)
        if code:
            self._transactions.answer(served, code, now)
        return not code

    def update(self, served: Served, now: float) -> None:
        """UPDATE: an offer, or a session refresh."""
        dialog = served.dialog
        if dialog is None or dialog.over:
            self._transactions.answer(served, 481, now)
        elif served.request.body:
            self._offers.offered(served, dialog, now)
            self.rouse(dialog)
        elif self._offers.acceptable(served, now):
            self._succeed(dialog, served, "", now)

    def prack(self, served: Served, now: float) -> None:
        """PRACK of a reliable provisional response (RFC 3262, section 3), with what it brings (section 5)."""
        dialog, request = served.dialog, served.request
        last = None if dialog is None else self._early.acknowledged(dialog, request)
        if dialog is None or last is None:
            self._transactions.answer(served, 481, now)
            return
        owed = bool(last.media) and dialog.remote_media is None
        if last.media:
            dialog.settled_early(last.media)
        if owed and (request.media is None or request.content_type != SDP):
            self._transactions.answer(served, 400, now, phrase="Bad Request (no answer to our offer)")
            self.reject(dialog, 488, "the PRACK brought no answer to our offer", now)
        elif request.body and not owed:
            self._offers.offered(served, dialog, now)
        else:
            self._transactions.answer(served, 200, now)
            self.events += [Answered(dialog, request.media)] if owed and request.media else []
        if last.then is not None:
            self.accept(dialog, last.then, now)
        elif dialog.state is dialogs.State.EARLY:
            self._early.go_on(dialog, now)
        self.rouse(dialog)

    def bye(self, served: Served, now: float) -> None:
        """BYE (section 15.1.2)."""
        dialog = served.dialog
        if dialog is None:
            self._transactions.answer(served, 481, now)
            return
        self._transactions.answer(served, 200, now)
        self._step(dialog, dialogs.Input.BYE, now, dialog.peer, reason_of(served.request) or "hung up", 487)

    def cancelled(self, invite: Served, cancel: Request, now: float) -> None:
        """CANCEL of an INVITE (section 9.2): without effect once that is answered."""
        dialog = invite.dialog
        if dialog is None or invite.transaction.state is not State.PROCEEDING:
            return
        if self._invites.get(dialog) is invite:
            self._step(dialog, dialogs.Input.CANCEL, now, "caller", reason_of(cancel) or "cancelled", 487)
        else:
            self._offers.unchanged(dialog, 487, now)
            self.rouse(dialog)

    def info(self, served: Served, now: float) -> None:
        """INFO: a digit."""
        dialog = served.dialog
        if dialog is None or dialog.over:
            self._transactions.answer(served, 481, now)
            return
        code, phrase, key = read(served.request)
        accept = (("Accept", ", ".join(KINDS)),) if code == 415 else ()
        self._transactions.answer(served, code, now, *accept, phrase=phrase)
        self.events += [Pressed(dialog, key)] if key else []

    def acknowledged(self, ack: Request, flow: Flow, now: float) -> bool:
        """ACK of a 2xx; False where there is nothing to acknowledge."""
        dialog = self.find(ack)
        if dialog is None or ack.cseq[0] != dialog.accepted_cseq:
            return False
        dialog.flow = flow
        owed = dialog.negotiation is Negotiation.OFFERING
        if self._step(dialog, dialogs.Input.ACK, now, "agent", dialog.farewell):  # else repeated, as its 2xx was
            dialog.negotiation = Negotiation.STABLE
            if owed and dialog.state is dialogs.State.CONFIRMED:
                self._owed(dialog, ack, now)
        return True

    def _owed(self, dialog: Dialog, ack: Request, now: float) -> None:
        """The ACK must bring the answer to our offer (section 13.2.1)."""
        if ack.media is None or ack.content_type != SDP:
            self.hang_up(dialog, "the ACK brought no answer to our offer", now)
        else:
            dialog.remote_media = None  # it is no offer that could be repeated
            self.events.append(Answered(dialog, ack.media))

    # --- what is sent ---

    def _succeed(self, dialog: Dialog, served: Served, media: str, now: float) -> None:
        """200 to an INVITE, re-INVITE or UPDATE."""
        request = served.request
        timer = asked_for(request)
        if request.method == "INVITE" and dialog.early_answer:
            media = ""  # what was agreed before stands
        fields = (*_in_dialog(dialog, request), ("Allow", ALLOW), ("Supported", SUPPORTED), *answer_fields(timer))
        self._transactions.answer(served, 200, now, *fields, media=media)
        if request.method != "PRACK":
            dialog.retarget(request)
            dialog.refreshed(timer, now)
        if media:
            dialog.local_media, dialog.remote_media = media, request.media
        if request.method == "INVITE":
            self._invites.pop(dialog, None)
            dialog.accepted(request, served.transaction.last, served.flow, now)
            self._step(dialog, dialogs.Input.ACCEPT, now)
            if (old := self._taking.pop(dialog, None)) is not None:
                self.hang_up(old, "another call took its place", now)
        elif media:
            dialog.negotiation = Negotiation.STABLE
            dialog.changed_early |= dialog.state is dialogs.State.PLACED
        self._alarms.set(dialog, dialog.next_at)

    def _step(
        self, dialog: Dialog, what: dialogs.Input, now: float, by: str = "", reason: str = "", code: int = 0
    ) -> bool:
        """One step of the call's table, with what it sends; False where it has no effect."""
        was_over = dialog.over
        actions = dialog.handle(what)
        if actions is None:
            return False
        if dialog.over and not was_over:
            dialog.farewell = reason
            for tell in self.when_over:
                tell(dialog, by, now)
            self.events.append(Ended(dialog, by, reason))
            self._offers.unchanged(dialog, 487, now)
            self._early.forget(dialog)
            self._taking.pop(dialog, None)
        for action in actions:
            if action is dialogs.Do.REFUSE:
                retry = (("Retry-After", str(RETRY_S)),) if code == 503 else ()
                self._transactions.answer(self._invites.pop(dialog), code, now, *retry)
            else:
                self.requests.bye(dialog, now)
        if dialog.state is dialogs.State.TERMINATED and Alarm.FORGET not in dialog.alarms:
            del self._dialogs[dialog.id]
        self._alarms.set(dialog, dialog.next_at)
        return True

    # --- time ---

    def fire(self, now: float) -> None:
        """Let everything happen that is due."""
        while (dialog := self._alarms.take(now)) is not None:
            for alarm in dialog.due(now):
                self._wake(dialog, alarm, now)
            self._alarms.set(dialog, dialog.next_at)

    @property
    def next_at(self) -> float | None:
        """When the next thing is due."""
        return self._alarms.next_at

    def _wake(self, dialog: Dialog, alarm: Alarm, now: float) -> None:
        """What an alarm means."""
        if alarm is Alarm.REPEAT:
            waiting = dialog.state in (dialogs.State.ACCEPTED, dialogs.State.ENDING)
            self._transactions.outgoing += [dialog.success] if dialog.success and waiting else []
        elif alarm is Alarm.NO_ACK:
            self._step(dialog, dialogs.Input.NO_ACK, now, "network", "our answer was never acknowledged")
        elif alarm is Alarm.UNANSWERED:
            self._step(dialog, dialogs.Input.UNANSWERED, now, "agent", "nobody answered", 480)
        elif alarm is Alarm.PROVISIONAL:
            if not self._early.repeat(dialog, now):
                why = "our ringing was never acknowledged"
                self._step(dialog, dialogs.Input.UNANSWERED, now, "network", why, 504)
        elif alarm is Alarm.EXPIRED:
            self._step(dialog, dialogs.Input.EXPIRED, now, "network", "the session was not refreshed in time")
        elif alarm is Alarm.CHANGE:
            self._offers.unchanged(dialog, 488, now)
        elif alarm is Alarm.FORGET:
            self._dialogs.pop(dialog.id, None)
        else:
            self.wakes[alarm](dialog, now)


# --- small print ---------------------------------------------------------------------------------------------------


def _in_dialog(dialog: Dialog, request: Request) -> tuple[tuple[str, str], ...]:
    """What a response needs that makes or keeps a dialog (section 12.1.1)."""
    routes = tuple(("Record-Route", value) for value in request.headers.getlist("Record-Route"))
    return (*routes, ("Contact", dialog.contact))
