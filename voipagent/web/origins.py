"""Whose pages may ask: browsers tell the origin of the page that does (RFC 6454)."""

from __future__ import annotations

from collections.abc import Collection

from fastapi import HTTPException, status
from starlette.requests import HTTPConnection


def is_ours(origin: str, host: str, allowed: Collection[str] = ()) -> bool:
    """Whether `origin` is of our own pages, or one that a setting allows ("*": all). `host` is the request's Host.

    Without an origin it is no page of another that asks: browsers send it with all that could do harm. Schemes are not
    compared: before us there may be a proxy that speaks https for us.
    """
    ours = host != "" and origin.partition("://")[2] == host.lower()
    return not origin or ours or origin in allowed or "*" in allowed


def check_origin(request: HTTPConnection, allowed: Collection[str] = ()) -> None:
    """Raises HTTPException 403 where a page of another origin asks."""
    if not is_ours(request.headers.get("origin", ""), request.headers.get("host", ""), allowed):
        raise HTTPException(status.HTTP_403_FORBIDDEN, "pages of other origins are not served here")
