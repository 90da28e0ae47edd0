"""Datagrams and descriptions that are nearly right: read or refused, and the leg's state stays as it was agreed."""

from __future__ import annotations

import random
import time

import pytest

from media.leg import LegError
from media.sdp import parse
from tests.fuzz import guided
from tests.fuzz.mutator import mutate, scramble, stretch
from tests.fuzz.targets import TARGETS

BUDGET_S = 0.020
"""Of processor time, for a description of any length."""


def play(target: str, count: int, seed: int) -> None:
    """The seeds and what was kept, changed: text by lines, the rest by bytes."""
    dice, whole = random.Random(seed), guided.seeds(target)
    change = mutate if target in ("sdp", "digest") else scramble
    for _ in range(count):
        TARGETS[target](change(dice.choice(whole), dice))


@pytest.mark.parametrize("target", ["sdp", "digest", "dtmf", "media"])
def test_nearly_right_inputs_in_ci(target: str) -> None:
    play(target, 500, seed=5)


@pytest.mark.acceptance
@pytest.mark.parametrize("target", ["sdp", "digest", "dtmf", "media"])
def test_nearly_right_inputs(target: str) -> None:
    play(target, 100_000, seed=6)


def seconds(text: str) -> float:
    started = time.process_time()
    try:
        for line in parse(text).media:
            line.codecs()
    except LegError as error:
        assert len(str(error)) < 2000
    return time.process_time() - started


def check_cost(count: int, seed: int, budget_s: float) -> None:
    dice, whole = random.Random(seed), guided.seeds("sdp")
    for _ in range(count):
        text = stretch(dice.choice(whole), 65_535, dice).decode(errors="replace")
        if seconds(text) > budget_s:
            assert min(seconds(text) for _ in range(7)) < budget_s, text[:200]


def test_any_64_kib_of_description_cost_little_in_ci() -> None:
    check_cost(150, seed=7, budget_s=3 * BUDGET_S)


@pytest.mark.acceptance
def test_any_64_kib_of_description_cost_little() -> None:
    check_cost(20_000, seed=8, budget_s=BUDGET_S)
