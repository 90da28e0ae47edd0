"""One connection with a peer: bytes cut into messages, pings both ways, and its limits in time and size."""

from __future__ import annotations

import asyncio
import logging
import random
import socket
import ssl
from collections.abc import Callable
from typing import Protocol, TypeAlias

from signaling.sip import tls
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


class Owner(Protocol):
    """Whose the connections are: `connections.Connections`."""

    received: Callable[[bytes, Flow], None]
    in_use: Callable[[Flow], bool]

    def add(self, connection: Stream, remote: tuple[str, int], port: int) -> Flow | None:
        """A new connection's flow; None where it is not wanted."""

    def remove(self, flow: Flow) -> None:
        """It is closed."""


class Stream(asyncio.Protocol):
    """One connection: bytes cut into messages, pings answered, dawdlers cut off. `target` is where we dialled."""

    def __init__(self, owner: Owner, protocol: str, target: Target | None = None) -> None:
        self.protocol, self.target = protocol, target
        self.flow: Flow | None = None
        self.certificate: Certificate = {}
        """The peer's, verified; empty without one."""
        self.listens_on = 0
        """The port where connections to that peer would go."""
        self.unwanted = "there are too many connections already"
        """Why it has no flow."""
        self.misnamed = False
        """Whether that is its certificate, which is for somebody else."""
        self._owner = owner
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
            self.misnamed = True
            self.unwanted = f"its certificate is for {named}, not for {target.name}"
        else:
            own = transport.get_extra_info("sockname") or ("", 0)
            self.flow = self._owner.add(self, (plain_host(host), port), own[1])
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
                    self._owner.received(message, self.flow)
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
        self._owner.remove(self.flow)
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
        elif now >= idle_at and not self._owner.in_use(self.flow):
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
