"""Who is believed to be the far end."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from media.latch import PROBATION_PACKETS, SILENT_S, Address, Latch

PHONE, PROXY = "198.51.100.7", "203.0.113.9"
SAID: Address = (PHONE, 4000)
BEHIND_NAT: Address = (PROXY, 61_000)
STRANGER: Address = ("192.0.2.66", 4000)


def armed(now: float = 0.0) -> Latch:
    latch = Latch()
    latch.arm(SAID, {PROXY}, now)
    return latch


def feed(latch: Latch, source: Address, count: int, now: float, ssrc: int = 1, first: int = 0) -> int:
    """How many of `count` packets in sequence are admitted."""
    return sum(latch.admit(source, ssrc, (first + number) & 0xFFFF, now + number * 0.02) for number in range(count))


def test_until_the_first_packet_media_goes_where_the_description_says() -> None:
    assert armed().target == SAID


@pytest.mark.parametrize("source", [SAID, (PHONE, 4002), BEHIND_NAT])
def test_the_first_packet_from_a_known_host_decides(source: Address) -> None:
    latch = armed()
    assert latch.admit(source, 1, 0, 1.0)
    assert latch.target == source


def test_a_strangers_packets_never_count() -> None:
    latch = armed()
    assert feed(latch, STRANGER, 300, now=0.0) == 0
    assert latch.target == SAID
    assert feed(latch, SAID, 10, now=6.0) == 10
    assert feed(latch, STRANGER, 300, now=7.0, ssrc=1) == 0
    assert feed(latch, STRANGER, 300, now=100.0, ssrc=1) == 0  # not even after the far end fell silent
    assert latch.target == SAID


def test_once_locked_nobody_else_on_the_same_host_gets_in() -> None:
    latch = armed()
    for step in range(100):
        now = step * 0.02
        assert latch.admit(SAID, 1, step, now)
        assert not latch.admit((PHONE, 4002), 1, step, now)
        assert not latch.admit((PHONE, 4004), 2, step, now)


def test_after_silence_the_same_stream_may_come_from_elsewhere_at_once() -> None:
    latch = armed()
    latch.admit(SAID, 1, 10, 0.0)
    assert not latch.admit(BEHIND_NAT, 1, 11, SILENT_S - 0.01)
    assert latch.admit(BEHIND_NAT, 1, 12, SILENT_S)
    assert latch.target == BEHIND_NAT


def test_after_silence_another_stream_has_to_prove_itself() -> None:
    latch = armed()
    latch.admit(SAID, 1, 10, 0.0)
    assert feed(latch, BEHIND_NAT, PROBATION_PACKETS - 1, now=3.0, ssrc=2, first=0xFFFC) == 0
    assert latch.admit(BEHIND_NAT, 2, 3, 3.2)
    assert latch.target == BEHIND_NAT


def test_probation_starts_over_at_a_gap_and_when_the_old_source_speaks() -> None:
    latch = armed()
    latch.admit(SAID, 1, 10, 0.0)
    assert feed(latch, BEHIND_NAT, 5, now=3.0, ssrc=2) == 0
    assert feed(latch, BEHIND_NAT, 5, now=3.2, ssrc=2, first=9) == 0
    assert latch.admit(SAID, 1, 11, 3.3)
    assert feed(latch, BEHIND_NAT, 7, now=6.0, ssrc=2, first=14) == 0
    assert latch.target == SAID


def test_a_description_that_says_the_same_leaves_the_lock_alone() -> None:
    latch = armed()
    latch.admit(BEHIND_NAT, 1, 0, 0.0)
    latch.arm(SAID, {PROXY}, 1.0)
    assert latch.locked and latch.target == BEHIND_NAT


def test_a_move_takes_effect_at_once_and_the_tail_of_the_old_stream_does_not_undo_it() -> None:
    latch = armed()
    latch.admit(SAID, 1, 0, 0.0)
    moved = (PHONE, 5000)
    latch.arm(moved, {PROXY}, 1.0)
    assert latch.target == moved
    assert feed(latch, SAID, 10, now=1.0) == 0
    assert latch.admit(moved, 1, 11, 1.3)
    assert not latch.admit(SAID, 1, 12, 1.4)
    assert latch.target == moved


def test_a_far_end_that_says_it_moved_but_did_not_is_heard_again() -> None:
    latch = armed()
    latch.admit(BEHIND_NAT, 1, 0, 0.0)
    latch.arm((PHONE, 5000), {PROXY}, 1.0)
    assert not latch.admit(BEHIND_NAT, 1, 1, 1.5)
    assert latch.admit(BEHIND_NAT, 1, 2, 1.0 + SILENT_S)


def test_after_a_move_to_another_host_the_old_one_is_a_stranger() -> None:
    latch = armed()
    latch.admit(SAID, 1, 0, 0.0)
    latch.arm(("198.51.100.8", 4000), {PROXY}, 1.0)
    assert not latch.admit(SAID, 1, 1, 100.0)


def test_a_carriers_own_networks_are_trusted_besides() -> None:
    """Its media comes from a machine that nobody named, once; then that one alone is believed."""
    latch = Latch((ip_network("192.0.2.64/26"), ip_network("2001:db8::/32")))
    latch.arm(SAID, {PROXY}, 0.0)
    assert latch.trusts("2001:db8::7") and latch.trusts(PHONE) and not latch.trusts("192.0.2.1")
    assert feed(latch, STRANGER, 3, now=0.0) == 3
    assert latch.target == STRANGER
    assert feed(latch, ("192.0.2.67", 4000), 50, now=0.1, ssrc=2) == 0
