"""SIP on sockets: who is heard at all, and connections with their limits.

Strangers are turned away before anything is parsed, and told nothing: a scanner that hears nothing goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import TypeAlias

from signaling.call import SignalingError
from signaling.sip.transaction import Flow
from signaling.sip.wire import PING, PONG, Framer, StreamError

logger = logging.getLogger(__name__)

HEADER_S = 10.0
"""Seconds within which a message that has begun on a connection must be complete."""
IDLE_S = 120.0
"""Seconds that a connection may be silent while no call goes by it."""
DIAL_S = 2.0
"""Seconds within which a peer must take a connection of ours."""
MAX_PER_SOURCE, MAX_CONNECTIONS = 20, 1000
MAX_UNSENT = 256 * 1024
"""Bytes a peer may leave unread; then its connection is closed."""

LOG_S = 60.0
"""A source is named in the log once in that time."""
MAX_LOGGED = 1000
"""Sources remembered for that; while there are more, new ones are not named."""

Network: TypeAlias = IPv4Network | IPv6Network


class Gate:
    """Who is heard: peers whose address is in `allow`, and those in `challenge`, who have yet to show who they are."""

    def __init__(self, allow: tuple[Network, ...], challenge: tuple[Network, ...] = ()) -> None:
        self._allow, self._heard = allow, allow + challenge
        self._listed = "".join(f"{network}," for network in allow)
        self._logged: dict[str, float] = {}
        self.turned_away = 0

    def allows(self, host: str) -> bool:
        """Whether that address, a literal, is on the list; no name is."""
        return _is_in(host, self._allow)

    def admit(self, host: str, now: float) -> bool:
        """Whether it is heard, with a line in the log for a stranger: how to let it in."""
        if _is_in(host, self._heard):
            return True
        self.turned_away += 1
        text = "x %s is not allowed to call and hears nothing; VOIPAGENT_SIP__ALLOW=%s%s lets it in"
        self.log(host, now, text, self._listed, host)
        return False

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


class Connections:
    """The TCP connections with peers, and their limits."""

    def __init__(
        self,
        admit: Callable[[str], bool],
        received: Callable[[bytes, Flow], None],
        in_use: Callable[[Flow], bool],
        local: Callable[[str], tuple[str, int]],
    ) -> None:
        self.admit, self.received, self.in_use, self.local = admit, received, in_use, local
        self._open: dict[int, Tcp] = {}  # by the serial of its flow
        self._closed = False
        self._serial = 0
        self._sources: Counter[str] = Counter()

    def __iter__(self) -> Iterator[Tcp]:
        return iter(self._open.values())

    def add(self, connection: Tcp, remote: tuple[str, int]) -> Flow | None:
        """A new connection's flow; None where it is not wanted."""
        if self._closed or not self.admit(remote[0]):
            return None
        if len(self._open) >= MAX_CONNECTIONS or self._sources[remote[0]] >= MAX_PER_SOURCE:
            logger.debug("x %s has too many connections", remote[0])
            return None
        self._serial += 1
        flow = Flow("TCP", remote, self.local(remote[0]), self._serial)
        self._open[flow.serial] = connection
        self._sources[remote[0]] += 1
        return flow

    def remove(self, flow: Flow) -> None:
        """It is closed."""
        if self._open.pop(flow.serial, None) is not None:
            self._sources[flow.remote[0]] -= 1
            self._sources += Counter()  # forgets the zeros

    def send(self, data: bytes, flow: Flow) -> bool:
        """Send by a connection; False once it is gone."""
        connection = self._open.get(flow.serial)
        if connection is not None:
            connection.send(data)
        return connection is not None

    async def dial(self, data: bytes, remote: tuple[str, int]) -> None:
        """Send by a new connection."""
        try:
            async with asyncio.timeout(DIAL_S):
                loop = asyncio.get_running_loop()
                _, connection = await loop.create_connection(lambda: Tcp(self), *remote)
        except OSError as error:  # a TimeoutError is one
            logger.warning("x %s:%d cannot be reached over TCP: %s", *remote, error or "no answer")
            return
        connection.send(data)

    def close(self) -> None:
        """Close them all for good, and wait for no peer to read what it was sent."""
        self._closed = True
        for connection in list(self._open.values()):
            connection.abort()


class Tcp(asyncio.Protocol):
    """One connection: bytes cut into messages, pings answered, dawdlers cut off."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._framer = Framer()
        self._flow: Flow | None = None
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._heard_at = 0.0
        self._begun_at: float | None = None  # when the message that is not complete yet began

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        host, port, *_ = transport.get_extra_info("peername") or ("", 0)
        self._flow = self._connections.add(self, (plain_host(host), port))
        if self._flow is None:
            transport.abort()
            return
        self._transport = transport
        self._heard_at = asyncio.get_running_loop().time()
        self._watch()

    def data_received(self, data: bytes) -> None:
        if self._flow is None or self._transport is None:
            return
        self._heard_at = asyncio.get_running_loop().time()
        try:
            for message in self._framer.feed(data):
                self._begun_at = None
                if message == PING:
                    self.send(PONG)
                else:
                    self._connections.received(message, self._flow)
        except StreamError as error:
            logger.debug("x %s:%d: %s", *self._flow.remote, error)
            self.close()
        if self._framer.partial and self._begun_at is None:
            self._begun_at = self._heard_at
            self._watch()

    def send(self, data: bytes) -> None:
        """Queue bytes; a peer that reads none is cut off."""
        if self._transport is None or self._transport.is_closing():
            return
        self._transport.write(data)
        if self._transport.get_write_buffer_size() > MAX_UNSENT:
            self.abort()

    def close(self) -> None:
        """Close the connection, once what was queued is sent."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close it at once: a peer that reads nothing would keep it open for ever."""
        if self._transport is not None:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._flow is not None:
            self._connections.remove(self._flow)

    def _watch(self) -> None:
        """Look again when the next limit would be reached; close if one is."""
        assert self._flow is not None
        loop = asyncio.get_running_loop()
        now = loop.time()
        idle_at = self._heard_at + IDLE_S
        if self._begun_at is not None and now >= self._begun_at + HEADER_S:
            self.abort()
        elif now >= idle_at and not self._connections.in_use(self._flow):
            self.abort()
        else:
            at = idle_at if idle_at > now else now + IDLE_S
            if self._begun_at is not None:
                at = min(at, self._begun_at + HEADER_S)
            if self._timer is not None:
                self._timer.cancel()
            self._timer = loop.call_at(at, self._watch)


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
            return str(probe.getsockname()[0])
    except OSError:  # no route, so nothing we say will reach it; or no file descriptor left
        return "::1" if family == socket.AF_INET6 else "127.0.0.1"


def bind(host: str, port: int) -> tuple[socket.socket, socket.socket]:
    """A UDP and a TCP socket on the same port; port 0: one that is free for both. Raises SignalingError."""
    for _ in range(20):
        udp = _socket(host, port, socket.SOCK_DGRAM)
        try:
            return udp, _socket(host, udp.getsockname()[1], socket.SOCK_STREAM)
        except SignalingError:
            udp.close()
            if port:
                raise
    raise SignalingError(f"no port of {host} is free for both UDP and TCP")


def _socket(host: str, port: int, kind: socket.SocketKind) -> socket.socket:
    name = "UDP" if kind == socket.SOCK_DGRAM else "TCP"
    sock = None
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=kind, flags=socket.AI_PASSIVE)[0]
        sock = socket.socket(family, kind)
        if kind == socket.SOCK_STREAM:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            with contextlib.suppress(OSError):  # both families where the system can
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
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
        raise SignalingError(f"cannot listen for SIP on {name} {host} port {port}: {why}{hint}") from None
