"""URLs of meetings: what they say, and what is wrong with them in one clear line."""

from __future__ import annotations

import pytest

from signaling.call import SignalingError
from signaling.meetings.place import Place


@pytest.mark.parametrize(
    ("url", "place", "web"),
    [
        ("janus://meet.example.com/1234", Place("janus", "meet.example.com", 8088, "1234"), "http://{}:8088"),
        ("januss://meet.example.com/a%20b", Place("janus", "meet.example.com", 8089, "a b", True), "https://{}:8089"),
        ("livekit://meet.example.com:7/x", Place("livekit", "meet.example.com", 7, "x"), "http://{}:7"),
        ("wss://meet.example.com/x", Place("livekit", "meet.example.com", 443, "x", True), "https://{}:443"),
    ],
)
def test_a_url_says_where_and_how(url: str, place: Place, web: str) -> None:
    assert Place.parse(url) == place
    assert place.web("http") == web.format("meet.example.com")
    assert Place.parse(str(place)) == place


def test_what_opens_the_door_is_read_and_never_shown() -> None:
    place = Place.parse("janus://[2001:db8::1]:99/1?pin=4711&name=Ada&token=tick&secret=hush&base=/api/janus")
    assert (place.pin, place.name, place.token, place.secret, place.base) == (
        *("4711", "Ada", "tick", "hush"),
        "/api/janus",
    )
    assert str(place) == "janus://[2001:db8::1]:99/1"
    assert not [secret for secret in ("4711", "tick", "hush") if secret in repr(place) + str(place)]


def test_the_url_goes_before_what_is_known_of_its_server() -> None:
    opened = Place.parse("livekit://a/x?key=mine").opened_by(key="theirs", secret="hush")
    assert (opened.key, opened.secret, opened.pin) == ("mine", "hush", "")


def test_a_token_has_the_room_in_it() -> None:
    assert Place.parse("wss://meet.example.com?token=e30").room == ""


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("meet.example.com/1", "a meeting is janus://host/room"),
        ("https://meet.example.com/1", "not 'https'"),
        ("janus:///1", "names no host"),
        ("janus://meet.example.com", "names no room, as janus://meet.example.com:8088/room does"),
        ("livekit://meet.example.com/", "names no room"),
        ("janus://meet.example.com:99999/1", "cannot be read: Port out of range"),
        ("janus://meet.example.com/1?pni=1", "knows no option 'pni'; there are pin, name"),
        ("livekit://meet.example.com/1?pin=1", "knows no option 'pin'; there are name, token"),
    ],
)
def test_what_is_wrong_is_said(url: str, said: str) -> None:
    with pytest.raises(SignalingError) as raised:
        Place.parse(url)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)
