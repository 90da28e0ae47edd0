"""grammar.py: URIs and addresses as phones write them, and as liars do."""

from __future__ import annotations

import pytest

from signaling.sip.grammar import (
    clean,
    host_port,
    parse_address,
    parse_uri,
    part_fields,
    readable,
    seconds_of,
    split,
    split_address,
)


@pytest.mark.parametrize(
    ("value", "user", "host"),
    [
        ("SIP:alice@Example.com", "alice", "Example.com"),
        ("sip:a#b@host", "a#b", "host"),
        ("sip:alice@my_pbx:5062", "alice", "my_pbx"),
        ("sip:alice@pbx1", "alice", "pbx1"),
        ("sip:3f2a", None, "3f2a"),
        ("sip:alice@[2001:db8::1]:5062", "alice", "[2001:db8::1]"),
        ("sip:alice@host?Replaces=x%3By", "alice", "host"),
        ("tel:+1-555-0100;ext=1", "+1-555-0100", ""),
        ("isbn:2983792873", "2983792873", ""),
    ],
)
def test_uris_as_phones_write_them(value: str, user: str | None, host: str) -> None:
    uri = parse_uri(value)
    assert (uri.user, uri.host) == (user, host)


@pytest.mark.parametrize(
    "value", ["", "sip:", "sip", "sip:a b@c", "sip:a@b:0", "sip:a@b:x", "sip:<a@b>", "1ip:a@b", "sip:a@b;self=1"]
)
def test_uris_that_are_none(value: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_uri(value)


@pytest.mark.parametrize(
    ("value", "name", "uri"),
    [
        ("sip:a@b;tag=1", "", "sip:a@b"),
        ("<sip:a@b;lr>;tag=1", "", "sip:a@b;lr"),
        ("Al Ice <sip:a@b>;tag=1", "Al Ice", "sip:a@b"),
        ("B\u00fcro, 2. Stock <sip:a@b>;tag=1", "B\u00fcro, 2. Stock", "sip:a@b"),
        ('"x <sip:boss@evil>" <sip:a@b>;tag=1', "x <sip:boss@evil>", "sip:a@b"),
        (r'"x\" <sip:boss@evil>" <sip:a@b>;tag=1', 'x" <sip:boss@evil>', "sip:a@b"),
        (r'"a \\" <sip:a@b> ;  tag = 1', "a \\", "sip:a@b"),
    ],
)
def test_the_identity_is_never_read_from_a_display_name(value: str, name: str, uri: str) -> None:
    address = parse_address(value)
    assert (address.name, split_address(value)[1], address.parameters["tag"]) == (name, uri, "1")


def test_split_respects_quotes_and_brackets() -> None:
    assert split(r'"a,\"b" <sip:c,d>, e,,f') == [r'"a,\"b" <sip:c,d>', "e", "f"]


def test_addresses_as_text() -> None:
    assert host_port("192.0.2.1", 5060) == "192.0.2.1:5060"
    assert host_port("2001:db8::1", 5060) == "[2001:db8::1]:5060"


def test_addresses_that_could_be_sent_to() -> None:
    assert readable(("<sip:p1;lr>", "sip:p0")) and readable(())
    assert not readable(("<sip:p1;lr>", "<sip:p0"))
    assert not readable(("<sip:p1:70000;lr>",))


def test_text_of_a_peer_can_be_shown() -> None:
    assert clean("a\x1b[2Jb\u202e\udcff c") == "a[2Jb c"
    assert clean("x" * 500) == "x" * 200


@pytest.mark.parametrize(
    ("text", "seconds"), [("120", 120), ("5 (maintenance)", 5), ("0", 0), ("", None), ("x", None), ("1234567890", None)]
)
def test_seconds_at_the_beginning_of_a_field(text: str, seconds: int | None) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize(
    ("uri", "parts"),
    [
        ("sip:a@b", ("sip:a@b", "")),
        ("sip:a@b;x=y?Replaces=c%40d", ("sip:a@b;x=y", "Replaces=c%40d")),
        ("sip:a@b?Replaces=c@d", ("sip:a@b", "Replaces=c@d")),
        ("sip:b?X=y", ("sip:b", "X=y")),
        ("sip:?x@b", ("sip:?x@b", "")),
        ("sip:a?b@c?d", ("sip:a?b@c", "d")),
    ],
)
def test_fields_are_parted_from_a_uri_and_not_from_its_user(uri: str, parts: tuple[str, str]) -> None:
    assert part_fields(uri) == parts
