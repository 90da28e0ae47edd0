"""registration.py: asked, challenged, refreshed, refused, moved and taken off, by a made-up clock."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from signaling.sip.digest import Login, parse_credentials
from signaling.sip.granted import MIN_REFRESH_S
from signaling.sip.message import Request, Response, respond
from signaling.sip.outcome import MAX_RETRY_AFTER_S
from signaling.sip.registration import (
    BACK_OFF_S,
    MAX_BACK_OFF_S,
    REGISTRATION,
    Account,
    Event,
    Failed,
    Input,
    Left,
    Registered,
    Registration,
    State,
)
from signaling.sip.transaction import Flow
from signaling.sip.wire import parse

ACCOUNT = Account("sip:example.com", "sip:1000@example.com", Login("alice", "wonderland"), routes=("<sip:edge;lr>",))
UDP = Flow("UDP", ("192.0.2.1", 5060), ("198.51.100.1", 5062))
TCP = Flow("TCP", ("192.0.2.1", 5060), ("198.51.100.1", 5062), serial=3)
CHALLENGE = ("WWW-Authenticate", 'Digest realm="house", nonce="n1", qop="auth"')
AGAIN = ("WWW-Authenticate", 'Digest realm="house", nonce="n2", qop="auth"')


class Bench:
    """A registration without a socket; `sent` is what it asked since the last look."""

    def __init__(self, account: Account = ACCOUNT, flow: Flow = UDP, chance: float = 0.0) -> None:
        numbers = itertools.count(1)
        self.now = 1000.0
        self.ours = Registration(account, flow, token=lambda: f"t{next(numbers)}", chance=lambda: chance)
        self.sent: list[Request] = []
        self.events: list[Event] = []

    def collect(self) -> None:
        for data, _ in self.ours.take_outgoing():
            request = parse(data)
            assert isinstance(request, Request)
            self.sent.append(request)
        self.events += self.ours.take_events()

    def start(self) -> Request:
        self.ours.start(self.now)
        return self.asked()

    def stop(self) -> None:
        self.ours.stop(self.now)
        self.collect()

    def asked(self) -> Request:
        """The one request that was sent since the last look."""
        self.collect()
        (request,) = self.sent
        self.sent = []
        return request

    def answer(self, request: Request, code: int, *fields: tuple[str, str], phrase: str = "Fine") -> bool:
        taken = self.ours.receive(respond(request, code, *fields, to_tag="theirs", phrase=phrase), self.now)
        self.collect()
        return taken

    def wait(self, seconds: float) -> None:
        until = self.now + seconds
        while (at := self.ours.next_at) is not None and at <= until:
            self.now = max(self.now, at)
            self.ours.fire(self.now)
            self.collect()
        self.now = until

    def told(self) -> list[Event]:
        events, self.events = self.events, []
        return events

    def register(self, *fields: tuple[str, str]) -> Request:
        """From the beginning to a 200."""
        request = self.start()
        self.answer(request, 200, *fields)
        assert isinstance(self.told()[-1], Registered)
        return request


def expires(request: Request) -> int:
    return int(request.headers.get("Expires"))


# --- the table -----------------------------------------------------------------------------------------------------


def test_every_state_is_reached_and_left() -> None:
    assert {state for state, _ in REGISTRATION} == set(State) - {State.ENDED}
    assert {state for state, _ in REGISTRATION.values()} == set(State) - {State.IDLE}


@pytest.mark.parametrize("state", [State.ASKING, State.STOPPING, State.LEAVING])
def test_whatever_is_asked_comes_to_an_end(state: State) -> None:
    assert {(state, what) in REGISTRATION for what in (Input.SUCCESS, Input.AGAIN, Input.FAILURE)} == {True}


@pytest.mark.parametrize("state", set(State) - {State.ENDED, State.STOPPING, State.LEAVING})
def test_it_can_be_stopped_anywhere(state: State) -> None:
    assert (state, Input.STOP) in REGISTRATION


# --- registering ---------------------------------------------------------------------------------------------------


def test_what_a_register_says() -> None:
    request = Bench().start()
    assert (request.method, request.uri) == ("REGISTER", "sip:example.com")
    fields = dict(request.headers.fields)
    assert fields["From"] == f"<sip:1000@example.com>;tag={request.from_tag}"
    assert fields["To"] == "<sip:1000@example.com>"
    assert fields["Contact"] == "<sip:1000@198.51.100.1:5062>"
    assert fields["Route"] == "<sip:edge;lr>"
    assert (fields["Expires"], fields["Supported"], fields["Max-Forwards"]) == ("600", "path", "70")
    assert fields["Via"].startswith("SIP/2.0/UDP 198.51.100.1:5062;rport;branch=z9hG4bK")
    assert "Authorization" not in fields


def test_over_a_connection_with_an_instance() -> None:
    account = Account(
        "sip:x", "sip:+49.30@x", Login("u", "p"), instance="urn:uuid:00000000-0000-1000-8000-000A95A0E128"
    )
    request = Bench(account, TCP).start()
    assert request.headers.get("Contact") == (
        '<sip:+49.30@198.51.100.1:5062;transport=tcp>;+sip.instance="<urn:uuid:00000000-0000-1000-8000-000A95A0E128>"'
    )
    assert request.via.transport == "TCP"


def test_a_challenge_is_answered_and_the_nonce_used_again() -> None:
    bench = Bench()
    first = bench.start()
    assert bench.answer(first, 401, CHALLENGE)
    second = bench.asked()
    told = parse_credentials(second.headers.get("Authorization"))
    assert told.response == told.expected("wonderland", "REGISTER")
    assert (told.uri, told.nc) == ("sip:example.com", "00000001")
    assert second.call_id == first.call_id and second.from_tag == first.from_tag
    assert second.cseq == (first.cseq[0] + 1, "REGISTER")
    assert second.via.parameters["branch"] != first.via.parameters["branch"]
    bench.answer(second, 200)
    assert bench.told() == [Registered(600)]
    bench.wait(540)
    third = bench.asked()
    assert parse_credentials(third.headers.get("Authorization")).nc == "00000002"
    bench.answer(third, 401, AGAIN)  # the nonce had grown old, and they do not say "stale"
    fourth = bench.asked()
    assert parse_credentials(fourth.headers.get("Authorization")).nonce == "n2"
    bench.answer(fourth, 200)
    assert bench.told() == [Registered(600)]
    assert bench.ours.valid_until == bench.now + 600


def test_a_proxy_on_the_way_may_ask_too() -> None:
    bench = Bench()
    bench.answer(bench.start(), 407, ("Proxy-Authenticate", CHALLENGE[1].replace("house", "edge")))
    bench.answer(bench.asked(), 401, CHALLENGE)
    both = bench.asked()
    assert both.headers.get("Proxy-Authorization") and both.headers.get("Authorization")
    bench.answer(both, 200)
    assert bench.told() == [Registered(600)]


@pytest.mark.parametrize(
    ("challenge", "why"),
    [
        (AGAIN, "user name or password refused by 'house'"),
        (("WWW-Authenticate", 'Digest realm="x", nonce="y", algorithm=SHA-512-256'), "algorithms offered: SHA-512-256"),
        (("X-Nothing", "x"), "no Digest challenge that we can answer"),
    ],
)
def test_a_login_that_is_no_good(challenge: tuple[str, str], why: str) -> None:
    bench = Bench()
    bench.answer(bench.start(), 401, CHALLENGE)
    bench.answer(bench.asked(), 401, challenge)
    (failed,) = bench.told()
    assert isinstance(failed, Failed)
    assert (failed.code, failed.retry_s) == (401, BACK_OFF_S)
    assert why in failed.why
    assert bench.ours.state is State.WAITING
    bench.wait(BACK_OFF_S)
    assert bench.asked().method == "REGISTER"  # somebody may have put it right meanwhile


def test_provisional_and_strange_responses() -> None:
    bench = Bench()
    request = bench.start()
    assert bench.answer(request, 100)
    assert bench.ours.state is State.ASKING
    other = respond(request, 200)
    via = other.headers.get("Via")
    fields = tuple((name, f"{via}x" if name == "Via" else value) for name, value in other.headers.fields)
    assert not bench.ours.receive(Response(type(other.headers)(fields), b"", 200, "OK"), bench.now)
    assert bench.answer(request, 200)
    assert not bench.answer(request, 200)  # once more: the datagram was repeated
    assert bench.told() == [Registered(600)]


def test_routes_and_path() -> None:
    bench = Bench()
    bench.answer(
        bench.start(),
        200,
        ("Service-Route", "<sip:a;lr>, <sip:b;lr>"),
        ("Path", "<sip:p;lr>"),
        ("Service-Route", "<sip:c;lr>"),
    )
    assert bench.told() == [Registered(600, ("<sip:a;lr>", "<sip:b;lr>", "<sip:c;lr>"), ("<sip:p;lr>",))]
    bench.wait(540)
    bench.answer(bench.asked(), 200, ("Service-Route", "<sip:a"))
    assert bench.told() == [Registered(600)]  # nobody could follow it


# --- how long ------------------------------------------------------------------------------------------------------

OURS = "<sip:1000@198.51.100.1:5062>"


@pytest.mark.parametrize(
    ("fields", "seconds"),
    [
        ([], 600),
        ([("Expires", "120")], 120),
        ([("Contact", f"{OURS};expires=90"), ("Expires", "120")], 90),
        ([("Contact", f'<sip:1000@other>;expires=30, {OURS};q=0.5; Expires = "60"')], 60),
        ([("Contact", f"{OURS}"), ("Expires", "70")], 70),
        ([("Contact", "<sip:1000@203.0.113.9:1024>;expires=45")], 45),  # rewritten on its way through a NAT
        ([("Contact", f"{OURS};expires=99999")], 600),
        ([("Contact", f"{OURS};expires=soon")], 600),
        ([("Contact", f"<sip:1000@{chr(1632)}>;expires=50")], 50),
    ],
)
def test_the_time_that_is_granted(fields: list[tuple[str, str]], seconds: int) -> None:
    bench = Bench()
    bench.register(*fields)
    assert bench.ours.valid_until == bench.now + seconds


@pytest.mark.parametrize(
    ("granted", "chance", "at"),
    [(600, 0.0, 540.0), (600, 1.0, 510.0), (3600, 0.0, 3240.0), (100, 0.0, 70.0), (60, 0.5, 30.0), (1, 0.0, 5.0)],
)
def test_a_refresh_comes_before_it_is_over(granted: int, chance: float, at: float) -> None:
    account = Account("sip:x", "sip:1000@x", Login("u", "p"), expires=3600)
    bench = Bench(account, chance=chance)
    bench.register(("Expires", str(granted)))
    assert bench.ours.next_at == bench.now + at
    assert at < granted or granted < MIN_REFRESH_S


def test_no_time_is_a_failure() -> None:
    bench = Bench()
    bench.answer(bench.start(), 200, ("Expires", "0"))
    assert bench.told() == [Failed(200, "the registrar granted us no time", BACK_OFF_S)]


def test_too_brief() -> None:
    bench = Bench()
    first = bench.start()
    bench.answer(first, 423, ("Min-Expires", "1800"))
    second = bench.asked()
    assert (expires(first), expires(second)) == (600, 1800)
    bench.answer(second, 200)
    assert bench.told() == [Registered(1800)]
    bench.wait(1620)
    assert expires(bench.asked()) == 1800


@pytest.mark.parametrize("least", ["", "600", "-1", "86401", "9" * 30, "soon"])
def test_too_brief_without_a_use(least: str) -> None:
    bench = Bench()
    bench.answer(bench.start(), 423, ("Min-Expires", least), phrase="Interval Too Brief")
    assert bench.told() == [Failed(423, "423 Interval Too Brief", BACK_OFF_S)]


def test_too_brief_again_and_again() -> None:
    bench = Bench()
    bench.answer(bench.start(), 423, ("Min-Expires", "700"))
    bench.answer(bench.asked(), 423, ("Min-Expires", "800"), phrase="Longer")
    assert bench.told() == [Failed(423, "423 Longer", BACK_OFF_S)]


def test_too_brief_once_more_at_a_refresh() -> None:
    bench = Bench()
    bench.answer(bench.start(), 423, ("Min-Expires", "700"))
    bench.answer(bench.asked(), 200)
    bench.wait(630)
    bench.answer(bench.asked(), 423, ("Min-Expires", "1800"))
    assert expires(bench.asked()) == 1800


# --- failure -------------------------------------------------------------------------------------------------------


def test_nobody_answers() -> None:
    bench = Bench()
    first = bench.start()
    bench.wait(31.9)
    assert {bytes(request) for request in bench.sent} == {bytes(first)}  # sent again, and nothing else
    assert len(bench.sent) == 10  # RFC 3261, section 17.1.2.2: after 0.5, 1, 2, 4, 4, 4… s
    bench.sent = []
    bench.wait(0.1)
    assert bench.told() == [Failed(408, "nobody answered", BACK_OFF_S)]
    bench.wait(BACK_OFF_S)
    second = bench.asked()
    assert second.cseq[0] == first.cseq[0] + 1 and second.call_id == first.call_id
    bench.answer(second, 200)
    assert bench.told() == [Registered(600)]


def test_over_a_connection_nothing_is_repeated() -> None:
    bench = Bench(flow=TCP)
    bench.start()
    bench.wait(31.9)
    assert bench.sent == []
    bench.ours.lost("connection refused", bench.now)
    bench.collect()
    assert bench.told() == [Failed(503, "connection refused", BACK_OFF_S)]
    bench.ours.lost("connection refused", bench.now)  # it cannot be lost twice
    assert bench.ours.take_events() == []


@pytest.mark.parametrize("chance", [0.0, 0.5])
def test_it_waits_ever_longer_up_to_a_limit_and_begins_anew_after_success(chance: float) -> None:
    bench = Bench(chance=chance)
    request = bench.start()
    waits = []
    for _ in range(20):
        bench.answer(request, 500, phrase="Broken")
        (failed,) = bench.told()
        assert isinstance(failed, Failed)
        assert failed.why == "500 Broken"
        waits.append(failed.retry_s / (1 + chance))
        bench.wait(failed.retry_s)
        request = bench.asked()
    assert waits[:6] == [30, 60, 120, 240, 480, 900]
    assert set(waits[6:]) == {MAX_BACK_OFF_S}
    bench.answer(request, 200)
    bench.wait((bench.ours.next_at or 0.0) - bench.now)
    bench.answer(bench.asked(), 503)
    assert bench.told()[-1] == Failed(503, "503 Fine", BACK_OFF_S * (1 + chance))
    assert bench.ours.valid_until > bench.now  # the registrar has not forgotten us yet


@pytest.mark.parametrize(
    ("asked", "wait_s"),
    [("120", 120.0), ("5", BACK_OFF_S), ("300 (maintenance);duration=5", 300.0), ("999999", MAX_RETRY_AFTER_S)],
)
def test_a_registrar_may_ask_for_patience(asked: str, wait_s: float) -> None:
    bench = Bench()
    bench.answer(bench.start(), 503, ("Retry-After", asked))
    assert bench.told() == [Failed(503, "503 Fine", wait_s)]


# --- moving and leaving --------------------------------------------------------------------------------------------


def test_another_flow_is_told_at_once() -> None:
    bench = Bench(flow=TCP)
    bench.register()
    bench.ours.moved(Flow("TCP", TCP.remote, ("198.51.100.9", 5062), serial=4), bench.now)
    request = bench.asked()
    assert request.headers.get("Contact") == "<sip:1000@198.51.100.9:5062;transport=tcp>"
    bench.answer(request, 200)
    assert bench.told() == [Registered(600)]


def place(number: int) -> Flow:
    return Flow("TCP", TCP.remote, ("198.51.100.9", number), serial=number)


def places(request: Request) -> list[str]:
    """The ports in its Contacts, with a minus before those that are taken off."""
    found = [re.search(r":(\d+);transport=tcp>(;expires=0)?$", each) for each in request.headers.getlist("Contact")]
    return [("-" if each[2] else "") + each[1] for each in found if each]


def test_the_place_that_was_left_is_taken_off_in_the_same_request() -> None:
    """Calls would ring there as well, and be lost, until it ran out."""
    bench = Bench(flow=place(1))
    bench.register()
    bench.ours.moved(place(2), bench.now)
    request = bench.asked()
    assert places(request) == ["2", "-1"] and expires(request) == 600
    bench.answer(request, 503)  # whether it took note of either, nobody knows
    bench.told()
    bench.ours.moved(place(3), bench.now)
    request = bench.asked()
    assert places(request) == ["3", "-1", "-2"]
    bench.answer(request, 200)
    bench.told()
    assert bench.ours.next_at is not None
    bench.wait(bench.ours.next_at - bench.now)
    assert places(request := bench.asked()) == ["3"]
    bench.answer(request, 200)
    bench.ours.moved(place(4), bench.now)
    bench.stop()
    assert places(request := bench.asked()) == ["4", "-3"]
    bench.answer(request, 200)
    assert places(last := bench.asked()) == ["4"] and expires(last) == 0


def test_a_move_before_the_answer_is_told_right_after_it() -> None:
    bench = Bench(flow=place(1))
    request = bench.start()
    bench.ours.moved(place(2), bench.now)
    bench.collect()
    assert bench.sent == []
    bench.answer(request, 200)
    request = bench.asked()
    assert places(request) == ["2", "-1"] and request.via.port == 2


def test_no_more_than_some_places_are_taken_off_at_once() -> None:
    bench = Bench(flow=place(1))
    bench.register()
    for number in range(2, 9):
        bench.ours.moved(place(number), bench.now)
        bench.answer(request := bench.asked(), 503)
    assert places(request) == ["8", "-4", "-5", "-6", "-7"]


def test_who_takes_no_second_contact_is_told_one() -> None:
    bench = Bench(flow=place(1))
    bench.register()
    bench.ours.moved(place(2), bench.now)
    bench.answer(bench.asked(), 400)
    (failed,) = bench.told()
    assert isinstance(failed, Failed)
    bench.wait(failed.retry_s)
    assert places(bench.asked()) == ["2"]


def test_another_flow_may_be_better_heard() -> None:
    bench = Bench()
    bench.start()
    bench.wait(32)
    assert bench.told() == [Failed(408, "nobody answered", BACK_OFF_S)]
    bench.sent = []
    bench.ours.moved(TCP, bench.now)
    bench.answer(bench.asked(), 200)
    assert bench.told() == [Registered(600)]


def test_it_is_taken_off() -> None:
    bench = Bench()
    first = bench.start()
    bench.answer(first, 401, CHALLENGE)
    bench.answer(bench.asked(), 200)
    bench.told()
    bench.stop()
    last = bench.asked()
    assert (expires(last), last.headers.get("Contact")) == (0, "<sip:1000@198.51.100.1:5062>")
    assert last.headers.get("Authorization")
    bench.answer(last, 401, AGAIN)
    again = bench.asked()
    assert expires(again) == 0
    bench.answer(again, 200)
    assert bench.told() == [Left()]
    assert (bench.ours.state, bench.ours.next_at, bench.ours.valid_until) == (State.ENDED, None, 0.0)
    bench.ours.start(bench.now)
    bench.ours.moved(TCP, bench.now)
    bench.stop()
    bench.wait(10_000)
    assert bench.told() == [] and bench.sent == []  # it is over for good


@pytest.mark.parametrize(("code", "fields"), [(200, ()), (401, (CHALLENGE,))])
def test_stopped_while_it_asks_it_waits_for_the_answer(code: int, fields: tuple[tuple[str, str], ...]) -> None:
    bench = Bench()
    request = bench.start()
    bench.stop()
    assert bench.sent == []
    bench.answer(request, code, *fields)
    last = bench.asked()
    assert expires(last) == 0
    bench.answer(last, 200)
    assert bench.told() == [Left()]


def test_stopped_before_it_began_or_while_it_waits() -> None:
    bench = Bench()
    bench.stop()
    assert bench.told() == [Left()]
    bench = Bench()
    bench.answer(bench.start(), 403)
    bench.told()
    bench.stop()
    assert bench.told() == [Left()]
    assert bench.ours.next_at is None


@pytest.mark.parametrize("still_known", [True, False])
def test_stopped_after_a_refresh_that_failed(still_known: bool) -> None:
    bench = Bench()
    bench.register()
    assert bench.ours.next_at is not None
    bench.wait(bench.ours.next_at - bench.now)
    bench.answer(bench.asked(), 503)
    bench.told()
    bench.now = bench.ours.valid_until + (-1 if still_known else 1)
    bench.stop()
    if still_known:
        request = bench.asked()
        assert expires(request) == 0
        bench.answer(request, 200)
    assert bench.sent == [] and bench.told() == [Left()]


def test_stopped_while_a_refresh_is_refused() -> None:
    bench = Bench()
    bench.register()
    assert bench.ours.next_at is not None
    bench.wait(bench.ours.next_at - bench.now)
    refresh = bench.asked()
    bench.stop()
    bench.answer(refresh, 503)
    request = bench.asked()
    assert expires(request) == 0
    bench.answer(request, 503)
    assert bench.sent == [] and bench.told() == [Left()]


@pytest.mark.parametrize("answered", [True, False])
def test_a_registrar_that_does_not_let_go(answered: bool) -> None:
    bench = Bench()
    bench.register()
    bench.stop()
    if answered:
        bench.answer(bench.asked(), 500)
    else:
        bench.wait(32)
    assert bench.told() == [Left()]


@pytest.mark.parametrize(
    ("registrar", "address", "expires_s", "why"),
    [
        ("example.com", "sip:a@b", 600, "URI is not valid"),
        ("tel:123", "sip:a@b", 600, "registrar 'tel:123'"),
        ("sip:a@b", "sip:a@b", 600, "registrar 'sip:a@b'"),
        ("sip:b", "sip:b", 600, "address 'sip:b'"),
        ("sip:b", "tel:123", 600, "address 'tel:123'"),
        ("sip:b", "sip:a@b", 0, "expires must be 1-86400 seconds, not 0"),
    ],
)
def test_an_account_that_cannot_be(registrar: str, address: str, expires_s: int, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Account(registrar, address, Login("u", "p"), expires_s)


# --- whatever happens ----------------------------------------------------------------------------------------------

CODES = st.sampled_from([100, 200, 200, 301, 401, 401, 407, 423, 480, 503, 604])
FIELDS = st.sampled_from(
    [
        CHALLENGE,
        AGAIN,
        ("WWW-Authenticate", f"{CHALLENGE[1]}, stale=true"),
        ("Proxy-Authenticate", CHALLENGE[1]),
        ("Min-Expires", "700"),
        ("Expires", "0"),
        ("Expires", "1"),
        ("Contact", "*"),
        ("Contact", "<sip:"),
        ("Service-Route", "<"),
        ("Retry-After", "x"),
    ]
)
STEPS = st.lists(
    st.one_of(
        st.tuples(CODES, st.lists(FIELDS, max_size=3)),
        st.sampled_from(["stop", "move", "lose"]),
        st.sampled_from([0.1, 5.0, 33.0, 700.0]),
    ),
    max_size=40,
)


@settings(deadline=None)
@given(STEPS, st.sampled_from([UDP, TCP]), st.floats(0, 1, exclude_max=True))
def test_it_always_has_a_next_thing_to_do_and_never_hurries(
    steps: list[tuple[int, list[tuple[str, str]]] | str | float], flow: Flow, chance: float
) -> None:
    bench = Bench(flow=flow, chance=chance)
    last = bench.start()
    for step in steps:
        if isinstance(step, tuple):
            bench.answer(last, step[0], *step[1])
        elif isinstance(step, float):
            bench.wait(step)
        elif step == "stop":
            bench.stop()
        elif step == "move":
            bench.ours.moved(flow, bench.now)
            bench.collect()
        else:
            bench.ours.lost("broken pipe", bench.now)
            bench.collect()
        last, bench.sent = (bench.sent or [last])[-1], []
        assert (bench.ours.state is State.ENDED) == (bench.ours.next_at is None)
    assert bench.told().count(Left()) == (bench.ours.state is State.ENDED)
    # without a word from anybody it is not asked more often than a REGISTER and its back-off take
    before = last.cseq[0]
    bench.wait(600)
    assert max([request.cseq[0] for request in bench.sent], default=before) - before <= 600 / BACK_OFF_S
