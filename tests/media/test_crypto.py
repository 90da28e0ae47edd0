"""The a=crypto attribute: what is read, what is refused and in which words, and that no key is ever told."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from media.crypto import OFFERED, SUITES, Crypto
from media.leg import LegError

CM_80 = "AES_CM_128_HMAC_SHA1_80"
KEY = base64.b64encode(bytes(range(30))).decode()


def test_the_attribute_of_rfc_4568_is_read() -> None:
    """Section 4.2's example, line by line folded there."""
    read = Crypto.parse(f"1 {CM_80} inline:d0RmdmcmVCspeEc3QGZiNWpVLFJhQX1cfHAwJSoj|2^20")
    assert (read.tag, read.suite) == (1, CM_80)
    assert read.key == b"wDfvg&T+)xG7@fb5jU,RaA}\\|p0%*#"


@pytest.mark.parametrize("suite", SUITES)
def test_our_attributes_can_be_read_again_and_are_never_the_same(suite: str) -> None:
    ours = Crypto.generate(999_999_999, suite)
    assert Crypto.parse(ours.attribute()) == ours
    assert Crypto.generate(1, suite).key != ours.key
    assert len(ours.key) == SUITES[suite]


def test_every_suite_is_offered_once() -> None:
    assert sorted(OFFERED) == sorted(SUITES)


@pytest.mark.parametrize("rest", ["", "|2^20", "|2^48", "|1048576", " WSH=128", " -X=1", "|2^31 WSH=64 -Y"])
def test_lifetimes_hints_and_what_may_be_ignored(rest: str) -> None:
    assert Crypto.parse(f"7 {CM_80} inline:{KEY}{rest}").key == bytes(range(30))


def test_the_method_may_be_in_capitals_and_there_may_be_more_spaces() -> None:
    assert Crypto.parse(f"7  {CM_80}   INLINE:{KEY}").tag == 7


@pytest.mark.parametrize("suite", ["AEAD_AES_128_GCM", "AEAD_AES_256_GCM"])
def test_a_key_need_not_be_padded(suite: str) -> None:
    """As rtpengine writes it."""
    key = bytes(range(SUITES[suite]))
    padded = base64.b64encode(key).decode()
    assert padded.endswith("=")
    for text in (padded, padded.rstrip("="), f"{padded.rstrip('=')}|2^31"):
        assert Crypto.parse(f"1 {suite} inline:{text}").key == key


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("", "not a number, a suite and inline:KEY"),
        ("1", "not a number, a suite and inline:KEY"),
        (f"x {CM_80} inline:{KEY}", "not a number, a suite"),
        (f"1234567890 {CM_80} inline:{KEY}", "not a number, a suite"),
        (f"\u0661 {CM_80} inline:{KEY}", "not a number, a suite"),
        (f"1 F8_128_HMAC_SHA1_80 inline:{KEY}", "a=crypto:1 F8_128_HMAC_SHA1_80 is not a suite .*: AEAD_AES_256_GCM, "),
        (f"2 {CM_80} uri:{KEY}", f"a=crypto:2 {CM_80} has its key not inline"),
        (f"2 {CM_80} {KEY}", "not inline"),
        (f"2 {CM_80} inline:{KEY}|2^20|1:4", "master key identifier"),
        (f"2 {CM_80} inline:{KEY}|1:4", "master key identifier"),
        (f"2 {CM_80} inline:{KEY}|1:4;inline:{KEY}|2:4", "several keys"),
        (f"2 {CM_80} inline:{KEY[:-4]}", "27 bytes, not 30"),
        (f"2 AEAD_AES_256_GCM inline:{KEY}", "30 bytes, not 44"),
        (f"2 {CM_80} inline:", "0 bytes, not 30"),
        (f"2 {CM_80} inline:{KEY[:-1]}", "29 bytes, not 30"),
        (f"2 {CM_80} inline:{KEY[:-3]}", "not base64"),
        (f"2 {CM_80} inline:{KEY[:-1]}!", "not base64"),
        (f"2 {CM_80} inline:{KEY[:-1]}\u00e9", "not base64"),
        (f"2 {CM_80} inline:{KEY} KDR=1", "asks for KDR, which"),
        (f"2 {CM_80} inline:{KEY} UNENCRYPTED_SRTP", "asks for UNENCRYPTED_SRTP, which"),
        (f"2 {CM_80} inline:{KEY} UNAUTHENTICATED_SRTP", "asks for UNAUTHENTICATED_SRTP, which"),
        (f"2 {CM_80} inline:{KEY} inline:{KEY}", "asks for something of no name"),
        (f"2 {CM_80} inline:x {KEY}", "asks for something of no name"),
        (f"2 inline:{KEY} {CM_80}", r"a=crypto:2 \(no name of a suite\) is not a suite"),
        (f"2 {KEY} inline:{KEY}", r"a=crypto:2 \(no name of a suite\) is not a suite"),
        (f"2 {CM_80}\x1b[2J inline:{KEY}", r"a=crypto:2 \(no name of a suite\) is not a suite"),
    ],
)
def test_what_cannot_be_served_is_refused_in_plain_words_without_the_key(value: str, said: str) -> None:
    with pytest.raises(LegError, match=said) as caught:
        Crypto.parse(value)
    assert KEY[:12] not in str(caught.value)


def test_a_key_is_in_no_repr() -> None:
    read = Crypto.parse(f"1 {CM_80} inline:{KEY}")
    assert repr(read) == str(read) == f"Crypto(tag=1, suite='{CM_80}')"


@given(st.lists(st.sampled_from(["1", CM_80, "inline:", KEY, "|", "2^20", ";", " ", "=", "WSH=", "\x00", "1:4"])))
def test_any_attribute_is_read_or_refused(parts: list[str]) -> None:
    try:
        read = Crypto.parse("".join(parts))
    except LegError as error:
        assert str(error).isprintable() and KEY not in str(error)
        return
    assert Crypto.parse(read.attribute()) == read
