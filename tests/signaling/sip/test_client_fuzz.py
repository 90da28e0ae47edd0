"""Calls of ours under everything at once: forks, responses repeated and in any order, and we who change our mind."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from signaling.sip.dialog import State
from signaling.sip.events import Changed, Ended, Failed, Progressed, Taken
from signaling.sip.message import Request, Response
from tests.signaling.sip.bench import TCP, UDP, Bench
from tests.signaling.sip.far import LOGIN, Far

TAGS = ["", "a", "b", "c"]
CODES = [100, 180, 183, 183, 199, 200, 200, 202, 302, 401, 407, 422, 486, 487, 491, 503, 603]
FIELDS = [
    "X: y",
    *('WWW-Authenticate: Digest realm="r", nonce="n", qop="auth", stale=true', "WWW-Authenticate: Basic"),
    *('Proxy-Authenticate: Digest realm="p", nonce="m"', "Min-SE: 3600", "Min-SE: ;", "Retry-After: 5"),
    *("Require: 100rel\r\nRSeq: 1", "Require: 100rel\r\nRSeq: 2", "Require: 100rel", "Record-Route: <sip:p;lr>"),
    *("Record-Route: <<", "Contact: *", "Session-Expires: 90;refresher=uac", "Session-Expires: 90;refresher=uas"),
]
RESPONSE = st.tuples(
    st.just("say"), st.sampled_from(CODES), st.sampled_from(TAGS), st.sampled_from(FIELDS), st.booleans()
)
ASK = st.tuples(st.just("ask"), st.sampled_from(["BYE", "UPDATE", "INVITE", "INFO", "ACK"]), st.sampled_from(TAGS))
DO = st.tuples(st.sampled_from(["give up", "answer", "hang up", "repeat", "fulfil", "old"]))
WAIT = st.tuples(st.just("wait"), st.sampled_from([0, 1, 3, 9, 33, 61]))
STEPS = st.lists(st.one_of(RESPONSE, RESPONSE, ASK, DO, WAIT), max_size=30)


class Chaos:
    """One call of ours and what became of it."""

    def __init__(self, offers: bool, on_tcp: bool) -> None:
        self.bench = Bench()
        self.far = Far(self.bench, "offer" if offers else None, TCP if on_tcp else UDP, login=LOGIN)
        self.said: list[bytes] = [self.far.response(180)]
        self.told: Counter[type] = Counter()
        self.taken: list[Taken] = []
        self.successes: set[tuple[int, str]] = set()
        self.requests: list[Request] = []

    def step(self, what: str, *how: object) -> None:
        bench, far = self.bench, self.far
        if what == "say":
            code, tag, field, body = how
            data = far.response(int(str(code)), str(field), tag=str(tag), body="media" * bool(body))
            self.said.append(data)
            bench.receive(data, far.flow)
        elif what == "ask":
            method, tag = how
            far.ask(str(method), tag=str(tag), body="theirs" if method in ("UPDATE", "INVITE") else "")
        elif what == "wait":
            bench.wait(float(str(how[0])))
        elif what == "give up":
            far.give_up()
        elif what == "answer":
            far.answer("ours")
        elif what == "hang up" and self.taken:
            bench.hang_up(self.taken[0].dialog)
        elif what == "repeat":
            bench.receive(self.said[-1], far.flow)
        elif what == "old":
            bench.receive(self.said[0], far.flow)
        elif what == "fulfil":  # whatever else of ours waits for an answer
            asked = [m for _, m, _ in bench.sent if isinstance(m, Request) and m.method not in ("INVITE", "ACK")]
            for request in asked[-2:]:
                far.say(200, to=request)
        self.look()

    def look(self) -> None:
        events, self.bench.events = self.bench.events, []
        for event in events:
            self.told[type(event)] += 1
            if isinstance(event, Taken):
                self.taken.append(event)
            if isinstance(event, Changed):
                self.bench.change(event, "ours")
        self.requests += [m for _, m, _ in self.bench.sent if isinstance(m, Request)]
        self.bench.sent = [s for s in self.bench.sent if isinstance(s[1], Response)] + self.bench.sent[-3:]

    @property
    def is_quiet(self) -> bool:
        """Nothing is there, or a call that both are in."""
        left = self.bench.agent.left_over()
        return left == 0 or (left == 1 and self.taken[0].dialog.state is State.CONFIRMED)

    def finish(self) -> None:
        """Our side ends what is left; then it is quiet."""
        self.far.give_up()
        self.far.answer("ours")
        for taken in self.taken:
            self.bench.hang_up(taken.dialog)
        self.look()
        self.bench.wait(100)
        self.look()


@settings(max_examples=200, deadline=None)
@given(STEPS, st.booleans(), st.booleans())
def test_whatever_comes_a_call_has_one_outcome_and_leaves_nothing(
    script: list[tuple[object, ...]], offers: bool, on_tcp: bool
) -> None:
    chaos = Chaos(offers, on_tcp)
    for what, *how in script:
        chaos.step(str(what), *how)
        assert chaos.bench.agent.next_at is not None or chaos.is_quiet, "somebody waits for ever"
    chaos.finish()
    told = chaos.told
    assert told[Taken] + told[Failed] == 1
    assert told[Ended] == told[Taken]
    assert chaos.bench.agent.left_over() == 0
    assert chaos.bench.agent.next_at is None
    assert chaos.bench.agent.idle
    ended = {request.to_tag for request in chaos.requests if request.method == "BYE"}
    acknowledged = {r.to_tag for r in chaos.requests if r.method == "ACK" and b"z9hG4bK" in bytes(r)}
    assert ended <= acknowledged, "no BYE without an ACK before it"


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([180, 183, 200]), st.sampled_from("abcd")), min_size=1, max_size=25))
def test_of_all_forks_one_has_the_call_and_each_2xx_its_ack(script: list[tuple[int, str]]) -> None:
    bench = Bench()
    far = Far(bench)
    for code, tag in script:
        before = len([m for _, m, _ in bench.sent if isinstance(m, Request) and m.method == "ACK"])
        far.say(code, tag=tag, body="media")
        after = [m for _, m, _ in bench.sent if isinstance(m, Request) and m.method == "ACK"]
        assert [ack.to_tag for ack in after[before:]] == ([tag] if code == 200 else [])
    winners = [tag for code, tag in script if code == 200]
    byes = [m.to_tag for _, m, _ in bench.sent if isinstance(m, Request) and m.method == "BYE"]
    assert byes == [tag for tag in dict.fromkeys(winners) if tag != winners[0]]
    taken = [event for event in bench.events if isinstance(event, Taken)]
    assert [event.dialog.id[2] for event in taken] == winners[:1]
    assert len([event for event in bench.events if isinstance(event, Progressed)]) >= (script[0][0] != 200)
