"""How much anybody may send to the API before it is known who that is, how slowly, and by how many connections."""

from __future__ import annotations

import asyncio
import socket
from typing import Any
from weakref import WeakSet

import h11
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from signaling.problem import Problem

MAX_BODY = 16 * 1024
"""Bytes. A body is read whole before its sender has shown a token, so none is taken whose length is not said."""

SAID_S = 10.0
"""A request is said whole within so long: from the beginning of its connection, or from its own."""

MOST_CONNECTIONS = 512
"""At once: each is a file, and of files a process mostly has 1024. One more is cut off."""


class Listener(socket.socket):
    """A socket that listens, in another's place. One connection too many is cut off here, before anything is read of
    it: who has not begun with TLS has no `Connection` yet, but a file already.
    """

    def __init__(self, listening: socket.socket) -> None:
        super().__init__(listening.family, listening.type, listening.proto, fileno=listening.detach())
        self._accepted: WeakSet[socket.socket] = WeakSet()

    def accept(self) -> tuple[socket.socket, Any]:
        """The next one. Raises ConnectionAbortedError, which a loop passes over."""
        connection, source = super().accept()
        if sum(each.fileno() >= 0 for each in self._accepted) >= MOST_CONNECTIONS:
            connection.close()
            raise ConnectionAbortedError("too many connections")
        self._accepted.add(connection)
        return connection, source


class Connection(H11Protocol):
    """One connection. uvicorn alone would wait for ever for who says nothing, or half of something."""

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._rest()
        super().connection_lost(exc)

    def _watch(self) -> None:
        """While something of a request is still to come, its time runs."""
        if self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):
            self._rest()
        elif self._late is None:
            self._late = self.loop.call_later(SAID_S, self.transport.abort)

    def _rest(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


class BodyLimit:
    """Answers 413 to a body that is too long and 411 to one of unknown length; all else is `app`'s."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        fault = _fault(scope) if scope["type"] == "http" else None
        await (fault or self._app)(scope, receive, send)


def _fault(scope: Scope) -> Response | None:
    headers = dict(scope["headers"])
    if b"transfer-encoding" in headers:
        return _refused(411, "the length of the body is wanted in Content-Length")
    length = headers.get(b"content-length", b"0")  # the server sees to it that there is no more than that
    if not length.isdigit() or int(length) > MAX_BODY:
        return _refused(413, f"a body has at most {MAX_BODY} bytes")
    return None


def _refused(code: int, why: str) -> Response:
    return Problem(code, why, {"Connection": "close"}).response()
