"""admission.py: from which trunk a call comes, and whether it may."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from signaling.sip.admission import MAX_HOSTS, Admission, Refused
from signaling.sip.trunk import Lines, Trunk

ACME = Trunk("acme", "sip.acme.example", peers=(ip_network("192.0.2.0/24"), ip_network("2001:db8::/32")))
HOUSE = Trunk("house", "pbx.example", user="1000", password="x", register=True)


def told(found: Trunk | Refused | None) -> tuple[str, int, str]:
    assert isinstance(found, Refused)
    return found.why, found.code, ".".join(found.setting)


def test_a_trunk_is_told_by_its_networks() -> None:
    door = Admission([ACME, HOUSE], Lines())
    assert door.admit("192.0.2.9", "anything", 0) == ACME
    assert door.admit("2001:db8::9", "anything", 0) == ACME
    assert door.admit("198.51.100.9", "anything", 0) is None
    assert door.admit("not an address", "anything", 0) is None
    assert door.knows("192.0.2.9") and not door.knows("198.51.100.9")


def test_and_by_the_addresses_that_its_name_has() -> None:
    door = Admission([ACME, HOUSE], Lines())
    assert not door.knows("203.0.113.1")
    door.learn("house", ["203.0.113.1", "203.0.113.2"])
    assert door.admit("203.0.113.2", "1000", 0) == HOUSE
    door.learn("house", ["203.0.113.3"])
    assert door.knows("203.0.113.1"), "calls from there may still go on"


def test_addresses_are_not_remembered_without_end() -> None:
    door = Admission([HOUSE], Lines())
    hosts = [f"203.0.113.{number}" for number in range(MAX_HOSTS + 1)]
    for host in hosts:
        door.learn("house", [host, hosts[1]])
    assert [host for host in hosts if not door.knows(host)] == [hosts[0]]


def test_two_accounts_at_one_address_are_told_apart_by_whom_they_call() -> None:
    first = Trunk("first", "pbx.example", user="1000", password="x", register=True)
    second = Trunk("second", "pbx.example", user="2000", password="x", register=True)
    third = Trunk("third", "pbx.example", numbers=("+4930*",))
    door = Admission([first, second, third], Lines())
    for trunk in (first, second, third):
        door.learn(trunk.name, ["203.0.113.1"])
    assert door.admit("203.0.113.1", "1000", 0) == first
    assert door.admit("203.0.113.1", "2000", 0) == second
    assert door.admit("203.0.113.1", "+49301", 0) == first, "the first that takes any number"
    door = Admission([third, second], Lines())
    for trunk in (third, second):
        door.learn(trunk.name, ["203.0.113.1"])
    assert door.admit("203.0.113.1", "elsewhere", 0) == second


def test_numbers_that_are_not_served() -> None:
    door = Admission([Trunk("a", "192.0.2.1", numbers=("+4930123*", "!+49301239"))], Lines())
    door.learn("a", ["192.0.2.1"])
    assert isinstance(door.admit("192.0.2.1", "+49301231", 0), Trunk)
    assert told(door.admit("192.0.2.1", "+49301239", 0)) == (
        "+49301239 is none of its numbers",
        404,
        "trunks.a.numbers",
    )


def test_calls_at_once_are_counted_with_those_that_we_make() -> None:
    trunk = Trunk("a", "192.0.2.1", max_calls=2)
    lines = Lines()
    door = Admission([trunk], lines)
    door.learn("a", ["192.0.2.1"])
    lines.take(trunk)  # one that we make
    admitted = door.admit("192.0.2.1", "x", 0)
    assert admitted == trunk
    assert told(door.admit("192.0.2.1", "x", 0)) == ("it has its 2 calls", 486, "trunks.a.max_calls")
    door.end(trunk)
    assert door.admit("192.0.2.1", "x", 0) == trunk
    assert lines["a"] == 2, "what was refused is not counted"


@pytest.mark.parametrize(("cps", "burst"), [(0.5, 1), (3.0, 3)])
def test_new_calls_a_second(cps: float, burst: int) -> None:
    door = Admission([Trunk("a", "192.0.2.1", cps=cps)], Lines())
    door.learn("a", ["192.0.2.1"])
    for _ in range(burst):
        assert isinstance(door.admit("192.0.2.1", "x", 10.0), Trunk)
    assert told(door.admit("192.0.2.1", "x", 10.0)) == (
        f"more than {cps:g} new calls a second",
        486,
        "trunks.a.cps",
    )
    assert isinstance(door.admit("192.0.2.1", "x", 10.0 + 1 / cps), Trunk)
