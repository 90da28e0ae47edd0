"""Listening by HTTP: what an agent says to whom a session of WHIP publishes, at `/whep/SESSION` (draft-ietf-wish-whep).

POST    an offer        201 with the answer, and a player's URL in Location
to a player:
PATCH   candidates      204
DELETE                  200: listens no longer
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from starlette.requests import Request
from starlette.responses import Response

from signaling.front import FRAGMENT, SDP, Front, Router, source_of, trickle
from signaling.problem import Problem


class Listener(Protocol):
    """Somebody who listens."""

    @property
    def is_over(self) -> bool:
        """Whether it is closed, or lost."""

    async def answer(self, offer: str) -> str:
        """The answer to that offer. Raises Problem."""

    async def add_candidates(self, fragment: str) -> None:
        """More candidates. Raises Problem."""

    async def close(self) -> None:
        """Listen no longer. Idempotent."""


@dataclass(frozen=True, slots=True)
class _Player:
    session: str
    listener: Listener
    etag: str = field(default_factory=lambda: f'"{secrets.token_hex(8)}"')


class WhepEndpoint:
    """`call_of` names a session's call; who can be listened to is told by `publish`."""

    def __init__(self, front: Front, call_of: Callable[[str], str | None]) -> None:
        self._front, self._call_of = front, call_of
        self._published: dict[str, Callable[[str], Listener]] = {}
        self._players: dict[str, _Player] = {}

    def publish(self, call_id: str, open_listener: Callable[[str], Listener]) -> Callable[[], None]:
        """That call can be listened to, by what `open_listener` gives for the address of who asks; call what this
        returns once it no longer can.
        """
        self._published[call_id] = open_listener

        def over() -> None:
            self._published.pop(call_id, None)
            for name in [name for name, player in self._players.items() if self._call_of(player.session) == call_id]:
                del self._players[name]

        return over

    def serve(self, router: Router) -> None:
        """Answer at `/whep`."""
        self._front.serve(router, "/whep/{session}", {"POST": self._listen}, {"Accept-Post": SDP})
        handlers = {"PATCH": self._trickle, "DELETE": self._leave}
        self._front.serve(router, "/whep/{session}/{player}", handlers, {"Accept-Patch": FRAGMENT})

    async def _listen(self, request: Request) -> Response:
        session = request.path_params["session"]
        open_listener = self._published.get(self._call_of(session) or "")
        if open_listener is None:
            raise Problem(404, "nothing is published by that session, or no more")
        offer = await self._front.sdp(request)
        for name in [name for name, player in self._players.items() if player.listener.is_over]:
            del self._players[name]
        player = _Player(session, open_listener(source_of(request)[0]))
        answer = await player.listener.answer(offer)
        name = secrets.token_urlsafe(18)
        self._players[name] = player
        location = f"{request.url.path.rstrip('/')}/{name}"
        headers = {"Location": location, "ETag": player.etag, "Accept-Patch": FRAGMENT}
        return self._front.answer(answer, 201, headers)

    def _named(self, request: Request) -> _Player:
        """Raises Problem 404."""
        player = self._players.get(request.path_params["player"])
        if player is None or player.session != request.path_params["session"]:
            raise Problem(404, "there is no such player, or no more")
        return player

    async def _trickle(self, request: Request) -> Response:
        player = self._named(request)
        return await trickle(request, player.etag, player.listener.add_candidates)

    async def _leave(self, request: Request) -> Response:
        player = self._named(request)
        del self._players[request.path_params["player"]]
        await player.listener.close()
        return Response(status_code=200)
