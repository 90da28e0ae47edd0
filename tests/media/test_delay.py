"""The delay's policy by itself: what is measured, which step is wanted, and when."""

from __future__ import annotations

import random

import pytest

from media.delay import (
    BLOCK_S,
    GUARD_S,
    MAX_DELAY_S,
    PATIENCE_S,
    SETTLING_S,
    SETTLING_STEP_S,
    STEP_S,
    Delay,
    Step,
)


def settled(wait: float) -> Delay:
    """Of a network without jitter, a while after the start."""
    delay = Delay()
    delay.begin(wait, -2 * SETTLING_S)
    return delay


def test_without_jitter_a_packet_waits_a_guard_and_at_most_a_block_more() -> None:
    for wait, step in ((0.0, Step.LONGER), (0.005, Step.NONE), (0.027, Step.NONE), (0.03, Step.SHORTER)):
        assert settled(wait).wanted(0.0) is step
    assert settled(0.0).least == GUARD_S


def test_with_jitter_it_waits_longer_and_never_more_than_the_ceiling() -> None:
    chance = random.Random(1)
    for jitter_s, least in ((0.01, 0.02), (0.05, 0.08), (0.5, MAX_DELAY_S - BLOCK_S)):
        delay = Delay()
        for number in range(200):
            delay.arrived(number * 0.02, number * 0.02 + chance.random() * 2 * jitter_s)
        assert least <= delay.least <= MAX_DELAY_S - BLOCK_S
        assert delay.most - BLOCK_S > delay.least  # a step down never leads to a step up


def test_one_outlier_moves_it_little() -> None:
    delay = Delay()
    for number in range(100):
        delay.arrived(number * 0.02, number * 0.02 + (5.0 if number == 99 else 0.0))
    assert delay.least < GUARD_S + 0.02


def test_of_packets_that_fall_on_the_middle_of_a_block_the_earlier_half_counts() -> None:
    delay = settled(0.02)
    for number in range(300):
        delay.waits(0.01 + 0.01 * (number % 2))
    assert delay.wait == pytest.approx(0.01, abs=1e-3)


@pytest.mark.parametrize(("wait", "interval_s"), [(0.03, STEP_S), (0.15, SETTLING_STEP_S)])
def test_steps_are_apart_and_closer_while_it_is_far_off(wait: float, interval_s: float) -> None:
    delay = settled(wait)
    assert delay.wanted(0.0) is Step.SHORTER
    delay.stepped(Step.SHORTER, 0.0)
    assert delay.wait == pytest.approx(wait - BLOCK_S)
    delay.wait = wait
    assert delay.wanted(interval_s - 0.01) is Step.NONE
    assert delay.wanted(interval_s + 0.01) is Step.SHORTER


def test_at_the_start_steps_are_close() -> None:
    delay = Delay()
    delay.begin(0.03, 0.0)
    assert delay.wanted(SETTLING_STEP_S - 0.01) is Step.NONE
    assert delay.wanted(SETTLING_STEP_S + 0.01) is Step.SHORTER


def test_it_waits_for_quiet_for_a_while_but_not_when_packets_are_late_or_it_is_far_off() -> None:
    delay = settled(0.03)
    delay.wanted(0.0)
    assert delay.is_patient(PATIENCE_S - 0.01) and not delay.is_patient(PATIENCE_S)
    for wait in (-0.001, 0.15):
        delay = settled(wait)
        delay.wanted(0.0)
        assert not delay.is_patient(0.0)
