from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from engine.model.text import EPAD, PAD, SILENT, Tokenizer
from engine.pocket.recipe import dialogues, standin
from engine.pocket.recipe.callers import callers
from engine.pocket.recipe.dialogues import (
    AGAIN_S,
    ANSWERED,
    FRAMES,
    GAPS,
    GREETING,
    LEAD,
    LISTEN_S,
    NUMBER_GAP,
    SILENCE_FRAMES,
    STOP,
    TOLD,
    WINDOW,
    Composer,
    Kind,
    Pool,
    Progress,
    Timeline,
    paused,
    pauses_within,
    played,
    turn_of,
)
from engine.pocket.recipe.domain import UNKNOWN, State, Wording, load_domain
from engine.pocket.recipe.formats import SILENCE, Clip, Dialogue, Event, Span, Split, Utterance
from engine.pocket.recipe.generate import nano_makers, spoken
from engine.pocket.recipe.phones import PAUSE
from engine.pocket.recipe.tokenizer import train_tokenizer
from engine.pocket.recipe.voices import audible
from engine.slot import FRAME_SAMPLES, SAMPLE_RATE

DOMAIN = load_domain()

COUNTS: dict[Kind, int] = {"stage1": 40, "stage2": 90, "probe": 10}


@cache
def tokenizer() -> Tokenizer:
    return Tokenizer(train_tokenizer(DOMAIN.texts()))


@cache
def encode(word: str) -> list[int]:
    return tokenizer().encode(word)


@cache
def clips() -> tuple[Clip, ...]:
    return tuple(standin.tone_clip(text) for text in DOMAIN.clips)


@cache
def said(split: Split) -> tuple[Utterance, ...]:
    """Two voices, each with all intents, a story and every mutter."""
    makers, random = nano_makers(), np.random.default_rng(4)
    callers = [caller for caller in makers.callers if caller.split == split][:2]
    wordings = [DOMAIN.wording(intent, random, split) for intent in (*DOMAIN.intents, UNKNOWN)]
    wordings += [Wording(text, "") for text in (*DOMAIN.mutters, *(story[0] for story in DOMAIN.stories))]
    return tuple(spoken(makers, caller, wording) for caller in callers for wording in wordings)


def composer(split: Split = "train") -> Composer:
    return Composer(DOMAIN, clips(), encode, Pool.of(said(split), DOMAIN), split)


@contextmanager
def no_telephone() -> Iterator[pytest.MonkeyPatch]:
    """Without the telephone's and the echo's work, which the labels do not depend on."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dialogues, "telephone", lambda audio, random: audio)
        patch.setattr(dialogues, "ECHO", 0.0)
        yield patch


@cache
def composed(kind: Kind) -> tuple[Dialogue, ...]:
    makes = composer("held-out" if kind == "probe" else "train")
    with no_telephone():
        return tuple(makes.compose(kind, np.random.default_rng(seed)) for seed in range(COUNTS[kind]))


def told(dialogue: Dialogue, kind: str) -> list[Event]:
    return [event for event in dialogue.events if event.kind == kind]


def said_text(dialogue: Dialogue) -> str:
    pieces = [tokenizer().piece(token) for token in dialogue.text.tolist()]
    return "".join(piece for piece in pieces if isinstance(piece, str))


def caller_sounds(dialogue: Dialogue) -> np.ndarray:
    assert dialogue.audio is not None
    return np.asarray(np.abs(dialogue.audio.reshape(-1, FRAME_SAMPLES)).max(axis=1) > 0.005)


def test_a_window_is_one_question_and_the_beginning_of_its_answer() -> None:
    for dialogue in composed("stage1"):
        assert WINDOW[0] <= dialogue.frames
        assert "Known:" in dialogue.prompt
        (question,), (answer,) = told(dialogue, "question"), told(dialogue, "answer")
        assert answer.intent == question.intent
        assert answer.text.startswith(said_text(dialogue).strip()) and said_text(dialogue)
        assert (dialogue.schedule[: answer.frame] == SILENCE).all()
        more = TOLD if question.intent in DOMAIN.naming else ANSWERED
        assert dialogue.frames <= WINDOW[1] or dialogue.frames - question.frame <= more + 3


def test_an_answer_that_names_something_is_told_to_its_end() -> None:
    named = [dialogue for dialogue in composed("stage1") if told(dialogue, "question")[0].intent in DOMAIN.naming]
    assert len(named) > 5
    for dialogue in named:
        (answer,) = told(dialogue, "answer")
        assert said_text(dialogue).strip() == answer.text
        assert (dialogue.schedule[-4:, 0] == SILENCE).all()


def test_a_window_of_strangers_is_answered_with_what_is_not_known() -> None:
    makers, random = nano_makers(), np.random.default_rng(3)
    strangers = [spoken(makers, makers.callers[0], DOMAIN.stray(random)) for _ in range(4)]
    makes = Composer(DOMAIN, clips(), encode, Pool.of(strangers, DOMAIN))
    for seed in range(4):
        (answer,) = told(makes.compose("strays", np.random.default_rng(seed)), "answer")
        assert (answer.intent, answer.text) == (UNKNOWN, DOMAIN.fallbacks[0])


@pytest.mark.parametrize("kind", ["stage1", "stage2", "probe"])
def test_shapes_are_a_dialogues(kind: Kind) -> None:
    for dialogue in composed(kind):
        assert dialogue.audio is not None and dialogue.audio.dtype == np.float32
        assert dialogue.audio.shape == (dialogue.frames * FRAME_SAMPLES,)
        assert dialogue.schedule.shape == (dialogue.frames, 2)
        assert 0 <= dialogue.text.min() and dialogue.text.max() < len(tokenizer())
        number, within = dialogue.schedule.T
        assert all(within[n] < clips()[number[n]].frames for n in np.flatnonzero(number != SILENCE))
        assert dialogue.split == ("held-out" if kind == "probe" else "train")


def test_a_calls_beginning_is_greeted_and_one_that_goes_on_is_not() -> None:
    greeted = 0
    for dialogue in composed("stage2"):
        greetings = told(dialogue, "greeting")
        assert bool(greetings) == ("Known:" not in dialogue.prompt)
        if greetings:
            greeted += 1
            assert dialogue.schedule[GREETING - 1, 0] == SILENCE != dialogue.schedule[GREETING, 0]
            assert said_text(dialogue).strip().startswith(greetings[0].text.split()[0])
    assert 0.5 * len(composed("stage2")) < greeted < 0.9 * len(composed("stage2"))


def test_the_text_leads_the_sound() -> None:
    """Each word's first piece stands up to LEAD frames before its sound, and never far behind it."""
    line = Timeline(FRAMES, clips(), encode)
    for clip in clips():
        line.hush(0)
        line.speak([DOMAIN.index[clip.id]], 10)
        at = 0
        for word in clip.words:
            tokens = encode(word.word)
            while line.text[at : at + len(tokens)].tolist() != tokens:
                at += 1
                assert at < FRAMES
            lead = 10 + word.frame - at
            assert lead <= LEAD
            if word is clip.words[0]:
                assert lead == LEAD and line.text[at - 1] == EPAD
            at += len(tokens)


def test_epad_stands_before_a_word_only() -> None:
    for dialogue in composed("stage2"):
        text = dialogue.text.tolist()
        stops = {event.frame for event in told(dialogue, "stop")}
        for frame, token in enumerate(text[:-1]):
            if token == EPAD and frame + 1 not in stops:
                assert text[frame + 1] not in SILENT


def test_answers_follow_after_the_gap_and_never_before_the_end() -> None:
    gaps: list[int] = []
    for dialogue in composed("stage2"):
        questions = {event.frame: event for event in told(dialogue, "question")}
        for answer in told(dialogue, "answer"):
            question = questions[answer.start]
            if question.intent != "tell_number":
                gaps.append(answer.frame - question.frame)
            between = slice(question.frame + 1, answer.frame)
            assert (dialogue.schedule[between, 0] == SILENCE).all()
            assert dialogue.schedule[answer.frame, 0] != SILENCE
    low, high = (gap + LEAD + 1 for gap, _ in GAPS)
    assert set(gaps) == {low, high}
    assert 0.7 < gaps.count(low) / len(gaps) < 0.9


def test_a_question_ends_where_its_sound_does() -> None:
    for dialogue in composed("stage1"):
        (question,) = told(dialogue, "question")
        sounds = np.flatnonzero(caller_sounds(dialogue))
        assert abs(int(sounds[0]) - question.start) <= 1 and abs(int(sounds[-1]) - question.frame) <= 1


def test_an_interrupted_agent_falls_silent_after_the_onset() -> None:
    stops = 0
    for dialogue in composed("stage2"):
        for stop in told(dialogue, "stop"):
            stops += 1
            assert stop.frame == stop.start + STOP
            assert (dialogue.schedule[stop.start : stop.frame, 0] != SILENCE).any()
            (question,) = (event for event in told(dialogue, "question") if event.start == stop.start)
            until = max(question.frame, stop.frame) + 2
            assert (dialogue.schedule[stop.frame : until, 0] == SILENCE).all() or told(dialogue, "backchannel")
            assert dialogue.text[stop.frame] in (PAD, EPAD)
    assert stops > 10


def test_a_mutter_does_not_stop_the_agent() -> None:
    mutters = 0
    for dialogue in composed("stage2"):
        for noise in told(dialogue, "noise"):
            if noise.text in DOMAIN.mutters:
                mutters += 1
                assert (dialogue.schedule[noise.frame : noise.frame + STOP + 1, 0] != SILENCE).all()
    assert mutters > 5


def test_silence_is_asked_into_and_only_silence() -> None:
    asked = 0
    for dialogue in composed("stage2"):
        over = next((event.frame for event in told(dialogue, "answer") if event.intent == "goodbye"), FRAMES)
        busy = dialogue.schedule[:, 0] != SILENCE
        for event in told(dialogue, "question"):
            busy[event.start : event.frame + 1] = True
        for event in told(dialogue, "silence"):
            asked += 1
            assert not busy[max(0, event.frame - SILENCE_FRAMES) : event.frame].any()
        quiet = 0
        for frame in range(min(over, FRAMES)):
            quiet = 0 if busy[frame] else quiet + 1
            assert quiet <= SILENCE_FRAMES + LEAD + 1
    assert asked > 10


def test_who_tells_a_story_is_listened_to() -> None:
    heard = 0
    for dialogue in composed("stage2"):
        backs = told(dialogue, "backchannel")
        for before, after in zip(backs, backs[1:], strict=False):
            assert (after.frame - before.frame) * 0.08 >= AGAIN_S or before.start != after.start
        for back in backs:
            heard += 1
            (question,) = (event for event in told(dialogue, "question") if event.start == back.start)
            assert (back.frame - question.start) * 0.08 >= LISTEN_S
            assert back.frame + clips()[DOMAIN.index[DOMAIN.backchannel]].frames <= question.frame
    assert heard > 5


def test_the_text_is_what_the_events_say() -> None:
    """Where nobody interrupts, the text stream is the answers in order."""
    whole = 0
    for dialogue in composed("stage2"):
        if not told(dialogue, "stop"):
            parts = [
                event.text
                for event in dialogue.events
                if event.kind in ("greeting", "answer", "silence", "backchannel")
            ]
            text, whole_text = said_text(dialogue), "".join(" " + part for part in parts)
            # The last answer is cut short by the end; or its text has begun, and its sound has not.
            assert whole_text.startswith(text) or (text.startswith(whole_text) and len(text) - len(whole_text) < 20)
            whole += 1
    assert whole > 10


def test_what_was_told_is_recalled() -> None:
    recalled = 0
    for dialogue in composed("stage2"):
        told_now = dict(
            part.split("=") for part in dialogue.prompt.partition("Known: ")[2].strip(".").split("; ") if "=" in part
        )
        for event in dialogue.events:
            if event.kind == "question" and event.intent in ("tell_name", "tell_number"):
                told_now[event.intent.removeprefix("tell_")] = event.slot
            if event.kind == "answer" and event.intent in ("ask_name", "ask_number"):
                fact = told_now.get(event.intent.removeprefix("ask_"))
                recalled += fact is not None
                assert (fact or "did not tell") in event.text
    assert recalled > 10


def test_the_callers_words_stand_where_they_sound() -> None:
    for dialogue in composed("stage1"):
        (question,) = told(dialogue, "question")
        assert [word.label for word in dialogue.heard] == question.text.split()
        assert all(
            before.start_s <= after.start_s for before, after in zip(dialogue.heard, dialogue.heard[1:], strict=False)
        )
        assert abs(dialogue.heard[0].start_s - question.start * 0.08) < 0.15
        assert abs(dialogue.heard[-1].end_s - (question.frame + 1) * 0.08) < 0.2
        assert [phone.label for phone in dialogue.phones if phone.label != PAUSE]
        assert dialogue.phones[0].start_s < dialogue.heard[0].end_s
        assert dialogue.phones[-1].end_s > dialogue.heard[-1].start_s


def test_a_pause_moves_what_is_behind_it_and_nothing_else() -> None:
    one = next(each for each in said("train") if len(each.words) > 4)
    turn = paused(one, {2: 0.5})
    assert len(turn.audio) == len(one.audio) + SAMPLE_RATE // 2
    assert turn.words[:2] == one.words[:2]
    for before, after in zip(one.words[2:], turn.words[2:], strict=True):
        assert after.start_s == pytest.approx(before.start_s + 0.5, abs=0.001)
    for before, after in zip(one.phones, turn.phones, strict=True):
        later = 0.5 if before.start_s >= one.words[2].start_s else 0.0
        assert after.label == before.label and after.start_s == pytest.approx(before.start_s + later, abs=0.001)
    cut = int(one.words[2].start_s * SAMPLE_RATE)
    assert not turn.audio[cut + 1 : cut + SAMPLE_RATE // 2 - 1].any()
    assert turn.end_s == pytest.approx(turn_of((one, 0.0)).end_s + 0.5, abs=0.02)


def test_several_pauses_add_up() -> None:
    one = next(each for each in said("train") if len(each.words) > 4)
    turn = paused(one, {1: 0.25, 3: 0.5})
    moved = [after.start_s - before.start_s for before, after in zip(one.words, turn.words, strict=True)]
    assert moved[:5] == pytest.approx([0, 0.25, 0.25, 0.75, 0.75], abs=0.001)
    assert [word.label for word in turn.words] == [word.label for word in one.words]
    assert turn.wording == turn_of((one, 0.0)).wording


def test_digits_are_waited_for() -> None:
    makes, random = composer(), np.random.default_rng(6)
    number = next(each for each in said("train") if each.intent == "tell_number")
    only = replace(makes, pool=Pool({"tell_number": [number]}, {}, ["nobody"], [], {}))
    gaps, longest = [], 0.0
    for _ in range(20):
        dialogue = only.compose("stage1", random)
        (question,), (answer,) = told(dialogue, "question"), told(dialogue, "answer")
        gaps.append(answer.frame - question.frame)
        digits = [word for word in dialogue.heard if word.label in DOMAIN.lists["digit"]]
        between = [b.start_s - a.end_s for a, b in zip(digits, digits[1:], strict=False)]
        longest = max(longest, *between)
    assert set(gaps) == {NUMBER_GAP + LEAD + 1}
    assert 0.25 < longest < (NUMBER_GAP - 1) * 0.08


def test_a_turn_played_faster_is_shorter_all_over() -> None:
    turn = turn_of(*((each, 0.5) for each in said("train")[:3]), story=True)
    fast = played(turn, 1.25)
    assert len(fast.audio) == int(len(turn.audio) / 1.25)
    assert fast.end_s == pytest.approx(turn.end_s / 1.25) and fast.start_s == pytest.approx(turn.start_s / 1.25)
    assert [word.end_s for word in fast.words] == pytest.approx([word.end_s / 1.25 for word in turn.words])
    assert [phone.end_s for phone in fast.phones] == pytest.approx([phone.end_s / 1.25 for phone in turn.phones])
    assert len(fast.phones) == sum(len(each.phones) for each in said("train")[:3]) > 3
    assert audible(fast.audio)[1] == pytest.approx(fast.end_s, abs=0.02)
    assert len(fast.phrase_ends_s) == 2
    np.testing.assert_array_equal(played(turn, 1.0).audio, turn.audio)


def test_pauses_do_not_come_where_a_question_could_end() -> None:
    one = said("train")[0]

    def places(text: str, intent: str) -> list[int]:
        spans = tuple(Span(word, n, n + 1) for n, word in enumerate(text.split()))
        return pauses_within(DOMAIN, replace(one, text=text, intent=intent, words=spans))

    assert places("are you there hello", "hello") == [1, 2]
    assert 4 in places("could you tell me when you open", "hours")
    whole = next(text for text in DOMAIN.intents["hours"].wordings["train"] if len(text.split()) == 3)
    assert 3 not in places(f"{whole} if I may ask", "hours")
    assert 4 not in places(f"well {whole} if I may ask", "hours")  # "well" in front of it changes nothing
    assert places("it is three five two", "tell_number") == [1, 2]
    assert places("one two three", "tell_number") == []
    assert pauses_within(DOMAIN, replace(one, words=one.words[:-1])) == []  # where they are is not known


def test_training_hears_no_held_out_wording_persona_or_voice() -> None:
    held = {text for intent in DOMAIN.intents.values() for text in intent.wordings["held-out"]}
    assert not {each.text for each in said("train")} & held
    assert {each.voice for each in said("train")} & {each.voice for each in said("held-out")} == set()
    trained = [event.text for dialogue in composed("stage2") for event in told(dialogue, "question")]
    probed = [event.text for dialogue in composed("probe") for event in told(dialogue, "question")]
    assert trained and probed and not set(trained) & set(probed)


def test_every_intent_is_asked() -> None:
    makes, random = composer(), np.random.default_rng(2)
    call = Progress(State(), "", turns=2)
    asked = [makes._intent(random, call) for _ in range(5_000)]
    assert set(asked) == {*DOMAIN.intents, UNKNOWN}
    assert 0.12 < asked.count(UNKNOWN) / len(asked) < 0.16
    assert min(asked.count(intent) for intent in DOMAIN.intents) > 20
    fresh = [makes._intent(random, Progress(State(), "")) for _ in range(500)]
    assert "goodbye" not in fresh


def test_the_same_seed_makes_the_same_dialogue() -> None:
    makes = composer()
    first, again, other = (makes.compose("stage1", np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert first.audio is not None and again.audio is not None
    np.testing.assert_array_equal(first.audio, again.audio)
    np.testing.assert_array_equal(first.text, again.text)
    assert first.events == again.events != other.events


def test_a_pool_without_questions_says_what_to_do() -> None:
    with pytest.raises(ValueError, match="generate callers first"):
        Pool.of([each for each in said("train") if not each.intent], DOMAIN)


def test_callers_to_train_with_and_to_test_with_are_apart() -> None:
    made = callers(0)
    assert made == callers(0)
    assert len({caller.name for caller in made}) == len(made)
    trained = {caller.base for caller in made if caller.split == "train"}
    held = {caller.base for caller in made if caller.split == "held-out"}
    assert sum(caller.split == "train" for caller in made) >= 150
    variants = {base.partition("+")[2] or base for base in trained} & {base.partition("+")[2] or base for base in held}
    assert variants == set() and "awb" in held
