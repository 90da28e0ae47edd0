from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from engine.model.text import SILENT, Tokenizer
from engine.pocket.recipe.domain import (
    ASKING,
    DIGITS,
    TELLING,
    UNKNOWN,
    Facts,
    Persona,
    State,
    Wording,
    expand,
    load_domain,
    sample,
)
from engine.pocket.recipe.formats import Split
from engine.pocket.recipe.tokenizer import train_tokenizer

DOMAIN = load_domain()
KNOWN = Persona("", "Emma", "Blue Harbor", "Welcome")
SPLITS: tuple[Split, Split] = ("train", "held-out")


@pytest.mark.parametrize(
    ("line", "texts"),
    [
        ("a b", ["a b"]),
        ("a [b] c", ["a c", "a b c"]),
        ("(a|b) [c|d]", ["a", "a c", "a d", "b", "b c", "b d"]),
        ("([x] y|z)", ["y", "x y", "z"]),
        ("say {name} [now]", ["say {name}", "say {name} now"]),
        ("[a] [a]", ["", "a", "a a"]),
    ],
)
def test_a_grammar_says_all_that_it_can_once(line: str, texts: list[str]) -> None:
    assert expand(line) == texts


@pytest.mark.parametrize("line", ["(a", "a)", "[a)", "a|b]", "((a)"])
def test_brackets_that_do_not_match_are_refused(line: str) -> None:
    with pytest.raises(ValueError, match="close"):
        expand(line)


def test_sampling_takes_from_each_group_in_turn() -> None:
    chosen = sample([["a"], [f"b{n}" for n in range(50)], ["c1", "c2"]], 6, np.random.default_rng(0))
    assert len(chosen) == 6 and {"a", "c1", "c2"} <= set(chosen)


def test_there_is_enough_to_talk_about() -> None:
    assert len(DOMAIN.intents) >= 40
    assert sum(len(intent.wordings["train"]) >= 60 for intent in DOMAIN.intents.values()) >= 40
    assert len(DOMAIN.unknown["train"]) >= 400 and len(DOMAIN.unknown["held-out"]) >= 200
    assert all(intent.wordings["held-out"] for intent in DOMAIN.intents.values())


def test_no_wording_means_two_things_or_is_both_trained_and_held_out() -> None:
    meanings: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for split in SPLITS:
        for text in DOMAIN.unknown[split]:
            meanings[text.lower()].add((UNKNOWN, split))
        for intent in DOMAIN.intents.values():
            for text in intent.wordings[split]:
                meanings[text.lower()].add((intent.name, split))
    assert {text: found for text, found in meanings.items() if len(found) > 1} == {}


def test_every_wording_says_something() -> None:
    texts = [text for intent in DOMAIN.intents.values() for split in SPLITS for text in intent.wordings[split]]
    assert all(text == " ".join(text.split()) and text for text in (*texts, *DOMAIN.unknown["train"]))
    assert "no" in DOMAIN.intents["no"].wordings["train"]


def test_every_clip_of_every_answer_is_there_and_every_clip_is_used() -> None:
    used = {clip for answer in DOMAIN.answers() for clip in answer}
    for persona in (KNOWN, Persona()):
        used |= set(DOMAIN.greeting(persona))
    assert used <= set(DOMAIN.index)
    values = {value for kind in DOMAIN.lists.values() for value in kind}
    others = {clip for clip in DOMAIN.index if not any(value in clip for value in values)}
    assert others <= used
    assert [DOMAIN.index[clip.id] for clip in DOMAIN.clips] == list(range(len(DOMAIN.clips)))


def test_no_answer_is_the_beginning_of_another() -> None:
    texts = sorted({DOMAIN.clip_text(answer) for answer in DOMAIN.answers()})
    assert len(texts) > 80
    assert [(a, b) for a, b in zip(texts, texts[1:], strict=False) if b.startswith(a)] == []


def test_answers_are_short_and_have_no_figures() -> None:
    for answer in DOMAIN.answers():
        text = DOMAIN.clip_text(answer)
        assert len(text.split()) <= 10 and not any(letter.isdigit() for letter in text)


def test_a_parts_carrier_holds_it_where_it_says() -> None:
    def bare(text: str) -> list[str]:
        return [word.strip(".,?!").lower() for word in text.split()]

    for clip in DOMAIN.clips:
        assert bare(clip.carrier)[clip.first : clip.last] == bare(clip.id)


def test_a_told_fact_is_read_back_and_remembered() -> None:
    state = State(KNOWN)
    told = Wording("my name is Nina", "tell_name", "Nina")
    assert DOMAIN.clip_text(DOMAIN.answer(told, state)) == "Thank you, Nina."
    state = State(KNOWN, state.facts.told(told))
    assert DOMAIN.clip_text(DOMAIN.answer(Wording("", "ask_name"), state)) == "Your name is Nina."
    number = Wording("", "tell_number", "three five two")
    assert DOMAIN.answer(number, state) == ("You said", "three", "five", "two")
    state = State(KNOWN, state.facts.told(number))
    assert state.facts == Facts("Nina", "three five two")
    assert DOMAIN.clip_text(DOMAIN.answer(Wording("", "ask_number"), state)) == "Your number is three five two"


@pytest.mark.parametrize("intent", ASKING)
def test_what_nobody_told_is_not_known(intent: str) -> None:
    assert "did not tell" in DOMAIN.clip_text(DOMAIN.answer(Wording("", intent), State(KNOWN)))


def test_the_agent_is_who_the_persona_says() -> None:
    assert DOMAIN.clip_text(DOMAIN.greeting(KNOWN)) == "Welcome, this is Emma at Blue Harbor. How can I help?"
    assert DOMAIN.clip_text(DOMAIN.answer(Wording("", "who"), State(KNOWN))) == "My name is Emma."
    assert (
        DOMAIN.clip_text(DOMAIN.answer(Wording("", "where_reached"), State(KNOWN))) == "You have reached Blue Harbor."
    )


def test_a_name_that_no_clip_has_falls_back() -> None:
    assert DOMAIN.clip_text(DOMAIN.greeting(Persona())) == "Hello, this is the front desk How can I help?"
    assert DOMAIN.clip_text(DOMAIN.answer(Wording("", "who"), State())) == "I am the front desk."


def test_fallbacks_take_turns_and_repeating_says_the_last_thing_again() -> None:
    first, second = (DOMAIN.answer(Wording("", UNKNOWN), State(unknowns=n)) for n in (0, 1))
    assert first != second
    assert DOMAIN.answer(Wording("", "repeat"), State(last=("You said", "one"))) == ("You said", "one")
    assert DOMAIN.answer(Wording("", "repeat"), State()) == ("How can I help?",)


@pytest.mark.parametrize("split", SPLITS)
def test_personas_say_what_the_agent_can_be_asked_for(split: Split) -> None:
    random = np.random.default_rng(3)
    personas = [DOMAIN.persona(random, split) for _ in range(200)]
    for persona in personas:
        for kind in ("agent", "company", "greeting"):
            value = getattr(persona, kind)
            assert not value or (value in DOMAIN.lists[kind] and value in persona.text)
    assert sum(not persona.agent for persona in personas) > 20
    trained = {DOMAIN.persona(random, "train").text for _ in range(500)}
    assert split == "train" or not trained & {persona.text for persona in personas}


def test_wordings_have_their_slots_filled() -> None:
    random = np.random.default_rng(1)
    lengths = {length for length, _ in DIGITS}
    for intent, kind in TELLING.items():
        for split in SPLITS:
            for _ in range(40):
                wording = DOMAIN.wording(intent, random, split)
                assert wording.slot in wording.text and "{" not in wording.text
                if kind == "number":
                    assert set(wording.slot.split()) <= set(DOMAIN.lists["digit"])
                    assert len(wording.slot.split()) in lengths
                else:
                    assert wording.slot in DOMAIN.lists["name"]


def test_the_same_file_makes_the_same_domain(tmp_path: Path) -> None:
    from engine.pocket.recipe import domain

    (copy := tmp_path / "domain.yaml").write_text(domain.FILE.read_text())
    again = load_domain(copy)
    assert again.clips == DOMAIN.clips and again.unknown == DOMAIN.unknown
    assert {name: intent.wordings for name, intent in again.intents.items()} == {
        name: intent.wordings for name, intent in DOMAIN.intents.items()
    }
    assert list(again.texts()) == list(DOMAIN.texts())


def test_a_line_that_yaml_does_not_take_for_text_is_named(tmp_path: Path) -> None:
    from engine.pocket.recipe import domain

    text = domain.FILE.read_text().replace('      - "no"\n', "      - no\n", 1)
    (wrong := tmp_path / "domain.yaml").write_text(text)
    with pytest.raises(ValueError, match="intent 'no' has a line that YAML takes for False; put it in quotes"):
        load_domain(wrong)


def test_a_misspelt_field_is_named(tmp_path: Path) -> None:
    from engine.pocket.recipe import domain

    text = domain.FILE.read_text().replace("plain: true", "plane: true", 1)
    (wrong := tmp_path / "domain.yaml").write_text(text)
    with pytest.raises(ValueError, match="intent 'hello' has no field 'plane'"):
        load_domain(wrong)


def test_the_tokenizer_says_every_answer_and_hardly_splits_its_words() -> None:
    tokenizer = Tokenizer(train_tokenizer(DOMAIN.texts()))

    def text(tokens: list[int]) -> str:
        pieces = [tokenizer.piece(token) for token in tokens]
        return "".join(piece for piece in pieces if isinstance(piece, str)).strip()

    words = [word for clip in DOMAIN.clips for word in clip.id.split()]
    for word in words:
        tokens = tokenizer.encode(word)
        assert text(tokens) == word and not SILENT & set(tokens)
    assert np.mean([len(tokenizer.encode(word.strip(".,?"))) for word in words]) < 1.2
