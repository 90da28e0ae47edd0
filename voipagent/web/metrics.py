"""`GET /metrics`, for a Prometheus server: it sees no call's content, but who reads it knows how busy we are."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import FastAPI, HTTPException, Request, Response, status
from prometheus_client import CONTENT_TYPE_LATEST

from signaling.problem import is_local
from voipagent.web.bearer import shows

CLOSED = "metrics are for this machine alone; VOIPAGENT_METRICS__TOKEN is what others could show"


def serve_metrics(api: FastAPI, exposition: Callable[[], bytes], token: str) -> None:
    """For whoever has the token; without one, for who asks from this machine. 403 or 401 for others."""

    @api.get("/metrics")
    async def metrics(request: Request) -> Response:
        _check(request, token)
        return Response(exposition(), media_type=CONTENT_TYPE_LATEST)


def _check(request: Request, token: str) -> None:
    if not token:
        if not is_local(request):
            raise HTTPException(status.HTTP_403_FORBIDDEN, CLOSED)
        return
    if not shows(request.headers.get("authorization", ""), token):
        raise HTTPException(
            status.HTTP_401_UNAUTHORIZED,
            "Authorization: Bearer, and the token in VOIPAGENT_METRICS__TOKEN, is wanted",
            {"WWW-Authenticate": "Bearer"},
        )
