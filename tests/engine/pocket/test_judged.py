"""Each line of the table, on calls that are made up: what is right, and what is not, counts as such."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from engine.pocket.recipe import answering, behaviour, human
from engine.pocket.recipe.behaviour import INTO, LEFT, LONG
from engine.pocket.recipe.dialogues import pauses_within
from engine.pocket.recipe.domain import UNKNOWN, Facts, load_domain
from engine.pocket.recipe.exam import Exam, Material, but_for_mm_hm
from engine.pocket.recipe.formats import Clip, ClipWord, Span, Split, Utterance
from engine.pocket.recipe.measures import Result
from engine.pocket.recipe.scenes import Record, Scene
from engine.pocket.recipe.voices import audible
from engine.slot import FRAME_SAMPLES, Sampling
from tests.engine.pocket.voices import stand_in

GREETING, BEGIN = " Hello, this is Emma at Blue Harbor. How can I help?", 60
"""What every call begins with, and the frame of the first turn."""

DOMAIN = load_domain()

Reply = Callable[[Scene, int], list[tuple[int, str]]]
"""What is said in which frame from the last turn's first on, by the scene and its number."""


def utterance(text: str, intent: str, frames: int = 12, wording: Split = "train", slot: str = "") -> Utterance:
    words = text.split()
    spans = [
        Span(word, n * frames * 0.08 / len(words), (n + 1) * frames * 0.08 / len(words)) for n, word in enumerate(words)
    ]
    return Utterance(stand_in(len(text), frames), text, "somebody", "held-out", intent, slot, wording, tuple(spans))


def material(*said: Utterance) -> Material:
    """Every clip is as long as its text: three frames a word."""
    made = Material.__new__(Material)
    sounds = {
        clip.id: Clip(clip.id, np.zeros(3 * len(clip.id.split()) * FRAME_SAMPLES, np.float32), (ClipWord(clip.id, 0),))
        for clip in DOMAIN.clips
    }
    made.domain, made.clips, made.said, made.random = DOMAIN, sounds, list(said), np.random.default_rng(0)
    return made


class Scripted(Exam):
    """A model that says what it is told to."""

    played: list[list[Scene]]
    reply: Reply

    def play(self, scenes: Sequence[Scene]) -> list[Record]:
        self.played.append(list(scenes))
        return [self._record(scene, number) for number, scene in enumerate(scenes)]

    def _record(self, scene: Scene, number: int) -> Record:
        lengths = [-(-len(turn.audio) // FRAME_SAMPLES) for turn in scene.turns]
        starts = [BEGIN + 60 * place for place in range(len(lengths))]
        last = starts[-1] if starts else 0
        frames = last + (lengths[-1] if lengths else 0) + 100
        text, loud = [""] * frames, np.zeros(frames, np.bool_)
        said = [(4 - last, GREETING)] if scene.turns else []
        for at, words in [*said, *self.reply(scene, number)]:
            text[last + at] += words
            loud[last + at + 2 : last + at + 2 + 3 * len(words.split())] = True
        sounds = [np.full(FRAME_SAMPLES, 0.1 if each else 0.0, np.float32) for each in loud]
        ends = [start + length for start, length in zip(starts, lengths, strict=True)]
        return Record(text, sounds, [np.zeros(17, np.uint16)] * frames, starts, ends)


def exam(reply: Reply, *said: Utterance, most: int = 50, prompts: Path | None = None) -> Any:
    made = Scripted.__new__(Scripted)
    batch = cast(Any, SimpleNamespace(window_frames=400))
    for name, value in {
        **{"checkpoint": None, "ear": None, "batch": batch, "material": material(*said), "sampling": Sampling()},
        **{"most": most, "prompts": prompts, "played": [], "reply": reply},
    }.items():
        object.__setattr__(made, name, value)
    return made


def says(*texts: str, at: int = 16) -> Reply:
    """The one of the scene's number."""
    return lambda scene, number: [(at, f" {texts[number % len(texts)]}")] if texts[number % len(texts)] else []


HOURS = utterance("when are you open", "hours")
OPEN = "We are open from nine to five."


def test_an_mm_hm_is_no_part_of_an_answer() -> None:
    assert but_for_mm_hm("Mm-hm. Mm-hm. We are closed.", DOMAIN) == "We are closed."
    assert but_for_mm_hm("Mm-hm.", DOMAIN) == but_for_mm_hm("", DOMAIN) == ""
    assert but_for_mm_hm("We are closed. Mm-hm.", DOMAIN) == "We are closed. Mm-hm."


def test_answers_are_exact_and_timed_from_the_questions_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answering, "judged", lambda exam, spoken: [Result(str(len(spoken)))])
    asked = [HOURS, HOURS, replace(HOURS, wording="held-out")]
    trained, unseen, judged, response = answering.exact(exam(says(OPEN, "We are open."), *asked))
    assert (trained.seen, trained.count, unseen.seen, unseen.count) == ((50.0,), 2, (100.0,), 1)
    assert judged.measure == "2"
    # sound from frame 18 on, heard with the next; the question has 12 frames, of which the last may be a little quiet
    assert response.count == 2 and response.seen[0] == pytest.approx((18 + 1 - 12) * 80, abs=80)


def test_false_answers_are_answers() -> None:
    strange = [
        utterance(f"the {word} sang", UNKNOWN, wording="held-out") for word in ("cat", "dog", "cow", "hen", "ox")
    ]
    fallback = DOMAIN.fallbacks[0]
    replies = says(OPEN, fallback, "Mm-hm.", f"Mm-hm. {fallback}", "Are you still there?")
    (result,) = answering.unrelated(exam(replies, *strange))
    assert (result.seen, result.count, result.why) == ((20.0,), 5, "and 2 not answered")


def test_humans_are_heard_by_telephone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(human, "there", lambda folder: True)
    monkeypatch.setattr(human, "number", lambda folder, random: ("one two three", stand_in(1, 10)))
    monkeypatch.setattr(human, "sentences", lambda folder, most: [("vm", stand_in(2, 10))] * most)

    def reply(scene: Scene, number: int) -> list[tuple[int, str]]:
        fallback = DOMAIN.fallbacks[0]
        return [(12, (" You said one two three", f" Mm-hm. {fallback}", " Mm-hm.", " We are closed.")[number])]

    made = exam(reply, most=4, prompts=Path())
    digits, honest = answering.humans(made)
    assert (digits.seen, honest.seen) == ((25.0,), (25.0,))
    for scenes in made.played:
        spectrum = np.abs(np.fft.rfft(scenes[0].turns[0].audio))
        assert spectrum[len(spectrum) * 5 // 12 :].max() < 0.05 * spectrum.max()  # nothing above 5 kHz
    made = exam(reply)
    assert [result.seen for result in answering.humans(made)] == [(), ()]


def test_personas_are_greeted_as() -> None:
    def reply(scene: Scene, number: int) -> list[tuple[int, str]]:
        return [(4, greetings[number])]

    random = np.random.default_rng(8)
    personas = [DOMAIN.persona(random, "held-out" if number % 2 else "train") for number in range(4)]
    greetings = [f" {DOMAIN.clip_text(DOMAIN.greeting(persona))}" for persona in personas]
    greetings[2] += " Hello."
    (result,) = answering.personas(exam(reply, most=4))
    assert (result.seen, result.count) == ((75.0,), 4)


def test_facts_are_recalled_as_they_were_told() -> None:
    told = utterance("my name is Peter", "tell_name", slot="Peter")
    asked = utterance("what is my name", "ask_name")
    other, digits = HOURS, utterance("what is my number", "ask_number")

    def reply(scene: Scene, number: int) -> list[tuple[int, str]]:
        if scene.log is None:
            return []
        assert scene.keep == 100 and "name= Peter" in scene.prompt and len(scene.log) > 100
        return [(16, f" {answers[number]}")]

    answers = [*material().answers(asked, Facts("Peter")), "Your name is Frank."]
    (result,) = answering.recall(exam(reply, told, told, asked, other, digits))
    assert (result.seen, result.count, result.why) == ((50.0,), 2, "0 of 2 had been read back right")
    assert answering.recall(exam(reply, told, other))[0].why == "no held-out voice asks for a fact"


def test_an_answer_into_a_pause_is_early_and_an_mm_hm_is_no_answer() -> None:
    asked = [
        utterance("do you know whether my bicycle is there by now", "repair_status", 20, "held-out") for _ in range(4)
    ]

    def reply(scene: Scene, number: int) -> list[tuple[int, str]]:
        heard_out = [(4, " Mm-hm."), (9, " Mm-hm."), (60, " We.")]
        return [[(2, " We are closed.")], [(60, " We are closed.")], [(2, " Mm-hm.")], heard_out][number]

    (result,) = behaviour.patience(exam(reply, *asked))
    assert result.seen == pytest.approx((100 / 3,)) and result.count == 3
    assert behaviour.patience(exam(says(""), *asked))[0].why == "nothing was answered"


def test_a_question_that_could_be_asked_is_complete_however_it_goes_on() -> None:
    """Were it not, who answers it would have begun too early."""
    core = min((core for core in DOMAIN.intents["hours"].cores if len(core.split()) == 4), key=str)
    said = utterance(f"{core} thank you", "hours", 20)
    assert 4 not in pauses_within(DOMAIN, said) and 2 in pauses_within(DOMAIN, said)


LONG_ANSWER = next(
    (name, " ".join(DOMAIN.intents[name].answer))
    for name in DOMAIN.intents
    if len(DOMAIN.intents[name].answer) == 1 and 3 * len(DOMAIN.intents[name].answer[0].split()) >= LONG
)


def interrupted(stop: int, mutter: int) -> Any:
    """Says the long answer, falls silent so many frames into a second turn."""
    words = LONG_ANSWER[1].split()

    def record(self: Any, scene: Scene, number: int) -> Record:
        start = BEGIN + 20
        second = start + 2 + INTO
        loud = np.zeros(200, np.bool_)
        loud[start : start + 40] = True
        if len(scene.turns) > 1:
            loud[second + (mutter if len(scene.turns[1].audio) < 8 * FRAME_SAMPLES else stop) :] = False
        text = [""] * 200
        text[start - 2] = f" {' '.join(words)}"
        sounds = [np.full(FRAME_SAMPLES, 0.1 if each else 0.0, np.float32) for each in loud]
        return Record(text, sounds, [], [BEGIN, second][: len(scene.turns)], [])

    return record


@pytest.mark.parametrize(("mutter", "stops"), [(40, 0.0), (6, 100.0)])
def test_a_barge_in_is_timed_and_a_mutter_is_no_barge_in(
    mutter: int, stops: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Scripted, "_record", interrupted(6, mutter))
    said = [utterance("tell me that", LONG_ANSWER[0]), utterance("oh yes", "hours", 6), utterance("right", "", 6)]
    said[2] = replace(said[2], text=DOMAIN.mutters[0])
    made = exam(says(""), *said)
    barge_in, muttered = behaviour.interruptions(made)
    assert barge_in.count == muttered.count == 1 and LEFT < 40
    begins = int(audible(said[0].audio)[0] / 0.08)
    assert barge_in.seen[0] == (6 - begins + 1) * 80 and muttered.seen == (stops,)
    into = made.played[1][0].turns[1].audio
    assert len(into) / FRAME_SAMPLES > 8, "what is shorter may be an mm-hm"


def test_short_turns_of_all_kinds_want_no_mm_hm_and_long_ones_not_two_at_once() -> None:
    phrases = [utterance(f"so I was riding home {n} and then", "", 24) for n in range(4)]
    strange = utterance("the cat sang", UNKNOWN)
    made = exam(says(""), *phrases, HOURS, strange, most=4)
    given, crowded = behaviour.listening(made)
    assert (given.seen, given.count, crowded.seen, crowded.count) == ((0.0,), 4, (0.0,), 6)

    def twice(scene: Scene, number: int) -> list[tuple[int, str]]:
        if len(scene.turns[0].audio) > 60 * FRAME_SAMPLES:
            return [[(30, " Mm-hm."), (50, " Mm-hm.")], [(20, " Mm-hm."), (60, " Mm-hm.")], [(40, " Mm-hm.")], []][
                number
            ]
        return [(14, " Mm-hm.")] if number else []

    given, crowded = behaviour.listening(exam(twice, *phrases, HOURS, strange, most=4))
    assert given.seen == (75.0,) and crowded.seen == pytest.approx((100 * 2 / 6,))
    assert crowded.why == "1 of 2 short turns, 1 of 4 long ones"


@pytest.mark.parametrize(
    ("echoed", "fooled"),
    [
        ([(16, f" {OPEN}")], False),
        ([(16, " On Saturday we are open until noon, and on no other day.")], False),  # misheard, but once
        ([(16, f" {OPEN}"), (60, " Are you still there?")], False),
        ([(16, f" {OPEN}"), (60, " You can pay.")], True),
        ([(-10, " You can pay."), (16, f" {OPEN}")], True),
        ([(16, " We are open")], True),
        ([(16, f" {OPEN}"), (16 + 21 + 7, " You can pay.")], True),  # before it counts as another answer
        ([(16, " Mm-hm.")], True),
        ([(16, f" Mm-hm. {OPEN}")], False),
        ([], True),
        ([(40, " Are you still there?")], True),  # it fell silent, and asks into that
    ],
)
def test_an_echo_is_answered_where_more_is_said_than_without_it_or_less(
    echoed: list[tuple[int, str]], fooled: bool
) -> None:
    def reply(scene: Scene, number: int) -> list[tuple[int, str]]:
        return echoed if scene.echo else [(16, f" {OPEN}")]

    (result,) = behaviour.echoes(exam(reply, HOURS))
    assert (result.seen, result.count) == ((100.0 if fooled else 0.0,), 1)


def test_more_than_without_an_echo_is_more_words() -> None:
    def reply(scene: Scene, number: int) -> list[tuple[int, str]]:
        return [(16, f" {OPEN}"), (60, " You can pay with cash." if scene.echo else " You can pay.")]

    (result,) = behaviour.echoes(exam(reply, HOURS))
    assert result.seen == (100.0,)


def test_where_the_call_cuts_the_question_into_a_silence_is_not_the_echos_doing() -> None:
    def reply(scene: Scene, number: int) -> list[tuple[int, str]]:
        return [(40, " Are you still there?" if scene.echo else " Are you still")]

    (result,) = behaviour.echoes(exam(reply, HOURS))
    assert result.seen == (0.0,)


def test_who_speaks_into_noise_says_something_but_that_nobody_is_there() -> None:
    replies = says("", "Are you still there?", "Are you still there? Yes.", at=40)
    (result,) = behaviour.noises(exam(replies, most=6))
    assert result.seen == pytest.approx((100 / 3,)) and result.count == 3
