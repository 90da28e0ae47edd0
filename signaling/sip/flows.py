"""Every way to every peer: one UDP socket, connections over TCP and, with a certificate, over TLS."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import socket
import ssl
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import replace
from typing import Any, Self

from signaling.call import SignalingError
from signaling.sip.connections import Connections, Unreachable
from signaling.sip.mapped import Mappings
from signaling.sip.message import Response
from signaling.sip.resolve import PORTS, Target
from signaling.sip.stream import Lost, Stream
from signaling.sip.tls import Tls, client_context, server_context
from signaling.sip.transaction import Flow
from signaling.sip.transport import Addresses, Gate, Udp, bind, listen, plain_host
from signaling.sip.wire import MIN_DATAGRAM, PING, WireError, parse

logger = logging.getLogger(__name__)

UDP_PING_S = (24.0, 29.0)
"""A kept way over UDP is used at random between so many seconds, for the sake of NATs (RFC 5626, section 4.4.2)."""

MAX_OCTETS = 1300
"""Of a request; a larger one may be torn on its way, and lost (RFC 3261, section 18.1.1)."""

UDP_ONLY_S = 600.0
"""How long no connection is tried again for a large request where none was taken."""

PAUSE_S = 1.0
"""How long no connection is taken after one could not be for want of file descriptors."""


class Flows:
    """Sockets, while entered. Whole messages go to `received`; `in_use` says whether a call goes by a connection, and
    `gone` is told which one ended.

    `advertised` and `v6_only` are as for `Addresses` and `listen`. Without `tls` nobody is reached over TLS either.
    Entering raises SignalingError where a port or a certificate cannot be had.
    """

    def __init__(
        self,
        host: str,
        port: int,
        gate: Gate,
        received: Callable[[bytes, Flow], None],
        in_use: Callable[[Flow], bool],
        gone: Callable[[Flow], None] = lambda flow: None,
        *,
        advertised: Iterable[str] = (),
        tls: Tls | None = None,
        v6_only: bool = False,
    ) -> None:
        self.port, self.tls_port = port, 0
        """The ports that are bound, once entered; `tls_port` is 0 while we cannot be called over TLS."""
        self.connections = Connections(self._may_connect, self._message, in_use, self._local, self._crowd, gone)
        self._host, self._gate, self._received, self._tls, self._v6_only = host, gate, received, tls, v6_only
        self._advertised = tuple(advertised)
        self._addresses = Addresses((), "")
        self._mappings = Mappings()
        self._server: ssl.SSLContext | None = None
        self._udp: asyncio.DatagramTransport | None = None
        self._v6 = False
        self._beats: dict[Flow, asyncio.TimerHandle] = {}
        self._udp_only: dict[Target, float] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self.reload()
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(asyncio.sleep, 0)  # in which closed transports let go of their sockets
            udp, tcp = bind(self._host, self.port, self._v6_only)
            stack.callback(udp.close)
            stack.callback(tcp.close)
            bound, self.port, *_ = udp.getsockname()
            secure = stack.enter_context(self._listen_for_tls())
            self._v6 = udp.family == socket.AF_INET6
            self._addresses = Addresses(self._advertised, bound)
            self._group = await stack.enter_async_context(asyncio.TaskGroup())
            self._udp, _ = await loop.create_datagram_endpoint(lambda: Udp(self._datagram), sock=udp)
            stack.callback(self._udp.close)
            server = await loop.create_server(lambda: Stream(self.connections, "TCP"), sock=tcp)
            stack.callback(server.close)
            if secure is not None:
                self._spawn(self._take(secure))
            stack.callback(self.connections.close)
            stack.callback(self._stop)
            self._stack = stack.pop_all()
        return self

    def _listen_for_tls(self) -> contextlib.AbstractContextManager[socket.socket | None]:
        if self._tls is None or self._server is None:
            return contextlib.nullcontext()
        sock = listen(self._host, self._tls.port, "TLS", self._v6_only)
        self.tls_port = sock.getsockname()[1]
        return sock

    async def __aexit__(self, *exc_info: object) -> None:
        await self._stack.aclose()

    def _stop(self) -> None:
        for beat in self._beats.values():
            beat.cancel()
        for task in self._tasks:
            task.cancel()

    def reload(self) -> None:
        """Read the certificates anew; connections that are open keep theirs. Raises SignalingError, and then all is as
        before.
        """
        if self._tls is None:
            return
        client = client_context(self._tls)
        self._server = server_context(self._tls) if self._tls.certificate is not None else None
        self.connections.client = client

    @property
    def versions(self) -> tuple[int, ...]:
        """The versions of IP that our sockets speak, the preferred one first."""
        if not self._v6:
            return (4,)
        return (6,) if self._v6_only or self._host not in ("::", "") else (4, 6)

    @property
    def protocols(self) -> tuple[str, ...]:
        """What we can call over, the preferred one first."""
        return ("UDP", "TCP") if self._tls is None else ("UDP", "TCP", "TLS")

    # --- out ---

    def send(self, data: bytes, flow: Flow) -> None:
        """Send it; by a new connection if the flow's is gone and where to is known."""
        if not flow.reliable:
            self._send_datagram(data, flow.remote)
        elif not self.connections.send(data, flow) and flow.spare is not None:
            target = Target(flow.protocol, *flow.spare, flow.name or flow.spare[0])
            self._spawn(self._send_anew(data, target))

    async def connect(self, target: Target, octets: int = 0) -> Flow:
        """A way to that target for a request of so many octets: over TCP and TLS an open connection, or a new one.

        What is too large for a datagram goes over TCP if the target takes it. Raises Unreachable.
        """
        self._gate.expect(target.host, asyncio.get_running_loop().time())
        if target.protocol == "UDP":
            return (octets > MAX_OCTETS and await self._instead(target)) or self._over_udp(target)
        if target.protocol not in self.protocols:
            raise Unreachable(f"{target} cannot be reached: we speak {', '.join(self.protocols)}")
        return await self.connections.connect(target)

    def _over_udp(self, target: Target) -> Flow:
        return Flow("UDP", (target.host, target.port), self._local("UDP", target.host, self.port))

    async def _instead(self, target: Target) -> Flow | None:
        """A connection to the same place (RFC 3261, section 18.1.1); None where none is taken, which is remembered."""
        now = asyncio.get_running_loop().time()
        self._udp_only = {place: until for place, until in self._udp_only.items() if until > now}
        if target in self._udp_only:
            return None
        try:
            return await self.connections.connect(replace(target, protocol="TCP"))
        except Unreachable as error:
            logger.info("- %s; so large requests go over UDP", error)
            self._udp_only[target] = now + UDP_ONLY_S
            return None

    def learn(self, host: str, place: tuple[str, int]) -> bool:
        """That peer sees us there over UDP, and is told so from now on, unless an address is advertised; is it news?"""
        if self._addresses.is_advertised(host):
            return False
        news = self._mappings.learn(host, place, asyncio.get_running_loop().time())
        if news:
            logger.info("- %s sees us at %s:%d: there is a NAT between us", host, *place)
        return news

    def is_open(self, flow: Flow) -> bool:
        """Whether a connection is still there; over UDP nobody can tell."""
        return not flow.reliable or self.connections.has(flow)

    def keep(self, flow: Flow, lost: Lost) -> bool:
        """Keep it open and alive until it is let go (RFC 5626, section 4.4); False where it is gone already.

        `lost` is told of its end. Over UDP nobody can tell.
        """
        if flow.reliable:
            return self.connections.keep(flow, lost)
        self.let_go(flow)
        self._beats[flow] = asyncio.get_running_loop().call_later(random.uniform(*UDP_PING_S), self._beat, flow)
        return True

    def let_go(self, flow: Flow) -> None:
        """Nobody keeps it any more."""
        if (beat := self._beats.pop(flow, None)) is not None:
            beat.cancel()
        self.connections.let_go(flow)

    def _beat(self, flow: Flow) -> None:
        self._send_datagram(PING, flow.remote)
        self._beats[flow] = asyncio.get_running_loop().call_later(random.uniform(*UDP_PING_S), self._beat, flow)

    def _send_datagram(self, data: bytes, remote: tuple[str, int]) -> None:
        if self._udp is not None and not self._udp.is_closing():
            host, port = remote
            mapped = self._v6 and ":" not in host  # IPv4 through an IPv6 socket
            self._udp.sendto(data, (f"::ffff:{host}" if mapped else host, port))

    async def _send_anew(self, data: bytes, target: Target) -> None:
        try:
            flow = await self.connections.connect(target)
        except SignalingError as error:
            logger.warning("x %s", error)
        else:
            self.connections.send(data, flow)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._group.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- in ---

    def _admit(self, host: str) -> bool:
        return self._gate.admit(host, asyncio.get_running_loop().time())

    def _may_connect(self, host: str) -> bool:
        """Whom we called may go on by a connection of its own: it has our Contact, and need not use ours."""
        return self._gate.expects(host, asyncio.get_running_loop().time()) or self._admit(host)

    def _local(self, protocol: str, remote: str, port: int) -> tuple[str, int]:
        """Our address as that peer reaches it. Where we do not listen for TLS, a connection's own port leads to us."""
        if protocol == "UDP" and (place := self._mappings[remote]) is not None:
            return place
        return self._addresses.towards(remote), (self.tls_port or port) if protocol == "TLS" else self.port

    def _datagram(self, data: bytes, remote: tuple[str, int]) -> None:
        if len(data) >= MIN_DATAGRAM and self._hears(data, remote[0]):
            self._received(data, Flow("UDP", remote, self._local("UDP", remote[0], self.port)))

    def _message(self, data: bytes, flow: Flow) -> None:
        """One came by a connection."""
        if flow.protocol == "TLS" and (port := aliased(data)):
            self.connections.alias(flow, port)
        if self._hears(data, flow.remote[0]):
            self._received(data, flow)

    def _hears(self, data: bytes, host: str) -> bool:
        """Whether a message is heard: any from who may begin something, and from whom we called what goes on."""
        if self._gate.hears(host):
            return True
        expected = self._gate.expects(host, asyncio.get_running_loop().time())
        return (expected and goes_on(data)) or self._admit(host)

    async def _take(self, secure: socket.socket) -> None:
        """Connections for TLS. Who they are from is looked at before a handshake costs anything."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, (host, *_) = await loop.sock_accept(secure)
            except OSError as error:
                logger.warning("x a connection for TLS could not be taken: %s", error.strerror)
                await asyncio.sleep(PAUSE_S)
                continue
            host = plain_host(host)
            if self._server is None or not self._may_connect(host):
                sock.close()
            elif not self.connections.may_shake(host):
                self._crowd(host)
                sock.close()
            else:
                self._spawn(self._shake(sock, host, self._server))

    def _crowd(self, host: str) -> None:
        self._gate.crowd(host, asyncio.get_running_loop().time())

    async def _shake(self, sock: socket.socket, host: str, context: ssl.SSLContext) -> None:
        if why := await self.connections.shake(sock, host, context):
            self._gate.log(host, asyncio.get_running_loop().time(), "x %s failed to agree on TLS: %s", why)


# --- small print ---------------------------------------------------------------------------------------------------


def goes_on(data: bytes) -> bool:
    """Whether a message begins nothing: a response, or a request within a dialog."""
    try:
        message = parse(data)
    except WireError:
        return False
    return isinstance(message, Response) or bool(message.to_tag)


def aliased(data: bytes) -> int:
    """The port where the sender of a request listens, if it offers its connection for ours (RFC 5923, section 5)."""
    head = data.partition(b"\r\n\r\n")[0]
    if b"alias" not in head or head.startswith(b"SIP/"):
        return 0
    try:
        via = parse(data).via
    except WireError:
        return 0
    return (via.port or PORTS["TLS"]) if "alias" in via.parameters else 0
