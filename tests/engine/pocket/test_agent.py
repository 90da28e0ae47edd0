"""The phase-locked voice, on made-up analyses: neither a synthesiser nor WORLD is needed for what is ours in it."""

from __future__ import annotations

import numpy as np
import pytest

from engine.pocket.recipe.agent import FFT, PERIOD, STEP_S, Analysis, cut_clip, locked, minimum_phase
from engine.pocket.recipe.domain import ClipText
from engine.pocket.recipe.formats import Span
from engine.pocket.recipe.synthesis import Spoken, SynthesisError
from engine.pocket.recipe.voices import LEVEL, speech_level
from engine.slot import FRAME_SAMPLES, SAMPLE_RATE


def analysis(seconds: float, voiced: bool = True, breath: float = 0.0) -> Analysis:
    """One formant at 1 kHz, held."""
    rows = round(seconds / STEP_S) + 1
    hertz = np.linspace(0, SAMPLE_RATE / 2, FFT // 2 + 1)
    envelope = 1e-6 + 1e-2 * np.exp(-(((hertz - 1_000) / 300) ** 2))
    return Analysis(np.full(rows, voiced), np.tile(envelope, (rows, 1)), np.full((rows, FFT // 2 + 1), breath))


def times(seconds: float) -> np.ndarray:
    return np.arange(round(seconds / STEP_S)) * STEP_S


def spoken(words: list[tuple[str, float, float]], seconds: float) -> Spoken:
    audio = np.zeros(int(seconds * SAMPLE_RATE), np.float32)
    for _, start, end in words:
        audio[int(start * SAMPLE_RATE) : int(end * SAMPLE_RATE)] = 0.1
    return Spoken(audio, SAMPLE_RATE, [Span(*word) for word in words], [])


def test_a_held_sound_repeats_itself_every_period_and_every_frame() -> None:
    made = locked(analysis(1), times(1))[FRAME_SAMPLES:-FRAME_SAMPLES]
    size = np.abs(made).max()
    np.testing.assert_allclose(made[PERIOD:], made[:-PERIOD], atol=1e-4 * size)
    hiss = locked(analysis(1, voiced=False), times(1))[FRAME_SAMPLES:-FRAME_SAMPLES]
    np.testing.assert_allclose(hiss[FRAME_SAMPLES:], hiss[:-FRAME_SAMPLES], atol=1e-4 * np.abs(hiss).max())
    assert np.abs(hiss[PERIOD:] - hiss[:-PERIOD]).max() > 0.1 * np.abs(hiss).max()


def test_it_is_at_200_hz_with_the_formant_where_it_was() -> None:
    made = locked(analysis(1), times(1))
    power = np.abs(np.fft.rfft(made[FRAME_SAMPLES : FRAME_SAMPLES + 2_400] * np.hanning(2_400), SAMPLE_RATE)) ** 2
    comb = [power[hertz - 15 : hertz + 16].sum() for hertz in range(200, 4_000, 200)]
    between = [power[hertz - 15 : hertz + 16].sum() for hertz in range(300, 4_000, 200)]
    assert sum(comb) > 100 * sum(between)
    assert 200 * (1 + int(np.argmax(comb))) == 1_000


def test_breath_takes_from_the_pulses_what_it_adds() -> None:
    clear, breathy = (locked(analysis(1, breath=breath), times(1)) for breath in (0.0, 0.9))
    assert speech_level(breathy) < speech_level(clear)
    assert np.abs(breathy[PERIOD * 20 :][: PERIOD * 40] - breathy[PERIOD * 21 :][: PERIOD * 40]).max() > 0.001


def test_a_minimum_phase_response_has_the_spectrum_and_comes_first() -> None:
    magnitude = np.sqrt(analysis(0.1).envelope[0])
    response = minimum_phase(magnitude)
    np.testing.assert_allclose(np.abs(np.fft.rfft(response)), magnitude, rtol=1e-3)
    energy = np.cumsum(response**2) / np.sum(response**2)
    assert energy[FFT // 4] > 0.99
    assert energy[60] > 0.9


def test_a_whole_answer_keeps_its_pace_and_is_padded_to_a_frame() -> None:
    words = [("We", 0.3, 0.5), ("open.", 0.6, 1.0)]
    clip = cut_clip(ClipText("We open.", "We open."), spoken(words, 1.3), analysis(1.3))
    assert clip.frames * FRAME_SAMPLES == len(clip.audio)
    assert clip.frames == 10  # 0.02 + 0.7 + 0.06 s
    assert [(word.word, word.frame) for word in clip.words] == [("We", 0), ("open.", 4)]
    assert not clip.audio[-FRAME_SAMPLES // 5 :].any() and np.abs(clip.audio[:PERIOD]).max() > 0
    assert speech_level(clip.audio) == pytest.approx(LEVEL, rel=0.1)


@pytest.mark.parametrize(("seconds", "frames"), [(0.24, 3), (0.21, 3), (0.27, 3), (0.29, 4), (0.03, 1)])
def test_a_part_fills_its_frames_exactly(seconds: float, frames: int) -> None:
    words = [("said", 0.1, 0.4), ("five", 0.4, 0.4 + seconds), ("five", 0.4 + seconds, 1.0)]
    clip = cut_clip(ClipText("five", "said five five", 1, 2), spoken(words, 1.1), analysis(1.1))
    assert clip.frames == frames
    assert np.abs(clip.audio[-PERIOD:]).max() > 0 and clip.words[0].frame == 0


def test_parts_of_a_word_that_are_not_there_are_refused() -> None:
    with pytest.raises(SynthesisError, match="'five five' is not words 1 to 2 of 'said five'"):
        cut_clip(
            ClipText("five five", "said five", 1, 2), spoken([("said", 0, 0.3), ("five", 0.3, 0.6)], 1), analysis(1)
        )
