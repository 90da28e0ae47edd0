"""info.py: the digits phones send, and what is none."""

from __future__ import annotations

import pytest

from signaling.sip.info import digit, read
from signaling.sip.message import Headers, Request

RELAY, PLAIN = "application/dtmf-relay", "application/dtmf"


@pytest.mark.parametrize(
    ("kind", "body", "key"),
    [
        (RELAY, "Signal=5\r\nDuration=160\r\n", "5"),
        (RELAY, "Duration = 100\n Signal = #\n", "#"),
        (RELAY, "Signal=d", "D"),
        (RELAY, "Signal=10", "*"),
        (RELAY, "Signal=11", "#"),
        (PLAIN, "7", "7"),
        (PLAIN, "15", "D"),
        (RELAY, "Signal=", ""),
        (RELAY, "Signal=16", ""),  # a hook flash
        (RELAY, "5", ""),
        (PLAIN, "Signal=5", ""),
        (PLAIN, "\u0663", ""),
        (PLAIN, "", ""),
    ],
)
def test_digits(kind: str, body: str, key: str) -> None:
    assert digit(kind, body.encode()) == key


@pytest.mark.parametrize(
    ("kind", "body", "outcome"),
    [
        ("application/dtmf-relay", b"Signal=5\r\nDuration=160", (200, "", "5")),
        ("application/dtmf", b"#", (200, "", "#")),
        ("application/dtmf", b"hello", (400, "Bad Request (no digit)", "")),
        ("text/plain", b"5", (415, "", "")),
        ("", b"", (200, "", "")),
    ],
)
def test_how_an_info_is_answered(kind: str, body: bytes, outcome: tuple[int, str, str]) -> None:
    fields = (("Content-Type", kind),) if kind else ()
    assert read(Request(Headers(fields), body, "INFO", "sip:a@b")) == outcome
