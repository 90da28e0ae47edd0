"""How much anybody may send to the API before it is known who that is."""

from __future__ import annotations

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from signaling.problem import Problem

MAX_BODY = 16 * 1024
"""Bytes. A body is read whole before its sender has shown a token, so none is taken whose length is not said."""


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
