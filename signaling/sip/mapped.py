"""Where a peer saw a request of ours come from (RFC 3581): behind a NAT that is another place than we believe. Pure."""

from __future__ import annotations

from ipaddress import ip_address

from signaling.sip.message import Response

RELEARN_S = 60.0
"""A peer that sees us elsewhere each time changes our mind no more often."""

MAX_MAPPED = 1000
"""Peers of which that is remembered; the one that told it longest ago is forgotten for a new one."""


def mapped(response: Response) -> tuple[str, int] | None:
    """That place, where the topmost Via has another than we wrote there."""
    via = response.via
    host, port = via.parameters.get("received") or via.host, via.parameters.get("rport") or str(via.port or 5060)
    try:
        address = str(ip_address(host.strip("[]")))
    except ValueError:
        return None
    if not (port.isascii() and port.isdecimal() and len(port) <= 5 and 0 < int(port) < 65536):
        return None
    place = address, int(port)
    return None if place == (via.host.strip("[]"), via.port or 5060) else place


class Mappings:
    """By each peer's address, how it reaches us."""

    def __init__(self) -> None:
        self._places: dict[str, tuple[tuple[str, int], float]] = {}

    def __getitem__(self, host: str) -> tuple[str, int] | None:
        place, _ = self._places.get(host, (None, 0.0))
        return place

    def learn(self, host: str, place: tuple[str, int], now: float) -> bool:
        """A peer has told; whether that is news."""
        known = self._places.get(host)
        if (":" in place[0]) != (":" in host) or (known and (known[0] == place or now - known[1] < RELEARN_S)):
            return False
        self._places.pop(host, None)
        self._places[host] = place, now
        if len(self._places) > MAX_MAPPED:
            del self._places[next(iter(self._places))]
        return True
