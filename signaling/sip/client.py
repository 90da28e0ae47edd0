"""Calls that we make (RFC 3261, sections 9.1, 13.2 and 22; PRACK, RFC 3262; 422, RFC 4028).

`Client` is the part of the user agent that sends INVITEs. A `Placed` is one call of ours until it is answered, and
until no other fork can answer any more; from then on its dialog is one of `calls`, as if the call had come in.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from signaling.call import Outcome
from signaling.sip import dialog as dialogs
from signaling.sip.alarms import Alarms
from signaling.sip.calls import Calls
from signaling.sip.dialog import Dialog, Negotiation
from signaling.sip.digest import Authenticator, DigestError
from signaling.sip.events import Failed, Progressed, Taken
from signaling.sip.grammar import clean, host_port
from signaling.sip.inviting import cancel_of, invite_of
from signaling.sip.message import SDP, Request, Response
from signaling.sip.outcome import Refusal, refusal_of
from signaling.sip.placed import PLACING, Alarm, Do, Input, Invitation, Placed, State
from signaling.sip.sessiontimer import granted, least
from signaling.sip.transaction import T1, Flow
from signaling.sip.transactions import Transactions

LINGER_S = 64 * T1
"""How long other forks may answer after the first (section 13.2.2.4), and a CANCEL may take to end a call (9.1)."""

MAX_FORKS = 16
"""Dialogs of one call; what other forks say is not heard."""

PAUSE_S = 2.1, 4.0
"""How long to wait after a 491, from and to: we own the Call-ID (section 14.1)."""

MAX_RAISED = 3
"""Times that a 422 is followed: who always wants more is not to be asked for ever."""

MAX_SE = 86_400
"""Longest session interval, in seconds, that a 422 may make us ask for."""


class Client:
    """All calls that we make. What happens is told by the events of `calls`. `chance` gives a number in [0, 1)."""

    def __init__(
        self,
        transactions: Transactions,
        calls: Calls,
        token: Callable[[], str],
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._transactions, self._calls, self._token, self._chance = transactions, calls, token, chance
        self._placed: set[Placed] = set()
        self._alarms: Alarms[Placed] = Alarms()
        self._actions: dict[Do, Callable[[Placed, Response | None, float], None]] = {
            Do.PROGRESS: self._progress,
            Do.TAKE: self._take,
            Do.ACK: self._ack_again,
            Do.RELEASE: self._release,
            Do.RETRY: self._retry,
            Do.PAUSE: self._pause,
            Do.CANCEL: self._cancel,
        }

    def __len__(self) -> int:
        """How many are kept."""
        return len(self._placed)

    @property
    def idle(self) -> bool:
        """Whether none waits for a final response."""
        return all(placed.state in (State.TAKEN, State.LEAVING) for placed in self._placed)

    def uses(self, flow: Flow) -> bool:
        """Whether one goes by that flow."""
        return any(placed.flow == flow for placed in self._placed)

    # --- for whoever makes calls; none has an effect on a call that is past it ---

    def invite(self, invitation: Invitation, media: str | None, flow: Flow, now: float) -> Placed:
        """Call somebody."""
        login = invitation.login
        authenticator = Authenticator(login, self._token) if login else None
        placed = Placed(invitation, media, flow, self._token(), self._token(), authenticator)
        placed.alarms[Alarm.RING] = now + invitation.ring_s
        self._send(placed, now)
        self._placed.add(placed)
        self._alarms.set(placed, placed.next_at)
        return placed

    def give_up(self, placed: Placed, why: Refusal, now: float) -> None:
        """Call no more, whoever wants that."""
        self._step(placed, Input.GIVE_UP, now, None, why)

    def answer(self, placed: Placed, media: str, now: float) -> None:
        """Our answer to the offer that came with a Taken, "" where it cannot be taken: then hang up."""
        dialog = placed.taken
        if dialog is not None and placed.owes:
            dialog.local_media = media
            self._acknowledge(placed, dialog, media)
            self._settle(placed, dialog, now)

    def close(self, reason: str, now: float) -> None:
        """Call nobody any more."""
        for placed in list(self._placed):
            self.give_up(placed, Refusal(Outcome.CANCELLED, "agent", reason), now)

    # --- responses ---

    def _heard(self, placed: Placed, request: Request, response: Response | None, now: float) -> None:
        """To an INVITE of that call; None: nobody answers."""
        if request is not placed.request:
            return  # another was sent since
        if response is None:
            why = Refusal(Outcome.UNREACHABLE, "network", f"no answer from {host_port(*placed.flow.remote)}", 408)
            self._step(placed, Input.NOBODY, now, None, why)
        elif response.code < 300:
            what = self._meaning(placed, response)
            if what is not None:
                owed = "the far end took the call without saying what it sends and where"
                self._step(placed, what, now, response, Refusal(Outcome.FAILED, "network", owed))
        else:
            what, more = self._learn(placed, response)
            self._step(placed, what, now, response, refusal_of(response, more))

    def _meaning(self, placed: Placed, response: Response) -> Input | None:
        """What a response below 300 is to us; None: nothing."""
        tag = response.to_tag
        if response.code >= 200 and tag in placed.acks:
            return Input.REPEATED
        if response.code > 100 and tag not in placed.dialogs and len(placed.dialogs) >= MAX_FORKS:
            return None
        if response.code < 200:
            return Input.PROVISIONAL if self._is_in_order(placed, response) else None
        return Input.SUCCESS if _media(response) or tag in placed.answers else Input.HOLLOW

    def _is_in_order(self, placed: Placed, response: Response) -> bool:
        """RFC 3262, section 4: a reliable response that is not the next one of its fork is not heard."""
        number = _reliable(response)
        last = placed.reliable.get(response.to_tag)
        return number is None or last is None or number == last + 1

    def _learn(self, placed: Placed, response: Response) -> tuple[Input, str]:
        """What a refusal means, and what we know of it that it does not say."""
        if response.code in (401, 407) and placed.authenticator is not None:
            try:
                placed.authenticator.learn(response)
                return Input.AGAIN, ""
            except DigestError as error:
                return Input.FAILURE, str(error)
        if response.code in (401, 407):
            return Input.FAILURE, "and we have none for it"
        wanted = least(response) or 0
        if response.code == 422 and placed.min_se < wanted <= MAX_SE and placed.raised < MAX_RAISED:
            placed.min_se, placed.raised = wanted, placed.raised + 1
            return Input.AGAIN, ""
        if response.code == 491 and not placed.paused:
            placed.paused = True
            return Input.LATER, ""
        return Input.FAILURE, ""

    # --- steps ---

    def _step(self, placed: Placed, what: Input, now: float, response: Response | None, why: Refusal) -> None:
        """One step of the table; `why` is told if it comes to nothing by it."""
        entry = PLACING.get((placed.state, what))
        if entry is None:
            return
        placed.state, actions = entry
        for action in actions:
            if action is Do.FAIL:
                self._fail(placed, why, now)
            else:
                self._actions[action](placed, response, now)
        if placed.state is State.OVER:
            self._forget(placed, now)
        self._alarms.set(placed, placed.next_at)

    def _fail(self, placed: Placed, why: Refusal, now: float) -> None:
        placed.alarms.pop(Alarm.RING, None)
        self._drop_forks(placed, now)
        self._calls.events.append(Failed(placed, why))

    def _retry(self, placed: Placed, response: Response | None, now: float) -> None:
        """Anew: what the last attempt began ended with its final response (section 13.2.2.3)."""
        self._drop_forks(placed, now)
        placed.answers.clear()
        placed.reliable.clear()
        self._send(placed, now)

    def _pause(self, placed: Placed, response: Response | None, now: float) -> None:
        self._drop_forks(placed, now)
        shortest, longest = PAUSE_S
        placed.alarms[Alarm.DUE] = now + shortest + (longest - shortest) * self._chance()

    def _cancel(self, placed: Placed, response: Response | None, now: float) -> None:
        assert placed.request is not None
        cancel = cancel_of(placed, placed.request)
        self._transactions.ask(cancel, placed.flow, now)
        placed.alarms[Alarm.FORGET] = now + LINGER_S

    def _forget(self, placed: Placed, now: float) -> None:
        placed.alarms.clear()
        self._drop_forks(placed, now)
        self._placed.discard(placed)
        if placed.request is not None:
            self._transactions.abandon(placed.request)

    def _drop_forks(self, placed: Placed, now: float) -> None:
        """The early dialogs, but for the one that became the call's."""
        for tag, dialog in list(placed.dialogs.items()):
            if dialog.state is dialogs.State.PLACED and dialog is not placed.taken:
                del placed.dialogs[tag]
                self._calls.drop(dialog, now)

    # --- dialogs ---

    def _progress(self, placed: Placed, response: Response | None, now: float) -> None:
        assert response is not None
        if response.code == 100:
            return
        tag, media, number = response.to_tag, _media(response), _reliable(response)
        dialog = self._dialog(placed, response) if tag else None
        early = media if placed.media is not None else None
        if dialog is not None and early is not None:
            placed.answers[tag] = early
        if dialog is not None and number is not None:
            placed.reliable[tag] = number
            if early is not None:
                dialog.negotiation = Negotiation.STABLE
            rack = ("RAck", f"{number} {response.headers.get('CSeq')}")
            self._calls.requests.ask(dialog, "PRACK", now, rack)
        self._calls.events.append(Progressed(placed, dialog, response.code, clean(response.phrase, 60), early))

    def _dialog(self, placed: Placed, response: Response) -> Dialog:
        """The fork's dialog; what a later response says of the way to it holds (section 13.2.2.4)."""
        assert placed.request is not None
        fresh = Dialog.placed(placed.request, response, placed.flow, placed.authenticator)
        fresh.natted = placed.invitation.pinned
        dialog = placed.dialogs.setdefault(response.to_tag, fresh)
        if dialog is fresh:
            self._calls.keep(dialog)
        else:
            dialog.retarget(response)
            if response.code >= 200:
                dialog.routes = fresh.routes
        return dialog

    def _take(self, placed: Placed, response: Response | None, now: float) -> None:
        assert response is not None
        tag = response.to_tag
        placed.taken = dialog = self._dialog(placed, response)
        placed.alarms.pop(Alarm.RING, None)
        placed.alarms[Alarm.FORGET] = now + LINGER_S
        dialog.min_se = placed.min_se
        dialog.refreshed(granted(response), now)
        media = None if dialog.changed_early else _media(response) or placed.answers.get(tag, "")
        if placed.media is None:
            placed.acks[tag] = None
            dialog.negotiation, dialog.remote_media = Negotiation.OFFERED, media or ""
        else:
            self._acknowledge(placed, dialog)
            self._settle(placed, dialog, now)
        self._calls.events.append(Taken(placed, dialog, media))
        self._drop_forks(placed, now)

    def _settle(self, placed: Placed, dialog: Dialog, now: float) -> None:
        """The 2xx is acknowledged: the dialog is as one of a call that came in."""
        dialog.negotiation = Negotiation.STABLE
        dialog.handle(dialogs.Input.TAKEN)
        self._calls.keep(dialog)

    def _acknowledge(self, placed: Placed, dialog: Dialog, media: str = "") -> None:
        ack = dialog.ack(placed.number, self._token(), media)
        sent = bytes(ack), self._calls.requests.way_to(dialog)
        placed.acks[dialog.id[2]] = sent
        self._transactions.outgoing.append(sent)

    def _ack_again(self, placed: Placed, response: Response | None, now: float) -> None:
        assert response is not None
        sent = placed.acks[response.to_tag]
        self._transactions.outgoing += [sent] if sent is not None else []

    def _release(self, placed: Placed, response: Response | None, now: float) -> None:
        """A call that nobody wants: section 13.2.2.4 has it acknowledged and ended."""
        assert response is not None
        dialog = self._dialog(placed, response)
        self._acknowledge(placed, dialog)
        placed.alarms[Alarm.FORGET] = now + LINGER_S
        self._calls.release(dialog, "not wanted any more" if placed.taken is None else "answered by another", now)

    # --- what is sent ---

    def _send(self, placed: Placed, now: float) -> None:
        """The INVITE: the next attempt has another branch and CSeq, but the same Call-ID and From (section 8.1.3.5)."""
        placed.number += 1
        placed.request = request = invite_of(placed, self._token())

        def told(response: Response | None, at: float) -> None:
            self._heard(placed, request, response, at)

        self._transactions.ask(request, placed.flow, now, told)

    # --- time ---

    def fire(self, now: float) -> None:
        """Let everything happen that is due."""
        while (placed := self._alarms.take(now)) is not None:
            for alarm in [alarm for alarm, at in placed.alarms.items() if at <= now]:
                placed.alarms.pop(alarm, None)
                self._wake(placed, alarm, now)
            self._alarms.set(placed, placed.next_at)

    @property
    def next_at(self) -> float | None:
        """When the next thing is due."""
        return self._alarms.next_at

    def _wake(self, placed: Placed, alarm: Alarm, now: float) -> None:
        if alarm is Alarm.FORGET and placed.taken is not None and placed.owes:
            self.answer(placed, "", now)
            self._calls.hang_up(placed.taken, "we had no answer to the far end's offer", now)
        ring_s = placed.invitation.ring_s
        why = Refusal(Outcome.NO_ANSWER, "agent", f"nobody took the call within {ring_s:g} s")
        what = {Alarm.RING: Input.GIVE_UP, Alarm.DUE: Input.DUE, Alarm.FORGET: Input.FORGET}[alarm]
        self._step(placed, what, now, None, why)


# --- small print ---------------------------------------------------------------------------------------------------


def _media(response: Response) -> str | None:
    """The session description in a response."""
    return response.media if response.content_type == SDP else None


def _reliable(response: Response) -> int | None:
    """The RSeq of a provisional response that is to be acknowledged (RFC 3262, section 7.1)."""
    text = response.headers.get("RSeq").strip(" ")
    if response.code == 100 or not response.to_tag or "100rel" not in response.headers.options("Require"):
        return None
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 10 else None
