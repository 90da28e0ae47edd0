"""Session timers (RFC 4028): what is agreed to, by whom a session is refreshed, and when."""

from __future__ import annotations

from dataclasses import dataclass

from signaling.sip.grammar import split
from signaling.sip.message import Message, Request, Response

MIN_SE = 90
"""Shortest session interval we agree to, in seconds (section 5)."""

INTERVAL_S = 1800
"""The session interval that we ask for in calls of ours."""


class IntervalTooSmall(Exception):
    """The session interval that was asked for is shorter than MIN_SE."""


@dataclass(frozen=True, slots=True)
class SessionTimer:
    """The session ends where nobody refreshes it for `interval_s` seconds; `ours` says that we are to do it."""

    interval_s: int
    ours: bool = False

    @property
    def patience_s(self) -> float:
        """Seconds after a refresh when we end the session, shortly before it expires (section 10)."""
        return self.interval_s - min(32, self.interval_s / 3)

    @property
    def refresh_s(self) -> float | None:
        """Seconds after a refresh when we make the next; None where the peer does."""
        return self.interval_s / 2 if self.ours else None


# --- the peer asks, we answer --------------------------------------------------------------------------------------


def asked_for(request: Request) -> SessionTimer | None:
    """What we agree to in our 2xx (section 9, table 2); None where there is no timer.

    A peer that knows the timer does the refreshing unless it leaves that to us. For one that does not, a proxy on the
    way may have asked: then the refreshing is ours. Raises IntervalTooSmall.
    """
    interval, refresher = _session_expires(request)
    if interval is None:
        return None
    understood = knows_timer(request)
    if interval < MIN_SE:
        if not understood:
            return None  # who does not know the timer would not know what 422 means
        raise IntervalTooSmall
    return SessionTimer(interval, ours=refresher == "uas" or not understood)


def answer_fields(timer: SessionTimer | None) -> tuple[tuple[str, str], ...]:
    """What our 2xx says of it. Only who is to refresh must know the timer."""
    if timer is None:
        return ()
    if timer.ours:
        return (("Session-Expires", f"{timer.interval_s};refresher=uas"),)
    return ("Session-Expires", f"{timer.interval_s};refresher=uac"), ("Require", "timer")


# --- we ask, the peer answers --------------------------------------------------------------------------------------


def request_fields(timer: SessionTimer | None, min_se: int = MIN_SE) -> tuple[tuple[str, str], ...]:
    """What an INVITE or UPDATE of ours says: without it, the timer would be off (section 7.4).

    `min_se` is the longest Min-SE that a 422 told us of.
    """
    if timer is None:
        return (("Supported", "timer"),)
    refresher = "uac" if timer.ours else "uas"
    fields = (("Supported", "timer"), ("Session-Expires", f"{max(timer.interval_s, min_se)};refresher={refresher}"))
    return (*fields, ("Min-SE", str(min_se)))


def granted(response: Response) -> SessionTimer | None:
    """What a 2xx to a request of ours agrees to (section 7.2); None where there is no timer.

    Less than MIN_SE, which we said, is not its to grant: it would have us refresh without end.
    """
    interval, refresher = _session_expires(response)
    return None if interval is None else SessionTimer(max(interval, MIN_SE), ours=refresher != "uas")


def least(response: Response) -> int | None:
    """The interval that a 422 wants at least (section 7.4); None where it names none that makes sense."""
    value, *_ = split(response.headers.get("Min-SE"), ";") or [""]
    return _number(value)


# --- small print ---------------------------------------------------------------------------------------------------


def knows_timer(message: Message) -> bool:
    """Whether its sender knows session timers."""
    return "timer" in message.headers.options("Supported") + message.headers.options("Require")


def _session_expires(message: Message) -> tuple[int | None, str]:
    """(interval, refresher) as it stands there; None for an interval that cannot be read."""
    value, *parameters = split(message.headers.get("Session-Expires"), ";") or [""]
    named = (part.partition("=") for part in parameters)
    refresher = next((value for name, _, value in named if name.strip(" ").lower() == "refresher"), "")
    return _number(value), refresher.strip(" ").lower()


def _number(text: str) -> int | None:
    """Delta-seconds of a size that makes sense."""
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        return None
    return int(text)
