from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine.pocket.recipe.callers import ESPEAK_HELD_OUT, callers, varied
from engine.pocket.recipe.variants import DRAWN, Folder, variant

ONCE = {"pitch", "voicing", "consonants", "flutter", "roughness", "intonation"}
"""What every variant says, and once."""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """What espeak-ng's data look like."""
    there = tmp_path / "lib" / "espeak-ng-data"
    (there / "voices" / "!v").mkdir(parents=True)
    (there / "voices" / "!v" / "f1").write_text("name f1")
    (there / "voices" / "mb").mkdir()
    (there / "en_dict").write_text("words")
    return there


@pytest.mark.parametrize("seed", range(60))
def test_whoever_is_drawn_can_be_understood(seed: int) -> None:
    lines = [line.split() for line in variant(seed).splitlines()]
    first = [line[0] for line in lines]
    assert lines[:2] == [["language", "variant"], ["name", f"drawn-{seed}"]]
    assert set(first) >= ONCE and all(first.count(name) == 1 for name in ONCE)
    low, high = next((int(line[1]), int(line[2])) for line in lines if line[0] == "pitch")
    assert 70 <= low < high <= 350, "Hz"
    resonances = [[int(number) for number in line[1:]] for line in lines if line[0] == "formant"]
    assert [number for number, *_ in resonances] == list(range(9))
    assert all(80 <= lift <= 128 and strength >= 75 for _, lift, strength, _ in resonances), "none is taken away"
    lifts = [lift for _, lift, _, _ in resonances]
    assert max(lifts) - min(lifts) <= 16, "it is one throat"


def test_no_two_are_alike() -> None:
    bodies = {variant(seed).split("\n", 2)[2] for seed in range(200)}
    assert len(bodies) == 200


def test_a_drawn_voice_is_laid_beside_espeaks_own(data: Path, tmp_path: Path) -> None:
    folder = Folder(data, tmp_path / "root")
    ours = tmp_path / "root" / "espeak-ng-data"
    assert (ours / "en_dict").read_text() == "words" and (ours / "voices" / "mb").is_dir()
    folder.lay("en-gb-scotland+drawn-31")
    folder.lay("en+f1")
    assert (ours / "voices" / "!v" / "drawn-31").read_text() == variant(31)
    assert (ours / "voices" / "!v" / "f1").read_text() == "name f1"
    assert [each.name for each in (data / "voices" / "!v").iterdir()] == ["f1"], "nothing is written beside them"


def test_they_only_train_and_each_call_is_by_another() -> None:
    drawn = [caller for caller in callers() if DRAWN.search(caller.base)]
    assert len(drawn) == len({caller.base.partition("+")[2] for caller in drawn}) == 40
    assert {caller.split for caller in drawn} == {"train"}
    random = np.random.default_rng(0)
    again = {varied(drawn[0], random).base.partition("+")[2] for _ in range(50)}
    assert len(again) == 50 and all(DRAWN.search(f"+{name}") for name in again)
    assert not again & set(ESPEAK_HELD_OUT)
