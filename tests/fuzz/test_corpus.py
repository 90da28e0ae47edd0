"""What guided runs found worth keeping is run again with every change."""

from __future__ import annotations

import pytest

from tests.fuzz import corpus
from tests.fuzz.targets import TARGETS


@pytest.mark.parametrize("target", TARGETS)
def test_the_kept_corpus(target: str) -> None:
    kept = corpus.load(target)
    assert kept
    for data in kept:
        TARGETS[target](data)


def test_the_corpus_is_small() -> None:
    assert sum(corpus.path(target).stat().st_size for target in TARGETS) < 100_000
