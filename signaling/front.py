"""What endpoints that take session descriptions by HTTP have in common: the ways of RFC 9725."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from ipaddress import ip_address
from typing import Protocol, TypeAlias

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from signaling.problem import Access, Problem

logger = logging.getLogger(__name__)

SDP = "application/sdp"
FRAGMENT = "application/trickle-ice-sdpfrag"

Handler: TypeAlias = Callable[[Request], Awaitable[Response]]

Candidates: TypeAlias = Callable[[str], Awaitable[None]]
"""Takes a fragment with candidates. Raises Problem."""

_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


class Router(Protocol):
    """What we ask of a web application."""

    def add_route(self, path: str, route: Handler, methods: list[str]) -> None:
        """Have requests there answered so."""


class Front:
    """Who may ask, and how answers look. `links` tells the Link headers of ICE servers; `unreadable` says what is wrong
    with a text that is no session description, "" for nothing.
    """

    def __init__(self, access: Access, unreadable: Callable[[str], str], links: Callable[[], Sequence[str]]) -> None:
        self.access = access
        self._unreadable, self._links = unreadable, links

    def serve(self, router: Router, path: str, handlers: Mapping[str, Handler], accepts: dict[str, str]) -> None:
        """Answer there with the handler of each method; OPTIONS says which there are, and what they accept."""
        allowed = ", ".join([*handlers, "OPTIONS"])

        async def handle(request: Request) -> Response:
            if request.method == "OPTIONS":
                return self._options(request, allowed, accepts)
            handler = handlers.get(request.method)
            if handler is None:
                raise Problem(405, f"here are {allowed}", {"Allow": allowed})
            self.access.check(request)
            return await handler(request)

        async def guarded(request: Request) -> Response:
            try:
                response = await handle(request)
            except Problem as problem:
                logger.info("x HTTP: %s answered %d: %s", request.method, problem.status, problem)
                response = problem.response()
            response.headers.update(self.access.cors(request))
            response.headers["Cache-Control"] = "no-store"
            return response

        router.add_route(path, guarded, methods=_METHODS)

    def answer(self, sdp: str, status: int, headers: dict[str, str]) -> Response:
        """A session description of ours."""
        response = Response(sdp, status, headers, SDP)
        self._link(response)
        return response

    async def sdp(self, request: Request) -> str:
        """The offer in a request. Raises Problem 415 or 400."""
        check_type(request, SDP)
        sdp = await text_of(request)
        if fault := self._unreadable(sdp):
            raise Problem(400, fault)
        return sdp

    def _options(self, request: Request, allowed: str, accepts: dict[str, str]) -> Response:
        """What may be done here; to a page of another origin, also in the words of CORS.

        Servers for ICE are told to who has a token, or needs none: they relay for whoever knows their passwords.
        """
        response = Response(status_code=204, headers={"Allow": allowed, **accepts})
        if self.access.allows(request.headers.get("origin", "")):
            response.headers["Access-Control-Allow-Methods"] = allowed
            response.headers["Access-Control-Allow-Headers"] = "Authorization, Content-Type, If-Match"
            response.headers["Access-Control-Max-Age"] = "600"
        try:
            self.access.check(request)
        except Problem:
            return response
        self._link(response)
        return response

    def _link(self, response: Response) -> None:
        for link in self._links():
            response.headers.append("Link", link)


async def trickle(request: Request, etag: str, candidates: Candidates | None) -> Response:
    """More candidates (RFC 9725, section 4.3.2). A restart of ICE takes an offer, by POST. Raises Problem."""
    check_type(request, FRAGMENT)
    tag = request.headers.get("if-match")
    if tag is None:
        raise Problem(428, "If-Match with the ETag of the session is wanted")
    if tag.strip() == "*":
        raise Problem(422, "ICE is not restarted by PATCH; POST an offer instead")
    if etag not in [each.strip() for each in tag.split(",")]:
        raise Problem(412, "If-Match is of another ICE session than the one that goes on", {"ETag": etag})
    if candidates is None:
        raise Problem(404, "there is no such session any more")
    await candidates(await text_of(request))
    return Response(status_code=204)


async def text_of(request: Request) -> str:
    """The body. Raises Problem 400."""
    try:
        return (await request.body()).decode()
    except UnicodeDecodeError:
        raise Problem(400, "the body is not UTF-8") from None
    except ClientDisconnect:
        raise Problem(400, "the body was cut off") from None


def check_type(request: Request, wanted: str) -> None:
    """Raises Problem 415."""
    told = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if told != wanted:
        raise Problem(415, f"Content-Type is to be {wanted}, not {told[:60]!r}", {"Accept": wanted})


def source_of(request: Request) -> tuple[str, int]:
    """Where it came from; this machine, where the client has no address."""
    host, port = request.client or ("", 0)
    try:
        return str(ip_address(host.partition("%")[0])), port
    except ValueError:
        return "127.0.0.1", 0
