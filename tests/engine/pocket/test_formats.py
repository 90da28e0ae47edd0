from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine.pocket.recipe.formats import (
    SILENCE,
    Clip,
    ClipWord,
    Dialogue,
    Event,
    Span,
    Utterance,
    read_clips,
    read_dialogues,
    read_utterances,
    shard,
    shards,
    whole_frames,
    write_clips,
    write_dialogues,
    write_utterances,
)

RANDOM = np.random.default_rng(5)
STEP = 1 / 32_767


def sound(samples: int) -> np.ndarray:
    return RANDOM.uniform(-0.9, 0.9, samples).astype(np.float32)


def dialogue(frames: int, codes: bool) -> Dialogue:
    schedule = np.full((frames, 2), SILENCE, np.int16)
    schedule[3:5] = [[7, 0], [7, 1]]
    return Dialogue(
        "You are Ada.",
        schedule,
        RANDOM.integers(0, 600, frames).astype(np.int16),
        (Span("hello", 0.1, 0.4),),
        (Event("question", 9, 2, "hours", "when do you open"), Event("stop", 12)),
        "held-out",
        None if codes else sound(frames * 1_920),
        RANDOM.integers(0, 512, (frames, 8)).astype(np.uint16) if codes else None,
        (Span("hh", 0.1, 0.15), Span("ah", 0.15, 0.4)),
    )


def test_an_utterance_comes_back_as_it_was(tmp_path: Path) -> None:
    said = [
        Utterance(sound(5_000), "my name is Maria", "rms", "train", "tell_name", "Maria", "held-out"),
        Utterance(sound(3_001), "héllo", "awb", "held-out", words=(Span("héllo", 0, 0.1),), phones=(Span("hh", 0, 1),)),
    ]
    write_utterances(path := shard(tmp_path / "callers", "train", 3), said)
    for before, after in zip(said, read_utterances(path), strict=True):
        assert np.abs(before.audio - after.audio).max() <= STEP
        for name in ("text", "voice", "split", "intent", "slot", "wording", "words", "phones"):
            assert getattr(before, name) == getattr(after, name)


def test_clips_come_back_in_order(tmp_path: Path) -> None:
    clips = [Clip(name, whole_frames(sound(2_000 * (n + 1))), (ClipWord("mm-hm", n),)) for n, name in enumerate("cab")]
    write_clips(tmp_path / "clips.npz", clips)
    after = read_clips(tmp_path / "clips.npz")
    assert [clip.id for clip in after] == ["c", "a", "b"]
    assert [clip.frames for clip in after] == [2, 3, 4]
    assert after[2].words == clips[2].words and after[2].text == "mm-hm"


@pytest.mark.parametrize("codes", [True, False])
def test_dialogues_come_back_as_they_were(tmp_path: Path, codes: bool) -> None:
    said = [dialogue(20, codes), dialogue(50, codes)]
    write_dialogues(path := tmp_path / "stage1-00000.npz", said)
    for before, after in zip(said, read_dialogues(path), strict=True):
        assert (after.prompt, after.heard, after.events, after.split, after.phones) == (
            *(before.prompt, before.heard, before.events),
            *(before.split, before.phones),
        )
        np.testing.assert_array_equal(before.schedule, after.schedule)
        np.testing.assert_array_equal(before.text, after.text)
        if before.codes is not None:
            assert after.audio is None and after.codes is not None
            np.testing.assert_array_equal(before.codes, after.codes)
        if before.audio is not None:
            assert after.codes is None and after.audio is not None
            assert np.abs(before.audio - after.audio).max() <= STEP


def test_a_shard_of_dialogues_is_all_codes_or_all_audio(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="all audio or all codes"):
        write_dialogues(tmp_path / "stage1-00000.npz", [dialogue(5, True), dialogue(5, False)])


def test_only_complete_shards_are_listed_in_order(tmp_path: Path) -> None:
    assert shards(tmp_path / "nowhere", "train") == []
    for number in (10, 2):
        write_utterances(shard(tmp_path, "train", number), [Utterance(sound(10), "a", "v", "train")])
    (tmp_path / ".train-00003.npz.77.part").touch()
    write_utterances(shard(tmp_path, "held-out", 1), [])
    assert [path.name for path in shards(tmp_path, "train")] == ["train-00002.npz", "train-00010.npz"]


def test_what_is_no_shard_is_named(tmp_path: Path) -> None:
    (path := tmp_path / "train-00000.npz").write_bytes(b"PK torn")
    with pytest.raises(ValueError, match=r"train-00000\.npz cannot be read"):
        read_utterances(path)
    write_utterances(path, [])
    assert read_utterances(path) == []
    with pytest.raises(ValueError, match="lacks 'frames'"):
        read_dialogues(path)
