"""registrar.py: who is reached where, and our own registration as its phone."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from signaling.sip.digest import Authenticator, Login, challenges
from signaling.sip.guard import FAILURES, Guard
from signaling.sip.message import Headers, Request, Response, respond
from signaling.sip.registrar import DEFAULT_EXPIRES, MAX_CONTACTS, MAX_EXPIRES, MIN_EXPIRES, Answer, Registrar
from signaling.sip.registration import Account, Left, Registered, Registration, State
from signaling.sip.transaction import Flow
from signaling.sip.wire import parse

UDP = Flow("UDP", ("192.0.2.7", 5070), ("198.51.100.1", 5060))
PHONE = "sip:alice@192.0.2.7:5070"


class Office:
    """A registrar with two users, and a clock."""

    def __init__(self) -> None:
        self.numbers = itertools.count(1)
        self.guard = Guard("house", {"alice": "wonderland", "bob": "sponge"}, b"key", self.token)
        self.registrar = Registrar(self.guard)
        self.now = 1000.0
        self.cseq = 0

    def token(self) -> str:
        return f"t{next(self.numbers)}"

    def request(
        self,
        *contacts: str,
        user: str = "alice",
        to: str = "",
        call_id: str = "c",
        expires: str | None = None,
        cseq: int = 0,
    ) -> Request:
        self.cseq += 1
        fields = (
            ("Via", f"SIP/2.0/UDP 192.0.2.7:5070;branch=z9hG4bK{self.token()}"),
            ("From", f"<sip:{user}@house>;tag=f"),
            ("To", f"<{to or f'sip:{user}@house'}>"),
            ("Call-ID", call_id),
            ("CSeq", f"{cseq or self.cseq} REGISTER"),
            *(("Contact", contact) for contact in contacts),
            *((("Expires", expires),) if expires is not None else ()),
        )
        message = parse(bytes(Request(Headers(fields), b"", "REGISTER", "sip:house")))
        assert isinstance(message, Request)
        return message

    def signed(self, request: Request, password: str = "wonderland", flow: Flow = UDP) -> Answer:
        """What the request is answered, once it brings what a first 401 asked for."""
        refused = self.registrar.register(request, flow, self.now)
        assert refused.code == 401
        ours = Authenticator(Login(request.from_.uri.user or "", password), self.token)
        ours.learn(Response(Headers(refused.fields), b"", 401, ""))
        headers = Headers((*request.headers.fields, *ours.fields("REGISTER", request.uri)))
        return self.registrar.register(Request(headers, b"", "REGISTER", request.uri), flow, self.now)

    def register(self, *contacts: str, expires: str | None = None, call_id: str = "c", cseq: int = 0) -> Answer:
        return self.signed(self.request(*contacts, expires=expires, call_id=call_id, cseq=cseq))

    def uris(self, user: str = "alice") -> list[str]:
        return [binding.uri for binding in self.registrar.bindings(user, self.now)]


def said(answer: Answer) -> list[str]:
    assert answer.code == 200
    return [value for _, value in answer.fields]


# --- who may -------------------------------------------------------------------------------------------------------


def test_a_phone_shows_who_it_is_and_is_found() -> None:
    office = Office()
    assert said(office.register(f"<{PHONE}>;expires=300")) == [f"<{PHONE}>;expires=300"]
    (binding,) = office.registrar.bindings("alice", office.now)
    assert (binding.uri, binding.flow, binding.expires_at) == (PHONE, UDP, office.now + 300)
    assert office.registrar.bindings("bob", office.now) == ()


def test_who_shows_nothing_is_asked_with_every_algorithm() -> None:
    office = Office()
    answer = office.registrar.register(office.request(f"<{PHONE}>"), UDP, office.now)
    assert (answer.code, [name for name, _ in answer.fields]) == (401, ["WWW-Authenticate"] * 2)
    offered = challenges(Response(Headers(answer.fields), b"", 401, ""))
    assert [challenge.algorithm for challenge in offered] == ["SHA-256", "MD5"]
    assert office.uris() == []


def test_a_wrong_password_changes_nothing_and_counts() -> None:
    office = Office()
    for _ in range(FAILURES):
        answer = office.signed(office.request(f"<{PHONE}>"), password="guess")
        assert (answer.code, answer.failed) == (401, True)
    assert office.guard.banned("192.0.2.7", office.now)
    assert office.uris() == []


def test_a_stale_nonce_is_said_to_be() -> None:
    office = Office()
    refused = office.registrar.register(office.request(), UDP, office.now - 100)
    ours = Authenticator(Login("alice", "wonderland"), office.token)
    ours.learn(Response(Headers(refused.fields), b"", 401, ""))
    request = office.request(f"<{PHONE}>")
    headers = Headers((*request.headers.fields, *ours.fields("REGISTER", "sip:house")))
    answer = office.registrar.register(Request(headers, b"", "REGISTER", "sip:house"), UDP, office.now)
    assert answer.code == 401 and all(value.endswith("stale=true") for _, value in answer.fields)


@pytest.mark.parametrize("to", ["sip:bob@house", "sip:nobody@house", "sip:house", "sip:Alice@house"])
def test_nobody_registers_another_number(to: str) -> None:
    office = Office()
    answer = office.signed(office.request(f"<{PHONE}>", to=to))
    assert answer == Answer(403, phrase="Forbidden (not your own number)")
    assert len(office.registrar) == 0


# --- how long ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameter", "field", "seconds"),
    [
        ("", None, DEFAULT_EXPIRES),
        ("", "120", 120),
        (";expires=180", "120", 180),
        (";expires=99999", None, MAX_EXPIRES),
        (f";expires={'9' * 40}", None, MAX_EXPIRES),
        (";expires=000000000000090", None, 90),
        (";expires=soon", "120", DEFAULT_EXPIRES),
        (f";expires={MIN_EXPIRES}", None, MIN_EXPIRES),
    ],
)
def test_the_time_that_is_granted(parameter: str, field: str | None, seconds: int) -> None:
    office = Office()
    assert said(office.register(f"<{PHONE}>{parameter}", expires=field)) == [f"<{PHONE}>;expires={seconds}"]
    office.now += seconds - 0.5
    assert office.uris() == [PHONE]
    assert said(office.register()) == [f"<{PHONE}>;expires=1"]
    office.now += 0.5
    assert office.uris() == []


def test_too_brief_is_refused_whole() -> None:
    office = Office()
    answer = office.register("<sip:a@one>;expires=600", f"<{PHONE}>;expires={MIN_EXPIRES - 1}")
    assert answer == Answer(423, (("Min-Expires", str(MIN_EXPIRES)),), "Interval Too Brief")
    assert office.uris() == []


def test_what_is_over_is_dropped() -> None:
    office = Office()
    office.register(f"<{PHONE}>", expires="60")
    office.now += 30
    office.signed(office.request("<sip:bob@phone>", user="bob", expires="60"), password="sponge")
    assert len(office.registrar) == 2
    office.now += 30
    office.registrar.forget(office.now)
    assert len(office.registrar) == 1
    assert office.uris("bob") == ["sip:bob@phone"]


# --- contacts ------------------------------------------------------------------------------------------------------


def test_a_refresh_replaces_and_comes_first() -> None:
    office = Office()
    office.register("<sip:a@one>", "<sip:a@two>")
    assert office.uris() == ["sip:a@two", "sip:a@one"]
    assert said(office.register("<sip:a@ONE:5060>;q=0.5", expires="90"))[0] == "<sip:a@ONE:5060>;q=0.5;expires=90"
    assert office.uris() == ["sip:a@ONE:5060", "sip:a@two"]


@pytest.mark.parametrize("other", ["sip:b@one", "sip:a@one:5062", "sips:a@one", "sip:a@one;transport=tcp", "sip:one"])
def test_another_place_is_another_binding(other: str) -> None:
    office = Office()
    office.register("<sip:a@one>")
    office.register(f"<{other}>")
    assert office.uris() == [other, "sip:a@one"]


@pytest.mark.parametrize("q", ["2", "0.1234", '"0.5"', "x", ""])
def test_a_preference_that_is_none_is_not_echoed(q: str) -> None:
    assert said(Office().register(f"<{PHONE}>;q={q}")) == [f"<{PHONE}>;expires={DEFAULT_EXPIRES}"]


def test_the_one_of_too_many_goes_that_was_refreshed_longest_ago() -> None:
    office = Office()
    for number in range(MAX_CONTACTS):
        office.register(f"<sip:a@{number}x>")
    office.register("<sip:a@0x>")
    office.register("<sip:a@new>")
    assert office.uris() == ["sip:a@new", "sip:a@0x", "sip:a@4x", "sip:a@3x", "sip:a@2x"]
    many = office.register(*(f"<sip:a@{number}y>" for number in range(MAX_CONTACTS + 1)))
    assert (many.code, many.phrase) == (403, "Forbidden (more than 5 contacts)")
    assert len(office.uris()) == MAX_CONTACTS


def test_one_is_taken_off_or_all() -> None:
    office = Office()
    office.register("<sip:a@one>", "<sip:a@two>", "<sip:a@three>")
    assert said(office.register("<sip:a@two>;expires=0")) == [
        f"<sip:a@three>;expires={DEFAULT_EXPIRES}",
        f"<sip:a@one>;expires={DEFAULT_EXPIRES}",
    ]
    assert said(office.register("<sip:a@never>;expires=0")) != []
    assert said(office.register("*", expires="0")) == []
    assert office.uris() == []


@pytest.mark.parametrize(("contacts", "expires"), [(["*"], None), (["*"], "60"), (["*", "<sip:a@one>"], "0")])
def test_all_is_for_taking_off_alone(contacts: list[str], expires: str | None) -> None:
    office = Office()
    office.register("<sip:a@one>")
    assert office.register(*contacts, expires=expires).code == 400
    assert office.uris() == ["sip:a@one"]


@pytest.mark.parametrize("contact", ["<sip:a@", "tel:1000", "<http://x>", "<sip:a@b>;q=0;q=1", "sip:a@b:99999"])
def test_a_contact_that_is_none(contact: str) -> None:
    office = Office()
    answer = office.register("<sip:a@one>", contact)
    assert answer.code == 400 and answer.phrase.startswith("Bad Request (Contact")
    assert office.uris() == []


def test_what_a_phone_said_before_does_not_undo_what_it_said_since() -> None:
    office = Office()
    office.register("<sip:a@one>", cseq=7)
    late = office.register("<sip:a@one>;expires=0", cseq=7)
    assert (late.code, late.phrase) == (500, "Server Internal Error (an older CSeq)")
    assert office.register("*", expires="0", cseq=6).code == 500
    assert office.uris() == ["sip:a@one"]
    assert office.register("<sip:a@one>;expires=0", cseq=1, call_id="after a restart".replace(" ", "-")).code == 200
    assert office.uris() == []


# --- our own registration as its phone -----------------------------------------------------------------------------


class Line:
    """A Registration and a Registrar; what the line loses is decided by `loses`, message by message."""

    def __init__(self, loses: list[bool], password: str = "wonderland") -> None:
        self.office, self.loses = Office(), iter(loses)
        account = Account("sip:house", "sip:alice@house", Login("alice", password), expires=300)
        flow = Flow("UDP", ("198.51.100.1", 5060), UDP.remote)
        self.phone = Registration(account, flow, token=self.office.token, chance=lambda: 0.0)
        self.answers: dict[str, bytes] = {}

    def carry(self) -> None:
        """Each request to the registrar, each answer back; a repetition has the answer that the first one had."""
        while sent := self.phone.take_outgoing():
            for data, _ in sent:
                request = parse(data)
                assert isinstance(request, Request)
                if next(self.loses, False):
                    continue
                branch = request.headers.get("Via")
                if branch not in self.answers:
                    made = self.office.registrar.register(request, UDP, self.office.now)
                    response = respond(request, made.code, *made.fields, to_tag="r", phrase=made.phrase)
                    self.answers[branch] = bytes(response)
                answer = parse(self.answers[branch])
                if isinstance(answer, Response) and not next(self.loses, False):
                    self.phone.receive(answer, self.office.now)

    def wait(self, seconds: float) -> None:
        until = self.office.now + seconds
        while (at := self.phone.next_at) is not None and at <= until:
            self.office.now = max(at, self.office.now)
            self.phone.fire(self.office.now)
            self.carry()
        self.office.now = until


@settings(deadline=None, max_examples=40)
@given(st.lists(st.booleans(), max_size=40), st.lists(st.booleans(), max_size=8), st.lists(st.booleans(), max_size=8))
def test_whatever_is_lost_it_registers_stays_and_leaves(loses: list[bool], more: list[bool], last: list[bool]) -> None:
    line = Line(loses)
    line.phone.start(line.office.now)
    line.carry()
    line.wait(1500)  # all is lost for five requests, at worst, with a wait of 30, 60, 120, 240 s between them
    assert line.phone.state is State.REGISTERED
    assert line.office.uris() == [PHONE]
    line.loses = iter(more)  # eight in a row take 23.5 s, which the refresh comes early enough for
    for _ in range(5):
        line.wait(299)
        assert line.office.uris() == [PHONE]
    line.loses = iter(last)
    line.phone.stop(line.office.now)
    line.carry()
    line.wait(64)
    assert line.office.uris() == []
    assert line.phone.take_events()[-1] == Left()


def test_a_wrong_password_is_banned_before_long_and_never_registers() -> None:
    line = Line([], password="guess")
    line.phone.start(line.office.now)
    line.carry()
    line.wait(3600)
    assert not any(isinstance(event, Registered) for event in line.phone.take_events())
    assert line.office.uris() == []
    assert line.office.guard.failures == {"alice": 8}  # after 0, 30, 90, 210, 450, 930, 1830 and 2730 s
