"""reason.py: what a peer says, and what we say."""

from __future__ import annotations

import pytest

from signaling.sip.reason import reason_field, reason_of
from tests.signaling.sip.test_wire import request


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ('Q.850;cause=16;text="Normal, cleared"', "Normal, cleared"),
        ('SIP ;cause=200 ;TEXT = "elsewhere"', "elsewhere"),
        ("Q.850;cause=16, SIP;text=bored", "bored"),
        ('SIP;text="a\tb\u202ec"', "a bc"),
        ("Q.850;cause=16", ""),
        ("text", ""),
        ("", ""),
    ],
)
def test_what_a_peer_says(field: str, text: str) -> None:
    assert reason_of(request(f"Reason: {field}")) == text


def test_what_we_say_stays_within_its_quotes() -> None:
    name, value = reason_field('a "b" \\ \r\nVia: c' + "x" * 200)
    assert name == "Reason"
    assert value == "SIP;text=\"a 'b'  Via: c" + "x" * (100 - 14) + '"'
    assert reason_of(request(f"{name}: {value}")) == value[10:-1]
