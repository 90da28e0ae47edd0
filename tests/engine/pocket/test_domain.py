from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import yaml

from engine.model.text import SILENT, Tokenizer
from engine.pocket.recipe.domain import (
    ASKING,
    DIGITS,
    FILE,
    TELLING,
    UNKNOWN,
    Facts,
    Persona,
    State,
    Wording,
    expand,
    in_turn,
    load_domain,
)
from engine.pocket.recipe.formats import Split
from engine.pocket.recipe.tokenizer import train_tokenizer

DOMAIN = load_domain()
KNOWN = Persona("", "Emma", "Blue Harbor", "Welcome")
SPLITS: tuple[Split, Split] = ("train", "held-out")

CONTENT = yaml.safe_load(FILE.read_text())
LINES = {
    "train": {name: [*entry["say"], *entry["more"]] for name, entry in CONTENT["intents"].items()},
    "held-out": {name: entry["held_out"] for name, entry in CONTENT["intents"].items()},
}
CORES = {
    split: {name: {text.lower() for line in lines for text in expand(line)} for name, lines in intents.items()}
    for split, intents in LINES.items()
}
FRAMED = {name for name, entry in CONTENT["intents"].items() if not entry.get("plain")}
"""The intents that are said with a prefix or a suffix, too."""


BEFORE = {f"{each} ".lstrip() for each in CONTENT["prefix"]}
AFTER = {f" {each}".rstrip() for each in CONTENT["suffix"]}


def bare(text: str) -> Iterator[str]:
    """What is left of a text without a prefix, a suffix, both or neither."""
    for before in filter(text.startswith, BEFORE):
        for after in filter(text.endswith, AFTER):
            yield text.removeprefix(before).removesuffix(after)


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


def test_taking_in_turn_drowns_no_group_and_says_nothing_twice() -> None:
    groups = [["a"], [f"b{n}" for n in range(50)], ["c1", "a", "c2"]]
    assert in_turn(groups, 6) == ("a", "b0", "c1", "b1", "b2", "c2")
    assert in_turn([["a"], ["a", "b"]], 6) == ("a", "b")


def test_there_is_enough_to_talk_about() -> None:
    assert len(DOMAIN.intents) >= 40
    assert all(len(lines) >= 22 for lines in LINES["train"].values())
    assert all(len(cores) >= 150 for cores in CORES["train"].values())
    assert len(DOMAIN.unknown["train"]) >= 1200 and len(DOMAIN.unknown["held-out"]) >= 200
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


def test_whatever_is_said_around_it_every_core_has_one_meaning() -> None:
    meanings: dict[str, str] = {text.lower(): UNKNOWN for text in DOMAIN.unknown["train"]}
    for name, cores in CORES["train"].items():
        assert {core: meanings[core] for core in cores & meanings.keys()} == {}, name
        meanings |= dict.fromkeys(cores, name)
    for core, name in meanings.items():
        others = {meanings[text] for text in bare(core) if text in meanings}
        assert others & FRAMED <= {name}, core


def test_nothing_that_is_tested_with_is_trained_on() -> None:
    asked = {core for cores in CORES["held-out"].values() for core in cores}
    asked |= {text.lower() for text in DOMAIN.unknown["held-out"]}
    trained = {core for cores in CORES["train"].values() for core in cores}
    trained |= {text.lower() for text in DOMAIN.unknown["train"]}
    assert {core for core in trained if asked & {*bare(core)}} == set()
    framed = {core for name in FRAMED for core in CORES["train"][name]}
    assert {core for core in asked if framed & {*bare(core)}} == set()


def test_every_word_that_is_tested_with_is_trained_on() -> None:
    for name, cores in CORES["held-out"].items():
        words = {word for core in CORES["train"][name] for word in core.split()}
        assert {word for core in cores for word in core.split()} - words == set(), name


def test_the_wordings_to_test_with_stay_as_they_are() -> None:
    """They are compared from training to training: a change here is a new exam, and older figures are no measure."""
    texts = [text for intent in DOMAIN.intents.values() for text in intent.wordings["held-out"]]
    digest = sha256("\n".join((*texts, *DOMAIN.unknown["held-out"])).encode()).hexdigest()
    assert digest == "0a6c7a2d606a35e214c0ee9bc0bb25c269478d75d44a2c15b3460be13c48de40"


@pytest.mark.parametrize("name", CORES["train"])
def test_every_line_is_trained_on_and_half_of_the_wordings_are_cores(name: str) -> None:
    trained = [text.lower() for text in DOMAIN.intents[name].wordings["train"]]
    cores = [text for text in trained if text in CORES["train"][name]]
    assert abs(len(cores) / len(trained) - (0.5 if name in FRAMED else 1.0)) < 0.01
    assert all({text.lower() for text in expand(line)} & {*cores} for line in LINES["train"][name])


def test_synthesisers_can_say_every_line() -> None:
    lines = [line for intents in LINES.values() for each in intents.values() for line in each]
    lines += [text for split in SPLITS for text in DOMAIN.unknown[split]]
    assert [line for line in lines if re.search(r"[^A-Za-z' ()|{}\[\]]", line)] == []


def test_every_wording_says_something() -> None:
    texts = [text for intent in DOMAIN.intents.values() for split in SPLITS for text in intent.wordings[split]]
    assert all(text == " ".join(text.split()) and text for text in (*texts, *DOMAIN.unknown["train"]))
    assert "no" in DOMAIN.intents["no"].wordings["train"]


def test_every_clip_of_every_answer_is_there_and_every_clip_is_used() -> None:
    used = {clip for answer in DOMAIN.answers() for clip in answer}
    for persona in (KNOWN, Persona(), replace(KNOWN, agent="")):
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
    nobody = replace(KNOWN, agent="")
    assert (
        DOMAIN.clip_text(DOMAIN.greeting(nobody)) == "Welcome, this is the front desk at Blue Harbor. How can I help?"
    )
    alone = DOMAIN.greeting(replace(KNOWN, company=""))
    assert DOMAIN.clip_text(alone) == "Welcome, this is Emma. How can I help?"
    assert DOMAIN.clip_text(DOMAIN.answer(Wording("", "who"), State(KNOWN))) == "My name is Emma."
    assert (
        DOMAIN.clip_text(DOMAIN.answer(Wording("", "where_reached"), State(KNOWN))) == "You have reached Blue Harbor."
    )


def test_a_name_is_a_clip_of_its_own_so_that_no_sound_tells_it_before_it_is_chosen() -> None:
    one, other = (DOMAIN.greeting(replace(KNOWN, agent=name)) for name in ("Emma", "Grace"))
    assert [a == b for a, b in zip(one, other, strict=True)] == [True, True, False, True, True, True]


def test_what_is_not_known_is_framed_as_what_is() -> None:
    framed = [text for text in DOMAIN.unknown["train"] if text.endswith((" please", " thanks", " thank you"))]
    assert 0.1 < len(framed) / len(DOMAIN.unknown["train"]) < 0.4


def test_strays_never_end_and_mean_nothing_here() -> None:
    random = np.random.default_rng(5)
    drawn = [DOMAIN.stray(random) for _ in range(3_000)]
    texts = {each.text.lower() for each in drawn}
    assert len(texts) > 2_900 and {(each.intent, each.split) for each in drawn} == {(UNKNOWN, "train")}
    known = {core for cores in (CORES["train"], CORES["held-out"]) for name in cores for core in cores[name]}
    known |= {text.lower() for text in DOMAIN.unknown["held-out"]}
    assert [text for text in texts if known & {*bare(text)}] == []
    assert [text for text in texts if re.search(r"[^a-z' ]", text)] == []
    assert (
        0.3 < sum(text.endswith((" please", " thanks", " thank you", " if i may ask")) for text in texts) / 3_000 < 0.5
    )


def test_strays_have_no_word_that_makes_the_held_out_sentences_what_they_are() -> None:
    held = {word for words in CONTENT["unknown"]["held_out_lists"].values() for word in words} - {"the children"}
    said = {word for words in CONTENT["strays"]["lists"].values() for phrase in words for word in phrase.split()}
    assert said & held == set()


def test_a_name_that_no_clip_has_falls_back() -> None:
    assert DOMAIN.clip_text(DOMAIN.greeting(Persona())) == "Hello, this is the front desk. How can I help?"
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
