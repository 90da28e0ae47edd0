"""webrtc.py: who may call by HTTP, as the settings have it."""

from __future__ import annotations

import pytest

from voipagent.settings import Settings


@pytest.mark.parametrize(
    ("environ", "is_open", "local", "tokens"),
    [
        ({}, False, True, ()),
        ({"HTTP__HOST": "::1", "HTTP__TOKEN": "api"}, False, True, ("api",)),
        ({"WEBRTC__TOKEN": "call", "HTTP__TOKEN": "api"}, False, False, ("call", "api")),
        ({"HTTP__HOST": "0.0.0.0"}, False, False, ()),
        ({"HTTP__HOST": "agent.example"}, False, False, ()),
        ({"HTTP__HOST": "0.0.0.0", "WEBRTC__OPEN": "true"}, True, False, ()),
    ],
)
def test_who_may_call(environ: dict[str, str], is_open: bool, local: bool, tokens: tuple[str, ...]) -> None:
    settings = Settings.load({f"VOIPAGENT_{name}": value for name, value in environ.items()})
    access = settings.webrtc.access(settings.http)
    assert (access.open, access.local, access.tokens) == (is_open, local, tokens)
