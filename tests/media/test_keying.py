"""Which encryption an offer and a policy agree on, and in which words one is refused."""

from __future__ import annotations

import pytest

from media.crypto import OFFERED, SUITES, Crypto, Policy
from media.describer import Describer
from media.dtls import Dtls
from media.leg import LegError
from media.negotiation import choose, confirm
from media.sdp import parse
from tests.media.descriptions import HERE
from tests.media.line import THERE, sdp

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


@pytest.mark.parametrize("policy", ["off", "accept", "demand", "dtls"])
@pytest.mark.parametrize("profile", ["RTP/AVP", "RTP/AVPF", "RTP/SAVP", "RTP/SAVPF"])
@pytest.mark.parametrize("keyed", [True, False])
def test_offer_and_policy_make_the_answer(policy: Policy, profile: str, keyed: bool) -> None:
    """Off: never keys. Accept: encrypted where keys are offered, plain where the profile is. Demand: never without.

    DTLS is what our own offers are made of then; what others offer is taken as where encryption is demanded.
    """
    text, secure = secured(*([CM_80] if keyed else []), profile=profile), "SAVP" in profile
    if (policy == "off" and secure) or (policy in ("demand", "dtls") and not keyed) or (secure and not keyed):
        with pytest.raises(LegError, match=f"the offer's audio is '?{profile}"):
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
            "the offer's audio is UDP/TLS/RTP/SAVPF, without an a=fingerprint of sha-256",
        ),
        (
            secured(profile="RTP/SAVPQ"),
            "demand",
            "SAVPQ'; this agent speaks RTP/SAVP and RTP/SAVPF and UDP/TLS",
        ),
        (secured(profile="UDP/TLS/RTP/SAVP"), "off", "SAVP'; this agent speaks RTP/AVP and RTP/AVPF"),
        (secured(CM_80), "off", "'RTP/SAVP'; this agent speaks RTP/AVP and RTP/AVPF"),
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
    assert "m=audio 16384 RTP/SAVP 96 9 0 8 101 102" in text
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


# --- by DTLS -------------------------------------------------------------------------------------------------------

PRINT = "a=fingerprint:sha-256 " + ":".join(["0A"] * 32)


@pytest.mark.parametrize("policy", ["accept", "demand", "dtls"])
@pytest.mark.parametrize("profile", ["UDP/TLS/RTP/SAVP", "UDP/TLS/RTP/SAVPF", "RTP/SAVPF"])
@pytest.mark.parametrize(("setup", "ours"), [("actpass", "active"), ("active", "passive"), ("passive", "active")])
def test_a_handshake_is_agreed_where_a_fingerprint_is(policy: Policy, profile: str, setup: str, ours: str) -> None:
    """RTP/SAVPF without a=crypto too: so it was written before RFC 5764 named another profile."""
    text = secured(profile=profile, more=(PRINT, f"a=setup:{setup}"))
    stream, describer = choose(parse(text), THERE, policy), Describer(7, policy)
    answer = describer.answer(parse(text), stream, HERE, 16_384)
    assert stream.crypto is None and stream.dtls is not None and stream.dtls.setup == ours
    assert f"m=audio 16384 {profile} 0\r\n" in answer and f"a=setup:{ours}\r\n" in answer
    assert describer.identity is not None and f"a=fingerprint:{describer.identity.fingerprint}" in answer


def test_a_fingerprint_of_the_whole_session_will_do_and_keys_go_before_it() -> None:
    text = sdp("m=audio 4000 UDP/TLS/RTP/SAVP 0", session=(PRINT, "a=setup:actpass"))
    assert choose(parse(text), THERE, "accept").dtls is not None
    both = choose(parse(secured(CM_80, more=(PRINT, "a=setup:actpass"))), THERE, "accept")
    assert both.crypto == THEIRS[CM_80] and both.dtls is None


@pytest.mark.parametrize(("setup", "ours"), [("active", "passive"), ("passive", "active")])
@pytest.mark.parametrize("profile", ["UDP/TLS/RTP/SAVP", "UDP/TLS/RTP/SAVPF"])
def test_our_own_offer_is_by_dtls_where_the_policy_has_it(profile: str, setup: str, ours: str) -> None:
    describer = Describer(7, "dtls")
    text = describer.offer(HERE, 16_384)
    assert describer.offer(HERE, 16_384) == text
    assert describer.identity is not None
    assert "m=audio 16384 UDP/TLS/RTP/SAVP 96 9 0 8 101 102\r\n" in text and not cryptos(text)
    assert f"a=setup:actpass\r\na=fingerprint:{describer.identity.fingerprint}\r\n" in text
    answer = parse(secured(profile=profile, more=(PRINT, f"a=setup:{setup}")))
    stream = confirm(parse(text), answer, THERE, "dtls")
    assert stream.dtls is not None and stream.dtls.setup == ours
    describer.accepted(answer, stream)
    again = describer.offer(HERE, 16_384)
    assert f"m=audio 16384 {profile} " in again and f"a=fingerprint:{describer.identity.fingerprint}" in again


@pytest.mark.parametrize(
    ("theirs", "said"),
    [
        (sdp("m=audio 4000 RTP/AVP 0"), "'RTP/AVP', our offer's UDP/TLS/RTP/SAVP"),
        (secured(CM_80), "'RTP/SAVP', our offer's UDP/TLS/RTP/SAVP"),
        (secured(profile="UDP/TLS/RTP/SAVP"), "the answer's audio is UDP/TLS/RTP/SAVP, without an a=fingerprint"),
        (secured(profile="UDP/TLS/RTP/SAVP", more=(PRINT,)), "without an a=setup"),
    ],
)
def test_an_answer_without_the_handshake_that_we_offer_is_refused(theirs: str, said: str) -> None:
    with pytest.raises(LegError, match=said):
        confirm(parse(Describer(7, "dtls").offer(HERE, 16_384)), parse(theirs), THERE, "dtls")


def test_what_they_offered_by_keys_goes_on_by_keys() -> None:
    describer = Describer(7, "dtls")
    first = reply(secured(CM_80), "dtls", describer)[1]
    text = describer.offer(HERE, 16_384)
    assert "RTP/SAVP 9" in text and cryptos(text) == [first] and "fingerprint" not in text


def test_our_part_stays_what_it_was() -> None:
    offer = parse(secured(profile="UDP/TLS/RTP/SAVP", more=(PRINT, "a=setup:actpass")))
    assert [choose(offer, THERE, "accept", client=client).dtls for client in (True, False)] == [
        Dtls.parse([PRINT.removeprefix("a=fingerprint:")], "actpass", client) for client in (True, False)
    ]
