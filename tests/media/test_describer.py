"""Our side of offers and answers: what is written, and when it counts as another."""

from __future__ import annotations

import pytest

from media.codec import G722, OPUS, PCMA, PCMU
from media.describer import Describer
from media.leg import LegError
from media.negotiation import confirm
from media.sdp import Description, parse
from tests.media.descriptions import HERE, answer
from tests.media.line import THERE, sdp


def test_the_same_answer_is_the_same_text_and_a_change_counts_up() -> None:
    describer = Describer(7)
    plain, held = sdp("m=audio 4000 RTP/AVP 0"), sdp("m=audio 4000 RTP/AVP 0", "a=sendonly")
    first = answer(plain, describer=describer)
    assert answer(plain, describer=describer) == first
    assert answer(held, describer=describer)[1] == f"o=- 7 2 IN IP4 {HERE}"
    resumed = answer(plain, describer=describer)
    assert resumed[1] == f"o=- 7 3 IN IP4 {HERE}"
    assert resumed[2:] == first[2:]


# --- as the offerer ------------------------------------------------------------------------------------------------


def offered(describer: Describer | None = None) -> Description:
    return parse((describer or Describer(7)).offer(HERE, 16_384))


def test_our_offer_has_all_we_speak_best_first() -> None:
    text = Describer(7).offer(HERE, 16_384)
    assert text.split("\r\n")[5:] == [
        "m=audio 16384 RTP/AVP 96 9 0 8 101 102",
        "a=rtpmap:96 opus/48000/2",
        "a=fmtp:96 useinbandfec=1;maxplaybackrate=24000;stereo=0;sprop-stereo=0",
        "a=rtpmap:9 G722/8000",
        "a=rtpmap:0 PCMU/8000",
        "a=rtpmap:8 PCMA/8000",
        "a=rtpmap:101 telephone-event/8000",
        "a=fmtp:101 0-15",
        "a=rtpmap:102 telephone-event/48000",
        "a=fmtp:102 0-15",
        "a=ptime:20",
        "a=sendrecv",
        "a=rtcp-mux",
        "",
    ]


def test_their_answer_decides_the_codec() -> None:
    theirs = parse(sdp("m=audio 4000 RTP/AVP 8 101", "a=rtpmap:101 telephone-event/8000", "a=ptime:40"))
    stream = confirm(offered(), theirs, THERE)
    assert (stream.codec.name, stream.payload_type, stream.event_type, stream.ptime_ms) == ("PCMA", 8, 101, 40)
    assert stream.remote == (THERE, 4000)


def test_an_answer_that_keeps_several_codecs_may_send_in_any_of_them() -> None:
    theirs = parse(
        sdp("m=audio 4000 RTP/AVP 8 0 18 97 101", "a=rtpmap:97 G722/8000", "a=rtpmap:101 telephone-event/8000")
    )
    stream = confirm(offered(), theirs, THERE)
    assert stream.codec is PCMA and stream.payload_types == {8}
    assert stream.heard_as(8) == (PCMA, frozenset({8}))
    assert stream.heard_as(0) == (PCMU, frozenset({0}))
    assert stream.heard_as(97) == stream.heard_as(9) == (G722, frozenset({9, 97}))
    assert stream.heard_as(18) is None and stream.heard_as(101) is None


def test_an_answer_with_numbers_of_its_own_is_understood_both_ways() -> None:
    theirs = parse(
        sdp("m=audio 4000 RTP/AVP 97 96", "a=rtpmap:97 G722/8000", "a=rtpmap:96 telephone-event/8000", "a=recvonly")
    )
    stream = confirm(offered(), theirs, THERE)
    assert (stream.payload_type, stream.event_type) == (97, 96)
    assert stream.payload_types == {9, 97}
    assert stream.event_types == {96, 101}
    assert (stream.direction, stream.held) == ("sendonly", False)


@pytest.mark.parametrize(
    ("theirs", "said"),
    [
        (sdp(), "0 m= lines, our offer has 1"),
        (sdp("m=audio 0 RTP/AVP 0"), "refuses our audio"),
        (sdp("m=audio 4000 RTP/SAVP 0"), "'RTP/SAVP', our offer's RTP/AVP"),
        (sdp("m=audio 4000 RTP/AVP 18"), "payload type 18, our offer OPUS/48000/2"),
    ],
)
def test_an_answer_that_does_not_fit_our_offer_is_refused(theirs: str, said: str) -> None:
    with pytest.raises(LegError, match=said):
        confirm(offered(), parse(theirs), THERE)


def test_an_offer_after_an_answer_keeps_streams_and_numbers() -> None:
    describer = Describer(7)
    answer(
        sdp(
            "m=image 6000 udptl t38",
            "m=audio 4000 RTP/AVP 8 100",
            "a=rtpmap:100 telephone-event/8000",
            "m=video 5000 RTP/AVP 96",
        ),
        describer=describer,
    )
    ours = describer.offer(HERE, 16_384).split("\r\n")
    assert ours[1] == f"o=- 7 2 IN IP4 {HERE}"
    assert [line for line in ours if line.startswith("m=")] == [
        "m=image 0 udptl t38",
        "m=audio 16384 RTP/AVP 96 9 0 8 100 102",
        "m=video 0 RTP/AVP 96",
    ]
    theirs = parse(sdp("m=image 0 udptl t38", "m=audio 4000 RTP/AVP 0", "m=video 0 RTP/AVP 96"))
    stream = confirm(parse("\r\n".join(ours)), theirs, THERE)
    assert (stream.number, stream.codec.name, stream.event_type) == (1, "PCMU", None)


def test_numbers_that_a_session_has_given_a_meaning_are_not_given_another() -> None:
    """Their PCMA is our Opus' 96, and their digits are where we would have those at 48 kHz."""
    describer = Describer(7)
    lines = "a=rtpmap:96 PCMA/8000", "a=rtpmap:102 telephone-event/8000"
    answer(sdp("m=audio 4000 RTP/AVP 96 102", *lines), describer=describer)
    offer = describer.offer(HERE, 16_384)
    found = parse(offer).media[0].codecs()
    assert found[96] == "PCMA/8000" and found[102] == "TELEPHONE-EVENT/8000"
    assert sorted(found.values()) == [
        *("G722/8000", "OPUS/48000/2", "PCMA/8000", "PCMU/8000"),
        *("TELEPHONE-EVENT/48000", "TELEPHONE-EVENT/8000"),
    ]


def test_numbers_of_what_was_offered_and_not_taken_keep_their_meaning_too() -> None:
    """Also where it was in an offer before the last; ours of the same codec takes the number that it has."""
    describer = Describer(7)
    answer(
        sdp("m=audio 4000 RTP/AVP 0 96 111", "a=rtpmap:96 AMR-WB/16000", "a=rtpmap:111 opus/48000/2"),
        describer=describer,
    )
    answer(sdp("m=audio 4000 RTP/AVP 0"), describer=describer)
    found = parse(describer.offer(HERE, 16_384)).media[0].codecs()
    assert 96 not in found and found[111] == "OPUS/48000/2"


def test_what_no_number_is_left_for_is_not_offered() -> None:
    others = [*range(96, 128), *range(35, 64)]
    describer = Describer(7)
    answer(
        sdp(
            "m=audio 4000 RTP/AVP 0 " + " ".join(map(str, others)),
            *(f"a=rtpmap:{number} AMR/8000" for number in others),
        ),
        describer=describer,
    )
    assert list(parse(describer.offer(HERE, 16_384)).media[0].codecs()) == [9, 0, 8]


def test_of_codecs_that_were_named_only_these_are_offered_in_that_order() -> None:
    offer = Describer(7, codecs=(PCMA, OPUS)).offer(HERE, 16_384)
    assert "m=audio 16384 RTP/AVP 8 96 101 102\r\n" in offer
    assert "m=audio 16384 RTP/AVP 8 101\r\n" in Describer(7, codecs=(PCMA,)).offer(HERE, 16_384)


def test_our_hold_is_offered_as_sendonly() -> None:
    describer = Describer(7)
    assert "a=sendonly\r\n" in describer.offer(HERE, 16_384, hold=True)
    assert "a=sendrecv\r\n" in describer.offer(HERE, 16_384)
