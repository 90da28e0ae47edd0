"""The messages of RFC 5118, and those of RFC 4475 that are a registrar's: what each is read as, and answered.

RFC 4475 is in test_wire.py (what is read), test_useragent.py (what is answered) and test_behaviour.py (over sockets).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from media.leg import LegError
from media.negotiation import choose
from media.sdp import parse as parse_sdp
from signaling.sip.grammar import parse_uri, parse_via
from signaling.sip.guard import Guard, Outcome
from signaling.sip.message import Message, Request
from signaling.sip.registrar import Answer, Registrar
from signaling.sip.transaction import Flow
from signaling.sip.wire import Framer, parse
from tests.signaling.sip.bench import UDP, Bench
from tests.signaling.sip.test_wire import OUTCOMES, outcome, torture

FOLDER = Path(__file__).parents[2] / "data" / "rfc5118"

IPV6 = Flow("UDP", ("2001:db8::9:1", 5060), ("2001:db8::10", 5060))


@dataclass(frozen=True)
class Case:
    """`section` of RFC 5118: what the message is read as (a status is a refusal), and what is answered."""

    section: str
    read: str | int
    answer: str


# As printed in the RFC, with CRLF, an end of the header and a Content-Length that is right: its archive has neither.
CASES = {
    "ipv6-good": Case("4.1", "REGISTER", "405"),
    "ipv6-bad": Case("4.2", 400, "400"),
    "port-ambiguous": Case("4.3", "REGISTER", "405"),  # well-formed: the port is read as a part of the address
    "port-unambiguous": Case("4.4", "REGISTER", "405"),
    "via-received-param-with-delim": Case("4.5", "BYE", "481"),
    "via-received-param-no-delim": Case("4.5", "OPTIONS", "200"),
    "ipv6-in-sdp": Case("4.6", "INVITE", "100"),
    "mult-ip-in-header": Case("4.7", "BYE", "481"),
    "mult-ip-in-sdp": Case("4.8", "INVITE", "100"),
    "ipv4-mapped-ipv6": Case("4.9", "INVITE", "100"),
    "ipv6-bug-abnf-3-colons": Case("4.10", "OPTIONS", "200"),  # no address, and still to be borne with
    "ipv6-correct-abnf-2-colons": Case("4.10", "OPTIONS", "200"),
}


def load(name: str) -> bytes:
    return (FOLDER / f"{name}.dat").read_bytes()


def read(name: str) -> Message:
    return parse(load(name))


def test_the_set_is_whole() -> None:
    assert {path.stem for path in FOLDER.glob("*.dat")} == CASES.keys()
    assert {case.section for case in CASES.values()} == {f"4.{number}" for number in range(1, 11)}


@pytest.mark.parametrize("name", CASES)
def test_what_it_is_read_as(name: str) -> None:
    assert outcome(load(name)) == CASES[name].read
    assert list(Framer().feed(load(name))) == [load(name)]


@pytest.mark.parametrize("name", CASES)
def test_what_is_answered_and_then_an_options(name: str) -> None:
    bench = Bench()
    bench.receive(load(name), IPV6)
    ((_, answer, flow),) = bench.sent
    assert bench.heard() == [CASES[name].answer]
    assert answer.headers.get("Via").startswith(read_via(name).partition(";")[0])
    assert flow.remote == (IPV6.remote[0], 6050 if name == "mult-ip-in-header" else answer.via.port or 5060)
    bench.receive(bench.peer().build("OPTIONS", cseq=1))
    assert bench.heard() == ["200"]


def read_via(name: str) -> str:
    """Its topmost Via as it was written."""
    return load(name).split(b"Via: ")[1].split(b"\r\n")[0].decode()


def test_ports_inside_and_outside_the_brackets() -> None:
    inside, outside = (read(name) for name in ("port-ambiguous", "port-unambiguous"))
    assert isinstance(inside, Request) and isinstance(outside, Request)
    assert (parse_uri(inside.uri).host, parse_uri(inside.uri).port) == ("[2001:db8::10:5070]", None)
    assert (parse_uri(outside.uri).host, parse_uri(outside.uri).port) == ("[2001:db8::10]", 5070)
    assert inside.contact == "sip:caller@[2001:db8::1]"


def test_received_with_and_without_brackets() -> None:
    bare, bracketed = (read(f"via-received-param-{what}") for what in ("no-delim", "with-delim"))
    assert bare.via.parameters["received"] == "2001:db8::9:255"
    assert bracketed.via.parameters["received"] == "[2001:db8::9:255]"
    assert bare.via.host == bracketed.via.host == "[2001:db8::9:1]"


def test_both_families_in_one_route_back() -> None:
    vias = [parse_via(value) for value in read("mult-ip-in-header").headers.values("Via")]
    assert [(via.transport, via.host, via.port) for via in vias] == [
        ("UDP", "[2001:db8::9:1]", 6050),
        ("UDP", "192.0.2.1", None),
        ("TCP", "[2001:db8::9:255]", None),
    ]


def test_addresses_in_session_descriptions() -> None:
    """An SDP address has no brackets; each stream may have one of its own, and IPv4 that is mapped is IPv4."""
    hosts = {}
    for name in ("ipv6-in-sdp", "mult-ip-in-sdp", "ipv4-mapped-ipv6"):
        media = read(name).media
        assert media is not None
        hosts[name] = [line.host for line in parse_sdp(media).media]
    assert hosts == {
        "ipv6-in-sdp": ["2001:db8::20", "2001:db8::20"],
        "mult-ip-in-sdp": ["192.0.2.1", "2001:db8::1"],
        "ipv4-mapped-ipv6": ["192.0.2.2", "192.0.2.2"],
    }


def test_the_call_of_section_4_8_is_agreed_on_and_that_of_4_6_has_no_codec_of_ours() -> None:
    both, foreign = read("mult-ip-in-sdp").media, read("ipv6-in-sdp").media
    assert both is not None and foreign is not None
    stream = choose(parse_sdp(both), "2001:db8::9:1")
    assert (stream.payload_type, stream.remote) == (0, ("192.0.2.1", 22_334))
    with pytest.raises(LegError, match="no common codec"):
        choose(parse_sdp(foreign), "2001:db8::20")


# --- RFC 4475, for a registrar -------------------------------------------------------------------------------------

REGISTERED: dict[str, tuple[int, tuple[str, ...]]] = {
    "escnull": (200, ("<sip:%00@host5.example.com>", "<sip:%00%00@host5.example.com>")),  # two, that are not the same
    "dblreq": (200, ("<sip:j.user@host.example.com>",)),
    "regbadct": (400, ()),  # nobody can tell whether ?headers outside of <> are the URI's
    "unksm2": (400, ()),
    "regaut01": (200, ()),  # asks where it is registered
    "cparam01": (200, ("<sip:+19725552222@gw1.example.net>",)),
    "cparam02": (200, ("<sip:+19725552222@gw1.example.net;unknownparam>",)),
    "regescrt": (200, ("<sip:user@example.com?Route=%3Csip:sip.example.com%3E>",)),
}


class Open(Guard):
    """Takes everybody for the user in their To."""

    def check(self, request: Request, source: str, now: float) -> Outcome:
        return Outcome(request.to.uri.user or "")


def register(name: str) -> Answer:
    message = parse(next(iter(Framer().feed(torture(name)))))
    assert isinstance(message, Request)
    return Registrar(Open("house", {}, b"key", lambda: "t")).register(message, UDP, 0.0)


def test_the_registers_of_rfc_4475_are_all_here() -> None:
    assert {name for name, read in OUTCOMES.items() if read == "REGISTER"} == REGISTERED.keys()


@pytest.mark.parametrize("name", REGISTERED)
def test_what_a_registrar_makes_of_it(name: str) -> None:
    answer = register(name)
    told = tuple(value.partition(";expires=")[0] for key, value in answer.fields if key == "Contact")
    assert (answer.code, tuple(reversed(told))) == REGISTERED[name]


@pytest.mark.parametrize("name", REGISTERED)
def test_without_a_password_it_is_asked_for_one(name: str) -> None:
    bench = Bench(registrar=Registrar(Guard("house", {"user": "secret"}, b"key", lambda: "t")))
    bench.receive(next(iter(Framer().feed(torture(name)))))
    assert bench.heard() == ["401"]
