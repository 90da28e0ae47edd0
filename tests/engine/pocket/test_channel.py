from __future__ import annotations

import numpy as np
import pytest

from engine.pocket.recipe.channel import (
    NOISES,
    Law,
    Noise,
    banded,
    coloured,
    compress,
    echo,
    expand,
    from_db,
    g711,
    gaps,
    noise,
    resampled,
    room,
    telephone,
)
from engine.pocket.recipe.formats import Audio
from engine.pocket.recipe.noises import NOISES as SOUNDS
from engine.slot import SAMPLE_RATE


def tone(hertz: float, seconds: float = 1.0, level: float = 0.1) -> Audio:
    time = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    return np.asarray(level * np.sin(2 * np.pi * hertz * time), np.float32)


def rms(audio: Audio) -> float:
    return float(np.sqrt(np.mean(np.square(audio))))


def db(ratio: float) -> float:
    return float(20 * np.log10(ratio))


@pytest.mark.parametrize("law", ["ulaw", "alaw"])
def test_g711s_curve_has_its_inverse_and_keeps_small_sounds(law: Law) -> None:
    x = np.linspace(-1, 1, 2_001)
    np.testing.assert_allclose(expand(compress(x, law), law), x, atol=1e-9)
    assert compress(np.array([0.01]), law)[0] > 0.15


def test_mulaw_compresses_as_the_standard_says() -> None:
    assert compress(np.array([0.5]), "ulaw")[0] == pytest.approx(np.log(128.5) / np.log(256))
    assert compress(np.array([0.5]), "alaw")[0] == pytest.approx((1 + np.log(43.8)) / (1 + np.log(87.6)))


@pytest.mark.parametrize("law", ["ulaw", "alaw"])
@pytest.mark.parametrize("level", [0.3, 0.03])
def test_g711_is_as_good_as_a_telephone_at_any_level(law: Law, level: float) -> None:
    clean = tone(1_013, level=level)  # which G.711's steps do not meet in the same few places
    error = (g711(clean, law) - clean)[200:-200]
    assert 30 < db(rms(clean) / rms(error)) < 45


def test_g711_lets_nothing_through_above_four_kilohertz() -> None:
    assert rms(g711(tone(5_000))) < 0.001


@pytest.mark.parametrize("samples", [24_000, 24_001, 23_999, 1_920 * 5])
def test_what_comes_out_is_as_long_and_at_the_same_time(samples: int) -> None:
    click = np.zeros(samples, np.float32)
    click[samples // 2] = 0.5
    for made in (g711(click), banded(click, 200, 3_400)):
        assert len(made) == samples and abs(int(np.argmax(np.abs(made))) - samples // 2) <= 1
    assert len(telephone(click, np.random.default_rng(1))) == samples


def test_resampling_there_and_back_is_nothing_below_the_lower_half() -> None:
    clean = tone(440)
    np.testing.assert_allclose(resampled(resampled(clean, 8_000), SAMPLE_RATE), clean, atol=1e-4)


def test_a_handset_passes_its_band_only() -> None:
    low, within, high = (rms(banded(tone(hertz), 250, 3_500)) / rms(tone(hertz)) for hertz in (60, 1_000, 5_000))
    assert within > 0.99 and low < 0.1 and high < 0.01


def test_another_mouth_is_louder_here_and_softer_there_and_not_later() -> None:
    colours = [
        [db(rms(coloured(tone(hertz), np.random.default_rng(n))) / rms(tone(hertz))) for hertz in (200, 2_000)]
        for n in range(40)
    ]
    assert 3 < np.std(colours) < 6 and abs(np.corrcoef(np.transpose(colours))[0, 1]) < 0.5
    click = np.zeros(SAMPLE_RATE, np.float32)
    click[1_000] = 1
    assert np.abs(coloured(click, np.random.default_rng(0))).argmax() == 1_000


@pytest.mark.parametrize("kind", NOISES)
def test_noises_are_of_one_level(kind: Noise) -> None:
    made = noise(kind, 48_000, np.random.default_rng(2))
    assert rms(made) == pytest.approx(1, rel=1e-3) and made.dtype == np.float32


def test_noises_differ_as_their_names_say() -> None:
    def share(kind: Noise, below_hz: float) -> float:
        power = np.abs(np.fft.rfft(noise(kind, 48_000, np.random.default_rng(2)))) ** 2
        return float(power[: int(below_hz * 2)].sum() / power.sum())

    assert share("hum", 450) > 0.99
    assert share("white", 1_000) < 0.12 < share("pink", 1_000)
    assert share("babble", 2_000) > 0.8


def test_an_echo_is_later_and_softer() -> None:
    spoken = np.zeros(48_000, np.float32)
    spoken[:24_000] = tone(1_000)
    back = echo(spoken, np.random.default_rng(3), level_db=-20, delay_s=0.3)
    middle = back[12_000:20_000]
    assert db(rms(middle) / rms(spoken[:24_000])) == pytest.approx(-20, abs=1)
    assert rms(back[:6_000]) < 0.1 * rms(middle) < rms(back[24_000:30_000])
    levels = [
        db(rms(echo(spoken, np.random.default_rng(seed))[8_000:24_000]) / rms(spoken[:24_000])) for seed in range(30)
    ]
    assert -48 < min(levels) < -35 and -25 < max(levels) < -14


def test_a_room_adds_a_tail() -> None:
    burst = np.pad(tone(1_000, 0.1), (0, 24_000))
    wet = room(burst, np.random.default_rng(4))
    assert len(wet) == len(burst)
    assert 1e-4 < rms(wet[2_600:6_000]) < rms(burst[:2_400]) / 2


def test_lost_packets_are_short_silences() -> None:
    holes = gaps(np.ones(240_000, np.float32), np.random.default_rng(5)) == 0
    edges = np.flatnonzero(np.diff(holes.astype(int)))
    assert 0 < holes.mean() < 0.1
    assert (np.diff(edges)[::2] >= 480).all()


def test_a_line_is_another_each_time_but_the_same_for_a_seed() -> None:
    clean = tone(700, 2)
    first, again, other = (telephone(clean, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert all(np.abs(telephone(clean, np.random.default_rng(seed))).max() <= 1 for seed in range(20))


def test_levels_spread_over_what_telephones_do() -> None:
    clean = tone(700)
    levels = [db(rms(telephone(clean, np.random.default_rng(seed))) / rms(clean)) for seed in range(60)]
    assert min(levels) < -8 and max(levels) > 8


def test_decibels() -> None:
    assert from_db(-20) == pytest.approx(0.1) and from_db(6) == pytest.approx(2, rel=0.01)


@pytest.mark.parametrize("name", SOUNDS)
def test_what_is_to_be_ignored_is_heard(name: str) -> None:
    for seed in range(5):
        made = SOUNDS[name](np.random.default_rng(seed))
        assert made.dtype == np.float32 and made.ndim == 1
        assert 0.01 < np.abs(made).max() <= 1 and 0.03 < len(made) / SAMPLE_RATE < 12


def test_keys_are_two_tones_of_the_standard() -> None:
    made = SOUNDS["keys"](np.random.default_rng(1))[:1_440]
    power = np.abs(np.fft.rfft(made * np.hanning(1_440), 24_000))
    peaks = [power[hertz - 8 : hertz + 9].max() for hertz in (697, 770, 852, 941, 1_209, 1_336, 1_477, 1_633)]
    loud = sorted(range(8), key=lambda n: -peaks[n])[:2]
    assert min(loud) < 4 <= max(loud)
