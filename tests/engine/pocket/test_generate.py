"""The data's commands, with the voices of tones: all of them in a few seconds, and again from where they stopped."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine.model.text import Tokenizer
from engine.pocket.recipe import standin
from engine.pocket.recipe.callers import NATURAL, callers
from engine.pocket.recipe.dialogues import Kind
from engine.pocket.recipe.dictation import Dictation, Written
from engine.pocket.recipe.domain import UNKNOWN, load_domain
from engine.pocket.recipe.formats import (
    Audio,
    Split,
    read_clips,
    read_dialogues,
    read_utterances,
    shard,
    shards,
    write_utterances,
)
from engine.pocket.recipe.generate import (
    DIALOGUES,
    TURNS,
    _drawn_from,
    caller_jobs,
    main,
    make_actors,
    nano_makers,
    said,
)
from engine.pocket.recipe.standin import LINES

DOMAIN = load_domain()


def generate(work: Path, part: str, *more: str) -> None:
    main([part, "--nano", "--shards", "1", "--work", str(work), *more])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("made")
    for part in ("clips", "callers", "natural", "strangers", "actors", "agent", *DIALOGUES):
        generate(work, part)
    return work


def test_everything_lies_where_it_is_looked_for(made: Path) -> None:
    assert [clip.id for clip in read_clips(made / "clips.npz")] == [clip.id for clip in DOMAIN.clips]
    assert len(Tokenizer((made / "tokenizer.model").read_bytes())) > 400
    folders = {"callers": ("train", "held-out"), "natural": ("held-out",), "strangers": ("train",), "agent": ("train",)}
    for folder, kinds in folders.items():
        for kind in kinds:
            assert [len(read_utterances(path)) for path in shards(made / folder, kind)] == [40]
    for kind in ("stage1", "strays", "asides", "talk", "stage2", "probe"):
        assert [len(read_dialogues(path)) for path in shards(made / "dialogues", kind)] == [4]


def test_what_is_trained_on_has_neither_held_out_voices_nor_wordings(made: Path) -> None:
    (train,), (held,) = (shards(made / "callers", kind) for kind in ("train", "held-out"))
    assert all(each.split == each.wording == "train" for each in read_utterances(train))
    assert all("held-out" in (each.split, each.wording) for each in read_utterances(held))
    assert {each.wording for each in read_utterances(held)} == {"train", "held-out"}


def test_voices_like_peoples_are_only_tested_with(made: Path) -> None:
    (natural,) = shards(made / "natural", "held-out")
    asked = read_utterances(natural)
    assert {each.split for each in asked} == {"held-out"} and {each.voice for each in asked} == {
        c.name for c in NATURAL
    }
    assert {each.wording for each in asked} == {"train", "held-out"}
    assert not {caller.name for caller in NATURAL} & {caller.name for caller in callers()}


def test_a_probe_has_held_out_voices_alone(made: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes((made / "tokenizer.model").read_bytes())
    (tmp_path / "clips.npz").write_bytes((made / "clips.npz").read_bytes())
    (held,) = shards(made / "callers", "held-out")
    seen = [each for each in read_utterances(held) if each.split == "train"]
    assert seen
    write_utterances(shard(tmp_path / "callers", "held-out", 0), seen)
    with pytest.raises(ValueError, match="nobody asks anything"):
        generate(tmp_path, "probe")


def test_strangers_are_voices_to_train_with_and_ask_for_nothing_that_is_known(made: Path) -> None:
    (train,) = shards(made / "strangers", "train")
    assert {(each.split, each.wording, each.intent) for each in read_utterances(train)} == {
        ("train", "train", "unknown")
    }


def test_a_second_run_makes_nothing_anew_and_another_folder_the_same(made: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*-0*.npz")}
    for part in ("callers", "strangers", "stage1", "asides"):
        generate(made, part)
    assert before == {path: path.stat().st_mtime_ns for path in made.rglob("*-0*.npz")}
    generate(tmp_path, "callers")
    for path in shards(made / "callers", "train"):
        for one, other in zip(read_utterances(path), read_utterances(tmp_path / "callers" / path.name), strict=True):
            assert (one.text, one.voice) == (other.text, other.voice)
            np.testing.assert_array_equal(one.audio, other.audio)


def test_it_stops_when_its_time_is_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generate(tmp_path, "callers", "--minutes", "0")
    assert shards(tmp_path / "callers", "train") == []
    assert "stopped in time, call again to go on" in capsys.readouterr().out


def test_dialogues_without_callers_or_with_other_clips_say_so(made: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"clips\.npz cannot be read.*engine\.pocket\.recipe\.generate"):
        generate(tmp_path, "stage1")
    (tmp_path / "clips.npz").write_bytes((made / "clips.npz").read_bytes())
    (tmp_path / "tokenizer.model").write_bytes((made / "tokenizer.model").read_bytes())
    with pytest.raises(ValueError, match="generate callers first"):
        generate(tmp_path, "stage1")


def test_a_tokenizer_that_is_there_stays(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(b"another")
    generate(tmp_path, "clips")
    assert (tmp_path / "tokenizer.model").read_bytes() == b"another"


def test_callers_take_turns_and_say_some_of_everything() -> None:
    makers, random = nano_makers(), np.random.default_rng(1)
    jobs = [caller_jobs(DOMAIN, makers.callers, "train", number, 40, random) for number in range(3)]
    speakers = [caller.name for shard in jobs for caller, _ in shard]
    assert {name.rpartition("-")[0] for name in speakers} == {
        caller.name for caller in makers.callers if caller.split == "train"
    }
    assert len(set(speakers)) == len(speakers) // TURNS, "nobody comes twice, as a relative does instead"
    assert jobs[1] != jobs[2]
    tested = caller_jobs(DOMAIN, makers.callers, "held-out", 0, 40, random)
    assert {caller for caller, _ in tested} <= set(makers.callers)
    intents = [said(DOMAIN, random, "train").intent for _ in range(2_000)]
    assert set(intents) == {*DOMAIN.intents, "unknown", ""}
    assert 0.12 < intents.count("unknown") / len(intents) < 0.2


def test_actors_are_kept_apart_by_who_is_held_out(made: Path) -> None:
    (train,), (held,) = (shards(made / "actors", kind) for kind in ("train", "held-out"))
    trained, strange = read_utterances(train), read_utterances(held)
    assert {each.split for each in trained} == {"train"} and {each.split for each in strange} == {"held-out"}
    assert [each.text for each in (*trained, *strange)] == list(LINES)
    assert [each.intent for each in trained] == ["yes", "no", "", UNKNOWN, UNKNOWN, UNKNOWN]
    assert all(each.words and each.phones for each in trained)


def test_actors_are_heard_where_what_they_say_belongs(made: Path) -> None:
    def theirs(kind: Kind, split: Split = "train") -> list[str]:
        drawn = _drawn_from(made, kind, split, np.random.default_rng(1))
        return [each.text for each in drawn if each.voice.startswith("actor-")]

    trained = list(LINES[:6])
    assert theirs("talk") == trained and theirs("strays") == trained[3:]
    assert theirs("stage1") == theirs("stage2") == theirs("asides") == trained[:3]
    assert theirs("probe", "held-out") == []


def test_actors_alone_are_no_callers(made: Path, tmp_path: Path) -> None:
    for name in ("clips.npz", "tokenizer.model"):
        (tmp_path / name).write_bytes((made / name).read_bytes())
    shutil.copytree(made / "actors", tmp_path / "actors")
    for kind, folder in (("stage1", "callers"), ("strays", "strangers")):
        with pytest.raises(ValueError, match=f"{folder} has no train shard; generate {folder} first"):
            generate(tmp_path, kind)


def test_actors_go_on_where_they_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[int] = []

    def dictation() -> Dictation:
        write = standin.dictation()

        def counted(recordings: Sequence[Audio]) -> Iterator[Written]:
            asked.append(len(recordings))
            return write(recordings)

        return counted

    makers = replace(nano_makers(), dictation=dictation)
    assert not make_actors(tmp_path, DOMAIN, makers, 3, 0.0) and asked == []
    assert make_actors(tmp_path, DOMAIN, makers, 3, math.inf) and asked == [3, 3, 2]
    for kind in ("train", "held-out"):
        assert len(shards(tmp_path / "actors", kind)) == 3
    assert make_actors(tmp_path, DOMAIN, makers, 3, math.inf) and asked == [3, 3, 2]
    shard(tmp_path / "actors", "held-out", 1).unlink()
    assert make_actors(tmp_path, DOMAIN, makers, 3, math.inf) and asked == [3, 3, 2, 3]
