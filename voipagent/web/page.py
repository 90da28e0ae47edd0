"""The page to talk to the agent: a few files, served as they lie in the package, and what they need to know."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

STATIC = Path(__file__).parent / "static"

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "media-src 'self' blob: mediastream:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""Nothing but our own files runs there, nobody frames it, and it asks for a microphone, not for a camera."""


@dataclass(frozen=True)
class Choice:
    """A persona that may be asked for: `id` is what the endpoint takes, `name` what people read."""

    id: str
    name: str


@dataclass(frozen=True)
class PageFacts:
    """What the page knows of us before it calls. All of it is for everybody who can reach the page.

    `token`: one is asked for. `recorded` is whose voices are: both, agent or none.
    """

    agent: str
    token: bool
    recorded: str
    personas: tuple[Choice, ...] = ()
    endpoint: str = "duplex"


def choices(allowed: Iterable[str], names: Iterable[tuple[str, str]]) -> tuple[Choice, ...]:
    """The personas that visitors may choose: of `names`, each id and name, those that are allowed; "*" is all."""
    wanted = set(allowed)
    return tuple(Choice(each, name) for each, name in names if each in wanted or "*" in wanted)


def serve_page(api: FastAPI, facts: PageFacts) -> None:
    """The page at `/`, what it is made of under `/static/`, and `/page.json`."""

    async def page_json(request: Request) -> Response:
        return JSONResponse(asdict(facts), headers={**HEADERS, "Cache-Control": "no-store"})

    for path in sorted(STATIC.iterdir()):
        if path.suffix in TYPES:
            place = "/" if path.name == "index.html" else f"/static/{path.name}"
            api.add_route(place, _serving(path.read_bytes(), TYPES[path.suffix]), include_in_schema=False)
    api.add_route("/page.json", page_json, include_in_schema=False)


def _serving(body: bytes, content_type: str) -> Callable[[Request], Awaitable[Response]]:
    """Answers with one file, or 304 where the browser has it: it asks each time, so that a new version is seen."""
    tag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
    headers = {**HEADERS, "Content-Type": content_type, "Cache-Control": "no-cache", "ETag": tag}

    async def answer(request: Request) -> Response:
        known = [each.strip().removeprefix("W/") for each in request.headers.get("if-none-match", "").split(",")]
        return Response(status_code=304, headers=headers) if tag in known else Response(body, headers=headers)

    return answer
