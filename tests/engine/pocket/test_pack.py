"""Callers that travel: what comes out of the file is what went in, at the same time, and no more than fits."""

from __future__ import annotations

import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from engine.pocket.recipe import pack as packing
from engine.pocket.recipe.channel import banded
from engine.pocket.recipe.formats import (
    Audio,
    Span,
    Split,
    Utterance,
    read_dialogues,
    read_utterances,
    shard,
    shards,
    write_utterances,
)
from engine.pocket.recipe.generate import main as generate
from engine.pocket.recipe.pack import decoded, encoded, in_turn, main, pack, unpack
from engine.pocket.recipe.voices import speech_level
from engine.slot import SAMPLE_RATE

FIELDS = ("text", "voice", "split", "intent", "slot", "wording", "words", "phones")
PLENTY = 2**20
MS = SAMPLE_RATE // 1000


@pytest.fixture(scope="module")
def callers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A WORK folder in which voices of tones lie: 40 utterances to train with and 40 to test with."""
    work = tmp_path_factory.mktemp("callers")
    generate(["callers", "--nano", "--shards", "1", "--work", str(work)])
    return work


@pytest.fixture(scope="module")
def file(callers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some of them, packed."""
    path = tmp_path_factory.mktemp("file") / "callers.pack"
    pack(callers, path, 30_000, 0.3)
    return path


def said(work: Path, split: Split) -> list[Utterance]:
    return [each for path in shards(work / "callers", split) for each in read_utterances(path)]


def narrow(audio: Audio) -> Audio:
    """What a telephone lets through."""
    return banded(audio, 200, 3_400)


def likeness(one: Audio, other: Audio) -> float:
    """The correlation of that."""
    a, b = narrow(one), narrow(other)
    return float(a @ b / np.sqrt(a @ a * (b @ b)))


def level(audio: Audio) -> float:
    return speech_level(narrow(audio))


def clicks(at_ms: list[int], length_ms: int) -> Audio:
    """Short tones that begin and end softly, their middles at the given times."""
    audio = np.zeros(length_ms * MS, np.float32)
    time = np.arange(-2 * MS, 2 * MS)
    click = 0.4 * np.hanning(len(time)) * np.cos(2 * np.pi * 1_200 * time / SAMPLE_RATE)
    for middle in at_ms:
        audio[middle * MS + time] += click.astype(np.float32)
    return audio


def test_everything_comes_back(callers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "SHARD", 30)
    packed = pack(callers, tmp_path / "callers.pack", PLENTY, 0.5)
    assert unpack(tmp_path, tmp_path / "callers.pack") == packed
    splits: tuple[Split, ...] = ("train", "held-out")
    for split in splits:
        assert [len(read_utterances(path)) for path in shards(tmp_path / "callers", split)] == [30, 10]
        before = {(each.text, each.voice, len(each.audio)): each for each in said(callers, split)}
        after = said(tmp_path, split)
        assert len(after) == packed[split].utterances == 40
        assert packed[split].minutes == pytest.approx(sum(each.seconds for each in after) / 60)
        assert packed[split].voices == len({each.voice for each in after})
        for each in after:
            original = before[each.text, each.voice, len(each.audio)]
            assert [getattr(each, name) for name in FIELDS] == [getattr(original, name) for name in FIELDS]
            assert likeness(each.audio, original.audio) > 0.9
            assert abs(20 * np.log10(level(each.audio) / level(original.audio))) < 1


def test_time_is_kept_from_the_first_utterance_to_the_last(tmp_path: Path) -> None:
    """So that words and phones stay where they sound: within a millisecond."""
    at = [[50, 400], [7, 200, 633], [500], [20, 977]]
    lengths = [501, 640, 777, 1_000]
    before = [
        Utterance(clicks(times, length), f"clicks {number}", "clicks", "train", words=(Span("click", 0.0123, 0.5),))
        for number, (times, length) in enumerate(zip(at, lengths, strict=True))
    ]
    write_utterances(shard(tmp_path / "callers", "train", 0), before)
    pack(tmp_path, tmp_path / "callers.pack", PLENTY, 0)
    unpack(tmp_path / "there", tmp_path / "callers.pack")
    after = {each.text: each for each in said(tmp_path / "there", "train")}
    for times, original in zip(at, before, strict=True):
        each = after[original.text]
        assert each.words == original.words and len(each.audio) == len(original.audio)
        for middle in times:
            near = slice(max(0, (middle - 15) * MS), (middle + 15) * MS)
            lags = np.correlate(each.audio[near], original.audio[near], "full")
            assert abs(int(lags.argmax()) - (len(original.audio[near]) - 1)) < MS


def test_silence_stays_silent_and_the_stream_as_long(tmp_path: Path) -> None:
    sound = decoded(encoded(clicks([1_000], 2_000)))
    assert len(sound) == 2 * 48_000
    assert np.abs(sound[: 48 * 950]).max() < 0.002 and np.abs(sound[48 * 1_100 :]).max() < 0.002


@pytest.mark.parametrize("most", [30_000, 50_000])
def test_a_file_is_full_but_not_over(callers: Path, tmp_path: Path, most: int) -> None:
    packed = pack(callers, path := tmp_path / "callers.pack", most, 0.25)
    assert 0.8 * most < path.stat().st_size <= most
    assert 0 < packed["held-out"].utterances < packed["train"].utterances < 40
    assert [path.name for path in tmp_path.iterdir()] == ["callers.pack"]


def test_the_same_callers_and_seed_give_the_same_file(callers: Path, tmp_path: Path) -> None:
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        pack(callers, tmp_path / name, 20_000, seed=seed)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "same").read_bytes()
    assert (tmp_path / "one").read_bytes() != (tmp_path / "other").read_bytes()


def test_voices_take_turns_and_intents_keep_their_shares() -> None:
    random, nothing = np.random.default_rng(3), np.zeros(0, np.float32)
    intents = random.choice(["number", "hours", "bus"], 600, p=[0.6, 0.35, 0.05]).tolist()
    everything = [Utterance(nothing, "", f"v{n % 12}", "train", intent) for n, intent in enumerate(intents)]
    order = in_turn(everything, np.random.default_rng(0))
    assert sorted(order) == list(range(600))
    for length in (12, 60, 240):
        begun = [everything[number] for number in order[:length]]
        assert set(Counter(each.voice for each in begun).values()) == {length // 12}
        shares = Counter(each.intent for each in begun)
        assert shares.keys() == {"number", "hours", "bus"}
        assert shares["number"] / length == pytest.approx(0.6, abs=0.1)


def test_seen_voices_with_unseen_words_keep_their_share() -> None:
    nothing = np.zeros(0, np.float32)
    unseen = [Utterance(nothing, "", f"v{n % 3}", "held-out", wording="train") for n in range(80)]
    seen = [Utterance(nothing, "", f"seen{n}", "train", wording="held-out") for n in range(20)]
    order = in_turn(unseen + seen, np.random.default_rng(0))
    for length in (10, 50):
        assert sum(number >= 80 for number in order[:length]) == length // 5


def test_dialogues_are_made_of_what_was_unpacked(file: Path, tmp_path: Path) -> None:
    unpack(tmp_path, file)
    for part in ("clips", "stage1", "probe"):
        generate([part, "--nano", "--shards", "1", "--work", str(tmp_path)])
    for kind, split in (("stage1", "train"), ("probe", "held-out")):
        assert [each.split for each in read_dialogues(shard(tmp_path / "dialogues", kind, 0))] == [split] * 4


def test_callers_that_lie_there_are_not_overwritten(callers: Path, file: Path) -> None:
    before = (callers / "callers" / "train-00000.npz").read_bytes()
    with pytest.raises(ValueError, match=r"train-00000\.npz the first; delete them"):
        unpack(callers, file)
    assert (callers / "callers" / "train-00000.npz").read_bytes() == before


def test_what_cannot_be_packed_is_named(callers: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no callers lie in .*generate callers first"):
        pack(tmp_path, tmp_path / "callers.pack", PLENTY)
    with pytest.raises(ValueError, match="200 bytes hold not one utterance"):
        pack(callers, tmp_path / "callers.pack", 200)
    with pytest.raises(ValueError, match="share to test with is 1; it must be"):
        pack(callers, tmp_path / "callers.pack", PLENTY, 1)
    assert not (tmp_path / "callers.pack").exists()


def test_what_cannot_be_unpacked_is_named(file: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    index, stream = members["train-00000.json"], members["train-00000.opus"]
    broken: dict[str, tuple[dict[str, bytes], str]] = {
        "none": ({}, "no callers in it"),
        "elsewhere": ({"../train-00000.json": index}, r"'\.\./train-00000' is no shard"),
        "silent": ({"train-00000.json": index}, r"train-00000\.opus"),
        "short": (members | {"train-00000.opus": encoded(np.zeros(SAMPLE_RATE, np.float32))}, "the sound ends before"),
        "garbled": (members | {"train-00000.opus": stream[::-1]}, "Invalid data"),
        "foreign": (members | {"train-00000.json": b"[{}]"}, "'start'"),
        "no json": (members | {"train-00000.json": b"hello"}, "Expecting value"),
    }
    for name, (its_members, reason) in broken.items():
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for member, data in its_members.items():
                archive.writestr(member, data)
        with pytest.raises(ValueError, match=rf"{name} cannot be unpacked: .*{reason}.*; make it again"):
            unpack(tmp_path / "there", tmp_path / name)
        assert not (tmp_path / "there").exists()
    (tmp_path / "torn").write_bytes(file.read_bytes()[:5_000])
    for name in ("torn", "missing"):
        with pytest.raises(ValueError, match=f"{name} cannot be unpacked"):
            unpack(tmp_path / "there", tmp_path / name)


def test_the_command_says_what_lies_in_the_file(
    callers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "callers.pack")
    main(["pack", "--work", str(callers), "--file", path, "--most-mib", "0.02", "--held-out", "0.3", "--seed", "4"])
    first = capsys.readouterr().out
    main(["unpack", "--work", str(tmp_path), "--file", path])
    assert capsys.readouterr().out == first
    trained = said(tmp_path, "train")
    assert first.startswith("held-out: ")
    assert f"train: {len(trained)} utterances, {len({each.voice for each in trained})} voices, " in first
