"""sessiontimer.py: what is agreed to."""

from __future__ import annotations

import pytest

from signaling.sip.sessiontimer import MIN_SE, IntervalTooSmall, patience, session_interval, timer_fields
from tests.signaling.sip.test_dialog import request


@pytest.mark.parametrize(
    ("fields", "interval"),
    [
        (["Supported: timer", "Session-Expires: 1800"], 1800),
        (["Supported: Timer", "x: 1800;refresher=uac"], 1800),
        (["Require: timer", "Session-Expires: 90 ; Refresher = UAC"], 90),
        (["Supported: timer", "Session-Expires: 1800;refresher=uas"], None),
        (["Session-Expires: 1800"], None),
        (["Session-Expires: 10"], None),  # whoever does not know the timer must not get a 422
        (["Supported: timer"], None),
        (["Supported: timer", "Session-Expires: soon"], None),
        (["Supported: timer", "Session-Expires:"], None),
    ],
)
def test_the_session_interval(fields: list[str], interval: int | None) -> None:
    assert session_interval(request(*fields)) == interval


@pytest.mark.parametrize("refresher", ["", ";refresher=uas"])
def test_a_session_interval_that_is_too_small(refresher: str) -> None:
    with pytest.raises(IntervalTooSmall):
        session_interval(request("Supported: timer", f"Session-Expires: {MIN_SE - 1}{refresher}"))


@pytest.mark.parametrize(("interval", "seconds"), [(90, 60.0), (96, 64.0), (1800, 1768.0)])
def test_patience(interval: int, seconds: float) -> None:
    """Section 10: the lesser of 32 s and a third of the interval before it expires."""
    assert patience(interval) == seconds


def test_what_the_answer_says() -> None:
    assert timer_fields(1800) == (("Session-Expires", "1800;refresher=uac"), ("Require", "timer"))
    assert timer_fields(None) == ()
