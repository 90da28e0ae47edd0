"""Rooms in the environment: what is one, and what cannot be reached as it is meant."""

from __future__ import annotations

import pytest

from voipagent import roomsettings
from voipagent.environment import SettingsError
from voipagent.persona import bare_number
from voipagent.roomsettings import RoomSettings, check_rooms
from voipagent.settings import Settings


def load(**environ: str) -> Settings:
    return Settings.load({f"VOIPAGENT_{name}": value for name, value in environ.items()})


def test_a_room_has_a_name_and_may_have_a_number_a_pin_a_persona_and_a_limit() -> None:
    settings = load(
        ROOMS__Standup__NUMBER="+49 30 1234",
        ROOMS__STANDUP__PIN="4711",
        ROOMS__STANDUP__PERSONA="ada",
        ROOMS__STANDUP__MAX="5",
        PERSONAS__ADA__PROMPT="You take notes.",
    )
    room = settings.rooms["standup"]
    assert (room.number, room.persona, room.max) == ("+49 30 1234", "ada", 5)
    assert room.takes("4711") and not room.takes("4712") and not room.takes("")
    assert "4711" not in repr(settings)


def test_a_room_without_a_pin_takes_anybody() -> None:
    room = load(ROOMS__OPEN__MAX="16").rooms["open"]
    assert room.takes("") and room.takes("1234")


def test_rooms_may_share_a_number_that_their_pins_tell_apart() -> None:
    settings = load(ROOMS__A__NUMBER="+4930", ROOMS__A__PIN="1111", ROOMS__B__NUMBER="0049 30", ROOMS__B__PIN="2222")
    assert set(settings.rooms) == {"a", "b"}


A, B = {"ROOMS__A__NUMBER": "+4930"}, {"ROOMS__B__NUMBER": "0049 30"}


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"ROOMS__A__PIN": "123"}, "4 to 12 digits"),
        ({"ROOMS__A__PIN": "12a4"}, "4 to 12 digits"),
        ({"ROOMS__A__MAX": "17"}, "less than or equal to 16"),
        ({"ROOMS__A__MAX": "0"}, "greater than or equal to 1"),
        ({"ROOMS__A__NUMBER": "+49*"}, "one number"),
        ({"ROOMS__A__PERSONA": "eve"}, "no persona 'eve'; there is none but the default one"),
        ({"ROOMS__A__PERSONA": "eve", "PERSONAS__ADA__PROMPT": "x"}, "no persona 'eve'; there is ada"),
        ({"ROOMS__Ä__MAX": "2"}, "no name of a room"),
        ({**A, **B}, "a PIN of its own"),
        ({**A, **B, "ROOMS__A__PIN": "1111"}, "a PIN of its own"),
        ({**A, **B, "ROOMS__A__PIN": "1111", "ROOMS__B__PIN": "1111"}, "a PIN of its own"),
        ({**A, "PERSONAS__ADA__NUMBERS": "0049 30"}, "is answered by persona 'ada'"),
        ({"ROOMS__ADA__MAX": "2", "PERSONAS__EVE__NUMBERS": "ada"}, "is answered by persona 'eve'"),
        ({"ROOMS__A__NUMBER": "b", "ROOMS__B__MAX": "2"}, "leads to rooms"),
        ({"ROOMS__A__PINN": "1234"}, "did you mean VOIPAGENT_ROOMS__<NAME>__PIN?"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(environ: dict[str, str], said: str) -> None:
    with pytest.raises(SettingsError, match="VOIPAGENT_ROOMS") as error:
        load(**environ)
    assert said in str(error.value)


def test_a_pattern_of_a_persona_may_cover_a_rooms_number() -> None:
    """The room is the more precise of the two."""
    assert load(ROOMS__A__NUMBER="+4930", PERSONAS__ADA__NUMBERS="+49*").rooms


def test_many_rooms_are_no_more_work_than_each_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is made over the API is checked against all, while calls go on."""
    seen: list[str] = []

    def counted(number: str) -> str:
        seen.append(number)
        return bare_number(number)

    monkeypatch.setattr(roomsettings, "bare_number", counted)
    rooms = {f"room{n}": RoomSettings(number=f"+49 30 {n:04}") for n in range(200)}
    check_rooms(rooms, {})
    assert len(seen) < 1_000
    with pytest.raises(ValueError, match="leads to rooms 'late' and 'room7'"):
        check_rooms({**rooms, "late": RoomSettings(number="0049300007")}, {})
