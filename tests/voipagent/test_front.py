"""The page and its events as the settings have them."""

from __future__ import annotations

import json

import pytest
from fastapi import FastAPI

from tests.voipagent.test_live import BEGAN, OVER, listening
from tests.voipagent.test_page import ask
from voipagent.events import Observer
from voipagent.http import HttpSettings
from voipagent.settings import Settings
from voipagent.web.api import create_api, serve_http
from voipagent.web.front import address, serve_front


def front(**environ: str) -> tuple[FastAPI, Observer]:
    """What is served with these settings, and who is to be told of the calls."""
    api, observers = create_api(lambda: True), list[Observer]()
    settings = Settings.load({f"VOIPAGENT_{name}": value for name, value in environ.items()})
    serve_front(api, settings, observers, {"secret": "call-1"}.get)
    (observer,) = observers
    return api, observer


async def facts(**environ: str) -> dict[str, object]:
    async with serve_http(front(**environ)[0], "127.0.0.1", 0) as port:
        told: dict[str, object] = json.loads((await ask(port, "/page.json"))[2])
        return told


async def test_on_loopback_the_page_asks_for_nothing() -> None:
    assert await facts() == {
        "agent": "Agent",
        "token": False,
        "recorded": "both",
        "personas": [],
        "endpoint": "duplex",
    }


async def test_elsewhere_it_asks_for_a_token_and_offers_who_may_be_asked_for() -> None:
    told = await facts(
        HTTP__HOST="0.0.0.0",
        WEBRTC__TOKEN="sesame",
        WEBRTC__PERSONAS="sales",
        CALLS__RECORD="none",
        PERSONA__NAME="Ada Lovelace",
        PERSONAS__SALES__PROMPT="You sell.",
        PERSONAS__BACK_OFFICE__PROMPT="You file.",
    )
    assert (told["agent"], told["token"], told["recorded"]) == ("Ada Lovelace", True, "none")
    assert told["personas"] == [{"id": "sales", "name": "Sales"}]
    assert "sesame" not in json.dumps(told)


async def test_its_calls_are_watched_by_their_session() -> None:
    api, observer = front()
    async with serve_http(api, "127.0.0.1", 0) as port:
        observer("call-1", BEGAN)
        async with listening(port, "/live/secret") as page:
            assert (await page.event())[1]["state"] == "ringing"
            observer("call-1", OVER)
            assert (await page.event())[1]["state"] == "ended"


@pytest.mark.parametrize(
    ("http", "place"),
    [
        (HttpSettings(), "http://localhost:1/"),
        (HttpSettings(host="0.0.0.0", tls="self-signed"), "https://localhost:1/"),
        (HttpSettings(host="192.0.2.7"), "http://192.0.2.7:1/"),
        (HttpSettings(host="2001:db8::7"), "http://[2001:db8::7]:1/"),
        (HttpSettings(host="agent.example"), "http://agent.example:1/"),
    ],
)
def test_the_address_is_one_that_a_browser_takes(http: HttpSettings, place: str) -> None:
    assert address(http, 1) == place
