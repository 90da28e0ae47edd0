"""sessiontimer.py: what is agreed to, and by whom a session is refreshed."""

from __future__ import annotations

import pytest

from signaling.sip.message import respond
from signaling.sip.sessiontimer import (
    MIN_SE,
    IntervalTooSmall,
    SessionTimer,
    answer_fields,
    asked_for,
    granted,
    least,
    request_fields,
)
from tests.signaling.sip.test_dialog import request

THEIRS, OURS = SessionTimer(1800), SessionTimer(1800, ours=True)


@pytest.mark.parametrize(
    ("fields", "timer"),
    [
        (["Supported: timer", "Session-Expires: 1800"], THEIRS),
        (["Supported: Timer", "x: 1800;refresher=uac"], THEIRS),
        (["Require: timer", "Session-Expires: 90 ; Refresher = UAC"], SessionTimer(90)),
        (["Supported: timer", "Session-Expires: 1800;refresher=uas"], OURS),
        (["Supported: timer", "Session-Expires: 1800;other=uac;refresher=uas"], OURS),
        (["Session-Expires: 1800"], OURS),  # a proxy asked, for a peer that knows no timer (section 8.1)
        (["Session-Expires: 10"], None),  # whoever does not know the timer must not get a 422
        (["Supported: timer"], None),
        (["Supported: timer", "Session-Expires: soon"], None),
        (["Supported: timer", "Session-Expires: 1800000000"], None),
        (["Supported: timer", "Session-Expires:"], None),
    ],
)
def test_what_we_agree_to(fields: list[str], timer: SessionTimer | None) -> None:
    assert asked_for(request(*fields)) == timer


@pytest.mark.parametrize("refresher", ["", ";refresher=uas"])
def test_a_session_interval_that_is_too_small(refresher: str) -> None:
    with pytest.raises(IntervalTooSmall):
        asked_for(request("Supported: timer", f"Session-Expires: {MIN_SE - 1}{refresher}"))


@pytest.mark.parametrize(("interval", "patience"), [(90, 60.0), (96, 64.0), (1800, 1768.0)])
def test_when_something_is_due(interval: int, patience: float) -> None:
    """Section 10: a refresh at half of it; the end the lesser of 32 s and a third of the interval before it expires."""
    assert SessionTimer(interval).patience_s == SessionTimer(interval, ours=True).patience_s == patience
    assert SessionTimer(interval).refresh_s is None
    assert SessionTimer(interval, ours=True).refresh_s == interval / 2


def test_what_the_answer_says() -> None:
    assert answer_fields(THEIRS) == (("Session-Expires", "1800;refresher=uac"), ("Require", "timer"))
    assert answer_fields(OURS) == (("Session-Expires", "1800;refresher=uas"),)
    assert answer_fields(None) == ()


def test_what_a_request_of_ours_says() -> None:
    known = ("Supported", "timer")
    assert request_fields(OURS) == (known, ("Session-Expires", "1800;refresher=uac"), ("Min-SE", "90"))
    assert request_fields(THEIRS) == (known, ("Session-Expires", "1800;refresher=uas"), ("Min-SE", "90"))
    assert request_fields(OURS, 3600) == (known, ("Session-Expires", "3600;refresher=uac"), ("Min-SE", "3600"))
    assert request_fields(None) == (known,)


@pytest.mark.parametrize(
    ("value", "timer"),
    [
        ("1800;refresher=uac", OURS),
        ("1800;refresher=uas", THEIRS),
        ("1800", OURS),  # it must name one; who asked does it, to be safe
        ("1;refresher=uac", SessionTimer(MIN_SE, ours=True)),
        ("", None),
        ("-5", None),
    ],
)
def test_what_is_granted(value: str, timer: SessionTimer | None) -> None:
    assert granted(respond(request(), 200, ("Session-Expires", value))) == timer


@pytest.mark.parametrize(("value", "seconds"), [("120", 120), ("120;x=y", 120), ("", None), ("soon", None)])
def test_what_a_422_wants(value: str, seconds: int | None) -> None:
    assert least(respond(request(), 422, ("Min-SE", value))) == seconds


def test_both_ends_agree_on_who_refreshes() -> None:
    for timer in (OURS, THEIRS):
        asked = asked_for(request(*(f"{name}: {value}" for name, value in request_fields(timer))))
        assert asked == SessionTimer(1800, ours=not timer.ours)
        assert granted(respond(request(), 200, *answer_fields(asked))) == timer
