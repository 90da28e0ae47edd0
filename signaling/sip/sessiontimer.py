"""Session timers (RFC 4028) as a callee has them who leaves the refreshing to the peer."""

from __future__ import annotations

from signaling.sip.grammar import split
from signaling.sip.message import Request

MIN_SE = 90
"""Shortest session interval we agree to, in seconds (section 5)."""


class IntervalTooSmall(Exception):
    """The session interval that was asked for is shorter than MIN_SE."""


def session_interval(request: Request) -> int | None:
    """The interval in seconds that the peer will refresh within (section 9); None where there is no timer.

    We refresh nothing ourselves: where the peer leaves that to us, or knows no session timer, the call has none.
    Raises IntervalTooSmall.
    """
    value, *parameters = split(request.headers.get("Session-Expires"), ";") or [""]
    understood = "timer" in request.headers.options("Supported") + request.headers.options("Require")
    if not understood or not (value.isascii() and value.isdecimal() and len(value) < 10):
        return None
    if int(value) < MIN_SE:
        raise IntervalTooSmall
    refresher = [part.partition("=")[2].strip().lower() for part in parameters if part.lower().startswith("refresher")]
    return None if refresher == ["uas"] else int(value)


def timer_fields(interval_s: int | None) -> tuple[tuple[str, str], ...]:
    """What our 2xx says of it."""
    if interval_s is None:
        return ()
    return ("Session-Expires", f"{interval_s};refresher=uac"), ("Require", "timer")


def patience(interval_s: int) -> float:
    """Seconds after a refresh when we end the session, shortly before it expires (section 10)."""
    return interval_s - min(32, interval_s / 3)
