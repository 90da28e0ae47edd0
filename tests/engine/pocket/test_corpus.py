"""Dialogues become the frames that a row will live, with labels where training looks for them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine.model.text import EPAD, PAD, SILENT, Tokenizer
from engine.pocket.prompt import render
from engine.pocket.recipe.corpus import (
    CLOSING,
    EDGE_FRAMES,
    IGNORED,
    LISTENING_FRAMES,
    STOP_FRAMES,
    TEMPTING_FRAMES,
    TOLD_FRAMES,
    Buckets,
    Example,
    Labels,
    bare,
    cut,
    cut_frame,
    example_of,
    excused,
    is_told,
    labels_of,
    read_coded,
    telling,
    write_heard,
)
from engine.pocket.recipe.dialogues import GREETING, LEAD, Timeline
from engine.pocket.recipe.domain import load_domain
from engine.pocket.recipe.encode import Voice, read_voice
from engine.pocket.recipe.formats import SILENCE, Clip, ClipWord, Dialogue, Event, Span
from engine.pocket.recipe.told import HEARD
from engine.slot import FRAME_SAMPLES
from tests.engine.pocket.work import ANSWERS, PROMPT, QUESTIONS


@pytest.fixture
def tokenizer(work: Path) -> Tokenizer:
    return Tokenizer((work / "tokenizer.model").read_bytes())


@pytest.fixture
def voice(work: Path) -> Voice:
    return read_voice(work / "coded" / "voice.npz", 128)


@pytest.fixture
def dialogue(work: Path) -> Dialogue:
    return read_coded(work, "stage1")[0]


@pytest.fixture
def labels(work: Path) -> Labels:
    return labels_of(read_coded(work, "stage1"), least=1)


@pytest.fixture
def example(dialogue: Dialogue, voice: Voice, tokenizer: Tokenizer, labels: Labels) -> Example:
    return example_of(dialogue, voice, tokenizer, labels)


def test_an_example_begins_with_the_prompt_as_the_engine_lays_it_out(
    example: Example, voice: Voice, tokenizer: Tokenizer
) -> None:
    prompt = voice.layout.frames(tokenizer, PROMPT)
    assert example.prompt == len(prompt) > 2 * voice.layout.gap_frames
    assert np.array_equal(example.frames[: example.prompt], prompt)


def test_the_agent_says_the_clip_that_is_scheduled_and_else_silence(
    example: Example, dialogue: Dialogue, voice: Voice
) -> None:
    said = example.frames[example.prompt :, 1:9]
    silent = dialogue.schedule[:, 0] == SILENCE
    assert (said[silent] == voice.layout.silence).all()
    clip, frame = dialogue.schedule[~silent].T
    assert np.array_equal(said[~silent], voice.codes[voice.starts[clip] + frame])
    assert dialogue.codes is not None
    assert np.array_equal(example.frames[example.prompt :, 9:], dialogue.codes)


def test_labels_stand_at_their_frames(example: Example, dialogue: Dialogue, labels: Labels) -> None:
    question, answer = dialogue.events
    assert labels.intents == tuple(sorted(QUESTIONS))
    frame, intent, words = example.asked[0]
    assert frame == example.prompt + question.frame
    assert labels.intents[intent] == question.intent
    assert {labels.words[word] for word in words} == set(question.text.split())
    assert [labels.words[word] for _, word in example.heard] == question.text.split()
    assert example.heard[-1][0] == example.prompt + question.frame
    begins = np.flatnonzero(example.edges)
    assert begins[0] == example.prompt + answer.frame
    assert len(begins) == 2 * EDGE_FRAMES


def test_where_a_turn_might_have_ended_is_asked_for_as_where_it_ends(
    dialogue: Dialogue, voice: Voice, tokenizer: Tokenizer, labels: Labels
) -> None:
    noisy = replace(dialogue, events=(*dialogue.events, Event("noise", 1, text="mm-hm")))
    plain, other = (example_of(each, voice, tokenizer, labels) for each in (dialogue, noisy))
    tempting = np.arange(plain.prompt + 1, plain.prompt + 1 + TEMPTING_FRAMES)
    assert other.edges[tempting].all() and not plain.edges[tempting].all()
    others = np.setdiff1d(np.arange(len(plain)), tempting)
    assert np.array_equal(other.edges[others], plain.edges[others])


def test_one_piece_opens_an_answer(example: Example, dialogue: Dialogue) -> None:
    (opening,) = np.flatnonzero(example.opening)
    tokens = example.frames[:, 0]
    assert tokens[opening] not in SILENT
    assert set(tokens[example.prompt : opening]) <= {PAD, EPAD}


def test_a_clip_that_follows_another_opens_too(voice: Voice, tokenizer: Tokenizer, labels: Labels) -> None:
    sound = np.zeros(6 * FRAME_SAMPLES, np.float32)
    clips = [Clip(word, sound, (ClipWord(word, 0),)) for word in ("open", "early")]
    line = Timeline(60, clips, tokenizer.encode)
    line.speak([0, 1, 0], 20)
    dialogue = Dialogue(PROMPT, line.schedule, line.text, (), (), codes=np.zeros((60, 8), np.uint16))
    example = example_of(dialogue, voice, tokenizer, labels)
    opening = np.flatnonzero(example.opening) - example.prompt
    decided = opening[[0, 1, 2 + CLOSING]]
    # Behind each that follows another it is also decided whether a full stop comes.
    assert opening.tolist() == [decided[0], *(at + more for at in decided[1:] for more in range(1 + CLOSING))]
    assert all(-LEAD <= at - start < LEAD for at, start in zip(decided, (20, 26, 32), strict=True))
    decided += example.prompt
    assert not np.isin(example.frames[decided, 0], list(SILENT)).any()


def test_what_is_rare_has_no_label(work: Path) -> None:
    labels = labels_of(read_coded(work, "stage1"), least=1_000)
    assert labels.words == ()
    assert labels.intent("never asked") == IGNORED


@pytest.fixture
def call(dialogue: Dialogue) -> Dialogue:
    """A call from its greeting on, in which the caller tells a name and then asks something."""
    told = Event("question", 12, 9, "tell_name", "I am Peter", "Peter")
    asked = Event("question", 30, 26, "hours", "when open")
    return replace(dialogue, events=(Event("greeting", 4), told, asked))


def test_a_cut_call_goes_on_in_a_fresh_row(call: Dialogue) -> None:
    left = cut(call, 20)
    assert left.prompt == render(PROMPT, {"name": "Peter"}) and "Peter" in left.prompt
    assert left.codes is not None and call.codes is not None
    assert np.array_equal(left.codes, call.codes[20:])
    assert np.array_equal(left.schedule, call.schedule[20:]) and np.array_equal(left.text, call.text[20:])
    (asked,) = left.events
    assert (asked.frame, asked.start, asked.intent) == (10, 6, "hours")
    assert all(span.start_s >= 0 for span in left.heard)
    behind = [phone for phone in call.phones if phone.start_s >= 1.6]
    assert [phone.label for phone in left.phones] == [phone.label for phone in behind]
    assert [phone.end_s for phone in left.phones] == pytest.approx([phone.end_s - 1.6 for phone in behind])
    assert len(cut(call, 2).phones) == len(call.phones)
    assert cut(call, 5).prompt == render(PROMPT, {})


def test_a_bare_window_is_the_call_alone(example: Example) -> None:
    alone, start = bare(example), example.prompt
    assert alone.prompt == GREETING and np.array_equal(alone.frames, example.frames[start:])
    assert alone.asked[0][0] == example.asked[0][0] - start and len(alone.heard) == len(example.heard)
    assert np.array_equal(alone.edges, example.edges[start:])


def test_where_it_stops_is_asked_for_and_where_it_went_on_too_long_is_not(
    dialogue: Dialogue, voice: Voice, tokenizer: Tokenizer, labels: Labels
) -> None:
    stopped = replace(dialogue, events=(*dialogue.events, Event("stop", 12, 7)))
    made = example_of(stopped, voice, tokenizer, labels, unasked=(12, 13))
    start = made.prompt
    assert made.stopped == tuple(range(start + 14, start + 14 + STOP_FRAMES))
    assert made.unasked == (start + 12, start + 13)
    alone = bare(made)
    assert alone.unasked == (12, 13) and alone.stopped == tuple(range(14, 14 + STOP_FRAMES))
    late = replace(dialogue, events=(Event("stop", dialogue.frames - 1, 5),))
    assert example_of(late, voice, tokenizer, labels).stopped == (start + dialogue.frames - 1,)


def test_behind_a_backchannel_it_is_to_listen_on(
    dialogue: Dialogue, voice: Voice, tokenizer: Tokenizer, labels: Labels
) -> None:
    listening = replace(
        lasting(dialogue, 80), codes=np.zeros((80, 8), np.uint16), events=(Event("backchannel", 20, 0),)
    )
    made = example_of(listening, voice, tokenizer, labels, unasked=(20,))
    assert made.stopped == tuple(range(made.prompt + 20, made.prompt + 20 + LISTENING_FRAMES))
    asked = replace(listening, events=(*listening.events, Event("question", 33, 0, "hours", "when open")))
    made = example_of(asked, voice, tokenizer, labels)
    assert made.stopped == tuple(range(made.prompt + 20, made.prompt + 34)), "then it is to answer"


def test_of_a_question_that_was_missed_nothing_is_asked(example: Example, dialogue: Dialogue) -> None:
    alone = bare(example)
    assert excused(alone, dialogue).prompt == alone.prompt
    missed = replace(dialogue, events=(*dialogue.events, Event("missed", 17)))
    assert excused(alone, missed).prompt == 17
    assert excused(alone, replace(missed, events=(Event("missed", 1),))).prompt == GREETING


def test_of_a_window_without_a_prompt_only_what_is_told_in_it_is_known(example: Example) -> None:
    start, persona = example.prompt, (1, 2, 3)
    nobody, maria = (0,) * 5, (1, 0, 0, 0, 0)
    told = replace(example, told=((start, (*persona, *nobody)), (start + 9, (*persona, *maria))))
    unasked = (IGNORED,) * 3
    assert bare(told).told == ((0, (*unasked, *nobody)), (9, (*unasked, *maria)))
    assert bare(replace(example, told=((start, (*persona, *nobody)),))).told == ()


def test_what_the_caller_tells_is_asked_before_the_agent_says_it(example: Example) -> None:
    first, second = (0,) * 8, (0, 0, 0, 1, 0, 0, 0, 0)
    (end, intent, words), start = example.asked[0], example.prompt
    told = replace(
        example,
        told=((start, first), (end + HEARD, second)),
        asked=((end, intent, words),),
        stopped=(end, len(example) - 1),
        unasked=(end - 1, len(example) - 1),
    )
    part = telling(told)
    assert part is not None and len(part) == len(part.edges) == len(part.opening) == end + HEARD + TOLD_FRAMES
    assert np.array_equal(part.frames, example.frames[: len(part)])
    assert part.told == ((end + HEARD, second),) and (part.stopped, part.unasked) == ((end,), (end - 1,))
    assert part.asked == told.asked and all(frame < len(part) for frame, _ in part.heard)
    assert telling(replace(example, told=((start, first),))) is None


def test_some_answers_depend_on_the_prompt(dialogue: Dialogue) -> None:
    domain = load_domain()
    asking = {
        name: is_told(replace(dialogue, events=(Event("question", 3, 0, name),)), domain)
        for name in ("ask_name", "ask_number", "tell_name", "hours", "unknown")
    }
    assert asking == {"ask_name": True, "ask_number": True, "tell_name": False, "hours": False, "unknown": False}


def lasting(call: Dialogue, frames: int) -> Dialogue:
    """So long, the agent silent throughout."""
    return replace(call, schedule=np.full((frames, 2), SILENCE, np.int16), text=np.full(frames, PAD, np.int16))


def cuts(call: Dialogue) -> set[int]:
    return {cut_frame(call, np.random.default_rng(seed)) for seed in range(400)}


def test_what_a_prompt_knows_already_is_kept(call: Dialogue) -> None:
    going_on = replace(call, events=call.events[1:])
    assert cut(going_on, 3).prompt == going_on.prompt
    assert max(cuts(lasting(going_on, 400))) == 9


def test_a_call_is_not_cut_within_a_question(call: Dialogue) -> None:
    frames = cuts(lasting(call, 160))
    assert not frames & {*range(10, 19), *range(27, 37)}
    assert {9, 26, 50} <= frames and max(frames) < 60
    assert cut_frame(call, np.random.default_rng(0)) == 0  # too short


def test_nor_while_the_agent_says_something_or_is_about_to(call: Dialogue) -> None:
    talking = lasting(call, 160)
    talking.schedule[40:50] = (0, 1)
    talking.text[[38, 40]] = EPAD, EPAD
    talking.text[39] = 500
    said = (Event("answer", 40, 36, "hours"), Event("silence", 55))
    frames = cuts(replace(talking, events=(*talking.events, *said)))
    assert not frames & {*range(37, 50), *range(52, 55)} and {26, 50, 51} <= frames


def test_a_call_that_would_begin_before_its_greeting_is_left_whole(call: Dialogue) -> None:
    whole = lasting(call, 160)
    assert not cuts(whole) & {*range(1, GREETING + 1)}
    assert cut(whole, 0) is whole


def test_the_ear_writes_behind_the_sound(tokenizer: Tokenizer) -> None:
    heard = (Span("when", 0.1, 0.3), Span("open,", 0.35, 0.6), Span("where", 4.7, 4.9))
    text = write_heard(heard, 60, tokenizer, delay=8)
    (first, second) = np.flatnonzero(text == EPAD)
    assert first == 1 + 8
    pieces = [token for token in tokenizer.encode("when")]
    assert text[first + 1 : first + 1 + len(pieces)].tolist() == pieces
    assert second == max(4 + 8, first + 1 + len(pieces))
    written = "".join(str(tokenizer.piece(int(token))) for token in text)
    assert written == " when open"  # the last word's text lies beyond the end


def test_crowded_words_wait_for_each_other(tokenizer: Tokenizer) -> None:
    heard = tuple(Span("exactly", 0.08 * n, 0.08 * n + 0.05) for n in range(3))
    text = write_heard(heard, 60, tokenizer, delay=2)
    assert "".join(str(tokenizer.piece(int(token))) for token in text) == " exactly" * 3


def test_buckets_draw_alike_lengths_within_the_budget() -> None:
    lengths = [10] * 50 + [40] * 50 + [200]
    buckets, random = Buckets(lengths), np.random.default_rng(0)
    drawn = [buckets.draw(random, 200) for _ in range(300)]
    assert {number for batch in drawn for number in batch} == set(range(101))
    for batch in drawn:
        chosen = [lengths[number] for number in batch]
        assert max(chosen) <= 1.25 * min(chosen) or sum(chosen) <= 250
        assert len(set(batch)) == len(batch)


def test_missing_data_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no stage2 dialogues"):
        read_coded(tmp_path, "stage2")
    with pytest.raises(ValueError, match="no examples"):
        Buckets([])


def test_an_event_behind_the_end_is_left_out(
    dialogue: Dialogue, voice: Voice, tokenizer: Tokenizer, labels: Labels
) -> None:
    late = replace(dialogue, events=(Event("question", dialogue.frames, 3, "hours", "when"),))
    assert example_of(late, voice, tokenizer, labels).asked == ()


def test_every_answer_has_a_clip(voice: Voice) -> None:
    assert len(voice.starts) == len(ANSWERS)
