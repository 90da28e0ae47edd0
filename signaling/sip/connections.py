"""Connections with peers, over TCP and TLS: their limits, which of them leads where, and which are kept alive."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Iterator

from signaling.call import SignalingError
from signaling.sip import tls
from signaling.sip.buckets import source_of
from signaling.sip.grammar import clean
from signaling.sip.resolve import Target
from signaling.sip.stream import Lost, Stream
from signaling.sip.transaction import Flow

logger = logging.getLogger(__name__)

DIAL_S = 2.0
"""Seconds within which a peer must take a connection of ours."""
HANDSHAKE_S = 5.0
"""And within which TLS must be agreed, by either side."""
MAX_PER_SOURCE, MAX_CONNECTIONS = 20, 1000
MAX_HANDSHAKES = 200
"""Peers that have connected and not agreed on TLS yet; more are refused. They are in none of the other numbers."""


class Unreachable(SignalingError):
    """A target takes no connection, or is not who it should be."""


class Untrusted(Unreachable):
    """It is there, but its certificate is not good, or not for it."""


class _Attempt:
    """What those share who want the same connection at the same time: they wait for one, and fail together."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.waiting = 0
        self.failed: Unreachable | None = None


class Connections:
    """All of them. `admit` says which hosts may connect, `received` takes messages, `in_use` says whether a call goes
    by a connection, `local` which address of ours a peer is told, by protocol, peer and the socket's own port;
    `refused` is told whose connection was one too many, `gone` which one ended.
    """

    def __init__(
        self,
        admit: Callable[[str], bool],
        received: Callable[[bytes, Flow], None],
        in_use: Callable[[Flow], bool],
        local: Callable[[str, str, int], tuple[str, int]],
        refused: Callable[[str], None] = lambda host: None,
        gone: Callable[[Flow], None] = lambda flow: None,
    ) -> None:
        self.admit, self.received, self.in_use, self.local = admit, received, in_use, local
        self.refused, self.gone = refused, gone
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
            if target is None:
                self.refused(remote[0])
            return None
        self._serial += 1
        name = target.name if target else next(iter(tls.identities(connection.certificate)), "")
        spare = (target.host, target.port) if target else None
        local = self.local(connection.protocol, remote[0], port)
        flow = Flow(connection.protocol, remote, local, self._serial, spare, name)
        self._open[flow.serial] = connection
        self._sources[source_of(remote[0])] += 1
        return flow

    def has(self, flow: Flow) -> bool:
        """Whether it is open."""
        return flow.serial in self._open

    def is_full(self, host: str) -> bool:
        """Whether there may be no further connection with that host."""
        return len(self._open) >= MAX_CONNECTIONS or self._sources[source_of(host)] >= MAX_PER_SOURCE

    def remove(self, flow: Flow) -> None:
        """It is closed."""
        if self._open.pop(flow.serial, None) is not None:
            self._sources[source_of(flow.remote[0])] -= 1
            self._sources += Counter()  # forgets the zeros
            self.gone(flow)

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
        if attempt.failed is not None:
            raise type(attempt.failed)(str(attempt.failed))
        try:
            return await self._dial(target)
        except Unreachable as error:
            attempt.failed = error
            raise

    async def _dial(self, target: Target) -> Flow:
        secure = target.protocol == "TLS"
        if secure:
            _check_name(target)
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
            kind = Untrusted if isinstance(error, ssl.SSLCertVerificationError) else Unreachable
            raise kind(f"{target} cannot be reached: {tls.why(error)}") from None
        if made.flow is None:
            kind = Untrusted if made.misnamed else Unreachable
            raise kind(f"{target} cannot be reached: {made.unwanted}")
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


def _check_name(target: Target) -> None:
    """A certificate that we were shown may have any name in it. Raises Unreachable."""
    try:
        target.name.encode("idna")
    except UnicodeError:
        name = clean(target.name, 100)
        raise Unreachable(f"{target} cannot be reached: {name!r} is no name of a server") from None
