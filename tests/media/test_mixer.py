"""mixer.py: properties of a mix, and who is said to speak."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from media.leg import Pcm
from media.mixer import (
    CEILING,
    HANG_BLOCKS,
    PIECES_A_BLOCK,
    QUIET_RMS,
    SPEAKING_BLOCKS,
    SPEECH_RMS,
    Limiter,
    Mixer,
    Speakers,
    level,
)

BLOCK = 480
DELAY = BLOCK // PIECES_A_BLOCK
NAMES = "abcdefghijklmnop"

rooms = st.tuples(st.integers(0, 2**32 - 1), st.integers(1, 16), st.floats(0.0, 1.0))
"""A seed, how many are there, and how loud they are."""


def voices(seed: int, count: int, loud: float, blocks: int = 4) -> dict[str, Pcm]:
    """Noise with pauses, of so many blocks."""
    noise = np.random.default_rng(seed)
    there = noise.random((count, blocks)).repeat(BLOCK, axis=1) < 0.7
    spoken = (loud * noise.uniform(-1, 1, (count, blocks * BLOCK)) * there).astype(np.float32)
    return dict(zip(NAMES, spoken, strict=False))


def mixed(spoken: dict[str, Pcm], mixer: Mixer | None = None) -> dict[str, Pcm]:
    """What each hears, as long as what was said."""
    mixer = mixer or Mixer()
    blocks = len(next(iter(spoken.values()))) // BLOCK
    made = [
        mixer.mix({name: pcm[BLOCK * at : BLOCK * (at + 1)] for name, pcm in spoken.items()}) for at in range(blocks)
    ]
    return {name: np.concatenate([each[name] for each in made]) for name in spoken}


@settings(max_examples=60, deadline=None)
@given(rooms)
def test_each_hears_the_sum_of_the_others_where_it_fits(room: tuple[int, int, float]) -> None:
    seed, count, loud = room
    spoken = voices(seed, count, loud * CEILING / count)
    for name, heard in mixed(spoken).items():
        others = sum((pcm for other, pcm in spoken.items() if other != name), np.zeros_like(heard))
        assert np.abs(heard[DELAY:] - others[:-DELAY]).max() < 1e-6
        assert not heard[:DELAY].any()


@settings(max_examples=60, deadline=None)
@given(rooms)
def test_nobody_hears_himself(room: tuple[int, int, float]) -> None:
    """However loud he is: what he hears is the same as if he were silent."""
    seed, count, loud = room
    spoken = voices(seed, count, loud)
    hushed = {**spoken, "a": np.zeros_like(spoken["a"])}
    assert np.abs(mixed(spoken)["a"] - mixed(hushed)["a"]).max() < 1e-6


@settings(max_examples=60, deadline=None)
@given(rooms)
def test_nothing_clips(room: tuple[int, int, float]) -> None:
    seed, count, loud = room
    for heard in mixed(voices(seed, count, 4 * loud)).values():
        assert np.abs(heard).max() <= CEILING * (1 + 1e-6)


@settings(max_examples=30, deadline=None)
@given(rooms, st.permutations(NAMES))
def test_the_order_does_not_matter(room: tuple[int, int, float], order: list[str]) -> None:
    spoken = voices(*room)
    names = [name for name in order if name in spoken]
    one, other = mixed(spoken), mixed({name: spoken[name] for name in names})
    assert all(np.array_equal(one[name], other[name]) for name in names)


def test_sixteen_who_shout_are_turned_down_and_not_cut_off() -> None:
    """A sum of tones keeps its shape: what comes out is the sum times a gain that hardly moves."""
    at = np.arange(50 * BLOCK) / 24_000
    spoken = {name: np.sin(2 * np.pi * (200 + 37 * n) * at).astype(np.float32) for n, name in enumerate(NAMES)}
    heard = mixed(spoken)["a"][10 * BLOCK + DELAY :]
    others = np.sum([pcm for name, pcm in spoken.items() if name != "a"], axis=0)[10 * BLOCK : -DELAY]
    gain = float(np.dot(heard, others) / np.dot(others, others))
    assert 0.05 < gain < 0.5
    assert level((heard - gain * others).astype(np.float32)) < 0.35 * level(heard)


def test_a_gain_comes_back_within_its_time() -> None:
    limiter = Limiter()
    limiter(np.full((1, BLOCK), 3.0, np.float32))
    quiet = np.full((1, BLOCK), 0.1, np.float32)
    gains = [float(limiter(quiet)[0, -1]) / 0.1 for _ in range(20)]
    assert all(before <= after + 1e-6 for before, after in itertools.pairwise(gains))
    assert gains[2] < 0.7 and gains[-1] == pytest.approx(1.0)


def test_who_comes_and_goes_leaves_the_others_as_they_are() -> None:
    """Each row is limited as it would be alone."""
    loud = 3 * np.random.default_rng(1).uniform(-1, 1, (2, 4 * BLOCK)).astype(np.float32)
    alone, many = Limiter(), Limiter(2)
    expected = np.concatenate([alone(loud[:1, BLOCK * at : BLOCK * (at + 1)]) for at in range(4)], axis=1)
    found = [many(loud[:, :BLOCK])]
    many = many.with_rows([None, 0, 1])
    found += [many(np.concatenate([loud[:1], loud])[:, BLOCK : 2 * BLOCK])[1:2]]
    many = many.with_rows([1])
    found += [many(loud[:1, BLOCK * at : BLOCK * (at + 1)]) for at in (2, 3)]
    assert np.array_equal(np.concatenate([each[:1] for each in found], axis=1), expected)


def test_what_is_no_number_is_silence_for_the_others_and_for_later() -> None:
    mixer = Mixer()
    broken = np.full(BLOCK, np.nan, np.float32)
    broken[::2] = np.inf
    fine = np.full(BLOCK, 0.1, np.float32)
    heard = [mixer.mix({"a": broken, "b": fine}), mixer.mix({"a": fine, "b": fine})]
    assert not heard[0]["b"].any()
    assert heard[1]["b"][DELAY:] == pytest.approx(0.1)


def test_who_comes_later_hears_from_then_on() -> None:
    mixer, fine = Mixer(), np.full(BLOCK, 0.1, np.float32)
    mixer.mix({"a": fine})
    heard = mixer.mix({"a": fine, "b": fine})
    assert heard["b"][DELAY:] == pytest.approx(0.1) and heard["a"][DELAY:] == pytest.approx(0.1)
    assert not mixer.mix({"b": fine})["b"][DELAY:].any()


# --- who speaks ----------------------------------------------------------------------------------------------------


def feed(speakers: Speakers, blocks: int, **levels: float) -> tuple[str, ...]:
    said: tuple[str, ...] = ()
    for _ in range(blocks):
        said = speakers.hear(levels)
    return said


def test_a_click_is_no_speech_and_a_word_is() -> None:
    speakers = Speakers()
    assert feed(speakers, SPEAKING_BLOCKS - 1, ada=0.5) == ()
    assert feed(speakers, HANG_BLOCKS, ada=0.0) == ()
    assert feed(speakers, SPEAKING_BLOCKS, ada=0.1) == ("ada",)


def test_a_pause_between_words_is_bridged_and_a_longer_one_is_not() -> None:
    speakers = Speakers()
    feed(speakers, 10, ada=0.1)
    assert feed(speakers, HANG_BLOCKS - 1, ada=0.0) == ("ada",)
    assert feed(speakers, 1, ada=0.0) == ()


def test_between_the_two_levels_it_stays_what_it_was() -> None:
    between = (SPEECH_RMS + QUIET_RMS) / 2
    speakers = Speakers()
    assert feed(speakers, 50, ada=between) == ()
    feed(speakers, 5, ada=0.1)
    assert feed(speakers, 50, ada=between) == ("ada",)


def test_the_loudest_comes_first() -> None:
    speakers = Speakers()
    assert feed(speakers, 20, ada=0.05, bob=0.2, cid=0.001) == ("bob", "ada")
    assert feed(speakers, 40, ada=0.3, bob=0.1, cid=0.001) == ("ada", "bob")


def test_who_has_left_does_not_speak() -> None:
    speakers = Speakers()
    feed(speakers, 10, ada=0.1, bob=0.1)
    assert feed(speakers, 1, bob=0.1) == ("bob",)
    assert feed(speakers, 1, ada=0.1, bob=0.1) == ("bob",)


def test_a_level_is_always_a_number() -> None:
    assert level(np.zeros(0, np.float32)) == 0.0
    assert level(np.full(4, np.nan, np.float32)) == 0.0
    assert level(np.full(4, -0.5, np.float32)) == pytest.approx(0.5)
