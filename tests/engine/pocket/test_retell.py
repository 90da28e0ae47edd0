"""Coded calls told anew: who greets and what is remembered follow the prompt, and the caller stays."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from engine.model.text import SILENT
from engine.pocket.recipe.dialogues import GREETING
from engine.pocket.recipe.domain import load_domain
from engine.pocket.recipe.formats import SILENCE, Clip, ClipWord, Dialogue, Event
from engine.pocket.recipe.retell import AFTER, ASKED_OFTEN, GREETED, RECITED_FRAMES, Retelling
from engine.slot import FRAME_SAMPLES

DOMAIN = load_domain()
WORDS: list[str] = []


def encode(word: str) -> list[int]:
    """A token for each word there is."""
    if word not in WORDS:
        WORDS.append(word)
    return [10 + WORDS.index(word)]


def spelt(dialogue: Dialogue) -> str:
    """The words of its text stream."""
    return " ".join(WORDS[token - 10] for token in dialogue.text.tolist() if token not in SILENT)


@pytest.fixture
def clips() -> list[Clip]:
    """Of the domain's names, two frames a word."""
    return [
        Clip(
            each.id,
            np.zeros(2 * len(each.id.split()) * FRAME_SAMPLES, np.float32),
            tuple(ClipWord(word, 2 * place) for place, word in enumerate(each.id.split())),
        )
        for each in DOMAIN.clips
    ]


def coded(frames: int, *events: Event) -> Dialogue:
    return Dialogue(
        "You are Otto.",
        np.full((frames, 2), SILENCE, np.int16),
        np.full(frames, 3, np.int16),
        (),
        events,
        codes=np.arange(8 * frames, dtype=np.uint16).reshape(frames, 8),
    )


CALL = coded(400, Event("greeting", GREETING), Event("question", 90, 70, "hours", "when"))
HASTY = coded(400, Event("greeting", GREETING), Event("question", 50, 30, "hours", "when"))
RESUMED = coded(400, Event("question", 90, 70, "hours", "when"))
ASKED = coded(60, Event("question", 20, 5, "ask_name", "what is my name"), Event("answer", 25, 20, "ask_name"))
OTHER = coded(60, Event("question", 20, 5, "hours", "when"), Event("answer", 25, 20, "hours"))


def test_a_greeting_follows_its_prompt_and_ends_before_the_caller_speaks(clips: list[Clip]) -> None:
    retelling, random = Retelling(DOMAIN, clips, encode, [], [CALL, HASTY, RESUMED]), np.random.default_rng(0)
    told = [retelling.draw(random) for _ in range(60)]
    for each in told:
        assert each.frames == GREETED[1] and each.codes is not None and CALL.codes is not None
        assert np.array_equal(each.codes, CALL.codes[: each.frames])
        (event,) = each.events
        assert (event.kind, event.frame) == ("greeting", GREETING)
        assert spelt(each) == event.text
        assert all(name in each.prompt for name in DOMAIN.lists["agent"] if f"this is {name}" in event.text)
        assert each.schedule[GREETING, 1] == 0 and each.schedule[GREETING - 1, 0] == SILENCE
    assert len({each.prompt for each in told}) > 30
    assert "" in {each.prompt for each in told}


def test_what_is_remembered_is_what_the_prompt_says(clips: list[Clip]) -> None:
    retelling, random = Retelling(DOMAIN, clips, encode, [ASKED, OTHER], [CALL]), np.random.default_rng(1)
    told = [each for each in (retelling.draw(random) for _ in range(80)) if each.events[0].kind == "question"]
    assert len(told) > 15
    for each in told:
        question, answer = each.events
        assert question == ASKED.events[0] and answer.frame == 25
        name = each.prompt.partition("name=")[2].partition(";")[0].strip(" .")
        assert spelt(each) == answer.text
        assert answer.text == (f"Your name is {name}." if name else "You did not tell me your name.")
        assert each.codes is not None and ASKED.codes is not None
        assert np.array_equal(each.codes, ASKED.codes[: each.frames])
        assert (each.schedule[-AFTER:, 0] == SILENCE).all() and each.schedule[-AFTER - 1, 0] != SILENCE
        assert all(word.end_s <= each.frames * 0.08 for word in each.heard)
    assert len({each.events[1].text for each in told}) > 8


def test_windows_with_more_than_a_question_and_its_answer_are_left_as_they_are(clips: list[Clip]) -> None:
    talked = replace(ASKED, events=(*ASKED.events, Event("backchannel", 3)))
    noisy = replace(ASKED, events=(Event("noise", 2), *ASKED.events))
    assert len(Retelling(DOMAIN, clips, encode, [talked, noisy, OTHER], [CALL])._asked) == ASKED_OFTEN


def test_without_a_call_that_hears_out_the_greeting_there_is_nothing_to_tell(clips: list[Clip]) -> None:
    assert not Retelling(DOMAIN, clips, encode, [ASKED], [HASTY, RESUMED])
    assert Retelling(DOMAIN, clips, encode, [], [CALL])


def test_a_prompt_is_recited_over_some_of_a_call_in_which_nothing_is_said(clips: list[Clip]) -> None:
    retelling, random = Retelling(DOMAIN, clips, encode, [], [CALL]), np.random.default_rng(2)
    told = [retelling.recited(random) for _ in range(60)]
    assert CALL.codes is not None
    for each in told:
        assert each.codes is not None and len(each.codes) == each.frames == RECITED_FRAMES
        first = int(each.codes[0, 0]) // 8
        assert np.array_equal(each.codes, CALL.codes[first : first + RECITED_FRAMES])
        assert (each.schedule[:, 0] == SILENCE).all() and set(each.text.tolist()) <= set(SILENT)
        assert each.events == () and "Known: " in each.prompt
    assert len({each.prompt for each in told}) > 55
    assert 10 < sum(each.prompt.startswith("Known: ") for each in told) < 50
    assert any("Known: nothing." in each.prompt for each in told)


def test_facts_are_asked_for_more_often_than_who_answers(clips: list[Clip]) -> None:
    who = replace(ASKED, events=(Event("question", 20, 5, "who", "who is this"), Event("answer", 25, 20, "who")))
    asked = Retelling(DOMAIN, clips, encode, [ASKED, who, OTHER], [CALL])._asked
    assert [asked.count(each) for each in (ASKED, who, OTHER)] == [ASKED_OFTEN, 1, 0]
