"""keeper.py: several trunks at once, each for itself, by a made-up clock."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from signaling.sip.keeper import Keeper
from signaling.sip.message import Request, respond
from signaling.sip.probe import MISSES
from signaling.sip.transaction import Flow
from signaling.sip.trunk import Kept, Trunk, TrunkState
from signaling.sip.wire import parse

HOUSE = Trunk("house", "pbx.example", user="1000", password="wonderland", register=True)
ACME = Trunk(
    "acme", "sip.acme.example", probe_s=30, user="acme", password="x", register=True, proxy="edge.example:5070"
)
PLAIN = Trunk("plain", "192.0.2.7")
ONE = Flow("UDP", ("192.0.2.1", 5060), ("198.51.100.1", 5062))
TWO = Flow("UDP", ("192.0.2.2", 5060), ("198.51.100.1", 5062))
CHALLENGE = ("WWW-Authenticate", 'Digest realm="house", nonce="n1", qop="auth"')


class Bench:
    """A keeper without a socket; `sent` are its requests since the last look."""

    def __init__(self, *trunks: Trunk) -> None:
        numbers = itertools.count(1)
        self.now = 1000.0
        self.ours = Keeper(trunks, token=lambda: f"t{next(numbers)}", chance=lambda: 0.5)
        self.sent: list[tuple[Request, Flow]] = []
        self.events: list[Kept] = []

    def collect(self) -> None:
        for data, flow in self.ours.take_outgoing():
            request = parse(data)
            assert isinstance(request, Request)
            self.sent.append((request, flow))
        self.events += self.ours.take_events()

    def reach(self, trunk: Trunk, flow: Flow = ONE) -> None:
        self.ours.reach(trunk.name, flow, self.now)
        self.collect()

    def asked(self, method: str = "REGISTER") -> Request:
        """The one request of that method that was sent since the last look."""
        (found,) = [request for request, _ in self.sent if request.method == method]
        self.sent = [(request, flow) for request, flow in self.sent if request is not found]
        return found

    def answer(self, request: Request, code: int, *fields: tuple[str, str]) -> None:
        assert self.ours.receive(respond(request, code, *fields, to_tag="theirs", phrase="Fine"), self.now)
        self.collect()

    def wait(self, seconds: float) -> None:
        until = self.now + seconds
        while (at := self.ours.next_at) is not None and at <= until:
            self.now = max(self.now, at)
            self.ours.fire(self.now)
            self.collect()
        self.now = until

    def told(self) -> list[str]:
        events, self.events = self.events, []
        return [f"{event.state.name} {event.state}" for event in events]


def test_a_place_is_kept_at_each_registrar() -> None:
    bench = Bench(HOUSE, ACME)
    bench.reach(HOUSE)
    request = bench.asked()
    assert (request.uri, request.headers.get("To")) == ("sip:pbx.example", "<sip:1000@pbx.example>")
    assert request.headers.get("Contact") == "<sip:1000@198.51.100.1:5062>"
    assert request.headers.getlist("Route") == ()
    bench.answer(request, 401, CHALLENGE)
    again = bench.asked()
    assert again.headers.get("Authorization").startswith('Digest username="1000"')
    bench.answer(again, 200)
    bench.reach(ACME, TWO)
    assert bench.asked().headers.getlist("Route") == ("<sip:edge.example:5070;lr>",)
    assert bench.told() == ["house registered at pbx.example"]
    assert bench.ours.states == (
        TrunkState("house", "pbx.example", registered=True),
        TrunkState("acme", "sip.acme.example"),
    )


def test_a_refresh_is_no_news() -> None:
    bench = Bench(HOUSE)
    bench.reach(HOUSE)
    bench.answer(bench.asked(), 200, ("Service-Route", "<sip:core.example;lr>"))
    assert bench.told() == ["house registered at pbx.example"]
    assert bench.ours.routes("house") == ("<sip:core.example;lr>",)
    bench.wait(525)
    bench.answer(bench.asked(), 200)
    assert bench.told() == []
    assert bench.ours.routes("house") == ()


def test_one_that_fails_does_not_touch_the_others() -> None:
    bench = Bench(HOUSE, ACME)
    bench.reach(HOUSE)
    bench.reach(ACME, TWO)
    house, acme = [request for request, _ in bench.sent if request.method == "REGISTER"]
    bench.sent = []
    bench.answer(house, 200)
    bench.answer(acme, 403)
    assert bench.told() == [
        "house registered at pbx.example",
        "acme not registered at sip.acme.example: cannot register: 403 Fine",
    ]
    assert [state.registered for state in bench.ours.states] == [True, False]


def test_a_wrong_password_is_told_with_when_it_is_tried_again() -> None:
    bench = Bench(HOUSE)
    bench.reach(HOUSE)
    bench.answer(bench.asked(), 401, CHALLENGE)
    bench.answer(bench.asked(), 401, CHALLENGE)
    (event,) = bench.events
    assert event.state.why == "cannot register: user name or password refused by 'house'"
    assert (event.failed, event.retry_s) == (401, 45.0)
    assert "wonderland" not in repr(event)
    bench.told()
    bench.wait(45)
    bench.answer(bench.asked(), 200)
    assert bench.told() == ["house registered at pbx.example"]


def test_nobody_answers_and_another_way_does() -> None:
    bench = Bench(HOUSE)
    bench.reach(HOUSE)
    bench.wait(32)
    (event,) = bench.events
    assert (event.failed, event.state.why) == (408, "cannot register: nobody answered")
    bench.told()
    bench.sent = []
    bench.reach(HOUSE, TWO)
    ((request, flow),) = bench.sent
    assert flow == TWO, "at once, not when the wait is over"
    bench.answer(request, 200)
    assert bench.told() == ["house registered at pbx.example"]


def test_the_same_way_again_changes_nothing() -> None:
    bench = Bench(HOUSE)
    bench.reach(HOUSE)
    bench.answer(bench.asked(), 200)
    bench.told()
    bench.reach(HOUSE)
    assert (bench.sent, bench.events) == ([], [])
    assert bench.ours.uses(ONE) and not bench.ours.uses(TWO)


def test_no_way_at_all() -> None:
    bench = Bench(HOUSE, PLAIN)
    for trunk in (HOUSE, PLAIN):
        bench.ours.unreachable(trunk.name, "its name has no address", bench.now)
        bench.collect()
    assert bench.told() == [
        "house not registered at pbx.example: its name has no address",
        "plain not known at 192.0.2.7: its name has no address",
    ]
    bench.reach(PLAIN)
    assert bench.told() == ["plain not known at 192.0.2.7"]
    bench.reach(HOUSE)
    bench.answer(bench.asked(), 200)
    assert bench.told()[-1] == "house registered at pbx.example"


def test_a_connection_that_is_lost_while_we_ask() -> None:
    bench = Bench(HOUSE)
    bench.reach(HOUSE)
    bench.ours.unreachable("house", "connection refused", bench.now)
    bench.collect()
    (event,) = bench.events
    assert (event.failed, event.state.why) == (503, "cannot register: connection refused")


def test_whether_a_peer_lives_is_told_when_it_changes() -> None:
    probed = Trunk("acme", "sip.acme.example", probe_s=30)
    bench = Bench(probed)
    bench.reach(probed)
    assert bench.told() == []
    bench.answer(bench.asked("OPTIONS"), 200)
    assert bench.told() == ["acme up at sip.acme.example"]
    bench.wait(30)
    bench.answer(bench.asked("OPTIONS"), 405)
    assert bench.told() == []
    bench.wait(30 * (MISSES + 1))
    assert bench.told() == ["acme down at sip.acme.example: gave no answer to OPTIONS"]
    bench.answer(bench.sent[-1][0], 200)
    assert bench.told() == ["acme up at sip.acme.example"]


def test_registered_and_down_are_told_apart() -> None:
    bench = Bench(ACME)
    bench.reach(ACME)
    bench.answer(bench.asked(), 200)
    bench.wait(30 * (MISSES + 1))
    assert bench.told() == [
        "acme registered at sip.acme.example",
        "acme registered, down at sip.acme.example: gave no answer to OPTIONS",
    ]


def test_all_registrars_are_told_that_we_leave() -> None:
    bench = Bench(HOUSE, ACME)
    bench.reach(HOUSE)
    bench.answer(bench.asked(), 200)
    bench.reach(ACME, TWO)
    bench.answer(bench.asked(), 503)
    bench.sent = []
    bench.told()
    assert bench.ours.idle
    bench.ours.stop(bench.now)
    bench.collect()
    assert not bench.ours.idle
    last = bench.asked()
    assert (last.uri, last.headers.get("Expires")) == ("sip:pbx.example", "0")
    bench.answer(last, 200)
    assert bench.ours.idle
    assert bench.told()[-1] == "house not registered at pbx.example: we have left"
    bench.reach(HOUSE, TWO)
    bench.wait(1000)
    assert bench.sent == []
    assert bench.ours.next_at is None


def test_a_trunk_of_which_nothing_is_asked() -> None:
    bench = Bench(PLAIN)
    bench.reach(PLAIN)
    assert (bench.sent, bench.told(), bench.ours.next_at) == ([], [], None)
    assert not bench.ours.receive(respond(request_of_another(), 200, phrase="OK"), bench.now)


def request_of_another() -> Request:
    """A request of somebody else's."""
    bench = Bench(HOUSE)
    bench.reach(HOUSE)
    return bench.asked()


@pytest.mark.parametrize(
    ("state", "text"),
    [
        (TrunkState("a", "a.example"), "not known at a.example"),
        (TrunkState("a", "a.example", True, True), "registered, up at a.example"),
        (TrunkState("a", "a.example", False, None, "no"), "not registered at a.example: no"),
    ],
)
def test_a_state_says_itself(state: TrunkState, text: str) -> None:
    assert str(state) == text


# --- whatever happens ----------------------------------------------------------------------------------------------

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("reach"), st.sampled_from([HOUSE, ACME]), st.sampled_from([ONE, TWO])),
        st.tuples(st.just("unreachable"), st.sampled_from([HOUSE, ACME]), st.none()),
        st.tuples(st.just("answer"), st.sampled_from([100, 200, 401, 403, 408, 423, 503]), st.none()),
        st.tuples(st.just("wait"), st.floats(0, 1000), st.none()),
        st.tuples(st.just("stop"), st.none(), st.none()),
    ),
    max_size=30,
)


@given(STEPS)
@settings(max_examples=150, deadline=None)
def test_it_always_comes_to_an_end(steps: list[tuple[str, Any, Any]]) -> None:
    """Nothing raises; whoever is told that we are registered was answered so; and after a stop there is silence."""
    bench = Bench(HOUSE, ACME)
    for what, first, second in [*steps, ("stop", None, None), ("wait", 100.0, None)]:
        if what == "reach":
            bench.reach(first, second)
        elif what == "unreachable":
            bench.ours.unreachable(first.name, "no way", bench.now)
        elif what == "answer" and bench.sent:
            request, _ = bench.sent.pop(0)
            bench.ours.receive(respond(request, first, CHALLENGE, to_tag="theirs", phrase="Fine"), bench.now)
        elif what == "wait":
            bench.wait(first)
        elif what == "stop":
            bench.ours.stop(bench.now)
        bench.collect()
    assert bench.ours.idle and bench.ours.next_at is None
    assert not any(state.registered for state in bench.ours.states)
    last = {event.state.name: event.state for event in bench.events}
    assert all(state == last.get(state.name, state) for state in bench.ours.states), "a state that nobody was told of"
