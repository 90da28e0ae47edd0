"""Some interruptions come too late for the agent: it goes on for a while, and is then asked to stop."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from engine.model.text import PAD
from engine.pocket.recipe import stops
from engine.pocket.recipe.dialogues import LEAD, Timeline
from engine.pocket.recipe.formats import SILENCE, Clip, ClipWord, Dialogue, Event
from engine.pocket.recipe.stops import LATEST, given_way_late
from engine.slot import FRAME_SAMPLES

CLIPS = [
    Clip(str(number), np.zeros(30 * FRAME_SAMPLES, np.float32), tuple(ClipWord(str(at), 2 * at) for at in range(15)))
    for number in range(2)
]
STOPPED = 16


def encode(word: str) -> list[int]:
    return [10 + int(word)]


def plain() -> Timeline:
    line = Timeline(90, CLIPS, encode)
    line.speak([0, 1], LEAD + 1)
    return line


@pytest.fixture
def interrupted() -> Dialogue:
    line = plain()
    line.hush(STOPPED)
    line.speak([1], 50)
    return Dialogue("", line.schedule, line.text, (), (Event("stop", STOPPED, STOPPED - 5),))


def late(dialogue: Dialogue, seed: int) -> tuple[Dialogue, tuple[int, ...]]:
    return given_way_late(dialogue, CLIPS, encode, np.random.default_rng(seed))


def test_it_goes_on_with_what_it_was_saying_for_some_frames(interrupted: Dialogue) -> None:
    whole, lengths = plain(), set[int]()
    for seed in range(60):
        made, frames = late(interrupted, seed)
        lengths.add(len(frames))
        end = STOPPED + len(frames)
        assert frames == tuple(range(STOPPED, end))
        assert np.array_equal(made.schedule[:end], whole.schedule[:end])
        assert np.array_equal(made.schedule[end:], interrupted.schedule[end:])
        assert np.array_equal(made.text[:end], whole.text[:end])
        assert np.array_equal(made.text[end:], interrupted.text[end:])
    assert lengths == set(range(LATEST + 1))


def test_it_does_not_go_on_beyond_the_clip_nor_the_dialogue(
    interrupted: Dialogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stops, "LATE_SHARE", 1.0)
    line = plain()
    line.hush(LEAD + 1 + 28)
    soon = Dialogue("", line.schedule, line.text, (), (Event("stop", LEAD + 1 + 28, 3),))
    assert max(len(late(soon, seed)[1]) for seed in range(20)) == 2
    short = replace(interrupted, schedule=interrupted.schedule[: STOPPED + 1], text=interrupted.text[: STOPPED + 1])
    assert {late(short, seed)[1] for seed in range(20)} == {(STOPPED,)}


def test_what_was_over_is_not_begun_again(interrupted: Dialogue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stops, "LATE_SHARE", 1.0)
    silent = replace(interrupted, schedule=np.full_like(interrupted.schedule, SILENCE))
    for dialogue in (silent, replace(interrupted, events=(Event("stop", 0, -1), Event("noise", 20)))):
        made, frames = late(dialogue, 1)
        assert frames == () and np.array_equal(made.schedule, dialogue.schedule)
        assert np.array_equal(made.text, dialogue.text) and made.text[-1] == PAD
