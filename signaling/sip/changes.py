"""Changes of a session that our own side wants: re-INVITE (RFC 3261, section 14.1) and UPDATE (RFC 3311), as a table.

A `Change` with a description is an offer, as for hold; one without is a refresh of the session by UPDATE (RFC 4028,
section 7.4). Where the peer serves none, `Refreshing` asks our own side for an offer: what it described last may have
been an answer, and what the peer answers is for it to know. Those of one call wait for each other. What becomes of an
offer is told by `Settled`; a peer that knows nothing of the call any more, or says nothing at all, ends it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from signaling.sip import dialog as dialogs
from signaling.sip.calls import Calls
from signaling.sip.capabilities import ALLOW
from signaling.sip.dialog import Alarm, Dialog, Negotiation
from signaling.sip.digest import DigestError
from signaling.sip.events import Refreshing, Settled
from signaling.sip.grammar import clean
from signaling.sip.message import SDP, Request, Response
from signaling.sip.outcome import wait_of
from signaling.sip.sessiontimer import SessionTimer, granted, least, request_fields
from signaling.sip.transaction import T1, cancellation

MAX_TRIES = 5
"""Times that a change is sent before a collision, or a peer that is busy, counts as a refusal."""

MAX_RETRY_S = 10.0
"""Longest wait that a peer's Retry-After may ask for."""

MAX_MIN_SE = 86_400
"""Longest session interval, in seconds, that a 422 may raise ours to."""

GIVE_UP_S = 66 * T1
"""How long a re-INVITE may go without a final response once it has a provisional one; then it is cancelled. Without
any, its transaction gives up before."""

LAST_TRY_S = 5.0
"""A refresh that was refused is tried again as long as so much time is left, and not sooner than after so much."""

MAX_WAITING = 4
"""Changes of one call that wait for the one before; more are refused."""


class State(Enum):
    """Where a change stands."""

    NEW = "not begun"
    ASKING = "its request is not answered"
    CANCELLING = "its request is not answered, and taken back"
    WAITING = "to be tried again"
    OVER = "settled"


class Input(Enum):
    """What can happen to it."""

    BEGIN = "it is its turn"
    BLOCKED = "something else is open in the dialog"
    SUCCESS = "2xx"
    REFUSED = "any other final response"
    AGAIN = "a final response that says how it is to be asked"
    COLLIDED = "491: the peer wants a change too"
    LATER = "500 or 503 with Retry-After: the peer is not done with something, or busy"
    GONE = "408, 481 or nothing: the peer knows nothing of the call"
    DUE = "it is time"


class Do(Enum):
    """What it does on its way to the next state."""

    SEND = "send the request"
    CANCEL = "take it back"
    BACK_OFF = "wait for some time"
    ADOPT = "the session is as we offered"
    REFUSE = "the session stays as it was"
    END = "end the call"


Table: TypeAlias = Mapping[tuple[State, Input], tuple[State, tuple[Do, ...]]]

CHANGE: Table = {
    (State.NEW, Input.BEGIN): (State.ASKING, (Do.SEND,)),
    (State.NEW, Input.BLOCKED): (State.WAITING, (Do.BACK_OFF,)),
    (State.WAITING, Input.DUE): (State.ASKING, (Do.SEND,)),
    (State.WAITING, Input.BLOCKED): (State.WAITING, (Do.BACK_OFF,)),
    (State.WAITING, Input.REFUSED): (State.OVER, (Do.REFUSE,)),
    (State.ASKING, Input.SUCCESS): (State.OVER, (Do.ADOPT,)),
    (State.ASKING, Input.REFUSED): (State.OVER, (Do.REFUSE,)),
    (State.ASKING, Input.AGAIN): (State.ASKING, (Do.SEND,)),
    (State.ASKING, Input.COLLIDED): (State.WAITING, (Do.BACK_OFF,)),
    (State.ASKING, Input.LATER): (State.WAITING, (Do.BACK_OFF,)),
    (State.ASKING, Input.GONE): (State.OVER, (Do.END,)),
    (State.ASKING, Input.DUE): (State.CANCELLING, (Do.CANCEL,)),
    # RFC 3261, section 9.1: a 2xx may cross the CANCEL, and then it counts
    (State.CANCELLING, Input.SUCCESS): (State.OVER, (Do.ADOPT,)),
    (State.CANCELLING, Input.REFUSED): (State.OVER, (Do.REFUSE,)),
    (State.CANCELLING, Input.AGAIN): (State.OVER, (Do.REFUSE,)),
    (State.CANCELLING, Input.COLLIDED): (State.OVER, (Do.REFUSE,)),
    (State.CANCELLING, Input.LATER): (State.OVER, (Do.REFUSE,)),
    (State.CANCELLING, Input.GONE): (State.OVER, (Do.END,)),
    (State.CANCELLING, Input.DUE): (State.OVER, (Do.END,)),
}


@dataclass(eq=False)
class Change:
    """What our own side wants of the peer: `media` is our offer; without one it is a refresh."""

    dialog: Dialog
    media: str = ""
    state: State = State.NEW
    tries: int = 0
    request: Request | None = None
    """What was sent last."""
    wait_s: float = 0.0
    """How long to wait before the next attempt."""
    timer: SessionTimer | None = None
    """What the peer granted."""
    answer: str = ""
    why: str = ""
    """Why it is refused."""


class Changes:
    """All of them. `chance` gives a number in [0, 1) each time."""

    def __init__(self, calls: Calls, chance: Callable[[], float]) -> None:
        self._calls, self._chance = calls, chance
        self._queues: dict[Dialog, deque[Change]] = {}
        self._left: dict[Dialog, Request] = {}  # by calls that are over
        calls.wakes |= {Alarm.REFRESH: self._refresh, Alarm.OURS: self._due}
        calls.when_over.append(self._over)

    def __len__(self) -> int:
        """How many calls have one that is not settled, or not answered though they are over."""
        return len(self._queues) + len(self._left)

    def want(self, change: Change, now: float) -> None:
        """Ask the peer for it, as soon as it may be asked."""
        dialog = change.dialog
        queue = self._queues.setdefault(dialog, deque())
        if dialog.over or dialog.state in (dialogs.State.EARLY, dialogs.State.PLACED):
            why = "the call is over" if dialog.over else "the call is not answered yet"
            self._settle(change, "", why)
        elif len(queue) >= MAX_WAITING:
            self._settle(change, "", "too many changes of this call wait already")
        else:
            queue.append(change)
        self._next(dialog, now)

    # --- one change ---

    def _next(self, dialog: Dialog, now: float) -> None:
        """Begin the change whose turn it is."""
        queue = self._queues.get(dialog)
        if not queue:
            self._queues.pop(dialog, None)
        elif queue[0].state is State.NEW:
            self._begin(queue[0], Input.BEGIN, now)

    def _begin(self, change: Change, what: Input, now: float) -> None:
        """Send it, unless an offer of the peer's is open or our 2xx is not acknowledged."""
        dialog = change.dialog
        free = dialog.negotiation is Negotiation.STABLE and dialog.state is dialogs.State.CONFIRMED
        change.wait_s = self._back_off_s(dialog)
        self._step(change, what if free else Input.BLOCKED, now)

    def _step(self, change: Change, what: Input, now: float) -> None:
        """One step of the table; without effect where it has no entry."""
        entry = CHANGE.get((change.state, what))
        if entry is None:
            return
        change.state, actions = entry
        for action in actions:
            self._act[action](self, change, now)
        if change.state is State.OVER:
            dialog = change.dialog
            queue = self._queues.get(dialog, deque())
            if change in queue:
                queue.remove(change)
            self._next(dialog, now)

    def _send(self, change: Change, now: float) -> None:
        dialog, change.tries = change.dialog, change.tries + 1
        if change.tries == 1 and dialog.authenticator is not None:
            dialog.authenticator.begin()
        fields = (("Contact", dialog.contact), ("Allow", ALLOW), *request_fields(dialog.timer, dialog.min_se))
        if change.media:
            dialog.negotiation = Negotiation.ASKING
        method = "INVITE" if change.media else "UPDATE"
        self._wake_at(dialog, now + GIVE_UP_S)
        change.request = self._calls.requests.ask(
            dialog,
            method,
            now,
            *fields,
            media=change.media,
            told=lambda response, now: self._told(change, response, now),
        )

    def _told(self, change: Change, response: Response | None, now: float) -> None:
        """A response to one of its requests; each 2xx to an INVITE is acknowledged, whatever became of the change."""
        dialog = change.dialog
        if response is not None and response.code < 200:
            return
        if response is not None and response.code < 300:
            dialog.retarget(response)
            if response.cseq[1] == "INVITE":
                self._calls.requests.acknowledge(dialog, response.cseq[0])
        if change.state not in (State.ASKING, State.CANCELLING) or dialog.over:
            return
        if dialog.negotiation is Negotiation.ASKING:
            dialog.negotiation = Negotiation.STABLE
        self._wake_at(dialog, None)
        self._step(change, self._read(change, response), now)

    def _read(self, change: Change, response: Response | None) -> Input:
        """What a final response means."""
        if response is None:
            change.why = "no answer"
            return Input.GONE
        code, change.why = response.code, clean(f"{response.code} {response.phrase}", 100)
        if code < 300:
            return self._success(change, response)
        if code in (408, 481):
            return Input.GONE
        if change.tries >= MAX_TRIES:
            return Input.REFUSED
        if code == 491:
            change.wait_s = self._back_off_s(change.dialog)
            return Input.COLLIDED
        if code in (500, 503) and response.headers.get("Retry-After"):
            change.wait_s = wait_of(response, MAX_RETRY_S, MAX_RETRY_S)
            return Input.LATER
        return Input.AGAIN if self._mends(change, response) else Input.REFUSED

    def _success(self, change: Change, response: Response) -> Input:
        change.answer = response.media or "" if response.content_type == SDP else ""
        if change.media and not change.answer:
            change.why = "no answer to our offer is in the response"
            return Input.REFUSED
        change.timer = granted(response)
        return Input.SUCCESS

    def _mends(self, change: Change, response: Response) -> bool:
        """Whether the next attempt is another: with a longer interval, or a password."""
        dialog, code = change.dialog, response.code
        if code == 422 and dialog.timer is not None:
            known, dialog.min_se = dialog.min_se, max(dialog.min_se, min(least(response) or 0, MAX_MIN_SE))
            if dialog.min_se > known:
                return True
        if code in (401, 407) and dialog.authenticator is not None:
            try:
                dialog.authenticator.learn(response)
            except DigestError as error:
                change.why = str(error)
                return False
            return True
        return False

    def _back_off_s(self, dialog: Dialog) -> float:
        """Whoever made the Call-ID waits longer, both in units of 10 ms (RFC 3261, section 14.1)."""
        first, last = (2.1, 4.0) if dialog.peer == "callee" else (0.0, 2.0)
        return round(first + self._chance() * (last - first), 2)

    def _back_off(self, change: Change, now: float) -> None:
        self._wake_at(change.dialog, now + change.wait_s)

    def _cancel(self, change: Change, now: float) -> None:
        if change.request is not None and change.request.method == "INVITE":
            self._calls.requests.send(change.dialog, cancellation(change.request), now)
        self._wake_at(change.dialog, now + GIVE_UP_S)

    def _adopt(self, change: Change, now: float) -> None:
        dialog = change.dialog
        dialog.refreshed(change.timer, now)
        self._calls.rouse(dialog)
        if change.media:
            dialog.local_media, dialog.remote_media = change.media, None  # theirs is no offer that could be repeated
        self._settle(change, change.answer, "")

    def _refuse(self, change: Change, now: float) -> None:
        if not change.media:
            self._calls.events.append(Refreshing(change.dialog))
        self._refresh_later(change.dialog, now)
        self._settle(change, "", change.why)

    def _end(self, change: Change, now: float) -> None:
        self._settle(change, "", change.why)
        self._calls.lose(change.dialog, f"the far end knows nothing of the call any more ({change.why})", now)

    _act: Mapping[Do, Callable[[Changes, Change, float], None]] = {
        Do.SEND: _send,
        Do.CANCEL: _cancel,
        Do.BACK_OFF: _back_off,
        Do.ADOPT: _adopt,
        Do.REFUSE: _refuse,
        Do.END: _end,
    }

    def _settle(self, change: Change, answer: str, why: str) -> None:
        change.state = State.OVER
        if change.media:
            self._calls.events.append(Settled(change.dialog, change, answer, why))

    # --- time, and the end ---

    def _refresh(self, dialog: Dialog, now: float) -> None:
        """The session timer wants it; a change that waits refreshes the session just as well."""
        free = not self._queues.get(dialog)
        if free and "UPDATE" in dialog.allowed:
            self.want(Change(dialog), now)
            return
        if free:
            self._calls.events.append(Refreshing(dialog))
        self._refresh_later(dialog, now)

    def _refresh_later(self, dialog: Dialog, now: float) -> None:
        """Try again while there is time: what refused us once may be over. A success sets another time."""
        ends = dialog.alarms.get(Alarm.EXPIRED)
        ours = dialog.timer is not None and dialog.timer.refresh_s is not None
        if ours and ends is not None and ends - now > LAST_TRY_S and Alarm.REFRESH not in dialog.alarms:
            dialog.alarms[Alarm.REFRESH] = now + max(LAST_TRY_S, (ends - now) / 10)
            self._calls.rouse(dialog)

    def _due(self, dialog: Dialog, now: float) -> None:
        if (request := self._left.pop(dialog, None)) is not None:
            self._calls.requests.abandon(request)
            return
        change = self._queues[dialog][0]
        if change.state is State.WAITING:
            self._begin(change, Input.DUE, now)
        else:
            self._step(change, Input.DUE, now)

    def _over(self, dialog: Dialog, by: str, now: float) -> None:
        """The call has ended: nothing is wanted of it any more, but what was sent still gets its ACK."""
        queue = self._queues.pop(dialog, deque())
        if queue and queue[0].request is not None:
            self._left[dialog] = queue[0].request
            self._wake_at(dialog, now + GIVE_UP_S)
        for change in queue:
            if change.state is not State.OVER:
                self._settle(change, "", "the call is over")

    def _wake_at(self, dialog: Dialog, at: float | None) -> None:
        if at is None:
            dialog.alarms.pop(Alarm.OURS, None)
        else:
            dialog.alarms[Alarm.OURS] = at
        self._calls.rouse(dialog)
