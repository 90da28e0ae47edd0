"""A user agent on a bench: no socket, a made-up clock, and a peer that talks to it directly."""

from __future__ import annotations

import itertools

from signaling.sip.dialog import Dialog
from signaling.sip.events import (
    Answered,
    Changed,
    Ended,
    Event,
    Failed,
    Invited,
    Pressed,
    Progressed,
    Referred,
    Refreshing,
    Settled,
    Shed,
    Taken,
)
from signaling.sip.message import Request, Response
from signaling.sip.transaction import Flow
from signaling.sip.useragent import UserAgent
from signaling.sip.wire import parse
from tests.signaling.sip.peer import OFFER, Peer

UDP = Flow("UDP", ("192.0.2.7", 5070), ("198.51.100.1", 5060))
TCP = Flow("TCP", ("192.0.2.7", 40000), ("198.51.100.1", 5060), serial=1)
TLS = Flow("TLS", ("192.0.2.7", 40000), ("198.51.100.1", 5061), serial=2)


class BenchPeer(Peer):
    """A Peer whose words go straight into the user agent, and whose ears are `heard`, a list."""

    def __init__(self, bench: Bench, flow: Flow) -> None:
        super().__init__(5060, flow.protocol)
        self.bench, self.flow = bench, flow
        self.local = flow.remote
        self.target = "sip:agent@198.51.100.1"

    def send(self, data: bytes) -> None:
        self.bench.receive(data, self.flow)


class Bench:
    """`sent` is everything that left, as (when, message, flow); `events` everything that was told."""

    def __init__(self, **settings: object) -> None:
        numbers = itertools.count(1)
        self.agent = UserAgent(token=lambda: f"t{next(numbers)}", **settings)  # type: ignore[arg-type]  # a test's own
        self.now = 1000.0
        self.sent: list[tuple[float, Request | Response, Flow]] = []
        self.events: list[Event] = []

    def peer(self, flow: Flow = UDP) -> BenchPeer:
        return BenchPeer(self, flow)

    def receive(self, data: bytes, flow: Flow = UDP) -> None:
        self.agent.receive(data, flow, self.now)
        self.collect()

    def collect(self) -> None:
        """Take what the user agent has to send and to tell."""
        self.sent += [(self.now, parse(data), flow) for data, flow in self.agent.take_outgoing()]
        self.events += self.agent.take_events()

    def wait(self, seconds: float) -> None:
        """Let time pass, alarm by alarm."""
        until = self.now + seconds
        while (at := self.agent.next_at) is not None and at <= until:
            self.now = max(self.now, at)
            self.agent.fire(self.now)
            self.collect()
        self.now = until

    def heard(self) -> list[str]:
        """What was sent since the last look: status codes and methods."""
        sent, self.sent = self.sent, []
        return [str(m.code) if isinstance(m, Response) else m.method for _, m, _ in sent]

    def last(self) -> Response:
        """The last thing that was sent, a response."""
        message = self.sent[-1][1]
        assert isinstance(message, Response)
        return message

    def last_request(self) -> Request:
        """The last thing that was sent, a request."""
        message = self.sent[-1][1]
        assert isinstance(message, Request)
        return message

    # --- the answering side ---

    def told(self) -> list[str]:
        """What was told since the last look, in short."""
        events, self.events = self.events, []
        return [_short(event) for event in events]

    def invited(self) -> Dialog:
        """The dialog of the last Invited."""
        return next(event.dialog for event in reversed(self.events) if isinstance(event, Invited))

    def changed(self) -> Changed:
        """The last Changed."""
        return next(event for event in reversed(self.events) if isinstance(event, Changed))

    def ring(self, dialog: Dialog, media: str | None = None) -> None:
        self.agent.calls.ring(dialog, media, self.now)
        self.collect()

    def accept(self, dialog: Dialog, media: str = "answer") -> None:
        self.agent.calls.accept(dialog, media, self.now)
        self.collect()

    def reject(self, dialog: Dialog, code: int = 486) -> None:
        self.agent.calls.reject(dialog, code, "no", self.now)
        self.collect()

    def hang_up(self, dialog: Dialog, reason: str = "enough") -> None:
        self.agent.calls.hang_up(dialog, reason, self.now)
        self.collect()

    def change(self, changed: Changed, outcome: str | int) -> None:
        self.agent.calls.change(changed, outcome, self.now)
        self.collect()

    def call(self, peer: BenchPeer, *extra: str, body: str = OFFER) -> Dialog:
        """A call that both are in."""
        peer.ask("INVITE", *extra, body=body)
        dialog = self.invited()
        self.accept(dialog)
        peer.to_tag = dialog.id[1]
        peer.ack(self.last(), body="" if body else "their answer")
        self.heard()
        self.told()
        return dialog


def is_empty(bench: Bench) -> bool:
    """Whether nothing is kept and nothing is awaited."""
    return bench.agent.left_over() == 0 and bench.agent.next_at is None


def _short(event: Event) -> str:
    if isinstance(event, Ended):
        return f"ended by {event.by}: {event.reason}"
    if isinstance(event, Changed):
        return f"changed: {event.offer}"
    if isinstance(event, Answered):
        return f"answered: {event.answer}"
    if isinstance(event, Settled):
        return f"settled: {event.answer or event.why}"
    if isinstance(event, Refreshing):
        return "refresh"
    if isinstance(event, Referred):
        return f"referred to {event.target}"
    if isinstance(event, Pressed):
        return f"pressed {event.key}"
    if isinstance(event, Progressed):
        return f"progress {event.code}{f' with {event.media}' if event.media is not None else ''}"
    if isinstance(event, Taken):
        return f"taken: {event.media}"
    if isinstance(event, Failed):
        return f"failed by {event.why.by}, {event.why.outcome.value}: {event.why.reason}"
    if isinstance(event, Shed):
        return f"shed: {event.why}"
    return "invited"
