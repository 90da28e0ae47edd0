"""Clips keep the codes that weights know them by, wherever they are made again."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.model.mimi import Mimi
from engine.model.moshi import Moshi
from engine.model.moshi_config import MoshiConfig
from engine.model.text import Tokenizer
from engine.pocket.recipe import offline_lm
from engine.pocket.recipe.dialogues import Timeline
from engine.pocket.recipe.domain import load_domain
from engine.pocket.recipe.encode import Voice, read_voice, write_voice
from engine.pocket.recipe.export_codec import LEAD_FRAMES, read_codec
from engine.pocket.recipe.formats import Audio, read_clips
from engine.pocket.recipe.init_lm import draw
from engine.pocket.recipe.offline_codec import OfflineCodec
from engine.pocket.recipe.recover import BEFORE, Codes, Script, nearest, recover, say, scripts
from engine.pocket.recipe.training import store
from engine.slot import FRAME_SAMPLES
from tests.engine.pocket.work import LM, PROMPT, clips

SCRIPTS = (Script((0,)), Script((1, 0)), Script((1,), PROMPT))


def voice_of(work: Path) -> Voice:
    return read_voice(work / "coded" / "voice.npz", 128)


@pytest.fixture
def moshi(work: Path) -> Moshi:
    made = Moshi(MoshiConfig.from_kwargs(LM))
    draw(made, read_codec(work / "codec"), 1)
    return made.eval()


def test_every_clip_is_said_in_some_script() -> None:
    domain = load_domain()
    assert {number for script in scripts(domain) for number in script.clips} == set(range(len(domain.clips)))


def test_what_is_said_is_what_the_model_would_say(moshi: Moshi, work: Path) -> None:
    tokenizer, voice = Tokenizer((work / "tokenizer.model").read_bytes()), voice_of(work)
    said = say(moshi, voice, tokenizer, clips(), SCRIPTS)
    assert {number: len(found) for number, found in said.items()} == {0: 2, 1: 2}
    assert {codes.shape for found in said.values() for codes in found} == {(12, 8)}
    (alone, _), config = said[0], moshi.config
    frames = np.zeros((1, BEFORE + 12, config.streams), np.int64)
    frames[0, :BEFORE, 1:] = [*voice.layout.silence, *voice.layout.silence]
    frames[0, :, config.made :] = voice.layout.silence
    frames[0, BEFORE:, 1 : config.made] = alone
    assert say(moshi, voice, tokenizer, clips(), [Script((0,))])[0][0].tolist() == alone.tolist()
    frames[0, :, 0] = _text(tokenizer)
    columns = offline_lm.lay_out(config, torch.from_numpy(frames))
    with torch.no_grad():
        hidden = offline_lm.temporal(moshi, columns[:, :-1])[0, BEFORE]
        logits = offline_lm.depth(moshi, hidden[None], columns[:, BEFORE + 1, : config.made])
    assert int(logits[0, 0].argmax()) == alone[0, 0]


def _text(tokenizer: Tokenizer) -> list[int]:
    line = Timeline(BEFORE + 12, clips(), tokenizer.encode)
    line.speak([0], BEFORE)
    return [int(token) for token in line.text]


def test_the_nearest_codes_are_taken(work: Path) -> None:
    mimi, voice, made = read_codec(work / "codec"), voice_of(work), read_clips(work / "clips.npz")
    spoilt = replace(voice, codes=voice.codes.copy())
    spoilt.codes[:12] = np.random.default_rng(0).integers(0, 128, (12, 8))
    said: dict[int, list[Codes]] = {0: [spoilt.codes[12:], voice.codes[:12]], 1: [spoilt.codes[:12]]}
    decoded = [replace(clip, audio=_heard(mimi, voice, start)) for clip, start in zip(made, voice.starts, strict=True)]
    assert np.array_equal(nearest(mimi, spoilt, decoded, said).codes, voice.codes)
    assert np.array_equal(nearest(mimi, spoilt, decoded, {}).codes, spoilt.codes)


def _heard(mimi: Mimi, voice: Voice, start: int) -> Audio:
    before = np.tile(np.array(voice.layout.silence), (LEAD_FRAMES, 1))
    codes = np.concatenate([before, voice.codes[start : start + 12]])
    with torch.no_grad():
        audio = OfflineCodec(mimi).decode(torch.from_numpy(codes.T[None]))[0, 0]
    made: Audio = audio.numpy()
    return made[LEAD_FRAMES * FRAME_SAMPLES :]


def test_a_work_folder_keeps_what_is_nearer(moshi: Moshi, work: Path, tmp_path: Path) -> None:
    for name in ("codec", "clips.npz", "tokenizer.model"):
        (tmp_path / name).symlink_to(work / name)
    shutil.copytree(work / "coded", tmp_path / "coded")
    store(tmp_path / "lm" / "model.pt", {"sizes": LM, "weights": moshi.state_dict()})
    changed, count = recover(tmp_path, SCRIPTS)
    before, after = voice_of(work), voice_of(tmp_path)
    assert count == 2 and after.layout == before.layout and after.codes.shape == before.codes.shape
    kept = [np.array_equal(before.codes[start : start + 12], after.codes[start : start + 12]) for start in (0, 12)]
    assert changed == kept.count(False)
    write_voice(tmp_path / "coded" / "voice.npz", after)
    assert recover(tmp_path, SCRIPTS) == (0, 2)
