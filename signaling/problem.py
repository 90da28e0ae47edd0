"""What went wrong, as HTTP says it (RFC 9457), and who may ask at all (RFC 6750, and CORS)."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from ipaddress import ip_address

from starlette.requests import Request
from starlette.responses import JSONResponse

from signaling.call import Rejection, SignalingError


class Problem(SignalingError):
    """An answer other than what was asked for; the message says why, and what would be right."""

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.headers = status, dict(headers or {})

    def response(self) -> JSONResponse:
        """As it is sent."""
        body = {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": str(self),
        }
        return JSONResponse(body, self.status, self.headers, "application/problem+json")


RETRY_S = 10

REJECTED = {
    Rejection.BUSY: (503, "all rows are in calls", {"Retry-After": str(RETRY_S)}),
    Rejection.OVERLOADED: (503, "no calls are taken now", {"Retry-After": str(RETRY_S)}),
    Rejection.NOT_FOUND: (404, "there is nobody of that name", {}),
    Rejection.NOT_ACCEPTABLE: (406, "the offer cannot be taken", {}),
}


def rejected(rejection: Rejection, why: str = "") -> Problem:
    """What HTTP says of it."""
    status, detail, headers = REJECTED[rejection]
    return Problem(status, why or detail, headers)


@dataclass(frozen=True, slots=True)
class Access:
    """Who may call: whoever has one of the `tokens`, or anybody if it is `open`, or who is on this machine if `local`.

    Pages of other `origins` may only where they are named, or "*" is; `personas` may be asked for by name.
    """

    tokens: tuple[str, ...] = field(default=(), repr=False)
    open: bool = False
    local: bool = False
    origins: tuple[str, ...] = ()
    personas: tuple[str, ...] = ()
    hint: str = "no token is set, so nobody may call"
    """What is told where nobody may call at all."""

    def check(self, request: Request) -> None:
        """Raises Problem 401 or 403."""
        origin = request.headers.get("origin", "")
        if origin and not (self.allows(origin) or _is_own(origin, request)):
            raise Problem(403, f"pages of {origin[:100]!r} may not call here")
        if self.open or (self.local and is_local(request)):
            return
        if not self.tokens:
            raise Problem(403, self.hint)
        scheme, _, told = request.headers.get("authorization", "").partition(" ")
        told = told.strip()
        known = [hmac.compare_digest(told.encode(), token.encode()) for token in self.tokens]
        if scheme.lower() != "bearer" or not any(known):
            raise Problem(401, "Authorization: Bearer and the token is wanted", {"WWW-Authenticate": "Bearer"})

    def allows(self, origin: str) -> bool:
        """Whether pages of that origin may call."""
        return "*" in self.origins or origin in self.origins

    def cors(self, request: Request) -> dict[str, str]:
        """What lets a page of another origin read our answers (WHATWG Fetch, section 3.3)."""
        origin = request.headers.get("origin", "")
        if not origin or not self.allows(origin):
            return {}
        return {
            "Access-Control-Allow-Origin": origin,
            "Access-Control-Expose-Headers": "Location, ETag, Link, Retry-After, Accept-Patch, Accept-Post",
            "Vary": "Origin",
        }

    def persona(self, wanted: str) -> str:
        """The persona that was asked for, "" for none. Raises Problem 403."""
        if wanted and wanted not in self.personas and "*" not in self.personas:
            raise Problem(403, f"the persona {wanted[:40]!r} cannot be asked for here")
        return wanted


def _is_own(origin: str, request: Request) -> bool:
    """Whether that is a page of ours."""
    return origin.partition("://")[2] == request.headers.get("host", "").lower()


FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip")
"""Headers of a proxy: who asks by one is not on this machine, though the proxy is."""


def is_local(request: Request) -> bool:
    """Whether it comes from this machine, by no proxy, and for a name of this machine.

    A page in a browser here may have us looked up by a name of its own, and is of our origin then.
    """
    if request.client is None or any(name in request.headers for name in FORWARDED):
        return False
    return is_loopback(request.client.host) and is_loopback(request.url.hostname or "")


def is_loopback(host: str) -> bool:
    """Whether that name or address is this machine's own."""
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
