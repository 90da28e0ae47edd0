"""When each word was said, as it is read from what an ear writes."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.model.text import EPAD, PAD
from tests.engine.model import test_moshi
from voipagent.words import LAST_S, Word, Words, parse_words

FRAME_S = 0.08
DUE = "|"
"""Stands for the mark that a word is about to begin."""


def heard(*texts: str) -> tuple[Word, ...]:
    """Frames of text, from second 0 on."""
    words = Words()
    for frame, text in enumerate(texts):
        words.hear("" if text == DUE else text, frame * FRAME_S, (frame + 1) * FRAME_S, due=text == DUE)
    return words.take()


def test_a_word_lasts_from_its_mark_to_the_next() -> None:
    assert heard("", DUE, " hel", "lo", "", DUE, " you", "", "", DUE) == (
        Word("hello", 0.16, 0.48),
        Word("you", 0.48, 0.8),
    )


def test_before_a_pause_it_ends_a_little_after_its_last_piece() -> None:
    assert heard(DUE, " good", " bye", *[""] * 20) == (Word("good", 0.08, 0.16), Word("bye", 0.16, 0.24 + LAST_S))
    assert heard(DUE, " bye", *[""] * 30, DUE) == (Word("bye", 0.08, 0.16 + LAST_S),)


def test_an_ear_that_marks_nothing_begins_words_with_a_space() -> None:
    assert heard(" hel", "lo", " you", "") == (Word("hello", 0.0, 0.16), Word("you", 0.16, 0.24))


def test_what_is_not_over_ends_with_its_last_piece_at_the_end_of_a_line() -> None:
    assert heard(DUE, " so", " I", "", "") == (Word("so", 0.08, 0.16), Word("I", 0.16, 0.24))


def test_a_line_that_is_over_takes_its_words_with_it() -> None:
    words = Words()
    words.hear(" one", 0.0, 0.08)
    assert words.so_far == () and words.take() == (Word("one", 0.0, 0.08),)
    words.hear(" two", 0.08, 0.16)
    assert words.take() == (Word("two", 0.08, 0.16),)


def test_blanks_are_no_words() -> None:
    assert heard(" ", DUE, " ", "", DUE) == ()


def test_words_round_trip() -> None:
    words = heard(DUE, " hel", "lo", DUE, " you")
    assert parse_words(asdict(word) for word in words) == words


@given(st.lists(st.sampled_from(["", "", DUE, " so", "me", " thing", " "]), max_size=60))
def test_words_follow_one_another_and_lose_no_letter(texts: list[str]) -> None:
    words = heard(*texts)
    times = [time for word in words for time in (word.start, word.end)]
    assert times == sorted(times)
    assert all(0 <= time <= len(texts) * FRAME_S + 1e-6 for time in times)
    assert "".join(word.text for word in words) == "".join(texts).replace(DUE, "").replace(" ", "")


@pytest.mark.parametrize("row", [0, 1])
def test_times_equal_those_of_the_published_rule_over_the_oracles_tokens(row: int) -> None:
    """Kyutai's: a word begins at the last mark's (i - delay) / 12.5, i being the steps so far, and stops at the next
    mark's; ours no later than LAST_S beyond its last piece. Tokens are folded, so that marks and silence are many."""
    delay, oracle = 6, test_moshi.golden("stt", "emitted")[:, row, 0].tolist()
    tokens = [EPAD, *(token if token % 4 in (1, 2) else token % 4 for token in oracle), EPAD]
    words, published = Words(), []
    pieces, begun, last = "", 0.0, 0.0
    for step, token in enumerate(tokens):
        start = (step - delay) / 12.5
        text = "" if token in (EPAD, PAD) else f"<{token}>"
        words.hear(text, start, start + FRAME_S, due=token == EPAD)
        pieces, last = pieces + text, start + FRAME_S if text else last
        if token == EPAD:
            stop = (step + 1 - delay) / 12.5
            published += [(pieces, begun, min(stop, last + LAST_S))] if pieces else []
            pieces, begun = "", stop
    ours = [(word.text, word.start, word.end) for word in words.take()]
    assert len(published) > 3 and [text for text, *_ in ours] == [text for text, *_ in published]
    assert np.allclose([times for _, *times in ours], [times for _, *times in published], atol=0.001)
