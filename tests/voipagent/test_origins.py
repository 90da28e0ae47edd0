"""Whose pages may ask."""

from __future__ import annotations

import pytest

from voipagent.web.origins import is_ours


@pytest.mark.parametrize(
    ("origin", "host", "allowed"),
    [
        ("", "agent.example", ()),
        ("https://agent.example", "agent.example", ()),
        ("http://127.0.0.1:8998", "127.0.0.1:8998", ()),
        ("http://[::1]:8998", "[::1]:8998", ()),
        ("https://agent.example", "Agent.Example", ()),
        ("https://shop.example", "agent.example", ("https://shop.example",)),
        ("https://any.example", "agent.example", ("*",)),
    ],
)
def test_pages_of_ours_and_those_allowed_may(origin: str, host: str, allowed: tuple[str, ...]) -> None:
    assert is_ours(origin, host, allowed)


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("https://evil.example", "agent.example"),
        ("https://agent.example.evil.example", "agent.example"),
        ("http://127.0.0.1:8999", "127.0.0.1:8998"),
        ("null", "agent.example"),
        ("null", ""),
        ("https://agent.example@evil.example", "agent.example"),
    ],
)
def test_others_may_not(origin: str, host: str) -> None:
    assert not is_ours(origin, host, ("https://shop.example",))
