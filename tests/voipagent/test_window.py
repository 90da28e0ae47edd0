"""When a row is trimmed: counted in frames, on no clock."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.pocket.recipe import scenes
from voipagent.window import AGAIN_FRAMES, PAUSE_FRAMES, ContextWindow, Shares


def stepped(window: ContextWindow, frames: int, text: str = "") -> None:
    for _ in range(frames):
        window.stepped(text)


@pytest.mark.parametrize(
    ("frames", "due", "hard", "keep", "prompt"), [(3000, 2400, 2850, 750, 600), (500, 400, 475, 125, 100)]
)
def test_the_shares_are_of_the_rows_window(frames: int, due: int, hard: int, keep: int, prompt: int) -> None:
    window = ContextWindow(frames, Shares())
    assert (window.keep_frames, window.prompt_frames) == (keep, prompt)
    window.primed(100)
    stepped(window, due - 101)
    assert not window.due
    stepped(window, 1)
    assert window.due
    assert not window.must
    assert window.frames_left == hard - due
    stepped(window, 3 * (hard - due) // 4 - 1)
    assert not window.soon
    stepped(window, 1)
    stepped(window, hard - due - 3 * (hard - due) // 4)
    assert window.soon
    assert window.must
    assert window.frames_left == 0


def test_a_pause_is_a_second_without_a_word() -> None:
    window = ContextWindow(500, Shares())
    window.stepped("Hello")
    stepped(window, PAUSE_FRAMES - 1)
    assert not window.paused
    stepped(window, 1)
    assert window.paused
    window.stepped(" there")
    assert not window.paused


def test_within_a_given_text_no_silence_is_a_pause() -> None:
    window = ContextWindow(500, Shares())
    for _ in range(3 * PAUSE_FRAMES):
        window.stepped("", saying=True)
    assert not window.paused


def test_after_a_trim_the_row_holds_what_it_was_told_and_what_was_said_meanwhile() -> None:
    window = ContextWindow(500, Shares())
    stepped(window, 420)
    window.priming()
    stepped(window, 7)
    window.primed(60 + window.keep_frames)
    assert not window.due
    stepped(window, 400 - 60 - 125 - 7 - 1)
    assert not window.due
    stepped(window, 1)
    assert window.due


def test_what_was_refused_is_left_alone_for_a_while() -> None:
    window = ContextWindow(500, Shares())
    stepped(window, 490)
    assert window.must
    window.refused()
    stepped(window, AGAIN_FRAMES - 1)
    assert not window.due
    assert not window.must
    stepped(window, 1)
    assert window.must


@pytest.mark.parametrize(
    ("shares", "complaint"),
    [
        ({"due": 0.96}, r"due \(0.96\) must be above 0, and hard \(0.95\) from there to 1"),
        ({"hard": 1.2}, r"hard \(1.2\)"),
        ({"keep": 0.4}, r"keep \(0.4\) and prompt \(0.2\) must be at most 0.5 together"),
        ({"due": 0.4, "hard": 0.5}, r"due \(0.4\) must be above keep and prompt together \(0.45\)"),
        ({"prompt": 0.0}, r"prompt \(0\)"),
    ],
)
def test_shares_that_contradict_each_other_are_refused(shares: dict[str, float], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Shares(**shares)


@given(st.integers(100, 4000), st.lists(st.tuples(st.integers(1, 400), st.booleans()), max_size=40))
def test_whoever_trims_when_he_must_never_outgrows_the_window(frames: int, talk: list[tuple[int, bool]]) -> None:
    window, held = ContextWindow(frames, Shares()), 0
    for length, speaks in talk:
        for _ in range(length):
            window.stepped("word" if speaks else "")
            held += 1
            assert held <= frames
            if window.must or (window.due and window.paused):
                window.priming()
                window.primed(window.prompt_frames + window.keep_frames)
                held = window.prompt_frames + window.keep_frames


def test_the_embedded_model_is_judged_with_the_same_shares() -> None:
    shares = Shares()
    assert (scenes.DUE, scenes.HARD, scenes.KEEP, scenes.PAUSED) == (shares.due, shares.hard, shares.keep, PAUSE_FRAMES)
