"""Changes, refreshes and transfers of a call in any order: each is settled once, and nothing is left behind."""

from __future__ import annotations

from collections import Counter

from hypothesis import example, given, settings
from hypothesis import strategies as st

from signaling.sip.changes import Change
from signaling.sip.dialog import Dialog
from signaling.sip.events import Changed, Ended, Settled
from signaling.sip.message import Request
from signaling.sip.refer import Referral
from tests.signaling.sip.bench import TCP, UDP, Bench, is_empty
from tests.signaling.sip.peer import OFFER

CODES = (100, 180, 200, 202, 401, 408, 422, 481, 488, 491, 500, 503, 603)

STEP = st.one_of(
    st.tuples(st.just("propose"), st.integers(0, 3)),
    st.tuples(st.just("refer"), st.just(0)),
    st.tuples(st.just("answer"), st.sampled_from(CODES)),
    st.tuples(st.just("answer"), st.just(200)),
    st.tuples(st.just("offer"), st.integers(0, 3)),
    st.tuples(st.just("update"), st.just(0)),
    st.tuples(st.just("decide"), st.booleans()),
    st.tuples(st.just("acknowledge"), st.just(0)),
    st.tuples(st.just("notify"), st.sampled_from((100, 180, 200, 486))),
    st.tuples(st.just("end"), st.just(0)),
    st.tuples(st.just("wait"), st.sampled_from((0, 1, 5, 33, 50, 200))),
    st.tuples(st.just("over"), st.booleans()),
)


class Play:
    """One call, in which anything happens."""

    def __init__(self, reliable: bool, timer: bool, update: bool) -> None:
        fields = ["Supported: timer", "Session-Expires: 90;refresher=uas"] if timer else []
        self.bench = Bench(chance=lambda: 0.5)
        self.peer = self.bench.peer(TCP if reliable else UDP)
        self.dialog: Dialog = self.bench.call(self.peer, *fields, *(["Allow: UPDATE"] if update else []))
        self.asked: list[object] = []
        self.settled: Counter[object] = Counter()
        self.ended = 0

    def do(self, what: str, how: int) -> None:
        getattr(self, what)(how)
        self.bench.collect()

    def look(self) -> None:
        """What was told since the last look."""
        events, self.bench.events = self.bench.events, []
        for event in events:
            if isinstance(event, Settled):
                self.settled[event.asked] += 1
            self.ended += isinstance(event, Ended)
            if isinstance(event, Changed):
                self.changed = event

    def propose(self, number: int) -> None:
        self.asked.append(Change(self.dialog, f"ours {number}"))
        self.bench.agent.changes.want(self.asked[-1], self.bench.now)  # type: ignore[arg-type]  # a Change

    def refer(self, _: int) -> None:
        self.asked.append(Referral(self.dialog, "sip:bob@192.0.2.9"))
        self.bench.agent.referrals.refer(self.asked[-1], self.bench.now)  # type: ignore[arg-type]  # a Referral

    def answer(self, code: int) -> None:
        """To the last request of ours, whatever it was."""
        ours = [m for _, m, _ in self.bench.sent if isinstance(m, Request) and m.method != "ACK"]
        if ours:
            body = "their answer" if code == 200 and ours[-1].body else ""
            self.peer.answer(ours[-1], code, "Retry-After: 1", "Min-SE: 200", "Session-Expires: 90", body=body)

    def offer(self, number: int) -> None:
        self.peer.ask("INVITE", body=f"theirs {number}" if number else OFFER)

    def update(self, _: int) -> None:
        self.peer.ask("UPDATE")

    def decide(self, yes: int) -> None:
        self.look()
        if (changed := getattr(self, "changed", None)) is not None:
            self.bench.change(changed, "our answer" if yes else 488)

    def acknowledge(self, _: int) -> None:
        self.peer.send(self.peer.build("ACK", cseq=self.dialog.accepted_cseq))

    def notify(self, code: int) -> None:
        fields = ("Event: refer", "Subscription-State: active")
        self.peer.ask("NOTIFY", *fields, body=f"SIP/2.0 {code} Fine", Content_Type="message/sipfrag")

    def end(self, _: int) -> None:
        fields = ("Event: refer", "Subscription-State: terminated;reason=timeout")
        self.peer.ask("NOTIFY", *fields)

    def wait(self, seconds: int) -> None:
        self.bench.wait(seconds)

    def over(self, ours: int) -> None:
        if ours:
            self.bench.hang_up(self.dialog)
        else:
            self.peer.ask("BYE")


TWO_ALARMS_AT_ONCE = [("offer", 0), ("propose", 0), ("propose", 0), ("refer", 0), ("wait", 33), ("end", 0)]
"""The first ends the call, and the second is no more."""


@settings(max_examples=60, deadline=None)
@example(TWO_ALARMS_AT_ONCE, False, True, False)
@given(st.lists(STEP, max_size=25), st.booleans(), st.booleans(), st.booleans())
def test_any_order(steps: list[tuple[str, int]], reliable: bool, timer: bool, update: bool) -> None:
    play = Play(reliable, timer, update)
    for what, how in steps:
        play.do(what, how)
    play.do("over", 1)
    play.bench.wait(300)
    play.look()
    assert play.ended == 1
    assert play.settled == Counter(play.asked)
    assert is_empty(play.bench)
