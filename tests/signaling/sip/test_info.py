"""info.py: the digits phones send, and what is none."""

from __future__ import annotations

import pytest

from signaling.sip.info import digit

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
