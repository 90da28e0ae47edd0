"""Requests of ours within a dialog (RFC 3261, section 12.2.1): which way they go, and the BYE, the last of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from signaling.sip.dialog import LINGER_S, Alarm, Dialog
from signaling.sip.digest import DigestError
from signaling.sip.message import Request, Response
from signaling.sip.reason import reason_field
from signaling.sip.transaction import Flow
from signaling.sip.transactions import Told, Transactions
from signaling.sip.way import way_to


class Requests:
    """Those of all calls. `trusted` says whether a host (a literal) is one that they may be sent to.

    `rouse` is told when the alarms of a dialog are no longer what they were.
    """

    def __init__(
        self,
        transactions: Transactions,
        trusted: Callable[[str], bool],
        token: Callable[[], str],
        rouse: Callable[[Dialog], None],
    ) -> None:
        self._transactions, self._trusted, self._token, self._rouse = transactions, trusted, token, rouse

    def way_to(self, dialog: Dialog) -> Flow:
        """Where they go."""
        return way_to(dialog, self._trusted)

    def ask(
        self,
        dialog: Dialog,
        method: str,
        now: float,
        *fields: tuple[str, str],
        told: Told = lambda response, now: None,
        media: str = "",
        body: bytes = b"",
    ) -> Request:
        """Send a request in a dialog, with a description or another body; gives it as it was sent."""
        request = dialog.request(method, self._token(), *fields, media=media)
        request = replace(request, body=body or request.body)
        self._transactions.ask(request, self.way_to(dialog), now, told)
        return request

    def send(self, dialog: Dialog, request: Request, now: float) -> None:
        """Send a request that is made already, such as a CANCEL, and look at no answer."""
        self._transactions.ask(request, self.way_to(dialog), now)

    def abandon(self, request: Request) -> None:
        """Wait no more for the answer to a request."""
        self._transactions.abandon(request)

    def acknowledge(self, dialog: Dialog, number: int) -> None:
        """ACK of a 2xx to our INVITE of that number, each time it comes (section 13.2.2.4)."""
        self._transactions.outgoing.append((bytes(dialog.ack(number, self._token())), self.way_to(dialog)))

    # --- the last ---

    def bye(self, dialog: Dialog, now: float) -> None:
        """BYE, with the dialog's farewell: from here on it lingers."""
        if dialog.authenticator is not None:
            dialog.authenticator.begin()
        self._bye(dialog, now)

    def _bye(self, dialog: Dialog, now: float) -> None:
        reason = reason_field(dialog.farewell)
        self.ask(dialog, "BYE", now, reason, told=lambda response, at: self._answered(dialog, response, at))
        dialog.alarms[Alarm.FORGET] = now + LINGER_S

    def _answered(self, dialog: Dialog, response: Response | None, now: float) -> None:
        """A proxy that asked for a password for the INVITE may do so again (section 22)."""
        if response is None or response.code not in (401, 407) or dialog.authenticator is None:
            return
        try:
            dialog.authenticator.learn(response)
        except DigestError:
            return
        self._bye(dialog, now)
        self._rouse(dialog)
