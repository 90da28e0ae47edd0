"""How long a registrar keeps us (RFC 3261, section 10.2.4), and when we come again."""

from __future__ import annotations

from signaling.sip.grammar import parse_address, seconds_of, split
from signaling.sip.message import Response

MARGIN_S, MARGIN = 30.0, 0.1
"""A refresh begins so many seconds, and such a share of the time granted, before that is over; a little earlier by
chance, or all who lost the same registrar would come back at once for ever."""

MIN_REFRESH_S = 5.0
"""Refreshes are no denser, however little time is granted."""


def granted_s(response: Response, contact: str, asked_s: int) -> int:
    """The seconds that a 2xx grants us, whose Contact is `contact`: no more than was asked for, and 0 or less is none.

    What our own Contact says counts, or all of them where it was rewritten on the way, or Expires.
    """
    told = seconds_of(response.headers.get("Expires"))
    default = asked_s if told is None else told
    listed = [(value, _expires_of(value, default)) for value in response.headers.values("Contact")]
    ours = [seconds for value, seconds in listed if _is_same(value, contact)]
    return min(min(ours or [seconds for _, seconds in listed], default=default), asked_s)


def refresh_s(seconds: float, chance: float) -> float:
    """When to come again, of so many seconds that were granted; `chance` is in [0, 1)."""
    early = max(MARGIN_S, MARGIN * seconds) * (1 + chance / 2)
    return max(MIN_REFRESH_S, seconds / 2, seconds - early)


def _expires_of(value: str, default: int) -> int:
    """The `expires` of a Contact."""
    for part in split(value, ";")[1:]:
        name, _, text = part.partition("=")
        if name.strip(" ").lower() == "expires":
            seconds = seconds_of(text.strip(' "'))
            return default if seconds is None else seconds
    return default


def _is_same(value: str, contact: str) -> bool:
    """Whether both are reached at the same place, by the same name."""
    try:
        theirs, ours = parse_address(value).uri, parse_address(contact).uri
    except ValueError:
        return False
    return (theirs.user, theirs.host.lower(), theirs.port) == (ours.user, ours.host.lower(), ours.port)
