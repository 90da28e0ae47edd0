"""Changes of a session that the peer offers: re-INVITE (RFC 3261, section 14.2), UPDATE (RFC 3311) and PRACK.

Those of our own are in `changes`.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import TypeAlias

from signaling.sip.buckets import Buckets
from signaling.sip.dialog import CHANGE_S, GLARE, UNFINISHED, Alarm, Dialog, Negotiation
from signaling.sip.events import Changed
from signaling.sip.message import SDP, Request
from signaling.sip.sessiontimer import MIN_SE, IntervalTooSmall, asked_for
from signaling.sip.transactions import Served, Transactions

CHANGE_RATE, CHANGE_BURST = 0.5, 5
"""Changes of a session a second, for each call: each of them costs the media something."""

Succeed: TypeAlias = Callable[[Dialog, Served, str, float], None]
"""Answers a request with 200, and a description if there is one."""


class Offers:
    """Those that wait for our own side, one for each call. `ask` tells it of a Changed."""

    def __init__(self, transactions: Transactions, succeed: Succeed, ask: Callable[[Changed], None]) -> None:
        self._transactions, self._succeed, self._ask = transactions, succeed, ask
        self._changes = Buckets(CHANGE_RATE, CHANGE_BURST)
        self._pending: dict[Dialog, tuple[Changed, Served]] = {}

    def __len__(self) -> int:
        """How many wait."""
        return len(self._pending)

    def offered(self, served: Served, dialog: Dialog, now: float) -> None:
        """A request with an offer, or a re-INVITE that asks for ours."""
        request = served.request
        if dialog.over:
            self._transactions.answer(served, 481, now)
        elif glare := _glare(dialog, request):
            self._transactions.answer(served, glare, now, retry_soon())
        elif not self.acceptable(served, now):
            return
        elif request.media is not None and request.media == dialog.remote_media:
            self._succeed(dialog, served, dialog.local_media, now)  # a refresh: nothing to negotiate
        elif not self._changes.take(dialog.id, now):
            self._transactions.answer(served, 500, now, retry_soon())
        else:
            self._wait(served, Changed(dialog, request.media), now)

    def acceptable(self, served: Served, now: float) -> bool:
        """Whether body and session interval are such as we can serve; if not, it has been said."""
        request = served.request
        try:
            asked_for(request)
        except IntervalTooSmall:
            self._transactions.answer(served, 422, now, ("Min-SE", str(MIN_SE)))
            return False
        if request.body and (request.content_type != SDP or not _plain(request)):
            self._transactions.answer(served, 415, now, ("Accept", SDP), ("Accept-Encoding", "identity"))
            return False
        return True

    def change(self, changed: Changed, outcome: str | int, now: float) -> None:
        """Our side's answer: a description, or a status that refuses; too late, it has no effect."""
        pending, served = self._pending.get(changed.dialog, (None, None))
        if served is None or pending is not changed:
            return
        if isinstance(outcome, int):
            self.unchanged(changed.dialog, outcome, now)
        else:
            self._drop(changed.dialog)
            self._succeed(changed.dialog, served, outcome, now)

    def unchanged(self, dialog: Dialog, code: int, now: float) -> None:
        """Refuse the change that is pending, if one is: the old session stands."""
        served = self._drop(dialog)
        if served is not None:
            dialog.negotiation = Negotiation.STABLE
            self._transactions.answer(served, code, now)

    def _wait(self, served: Served, changed: Changed, now: float) -> None:
        """Ask our own side, while the peer waits."""
        dialog = changed.dialog
        dialog.negotiation = Negotiation.OFFERED
        dialog.alarms[Alarm.CHANGE] = now + CHANGE_S
        self._pending[dialog] = changed, served
        if served.request.method == "INVITE":
            self._transactions.answer(served, 100, now)
        self._ask(changed)

    def _drop(self, dialog: Dialog) -> Served | None:
        dialog.alarms.pop(Alarm.CHANGE, None)
        _, served = self._pending.pop(dialog, (None, None))
        return served


def _glare(dialog: Dialog, request: Request) -> int | None:
    """The status that refuses it, if it collides with something that is open."""
    unfinished = UNFINISHED.get(dialog.state) if request.method == "INVITE" else None
    return GLARE.get((dialog.negotiation, request.method), unfinished)


def retry_soon() -> tuple[str, str]:
    """Between 0 and 10 s, at random, so that two who collided do not collide again (section 14.2)."""
    return "Retry-After", str(secrets.randbelow(11))


def _plain(request: Request) -> bool:
    """Whether the body is not compressed."""
    return request.headers.get("Content-Encoding", "identity").lower() == "identity"
