"""The user agent in any order of things: torn messages, forged ones, logins, verbs of ours, and a clock that jumps.

What must hold after each step, whatever came before:
    nothing is raised; what is kept grows by a few things a message and no more
    whatever is no confirmed call has a deadline, and deadlines pass
    who has shown nothing hears about as much as they said, and once
and at the end every call has ended once, and nothing is kept.
"""

from __future__ import annotations

import random
from collections import Counter

import pytest

from signaling.sip.dialog import State
from signaling.sip.events import Changed, Ended, Invited
from signaling.sip.message import Request, Response
from signaling.sip.registrar import Registrar
from signaling.sip.transaction import Flow
from signaling.sip.useragent import UserAgent
from signaling.sip.wire import WireError, parse
from tests.fuzz.mutator import mutate
from tests.fuzz.sip import guard, numbered
from tests.signaling.sip.bench import Bench, BenchPeer
from tests.signaling.sip.peer import OFFER

FLOWS = [
    Flow("UDP", ("192.0.2.7", 5070), ("198.51.100.1", 5060)),
    Flow("UDP", ("203.0.113.9", 5060), ("198.51.100.1", 5060)),
    Flow("TCP", ("192.0.2.7", 40_000), ("198.51.100.1", 5060), serial=1),
    Flow("UDP", ("2001:db8::7", 5060), ("2001:db8::1", 5060)),
]
STRANGER = FLOWS[1]
"""Heard, but to show who it is; it never can."""

METHODS = "INVITE INVITE ACK ACK BYE CANCEL OPTIONS INFO UPDATE REGISTER PRACK REFER NOTIFY DANCE".split()
BODIES = ["", OFFER, OFFER + "a=sendonly\r\n", "Signal=1\r\n", "v=0"]


class World:
    """An agent, some peers, and what has passed between them."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.agent = UserAgent(
            trusted=lambda host: host != STRANGER.remote[0], registrar=Registrar(guard()), token=numbered()
        )
        self.now = 1000.0
        self.peers = [self._peer(flow) for flow in FLOWS for _ in range(2)]
        self.said: list[tuple[bytes, Flow]] = []
        self.asked: list[tuple[Request, Flow]] = []
        self.invited: list[Invited] = []
        self.changes: list[Changed] = []
        self.ended: Counter[int] = Counter()
        self.heard, self.told = 0, Counter[Flow]()  # bytes

    def _peer(self, flow: Flow) -> BenchPeer:
        peer = BenchPeer(Bench(), flow)
        host, port = flow.remote
        peer.local = (f"[{host}]" if ":" in host else host, port)
        peer.send = lambda data: self.receive(data, flow)  # type: ignore[method-assign]  # into this world
        return peer

    # --- steps ---

    def step(self) -> None:
        """Anything that can happen."""
        others = (self._call, self._offer, self._offer, self._answer, self._answer, self._wait, self._wait)
        self.dice.choice((*[self._ask] * 4, *[self._repeat] * 2, *[self._forge] * 3, *[self._do] * 4, *others))()
        self.look()

    def _call(self) -> None:
        """A new call that is taken, in which all goes well."""
        self.peers[self.dice.randrange(len(self.peers))] = peer = self._peer(self.dice.choice(FLOWS))
        peer.ask("INVITE", "Supported: timer", body=self.dice.choice(BODIES[:2]))
        if self.invited and self.invited[-1].dialog.id[0] == peer.call_id:
            dialog = self.invited[-1].dialog
            self.agent.calls.accept(dialog, "answer", self.now)
            peer.to_tag = dialog.id[1]
            peer.send(peer.build("ACK", body=self.dice.choice(BODIES[:2])))

    def _offer(self) -> None:
        """A change of a call, or a wish for our offer; there may be one under way."""
        if self.invited:
            dialog = self.dice.choice(self.invited).dialog
            peer = self._peer(dialog.flow)
            peer.call_id, peer.to_tag, peer.from_tag = dialog.id
            peer.cseq = dialog.remote_cseq
            body = self.dice.choice(("", OFFER.replace("o=- 1 1 ", f"o=- 1 {len(self.said)} ")))
            peer.ask(self.dice.choice(("INVITE", "UPDATE")), body=body)

    def _ask(self) -> None:
        peer, dice = self.dice.choice(self.peers), self.dice
        mine = [event.dialog for event in self.invited if event.dialog.id[0] == peer.call_id]
        peer.to_tag = dice.choice(mine).id[1] if mine and dice.random() < 0.8 else dice.choice(("", "", "guess"))
        method = dice.choice(METHODS)
        if method == "CANCEL" and peer.invite:
            peer.cancel()
            return
        if method == "INVITE" and not mine:
            peer.to_tag = ""
        extra = dice.sample(
            ["Supported: timer, 100rel", "Session-Expires: 90", "Require: 100rel", "Record-Route: <sip:192.0.2.7;lr>"],
            2,
        )
        if method == "ACK":
            peer.send(peer.build("ACK", body=dice.choice(BODIES), cseq=max(1, peer.cseq - dice.randrange(2))))
        else:
            peer.ask(method, *extra[: dice.randrange(3)], body=dice.choice(BODIES))

    def _repeat(self) -> None:
        """A network delivers twice, late, or by another way."""
        if self.said:
            data, flow = self.dice.choice(self.said[-40:])
            self.receive(data, flow if self.dice.random() < 0.8 else self.dice.choice(FLOWS))

    def _forge(self) -> None:
        """Something like what was said before."""
        if self.said:
            data, flow = self.dice.choice(self.said[-40:])
            self.receive(mutate(data, self.dice), flow)

    def _do(self) -> None:
        """Our own side."""
        if not self.invited:
            return
        dialog, calls, dice = self.dice.choice(self.invited).dialog, self.agent.calls, self.dice
        what = dice.randrange(6)
        if what == 0:
            calls.ring(dialog, dice.choice((None, "early")), self.now)
        elif what in (1, 2):
            calls.accept(dialog, "answer", self.now)
        elif what == 3:
            calls.reject(dialog, 486, "busy", self.now)
        elif what == 4:
            calls.hang_up(dialog, "enough \r\n of it", self.now)
        elif self.changes:
            calls.change(dice.choice(self.changes), dice.choice(("answer", 488)), self.now)

    def _answer(self) -> None:
        """To a request of ours; sometimes torn."""
        if self.asked:
            request, flow = self.dice.choice(self.asked)
            copied = [f"{n}: {v}" for n, v in request.headers.fields if n in ("Via", "From", "To", "Call-ID", "CSeq")]
            code = self.dice.choice((100, 200, 401, 481, 503, 699))
            data = "\r\n".join([f"SIP/2.0 {code} So", *copied, "Content-Length: 0", "", ""]).encode()
            self.receive(mutate(data, self.dice) if self.dice.random() < 0.2 else data, flow)

    def _wait(self) -> None:
        self.wait(self.dice.choice((0.0, 0.1, 0.5, 0.6, 4.0, 5.0, 33.0, 200.0)))

    # --- the world ---

    def receive(self, data: bytes, flow: Flow) -> None:
        self.said.append((data, flow))
        self.heard += 1
        before = self.told[flow]
        self.agent.receive(data, flow, self.now)
        self._collect()
        if flow == STRANGER:
            assert self.told[flow] - before <= len(data) + 400, "an amplifier"

    def wait(self, seconds: float) -> None:
        until, fired = self.now + seconds, 0
        while (at := self.agent.next_at) is not None and at <= until:
            fired += 1
            assert fired < 200 * (self.heard + 1), "a deadline that does not pass"
            self.now = max(self.now, at)
            before = self.told[STRANGER]
            self.agent.fire(self.now)
            self._collect()
            assert self.told[STRANGER] == before, "unasked words to who has shown nothing"
            assert (later := self.agent.next_at) is None or later >= at
        self.now = until

    def _collect(self) -> None:
        for data, flow in self.agent.take_outgoing():
            self.told[flow] += len(data)
            try:
                message = parse(data)
            except WireError:  # a refusal repeats what was wrong
                assert data.startswith((b"SIP/2.0 4", b"SIP/2.0 5"))
                continue
            if isinstance(message, Request):
                self.asked.append((message, flow))
            assert isinstance(message, Response) or flow != STRANGER
        for event in self.agent.take_events():
            if isinstance(event, Invited):
                self.invited.append(event)
            elif isinstance(event, Changed):
                self.changes.append(event)
            elif isinstance(event, Ended):
                self.ended[id(event.dialog)] += 1

    def look(self) -> None:
        kept = self.agent.left_over()
        assert kept <= 4 * self.heard
        talking = sum(dialog.state is State.CONFIRMED for dialog in self.agent.calls._dialogs.values())
        assert kept == talking or self.agent.next_at is not None, "something is kept without end"

    def finish(self) -> None:
        self.agent.calls.close("over", self.now)
        self._collect()
        self.wait(400.0)
        assert self.ended == Counter(id(event.dialog) for event in self.invited), "each call ends, once"
        assert self.agent.left_over() == 0 and self.agent.next_at is None and self.agent.idle


def play(seed: int, steps: int) -> World:
    world = World(seed)
    for _ in range(steps):
        world.step()
    world.finish()
    return world


def test_any_order_of_things_in_ci() -> None:
    worlds = [play(seed, 120) for seed in range(25)]
    assert sum(len(world.invited) for world in worlds) > 50  # calls there were, and they were talked in
    assert sum(len(world.changes) for world in worlds) > 5
    assert sum(len(world.asked) for world in worlds) > 50


@pytest.mark.acceptance
@pytest.mark.parametrize("block", range(10))
def test_any_order_of_things(block: int) -> None:
    for seed in range(1000 * (block + 1), 1000 * (block + 1) + 200):
        play(seed, 400)
