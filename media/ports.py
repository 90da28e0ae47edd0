"""UDP ports for media: pairs of an even port for RTP and the next one for RTCP (RFC 3550, section 11)."""

from __future__ import annotations

import errno
import secrets
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from media.leg import LegError, NoPort

REST_S = 30.0
"""A closed port is not given out again for so long: the last call's far end may still be sending to it."""

EXPEDITED = 0xB8
"""DSCP EF, where voice belongs (RFC 4594, section 4.1)."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two bound sockets that do not block."""

    rtp: socket.socket
    rtcp: socket.socket
    port: int
    version: int

    def close(self) -> None:
        """Close both."""
        self.rtp.close()
        self.rtcp.close()


class Ports:
    """Pairs within a range, in order from a random place, so that nobody can tell the next one.

    Empty: a resting pair is given out early, the longest rested first; with none of these either, NoPort. A port
    that another program has is passed over.
    """

    def __init__(self, first: int, last: int, time: Callable[[], float]) -> None:
        self._evens = range(first + first % 2, last, 2)
        self._time = time
        self._next = secrets.randbelow(max(1, len(self._evens)))
        self._taken: set[int] = set()
        self._resting: dict[int, float] = {}  # port -> until when, the earliest first
        self._range = f"{first}-{last}"

    def open(self, version: int) -> Pair:
        """Bind a pair on every address of IP `version`. Raises NoPort when none is free."""
        for port in self._candidates():
            try:
                pair = _bind(port, version)
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    continue
                raise LegError(f"cannot open UDP port {port} for IPv{version}: {error.strerror}") from None
            self._next = self._evens.index(port) + 1
            self._taken.add(port)
            self._resting.pop(port, None)
            return pair
        taken = len(self._taken)
        raise NoPort(f"no UDP port pair of {self._range} is free: {taken} are in calls, other programs have the rest")

    def close(self, pair: Pair) -> None:
        """Close a pair and let its ports rest."""
        pair.close()
        self._taken.discard(pair.port)
        self._resting[pair.port] = self._time() + REST_S

    def _candidates(self) -> Iterator[int]:
        now = self._time()
        for port, until in list(self._resting.items()):
            if until > now:
                break
            del self._resting[port]
        for step in range(len(self._evens)):
            port = self._evens[(self._next + step) % len(self._evens)]
            if port not in self._taken and port not in self._resting:
                yield port
        yield from list(self._resting)


def _bind(port: int, version: int) -> Pair:
    rtp = _socket(port, version)
    try:
        return Pair(rtp, _socket(port + 1, version), port, version)
    except OSError:
        rtp.close()
        raise


def _socket(port: int, version: int) -> socket.socket:
    """Bound on every address: where the far end's media comes in may change within the call."""
    udp = socket.socket(socket.AF_INET6 if version == 6 else socket.AF_INET, socket.SOCK_DGRAM)
    try:
        udp.setblocking(False)
        if version == 6:
            udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, EXPEDITED)
            udp.bind(("::", port))
        else:
            udp.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, EXPEDITED)
            udp.bind(("0.0.0.0", port))
    except OSError:
        udp.close()
        raise
    return udp


def local_address(host: str) -> str:
    """Our address on the route to `host`; nothing is sent. Raises LegError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host, 9))
        except OSError as error:
            raise LegError(f"no route to {host}: {error.strerror}") from None
        address: str = probe.getsockname()[0]
    return address
