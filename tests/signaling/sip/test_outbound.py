"""outbound.py: nothing may be called until patterns allow it, and then not without end."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from signaling.sip.outbound import DAY_S, Denied, Limits, Outbound, Permit, number_of
from signaling.sip.trunk import USER, Lines, Trunk

NOON = 20_000 * DAY_S + DAY_S / 2
ACME = Trunk("acme", "sip.acme.example", outbound=("+4930*", "!+4930900*"))
HOUSE = Trunk("house", "192.0.2.7", port=5080, user="1000", outbound=("2??", "+49*"))


def policy(*trunks: Trunk, **limits: Any) -> Outbound:
    return Outbound(trunks, Limits(**limits))


def begun(outbound: Outbound, target: str, at: float = NOON, trunk: str = "") -> Permit:
    permit = outbound.begin(target, at, trunk)
    assert isinstance(permit, Permit), permit
    return permit


def refused(outbound: Outbound, target: str, at: float = NOON, trunk: str = "") -> tuple[str, str]:
    """Why, and by which setting; `allows` says the same, as long as it is not the rate."""
    denied = outbound.begin(target, at, trunk)
    assert isinstance(denied, Denied)
    if denied.setting[-1] != "cps":
        assert outbound.allows(target, at, trunk) == denied
    return str(denied), ".".join(denied.setting)


# --- patterns ------------------------------------------------------------------------------------------------------


def test_by_default_nothing_may_be_called() -> None:
    assert refused(policy(), "+4930123") == ("no pattern allows calls to +4930123 without a trunk", "trunks.*.outbound")
    bare = policy(Trunk("acme", "sip.acme.example"))
    assert refused(bare, "+4930123") == (
        "no pattern allows calls to +4930123 through trunk acme",
        "trunks.acme.outbound",
    )
    assert refused(bare, "sip:ada@sip.acme.example")[1] == "trunks.acme.outbound"
    why, setting = refused(bare, "sip:ada@elsewhere.example")
    assert (why, setting) == (
        "no pattern allows calls to ada@elsewhere.example that go through no trunk",
        "outbound.direct",
    )


@pytest.mark.parametrize(
    ("target", "trunk", "may"),
    [
        ("+4930123", "acme", True),
        ("+4940123", "acme", False),  # though house may: it is acme that would pay
        ("+4940123", "house", True),
        ("+4940123", "", True),
        ("+1900", "", False),
        ("sip:200@192.0.2.7", "house", True),
        ("sip:ada@example.com", "house", True),
        ("sip:bob@example.com", "house", False),
        ("nonsense at all", "acme", False),
    ],
)
def test_whom_the_far_end_may_be_asked_to_call(target: str, trunk: str, may: bool) -> None:
    """Be all calls of today used: it is none of ours."""
    outbound = policy(ACME, HOUSE, direct=("ada@example.com",), calls_a_day=0)
    assert (outbound.reaches(target, trunk) is None) is may


def test_a_phone_of_our_own_needs_no_pattern_but_has_its_place_in_the_day() -> None:
    outbound = Outbound((HOUSE,), Limits(calls_a_day=1), phones=("alice", "200"))
    permit = begun(outbound, "Alice")
    assert (permit.trunk, permit.phone) == (None, "alice")
    assert refused(outbound, "alice") == ("1 calls were made today, and no more may be", "outbound.calls_a_day")
    assert begun(Outbound((HOUSE,), phones=("200",)), "200").phone == "200", "before any trunk's"
    assert begun(Outbound((HOUSE,), phones=("200",)), "200", trunk="house").trunk == HOUSE


def test_a_number_goes_through_the_first_trunk_that_may_call_it() -> None:
    outbound = policy(ACME, HOUSE)
    permit = begun(outbound, "+49 (30) 12-34")
    assert (permit.trunk, permit.uri) == (ACME, "sip:+49301234@sip.acme.example")
    assert begun(outbound, "tel:+4940123").trunk == HOUSE
    assert begun(outbound, "+4930900123").trunk == HOUSE, "which acme takes back"
    assert begun(outbound, "200").uri == "sip:200@192.0.2.7:5080"
    assert refused(outbound, "+1900") == ("no pattern allows calls to +1900 through any trunk", "trunks.*.outbound")


def test_a_trunk_may_be_named() -> None:
    outbound = policy(ACME, HOUSE)
    assert begun(outbound, "+49301234", trunk="house").trunk == HOUSE
    assert refused(outbound, "200", trunk="acme")[1] == "trunks.acme.outbound"
    why, setting = refused(outbound, "200", trunk="amce")
    assert (why, setting) == ("no trunk is called 'amce'; known: acme, house", "trunks.*.host")
    assert refused(outbound, "sip:200@other.example", trunk="house") == (
        "trunk house does not reach other.example",
        "trunks.house.host",
    )


def test_a_uri_of_a_trunk_is_a_number_of_that_trunk() -> None:
    outbound = policy(ACME, HOUSE)
    assert begun(outbound, "sip:200@192.0.2.7:5080").trunk == HOUSE
    assert begun(outbound, "sip:+49301@SIP.acme.example").trunk == ACME
    assert refused(outbound, "sip:+1900@sip.acme.example")[1] == "trunks.acme.outbound"


@pytest.mark.parametrize("user", ["+4930900123", "+49-30-900123", "+49.30.900.123", "+49-30900123"])
def test_no_way_of_writing_a_number_gets_around_a_pattern(user: str) -> None:
    """ACME takes +4930900 back: parted otherwise, it is the same number still."""
    assert refused(policy(ACME), f"sip:{user}@sip.acme.example")[1] == "trunks.acme.outbound"
    assert refused(policy(ACME), user)[1] == "trunks.acme.outbound"
    direct = policy(direct=("+4930*@gateway.example", "!+4930900*@gateway.example"))
    assert refused(direct, f"sip:{user}@gateway.example")[1] == "outbound.direct"


def test_uris_through_no_trunk() -> None:
    outbound = policy(ACME, direct=("*@office.example", "ada@192.0.2.9:5070", "!fax@*"))
    permit = begun(outbound, "sip:bob@Office.example;transport=TCP")
    assert (permit.trunk, permit.uri) == (None, "sip:bob@office.example;transport=tcp")
    assert begun(outbound, "sips:bob@office.example").uri == "sips:bob@office.example"
    assert begun(outbound, "sip:ada@192.0.2.9:5070").uri == "sip:ada@192.0.2.9:5070"
    assert refused(outbound, "sip:ada@192.0.2.9")[1] == "outbound.direct"
    assert refused(outbound, "sip:fax@office.example")[1] == "outbound.direct"


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("", "is neither a number"),
        ("call home", "is neither a number"),
        ("https://example.com", "is neither a number"),
        ("sip:ada@office.example?Subject=x", "is neither a number"),
        ("sip:office.example", "the user has more than letters"),
        ("sip:x@evil.example;@office.example", "is neither a number"),
        ("sip:x%40evil.example@office.example", "the user has more than letters"),
        ("sip:+49~900@office.example", "what begins with + is a number"),
        ("sip:+49*900@office.example", "what begins with + is a number"),
        ("+49*900", "is neither a number"),
        ("sip:bob@office.example;maddr=192.0.2.66", "the only parameter that may stand in a target is transport"),
        ("sip:bob@office.example;transport=carrier-pigeon", "transport is udp, tcp or tls"),
    ],
)
def test_targets_that_are_none(target: str, why: str) -> None:
    assert why in refused(policy(direct=("*@office.example",)), target)[0]


@given(st.text(max_size=40) | st.from_regex(r"sips?:[ -~]{1,30}@[ -~]{1,20}", fullmatch=True))
@settings(max_examples=300, deadline=None)
def test_whatever_is_called_was_allowed(target: str) -> None:
    """Of any text at all, only calls to that one place come, by a URI that says so and nothing else."""
    found = policy(direct=("*@office.example",)).begin(target, NOON)
    if isinstance(found, Permit):
        scheme, _, rest = found.uri.partition(":")
        user, _, host = rest.partition("@")
        assert scheme in ("sip", "sips") and USER.fullmatch(user)
        assert host.partition(";")[0] == "office.example"


@pytest.mark.parametrize(
    ("target", "number"),
    [("+49 30 12", "+493012"), ("(030) 12-34", "0301234"), ("tel:+1-555.01", "+155501"), ("*31#", "*31#")]
    + [("sip:1@h", ""), ("+", ""), ("", ""), ("+49;phone-context=x", ""), ("1" * 33, ""), ("+4+9", "")],
)
def test_what_a_number_is(target: str, number: str) -> None:
    assert number_of(target) == number


# --- caps ----------------------------------------------------------------------------------------------------------


def test_a_trunk_has_so_many_calls_in_and_out_together() -> None:
    small = Trunk("small", "a.example", outbound=("*",), max_calls=2)
    lines = Lines()
    outbound = Outbound([small], lines=lines)
    lines.take(small)  # a call that came in
    first = begun(outbound, "1")
    assert refused(outbound, "2") == ("trunk small has its 2 calls", "trunks.small.max_calls")
    outbound.end(first, NOON)
    outbound.end(first, NOON)
    assert lines["small"] == 1
    begun(outbound, "2")


def test_one_that_is_full_is_passed_over() -> None:
    small, large = (
        Trunk("small", "a.example", outbound=("*",), max_calls=1),
        Trunk("large", "b.example", outbound=("*",)),
    )
    outbound = policy(small, large)
    assert [begun(outbound, "1").trunk for _ in range(3)] == [small, large, large]


def test_new_calls_a_second() -> None:
    outbound = policy(Trunk("slow", "a.example", outbound=("*",), cps=2))
    begun(outbound, "1")
    begun(outbound, "1")
    assert refused(outbound, "1") == ("trunk slow takes no more than 2 new calls a second", "trunks.slow.cps")
    begun(outbound, "1", NOON + 0.5)
    assert refused(outbound, "1", NOON + 0.5)[1] == "trunks.slow.cps"


def test_calls_a_day() -> None:
    outbound = policy(ACME, calls_a_day=2)
    for _ in range(2):
        outbound.end(begun(outbound, "+4930"), NOON)
    assert refused(outbound, "+4930") == ("2 calls were made today, and no more may be", "outbound.calls_a_day")
    assert refused(outbound, "+4930", NOON + DAY_S / 2 - 1)[1] == "outbound.calls_a_day"
    begun(outbound, "+4930", NOON + DAY_S / 2)


def test_minutes_a_day_are_reserved_by_calls_that_go_on() -> None:
    outbound = policy(ACME, minutes_a_day=10, longest_s=420)
    first = begun(outbound, "+4930")
    second = begun(outbound, "+4930")
    assert (first.longest_s, second.longest_s) == (420, 180)
    assert refused(outbound, "+4930")[1] == "outbound.minutes_a_day"
    outbound.end(first, NOON + 60)  # and gives 6 minutes back
    assert begun(outbound, "+4930", NOON + 60).longest_s == 360


def test_a_call_past_midnight_belongs_to_its_day() -> None:
    outbound = policy(ACME, minutes_a_day=10, longest_s=600)
    midnight = (NOON // DAY_S + 1) * DAY_S
    before = begun(outbound, "+4930", midnight - 1)
    assert refused(outbound, "+4930", midnight - 1)[1] == "outbound.minutes_a_day"
    after = begun(outbound, "+4930", midnight + 1)
    outbound.end(before, midnight + 2)
    assert refused(outbound, "+4930", midnight + 2)[1] == "outbound.minutes_a_day", "the new day's are still reserved"
    outbound.end(after, midnight + 3)
    assert begun(outbound, "+4930", midnight + 3).longest_s == pytest.approx(598)


def test_a_call_that_lasted_too_long_gives_nothing_back() -> None:
    outbound = policy(ACME, minutes_a_day=10, longest_s=300)
    outbound.end(begun(outbound, "+4930"), NOON + 301)
    assert begun(outbound, "+4930", NOON + 301).longest_s == 300
    assert refused(outbound, "+4930", NOON + 301)[1] == "outbound.minutes_a_day"


def test_what_is_denied_is_not_counted() -> None:
    outbound = policy(ACME, calls_a_day=1)
    for _ in range(5):
        refused(outbound, "+1900")
    assert outbound.allows("+4930", NOON) is None
    begun(outbound, "+4930")
