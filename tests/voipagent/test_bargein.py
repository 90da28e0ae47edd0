"""A barge-in is speech, longer than a cough and louder than our own echo."""

from __future__ import annotations

import numpy as np

from engine.slot import FRAME_SAMPLES
from media.leg import Pcm
from voipagent.bargein import SPOKEN_FRAMES, BargeIn


def noise(rms: float) -> Pcm:
    samples = np.random.default_rng(1).standard_normal(FRAME_SAMPLES)
    return (samples * rms).astype(np.float32)


QUIET, SPEECH = noise(0.0005), noise(0.1)


def heard(*frames: Pcm, played: Pcm = QUIET) -> list[bool]:
    barge_in = BargeIn()
    return [barge_in.hear(frame, played) for frame in frames]


def test_speech_barges_in_after_its_fourth_frame() -> None:
    assert heard(*[SPEECH] * SPOKEN_FRAMES) == [False] * (SPOKEN_FRAMES - 1) + [True]


def test_line_noise_does_not() -> None:
    assert not any(heard(*[QUIET] * 200))


def test_a_cough_does_not() -> None:
    assert not any(heard(*([SPEECH] * 2 + [QUIET] * 5) * 10))


def test_one_quiet_frame_in_between_does_not_matter() -> None:
    assert heard(SPEECH, SPEECH, QUIET, SPEECH, SPEECH)[-1]


def test_an_echo_of_our_own_voice_does_not() -> None:
    assert not any(heard(*[noise(0.1 * 10 ** (-8 / 20))] * 100, played=SPEECH))


def test_a_caller_as_loud_as_we_are_does() -> None:
    assert heard(*[SPEECH] * 10, played=SPEECH)[-1]


def test_an_echo_that_outlasts_our_voice_does_not() -> None:
    barge_in = BargeIn()
    echo = noise(0.04)
    assert not any(barge_in.hear(echo, SPEECH) for _ in range(10))
    assert not any(barge_in.hear(echo, QUIET) for _ in range(3))
