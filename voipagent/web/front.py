"""The front door: the page, and the events of each of its calls."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address

from fastapi import FastAPI

from voipagent.events import Observer
from voipagent.http import HttpSettings
from voipagent.settings import Settings
from voipagent.web.live import Live, serve_live
from voipagent.web.page import PageFacts, choices, serve_page


def serve_front(
    api: FastAPI, settings: Settings, observers: list[Observer], call_of: Callable[[str], str | None]
) -> None:
    """Serve both, as the settings have it. `call_of` gives the call of a session, by which its page may watch it."""
    live, access = Live(), settings.webrtc.access(settings.http)
    observers.append(live)
    serve_live(api, live, call_of, settings.webrtc.origins)
    serve_page(
        api,
        PageFacts(
            agent=_readable(settings.persona.name),
            token=not (access.open or access.local),
            recorded=settings.calls.record,
            personas=choices(
                settings.webrtc.personas,
                [(key, _readable(each.name)) for key, each in settings.personas.items()],
            ),
        ),
    )


def address(http: HttpSettings, port: int) -> str:
    """Where a browser on this machine finds the page."""
    try:
        host = "localhost" if (ip := ip_address(http.host)).is_loopback or ip.is_unspecified else http.host
    except ValueError:
        host = http.host
    return f"{'https' if http.is_https else 'http'}://{f'[{host}]' if ':' in host else host}:{port}/"


def _readable(name: str) -> str:
    """A name as a heading: one that is all lower case, as sections are, gets a capital."""
    return name.capitalize() if name.islower() else name
