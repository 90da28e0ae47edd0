"""Bursts are found where they are, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest

from voipagent.lab.bursts import BURST_S, GAPS_S, PACKET_S, find, make_bursts, render

RATE = 8_000
PACKET = round(PACKET_S * RATE)


def test_bursts_start_with_a_packet_and_keep_their_distance() -> None:
    bursts = make_bursts(40, RATE, seed=1, first_s=2.0)
    assert bursts[0].start == 2 * RATE
    assert all(burst.start % PACKET == 0 and len(burst.noise) == BURST_S * RATE for burst in bursts)
    gaps = [later.start - burst.start - len(burst.noise) for burst, later in zip(bursts, bursts[1:], strict=False)]
    assert min(gaps) >= (GAPS_S[0] - PACKET_S) * RATE
    assert len({gap % (4 * PACKET) for gap in gaps}) == 4, "every phase of the 80 ms clock is met"


def test_the_same_seed_makes_the_same_bursts() -> None:
    one, two, other = (make_bursts(3, RATE, seed, 0.0) for seed in (1, 1, 2))
    assert all(np.array_equal(a.noise, b.noise) and a.start == b.start for a, b in zip(one, two, strict=True))
    assert not np.array_equal(one[0].noise, other[0].noise)


@pytest.mark.parametrize("delay", [0, 1, 777, 3_000])
def test_a_burst_is_found_to_the_sample(delay: int) -> None:
    (burst,) = make_bursts(1, RATE, seed=3, first_s=0.0)
    heard = np.concatenate([np.zeros(delay, np.float32), render([burst], RATE)])
    heard += np.random.default_rng(0).normal(0, 0.005, len(heard)).astype(np.float32)
    assert find(burst.noise, heard) == delay


def test_a_burst_without_its_first_packet_is_still_found_at_its_start() -> None:
    (burst,) = make_bursts(1, RATE, seed=4, first_s=0.1)
    heard = render([burst], RATE)
    heard[burst.start : burst.start + PACKET] = 0
    assert find(burst.noise, heard) == burst.start


def test_another_burst_and_silence_are_no_match() -> None:
    one, two = make_bursts(2, RATE, seed=5, first_s=0.0)
    assert find(one.noise, render([two], RATE)) is None
    assert find(one.noise, np.zeros(RATE, np.float32)) is None
    assert find(one.noise, one.noise[:-1]) is None
