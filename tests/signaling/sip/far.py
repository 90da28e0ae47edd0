"""The far end of a call of ours, on the bench: it answers what the user agent asks, in any order."""

from __future__ import annotations

import itertools

from signaling.call import Outcome
from signaling.sip.client import Client
from signaling.sip.dialog import Dialog
from signaling.sip.digest import Login
from signaling.sip.events import Taken
from signaling.sip.message import Request, Response
from signaling.sip.outcome import Refusal
from signaling.sip.placed import Invitation, Placed
from signaling.sip.transaction import Flow
from tests.signaling.sip.bench import UDP, Bench

LOGIN = Login("ada", "secret")
US, THEM = "sip:agent@example.org", "sip:bob@192.0.2.7"


def invitation(**changed: object) -> Invitation:
    return Invitation(**{"uri": THEM, "address": US} | changed)  # type: ignore[arg-type]  # a test's own


class Far:
    """One call of ours, and whoever it reaches. `media` is our offer."""

    def __init__(self, bench: Bench, media: str | None = "offer", flow: Flow = UDP, **changed: object) -> None:
        self.bench, self.flow = bench, flow
        self.cseq = itertools.count(1)
        self.placed: Placed = self.client.invite(invitation(**changed), media, flow, bench.now)
        bench.collect()

    @property
    def client(self) -> Client:
        return self.bench.agent.client

    def asked(self, method: str) -> Request:
        """The last request of that method that was sent."""
        requests = (message for _, message, _ in reversed(self.bench.sent) if isinstance(message, Request))
        return next(request for request in requests if request.method == method)

    @property
    def invite(self) -> Request:
        """The last INVITE."""
        assert self.placed.request is not None
        return self.placed.request

    def say(self, code: int, *extra: str, tag: str = "far", body: str = "", to: Request | None = None) -> None:
        """Answer the last INVITE, or another request."""
        self.bench.receive(self.response(code, *extra, tag=tag, body=body, to=to), self.flow)

    def response(self, code: int, *extra: str, tag: str = "far", body: str = "", to: Request | None = None) -> bytes:
        request = to or self.invite
        lines = [f"SIP/2.0 {code} Fine"]
        for name in ("Via", "From", "To", "Call-ID", "CSeq"):
            value = request.headers.get(name)
            lines.append(f"{name}: {value}" + (f";tag={tag}" if name == "To" and tag and "tag=" not in value else ""))
        if code < 300 and not any(line.startswith("Contact:") for line in extra):
            lines.append(f"Contact: <sip:{tag or 'bob'}@192.0.2.7:5070>")
        lines += ["Content-Type: application/sdp"] * bool(body)
        return "\r\n".join([*lines, *extra, f"Content-Length: {len(body)}", "", body]).encode()

    def ask(self, method: str, *extra: str, tag: str = "far", body: str = "", cseq: int = 0) -> None:
        """A request of theirs in the dialog that `tag` names."""
        number = cseq or next(self.cseq)
        lines = [
            f"{method} sip:agent@198.51.100.1 SIP/2.0",
            f"Via: SIP/2.0/UDP 192.0.2.7:5070;branch=z9hG4bK{method}{number}{tag}",
            f"From: {self.invite.headers.get('To')}{f';tag={tag}' if tag else ''}",
            f"To: {self.invite.headers.get('From')}",
            f"Call-ID: {self.invite.call_id}",
            f"CSeq: {number} {method}",
            "Contact: <sip:far@192.0.2.7:5070>",
            *["Content-Type: application/sdp"] * bool(body),
        ]
        self.bench.receive("\r\n".join([*lines, *extra, f"Content-Length: {len(body)}", "", body]).encode(), self.flow)

    def give_up(self, reason: str = "enough") -> None:
        self.client.give_up(self.placed, Refusal(Outcome.CANCELLED, "agent", reason), self.bench.now)
        self.bench.collect()

    def answer(self, media: str) -> None:
        """Our answer to their offer."""
        self.client.answer(self.placed, media, self.bench.now)
        self.bench.collect()

    def taken(self) -> Dialog:
        """The dialog of the last Taken."""
        return next(event.dialog for event in reversed(self.bench.events) if isinstance(event, Taken))

    def last(self) -> Request | Response:
        """What was sent last."""
        return self.bench.sent[-1][1]
