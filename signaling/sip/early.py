"""Provisional responses to an INVITE, reliable ones too (100rel, RFC 3262), as who is called sends them."""

from __future__ import annotations

from dataclasses import dataclass

from signaling.sip.dialog import Alarm, Dialog
from signaling.sip.message import Request
from signaling.sip.transaction import T1, Flow
from signaling.sip.transactions import Served, Transactions

GIVE_UP_S = 64 * T1
"""How long a reliable response is repeated (section 3)."""


@dataclass(eq=False)
class Provisional:
    """A reliable provisional response, and whether it is acknowledged by PRACK."""

    number: int
    media: str
    data: bytes
    flow: Flow
    until: float
    interval: float = T1
    acknowledged: bool = False
    then: str | None = None
    """The description of our 2xx, which waits for the PRACK."""


class Early:
    """What rings. One reliable response of a call waits for its PRACK at a time (section 3)."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions
        self._last: dict[Dialog, Provisional] = {}
        self._next: dict[Dialog, tuple[Served, str, tuple[tuple[str, str], ...]]] = {}

    def __len__(self) -> int:
        """How many things are kept."""
        return len(self._last) + len(self._next)

    def ring(self, dialog: Dialog, served: Served, media: str, fields: tuple[tuple[str, str], ...], now: float) -> None:
        """180, or 183 with early media; reliably where the caller demands it, or there is media and it can have it.

        While another reliable response waits, early media waits too; ringing alone is not worth it.
        """
        request = served.request
        code = 183 if media else 180
        if self.waits(dialog):
            self._next |= {dialog: (served, media, fields)} if media else {}
        elif not _reliably(request, media):
            self._transactions.answer(served, code, now, *fields, media=media)
        elif media or request.media is not None:
            self._send(dialog, served, code, media, fields, now)
        # else it would have to bring our offer (section 5), which the 200 brings

    def waits(self, dialog: Dialog) -> Provisional | None:
        """The response that waits for its PRACK."""
        last = self._last.get(dialog)
        return None if last is None or last.acknowledged else last

    def acknowledged(self, dialog: Dialog, prack: Request) -> Provisional | None:
        """What that PRACK is for; None where there is nothing that it could be for, or no more."""
        last = self.waits(dialog)
        if last is None or _rack(prack) != (last.number, dialog.invite_cseq, "INVITE"):
            return None
        last.acknowledged = True
        dialog.alarms.pop(Alarm.PROVISIONAL, None)
        return last

    def go_on(self, dialog: Dialog, now: float) -> None:
        """After a PRACK: ring as it was wanted meanwhile."""
        if (waiting := self._next.pop(dialog, None)) is not None:
            served, media, fields = waiting
            self.ring(dialog, served, media, fields, now)

    def repeat(self, dialog: Dialog, now: float) -> bool:
        """Its time has come: send it again, at longer and longer intervals; False when it is given up."""
        last = self.waits(dialog)
        if last is None:
            return True
        if now >= last.until:
            return False
        self._transactions.outgoing.append((last.data, last.flow))
        last.interval *= 2
        dialog.alarms[Alarm.PROVISIONAL] = min(now + last.interval, last.until)
        return True

    def forget(self, dialog: Dialog) -> None:
        """The call is over."""
        self._last.pop(dialog, None)
        self._next.pop(dialog, None)

    def _send(
        self, dialog: Dialog, served: Served, code: int, media: str, fields: tuple[tuple[str, str], ...], now: float
    ) -> None:
        last = self._last.get(dialog)
        # the random start that is recommended is against who guesses, and who guesses our tag could guess that too
        number = 1 if last is None else last.number + 1
        reliable = (("Require", "100rel"), ("RSeq", str(number)))
        self._transactions.answer(served, code, now, *fields, *reliable, media=media)
        data = served.transaction.last
        self._last[dialog] = Provisional(number, media, data, served.flow, until=now + GIVE_UP_S)
        dialog.alarms[Alarm.PROVISIONAL] = now + T1


def _reliably(request: Request, media: str) -> bool:
    """Whether the response to that INVITE is to be a reliable one."""
    if "100rel" in request.headers.options("Require"):
        return True
    return bool(media) and "100rel" in request.headers.options("Supported")


def _rack(prack: Request) -> tuple[int, int, str] | None:
    """(RSeq, CSeq number, method) that a PRACK names; None where that cannot be read."""
    parts = prack.headers.get("RAck").split()
    if len(parts) != 3 or not all(part.isascii() and part.isdecimal() and len(part) <= 10 for part in parts[:2]):
        return None
    return int(parts[0]), int(parts[1]), parts[2]
