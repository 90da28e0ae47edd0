"""Calls by HTTP: `/duplex`, both ways in one exchange, with the ways of WHIP (RFC 9725).

    POST    an offer        201 with the answer, and a session's URL in Location
    to a session:
    POST    another offer   200 with its answer: a page that was loaded anew goes on with the same conversation
    PATCH   candidates      204
    DELETE                  200: hung up

Session descriptions are text here. What is wrong is told by a problem body.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from ipaddress import ip_address
from typing import Protocol

from starlette.requests import Request
from starlette.responses import Response

from signaling.call import CallOffer, Rejection
from signaling.problem import RETRY_S, Access, Problem, rejected
from signaling.webcall import WebCall

logger = logging.getLogger(__name__)

SDP = "application/sdp"
FRAGMENT = "application/trickle-ice-sdpfrag"

DECIDE_S = 20.0
"""A POST waits for so long: a row is primed meanwhile."""

CHANGE_S = 5.0
"""So long may a change take; then the session of before stands."""

KEPT_S = 60.0
"""Who listens to what becomes of a call may ask for its end for so long."""

MAX_WAITING = 64
"""Calls that nobody has looked at yet. Full: the next one is told to come again."""

Candidates = Callable[[str], Awaitable[None]]
"""Takes a fragment with candidates. Raises Problem."""


class Router(Protocol):
    """What we ask of a web application."""

    def add_route(self, path: str, route: Callable[[Request], Awaitable[Response]], methods: list[str]) -> None:
        """Have requests there answered so."""


class WhipEndpoint:
    """A CallSource. `links` tells the Link headers of ICE servers; `unreadable` says what is wrong with a text that is
    no session description, "" for nothing.
    """

    def __init__(
        self,
        access: Access,
        unreadable: Callable[[str], str] = lambda sdp: "",
        links: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        self.available: Callable[[], bool] = lambda: False
        self._access, self._unreadable, self._links = access, unreadable, links
        self._offered: asyncio.Queue[WebCall] = asyncio.Queue(MAX_WAITING)
        self._calls: dict[str, WebCall] = {}  # by session
        self._candidates: dict[str, Candidates] = {}  # by the id of the call

    async def calls(self) -> AsyncIterator[WebCall]:
        """Each call as it is offered."""
        while True:
            yield await self._offered.get()

    def call_of(self, session: str) -> str | None:
        """The id of that session's call, for a while after it has ended too."""
        call = self._calls.get(session)
        return call.offer.id if call else None

    def take_candidates(self, call_id: str, candidates: Candidates) -> None:
        """Who takes the candidates for that call."""
        self._candidates[call_id] = candidates

    def serve(self, router: Router) -> None:
        """Answer at `/duplex`."""
        methods = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
        router.add_route("/duplex", self._guarded(self._endpoint), methods=methods)
        router.add_route("/duplex/{session}", self._guarded(self._session), methods=methods)

    def _guarded(self, handle: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            try:
                response = await handle(request)
            except Problem as problem:
                logger.info("x WHIP: %s %d: %s", request.method, problem.status, problem)
                response = problem.response()
            response.headers.update(self._access.cors(request))
            response.headers["Cache-Control"] = "no-store"
            return response

        return answer

    # --- where calls begin

    async def _endpoint(self, request: Request) -> Response:
        if request.method == "OPTIONS":
            return self._options(request, "POST, OPTIONS", {"Accept-Post": SDP})
        if request.method != "POST":
            raise Problem(405, "POST an offer here", {"Allow": "POST, OPTIONS"})
        self._access.check(request)
        offer = await self._sdp(request)
        wanted = self._access.persona(request.query_params.get("persona", ""))
        if not self.available():
            raise rejected(Rejection.OVERLOADED)
        call = WebCall(self._described(request, offer, wanted))
        try:
            self._offered.put_nowait(call)
        except asyncio.QueueFull:
            raise Problem(503, "too many calls at once", {"Retry-After": str(RETRY_S)}) from None
        return await self._decided(request, call)

    def _described(self, request: Request, media: str, wanted: str) -> CallOffer:
        source = request.client or ("127.0.0.1", 0)
        headers = {name: request.headers.get(name, "")[:200] for name in ("user-agent", "origin")}
        return CallOffer(
            f"web-{secrets.token_hex(8)}",
            "webrtc",
            "browser",
            "duplex",
            (_address(source[0]), source[1]),
            media,
            wanted=wanted,
            headers=headers,
        )

    async def _decided(self, request: Request, call: WebCall) -> Response:
        """What became of an offer."""
        try:
            async with asyncio.timeout(DECIDE_S):
                await call.wait_decided()
        except TimeoutError:
            await call.hang_up("nobody took the call in time")
            raise rejected(Rejection.OVERLOADED) from None
        if call.rejection is not None:
            raise rejected(call.rejection, call.why)
        if call.is_over:
            raise Problem(503, (await call.wait_ended()).reason, {"Retry-After": str(RETRY_S)})
        self._calls[call.session] = call
        call.when_over(lambda: self._over(call))
        headers = {"Location": f"{request.url.path.rstrip('/')}/{call.session}", **self._of_session(call)}
        return self._answer(call.answer, 201, headers)

    def _over(self, call: WebCall) -> None:
        self._candidates.pop(call.offer.id, None)
        asyncio.get_running_loop().call_later(KEPT_S, self._calls.pop, call.session, None)

    # --- what becomes of them

    async def _session(self, request: Request) -> Response:
        methods = ("POST", "PATCH", "DELETE", "OPTIONS")
        allowed = ", ".join(methods)
        if request.method == "OPTIONS":
            return self._options(request, allowed, {"Accept-Post": SDP, "Accept-Patch": FRAGMENT})
        if request.method not in methods:
            raise Problem(405, f"a session takes {allowed}", {"Allow": allowed})
        self._access.check(request)
        call = self._calls.get(request.path_params["session"])
        if call is None or call.is_over:
            raise Problem(404, "there is no such session, or no more")
        if request.method == "DELETE":
            call.end("caller", "hung up")
            return Response(status_code=200)
        if request.method == "PATCH":
            return await self._trickle(request, call)
        return await self._replace(request, call)

    async def _trickle(self, request: Request, call: WebCall) -> Response:
        """More candidates (RFC 9725, section 4.3.2). A restart of ICE takes an offer, by POST."""
        _check_type(request, FRAGMENT)
        tag = request.headers.get("if-match")
        if tag is None:
            raise Problem(428, "If-Match with the ETag of the session is wanted")
        if tag.strip() == "*":
            raise Problem(422, "ICE is not restarted by PATCH; POST an offer to this URL instead")
        if call.etag not in [each.strip() for each in tag.split(",")]:
            raise Problem(412, "If-Match is of another ICE session than the one that goes on", {"ETag": call.etag})
        candidates = self._candidates.get(call.offer.id)
        if candidates is None:
            raise Problem(405, "this session takes no candidates")
        await candidates(await _text(request))
        return Response(status_code=204)

    async def _replace(self, request: Request, call: WebCall) -> Response:
        """Another offer for the same conversation."""
        offer = await self._sdp(request)
        if call.changing.locked() or call.renegotiate is None:
            raise Problem(409, "the session is being changed already", {"Retry-After": "1"})
        async with call.changing:
            try:
                async with asyncio.timeout(CHANGE_S):
                    answer = await call.renegotiate(offer)
            except TimeoutError:
                raise Problem(503, "the change took too long; the session stands", {"Retry-After": "1"}) from None
        if isinstance(answer, Rejection):
            raise rejected(answer)
        call.etag = f'"{secrets.token_hex(8)}"'
        return self._answer(answer, 200, self._of_session(call))

    # --- parts of answers

    def _answer(self, sdp: str, status: int, headers: dict[str, str]) -> Response:
        response = Response(sdp, status, headers, SDP)
        self._link(response)
        return response

    def _of_session(self, call: WebCall) -> dict[str, str]:
        return {"ETag": call.etag, "Accept-Patch": FRAGMENT}

    def _link(self, response: Response) -> None:
        for link in self._links():
            response.headers.append("Link", link)

    def _options(self, request: Request, allowed: str, headers: dict[str, str]) -> Response:
        """What may be done here; to a page of another origin, also in the words of CORS.

        Servers for ICE are told to who has a token, or needs none: they relay for whoever knows their passwords.
        """
        response = Response(status_code=204, headers={"Allow": allowed, **headers})
        if self._access.allows(request.headers.get("origin", "")):
            response.headers["Access-Control-Allow-Methods"] = allowed
            response.headers["Access-Control-Allow-Headers"] = "Authorization, Content-Type, If-Match"
            response.headers["Access-Control-Max-Age"] = "600"
        try:
            self._access.check(request)
        except Problem:
            return response
        self._link(response)
        return response

    async def _sdp(self, request: Request) -> str:
        """The offer in a request. Raises Problem 415 or 400."""
        _check_type(request, SDP)
        sdp = await _text(request)
        if fault := self._unreadable(sdp):
            raise Problem(400, fault)
        return sdp


async def _text(request: Request) -> str:
    try:
        return (await request.body()).decode()
    except UnicodeDecodeError:
        raise Problem(400, "the body is not UTF-8") from None


def _check_type(request: Request, wanted: str) -> None:
    told = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if told != wanted:
        raise Problem(415, f"Content-Type is to be {wanted}, not {told[:60]!r}", {"Accept": wanted})


def _address(host: str) -> str:
    """An address, or that of this machine where the client has none."""
    try:
        return str(ip_address(host.partition("%")[0]))
    except ValueError:
        return "127.0.0.1"
