"""Where the agent is late: it goes on, or says nothing, for some frames, and is then asked for what it should do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from engine.model.text import PAD
from engine.pocket.recipe import late as late_module
from engine.pocket.recipe.dialogues import LEAD, Timeline
from engine.pocket.recipe.formats import SILENCE, Clip, ClipWord, Dialogue, Event
from engine.pocket.recipe.late import BEGUN_LATEST, LATEST, begun_late, given_way_late
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
    monkeypatch.setattr(late_module, "LATE_SHARE", 1.0)
    line = plain()
    line.hush(LEAD + 1 + 28)
    soon = Dialogue("", line.schedule, line.text, (), (Event("stop", LEAD + 1 + 28, 3),))
    assert max(len(late(soon, seed)[1]) for seed in range(20)) == 2
    short = replace(interrupted, schedule=interrupted.schedule[: STOPPED + 1], text=interrupted.text[: STOPPED + 1])
    assert {late(short, seed)[1] for seed in range(20)} == {(STOPPED,)}


def test_what_was_over_is_not_begun_again(interrupted: Dialogue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(late_module, "LATE_SHARE", 1.0)
    silent = replace(interrupted, schedule=np.full_like(interrupted.schedule, SILENCE))
    for dialogue in (silent, replace(interrupted, events=(Event("stop", 0, -1), Event("noise", 20)))):
        made, frames = late(dialogue, 1)
        assert frames == () and np.array_equal(made.schedule, dialogue.schedule)
        assert np.array_equal(made.text, dialogue.text) and made.text[-1] == PAD


@pytest.fixture
def answered(monkeypatch: pytest.MonkeyPatch) -> Dialogue:
    """A question, and two frames behind its end an answer of thirty frames."""
    monkeypatch.setattr(late_module, "BEGUN_LATE_SHARE", 1.0)
    line = Timeline(90, CLIPS, encode)
    line.speak([0], 20)
    return Dialogue("", line.schedule, line.text, (), (Event("question", 14, 5), Event("answer", 20, 14)))


def test_an_answer_is_begun_some_frames_later_and_is_the_same(answered: Dialogue) -> None:
    first, lengths = 20 - LEAD - 1, set[int]()
    for seed in range(60):
        made, frames = begun_late(answered, np.random.default_rng(seed))
        lengths.add(by := len(frames))
        assert frames == tuple(range(first, first + by)) and made.events[1] == Event("answer", 20 + by, 14)
        for was, now in ((answered.schedule, made.schedule), (answered.text, made.text)):
            assert np.array_equal(now[:first], was[:first])
            assert np.array_equal(now[first + by :], was[first : len(was) - by])
        assert (made.schedule[list(frames), 0] == SILENCE).all() and (made.text[list(frames)] == PAD).all()
    assert lengths == set(range(1, BEGUN_LATEST + 1))


def test_nothing_is_late_that_something_else_comes_into_or_that_it_would_run_into(answered: Dialogue) -> None:
    into = (Event("question", 60, 30), Event("stop", 35, 30), Event("noise", 49))
    after = (Event("question", 60, 53), Event("silence", 53 + LEAD + 1), Event("noise", 53))
    for more, most in (*((each, 0) for each in into), *((each, 3) for each in after)):
        made = [
            begun_late(replace(answered, events=(*answered.events, more)), np.random.default_rng(seed))
            for seed in range(40)
        ]
        assert max(len([frame for frame in frames if frame < 50]) for _, frames in made) == most, more


def test_what_the_window_cuts_off_may_be_late_too(answered: Dialogue) -> None:
    for frames in (18, 30):
        cut = replace(answered, schedule=answered.schedule[:frames], text=answered.text[:frames])
        made, late_frames = begun_late(cut, np.random.default_rng(1))
        assert late_frames and max(late_frames) < frames == made.frames == len(made.schedule)


def test_most_begins_in_time(answered: Dialogue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    made = [begun_late(answered, np.random.default_rng(seed)) for seed in range(200)]
    assert 20 < sum(bool(frames) for _, frames in made) < 90
    assert all(dialogue.events == answered.events for dialogue, frames in made if not frames)
