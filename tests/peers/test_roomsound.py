"""That beeps are found where they are, before anything is said of a room by them."""

from __future__ import annotations

import numpy as np
import pytest

from media.leg import Pcm
from tests.peers.roomsound import RATE, Beeper, Sound, way

ADA, BOB = Beeper("ada", 520.0, 2.3), Beeper("bob", 830.0, 2.9)


def beeps(beeper: Beeper, seconds: float, late_s: float = 0.0) -> Pcm:
    period = beeper.period(RATE)
    whole = np.tile(period, round(seconds / beeper.period_s) + 2)[: round(seconds * RATE)]
    return np.roll(whole, round(late_s * RATE))


def test_beeps_are_found_among_others_and_noise_to_some_milliseconds() -> None:
    noise = np.random.default_rng(1).normal(0, 0.01, 20 * RATE).astype(np.float32)
    said = Sound.steady(beeps(ADA, 20.0, 0.5), 100.0)
    heard = Sound.steady(0.5 * beeps(ADA, 20.0, 0.75) + beeps(BOB, 20.0) + noise, 100.0)
    found = way(said, heard, ADA.hertz)
    assert found.said == found.heard == 8
    assert found.delay_s == pytest.approx(0.25, abs=0.004) and found.gain == pytest.approx(0.5, abs=0.05)


def test_what_is_not_there_is_not_heard() -> None:
    said, heard = Sound.steady(beeps(ADA, 20.0), 0.0), Sound.steady(beeps(BOB, 20.0), 0.0)
    found = way(said, heard, ADA.hertz)
    assert (found.said, found.heard) == (8, 0) and found.gain < 0.02


def test_a_leak_of_a_twentieth_is_noticed() -> None:
    said = Sound.steady(beeps(ADA, 20.0), 0.0)
    heard = Sound.steady(beeps(BOB, 20.0) + 0.05 * beeps(ADA, 20.0, 0.3), 0.0)
    assert way(said, heard, ADA.hertz).gain == pytest.approx(0.05, abs=0.01)


def test_clocks_that_differ_cancel_there_and_back() -> None:
    """Bob's clock is 70 ms ahead: what is lost one way is won the other."""
    there = way(Sound.steady(beeps(ADA, 20.0), 0.0), Sound.steady(beeps(ADA, 20.0, 0.2), 0.07), ADA.hertz)
    back = way(Sound.steady(beeps(BOB, 20.0), 0.07), Sound.steady(beeps(BOB, 20.0, 0.3), 0.0), BOB.hertz)
    assert there.delay_s == pytest.approx(0.27, abs=0.004) and back.delay_s == pytest.approx(0.23, abs=0.004)
    assert there.delay_s + back.delay_s == pytest.approx(0.5, abs=0.008)
