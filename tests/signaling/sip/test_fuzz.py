"""The user agent under everything at once: loss, repetition, reordering, and a side that does whatever it likes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

from hypothesis import example, given, settings
from hypothesis import strategies as st

from signaling.sip.dialog import Dialog
from signaling.sip.events import Changed, Ended, Invited
from signaling.sip.message import Request, Response
from tests.signaling.sip.bench import TCP, UDP, Bench, BenchPeer
from tests.signaling.sip.peer import OFFER

SAY = [
    "INVITE",
    "ACK",
    "ACK",
    "BYE",
    "CANCEL",
    "INFO",
    "OPTIONS",
    "hold by INVITE",
    "hold by UPDATE",
    "no offer",
    "REFER",
]
DO = ["ring", "accept", "accept", "reject", "hang up", "change", "refuse change"]
WIRE = ["deliver", "deliver", "deliver", "repeat", "lose", "answer"]

RINGING = [("INVITE", 0), ("deliver", 0)]
TALKING = [*RINGING, ("accept", 0), ("ACK", 0), ("deliver", 0)]
HELD = [*TALKING, ("hold by INVITE", 0), ("deliver", 0)]
ASKED = [("no offer", 0), ("deliver", 0), ("accept", 0)]

anything = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(SAY), st.integers(0, 2)),
        st.tuples(st.sampled_from(DO), st.integers(0, 5)),
        st.tuples(st.sampled_from(WIRE), st.integers(0, 9)),
        st.tuples(st.just("wait"), st.sampled_from([0, 1, 2, 5, 9, 33])),
    ),
    max_size=60,
)
steps = st.builds(lambda start, rest: start + rest, st.sampled_from([[], RINGING, TALKING, HELD, ASKED]), anything)


class Chaos:
    """Some peers whose messages lie on the wire until a step delivers, repeats or loses them."""

    def __init__(self, on_tcp: bool) -> None:
        self.bench = Bench()
        self.peers = [self.bench.peer(TCP if on_tcp and number else UDP) for number in range(3)]
        self.wire: list[tuple[BenchPeer, bytes]] = []
        self.first: dict[bytes, float] = {}
        self.dialogs: list[Dialog] = []
        self.changes: list[Changed] = []
        self.finals: dict[tuple[str, str], set[bytes]] = defaultdict(set)
        self.invited: list[Dialog] = []
        self.ended: list[Dialog] = []
        for peer in self.peers:
            peer.send = self.lay(peer)  # type: ignore[assignment,method-assign]  # what it says is delivered by a step

    def lay(self, peer: BenchPeer) -> Callable[[bytes], None]:
        return lambda data: self.wire.append((peer, data))

    def step(self, what: str, number: int) -> None:
        bench = self.bench
        if what == "wait":
            bench.wait(number)
        elif what in SAY:
            self.say(what, self.peers[number])
        elif what in WIRE:
            self.carry(what, number)
        elif what in ("change", "refuse change"):
            if self.changes:
                outcome = "answer" if what == "change" else 488
                bench.change(self.changes[number % len(self.changes)], outcome)
        elif self.dialogs:
            dialog = self.dialogs[number % len(self.dialogs)]
            verbs: dict[str, Callable[[Dialog], None]] = {
                **{"ring": bench.ring, "accept": bench.accept, "reject": bench.reject, "hang up": bench.hang_up}
            }
            verbs[what](dialog)
        self.look()

    def say(self, what: str, peer: BenchPeer) -> None:
        known = [dialog for dialog in self.dialogs if dialog.id[0] == peer.call_id]
        if known and what != "CANCEL":
            peer.to_tag = known[-1].id[1]
        if what == "INVITE":
            peer.to_tag = ""
            peer.ask("INVITE", body=OFFER)
        elif what == "no offer":
            peer.ask("INVITE")
        elif what == "ACK":
            peer.send(peer.build("ACK", cseq=max(1, peer.cseq), body="answer" if peer.cseq % 2 else ""))
        elif what == "CANCEL":
            if peer.invite:
                peer.cancel()
        elif what.startswith("hold"):
            peer.ask(what.rpartition(" ")[2], body=f"hold {peer.cseq}")
        else:
            peer.ask(what)

    def carry(self, what: str, number: int) -> None:
        if what == "answer":
            asked = [m for _, m, _ in self.bench.sent if isinstance(m, Request)]
            if asked:
                self.peers[0].answer(asked[number % len(asked)], (200, 481, 100)[number % 3])
        elif self.wire:
            at = number % len(self.wire)
            peer, data = self.wire[at]
            if what != "repeat" or peer.flow.reliable:  # a connection repeats nothing
                del self.wire[at]
            first = self.first.setdefault(data, self.bench.now)
            if what != "lose" and self.bench.now - first < 30:  # and nothing lives longer than that in a network
                self.bench.receive(data, peer.flow)

    def look(self) -> None:
        """Check what must always hold, and remember what was told."""
        for event in self.bench.events:
            if isinstance(event, Invited):
                self.dialogs.append(event.dialog)
                self.invited.append(event.dialog)
            elif isinstance(event, Changed):
                self.changes.append(event)
            elif isinstance(event, Ended):
                self.ended.append(event.dialog)
        self.bench.events.clear()
        for _, message, _ in self.bench.sent:
            if isinstance(message, Response) and message.code >= 200:
                branch = message.via.parameters["branch"] or ""
                self.finals[branch, message.cseq[1]].add(bytes(message))

    def finish(self) -> None:
        """Our side ends what is left; then it is quiet."""
        for dialog in self.dialogs:
            self.bench.hang_up(dialog)
        self.look()
        self.bench.wait(64.5)
        self.look()


@settings(max_examples=120, deadline=None)
@given(steps, st.booleans())
def test_whatever_happens_every_call_ends_and_nothing_is_left(script: list[tuple[str, int]], on_tcp: bool) -> None:
    chaos = Chaos(on_tcp)
    for what, number in script:
        chaos.step(what, number)
    chaos.finish()
    for (_, method), finals in chaos.finals.items():
        assert len(finals) == 1, f"several final answers to one {method}: {finals}"
    assert sorted(map(id, chaos.ended)) == sorted(map(id, chaos.invited)), "each call ends, once"
    assert chaos.bench.agent.left_over() == 0
    assert chaos.bench.agent.next_at is None
    assert chaos.bench.agent.idle


@settings(max_examples=60, deadline=None)
@given(steps)
def test_every_invite_that_arrives_is_answered(script: list[tuple[str, int]]) -> None:
    """Without loss: each INVITE has its final answer in the end, though our side never says a word."""
    chaos = Chaos(on_tcp=False)
    asked = set()
    for what, number in script:
        if what in SAY:
            chaos.step(what, number)
            while chaos.wire:
                data = chaos.wire[0][1]
                chaos.step("deliver", 0)
                if data.startswith(b"INVITE "):
                    asked.add(data.split(b"branch=")[1].split(b"\r\n")[0].decode())
    chaos.bench.wait(180 + 64)
    chaos.look()
    assert asked == {branch for branch, method in chaos.finals if method == "INVITE"}
    assert len(chaos.ended) == len(chaos.invited)
    assert chaos.bench.agent.left_over() == 0


WHOLE = {
    "Via": "SIP/2.0/UDP h;branch=z9hG4bKf",
    **{"From": "<sip:a@b>;tag=f", "To": "<sip:a@b>", "Contact": "<sip:a@b>", "Record-Route": "<sip:p;lr>"},
    **{"Call-ID": "1@a", "CSeq": "7 INVITE", "Max-Forwards": "70", "Content-Length": "0"},
    **{"Content-Type": "application/sdp", "Content-Encoding": "identity", "Reason": "SIP;text=bored"},
    **{"Require": "timer", "Supported": "timer", "Session-Expires": "1800;refresher=uac"},
}
FIELDS = st.sampled_from([*WHOLE, "Via", "Via", "Contact", "Record-Route"])
PIECES = [
    *' ,;:=<>@"?\\[]%*#',
    ";lr",
    ";tag=t",
    ";received=192.0.2.1",
    ";rport",
    ';x="y"',
    "self",
    "sip:",
    "1",
    "\udcff",
]
ODD = st.tuples(FIELDS, st.booleans(), st.lists(st.sampled_from(PIECES), max_size=3).map("".join)).map(
    lambda odd: (odd[0], WHOLE[odd[0]] * odd[1] + odd[2])
)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(["INVITE", "ACK", "BYE", "CANCEL", "OPTIONS", "INFO", "UPDATE", "REFER"]),
    st.lists(ODD, max_size=3),
    st.booleans(),
    st.booleans(),
)
@example("OPTIONS", [("Via", ",")], False, True)
@example("BYE", [("Via", WHOLE["Via"] + ';received=192.0.2.1;x="y"')], True, True)
def test_no_field_of_any_request_is_an_exception(
    method: str, odd: list[tuple[str, str]], inside: bool, first: bool
) -> None:
    """Whatever stands in it, in a call or outside: fields beside those that must be there, before or after them."""
    bench = Bench()
    peer = bench.peer()
    if inside:
        bench.call(peer, "Record-Route: <sip:192.0.2.1;lr>")
    start, *fields = peer.build(method, cseq=7).decode().split("\r\n")[:-2]
    extra = [f"{name}: {value}" for name, value in odd]
    whole = {name for name, _ in odd}
    kept = [field for field in fields if field.partition(":")[0] not in whole or field.startswith("Via")]
    data = "\r\n".join([start, *(extra + kept if first else kept + extra), "", ""])
    bench.agent.receive(data.encode(errors="surrogateescape"), peer.flow, bench.now)
    for dialog in [event.dialog for event in bench.agent.take_events() if isinstance(event, Invited)]:
        bench.agent.calls.accept(dialog, "answer", bench.now)
        bench.agent.calls.close("over", bench.now)
    for sent, _ in bench.agent.take_outgoing():
        assert sent.count(b"\r\n\r\n") == 1
    bench.receive(bench.peer().build("OPTIONS", cseq=1))
    assert bench.heard()[-1:] == ["200"]
