"""Offer and answer: what is agreed, what is refused and in which words, and that nothing else ever comes out."""

from __future__ import annotations

import typing

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from media.crypto import OFFERED, SUITES, Crypto, Policy
from media.leg import LegError
from media.negotiation import Describer, Stream, choose, confirm
from media.sdp import Description, parse
from tests.media.line import THERE, sdp

HERE = "192.0.2.1"


def agree(text: str, source: str = THERE) -> Stream:
    return choose(parse(text), source)


def answer(text: str, source: str = THERE, describer: Describer | None = None) -> list[str]:
    """The lines of our answer."""
    offer = parse(text)
    return (describer or Describer(7)).answer(offer, choose(offer, source), HERE, 16_384).split("\r\n")


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
    assert agree(sdp(f"m=audio 4000 RTP/AVP {formats}")).codec == codec


@pytest.mark.parametrize("rtpmap", ["96 PCMA/8000", "96 pcma/8000/1"])
def test_a_dynamic_type_keeps_the_offerers_number(rtpmap: str) -> None:
    text = sdp("m=audio 4000 RTP/AVP 96", f"a=rtpmap:{rtpmap}")
    assert "m=audio 16384 RTP/AVP 96" in answer(text)
    assert "a=rtpmap:96 PCMA/8000" in answer(text)


@pytest.mark.parametrize("rtpmap", ["9 G722/8000", "9 G722/16000"])
def test_g722_has_the_clock_8000_whatever_its_writer_believes(rtpmap: str) -> None:
    text = sdp("m=audio 4000 RTP/AVP 9", f"a=rtpmap:{rtpmap}")
    assert agree(text).codec == "G722"
    assert "a=rtpmap:9 G722/8000" in answer(text)


@pytest.mark.parametrize("rtpmap", ["0 PCMU/16000", "0 PCMU/8000/2", "0 L16/8000"])
def test_a_static_number_that_means_something_else_is_not_ours(rtpmap: str) -> None:
    assert agree(sdp("m=audio 4000 RTP/AVP 0 8", f"a=rtpmap:{rtpmap}")).codec == "PCMA"


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
        (sdp("m=audio 4000 RTP/SAVP 0"), "RTP/SAVP; this agent speaks RTP/AVP and RTP/AVPF"),
        (sdp("m=audio 4000 UDP/TLS/RTP/SAVPF 0"), "UDP/TLS/RTP/SAVPF; this agent speaks RTP/AVP"),
        (sdp("m=audio 4000 RTP/AVP 18 96", "a=rtpmap:96 opus/48000/2"), "payload type 18, OPUS/48000/2; this agent"),
        (sdp("m=audio 4000 RTP/AVP 97", "a=rtpmap:97 iLBC/8000"), "ILBC/8000; this agent speaks G722, PCMU, PCMA"),
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


# --- encryption ----------------------------------------------------------------------------------------------------

CM_80, CM_32, GCM_128, GCM_256 = SUITES
THEIRS = {suite: Crypto.generate(tag, suite) for tag, suite in enumerate(SUITES, 3)}


def secured(*suites: str, profile: str = "RTP/SAVP", more: tuple[str, ...] = ()) -> str:
    cryptos = [f"a=crypto:{THEIRS[suite].attribute()}" for suite in suites]
    return sdp(f"m=audio 4000 {profile} 0", *cryptos, *more)


def reply(text: str, srtp: Policy, describer: Describer | None = None) -> tuple[str, Crypto | None]:
    """The m= line of our answer, and its a=crypto."""
    offer = parse(text)
    ours = (describer or Describer(7, srtp)).answer(offer, choose(offer, THERE, srtp), HERE, 16_384)
    cryptos = [line.removeprefix("a=crypto:") for line in ours.split("\r\n") if line.startswith("a=crypto")]
    assert len(cryptos) < 2
    return ours.split("\r\n")[5], Crypto.parse(cryptos[0]) if cryptos else None


@pytest.mark.parametrize("policy", ["off", "accept", "demand"])
@pytest.mark.parametrize("profile", ["RTP/AVP", "RTP/AVPF", "RTP/SAVP", "RTP/SAVPF"])
@pytest.mark.parametrize("keyed", [True, False])
def test_offer_and_policy_make_the_answer(policy: Policy, profile: str, keyed: bool) -> None:
    """Off: never keys. Accept: encrypted where keys are offered, plain where the profile is. Demand: never without."""
    text, secure = secured(*([CM_80] if keyed else []), profile=profile), "SAVP" in profile
    if (policy == "off" and secure) or (policy == "demand" and not keyed) or (secure and not keyed):
        with pytest.raises(LegError, match=f"the offer's audio is {profile}"):
            reply(text, policy)
        return
    line, crypto = reply(text, policy)
    assert line == f"m=audio 16384 {profile} 0"
    assert (crypto is not None) is (keyed and policy != "off")
    assert choose(parse(text), THERE, policy).crypto == (THEIRS[CM_80] if crypto else None)
    if crypto:
        assert (crypto.tag, crypto.suite) == (THEIRS[CM_80].tag, CM_80)
        assert crypto.key != THEIRS[CM_80].key


@pytest.mark.parametrize("suites", [(GCM_256, CM_80), (CM_80, GCM_256), (CM_32,), (GCM_128, CM_32)])
def test_the_offerers_order_of_suites_decides(suites: tuple[str, ...]) -> None:
    crypto = reply(secured(*suites), "accept")[1]
    assert crypto is not None
    assert (crypto.tag, crypto.suite) == (THEIRS[suites[0]].tag, suites[0])


def test_attributes_that_will_not_do_are_passed_over() -> None:
    bad = f"a=crypto:1 F8_128_HMAC_SHA1_80 inline:{'A' * 40}", f"a=crypto:2 {CM_80} inline:c2VjcmV0"
    text = secured(more=(*bad, f"a=crypto:{THEIRS[CM_32].attribute()}"))
    crypto = reply(text, "demand")[1]
    assert crypto is not None and crypto.tag == THEIRS[CM_32].tag


@pytest.mark.parametrize(
    ("text", "policy", "said"),
    [
        (
            secured(profile="RTP/AVP"),
            "demand",
            "RTP/AVP, without a=crypto; this agent demands encryption by a=crypto of",
        ),
        (secured(), "accept", "RTP/SAVP, without a=crypto; this agent encrypts by a=crypto of AEAD_AES_256_GCM, AEAD_"),
        (
            secured(more=(f"a=crypto:2 {CM_80} inline:c2VjcmV0",)),
            "accept",
            f"none of its a=crypto will do: a=crypto:2 {CM_80} has a key and salt of 6 bytes, not 30; this agent",
        ),
        (
            secured(profile="UDP/TLS/RTP/SAVPF"),
            "accept",
            "SAVPF; this agent speaks RTP/AVP and RTP/AVPF and RTP/SAVP and",
        ),
        (secured(profile="UDP/TLS/RTP/SAVPF"), "demand", "SAVPF; this agent speaks RTP/SAVP and RTP/SAVPF"),
        (secured(CM_80), "off", "RTP/SAVP; this agent speaks RTP/AVP and RTP/AVPF"),
    ],
)
def test_refusals_say_which_encryption_would_be_right(text: str, policy: Policy, said: str) -> None:
    with pytest.raises(LegError, match=said) as caught:
        choose(parse(text), THERE, policy)
    assert "c2Vj" not in str(caught.value)


@pytest.mark.parametrize(("policy", "number"), [("off", 1), ("accept", 0), ("demand", 0)])
def test_of_an_encrypted_and_a_plain_stream_the_first_that_is_allowed_is_taken(policy: Policy, number: int) -> None:
    both = sdp("m=audio 4000 RTP/SAVP 0", f"a=crypto:{THEIRS[CM_80].attribute()}", "m=audio 4002 RTP/AVP 0")
    assert choose(parse(both), THERE, policy).number == number


def test_our_key_stays_through_holds_and_through_another_key_of_theirs() -> None:
    describer = Describer(7, "accept")
    first = reply(secured(CM_80), "accept", describer)[1]
    again = f"a=crypto:{Crypto.generate(9, CM_80).attribute()}"
    assert reply(secured(CM_80, more=("a=sendonly",)), "accept", describer)[1] == first
    assert reply(secured(CM_80, more=("c=IN IP4 0.0.0.0",)), "accept", describer)[1] == first
    assert reply(secured(CM_80), "accept", describer)[1] == first
    changed = reply(secured(more=(again,)), "accept", describer)[1]
    assert first is not None and changed is not None
    assert (changed.tag, changed.key) == (9, first.key)


def test_our_key_is_new_for_another_suite_another_party_and_after_a_plain_time() -> None:
    describer = Describer(7, "accept")
    keys = []
    moved = secured(more=(f"a=crypto:{Crypto.generate(9, CM_32).attribute()}",)).replace("audio 4000", "audio 5000")
    for text in (secured(CM_80), secured(CM_32), moved, secured(profile="RTP/AVP"), moved):
        crypto = reply(text, "accept", describer)[1]
        keys += [crypto.key] if crypto else []
    assert len(set(keys)) == 4
    assert describer.crypto is not None and describer.crypto.key == keys[-1]


def test_an_answer_with_the_same_key_is_the_same_text() -> None:
    describer, offer = Describer(7, "accept"), parse(secured(CM_80))
    texts = {describer.answer(offer, choose(offer, THERE, "accept"), HERE, 16_384) for _ in range(3)}
    assert len(texts) == 1


def cryptos(text: str) -> list[Crypto]:
    return [Crypto.parse(value) for name, value in parse(text).media[0].attributes if name == "crypto"]


def test_encryption_is_offered_where_it_is_demanded_and_chosen_by_number() -> None:
    describer = Describer(7, "demand")
    text = describer.offer(HERE, 16_384)
    assert describer.offer(HERE, 16_384) == text
    assert "m=audio 16384 RTP/SAVP 9 0 8 101" in text
    ours = cryptos(text)
    assert [crypto.suite for crypto in ours] == list(OFFERED)
    assert len({crypto.key for crypto in ours}) == len(ours)
    theirs = Crypto.generate(3, CM_80)
    answer = parse(sdp("m=audio 4000 RTP/SAVP 0", f"a=crypto:{theirs.attribute()}"))
    stream = confirm(parse(text), answer, THERE, "demand")
    assert (stream.crypto, stream.profile) == (theirs, "RTP/SAVP")
    describer.accepted(answer, stream)
    assert describer.crypto == ours[2]
    assert cryptos(describer.offer(HERE, 16_384)) == [ours[2]]  # in mid-call: the key that it has


@pytest.mark.parametrize("policy", ["off", "accept"])
def test_a_plain_offer_is_answered_plain_whatever_else_the_answer_says(policy: Policy) -> None:
    describer = Describer(7, policy)
    text = describer.offer(HERE, 16_384)
    assert "RTP/AVP 9" in text and not cryptos(text)
    answer = parse(secured(CM_80, profile="RTP/AVP"))
    stream = confirm(parse(text), answer, THERE, policy)
    describer.accepted(answer, stream)
    assert stream.crypto is None and describer.crypto is None


def test_a_stream_that_became_encrypted_or_plain_is_offered_as_that() -> None:
    describer = Describer(7, "accept")
    first = reply(secured(CM_80, profile="RTP/AVP"), "accept", describer)[1]
    text = describer.offer(HERE, 16_384)
    assert "RTP/AVP 9" in text and cryptos(text) == [first]
    plain = parse(sdp("m=audio 4000 RTP/AVP 0"))
    describer.accepted(plain, confirm(parse(text), plain, THERE, "accept"))
    assert describer.crypto is None and not cryptos(describer.offer(HERE, 16_384))


@pytest.mark.parametrize(
    ("theirs", "said"),
    [
        (sdp("m=audio 4000 RTP/SAVP 0"), "the answer has no a=crypto; our offer has AEAD_AES_256_GCM, AEAD"),
        (sdp("m=audio 4000 RTP/AVP 0"), "'RTP/AVP', our offer's RTP/SAVP"),
        (secured(more=(f"a=crypto:{Crypto.generate(3, CM_32).attribute()}",)), "a=crypto is none of our offer's; our"),
        (sdp("m=audio 4000 RTP/SAVP 0", f"a=crypto:3 {CM_80} inline:c2VjcmV0"), "6 bytes, not 30; our offer has"),
    ],
)
def test_an_answer_without_the_encryption_that_we_offer_is_refused(theirs: str, said: str) -> None:
    with pytest.raises(LegError, match=said):
        confirm(parse(Describer(7, "demand").offer(HERE, 16_384)), parse(theirs), THERE, "demand")


def test_an_answer_may_not_make_plain_what_is_demanded() -> None:
    describer = Describer(7, "demand")
    reply(secured(CM_80, profile="RTP/AVP"), "demand", describer)
    with pytest.raises(LegError, match="the answer has no a=crypto"):
        confirm(parse(describer.offer(HERE, 16_384)), parse(sdp("m=audio 4000 RTP/AVP 0")), THERE, "demand")


def test_no_repr_and_no_fault_tells_a_key() -> None:
    offer = parse(secured(CM_80))
    key = THEIRS[CM_80].attribute().rpartition(":")[2]
    assert key in dict(offer.media[0].attributes)["crypto"]
    assert key not in repr(offer) + repr(choose(offer, THERE, "accept"))
    with pytest.raises(LegError) as caught:
        parse(f"v=0\r\na crypto:1 x inline:{key}")
    assert "inline:***" in str(caught.value) and key[:4] not in str(caught.value)


# --- the o= line ---------------------------------------------------------------------------------------------------


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
        "m=audio 16384 RTP/AVP 9 0 8 101",
        "a=rtpmap:9 G722/8000",
        "a=rtpmap:0 PCMU/8000",
        "a=rtpmap:8 PCMA/8000",
        "a=rtpmap:101 telephone-event/8000",
        "a=fmtp:101 0-15",
        "a=ptime:20",
        "a=sendrecv",
        "",
    ]


def test_their_answer_decides_the_codec() -> None:
    theirs = parse(sdp("m=audio 4000 RTP/AVP 8 101", "a=rtpmap:101 telephone-event/8000", "a=ptime:40"))
    stream = confirm(offered(), theirs, THERE)
    assert (stream.codec, stream.payload_type, stream.event_type, stream.ptime_ms) == ("PCMA", 8, 101, 40)
    assert stream.remote == (THERE, 4000)


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
        (sdp("m=audio 4000 RTP/AVP 18"), "payload type 18, our offer G722/8000"),
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
        "m=audio 16384 RTP/AVP 9 0 8 100",
        "m=video 0 RTP/AVP 96",
    ]
    theirs = parse(sdp("m=image 0 udptl t38", "m=audio 4000 RTP/AVP 0", "m=video 0 RTP/AVP 96"))
    stream = confirm(parse("\r\n".join(ours)), theirs, THERE)
    assert (stream.number, stream.codec, stream.event_type) == (1, "PCMU", None)


# --- anything at all -----------------------------------------------------------------------------------------------

WORDS = st.sampled_from(
    ["0", "8", "9", "101", "4000", "65536", "-1", "audio", "RTP/AVP", "RTP/SAVP", "IN", "IP4", "IP6", "::", "0.0.0.0"]
    + ["198.51.100.7", "rtpmap:", "101 telephone-event/8000", "ptime:", "rtcp:", "rtcp-mux", "sendonly", "/", "\x00"]
    + ["9" * 400, "\u0661", "fe80::1%x", "crypto:", CM_80, f"crypto:{THEIRS[CM_80].attribute()}", "inline:A|2^20"]
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
    assert stream.crypto or srtp != "demand"
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
@example(["c=IN IP4 198.51.100.7", "m=audio 4000 RTP/AVP 0", "a=rtcp:5 IN IP4 x", "a=ptime:\u0661"])
def test_any_lines_are_answered_or_refused(lines: list[str]) -> None:
    survives("\r\n".join(["v=0", *lines]))


@given(st.data())
def test_a_torn_description_is_answered_or_refused(data: st.DataObject) -> None:
    whole = sdp("m=audio 4000 RTP/AVP 0 8 101", "a=rtpmap:101 telephone-event/8000", "m=image 5000 udptl t38")
    start = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(start, len(whole)))
    survives(whole[:start] + data.draw(st.text(max_size=8)) + whole[end:])
