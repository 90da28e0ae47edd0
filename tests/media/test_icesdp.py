"""What descriptions say of ICE: read, written, and refused with a reason."""

from __future__ import annotations

import re

import pytest

from media.icesdp import MAX_CANDIDATES, PORT, Fragment, Local, Remote, at, bundled, wants_ice
from media.leg import LegError
from media.sdp import parse
from tests.media.line import THERE, sdp

PASSWORD = "p" * 22
AUDIO = "m=audio 9 UDP/TLS/RTP/SAVPF 0"
ICE = ("a=ice-ufrag:abcd", f"a=ice-pwd:{PASSWORD}", "a=rtcp-mux")
CANDIDATE = "1 1 udp 2130706431 192.0.2.9 5000 typ host"
OURS = Local("ufrg", "q" * 22, (CANDIDATE,), 0xABC, "c0ffee")


def remote(*lines: str, session: tuple[str, ...] = ()) -> Remote:
    text = sdp(AUDIO, *lines, session=session)
    return Remote.read(text, parse(text).media[0])


def test_the_far_ends_side_is_read_from_the_line_or_the_session() -> None:
    found = remote(*ICE, f"a=candidate:{CANDIDATE}", "a=mid:0")
    assert (found.session, found.ufrag, found.password) == ("1", "abcd", PASSWORD)
    assert found.candidates == (CANDIDATE,) and not found.lite
    found = remote("a=rtcp-mux", session=(*ICE[:2], "a=ice-lite"))
    assert (found.ufrag, found.lite, found.candidates) == ("abcd", True, ())
    assert PASSWORD not in repr(found)


@pytest.mark.parametrize(
    "lines, why",
    [
        (ICE[1:], "no a=ice-ufrag"),
        (("a=ice-ufrag:abc", *ICE[1:]), "no a=ice-ufrag of 4"),
        (("a=ice-ufrag:ab cd", *ICE[1:]), "no a=ice-ufrag of 4"),
        ((ICE[0], "a=ice-pwd:" + "p" * 21, ICE[2]), "a=ice-pwd of 22"),
        ((ICE[0], "a=ice-pwd:" + "p" * 257, ICE[2]), "a=ice-pwd of 22"),
        (ICE[:2], "without a=rtcp-mux"),
    ],
)
def test_what_ice_cannot_do_without_is_told(lines: tuple[str, ...], why: str) -> None:
    with pytest.raises(LegError, match=why):
        remote(*lines)


def test_a_fragment_is_candidates_and_whose_they_are() -> None:
    text = f"{ICE[0]}\r\n{ICE[1]}\r\n{AUDIO}\r\na=mid:0\r\na=candidate:{CANDIDATE}\r\na=end-of-candidates\r\n"
    assert Fragment.parse(text) == Fragment("abcd", PASSWORD, (CANDIDATE,))
    many = "\n".join([*ICE[:2], *[f"a=candidate:{CANDIDATE}"] * (MAX_CANDIDATES + 9)])
    assert len(Fragment.parse(many).candidates) == MAX_CANDIDATES


@pytest.mark.parametrize(
    "text, why",
    [
        ("", "line 1 of the fragment"),
        ("a=ice-ufrag:abcd", "no a=ice-ufrag and a=ice-pwd"),
        ("candidate", "not of the form a=candidate"),
        ("\n".join([*ICE[:2], *["a=x"] * 999]), "line 257 of the fragment"),
    ],
)
def test_what_is_no_fragment_is_told(text: str, why: str) -> None:
    with pytest.raises(LegError, match=re.escape(why)):
        Fragment.parse(text)


def test_our_side_is_bundled_where_the_offer_is() -> None:
    bundled = parse(sdp(AUDIO, "a=mid:x", session=("a=group:LS x", "a=group:BUNDLE x y")))
    assert OURS.session_lines(bundled, 0)[0] == "a=group:BUNDLE x"
    for lines, session in (((), ()), (("a=mid:x",), ()), (("a=mid:x",), ("a=group:BUNDLE y",))):
        assert not any("BUNDLE" in line for line in OURS.session_lines(parse(sdp(AUDIO, *lines, session=session)), 0))
    assert OURS.session_lines(None, 0)[0] == "a=group:BUNDLE 0"


def test_who_sends_nothing_has_no_source() -> None:
    lines = OURS.audio_lines("x", True)
    assert lines[:3] == ["a=mid:x", "a=msid:agent 00000abc", "a=ssrc:2748 cname:c0ffee"]
    assert lines[3:] == OURS.audio_lines(None, False) and lines[-2:] == [
        f"a=candidate:{CANDIDATE}",
        "a=end-of-candidates",
    ]
    assert "q" * 22 not in repr(OURS)


def test_addresses_are_placeholders_but_a_refused_line_stays_refused() -> None:
    moved = at(parse(sdp(AUDIO, "m=video 0 RTP/AVP 96", host="0.0.0.0")), THERE)
    assert [(line.host, line.port) for line in moved.media] == [(THERE, PORT), (THERE, 0)]


VIDEO = ("m=video 9 UDP/TLS/RTP/SAVPF 96", "a=mid:v", *ICE, f"a=candidate:{CANDIDATE}", "a=setup:actpass")
BEHIND = ("m=audio 0 UDP/TLS/RTP/SAVPF 0", "a=mid:a", "a=bundle-only")
BUNDLE = ("a=group:LS a v", "a=group:BUNDLE v a")


def test_audio_behind_a_bundles_first_line_has_its_way() -> None:
    text = sdp(*VIDEO, *BEHIND, session=BUNDLE)
    video, audio = bundled(parse(text)).media
    assert video == parse(text).media[0] and audio.port == PORT
    assert (audio.attribute("mid"), audio.attribute("setup")) == ("a", "actpass")
    found = Remote.read(text, audio)
    assert (found.ufrag, found.password, found.candidates) == ("abcd", PASSWORD, (CANDIDATE,))
    assert wants_ice(text)


@pytest.mark.parametrize(
    "lines, session",
    [
        ((*VIDEO, *BEHIND), ()),
        ((*VIDEO, *BEHIND), ("a=group:BUNDLE v",)),
        ((*VIDEO, *BEHIND), ("a=group:BUNDLE x a",)),
        ((*VIDEO, *BEHIND[:2]), BUNDLE),
        (("m=video 0 UDP/TLS/RTP/SAVPF 96", *VIDEO[1:], *BEHIND), BUNDLE),
        (BEHIND, ("a=group:BUNDLE a",)),
    ],
    ids=["no group", "another's group", "of nobody", "not bundle-only", "its first is refused", "it is the first"],
)
def test_audio_with_port_0_is_else_refused(lines: tuple[str, ...], session: tuple[str, ...]) -> None:
    assert bundled(parse(sdp(*lines, session=session))) == parse(sdp(*lines, session=session))


def test_a_way_of_its_own_stays_its_own() -> None:
    (_, audio) = bundled(parse(sdp(*VIDEO, *BEHIND, "a=ice-ufrag:efgh", session=BUNDLE))).media
    assert audio.port == PORT and audio.attribute("ice-ufrag") == "efgh" and audio.attribute("candidate") is None


@pytest.mark.parametrize(
    "text, wanted",
    [
        (sdp(AUDIO, *ICE), True),
        (sdp(AUDIO, session=ICE[:2]), True),
        (sdp(AUDIO), False),
        (sdp("m=audio 4000 RTP/AVP 0", *ICE), False),  # ICE is one of its ways; we take the plain one
        (sdp("m=video 9 UDP/TLS/RTP/SAVPF 96", *ICE), False),
        ("nonsense", False),
        (None, False),
    ],
)
def test_who_wants_ice(text: str | None, wanted: bool) -> None:
    assert wants_ice(text) is wanted
