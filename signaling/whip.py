"""Calls by HTTP: `/duplex`, both ways in one exchange, with the ways of WHIP; and WHIP itself at `/whip` (RFC 9725).

    POST    an offer        201 with the answer, and a session's URL in Location
    to a session:
    POST    another offer   200 with its answer: a page that was loaded anew goes on with the same conversation
    PATCH   candidates      204
    DELETE                  200: hung up

Session descriptions are text here. What is wrong is told by a problem body.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable

from starlette.requests import Request
from starlette.responses import Response

from signaling.call import CallOffer, Rejection
from signaling.front import FRAGMENT, SDP, Candidates, Front, Router, source_of, trickle
from signaling.problem import RETRY_S, Problem, rejected
from signaling.webcall import WebCall
from signaling.whep import WhepEndpoint

DUPLEX, WHIP = "duplex", "whip"
"""What is called, in an offer's `callee`."""

DECIDE_S = 20.0
"""A POST waits for so long: a row is primed meanwhile."""

CHANGE_S = 5.0
"""So long may a change take; then the session of before stands."""

KEPT_S = 60.0
"""Who listens to what becomes of a call may ask for its end for so long."""

MAX_ASKED = 64
"""Characters of what a query says: `name` is who calls, `room` a room, `pin` what opens it."""

MAX_WAITING = 64
"""Calls that nobody has looked at yet. Full: the next one is told to come again."""


class WhipEndpoint:
    """A CallSource: each POST of an offer is a call. What is published is listened to by `whep`."""

    def __init__(self, front: Front) -> None:
        self.available: Callable[[], bool] = lambda: False
        self.whep = WhepEndpoint(front, self.call_of)
        self._front = front
        self._offered: asyncio.Queue[WebCall] = asyncio.Queue(MAX_WAITING)
        self._calls: dict[str, WebCall] = {}  # by session
        self._ended: dict[str, str] = {}  # session -> id of a call that was
        self._candidates: dict[str, Candidates | None] = {}  # by the id of each call that is not over

    async def calls(self) -> AsyncIterator[WebCall]:
        """Each call as it is offered."""
        while True:
            yield await self._offered.get()

    def call_of(self, session: str) -> str | None:
        """The id of that session's call, for a while after it has ended too."""
        call = self._calls.get(session)
        return call.offer.id if call else self._ended.get(session)

    def take_candidates(self, call_id: str, candidates: Candidates) -> None:
        """Who takes the candidates for that call, unless it is over by now."""
        if call_id in self._candidates:
            self._candidates[call_id] = candidates

    def serve(self, router: Router) -> None:
        """Answer at `/duplex`, `/whip` and `/whep`."""
        self.whep.serve(router)
        for name in (DUPLEX, WHIP):
            self._front.serve(router, f"/{name}", {"POST": self._call}, {"Accept-Post": SDP})
            handlers = {"POST": self._replace, "PATCH": self._trickle, "DELETE": self._hang_up}
            accepts = {"Accept-Post": SDP, "Accept-Patch": FRAGMENT}
            self._front.serve(router, f"/{name}/{{session}}", handlers, accepts)

    # --- where calls begin

    async def _call(self, request: Request) -> Response:
        offer = await self._front.sdp(request)
        wanted = self._front.access.persona(request.query_params.get("persona", ""))
        if not self.available():
            raise rejected(Rejection.OVERLOADED)
        call = WebCall(_described(request, offer, wanted))
        try:
            self._offered.put_nowait(call)
        except asyncio.QueueFull:
            raise Problem(503, "too many calls at once", {"Retry-After": str(RETRY_S)}) from None
        self._candidates[call.offer.id] = None
        call.when_over(lambda: self._candidates.pop(call.offer.id))
        try:
            async with asyncio.timeout(DECIDE_S):
                await call.wait_decided()
        except TimeoutError:
            await call.hang_up("nobody took the call in time")
            raise rejected(Rejection.OVERLOADED) from None
        return await self._decided(request, call)

    async def _decided(self, request: Request, call: WebCall) -> Response:
        """What became of an offer."""
        if call.rejection is not None:
            raise rejected(call.rejection, call.why)
        if call.is_over:
            raise Problem(503, (await call.wait_ended()).reason, {"Retry-After": str(RETRY_S)})
        self._calls[call.session] = call
        call.when_over(lambda: self._over(call))
        location = f"{request.url.path.rstrip('/')}/{call.session}"
        return self._front.answer(call.answer, 201, {"Location": location, **_of_session(call)})

    def _over(self, call: WebCall) -> None:
        """Of a call that has ended its name is left, for a while: it would keep all that served it."""
        del self._calls[call.session]
        self._ended[call.session] = call.offer.id
        asyncio.get_running_loop().call_later(KEPT_S, self._ended.pop, call.session, None)

    # --- what becomes of them

    def _named(self, request: Request) -> WebCall:
        """The call whose session that is. Raises Problem 404."""
        call = self._calls.get(request.path_params["session"])
        if call is None or call.is_over or not request.url.path.startswith(f"/{call.offer.callee}/"):
            raise Problem(404, "there is no such session, or no more")
        return call

    async def _hang_up(self, request: Request) -> Response:
        self._named(request).end("caller", "hung up")
        return Response(status_code=200)

    async def _trickle(self, request: Request) -> Response:
        call = self._named(request)
        return await trickle(request, call.etag, self._candidates.get(call.offer.id))

    async def _replace(self, request: Request) -> Response:
        """Another offer for the same conversation."""
        call, offer = self._named(request), await self._front.sdp(request)
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
        return self._front.answer(answer, 200, _of_session(call))


def _described(request: Request, media: str, wanted: str) -> CallOffer:
    headers = {name: request.headers.get(name, "")[:200] for name in ("user-agent", "origin")}
    call_id, callee = f"web-{secrets.token_hex(8)}", request.url.path.strip("/")
    asked = {name: request.query_params.get(name, "")[:MAX_ASKED] for name in ("name", "room", "pin")}
    return CallOffer(
        call_id,
        "webrtc",
        asked["name"] or "browser",
        callee,
        source_of(request),
        media,
        wanted=wanted,
        room=asked["room"].lower(),
        pin=asked["pin"],
        headers=headers,
    )


def _of_session(call: WebCall) -> dict[str, str]:
    return {"ETag": call.etag, "Accept-Patch": FRAGMENT}
