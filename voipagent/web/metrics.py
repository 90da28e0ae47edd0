"""`GET /metrics`, for a Prometheus server: it sees no call's content, but who reads it knows how busy we are."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from ipaddress import ip_address

from fastapi import FastAPI, HTTPException, Request, Response, status
from prometheus_client import CONTENT_TYPE_LATEST

FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip")
"""Headers of a proxy: who asks by one is not on this machine, though the proxy is."""

CLOSED = "metrics are for this machine alone; VOIPAGENT_METRICS__TOKEN is what others could show"


def serve_metrics(api: FastAPI, exposition: Callable[[], bytes], token: str) -> None:
    """For whoever has the token; without one, for who asks from this machine. 403 or 401 for others."""

    @api.get("/metrics")
    async def metrics(request: Request) -> Response:
        _check(request, token)
        return Response(exposition(), media_type=CONTENT_TYPE_LATEST)


def _check(request: Request, token: str) -> None:
    if not token:
        if not _is_local(request):
            raise HTTPException(status.HTTP_403_FORBIDDEN, CLOSED)
        return
    scheme, _, told = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not hmac.compare_digest(told.strip().encode(), token.encode()):
        raise HTTPException(
            status.HTTP_401_UNAUTHORIZED,
            "Authorization: Bearer, and the token in VOIPAGENT_METRICS__TOKEN, is wanted",
            {"WWW-Authenticate": "Bearer"},
        )


def _is_local(request: Request) -> bool:
    """Whether it comes from this machine, by no proxy, and for a name of this machine.

    A page in a browser here may have us looked up by a name of its own, and read what it gets.
    """
    if request.client is None or any(name in request.headers for name in FORWARDED):
        return False
    return _is_loopback(request.client.host) and _is_loopback(request.url.hostname or "")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
