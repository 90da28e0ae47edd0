"""Offer and answer: what is agreed, what is refused and in which words, and that nothing else ever comes out."""

from __future__ import annotations

import typing

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from media.codec import OPUS, PCMA, named
from media.crypto import Crypto, Policy
from media.describer import Describer
from media.leg import LegError
from media.negotiation import choose
from media.sdp import parse
from tests.media.descriptions import HERE, agree, answer
from tests.media.line import THERE, sdp


def test_a_plain_offer_is_answered_line_by_line() -> None:
    text = sdp("m=audio 4000 RTP/AVP 0 8 101", "a=rtpmap:101 telephone-event/8000", "a=fmtp:101 0-16", "a=ptime:20")
    assert answer(text) == [
        "v=0",
        f"o=- 7 1 IN IP4 {HERE}",
        "s=-",
        f"c=IN IP4 {HERE}",
        "t=0 0",
        "m=audio 16384 RTP/AVP 0 101",
        "a=rtpmap:0 PCMU/8000",
        "a=rtpmap:101 telephone-event/8000",
        "a=fmtp:101 0-15",
        "a=ptime:20",
        "a=sendrecv",
        "",
    ]


@pytest.mark.parametrize(
    ("formats", "codec"),
    [("0", "PCMU"), ("8 0", "PCMA"), ("18 0 9", "PCMU"), ("9 0", "G722"), ("3 4 8", "PCMA")],
)
def test_the_offerers_order_decides_and_static_types_need_no_rtpmap(formats: str, codec: str) -> None:
    assert agree(sdp(f"m=audio 4000 RTP/AVP {formats}")).codec.name == codec


ALL = sdp(
    "m=audio 4000 RTP/AVP 0 9 111 13 100 101",
    "a=rtpmap:111 opus/48000/2",
    "a=fmtp:111 minptime=10;maxaveragebitrate=20000",
    "a=rtpmap:100 telephone-event/48000",
    "a=rtpmap:101 telephone-event/8000",
)


@pytest.mark.parametrize(
    ("codecs", "chosen"),
    [((), "PCMU"), (("opus", "pcmu"), "opus"), (("g722", "opus"), "G722"), (("pcma", "pcmu"), "PCMU")],
)
def test_an_order_of_ours_decides_where_there_is_one(codecs: tuple[str, ...], chosen: str) -> None:
    assert choose(parse(ALL), THERE, codecs=tuple(map(named, codecs))).codec.name == chosen
    with pytest.raises(LegError, match="the offer has PCMU/8000, G722/8000, OPUS/48000/2, CN/8000"):
        choose(parse(ALL), THERE, codecs=(PCMA,))


def test_opus_is_answered_with_the_offerers_number_and_our_parameters() -> None:
    stream = choose(parse(ALL), THERE, codecs=(OPUS,))
    assert (stream.payload_type, stream.event_type, stream.event_rate) == (111, 100, 48_000)
    assert (stream.fmtp, stream.noise_types) == ("minptime=10;maxaveragebitrate=20000", frozenset())
    text = Describer(7).answer(parse(ALL), stream, HERE, 16_384)
    assert text.split("\r\n")[5:-1] == [
        "m=audio 16384 RTP/AVP 111 100",
        "a=rtpmap:111 opus/48000/2",
        "a=fmtp:111 useinbandfec=1;maxplaybackrate=24000;stereo=0;sprop-stereo=0",
        "a=rtpmap:100 telephone-event/48000",
        "a=fmtp:100 0-15",
        "a=ptime:20",
        "a=sendrecv",
    ]


def test_comfort_noise_is_taken_where_its_clock_is_the_codecs() -> None:
    assert choose(parse(ALL), THERE).noise_types == {13}
    assert "m=audio 16384 RTP/AVP 0 101 13" in answer(ALL)
    assert "a=rtpmap:13 CN/8000" in answer(ALL)


@pytest.mark.parametrize(("ptime_ms", "ours_ms"), [(10, 10), (30, 20), (40, 40), (50, 40), (60, 60), (120, 60)])
def test_packets_of_opus_have_its_lengths(ptime_ms: int, ours_ms: int) -> None:
    text = ALL.replace("a=fmtp:111", f"a=ptime:{ptime_ms}\r\na=fmtp:111")
    assert choose(parse(text), THERE, codecs=(OPUS,)).ptime_ms == ours_ms


@pytest.mark.parametrize("rtpmap", ["96 PCMA/8000", "96 pcma/8000/1"])
def test_a_dynamic_type_keeps_the_offerers_number(rtpmap: str) -> None:
    text = sdp("m=audio 4000 RTP/AVP 96", f"a=rtpmap:{rtpmap}")
    assert "m=audio 16384 RTP/AVP 96" in answer(text)
    assert "a=rtpmap:96 PCMA/8000" in answer(text)


@pytest.mark.parametrize("rtpmap", ["9 G722/8000", "9 G722/16000"])
def test_g722_has_the_clock_8000_whatever_its_writer_believes(rtpmap: str) -> None:
    text = sdp("m=audio 4000 RTP/AVP 9", f"a=rtpmap:{rtpmap}")
    assert agree(text).codec.name == "G722"
    assert "a=rtpmap:9 G722/8000" in answer(text)


@pytest.mark.parametrize("rtpmap", ["0 PCMU/16000", "0 PCMU/8000/2", "0 L16/8000"])
def test_a_static_number_that_means_something_else_is_not_ours(rtpmap: str) -> None:
    assert agree(sdp("m=audio 4000 RTP/AVP 0 8", f"a=rtpmap:{rtpmap}")).codec.name == "PCMA"


def test_digits_take_the_offerers_number_and_the_audios_clock() -> None:
    events = ("a=rtpmap:100 telephone-event/48000", "a=rtpmap:96 telephone-event/8000")
    text = sdp("m=audio 4000 RTP/AVP 0 100 96", *events)
    assert agree(text).event_type == 96
    assert agree(text).event_types == {96}
    assert "m=audio 16384 RTP/AVP 0 96" in answer(text)
    assert agree(sdp("m=audio 4000 RTP/AVP 0 100", events[0])).event_type is None


@pytest.mark.parametrize(
    ("theirs", "ours", "held"),
    [
        ("sendrecv", "sendrecv", False),
        ("sendonly", "recvonly", True),
        ("recvonly", "sendonly", False),
        ("inactive", "inactive", True),
    ],
)
def test_directions_mirror(theirs: str, ours: str, held: bool) -> None:
    for text in (
        sdp("m=audio 4000 RTP/AVP 0", f"a={theirs}"),
        sdp("m=audio 4000 RTP/AVP 0", session=(f"a={theirs}",)),
        sdp("m=audio 4000 RTP/AVP 0", f"a={theirs}", session=("a=inactive",)),
    ):
        assert agree(text).direction == ours
        assert agree(text).held is held
        assert f"a={ours}" in answer(text)


@pytest.mark.parametrize("line", [(), ("a=sendonly",)])
def test_the_address_0_is_old_style_hold(line: tuple[str, ...]) -> None:
    for text in (
        sdp("m=audio 4000 RTP/AVP 0", *line, host="0.0.0.0"),
        sdp("m=audio 4000 RTP/AVP 0", "c=IN IP4 0.0.0.0", *line),
    ):
        stream = agree(text)
        assert (stream.held, stream.sends, stream.receives) == (True, False, True)
        assert "a=recvonly" in answer(text)


def test_streams_are_answered_in_number_and_order() -> None:
    text = sdp(
        "m=image 6000 udptl t38",
        "m=audio 4000 RTP/AVP 0",
        "m=video 5000 RTP/AVP 96 97",
        "a=rtpmap:96 H264/90000",
        "m=audio 4002 RTP/AVP 8",
    )
    streams = [line for line in answer(text) if line.startswith("m=")]
    assert streams == [
        "m=image 0 udptl t38",
        "m=audio 16384 RTP/AVP 0",
        "m=video 0 RTP/AVP 96 97",
        "m=audio 0 RTP/AVP 8",
    ]


def test_the_first_stream_that_we_speak_is_taken() -> None:
    text = sdp("m=audio 4000 RTP/SAVP 0", "m=audio 0 RTP/AVP 0", "m=audio 4002 RTP/AVP 18", "m=audio 4004 RTP/AVP 8")
    assert agree(text).number == 3
    assert agree(text).remote == (THERE, 4004)


def test_profile_and_times_are_echoed_and_offered_encryption_is_declined() -> None:
    text = sdp("m=audio 4000 RTP/AVPF 0", "a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:c2VjcmV0").replace(
        "t=0 0", "t=3 9"
    )
    assert "m=audio 16384 RTP/AVPF 0" in answer(text)
    assert "t=3 9" in answer(text)
    assert not [line for line in answer(text) if "crypto" in line]


@pytest.mark.parametrize(
    ("lines", "port", "mux"),
    [
        ((), 4001, False),
        (("a=rtcp:5005",), 5005, False),
        (("a=rtcp:5005 IN IP4 198.51.100.9",), 5005, False),
        (("a=rtcp:0",), 4001, False),
        (("a=rtcp:99999",), 4001, False),
        (("a=rtcp-mux", "a=rtcp:4001"), 4000, True),
    ],
)
def test_where_reports_go(lines: tuple[str, ...], port: int, mux: bool) -> None:
    text = sdp("m=audio 4000 RTP/AVP 0", *lines)
    assert agree(text).remote_rtcp[1] == port
    assert ("a=rtcp-mux" in answer(text)) is mux


def test_reports_to_another_host_go_there_but_never_to_a_forbidden_one() -> None:
    other, multicast = "a=rtcp:5005 IN IP4 198.51.100.9", "a=rtcp:5005 IN IP4 224.0.0.1"
    assert agree(sdp("m=audio 4000 RTP/AVP 0", other)).remote_rtcp == ("198.51.100.9", 5005)
    assert agree(sdp("m=audio 4000 RTP/AVP 0", multicast)).remote_rtcp == (THERE, 5005)


@pytest.mark.parametrize(
    ("lines", "ptime_ms"),
    [
        ((), 20),
        (("a=ptime:30",), 30),
        (("a=ptime:40", "a=maxptime:30"), 30),
        (("a=maxptime:10",), 10),
        (("a=ptime:5",), 10),
        (("a=ptime:500",), 60),
        (("a=ptime:20.5",), 20),
        (("a=ptime:x",), 20),
        (("a=ptime:0",), 20),
    ],
)
def test_packets_are_as_long_as_they_want(lines: tuple[str, ...], ptime_ms: int) -> None:
    assert agree(sdp("m=audio 4000 RTP/AVP 0", *lines)).ptime_ms == ptime_ms


@pytest.mark.parametrize(("ptime_ms", "ours_ms"), [(10, 20), (20, 20), (30, 20), (50, 40), (60, 60)])
def test_packets_of_g722_have_its_encoders_lengths(ptime_ms: int, ours_ms: int) -> None:
    assert agree(sdp("m=audio 4000 RTP/AVP 9", f"a=ptime:{ptime_ms}")).ptime_ms == ours_ms


def test_ipv6() -> None:
    text = sdp("m=audio 4000 RTP/AVP 0", host="2001:DB8:0::7")
    assert agree(text).remote == ("2001:db8::7", 4000)
    offer = parse(text)
    ours = Describer(7).answer(offer, choose(offer, THERE), "2001:db8::1", 16_384)
    assert "c=IN IP6 2001:db8::1\r\n" in ours
    assert agree(sdp("m=audio 4000 RTP/AVP 0", host="::ffff:198.51.100.7")).remote == (THERE, 4000)


def test_a_stream_has_its_own_address_and_a_ttl_is_no_part_of_it() -> None:
    text = sdp("m=audio 4000/2 RTP/AVP 0", "c=IN IP4 198.51.100.9/127", "m=image 1 udptl t38")
    assert agree(text).remote == ("198.51.100.9", 4000)


# --- refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (sdp("m=audio 4000 RTP/SAVP 0"), "'RTP/SAVP'; this agent speaks RTP/AVP and RTP/AVPF"),
        (sdp("m=audio 4000 UDP/TLS/RTP/SAVPF 0"), "'UDP/TLS/RTP/SAVPF'; this agent speaks RTP/AVP"),
        (sdp("m=audio 4000 RTP/AVP 18 96", "a=rtpmap:96 speex/16000"), "payload type 18, SPEEX/16000; this agent"),
        (
            sdp("m=audio 4000 RTP/AVP 97", "a=rtpmap:97 iLBC/8000"),
            "ILBC/8000; this agent speaks opus, G722, PCMU, PCMA",
        ),
        (sdp("m=audio 0 RTP/AVP 0"), "no audio stream"),
        (sdp("m=image 4000 udptl t38"), "no audio stream"),
        (sdp(), "no audio stream"),
        (sdp("m=audio 4000 RTP/AVP 0", host="224.1.2.3"), "multicast"),
        (sdp("m=audio 4000 RTP/AVP 0", host="255.255.255.255"), "broadcast"),
        (sdp("m=audio 4000 RTP/AVP 0", host="ff02::1"), "multicast"),
        (sdp("m=audio 4000 RTP/AVP 0", host="127.0.0.1"), "this machine"),
        (sdp("m=audio 4000 RTP/AVP 0", host="::ffff:127.0.0.1"), "this machine"),
        ("v=0\r\nm=audio 4000 RTP/AVP 0\r\n", "no c= line"),
    ],
)
def test_what_cannot_be_served_is_refused_in_plain_words(text: str, said: str) -> None:
    with pytest.raises(LegError, match=said.replace(".", r"\.")):
        agree(text)


def test_a_peer_on_this_machine_may_name_this_machine() -> None:
    assert agree(sdp("m=audio 4000 RTP/AVP 0", host="127.0.0.1"), source="127.0.0.1").remote == ("127.0.0.1", 4000)


# --- anything at all -----------------------------------------------------------------------------------------------

CM_80 = "AES_CM_128_HMAC_SHA1_80"
KEYED = Crypto.generate(3, CM_80).attribute()
PRINT = "fingerprint:sha-256 " + ":".join(["0A"] * 32)
WORDS = st.sampled_from(
    ["0", "8", "9", "101", "4000", "65536", "-1", "audio", "RTP/AVP", "RTP/SAVP", "IN", "IP4", "IP6", "::", "0.0.0.0"]
    + ["198.51.100.7", "rtpmap:", "101 telephone-event/8000", "ptime:", "rtcp:", "rtcp-mux", "sendonly", "/", "\x00"]
    + ["9" * 400, "\u0661", "fe80::1%x", "crypto:", CM_80, f"crypto:{KEYED}", "inline:A|2^20"]
    + ["UDP/TLS/RTP/SAVPF", "RTP/SAVPF", "setup:actpass", "setup:x", "fingerprint:sha-256 0A", PRINT]
    + ["96", "13", "96 opus/48000/2", "rtpmap:96 opus/48000/2", "fmtp:96 maxaveragebitrate=1;=;;cbr=1", "98 CN/8000"]
)
LINES = st.builds(
    lambda letter, words: f"{letter}={' '.join(words)}", st.sampled_from("mmmacacovst"), st.lists(WORDS, max_size=6)
)


def survives(text: str) -> None:
    """Reading, choosing and answering raise LegError or nothing; what we answer, we can read."""
    for srtp in typing.get_args(Policy):
        survives_under(text, srtp)


def survives_under(text: str, srtp: Policy) -> None:
    try:
        offer = parse(text)
        stream = choose(offer, THERE, srtp)
    except LegError as error:
        assert str(error)
        return
    assert stream.crypto or stream.dtls or srtp != "demand"
    assert not (stream.crypto and stream.dtls)
    ours = parse(Describer(7, srtp).answer(offer, stream, HERE, 16_384))
    assert ("crypto" in dict(ours.media[stream.number].attributes)) is (stream.crypto is not None)
    assert len(ours.media) == len(offer.media)
    assert ours.media[stream.number].port == 16_384
    assert all(line.port == 0 for number, line in enumerate(ours.media) if number != stream.number)
    assert stream.payload_type < 128


@given(st.text(max_size=300))
def test_any_text_is_refused_cleanly(text: str) -> None:
    survives(text)


@given(st.lists(LINES, max_size=24))
@example(
    [
        "c=IN IP4 198.51.100.7",
        "m=audio 4000 UDP/TLS/RTP/SAVPF 96",
        f"a={PRINT}",
        "a=setup:actpass",
        "a=rtpmap:96 opus/48000/2",
    ]
)
@example(["c=IN IP4 198.51.100.7", "m=audio 4000 RTP/AVP 0", "a=rtcp:5 IN IP4 x", "a=ptime:\u0661"])
def test_any_lines_are_answered_or_refused(lines: list[str]) -> None:
    survives("\r\n".join(["v=0", *lines]))


@given(st.data())
def test_a_torn_description_is_answered_or_refused(data: st.DataObject) -> None:
    whole = sdp("m=audio 4000 RTP/AVP 0 8 101", "a=rtpmap:101 telephone-event/8000", "m=image 5000 udptl t38")
    start = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(start, len(whole)))
    survives(whole[:start] + data.draw(st.text(max_size=8)) + whole[end:])
