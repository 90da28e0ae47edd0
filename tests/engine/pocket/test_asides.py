"""What a window without a question teaches: to keep silent, to go on, and when to stop after all."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from engine.model.text import PAD
from engine.pocket.recipe import asides
from engine.pocket.recipe.asides import KINDS, LONG, MISSED, QUIET, SPEAKS, THEN, compose
from engine.pocket.recipe.dialogues import FRAMES, GREETING, LEAD, MUTTERS_S, SILENCE_FRAMES, STOP
from engine.pocket.recipe.formats import SILENCE, Dialogue
from engine.slot import FRAME_SAMPLES
from tests.engine.pocket.test_dialogues import DOMAIN, clips, composer, no_telephone, said, told

COUNT = 60
FRAME_S = 0.08


@cache
def composed() -> tuple[Dialogue, ...]:
    with no_telephone():
        return tuple(compose(composer(), np.random.default_rng(seed)) for seed in range(COUNT))


def of(kind: str) -> list[Dialogue]:
    """Those of a kind, by what is in them."""

    def named(dialogue: Dialogue) -> str:
        if told(dialogue, "missed"):
            return "missed"
        if told(dialogue, "greeting"):
            return "call" if dialogue.frames == FRAMES else "greeted"
        if not told(dialogue, "answer"):
            return "quiet"
        if told(dialogue, "question"):
            return "interruption"
        mutters = any(event.text in DOMAIN.mutters for event in told(dialogue, "noise"))
        return "mutter" if mutters else "nothing"

    return [dialogue for dialogue in composed() if named(dialogue) == kind]


def test_all_of_them_come_up_as_often_as_they_are_to() -> None:
    assert sum(KINDS.values()) == pytest.approx(1)
    for kind, share in KINDS.items():
        assert len(of(kind)) <= COUNT * share * 2 + 2
        assert len(of(kind)) >= COUNT * share / 2 - 2
    assert of("quiet") and of("mutter") and of("interruption")


def test_after_a_question_that_was_missed_the_agent_asks() -> None:
    for dialogue in of("missed"):
        (missed,) = told(dialogue, "missed")
        heard_s = [word.end_s for word in dialogue.heard]
        assert MISSED - 1 <= missed.frame - max(heard_s) / FRAME_S <= MISSED + 3
        asked = told(dialogue, "silence")
        assert [event.text for event in asked] == [DOMAIN.clip_text((DOMAIN.silence,))]
        assert asked[0].frame == missed.frame - MISSED + SILENCE_FRAMES + LEAD + 1
        assert not dialogue.prompt and not told(dialogue, "question") and not told(dialogue, "answer")


def test_noise_alone_is_answered_by_nothing() -> None:
    for dialogue in of("quiet"):
        assert QUIET[0] <= dialogue.frames < QUIET[1] <= SILENCE_FRAMES
        assert (dialogue.schedule[:, 0] == SILENCE).all() and (dialogue.text == PAD).all()
        (noise,) = told(dialogue, "noise")
        assert dialogue.audio is not None
        loud = np.abs(dialogue.audio[noise.frame * FRAME_SAMPLES :].reshape(-1, FRAME_SAMPLES)).max(axis=1) > 1e-3
        assert loud.mean() > 0.3


def test_a_call_in_which_nobody_speaks_is_greeted_and_asked_into() -> None:
    dialogue = next(
        made
        for made in (asides._greeted(composer(), np.random.default_rng(seed), "call") for seed in range(3))
        if told(made, "silence")
    )
    assert dialogue.frames == FRAMES and "Known:" not in dialogue.prompt
    assert [event.frame for event in told(dialogue, "greeting")] == [GREETING]
    assert len(told(dialogue, "silence")) >= 2 and not told(dialogue, "question") and not told(dialogue, "answer")


def test_noise_behind_a_greeting_is_answered_by_nothing() -> None:
    """Behind a prompt, as in a call: noise that was only ever heard without one would be another thing there."""
    greeted = of("greeted")
    assert len({told(dialogue, "noise")[0].text for dialogue in greeted}) >= 4
    for dialogue in greeted:
        assert dialogue.prompt and "Known:" not in dialogue.prompt
        (greeting,), (noise,) = told(dialogue, "greeting"), told(dialogue, "noise")
        end = greeting.frame + np.flatnonzero(dialogue.schedule[greeting.frame :, 0] != SILENCE)[-1] + 1
        assert QUIET[0] <= dialogue.frames - end < QUIET[1]
        assert end <= noise.frame < end + 20 and (dialogue.text[end:] == PAD).all()


def test_an_answer_that_is_talked_into_goes_on() -> None:
    for dialogue in (*of("mutter"), *of("nothing")):
        (answer,) = told(dialogue, "answer")
        assert answer.frame == SPEAKS
        talking = np.flatnonzero(dialogue.schedule[:, 0] != SILENCE)
        assert talking[0] == SPEAKS and (np.diff(talking) == 1).all() and len(talking) >= LONG
        assert THEN[0] <= dialogue.frames - 1 - talking[-1] < THEN[1] + 1
        assert not told(dialogue, "stop")
        for noise in told(dialogue, "noise"):
            assert SPEAKS <= noise.frame <= talking[-1]
    assert max(each.seconds for each in composer().pool.mutters if each.seconds <= MUTTERS_S) <= MUTTERS_S


def test_an_interruption_stops_it_and_is_answered() -> None:
    for dialogue in of("interruption"):
        (stop,), (question,) = told(dialogue, "stop"), told(dialogue, "question")
        assert stop.frame == question.start + STOP and stop.start == question.start
        assert (dialogue.schedule[SPEAKS : stop.frame, 0] != SILENCE).sum() >= STOP
        first, second = told(dialogue, "answer")
        assert (first.frame, second.start) == (SPEAKS, question.frame)
        assert (dialogue.schedule[stop.frame : second.frame, 0] == SILENCE).all()


def test_what_is_said_begins_with_the_window_and_is_long() -> None:
    assert len({event.text for dialogue in composed() for event in told(dialogue, "answer")[:1]}) > 15
    assert {len(clips()), len(said("train")) > 0} == {len(DOMAIN.clips), True}
