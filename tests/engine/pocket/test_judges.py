"""Words are counted fairly, and a judge that is missing says so."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from engine.pocket.recipe import judges
from engine.pocket.recipe.judges import Missing, errors, telephoned, word_error_rate, words


def test_words_are_what_is_heard() -> None:
    assert words("You said, 3 five two. Mm-hm!") == ["you", "said", "three", "five", "two", "mm", "hm"]
    assert words("It's 12.") == ["it's", "twelve"]
    assert words("99 things") == ["99", "things"]


@pytest.mark.parametrize(
    ("wanted", "got", "count"),
    [
        ("a b c", "a b c", 0),
        ("a b c", "a x c", 1),
        ("a b c", "a c", 1),
        ("a b", "a b c d", 2),
        ("", "a", 1),
        ("a", "", 1),
    ],
)
def test_errors_are_edits(wanted: str, got: str, count: int) -> None:
    assert errors(wanted.split(), got.split()) == count
    assert errors(got.split(), wanted.split()) == count


def test_rate_weighs_by_words() -> None:
    assert word_error_rate([("one two three", "one two three"), ("four", "five")]) == pytest.approx(1 / 4)
    assert word_error_rate([("We are open.", "we are open")]) == 0
    assert word_error_rate([]) == 0


def test_judges_hear_the_telephone() -> None:
    seconds = np.arange(24_000) / 24_000
    low, high = (np.sin(2 * np.pi * hertz * seconds).astype(np.float32) * 0.3 for hertz in (1_000, 6_000))
    assert len(telephoned(low)) == 16_000
    assert np.std(telephoned(low)) == pytest.approx(0.3 / 2**0.5, rel=0.05)
    assert np.std(telephoned(high)) < 0.02


@pytest.mark.parametrize("judge", [lambda: judges.sphinx(["hello"]), judges.whisper])
def test_a_missing_judge_says_which(judge: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert callable(judge)
    with pytest.raises(Missing, match="is not installed"):
        judge()
