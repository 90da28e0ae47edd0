"""Rooms over the API: which there are, and who is in them; making one for a while, and taking it away."""

from __future__ import annotations

from typing import Annotated

from fastapi import FastAPI, Header, HTTPException, status
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from voipagent.rooms import RoomError, Rooms, RoomState, UnknownRoom
from voipagent.roomsettings import MOST_PEOPLE, RoomSettings
from voipagent.web.calls import check_token


class RoomRequest(BaseModel):
    """A room that lasts until it is deleted, or the agent ends."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$", description="it can be called by it: sip:NAME@, /duplex?room=NAME"
    )
    number: str = Field(default="", max_length=64, pattern=r"^[^*]*$", description="called number that leads there")
    pin: SecretStr = Field(
        default=SecretStr(""), description="4 to 12 digits that are asked for; empty: whoever calls is in"
    )
    persona: str = Field(
        default="", max_length=64, description="persona that takes part; empty: the one that answers calls to there"
    )
    max: int = Field(default=MOST_PEOPLE, ge=1, le=MOST_PEOPLE, description="people at once")


class RoomTold(BaseModel):
    """A room. `call` is the id that its record will have in its name, while somebody is there. The PIN is not told."""

    name: str
    number: str
    persona: str
    max: int
    has_pin: bool
    temporary: bool
    participants: list[str]
    call: str


def _told(state: RoomState) -> RoomTold:
    room = state.settings
    return RoomTold(
        name=state.name,
        number=room.number,
        persona=room.persona,
        max=room.max,
        has_pin=bool(room.pin.get_secret_value()),
        temporary=state.temporary,
        participants=list(state.participants),
        call=state.call,
    )


def serve_rooms(api: FastAPI, rooms: Rooms, token: str) -> None:
    """`GET` and `POST /api/v1/rooms`, `GET` and `DELETE /api/v1/rooms/{name}`, for whoever has the token."""

    @api.get("/api/v1/rooms")
    async def list_rooms(authorization: Annotated[str, Header()] = "") -> list[RoomTold]:
        check_token(authorization, token)
        return [_told(state) for state in rooms.states]

    @api.post("/api/v1/rooms", status_code=status.HTTP_201_CREATED)
    async def make_room(wanted: RoomRequest, authorization: Annotated[str, Header()] = "") -> RoomTold:
        check_token(authorization, token)
        try:
            settings = RoomSettings(number=wanted.number, pin=wanted.pin, persona=wanted.persona, max=wanted.max)
        except ValueError:
            raise HTTPException(status.HTTP_422_UNPROCESSABLE_CONTENT, "a PIN is 4 to 12 digits") from None
        try:
            return _told(rooms.add(wanted.name, settings))
        except RoomError as error:
            raise HTTPException(status.HTTP_409_CONFLICT, str(error)) from None

    @api.get("/api/v1/rooms/{name}")
    async def tell_room(name: str, authorization: Annotated[str, Header()] = "") -> RoomTold:
        check_token(authorization, token)
        for state in rooms.states:
            if state.name == name:
                return _told(state)
        raise HTTPException(status.HTTP_404_NOT_FOUND, f"there is no room {name!r}")

    @api.delete("/api/v1/rooms/{name}", status_code=status.HTTP_204_NO_CONTENT)
    async def delete_room(name: str, authorization: Annotated[str, Header()] = "") -> None:
        check_token(authorization, token)
        try:
            await rooms.remove(name)
        except UnknownRoom as error:
            raise HTTPException(status.HTTP_404_NOT_FOUND, str(error)) from None
        except RoomError as error:
            raise HTTPException(status.HTTP_409_CONFLICT, str(error)) from None
