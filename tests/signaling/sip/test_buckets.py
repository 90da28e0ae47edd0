"""buckets.py: how fast, and for how many."""

from __future__ import annotations

from signaling.sip.buckets import MAX_SOURCES, Buckets


def test_a_burst_and_then_a_rate() -> None:
    buckets = Buckets(10.0, 3)
    assert [buckets.take("a", 0.0) for _ in range(4)] == [True, True, True, False]
    assert buckets.take("b", 0.0)
    assert [buckets.take("a", 0.1) for _ in range(2)] == [True, False]
    assert [buckets.take("a", 60.0) for _ in range(4)] == [True, True, True, False]


def test_sources_are_forgotten_when_there_are_too_many() -> None:
    buckets = Buckets(1.0, 1)
    for number in range(MAX_SOURCES + 1):
        assert buckets.take(number, 0.0)
    assert not buckets.take(1, 0.0)
    assert buckets.take(0, 0.0)  # the one that was quiet longest: forgotten, so new
