"""Which source address is the far end's: symmetric RTP with a lock (latching, RFC 7362). Pure.

Behind address translation the packets come from elsewhere than the description says, so the first valid packet from
an address that we have a reason to trust decides, and then stays. Others are dropped: a port that believes anybody can
be talked over by anybody.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import TypeAlias

Network: TypeAlias = IPv4Network | IPv6Network
Address = tuple[str, int]

SILENT_S = 2.0
"""The lock opens to others once its source has been silent for so long."""

PROBATION_PACKETS = 8
"""In sequence, before another stream from another source is believed."""


class Latch:
    """`target` is where to send: the described address until a packet came, then where that came from.

    `networks` are trusted besides the far end's own addresses: a carrier's media may come from any machine of its own.
    """

    def __init__(self, networks: tuple[Network, ...] = ()) -> None:
        self._networks = networks
        self.target: Address = ("", 0)
        self.locked = False
        self._described: Address = ("", 0)
        self._hosts: frozenset[str] = frozenset()
        self._ssrc = -1
        self._heard = 0.0
        self._barred: Address | None = None
        self._probation: tuple[Address, int, int] | None = None  # source, SSRC, next sequence number
        self._passed = 0

    def arm(self, described: Address, hosts: Iterable[str], now: float) -> None:
        """The far end described itself (again). An unchanged description leaves the lock alone.

        `hosts` may send besides the described one. After a move, packets from the old source do not count for
        SILENT_S: they are the tail of what was.
        """
        self._hosts = frozenset({*hosts, described[0]})
        if described == self._described:
            return
        self._barred = self.target if self.locked and self.target != described else None
        self._described = self.target = described
        self.locked, self._probation, self._heard = False, None, now

    def holds(self, source: Address) -> bool:
        """Whether that is where the far end has proved to be."""
        return self.locked and source == self.target

    def admit(self, source: Address, ssrc: int, sequence: int, now: float) -> bool:
        """Whether a valid packet from `source` belongs to the call."""
        if self.holds(source):
            self._lock(source, ssrc, now)
            return True
        if not self.trusts(source[0]):
            return False
        silent = now - self._heard >= SILENT_S
        if not self.locked:
            if source == self._barred and not silent:
                return False
        elif not silent or (ssrc != self._ssrc and not self._on_probation(source, ssrc, sequence)):
            return False
        self._lock(source, ssrc, now)
        return True

    def trusts(self, host: str) -> bool:
        """Whether the far end could be there, before a packet proves it."""
        return host in self._hosts or any(ip_address(host.partition("%")[0]) in network for network in self._networks)

    def _lock(self, source: Address, ssrc: int, now: float) -> None:
        self.target, self.locked, self._ssrc, self._heard = source, True, ssrc, now
        self._probation = self._barred = None

    def _on_probation(self, source: Address, ssrc: int, sequence: int) -> bool:
        """Count a packet of another stream; True once enough came in sequence."""
        self._passed = self._passed + 1 if self._probation == (source, ssrc, sequence) else 1
        self._probation = (source, ssrc, (sequence + 1) & 0xFFFF)
        return self._passed >= PROBATION_PACKETS
