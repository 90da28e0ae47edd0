"""resolve.py: RFC 3263 on made-up names, a made-up clock and made-up chance."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest

from signaling.sip.resolve import (
    DEAD_S,
    MAX_KEPT,
    MAX_TARGETS,
    STALE_TTL_S,
    Found,
    Kind,
    LookUpFailed,
    Naptr,
    Resolver,
    Srv,
    Target,
    Unresolved,
)

UDP, TCP, TLS = "_sip._udp.example.com", "_sip._tcp.example.com", "_sips._tcp.example.com"


class FakeNames:
    """A name server that knows what it is told, and notes what it was asked."""

    def __init__(self) -> None:
        self.zone: dict[tuple[str, Kind], tuple[Naptr | Srv | str, ...]] = {}
        self.failing: set[tuple[str, Kind]] = set()
        self.asked: list[tuple[str, Kind]] = []
        self.ttl_s = 300.0

    def add(self, name: str, kind: Kind, *records: Naptr | Srv | str) -> FakeNames:
        self.zone[name, kind] = records
        return self

    async def look_up(self, name: str, kind: Kind) -> Found:
        self.asked.append((name, kind))
        if (name, kind) in self.failing:
            raise LookUpFailed(f"no {kind} of {name}: no name server answered")
        return Found(self.zone.get((name, kind), ()), self.ttl_s)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def names() -> FakeNames:
    return FakeNames()


@pytest.fixture
def clock() -> Clock:
    return Clock()


def resolver(
    names: FakeNames, clock: Clock | None = None, chances: Iterable[float] = itertools.repeat(0.5), **more: Any
) -> Resolver:
    drawn = iter(chances)
    return Resolver(names, time=clock or Clock(), chance=lambda: next(drawn), **more)


async def shown(names: FakeNames, uri: str, **more: Any) -> list[str]:
    return [str(target) for target in await resolver(names, **more).resolve(uri)]


# --- what needs no SRV ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "target"),
    [
        ("sip:192.0.2.1", Target("UDP", "192.0.2.1", 5060, "192.0.2.1")),
        ("sip:a@192.0.2.1:5070;transport=tcp", Target("TCP", "192.0.2.1", 5070, "192.0.2.1")),
        ("sip:192.0.2.1;transport=TLS", Target("TLS", "192.0.2.1", 5061, "192.0.2.1")),
        ("sips:a@192.0.2.1", Target("TLS", "192.0.2.1", 5061, "192.0.2.1")),
        ("sips:a@192.0.2.1:5060;transport=tcp", Target("TLS", "192.0.2.1", 5060, "192.0.2.1")),
        ("sip:a@[2001:db8::1]", Target("UDP", "2001:db8::1", 5060, "2001:db8::1")),
        ("sip:a@[2001:DB8::1]:5062;transport=tls", Target("TLS", "2001:db8::1", 5062, "2001:db8::1")),
    ],
)
async def test_a_literal_is_looked_up_nowhere(names: FakeNames, uri: str, target: Target) -> None:
    assert await resolver(names).resolve(uri) == (target,)
    assert names.asked == []


@pytest.mark.parametrize(
    ("uri", "protocol"),
    [
        ("sip:a@Example.COM.:5070", "UDP"),
        ("sip:example.com:5070;transport=tcp", "TCP"),
        ("sips:example.com:5070", "TLS"),
    ],
)
async def test_a_name_with_a_port_has_addresses_only(names: FakeNames, uri: str, protocol: str) -> None:
    names.add("example.com", "A", "192.0.2.1", "192.0.2.2").add("example.com", "AAAA", "2001:db8::1")
    found = await resolver(names).resolve(uri)
    assert [target.host for target in found] == ["192.0.2.1", "192.0.2.2", "2001:db8::1"]
    assert {(target.protocol, target.port, target.name) for target in found} == {(protocol, 5070, "example.com")}
    assert names.asked == [("example.com", "A"), ("example.com", "AAAA")]


async def test_only_the_versions_that_we_have_are_asked_for_in_their_order(names: FakeNames) -> None:
    names.add("example.com", "A", "192.0.2.1").add("example.com", "AAAA", "2001:db8::1")
    assert await shown(names, "sip:example.com:5060", versions=(6, 4)) == [
        "example.com ([2001:db8::1]:5060 over UDP)",
        "example.com (192.0.2.1:5060 over UDP)",
    ]
    assert await shown(names, "sip:example.com:5060", versions=(4,)) == ["example.com (192.0.2.1:5060 over UDP)"]


# --- NAPTR and SRV -------------------------------------------------------------------------------------------------


async def test_naptr_says_which_protocols_and_in_which_order(names: FakeNames) -> None:
    """RFC 3263, section 4.1: its own example, with what nobody speaks beside it."""
    names.add(
        "example.com",
        "NAPTR",
        Naptr(90, 50, "s", "SIP+D2U", UDP),
        Naptr(50, 60, "s", "sip+d2t", TCP + "."),
        Naptr(50, 50, "S", "SIPS+D2T", TLS),
        Naptr(10, 10, "s", "SIP+D2S", "_sip._sctp.example.com"),
        Naptr(10, 10, "u", "E2U+sip", ""),
    )
    for service, port in ((UDP, 5060), (TCP, 5070), (TLS, 5061)):
        names.add(service, "SRV", Srv(1, 1, port, f"h{port}.example.com."))
        names.add(f"h{port}.example.com", "A", "192.0.2.1")
    assert await shown(names, "sip:a@example.com", versions=(4,)) == [
        "example.com (192.0.2.1:5061 over TLS)",
        "example.com (192.0.2.1:5070 over TCP)",
        "example.com (192.0.2.1:5060 over UDP)",
    ]
    assert await shown(names, "sips:a@example.com", versions=(4,)) == ["example.com (192.0.2.1:5061 over TLS)"]
    only = await shown(names, "sip:a@example.com", versions=(4,), protocols=("UDP",))
    assert only == ["example.com (192.0.2.1:5060 over UDP)"]


async def test_without_naptr_every_protocol_is_looked_for(names: FakeNames) -> None:
    names.add(TCP, "SRV", Srv(1, 1, 5070, "h.example.com")).add("h.example.com", "A", "192.0.2.1")
    assert await shown(names, "sip:example.com", versions=(4,)) == ["example.com (192.0.2.1:5070 over TCP)"]
    assert [name for name, kind in names.asked if kind == "SRV"] == [UDP, TCP, TLS]


async def test_a_protocol_in_the_uri_is_the_only_one(names: FakeNames) -> None:
    names.add("example.com", "NAPTR", Naptr(1, 1, "s", "SIP+D2U", UDP)).add(UDP, "SRV", Srv(1, 1, 1, "udp"))
    names.add(TLS, "SRV", Srv(1, 1, 5071, "h.example.com")).add("h.example.com", "A", "192.0.2.1")
    assert await shown(names, "sip:example.com;transport=tls", versions=(4,)) == [
        "example.com (192.0.2.1:5071 over TLS)"
    ]
    assert ("example.com", "NAPTR") not in names.asked


async def test_without_srv_the_name_itself_is_the_host(names: FakeNames) -> None:
    names.add("example.com", "A", "192.0.2.1")
    assert await shown(names, "sip:example.com", versions=(4,)) == ["example.com (192.0.2.1:5060 over UDP)"]
    assert await shown(names, "sips:example.com", versions=(4,)) == ["example.com (192.0.2.1:5061 over TLS)"]


async def test_srv_that_is_never_answered_leaves_the_name_itself(names: FakeNames) -> None:
    names.failing |= {(name, "SRV") for name in (UDP, TCP, TLS)}
    names.add("example.com", "A", "192.0.2.1")
    assert await shown(names, "sip:example.com") == ["example.com (192.0.2.1:5060 over UDP)"]
    names.add("example.com", "A")
    with pytest.raises(Unresolved, match=r"sip:example\.com cannot be looked up: no SRV of _sip"):
        await resolver(names).resolve("sip:example.com")


async def test_the_name_itself_does_not_stand_in_for_who_is_said_to_serve(names: FakeNames) -> None:
    names.add(UDP, "SRV", Srv(1, 1, 5060, "sip.example.com")).failing.add(("sip.example.com", "A"))
    names.add("example.com", "A", "192.0.2.80")
    with pytest.raises(Unresolved, match=r"cannot be looked up: no A of sip\.example\.com"):
        await resolver(names, versions=(4,)).resolve("sip:example.com")


async def test_a_naptr_that_is_never_answered_is_none(names: FakeNames) -> None:
    names.add("example.com", "A", "192.0.2.1").failing.add(("example.com", "NAPTR"))
    assert await shown(names, "sip:example.com", versions=(4,)) == ["example.com (192.0.2.1:5060 over UDP)"]


async def test_a_service_that_is_said_not_to_be_there_is_passed_over(names: FakeNames) -> None:
    names.add(UDP, "SRV", Srv(0, 0, 0, ".")).add(TCP, "SRV", Srv(0, 0, 5060, "h")).add("h", "A", "192.0.2.1")
    assert await shown(names, "sip:example.com", versions=(4,)) == ["example.com (192.0.2.1:5060 over TCP)"]


async def test_priorities_come_in_order_and_weights_by_chance(names: FakeNames) -> None:
    """RFC 2782: within a priority, the first up to which the weights add up to a chosen share of their sum."""
    records = [Srv(2, 1, 4, "h"), Srv(1, 10, 2, "h"), Srv(1, 30, 3, "h"), Srv(1, 0, 1, "h")]
    names.add(UDP, "SRV", *records).add("h", "A", "192.0.2.1")

    async def ports(*chances: float) -> list[int]:
        found = await resolver(names, chances=chances, versions=(4,)).resolve("sip:example.com;transport=udp")
        return [target.port for target in found]

    assert await ports(0.0, 0.0, 0.0, 0.0) == [1, 2, 3, 4]
    assert await ports(0.5, 0.5, 0.5, 0.5) == [3, 2, 1, 4]
    assert await ports(0.2, 0.9, 0.0, 0.0) == [2, 3, 1, 4]


async def test_weights_are_shares(names: FakeNames) -> None:
    names.add(UDP, "SRV", Srv(1, 75, 1, "h"), Srv(1, 25, 2, "h")).add("h", "A", "192.0.2.1")
    first: Counter[int] = Counter()
    steady = (number / 1000 for number in range(1000) for _ in range(2))  # two are drawn for each list
    share = resolver(names, chances=steady, versions=(4,))
    for _ in range(1000):
        first[(await share.resolve("sip:example.com;transport=udp"))[0].port] += 1
    assert first[1] == pytest.approx(750, abs=2)


# --- what fails ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("tel:+4930123456", "names no host"),
        ("nothing", "is no URI"),
        ("sip:example.com;transport=sctp", "SCTP is none of UDP, TCP, TLS"),
        ("sip:192.0.2.1;transport=ws", "WS is none of UDP, TCP, TLS"),
        ("sips:example.com;transport=udp", "sips is never spoken over UDP"),
        ("sip:example.com", "example.com has no address, as far as the name server knows"),
        ("sip:lost.example.com:5060", "cannot be looked up: no A of lost.example.com: no name server answered"),
    ],
)
async def test_what_leads_nowhere_says_why(names: FakeNames, uri: str, why: str) -> None:
    names.failing.add(("lost.example.com", "A"))
    with pytest.raises(Unresolved, match=why):
        await resolver(names).resolve(uri)


async def test_a_missing_version_is_named(names: FakeNames) -> None:
    names.add("example.com", "AAAA", "2001:db8::1")
    with pytest.raises(Unresolved, match="no address of IPv4"):
        await resolver(names, versions=(4,)).resolve("sip:example.com:5060")


async def test_what_failed_comes_last_for_a_minute(names: FakeNames, clock: Clock) -> None:
    names.add("example.com", "A", "192.0.2.1", "192.0.2.2", "192.0.2.3")
    ways = resolver(names, clock, versions=(4,))
    first, second, third = await ways.resolve("sip:example.com:5060")
    ways.failed(first)
    ways.failed(second, 5.0)
    assert await ways.resolve("sip:example.com:5060") == (third, first, second)
    clock.now += 5.0
    assert await ways.resolve("sip:example.com:5060") == (second, third, first)
    clock.now += DEAD_S - 5.0
    assert await ways.resolve("sip:example.com:5060") == (first, second, third)
    ways.failed(first)
    ways.worked(first)
    assert await ways.resolve("sip:example.com:5060") == (first, second, third)
    for target in (first, second, third):
        ways.failed(target)
    assert await ways.resolve("sip:example.com:5060") == (first, second, third)  # none of them is given up


# --- memory --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ttl_s", "kept_s"), [(300.0, 300.0), (0.0, 5.0), (1e9, 86_400.0)])
async def test_answers_are_kept_for_their_time(names: FakeNames, clock: Clock, ttl_s: float, kept_s: float) -> None:
    names.add("example.com", "A", "192.0.2.1").ttl_s = ttl_s
    ways = resolver(names, clock, versions=(4,))
    for now, asked in ((0.0, 1), (kept_s - 0.1, 1), (kept_s, 2)):
        clock.now = 1000.0 + now
        await ways.resolve("sip:EXAMPLE.com:5060")
        assert len(names.asked) == asked


async def test_an_answer_that_is_too_old_is_better_than_none(names: FakeNames, clock: Clock) -> None:
    """A name server that is down for a while takes no trunk with it (RFC 8767)."""
    names.add("example.com", "A", "192.0.2.1")
    ways = resolver(names, clock, versions=(4,))
    await ways.resolve("sip:example.com:5060")
    names.failing.add(("example.com", "A"))
    clock.now += 301
    assert len(await ways.resolve("sip:example.com:5060")) == 1
    assert len(await ways.resolve("sip:example.com:5060")) == 1
    assert len(names.asked) == 2
    names.failing.clear()
    names.add("example.com", "A", "192.0.2.2")
    clock.now += STALE_TTL_S
    (target,) = await ways.resolve("sip:example.com:5060")
    assert target.host == "192.0.2.2"


@pytest.mark.parametrize("failing", [("example.com", "AAAA"), ("b.example.com", "A"), (TCP, "SRV")])
async def test_one_name_that_fails_leaves_what_the_others_lead_to(names: FakeNames, failing: tuple[str, Kind]) -> None:
    names.add(UDP, "SRV", Srv(1, 1, 5060, "a.example.com"), Srv(2, 1, 5060, "b.example.com"))
    names.add("a.example.com", "A", "192.0.2.1").add("b.example.com", "A", "192.0.2.2")
    names.add("example.com", "A", "192.0.2.3")
    names.failing.add(failing)
    hosts = {target.host for target in await resolver(names).resolve("sip:example.com")}
    assert hosts == ({"192.0.2.1"} if failing[0].startswith("b") else {"192.0.2.1", "192.0.2.2"})
    (plain,) = await resolver(names).resolve("sip:example.com:5070")
    assert plain.host == "192.0.2.3"


async def test_a_failure_is_not_kept(names: FakeNames) -> None:
    names.add("example.com", "A", "192.0.2.1").failing.add(("example.com", "A"))
    ways = resolver(names, versions=(4,))
    with pytest.raises(Unresolved):
        await ways.resolve("sip:example.com:5060")
    names.failing.clear()
    assert len(await ways.resolve("sip:example.com:5060")) == 1


async def test_memory_and_lists_have_an_end(names: FakeNames, clock: Clock) -> None:
    ways = resolver(names, clock, versions=(4,))
    for number in range(MAX_KEPT + 10):
        names.add(f"h{number}", "A", f"192.0.2.{number % 250}")
        (target,) = await ways.resolve(f"sip:h{number}:5060")
        ways.failed(target)
    assert len(ways._kept) == MAX_KEPT
    assert len(ways._dead) <= MAX_KEPT
    names.add("many", "A", *(f"192.0.2.{number}" for number in range(100)))
    assert len(await ways.resolve("sip:many:5060")) == MAX_TARGETS
