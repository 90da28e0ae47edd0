"""Invented audio: like what came before it, fading, and no click on either side."""

from __future__ import annotations

import numpy as np
import pytest

from media.concealment import Concealment
from media.leg import Pcm

RATES = (8_000, 16_000, 48_000)


def voice(rate: int, seconds: float, hertz: float) -> Pcm:
    """A pitch with overtones."""
    at = np.arange(round(rate * seconds)) / rate
    return sum((0.3 / n * np.sin(2 * np.pi * n * hertz * at + n) for n in range(1, 6)), np.zeros(len(at))).astype(
        np.float32
    )


def steepest(pcm: Pcm) -> float:
    return float(np.abs(np.diff(pcm)).max())


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("hertz", [75, 110, 150, 195, 240])
def test_a_lost_block_of_a_voice_is_well_guessed_at_first(rate: int, hertz: int) -> None:
    """5 ms in, before the fade is deep, the guess is within -12 dB of the truth."""
    pcm, block = voice(rate, 0.2, hertz), rate // 50
    concealment = Concealment(rate)
    concealment.remember(pcm[: 5 * block])
    guess, truth = concealment.invent(block), pcm[5 * block : 6 * block]
    start = slice(0, rate // 200)
    assert np.mean((guess[start] - truth[start]) ** 2) < 0.063 * np.mean(truth**2)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("lost_blocks", [1, 2, 5])
def test_neither_seam_clicks(rate: int, lost_blocks: int) -> None:
    pcm, block = voice(rate, 0.4, 130), rate // 50
    concealment = Concealment(rate)
    before = concealment.remember(pcm[: 7 * block])
    invented = [concealment.invent(block) for _ in range(lost_blocks)]
    after = concealment.remember(pcm[(7 + lost_blocks) * block :])
    joined = np.concatenate([before, *invented, after])
    assert len(joined) == len(pcm)
    assert steepest(joined) <= 1.2 * steepest(pcm)


@pytest.mark.parametrize("rate", RATES)
def test_it_fades_to_nothing_in_60_ms(rate: int) -> None:
    concealment, block = Concealment(rate), rate // 50
    concealment.remember(voice(rate, 0.1, 120))
    levels = [float(np.abs(concealment.invent(block)).max()) for _ in range(5)]
    assert levels[0] > levels[1] > levels[2] > 0
    assert levels[3:] == [0, 0]
    assert concealment.invented == 5 * block


def test_what_is_real_again_is_untouched_after_the_cross_fade() -> None:
    concealment, pcm = Concealment(8_000), voice(8_000, 0.1, 120)
    concealment.remember(pcm)
    concealment.invent(160)
    assert np.array_equal(concealment.remember(pcm)[32:], pcm[32:])
    assert concealment.invented == 0
    assert concealment.remember(pcm) is pcm


def test_portions_do_not_matter() -> None:
    whole, parts = Concealment(8_000), Concealment(8_000)
    for concealment in (whole, parts):
        concealment.remember(voice(8_000, 0.1, 120))
    portions = [parts.invent(count) for count in (50, 110, 7, 153)]
    assert np.allclose(np.concatenate(portions), whole.invent(320), atol=1e-6)


def test_before_anything_was_heard_it_is_silent() -> None:
    assert not Concealment(8_000).invent(160).any()


def test_noise_and_silence_are_no_trouble() -> None:
    concealment = Concealment(8_000)
    concealment.remember(np.random.default_rng(5).normal(0, 0.1, 800).astype(np.float32))
    assert np.isfinite(concealment.invent(320)).all()
    concealment.reset()
    concealment.remember(np.zeros(800, np.float32))
    assert not concealment.invent(320).any()
