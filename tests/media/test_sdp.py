"""Session descriptions: what is read, and in which words a bad one is refused."""

from __future__ import annotations

import pytest

from media.sdp import SdpError, parse
from tests.media.line import THERE, sdp


def test_a_stream_takes_from_the_session_what_it_does_not_say_itself() -> None:
    description = parse(
        sdp(
            "m=audio 4000/2 RTP/AVP 0 96",
            "c=IN IP4 192.0.2.9/127",
            "a=rtpmap:96 telephone-event/8000",
            "a=sendonly",
            "m=video 5000 RTP/AVP 34",
            session=("a=recvonly", "a=tool:x"),
        ).replace("t=0 0", "t=5 6")
    )
    audio, video = description.media
    assert description.times == "5 6"
    assert (audio.kind, audio.port, audio.host, audio.direction) == ("audio", 4000, "192.0.2.9", "sendonly")
    assert (video.kind, video.port, video.host, video.direction) == ("video", 5000, THERE, "recvonly")
    assert audio.codecs() == {0: "PCMU/8000", 96: "TELEPHONE-EVENT/8000"}
    assert (audio.attribute("tool"), audio.attribute("rtcp-mux")) == ("x", None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "line 1"),
        ("hello", "line 1"),
        ("o=- 1 1 IN IP4 192.0.2.7", "begins with v=0"),
        ("v=1\r\nm=audio 1 RTP/AVP 0", "begins with v=0"),
        (sdp("m=audio 4000 RTP/AVP"), "media, port, profile and formats"),
        (sdp("m=audio 70000 RTP/AVP 0"), "port of 0-65535"),
        (sdp("m=audio -1 RTP/AVP 0"), "port of 0-65535"),
        (sdp("m=audio ４000 RTP/AVP 0"), "media, port"),
        (sdp("m=audio 4000 RTP/AVP 0\x00"), "media, port"),
        (sdp("m=audio 4000 RTP/AVP 0", host="phone.example.org"), "not an IP address"),
        (sdp("m=audio 4000 RTP/AVP 0", "broken"), "line 7 .* not of the form x=value"),
        (sdp(*["m=audio 4000 RTP/AVP 0"] * 65), "65 m= lines; at most 64"),
        (sdp("m=audio 4000 RTP/AVP 0", *["a=x"] * 257), "257 a= lines in one section; at most 256"),
        (sdp("m=audio 4000 RTP/AVP 0", *["b=AS:64"] * 4000), "4006 lines; at most 4000"),
    ],
)
def test_what_cannot_be_read_is_named(text: str, said: str) -> None:
    with pytest.raises(SdpError, match=said):
        parse(text)


def test_the_limits_themselves_are_within() -> None:
    parse(sdp(*["m=audio 4000 RTP/AVP 0", *["a=x"] * 64] * 6))
    parse(sdp(*["m=audio 4000 RTP/AVP 0"] * 8))


def test_a_peers_text_in_an_error_is_short_and_printable() -> None:
    with pytest.raises(SdpError) as caught:
        parse("v=0\r\n\x1b[2J" + "x" * 500)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 150


def test_line_ends_may_be_bare() -> None:
    text = sdp("m=audio 4000 RTP/AVP 0")
    assert parse(text.replace("\r\n", "\n")) == parse(text)


def test_a_browsers_camera_and_a_conference_of_many_are_read() -> None:
    """Chromium writes some 120 attributes for a camera; a conference server a section for each who is there."""
    camera = ["m=video 9 UDP/TLS/RTP/SAVPF 96", *["a=rtcp-fb:96 nack"] * 125]
    description = parse(sdp("m=audio 4000 RTP/AVP 0", *camera, *["m=video 9 UDP/TLS/RTP/SAVPF 96"] * 40))
    assert len(description.media) == 42
    assert description.media[0].codecs() == {0: "PCMU/8000"}
