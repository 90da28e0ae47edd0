"""trunk.py: what a trunk may be, what its patterns match, and how many calls it has."""

from __future__ import annotations

import time
from typing import Any

import pytest

from signaling.sip.digest import Login
from signaling.sip.trunk import Lines, Trunk, check_pattern, matches

PBX: dict[str, Any] = {"name": "pbx", "host": "pbx.example.com", "user": "1000", "password": "wonderland"}


def test_three_things_make_a_trunk() -> None:
    trunk = Trunk(**PBX)
    assert trunk.login == Login("1000", "wonderland")
    assert trunk.address == "sip:1000@pbx.example.com"
    assert trunk.uri("200") == "sip:200@pbx.example.com"
    assert trunk.next_hop == "sip:pbx.example.com"
    assert trunk.outbound == () and not trunk.refer_in


def test_a_trunk_that_knows_us_by_our_address_has_no_login() -> None:
    trunk = Trunk("carrier", "192.0.2.7", port=5080, caller_id="+49301234")
    assert trunk.login is None
    assert trunk.address == "sip:+49301234@192.0.2.7"
    assert trunk.uri("+4930") == "sip:+4930@192.0.2.7:5080"
    assert Trunk("carrier", "192.0.2.7").address == "sip:anonymous@192.0.2.7"


def test_the_login_may_have_another_name_than_the_number() -> None:
    trunk = Trunk(**PBX, auth_user="device 7")
    assert trunk.login == Login("device 7", "wonderland")
    assert trunk.address == "sip:1000@pbx.example.com"


@pytest.mark.parametrize(
    ("more", "hop"),
    [
        ({"transport": "tls"}, "sip:pbx.example.com;transport=tls"),
        ({"transport": "udp"}, "sip:pbx.example.com;transport=udp"),  # whatever DNS says
        ({"proxy": "192.0.2.7:5070", "transport": "tcp"}, "sip:192.0.2.7:5070;transport=tcp"),
        ({"host": "[2001:db8::7]", "port": 5062}, "sip:[2001:db8::7]:5062"),
    ],
)
def test_where_its_requests_go(more: dict[str, Any], hop: str) -> None:
    trunk = Trunk(**PBX | more)
    assert trunk.next_hop == hop
    assert trunk.routes == ((f"<{hop};lr>",) if trunk.proxy else ())


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"host": "pbx example"}, "host 'pbx example' is neither a domain nor an address"),
        ({"host": "sip:pbx.example.com"}, "is neither a domain nor an address, such as sip.example.com"),
        ({"host": "2001:db8::7"}, "is neither a domain nor an address"),
        ({"proxy": "edge.example.com:99999"}, "proxy 'edge.example.com:99999' is not like"),
        ({"user": 'x@evil"'}, "has more than letters, digits"),
        ({"caller_id": "+49 30"}, "caller_id '\\+49 30' has more than letters, digits"),
        ({"user": ""}, "there is a password, but no user"),
        ({"password": "", "register": True}, "registering takes a user and a password"),
        ({"auth_user": 'a"b'}, "a user name is not empty and has neither quotes"),
        ({"numbers": ("+49 30",)}, "'\\+49 30' is no pattern of numbers"),
        ({"outbound": ("",)}, "'' is no pattern of numbers"),
        ({"outbound": ("[",)}, "is no pattern of numbers, such as \\+4930\\* or !\\+49900\\*"),
    ],
)
def test_what_could_not_work_is_said_at_once(wrong: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Trunk(**PBX | wrong)


def test_the_password_is_in_no_repr() -> None:
    assert "wonderland" not in repr(Trunk(**PBX)) + repr(Trunk(**PBX).login)


@pytest.mark.parametrize(
    ("patterns", "number", "allowed"),
    [
        ((), "+4930", False),
        (("+4930*",), "+49301234", True),
        (("+4930*",), "+493", False),
        (("+4930*",), "x+4930", False),
        (("+49*", "!+49900*"), "+4930", True),
        (("+49*", "!+49900*"), "+4990012345", False),
        (("!+49900*", "+49*"), "+4990012345", False),
        (("!+49900*",), "+4930", False),
        (("1??",), "112", True),
        (("1??",), "1123", False),
        (("10[0-4]",), "103", True),
        (("10[0-4]",), "105", False),
        (("*",), "anybody", True),
    ],
)
def test_patterns(patterns: tuple[str, ...], number: str, allowed: bool) -> None:
    assert matches(patterns, number) is allowed


def test_no_pattern_takes_long() -> None:
    pattern = "*a" * 30 + "b"
    check_pattern(pattern)
    began = time.process_time()
    assert not matches((pattern,), "a" * 64)
    assert time.process_time() - began < 0.5


def test_numbers_that_it_may_call() -> None:
    assert Trunk(**PBX).serves("anything")
    trunk = Trunk(**PBX, register=True, numbers=("+4930123*",))
    assert trunk.serves("+49301234") and trunk.serves("+49301234;npdi=yes")
    assert trunk.serves("1000"), "a registrar calls the contact that was registered, by our own name"
    assert not trunk.serves("+49401234")
    assert not Trunk(**PBX, numbers=("+4930123*",)).serves("1000")


def test_lines_are_counted_by_trunk() -> None:
    lines = Lines()
    small, large = Trunk("small", "a.example", max_calls=2), Trunk("large", "b.example")
    for _ in range(2):
        assert not lines.is_full(small)
        lines.take(small)
        lines.take(large)
    assert lines.is_full(small) and not lines.is_full(large)
    lines.free(small)
    assert not lines.is_full(small)
    assert (lines["small"], lines["large"], lines["none"]) == (1, 2, 0)
