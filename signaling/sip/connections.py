"""Connections with peers, over TCP and TLS: their limits, which of them leads where, and which are kept alive."""

from __future__ import annotations

import asyncio
import logging
import random
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TypeAlias

from signaling.call import SignalingError
from signaling.sip import tls
from signaling.sip.buckets import source_of
from signaling.sip.grammar import host_port
from signaling.sip.resolve import Target
from signaling.sip.tls import Certificate
from signaling.sip.transaction import Flow
from signaling.sip.transport import plain_host
from signaling.sip.wire import PING, PONG, Framer, StreamError

logger = logging.getLogger(__name__)

HEADER_S = 10.0
"""Seconds within which a message that has begun on a connection must be complete."""
IDLE_S = 120.0
"""Seconds that a connection may be silent while no call goes by it and nobody keeps it."""
DIAL_S = 2.0
"""Seconds within which a peer must take a connection of ours."""
HANDSHAKE_S = 5.0
"""And within which TLS must be agreed, by either side."""
MAX_PER_SOURCE, MAX_CONNECTIONS = 20, 1000
MAX_HANDSHAKES = 200
"""Peers that have connected and not agreed on TLS yet; more are refused. They are in none of the other numbers."""
MAX_UNSENT = 256 * 1024
"""Bytes a peer may leave unread; then its connection is closed."""
UNACKNOWLEDGED_S = 20.0
"""Seconds for which what we send may stay unacknowledged by the peer's system: then it is gone."""
PING_S, PONG_S = 95.0, 10.0
"""A kept connection is pinged after so many seconds, up to a quarter more, and an answer awaited for so many (RFC 5626,
section 4.4.1). Many peers never answer; only one that once did must do so always.
"""

Lost: TypeAlias = Callable[[str], None]
"""Told once, and why, that a way to a peer is gone that was to be kept."""


class Unreachable(SignalingError):
    """A target takes no connection, or is not who it should be."""


class _Attempt:
    """What those share who want the same connection at the same time: they wait for one, and fail together."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.waiting, self.failed = 0, ""


class Connections:
    """All of them. `admit` says which hosts may connect, `received` takes messages, `in_use` says whether a call goes
    by a connection, `local` which address of ours a peer is told, by protocol, peer and the socket's own port.
    """

    def __init__(
        self,
        admit: Callable[[str], bool],
        received: Callable[[bytes, Flow], None],
        in_use: Callable[[Flow], bool],
        local: Callable[[str, str, int], tuple[str, int]],
    ) -> None:
        self.admit, self.received, self.in_use, self.local = admit, received, in_use, local
        self.client: ssl.SSLContext | None = None
        """For connections of ours over TLS."""
        self._open: dict[int, Stream] = {}  # by the serial of its flow
        self._closed = False
        self._serial = 0
        self._sources: Counter[str] = Counter()
        self._handshakes: Counter[str] = Counter()
        self._attempts: dict[Target, _Attempt] = {}

    def __iter__(self) -> Iterator[Stream]:
        return iter(self._open.values())

    # --- connections that come and go ---

    def add(self, connection: Stream, remote: tuple[str, int], port: int) -> Flow | None:
        """A new connection's flow; None where it is not wanted."""
        target = connection.target
        if self._closed or not (target or self.admit(remote[0])):
            return None
        if self.is_full(remote[0]):
            logger.debug("x %s has too many connections", remote[0])
            return None
        self._serial += 1
        name = target.name if target else next(iter(tls.identities(connection.certificate)), "")
        spare = (target.host, target.port) if target else None
        local = self.local(connection.protocol, remote[0], port)
        flow = Flow(connection.protocol, remote, local, self._serial, spare, name)
        self._open[flow.serial] = connection
        self._sources[source_of(remote[0])] += 1
        return flow

    def is_full(self, host: str) -> bool:
        """Whether there may be no further connection with that host."""
        return len(self._open) >= MAX_CONNECTIONS or self._sources[source_of(host)] >= MAX_PER_SOURCE

    def remove(self, flow: Flow) -> None:
        """It is closed."""
        if self._open.pop(flow.serial, None) is not None:
            self._sources[source_of(flow.remote[0])] -= 1
            self._sources += Counter()  # forgets the zeros

    def close(self) -> None:
        """Close them all for good, and wait for no peer to read what it was sent."""
        self._closed = True
        for connection in list(self._open.values()):
            connection.abort()

    async def shake(self, sock: socket.socket, host: str, context: ssl.SSLContext) -> str:
        """Agree on TLS with a peer that has connected; why not, if it came to nothing. Takes the socket over."""
        self._handshakes[source_of(host)] += 1
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: Stream(self, "TLS"),
                sock,
                ssl=context,
                ssl_handshake_timeout=HANDSHAKE_S,
                ssl_shutdown_timeout=DIAL_S,
            )
        except ConnectionAbortedError:
            return f"it took more than {HANDSHAKE_S:g} s"
        except OSError as error:  # an SSLError is one
            return tls.why(error)
        finally:
            self._handshakes[source_of(host)] -= 1
            self._handshakes += Counter()
        return ""

    def may_shake(self, host: str) -> bool:
        """Whether a peer that has connected may try to agree on TLS."""
        few = self._handshakes.total() < MAX_HANDSHAKES and self._handshakes[source_of(host)] < MAX_PER_SOURCE
        return few and not self._closed and not self.is_full(host)

    # --- what goes out ---

    def send(self, data: bytes, flow: Flow) -> bool:
        """Send by a connection; False once it is gone."""
        connection = self._open.get(flow.serial)
        if connection is not None:
            connection.send(data)
        return connection is not None

    async def connect(self, target: Target) -> Flow:
        """A connection to it: an open one if there is, else a new one. Raises Unreachable."""
        attempt = self._attempts.setdefault(target, _Attempt())
        attempt.waiting += 1
        try:
            async with attempt.lock:
                return await self._attempt(attempt, target)
        finally:
            attempt.waiting -= 1
            if not attempt.waiting:
                del self._attempts[target]

    async def _attempt(self, attempt: _Attempt, target: Target) -> Flow:
        flow = next((c.flow for c in self._open.values() if c.flow and c.leads_to(target)), None)
        if flow is not None:
            return flow
        if attempt.failed:
            raise Unreachable(attempt.failed)
        try:
            return await self._dial(target)
        except Unreachable as error:
            attempt.failed = str(error)
            raise

    async def _dial(self, target: Target) -> Flow:
        secure = target.protocol == "TLS"
        made = Stream(self, target.protocol, target)
        try:
            async with asyncio.timeout(DIAL_S + (HANDSHAKE_S if secure else 0)):
                await asyncio.get_running_loop().create_connection(
                    lambda: made,
                    target.host,
                    target.port,
                    ssl=self.client if secure else None,
                    server_hostname=target.name if secure else None,
                    ssl_handshake_timeout=HANDSHAKE_S if secure else None,
                    ssl_shutdown_timeout=DIAL_S if secure else None,
                )
        except OSError as error:  # a TimeoutError is one, and so is an SSLError
            raise Unreachable(f"{target} cannot be reached: {tls.why(error)}") from None
        if made.flow is None:
            raise Unreachable(f"{target} cannot be reached: {made.unwanted}")
        return made.flow

    # --- which are kept ---

    def keep(self, flow: Flow, lost: Lost) -> bool:
        """Keep it alive until it is let go; False where it is gone already."""
        connection = self._open.get(flow.serial)
        if connection is not None:
            connection.keep(lost)
        return connection is not None

    def let_go(self, flow: Flow) -> None:
        """Nobody keeps it any more."""
        if (connection := self._open.get(flow.serial)) is not None:
            connection.keep(None)

    def alias(self, flow: Flow, port: int) -> None:
        """What that connection's peer listens on leads to it, too (RFC 5923): if TLS has shown who it is."""
        connection = self._open.get(flow.serial)
        if connection is not None and connection.certificate:
            connection.listens_on = port


class Stream(asyncio.Protocol):
    """One connection: bytes cut into messages, pings answered, dawdlers cut off. `target` is where we dialled."""

    def __init__(self, connections: Connections, protocol: str, target: Target | None = None) -> None:
        self.protocol, self.target = protocol, target
        self.flow: Flow | None = None
        self.certificate: Certificate = {}
        """The peer's, verified; empty without one."""
        self.listens_on = 0
        """The port where connections to that peer would go."""
        self.unwanted = "there are too many connections already"
        """Why it has no flow."""
        self._connections = connections
        self._framer = Framer()
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._heard_at = 0.0
        self._begun_at: float | None = None  # when the message that is not complete yet began
        self._lost: Lost | None = None  # of who keeps it
        self._ping_at, self._pong_by = 0.0, 0.0
        self._answers_pings = False
        self._why = "the peer closed the connection"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        host, port, *_ = transport.get_extra_info("peername") or ("", 0)
        self.certificate = transport.get_extra_info("peercert") or {}
        target = self.target
        if target is not None and self.protocol == "TLS" and not tls.is_for(self.certificate, target.name):
            named = ", ".join(tls.identities(self.certificate)) or "nobody"
            self.unwanted = f"its certificate is for {named}, not for {target.name}"
        else:
            own = transport.get_extra_info("sockname") or ("", 0)
            self.flow = self._connections.add(self, (plain_host(host), port), own[1])
        if self.flow is None:
            transport.abort()
            return
        self._transport = transport
        _notice_death(transport.get_extra_info("socket"))
        self._heard_at = asyncio.get_running_loop().time()
        self._watch()

    def leads_to(self, target: Target) -> bool:
        """Whether requests for that target may go by it."""
        if self.flow is None or self.flow.protocol != target.protocol or self.is_closing:
            return False
        host, port = self.flow.remote
        places = (self.target and (self.target.host, self.target.port), (host, self.listens_on))
        if (target.host, target.port) not in places:
            return False
        return self.protocol != "TLS" or tls.is_for(self.certificate, target.name)

    # --- bytes ---

    def data_received(self, data: bytes) -> None:
        if self.flow is None or self._transport is None:
            return
        self._heard_at = asyncio.get_running_loop().time()
        try:
            for message in self._framer.feed(data):
                self._begun_at = None
                if message == PING:
                    self.send(PONG)
                else:
                    self._connections.received(message, self.flow)
        except StreamError as error:
            logger.debug("x %s: %s", host_port(*self.flow.remote), error)
            self._why = str(error)
            self.close()
        if self._pong_by and self._framer.take_pong():
            self._pong_by, self._answers_pings = 0.0, True
        if self._framer.partial and self._begun_at is None:
            self._begun_at = self._heard_at
            self._watch()

    def send(self, data: bytes) -> None:
        """Queue bytes; a peer that reads none is cut off."""
        if self._transport is None or self._transport.is_closing():
            return
        self._transport.write(data)
        if self._transport.get_write_buffer_size() > MAX_UNSENT:
            self.abort("the peer reads nothing")

    # --- its end ---

    @property
    def is_closing(self) -> bool:
        """Whether nothing more can be sent."""
        return self._transport is None or self._transport.is_closing()

    def close(self) -> None:
        """Close the connection, once what was queued is sent."""
        if self._transport is not None:
            self._transport.close()

    def abort(self, why: str = "we closed the connection") -> None:
        """Close it at once: a peer that reads nothing would keep it open for ever."""
        self._why = why
        if self._transport is not None:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self.flow is None:
            return
        self._connections.remove(self.flow)
        why = tls.why(exc) if isinstance(exc, OSError) else self._why
        if isinstance(exc, ssl.SSLError):  # in TLS 1.3 a peer says only now what it thinks of our certificate
            logger.warning("x connection with %s lost: %s", self.target or host_port(*self.flow.remote), why)
        if self._lost is not None:
            self._lost(why)

    # --- time ---

    def keep(self, lost: Lost | None) -> None:
        """Ping it from now on, and tell `lost` of its end; None: do so no more."""
        self._lost = lost
        self._ping_at, self._pong_by = asyncio.get_running_loop().time() + _ping_s(), 0.0
        self._watch()

    def _watch(self) -> None:
        """Look again when the next limit would be reached; close if one is."""
        assert self.flow is not None
        loop = asyncio.get_running_loop()
        now = loop.time()
        idle_at = self._heard_at + IDLE_S
        if self._begun_at is not None and now >= self._begun_at + HEADER_S:
            self.abort("a message was not complete in time")
        elif self._lost is not None:
            self._look_after(now)
        elif now >= idle_at and not self._connections.in_use(self.flow):
            self.abort("nothing goes by the connection")
        else:
            self._look_again(idle_at if idle_at > now else now + IDLE_S)

    def _look_after(self, now: float) -> None:
        """A kept connection: ping it, and see whether it lives."""
        if self._pong_by and self._pong_by <= now:
            if self._answers_pings and self._heard_at < self._pong_by - PONG_S:
                self.abort("a ping was not answered")
                return
            self._pong_by = 0.0
        if self._ping_at <= now:
            self.send(PING)
            self._ping_at, self._pong_by = now + _ping_s(), now + PONG_S
        self._look_again(min(self._ping_at, self._pong_by or self._ping_at))

    def _look_again(self, at: float) -> None:
        if self._begun_at is not None:
            at = min(at, self._begun_at + HEADER_S)
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(at, self._watch)


def _ping_s() -> float:
    """At random, or all that lost the same proxy would ping it at once for ever."""
    return PING_S * random.uniform(1.0, 1.25)


def _notice_death(sock: socket.socket | None) -> None:
    """Let the system close it when the peer's system is silent, which otherwise takes a quarter of an hour."""
    if sock is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(UNACKNOWLEDGED_S * 1000))
