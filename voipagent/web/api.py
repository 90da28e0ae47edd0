"""The HTTP API: health for whoever watches us."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response, status
from fastapi.exceptions import RequestValidationError

from signaling.problem import is_local
from voipagent.web.bearer import shows
from voipagent.web.limits import BodyLimit, Connection, Listener


class HttpError(Exception):
    """The HTTP server cannot start; the message names the address and says why."""


def create_api(
    ready: Callable[[], bool], trunks: Callable[[], Sequence[Mapping[str, Any]]] = lambda: (), token: str = ""
) -> FastAPI:
    """`/healthz`: the process lives. `/readyz`: a new call would be taken; 503 while loading, failed or draining.

    `/api/v1/health`: both, and, for who has the `token` or asks from this machine, how each of `trunks` fares. A trunk
    that is down is no reason to take us out of service.
    """
    api = FastAPI(title="voipagent", docs_url=None, redoc_url=None)
    api.add_middleware(BodyLimit)
    api.add_exception_handler(RequestValidationError, _told_what_is_wrong)

    @api.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @api.get("/readyz")
    async def readyz(response: Response) -> dict[str, str]:
        response.status_code = 200 if ready() else 503
        return {"status": "ready" if ready() else "unavailable"}

    @api.get("/api/v1/health")
    async def health(request: Request) -> dict[str, Any]:
        may_see = is_local(request) or shows(request.headers.get("authorization", ""), token)
        return {"status": "ready" if ready() else "unavailable"} | ({"trunks": list(trunks())} if may_see else {})

    return api


async def _told_what_is_wrong(request: Request, error: Exception) -> Response:
    """422 with each fault's place and message, but not what was sent: JSON cannot say all that it may hold."""
    assert isinstance(error, RequestValidationError)
    detail = [{key: fault[key] for key in ("type", "loc", "msg")} for fault in error.errors()]
    code = status.HTTP_422_UNPROCESSABLE_CONTENT
    return Response(json.dumps({"detail": detail}), code, media_type="application/json")


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: `app` owns the signals."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.asynccontextmanager
async def serve_http(api: FastAPI, host: str, port: int, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Serve `api` while entered; gives the port. Raises HttpError when the address is taken."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = Listener(socket.create_server((host, port), family=family))
    except OSError as error:
        raise HttpError(f"cannot serve HTTP on {host}:{port}: {error.strerror}") from None
    config = uvicorn.Config(
        api,
        http=Connection,
        ws="none",  # nothing of ours is one, whatever an extra brings
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=1,
        ssl_context_factory=None if tls is None else lambda *_: tls,
    )
    server = _Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]), name="http")
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        await serving
        listener.close()
