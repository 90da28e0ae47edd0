"""outcome.py: how long a refusal asks us to wait. What becomes of a call by its code is in test_outgoing.py."""

from __future__ import annotations

import pytest

from signaling.sip.message import Headers, Response
from signaling.sip.outcome import MAX_RETRY_AFTER_S, wait_of


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        *(("120", 120), ("5 (maintenance)", 5), ("300;duration=9", 300), ("0", 0), ("999999", MAX_RETRY_AFTER_S)),
        *(("", -1), ("soon", -1), ("1234567890", -1)),
    ],
)
def test_the_wait_that_a_refusal_asks_for(text: str, seconds: float) -> None:
    refusal = Response(Headers((("Retry-After", text),)), b"", 503, "Service Unavailable")
    assert wait_of(refusal, else_s=-1) == seconds
    assert wait_of(refusal, at_most=10, else_s=-1) == min(seconds, 10)
