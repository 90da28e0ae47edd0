"""mapped.py: what a Via says of where we are."""

from __future__ import annotations

import pytest

from signaling.sip.mapped import MAX_MAPPED, RELEARN_S, Mappings, mapped
from signaling.sip.message import Response
from signaling.sip.wire import parse


def response(via: str) -> Response:
    text = "\r\n".join(
        (
            *("SIP/2.0 200 OK", f"Via: SIP/2.0/UDP {via}", "From: <sip:a@b>;tag=1", "To: <sip:a@b>;tag=2"),
            *("Call-ID: 1", "CSeq: 1 OPTIONS", "Content-Length: 0", "", ""),
        )
    )
    message = parse(text.encode())
    assert isinstance(message, Response)
    return message


@pytest.mark.parametrize(
    ("via", "place"),
    [
        ("10.0.0.1:5060;branch=z9hG4bK1;received=192.0.2.1;rport=41000", ("192.0.2.1", 41_000)),
        ("10.0.0.1:5060;branch=z9hG4bK1;received=192.0.2.1", ("192.0.2.1", 5060)),
        ("10.0.0.1;branch=z9hG4bK1;rport=5061", ("10.0.0.1", 5061)),
        ("[2001:db8::1]:5060;branch=z9hG4bK1;received=2001:db8::2;rport=5060", ("2001:db8::2", 5060)),
        ("10.0.0.1:5060;branch=z9hG4bK1;received=10.0.0.1;rport=5060", None),
        ("10.0.0.1:5060;branch=z9hG4bK1;rport", None),
        ("pbx.example:5060;branch=z9hG4bK1", None),
        ("10.0.0.1:5060;branch=z9hG4bK1;received=elsewhere.example;rport=5060", None),
        ("10.0.0.1:5060;branch=z9hG4bK1;received=192.0.2.1;rport=0", None),
        ("10.0.0.1:5060;branch=z9hG4bK1;received=192.0.2.1;rport=999999", None),
    ],
)
def test_where_a_peer_sees_us(via: str, place: tuple[str, int] | None) -> None:
    assert mapped(response(via)) == place


def test_it_is_news_once_and_a_restless_peer_is_believed_once_a_minute() -> None:
    mappings = Mappings()
    assert mappings["192.0.2.9"] is None
    assert mappings.learn("192.0.2.9", ("203.0.113.7", 1), 0.0)
    assert not mappings.learn("192.0.2.9", ("203.0.113.7", 1), 0.0)
    assert not mappings.learn("192.0.2.9", ("203.0.113.7", 2), RELEARN_S - 1)
    assert mappings["192.0.2.9"] == ("203.0.113.7", 1)
    assert mappings.learn("192.0.2.9", ("203.0.113.7", 2), RELEARN_S)
    assert not mappings.learn("192.0.2.8", ("2001:db8::1", 2), 0.0), "of the other version of IP"


def test_there_are_only_so_many() -> None:
    mappings = Mappings()
    for number in range(MAX_MAPPED + 1):
        mappings.learn(f"10.0.{number // 256}.{number % 256}", ("203.0.113.7", 1), float(number))
    assert mappings["10.0.0.0"] is None
    assert mappings["10.0.0.1"] is not None
