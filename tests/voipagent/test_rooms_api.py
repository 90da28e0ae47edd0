"""web/rooms.py over real HTTP: rooms that are made, told of and deleted, and what is wrong with others."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from media.leg import Leg
from signaling.call import CallOffer
from tests.fakes import FakeLeg
from tests.voipagent.meetings import FORMAT
from voipagent.rooms import Rooms
from voipagent.roomsettings import RoomSettings
from voipagent.web.api import create_api, serve_http
from voipagent.web.rooms import serve_rooms

TOKEN = "Bearer s3cret"
SALES = {"name": "sales", "pin": "4711", "max": 5, "number": "+4930"}


def open_leg(offer: CallOffer) -> Leg:
    return FakeLeg()


class Api:
    port = 0

    async def ask(self, method: str, path: str = "", body: object = None, token: str = TOKEN) -> tuple[int, Any]:
        data = json.dumps(body) if body is not None else ""
        head = [
            *(f"{method} /api/v1/rooms{path} HTTP/1.1", "Host: x", "Connection: close"),
            *("Content-Type: application/json", f"Content-Length: {len(data)}", f"Authorization: {token}"),
        ]
        async with asyncio.timeout(5):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            writer.write("\r\n".join([*head, "", data]).encode())
            answer, _, said = (await reader.read()).partition(b"\r\n\r\n")
            writer.close()
            await writer.wait_closed()
        return int(answer.split()[1]), json.loads(said) if said else None


@asynccontextmanager
async def serving() -> AsyncIterator[Api]:
    api, opened = create_api(lambda: True), Api()
    serve_rooms(api, Rooms({"standup": RoomSettings()}, {}, FORMAT, open_leg), "s3cret")
    async with serve_http(api, "127.0.0.1", 0) as opened.port:
        yield opened


async def test_a_room_is_made_told_and_deleted() -> None:
    async with serving() as on:
        code, made = await on.ask("POST", "", SALES)
        assert code == 201 and made == {
            **{"name": "sales", "number": "+4930", "persona": "", "max": 5, "has_pin": True},
            **{"temporary": True, "participants": [], "call": ""},
        }
        assert await on.ask("GET", "/sales") == (200, made)
        code, rooms = await on.ask("GET")
        assert code == 200 and [room["name"] for room in rooms] == ["standup", "sales"]
        assert not rooms[0]["temporary"] and not rooms[0]["has_pin"]
        assert "4711" not in json.dumps(rooms)
        assert await on.ask("DELETE", "/sales") == (204, None)
        assert (await on.ask("GET", "/sales"))[0] == 404


@pytest.mark.parametrize(
    ("method", "path", "body", "code", "said"),
    [
        ("POST", "", {"name": "standup"}, 409, "already"),
        ("POST", "", {"name": "a", "number": "standup"}, 409, "a PIN of its own"),
        ("POST", "", {"name": "a", "persona": "eve"}, 409, "no persona 'eve'"),
        ("POST", "", {"name": "a", "pin": "12"}, 422, "4 to 12 digits"),
        ("POST", "", {"name": "A b"}, 422, "pattern"),
        ("POST", "", {"name": "a", "max": 17}, 422, "less than or equal to 16"),
        ("POST", "", {"name": "a", "number": "+49*"}, 422, "pattern"),
        ("POST", "", {"name": "a", "colour": "red"}, 422, "Extra inputs"),
        ("POST", "", {}, 422, "required"),
        ("DELETE", "/standup", None, 409, "in the settings"),
        ("DELETE", "/nowhere", None, 404, "no room 'nowhere'"),
        ("GET", "/nowhere", None, 404, "no room 'nowhere'"),
    ],
)
async def test_what_cannot_be(method: str, path: str, body: object, code: int, said: str) -> None:
    async with serving() as on:
        found, why = await on.ask(method, path, body)
        assert found == code and said in json.dumps(why)
        assert len((await on.ask("GET"))[1]) == 1


@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("POST", ""), ("GET", "/standup"), ("DELETE", "/standup")])
async def test_without_the_token_nothing_is_told(method: str, path: str) -> None:
    async with serving() as on:
        assert (await on.ask(method, path, SALES if method == "POST" else None, "Bearer wrong"))[0] == 401
        assert len((await on.ask("GET"))[1]) == 1
