"""buckets.py: how fast, and for how many."""

from __future__ import annotations

from signaling.sip.buckets import MAX_SOURCES, Buckets, source_of


def test_a_burst_and_then_a_rate() -> None:
    buckets = Buckets(10.0, 3)
    assert [buckets.take("a", 0.0) for _ in range(4)] == [True, True, True, False]
    assert buckets.take("b", 0.0)
    assert [buckets.take("a", 0.1) for _ in range(2)] == [True, False]
    assert [buckets.take("a", 60.0) for _ in range(4)] == [True, True, True, False]


def test_a_clock_that_is_set_back_costs_nothing() -> None:
    buckets = Buckets(1.0, 2)
    assert buckets.take("a", 3_600.0)
    assert buckets.take("a", 0.0)
    assert [buckets.take("a", 0.0), buckets.take("a", 1.0)] == [False, True]


def test_sources_are_forgotten_when_there_are_too_many() -> None:
    buckets = Buckets(1.0, 1)
    for number in range(MAX_SOURCES + 1):
        assert buckets.take(number, 0.0)
    assert not buckets.take(1, 0.0)
    assert buckets.take(0, 0.0)  # the one that was quiet longest: forgotten, so new


def test_whose_address_it_is() -> None:
    assert source_of("192.0.2.7") == "192.0.2.7"
    assert source_of("2001:db8:0:1::7") == source_of("2001:db8:0:1:ffff::") == "2001:db8:0:1::/64"
    assert source_of("fe80::1%eth0") == "fe80::/64"
    assert source_of("::x") == "::x"
