"""What the table says follows from what was played: onsets, stops, texts, verdicts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from engine.pocket.recipe.behaviour import LEFT, _goes_on, _says, backchannels
from engine.pocket.recipe.domain import load_domain
from engine.pocket.recipe.evaluate import PARTS
from engine.pocket.recipe.exam import LATE_FRAMES, Material, answered, onset, stopped, unless_silence
from engine.pocket.recipe.formats import Utterance, shard, write_clips, write_utterances
from engine.pocket.recipe.measures import MEASURES, Measure, Result, as_json, table
from engine.pocket.recipe.scenes import Record
from engine.slot import FRAME_SAMPLES
from tests.engine.pocket.voices import stand_in
from tests.engine.pocket.work import clips


def record(pattern: str, words: dict[int, str] | None = None, starts: tuple[int, ...] = (0,)) -> Record:
    """A frame a letter: # is loud."""
    loud = [np.full(FRAME_SAMPLES, 0.1 if letter == "#" else 0.0, np.float32) for letter in pattern]
    text = [(words or {}).get(frame, "") for frame in range(len(pattern))]
    return Record(text, loud, [], list(starts), [])


def test_onset_is_the_first_loud_frame() -> None:
    assert onset(record("..##..#"), 0) == 2
    assert onset(record("..##..#"), 4) == 6
    assert onset(record("..##..."), 4) is None


def test_it_has_stopped_when_it_stays_silent() -> None:
    assert stopped(record("#####.................."), 2) == 3
    assert stopped(record("###..###..............."), 0) == 8  # a pause between two words is no stop
    assert stopped(record("#" * 100), 0) == LATE_FRAMES


def test_an_answer_is_what_is_said_until_the_next_turn() -> None:
    said = record("." * 30, {2: " Hello", 12: " We", 13: " are", 22: " You"}, (10, 20))
    assert answered(said, 0) == "We are" and answered(said, 1) == "You" and answered(said) == "You"


def test_backchannels_are_found_within_the_turn() -> None:
    domain = load_domain()
    text = {3: " Mm", 4: "-", 5: "hm", 6: ".", 20: " Mm-hm.", 40: " Mm-hm."}
    assert backchannels(record("." * 50, text), domain, 0, 30) == [6, 20]
    assert backchannels(record("." * 50, text), domain, 10, 5) == []


def test_verdicts() -> None:
    high, low = Measure("a", (90,), (97,)), Measure("b", (500, 900), (400, 560), "ms", "low")
    assert [high.verdict((seen,)) for seen in (97.0, 96.9, 90.0, 89.9)] == ["target", "gate", "gate", "below"]
    assert [low.verdict(seen) for seen in ((400, 560), (400, 600), (501, 560))] == ["target", "gate", "below"]
    assert Measure("c", None, (60,)).verdict((1.0,)) == "-"


def test_the_table_has_every_line_of_the_issue_and_says_what_was_not_run() -> None:
    results = [Result(measure.name, why="a reason") for measure in MEASURES]
    lines = table(results).splitlines()
    assert len(lines) == 2 + 19 and all("not run: a reason" in line for line in lines[2:])
    shown = table([Result(MEASURES[0].name, (91.25,), 80), Result(MEASURES[9].name, (410, 899), 40)]).splitlines()
    assert shown[2] == f"| {MEASURES[0].name} | ≥ 90 % | ≥ 97 % | 91.2 % | 80 | gate |"
    assert shown[3] == f"| {MEASURES[9].name} | ≤ 500 / 900 ms | ≤ 400 / 560 ms | 410 / 899 ms | 40 | gate |"


def test_nothing_measured_is_no_percentage() -> None:
    measure = Measure("a", (90,), (97,))
    assert measure.share([]).seen == () and measure.share([True, False]) == Result("a", (50.0,), 2)
    assert measure.share([True], "beside") == Result("a", (100.0,), 1, "beside")


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("Are you still there?", ""),
        ("Are you still there? Are you still", ""),
        ("We are closed. Are you", "We are closed."),
        ("We are closed. Are you still there?", "We are closed."),
        ("We are", "We are"),
        ("Careful", "Careful"),
        ("", ""),
    ],
)
def test_the_question_into_a_silence_is_no_answer_nor_is_its_beginning(text: str, left: str) -> None:
    assert unless_silence(text, "Are you still there?").strip() == left


def test_what_ends_by_itself_has_not_been_stopped() -> None:
    alone = record("##" + "#" * (LEFT + 10) + "." * 30)
    assert _goes_on(record("#" * 50), alone, 10)
    assert not _goes_on(record("#" * 50), alone, 14)  # one frame less than LEFT is left
    assert not _goes_on(record("#########." + "#" * 40), alone, 10), "it was silent just then"


def test_a_backchannel_in_a_pause_is_no_answer() -> None:
    domain = load_domain()
    assert _says(record("...##.....", {2: " We"}), 0, 8, domain)
    assert not _says(record("...##.....", {2: " Mm-hm."}), 0, 8, domain)
    assert not _says(record("........##", {7: " We"}), 0, 8, domain)


def test_only_held_out_voices_are_asked(tmp_path: Path) -> None:
    sound = stand_in(0, 5)
    said = [
        Utterance(sound, "where are you", "seen", "train", "address", wording="held-out"),
        Utterance(sound, "where are you", "new", "held-out", "address", wording="train"),
        Utterance(sound, "who won", "new", "held-out", "unknown", wording="held-out"),
        Utterance(sound, "mm-hm", "new", "held-out"),
    ]
    write_utterances(shard(tmp_path / "callers", "held-out", 0), said)
    write_clips(tmp_path / "clips.npz", clips())
    material = Material(tmp_path, load_domain())
    assert [each.text for each in material.asked(9, "train")] == ["where are you"]
    write_utterances(shard(tmp_path / "natural", "held-out", 0), said[2:])
    others = Material(tmp_path, load_domain(), callers=tmp_path / "natural")
    assert [each.text for each in others.asked(9)] == ["who won"]
    assert {each.text for each in material.asked(9)} == {"where are you", "who won"}
    assert len(material.asked(1)) == 1
    (known,) = material.asked(9, "train")
    assert material.answers(known) == {"You find us at twelve Market Street."}
    (unrelated,) = material.asked(9, "held-out")
    assert len(material.answers(unrelated)) == 3


def test_without_callers_it_says_how_to_make_them(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no held-out callers"):
        Material(tmp_path, load_domain())


def test_every_part_has_its_measures() -> None:
    assert len(MEASURES) == len({measure.name for measure in MEASURES}) == 19
    assert len(PARTS) == 12


def test_results_are_written_for_machines_too() -> None:
    results = [Result("a", (1.0, 2.5), 3), Result("b", why="no judge")]
    assert json.loads(as_json(results)) == [
        {"measure": "a", "seen": [1.0, 2.5], "count": 3, "why": ""},
        {"measure": "b", "seen": [], "count": 0, "why": "no judge"},
    ]
