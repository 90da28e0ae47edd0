"""Dialogues are encoded as the streaming engine will hear them, in slices."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.model.prompt import PromptLayout
from engine.pocket.recipe.encode import code_voice, encode, encode_all, read_voice
from engine.pocket.recipe.export_codec import encode_after_silence, read_codec
from engine.pocket.recipe.formats import read_clips, read_dialogues, shards
from engine.slot import FRAME_SAMPLES


def test_codes_are_those_of_a_fresh_row(work: Path) -> None:
    mimi = read_codec(work / "codec")
    sound = read_dialogues(shards(work / "dialogues", "probe")[0])
    coded = read_dialogues(shards(work / "coded", "probe")[0])
    for with_sound, with_codes in zip(sound, coded, strict=True):
        assert with_sound.audio is not None and with_codes.audio is None and with_codes.codes is not None
        frames = torch.from_numpy(with_sound.audio).view(-1, 1, 1, FRAME_SAMPLES)
        state, row = mimi.initial_state(1), torch.ones(1, dtype=torch.bool)
        streamed = torch.cat([mimi.encode(frame, state, row)[:, :, 0] for frame in frames])
        assert (streamed.numpy() == with_codes.codes).mean() > 0.99
        assert with_codes.events == with_sound.events


def test_the_voice_holds_every_clip(work: Path) -> None:
    mimi, clips = read_codec(work / "codec"), read_clips(work / "clips.npz")
    voice = read_voice(work / "coded" / "voice.npz", 128)
    schedule = np.array([[1, frame] for frame in range(clips[1].frames)] + [[-1, 0]], np.int16)
    said = voice.agent(schedule)
    assert np.array_equal(said[:-1], encode_after_silence(mimi, [clips[1].audio])[0])
    assert tuple(said[-1]) == voice.layout.silence


def test_adopted_weights_keep_what_silence_and_a_tone_are_to_them(work: Path, tmp_path: Path) -> None:
    for name in ("codec", "clips.npz"):
        (tmp_path / name).symlink_to(work / name)
    known = PromptLayout("system", tuple(range(8)), tuple(range(8, 16)))
    (tmp_path / "layout.json").write_text(json.dumps(asdict(known)))
    assert encode_all(tmp_path, minutes=5)
    voice, measured = (read_voice(folder / "coded" / "voice.npz", 128) for folder in (tmp_path, work))
    assert voice.layout == known != measured.layout
    assert np.array_equal(voice.codes, measured.codes)


def test_what_is_there_is_not_made_again(work: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (work / "coded").iterdir()}
    assert encode_all(work, minutes=0)
    assert before == {path: path.stat().st_mtime_ns for path in (work / "coded").iterdir()}


def test_it_stops_in_time_and_goes_on(work: Path, tmp_path: Path) -> None:
    for name in ("codec", "clips.npz", "dialogues"):
        (tmp_path / name).symlink_to(work / name)
    assert not encode_all(tmp_path, minutes=-1)
    assert not shards(tmp_path / "coded", "probe")
    assert encode_all(tmp_path, minutes=5, kinds=["probe"])
    assert len(shards(tmp_path / "coded", "probe")) == 1


def test_errors_name_what_is_missing(work: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is missing"):
        read_voice(tmp_path / "voice.npz", 128)
    with pytest.raises(ValueError, match="there are no clips to learn"):
        code_voice(read_codec(work / "codec"), [])
    with pytest.raises(ValueError, match="there is no codec in .*; make it first with"):
        read_codec(tmp_path)
    coded = read_dialogues(shards(work / "coded", "probe")[0])
    with pytest.raises(ValueError, match="no sound"):
        encode(read_codec(work / "codec"), coded)
