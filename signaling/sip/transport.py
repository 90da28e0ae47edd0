"""SIP on sockets: who is heard at all, and which of our addresses a peer is told.

Strangers are turned away before anything is parsed, and told nothing: a scanner that hears nothing goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
from collections.abc import Callable, Iterable
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import TypeAlias

from signaling.call import SignalingError

logger = logging.getLogger(__name__)

LOG_S = 60.0
"""A source is named in the log once in that time."""
MAX_LOGGED = 1000
"""Sources remembered for that; while there are more, new ones are not named."""

EXPECTED_S, MAX_EXPECTED = 4 * 3600.0, 1000
"""Seconds for which a host that we called may go on with what we began, and how many such hosts are remembered."""

Network: TypeAlias = IPv4Network | IPv6Network


class Gate:
    """Who is heard: peers whose address is in `allow`, and those in `challenge`, who have yet to show who they are.

    `knows` says of an address whether it is one of a trunk's; these are as good as those in `allow`.
    """

    def __init__(
        self,
        allow: tuple[Network, ...],
        challenge: tuple[Network, ...] = (),
        knows: Callable[[str], bool] = lambda host: False,
    ) -> None:
        self._allow, self._heard, self._knows = allow, allow + challenge, knows
        self._listed = "".join(f"{network}," for network in allow)
        self._logged: dict[str, float] = {}
        self._expected: dict[str, float] = {}
        self.turned_away = 0
        self.crowded = 0
        """Connections that were one too many."""

    def allows(self, host: str) -> bool:
        """Whether that address, a literal, is on the list, or a trunk's; no name is."""
        return _is_in(host, self._allow) or self._knows(host)

    def hears(self, host: str) -> bool:
        """Whether it may begin something."""
        return _is_in(host, self._heard) or self._knows(host)

    def expect(self, host: str, now: float) -> None:
        """We call it: it may answer, and go on with what we began."""
        self._expected.pop(host, None)
        if len(self._expected) >= MAX_EXPECTED:
            del self._expected[next(iter(self._expected))]
        self._expected[host] = now + EXPECTED_S

    def expects(self, host: str, now: float) -> bool:
        """Whether we have called it."""
        return self._expected.get(host, now) > now

    def admit(self, host: str, now: float) -> bool:
        """Whether it may begin something, with a line in the log for a stranger: how to let it in."""
        if self.hears(host):
            return True
        self.turned_away += 1
        text = "x %s is not allowed to call and hears nothing; VOIPAGENT_SIP__ALLOW=%s%s lets it in"
        self.log(host, now, text, self._listed, host)
        return False

    def crowd(self, host: str, now: float) -> None:
        """It may connect, but there are too many connections already: with it, or with all together."""
        self.crowded += 1
        self.log(host, now, "x %s has too many connections open, or there are too many in all: one more was refused")

    def log(self, host: str, now: float, text: str, *arguments: object) -> None:
        """Warn about a source, once a minute."""
        while self._logged and now - next(iter(self._logged.values())) >= LOG_S:  # the oldest is the first
            del self._logged[next(iter(self._logged))]
        if host not in self._logged and len(self._logged) < MAX_LOGGED:
            self._logged[host] = now
            logger.warning(text, host, *arguments)


class Udp(asyncio.DatagramProtocol):
    """The one UDP socket."""

    def __init__(self, received: Callable[[bytes, tuple[str, int]], None]) -> None:
        self._received = received

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._received(data, (plain_host(addr[0]), addr[1]))

    def error_received(self, exc: Exception) -> None:
        logger.debug("x UDP: %s", exc)  # a peer's port is closed; timers deal with it


# --- addresses and sockets -----------------------------------------------------------------------------------------


def _is_in(host: str, networks: tuple[Network, ...]) -> bool:
    """Whether an address, a literal, is in one of them."""
    try:
        address = ip_address(host)
    except ValueError:
        return False
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return any(address in network for network in networks)


def plain_host(host: str) -> str:
    """An address as a peer would write it: IPv4 that came through an IPv6 socket is IPv4."""
    return host.removeprefix("::ffff:") if host.startswith("::ffff:") and "." in host else host


def local_host(remote: str) -> str:
    """The address of ours from which packets to `remote`, a literal, would leave; nothing is sent."""
    family = socket.AF_INET6 if ":" in remote else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((remote, 9))
            return str(probe.getsockname()[0]).partition("%")[0]  # a zone means something on this machine only
    except OSError:  # no route, so nothing we say will reach it; or no file descriptor left
        return "::1" if family == socket.AF_INET6 else "127.0.0.1"


class Addresses:
    """Which of our addresses a peer is told: an advertised one of its kind, else the one that routes to it.

    `advertised` are literals, each for peers of its IP version, and names, for those that have no literal. `bound` is
    where we listen.
    """

    def __init__(self, advertised: Iterable[str], bound: str) -> None:
        self._bound = "" if bound in ("0.0.0.0", "::") else bound
        self._advertised: dict[int, str] = {}
        for text in advertised:
            self._advertised.setdefault(_version(text), text)

    def towards(self, remote: str) -> str:
        """For a peer, a literal."""
        return self._told(remote) or self._bound or local_host(remote)

    def is_advertised(self, remote: str) -> bool:
        """Whether somebody has said what a peer there is to be told."""
        return bool(self._told(remote))

    def _told(self, remote: str) -> str:
        return self._advertised.get(_version(remote)) or self._advertised.get(0) or ""


def _version(text: str) -> int:
    """4 or 6 for an address, 0 for a name."""
    try:
        return ip_address(text).version
    except ValueError:
        return 0


def bind(host: str, port: int, v6_only: bool = False) -> tuple[socket.socket, socket.socket]:
    """A UDP and a TCP socket on the same port; port 0: one that is free for both. Raises SignalingError."""
    for _ in range(20):
        udp = listen(host, port, "UDP", v6_only)
        try:
            return udp, listen(host, udp.getsockname()[1], "TCP", v6_only)
        except SignalingError:
            udp.close()
            if port:
                raise
    raise SignalingError(f"no port of {host} is free for both UDP and TCP")


def listen(host: str, port: int, protocol: str, v6_only: bool = False) -> socket.socket:
    """A socket for UDP, TCP or TLS; an IPv6 one is for IPv4 too, unless it must not. Raises SignalingError."""
    kind = socket.SOCK_DGRAM if protocol == "UDP" else socket.SOCK_STREAM
    sock = None
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=kind, flags=socket.AI_PASSIVE)[0]
        sock = socket.socket(family, kind)
        if kind == socket.SOCK_STREAM:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            with contextlib.suppress(OSError):  # both versions where the system can
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, v6_only)
        sock.setblocking(False)
        sock.bind(address)
        if kind == socket.SOCK_STREAM:
            sock.listen(128)
        return sock
    except OSError as error:
        if sock is not None:
            sock.close()
        hint = ": another program has it; stop that or choose another port" if error.errno == errno.EADDRINUSE else ""
        why = error.strerror or str(error)
        raise SignalingError(f"cannot listen for SIP on {protocol} {host} port {port}: {why}{hint}") from None
