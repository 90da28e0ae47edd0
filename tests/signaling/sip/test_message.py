"""message.py: what a message says, and the responses to it."""

from __future__ import annotations

import pytest

from signaling.sip.message import Request, Response, received_from, respond
from signaling.sip.wire import parse
from tests.signaling.sip.test_wire import invite, request


@pytest.mark.parametrize("value", ["*", "<sip:a@b", "not an address", "<sip:a b@c>"])
def test_a_contact_that_cannot_be_read_is_absent(value: str) -> None:
    assert request(Contact=value).contact == ""


def test_a_response_carries_what_identifies_its_request() -> None:
    asked = request("Via: SIP/2.0/UDP second", "Record-Route: <sip:proxy;lr>")
    answer = parse(bytes(respond(asked, 486, ("Retry-After", "5"), to_tag="t1")))
    assert isinstance(answer, Response)
    assert (answer.code, answer.phrase, answer.to_tag) == (486, "Busy Here", "t1")
    for name in ("Via", "From", "Call-ID", "CSeq"):
        assert answer.headers.getlist(name) == asked.headers.getlist(name)
    assert answer.headers.get("Retry-After") == "5"
    assert not answer.headers.get("Record-Route")


def test_a_tag_that_is_there_stays() -> None:
    assert respond(request(To="<sip:agent@example.org>;tag=old"), 200, to_tag="new").to_tag == "old"


def test_100_echoes_the_timestamp() -> None:
    assert respond(request("Timestamp: 54"), 100).headers.get("Timestamp") == "54"
    assert not respond(request("Timestamp: 54"), 180).headers.get("Timestamp")


def test_text_that_would_break_out_of_its_line_is_refused() -> None:
    with pytest.raises(ValueError, match="control character"):
        bytes(respond(request(), 200, ("Subject", "x\r\nEvil: yes")))


@pytest.mark.parametrize(
    ("via", "stamped"),
    [
        ("SIP/2.0/UDP 192.0.2.7:5070;branch=z9hG4bK1", "SIP/2.0/UDP 192.0.2.7:5070;branch=z9hG4bK1"),
        ("SIP/2.0/UDP h;branch=z9*+1", "SIP/2.0/UDP h;branch=z9*+1;received=192.0.2.7"),
        ("SIP/2.0/UDP h;rport;branch=b", "SIP/2.0/UDP h;rport=9;branch=b;received=192.0.2.7"),
        ("SIP/2.0/UDP h;branch=b;RPORT= ;x=rport", "SIP/2.0/UDP h;branch=b;rport=9;x=rport;received=192.0.2.7"),
        ("SIP/2.0/UDP h;received=10.0.0.1;branch=b", "SIP/2.0/UDP h;branch=b;received=192.0.2.7"),
        (
            'SIP/2.0/UDP h;received=10.0.0.1;x=";rport";branch=b;rport',
            'SIP/2.0/UDP h;x=";rport";branch=b;rport=9;received=192.0.2.7',
        ),
        ("SIP/2.0/UDP h;rport, SIP/2.0/UDP i;rport", "SIP/2.0/UDP h;rport=9;received=192.0.2.7, SIP/2.0/UDP i;rport"),
    ],
)
def test_the_top_via_says_where_the_request_came_from(via: str, stamped: str) -> None:
    assert received_from(request(Via=via), "192.0.2.7", 9).headers.get("Via") == stamped


def test_bytes_that_are_no_text_are_echoed_as_they_came() -> None:
    raw = invite().replace(b'"Alice"', b'"\xc4lice"')
    message = parse(raw)
    assert isinstance(message, Request)
    assert b'From: "\xc4lice" <sip:alice@example.com>;tag=a1\r\n' in bytes(respond(message, 200))
