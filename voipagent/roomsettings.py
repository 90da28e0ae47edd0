"""Settings of rooms: where several people and the agent talk. Also what the API makes a room for a while of."""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping

from pydantic import Field, SecretStr, field_validator

from voipagent.kinds import Section
from voipagent.persona import NamedPersona, bare_number, those_there

MOST_PEOPLE = 16
"""A core mixes so many without a late frame."""

PIN = re.compile(r"[0-9]{4,12}")
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


class RoomSettings(Section):
    """A room; its name is that of the section, in lower case. It can be called by its name, too."""

    number: str = Field(
        default="", description="called number that leads there; several rooms may share one if each has a PIN"
    )
    pin: SecretStr = Field(
        default=SecretStr(""), description="4 to 12 digits that are asked for; empty: whoever calls is in"
    )
    persona: str = Field(
        default="", description="persona that takes part, by its section; empty: the one that answers calls to there"
    )
    max: int = Field(default=MOST_PEOPLE, ge=1, le=MOST_PEOPLE, description="people at once; one more is busy")

    @field_validator("pin")
    @classmethod
    def _digits(cls, pin: SecretStr) -> SecretStr:
        if pin.get_secret_value() and not PIN.fullmatch(pin.get_secret_value()):
            raise ValueError("a PIN is 4 to 12 digits")
        return pin

    @field_validator("number")
    @classmethod
    def _callable(cls, number: str) -> str:
        if "*" in number:
            raise ValueError(f"{number!r} is a pattern; a room has one number, such as +49301234")
        return number

    def takes(self, pin: str) -> bool:
        """Whether that is the PIN, or none is asked for."""
        own = self.pin.get_secret_value()
        return not own or hmac.compare_digest(own.encode(), pin.encode())


def check_rooms(rooms: Mapping[str, RoomSettings], personas: Mapping[str, NamedPersona]) -> None:
    """Raises ValueError where a name, a number or a persona cannot be; it says which."""
    for name, room in rooms.items():
        if not NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name of a room: up to 64 letters, digits and . _ - are")
        if room.persona and room.persona not in personas:
            raise ValueError(f"room {name!r}: there is no persona {room.persona!r}; {those_there(personas)}")
    _check_numbers(rooms, personas)


def _check_numbers(rooms: Mapping[str, RoomSettings], personas: Mapping[str, NamedPersona]) -> None:
    """A number leads to one persona, to one room, or to rooms that their PINs tell apart."""
    answered = {bare_number(number): name for name, persona in personas.items() for number in persona.numbers}
    led: dict[str, tuple[str, dict[str, RoomSettings]]] = {}
    for name, room in rooms.items():
        for number in filter(None, (name, room.number)):
            if (persona := answered.get(bare_number(number))) is not None:
                raise ValueError(f"{number} is answered by persona {persona!r}, and leads to room {name!r}; choose one")
            led.setdefault(bare_number(number), (number, {}))[1][name] = room
    for number, there in led.values():
        _check_shared(number, there)


def _check_shared(number: str, rooms: Mapping[str, RoomSettings]) -> None:
    pins: dict[str, str] = {}
    for name, room in rooms.items():
        pin = room.pin.get_secret_value()
        other = pins.setdefault(pin, name) if pin else next((one for one in rooms if one != name), name)
        if other != name:
            raise ValueError(f"{number} leads to rooms {other!r} and {name!r}; each then takes a PIN of its own")
