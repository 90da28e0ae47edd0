"""Rates that nobody may exceed for long."""

from __future__ import annotations

from collections.abc import Hashable
from ipaddress import ip_network

MAX_SOURCES = 10_000


def source_of(host: str) -> str:
    """Whose address that is: of IPv6, one subscriber has all that begin with the same 64 bits (RFC 6177, section 2)."""
    if ":" not in host:
        return host
    try:
        return str(ip_network((host.partition("%")[0], 64), strict=False))
    except ValueError:
        return host


class Buckets:
    """A token bucket for each source. The source that was quiet longest is forgotten when there are too many."""

    def __init__(self, rate: float, burst: float) -> None:
        """`rate` tokens a second, and `burst` at once."""
        self._rate, self._burst = rate, burst
        self._levels: dict[Hashable, tuple[float, float]] = {}

    def take(self, source: Hashable, now: float) -> bool:
        """Whether there is a token left for it."""
        level, at = self._levels.pop(source, (self._burst, now))
        level = min(self._burst, level + max(0.0, now - at) * self._rate)
        taken = level >= 1
        self._levels[source] = (level - taken, now)
        if len(self._levels) > MAX_SOURCES:
            del self._levels[next(iter(self._levels))]
        return taken
