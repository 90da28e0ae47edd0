"""probe.py: asked now and then, by a made-up clock."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from signaling.sip.message import Request, respond
from signaling.sip.probe import ANSWER_S, MISSES, Probe
from signaling.sip.transaction import Flow
from signaling.sip.trunk import Trunk
from signaling.sip.wire import parse

TRUNK = Trunk("acme", "sip.acme.example", port=5070, user="1000", probe_s=30)
UDP = Flow("UDP", ("192.0.2.1", 5070), ("198.51.100.1", 5062))
TCP = Flow("TCP", ("192.0.2.1", 5070), ("198.51.100.1", 5062), serial=3)


class Bench:
    """A probe without a socket."""

    def __init__(self, flow: Flow = UDP, chance: float = 0.5) -> None:
        numbers = itertools.count(1)
        self.now = 1000.0
        self.ours = Probe(TRUNK, flow, token=lambda: f"t{next(numbers)}", chance=lambda: chance)
        self.sent: list[tuple[float, Request, Flow]] = []

    def start(self) -> Request:
        self.ours.start(self.now)
        return self.asked()

    def collect(self) -> None:
        for data, flow in self.ours.take_outgoing():
            request = parse(data)
            assert isinstance(request, Request)
            self.sent.append((self.now, request, flow))

    def asked(self) -> Request:
        """The last request, which was sent since the last look."""
        self.collect()
        *_, (_, request, _) = self.sent
        self.sent = []
        return request

    def answer(self, request: Request, code: int) -> bool:
        return self.ours.receive(respond(request, code, to_tag="theirs", phrase="Fine"), self.now)

    def wait(self, seconds: float) -> None:
        until = self.now + seconds
        while (at := self.ours.next_at) is not None and at <= until:
            self.now = max(self.now, at)
            self.ours.fire(self.now)
            self.collect()
        self.now = until


def test_what_it_asks() -> None:
    request = Bench().start()
    assert (request.method, request.uri) == ("OPTIONS", "sip:sip.acme.example:5070")
    assert request.headers.get("From") == "<sip:1000@sip.acme.example>;tag=t2"
    assert request.headers.get("To") == "<sip:sip.acme.example:5070>"
    assert request.headers.get("Contact") == "<sip:198.51.100.1:5062>"
    assert request.headers.get("Max-Forwards") == "70"


@pytest.mark.parametrize("code", [200, 401, 403, 404, 405, 481, 500, 501, 603])
def test_any_answer_is_a_sign_of_life(code: int) -> None:
    bench = Bench()
    assert bench.answer(bench.start(), code)
    assert (bench.ours.up, bench.ours.why) == (True, "")
    bench.wait(29)
    assert bench.sent == []


def test_it_asks_by_the_proxy_that_calls_take() -> None:
    probe = Probe(replace(TRUNK, proxy="edge.example"), UDP, token=lambda: "t", chance=lambda: 0.5)
    probe.start(0.0)
    ((data, _),) = probe.take_outgoing()
    assert parse(data).headers.getlist("Route") == ("<sip:edge.example;lr>",)


def test_it_asks_again_and_the_order_is_kept() -> None:
    bench = Bench()
    first = bench.start()
    bench.answer(first, 200)
    bench.wait(30)
    second = bench.asked()
    assert second.call_id == first.call_id and second.cseq == (2, "OPTIONS")
    assert second.via.parameters["branch"] != first.via.parameters["branch"]


@pytest.mark.parametrize(("chance", "after_s"), [(0.0, 27.0), (0.999, 32.994)])
def test_not_all_ask_at_once(chance: float, after_s: float) -> None:
    bench = Bench(chance=chance)
    bench.answer(bench.start(), 200)
    assert bench.ours.next_at == pytest.approx(1000 + after_s)


@pytest.mark.parametrize("code", [408, 503])
def test_two_answers_mean_that_nobody_is_there(code: int) -> None:
    bench = Bench()
    bench.answer(bench.start(), 200)
    for _ in range(MISSES):
        assert bench.ours.up is True
        bench.wait(30)
        bench.answer(bench.asked(), code)
    assert (bench.ours.up, bench.ours.why) == (False, f"answered {code} to OPTIONS")


def test_silence_three_times_is_down_and_one_answer_is_up() -> None:
    bench = Bench()
    bench.answer(bench.start(), 200)
    bench.wait(3 * 30 + ANSWER_S - 0.1)
    assert bench.ours.up is True
    bench.wait(0.2)
    assert (bench.ours.up, bench.ours.why) == (False, "gave no answer to OPTIONS")
    bench.sent = []
    bench.wait(25)
    bench.answer(bench.asked(), 200)
    assert (bench.ours.up, bench.ours.why) == (True, "")


def test_a_miss_now_and_then_is_forgiven() -> None:
    bench = Bench()
    bench.answer(bench.start(), 200)
    for _ in range(10):
        bench.wait(60)  # one is missed, the next answered
        bench.answer(bench.asked(), 200)
    assert bench.ours.up is True


def test_a_datagram_is_repeated_while_an_answer_may_come() -> None:
    bench = Bench()
    bench.start()
    bench.wait(20)
    assert [at - 1000 for at, _, _ in bench.sent] == pytest.approx([0.5, 1.5, 3.5, 7.5])
    bench = Bench(TCP)
    bench.start()
    bench.wait(20)
    assert bench.sent == []


def test_what_comes_too_late_or_is_for_others_is_not_taken() -> None:
    bench = Bench()
    request = bench.start()
    assert not Bench().answer(request, 200)
    bench.wait(ANSWER_S)
    assert not bench.answer(request, 200)
    bench.wait(22)
    assert bench.answer(bench.asked(), 100)
    assert bench.ours.up is None


def test_what_cannot_have_arrived_is_a_miss() -> None:
    bench = Bench(TCP)
    bench.start()
    for _ in range(MISSES):
        bench.ours.lost("refused")
        bench.ours.lost("refused")
        bench.wait(30)
    assert (bench.ours.up, bench.ours.why) == (False, "refused")


def test_another_way_is_taken_from_the_next_time_on() -> None:
    bench = Bench()
    bench.answer(bench.start(), 200)
    bench.ours.moved(TCP)
    bench.wait(30)
    ((_, request, flow),) = bench.sent
    assert flow == TCP and request.via.transport == "TCP"


def test_stopped_it_is_silent() -> None:
    bench = Bench()
    request = bench.start()
    bench.ours.stop()
    assert bench.ours.next_at is None
    assert not bench.answer(request, 200)
    bench.wait(100)
    assert bench.sent == []
