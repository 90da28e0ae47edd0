"""Settings of meetings elsewhere that we take part in."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field, SecretStr, field_validator

from signaling.call import SignalingError
from signaling.meetings.place import Place
from voipagent.kinds import Section
from voipagent.persona import NamedPersona, those_there


class MeetingSettings(Section):
    """A meeting; its name is that of the section, in lower case."""

    url: str = Field(
        description="janus://host/room, januss:// for https, livekit://host/room, livekits:// for wss; "
        "?name= is what we are called there"
    )
    persona: str = Field(default="", description="persona that takes part, by its section; empty: the default one")
    auto_join: bool = Field(
        default=False, description="join when the agent starts, and again when the meeting has let go of us"
    )
    pin: SecretStr = Field(default=SecretStr(""), description="PIN of the room, where Janus asks for one")
    token: SecretStr = Field(default=SecretStr(""), description="access token of the server; LiveKit's has the room")
    key: str = Field(default="", description="LiveKit's API key; with SECRET, tokens are made")
    secret: SecretStr = Field(default=SecretStr(""), description="LiveKit's API secret, or Janus's api_secret")

    @field_validator("url")
    @classmethod
    def _readable(cls, url: str) -> str:
        try:
            place = Place.parse(url)
        except SignalingError as error:
            raise ValueError(str(error)) from None
        if place.pin or place.token or place.key or place.secret:
            raise ValueError("a URL is shown; what opens the door is in PIN, TOKEN, KEY or SECRET of the same meeting")
        return url

    @property
    def place(self) -> Place:
        """Where it is, with what opens the door."""
        return self.open(Place.parse(self.url))

    def open(self, place: Place) -> Place:
        """A place on the same server, with what opens the door there: a PIN is one room's, and a token of LiveKit's."""
        here = self.is_at(place)
        pin = self.pin.get_secret_value() if here else ""
        token = self.token.get_secret_value() if here or place.protocol != "livekit" else ""
        return place.opened_by(pin, token, self.key, self.secret.get_secret_value())

    def is_at(self, place: Place) -> bool:
        """Whether it is in that room."""
        return str(place) == str(Place.parse(self.url))


def check_meetings(meetings: Mapping[str, MeetingSettings], personas: Mapping[str, NamedPersona]) -> None:
    """Raises ValueError where a persona cannot be; it says which."""
    for name, meeting in meetings.items():
        if meeting.persona and meeting.persona not in personas:
            raise ValueError(f"meeting {name!r}: there is no persona {meeting.persona!r}; {those_there(personas)}")
