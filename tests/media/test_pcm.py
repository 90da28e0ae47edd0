"""Samples: 16 bit, other rates, the queue, and cuts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from media.leg import Pcm
from media.pcm import Resampler, SampleQueue, best_cut, crossfade, cut, from_s16, is_quiet, silence, to_s16

CODEC_RATES = (8_000, 16_000, 48_000)
PAIRS = [(rate, 24_000) for rate in CODEC_RATES] + [(24_000, rate) for rate in CODEC_RATES]


def tone(rate: int, seconds: float, hertz: float = 440.0) -> Pcm:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)).astype(np.float32)


def count_up(first: int, count: int) -> Pcm:
    return np.arange(first, first + count, dtype=np.float32)


def test_every_16_bit_value_survives_both_ways() -> None:
    values = np.arange(-32767, 32768, dtype=np.int32).astype(np.int16)
    assert np.array_equal(to_s16(from_s16(values)), values)


def test_what_is_too_loud_is_limited_not_wrapped() -> None:
    loud = np.array([1.5, -1.5, np.inf, -np.inf, 1.0, -1.0], np.float32)
    assert to_s16(loud).tolist() == [32767, -32767, 32767, -32767, 32767, -32767]


@pytest.mark.parametrize(("source", "target"), PAIRS)
@pytest.mark.parametrize("seconds", [0.02, 0.08])
def test_each_call_gives_exactly_its_share(source: int, target: int, seconds: float) -> None:
    resample = Resampler(source, target)
    for _ in range(5):
        assert len(resample(silence(round(source * seconds)))) == round(target * seconds)


@pytest.mark.parametrize(("rate", "delay"), [(8_000, 48), (16_000, 24), (48_000, 16)])
def test_the_delay_is_short(rate: int, delay: int) -> None:
    """2, 1 and 0.7 ms."""
    assert Resampler(rate, 24_000).delay_samples == delay
    assert Resampler(24_000, rate).delay_samples <= 0.002 * rate


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_the_delay_is_what_it_says(source: int, target: int) -> None:
    """A tone comes out as the same tone, late by `delay_samples`, to better than 60 dB."""
    resample = Resampler(source, target)
    out = resample(tone(source, 0.5))
    expected = tone(target, 0.5)[: len(out) - resample.delay_samples]
    error = out[resample.delay_samples :] - expected
    middle = slice(target // 20, -target // 20)
    assert np.sqrt(np.mean(error[middle] ** 2)) < 1e-3 * np.sqrt(np.mean(expected[middle] ** 2))


def level_db(source: int, target: int, hertz: float) -> float:
    """How a tone of 0 dB comes out, all that it becomes together."""
    at = np.arange(source // 2) / source
    out = Resampler(source, target)((np.sqrt(2) * np.sin(2 * np.pi * hertz * at)).astype(np.float32))
    return float(10 * np.log10(np.mean(np.square(out[target // 10 :])) + 1e-12))


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_the_filter_passes_speech_and_nothing_that_the_rate_cannot_carry(source: int, target: int) -> None:
    nyquist = min(source, target) / 2
    assert all(abs(level_db(source, target, share * nyquist)) < 0.3 for share in (0.03, 0.3, 0.6, 0.85))
    if source > target:
        assert all(level_db(source, target, share * nyquist) < -70 for share in (1.1, 1.3, 1.6, 1.9))


@pytest.mark.parametrize(("source", "target"), PAIRS)
@settings(max_examples=10, deadline=None)
@given(chunks=st.lists(st.integers(0, 700), min_size=1, max_size=12))
def test_chunks_of_any_length_are_one_stream(source: int, target: int, chunks: list[int]) -> None:
    pcm = tone(source, sum(chunks) / source)[: sum(chunks)]
    resample = Resampler(source, target)
    ends = np.cumsum([0, *chunks])
    parts = [resample(pcm[start:end]) for start, end in zip(ends[:-1], ends[1:], strict=True)]
    got, whole = np.concatenate(parts), Resampler(source, target)(pcm)
    assert [len(part) for part in parts] == np.diff(ends * target // source).tolist()
    assert len(got) == len(whole) and np.allclose(got, whole, atol=1e-6)


def test_the_same_rate_is_no_work() -> None:
    resample, pcm = Resampler(24_000, 24_000), tone(24_000, 0.02)
    assert resample(pcm) is pcm and resample.delay_samples == 0


@given(
    capacity=st.integers(1, 50),
    moves=st.lists(st.tuples(st.booleans(), st.integers(0, 40)), max_size=30),
)
def test_the_queue_is_a_list_that_drops_its_oldest_and_pads(capacity: int, moves: list[tuple[bool, int]]) -> None:
    queue, model, total, dropped, padded = SampleQueue(capacity), list[float](), 1, 0, 0
    for put, count in moves:
        if put:
            queue.put(count_up(total, count))
            model += range(total, total + count)
            total += count
            surplus = max(0, len(model) - capacity)
            dropped, model = dropped + surplus, model[surplus:]
        else:
            missing = max(0, count - len(model))
            expected, model, padded = [*model[:count], *[0.0] * missing], model[count:], padded + missing
            assert queue.take(count).tolist() == expected
        assert (len(queue), queue.dropped, queue.padded) == (len(model), dropped, padded)
    assert queue.peek().tolist() == model and len(queue) == len(model)


def test_the_queue_can_be_rewritten_and_cleared() -> None:
    queue = SampleQueue(100)
    queue.put(count_up(0, 4))
    queue.put(count_up(4, 4))
    queue.replace(queue.peek()[2:6])
    assert queue.take(3).tolist() == [2, 3, 4] and len(queue) == 1
    queue.clear()
    assert len(queue) == 0 and queue.dropped == 0 and queue.padded == 0 and queue.take(0).tolist() == []


def test_a_cross_fade_begins_with_one_and_ends_with_the_other() -> None:
    faded = crossfade(np.full(5, 1, np.float32), np.full(5, 3, np.float32))
    assert faded.tolist() == [1, 1.5, 2, 2.5, 3]


def test_a_cut_takes_out_what_it_says_and_bends_only_the_seam() -> None:
    pcm = count_up(0, 100)
    shorter = cut(pcm, 20, 30, 10)
    assert len(shorter) == 70
    assert np.array_equal(shorter[:21], pcm[:21])
    assert np.array_equal(shorter[29:], pcm[59:])
    assert np.all(np.diff(shorter) > 0)


@pytest.mark.parametrize("hertz", [90, 200, 333])
def test_the_best_cut_of_a_tone_cannot_be_heard(hertz: int) -> None:
    """Two blocks of which one goes: no step at the seam is larger than the tone's own."""
    pcm = tone(8_000, 0.04, hertz)
    shorter = cut(pcm, best_cut(pcm, 160, 32), 160, 32)
    assert len(shorter) == 160
    assert np.abs(np.diff(shorter)).max() <= 1.5 * np.abs(np.diff(pcm)).max()


def test_the_best_cut_is_found_where_it_is() -> None:
    pcm = np.random.default_rng(1).normal(0, 0.3, 400).astype(np.float32)
    pcm[250:290] = pcm[150:190]
    assert best_cut(pcm, 100, 40) == 150


def test_quiet_is_below_minus_forty_decibels() -> None:
    assert is_quiet(silence(160)) and is_quiet(np.full(160, 0.009, np.float32))
    assert not is_quiet(np.full(160, 0.011, np.float32))
