"""An ear that learnt a few words writes them down when it hears them frame by frame."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from engine.model.checkpoint import Checkpoint
from engine.model.moshi import Moshi
from engine.model.moshi_config import MoshiConfig
from engine.pocket.recipe.formats import read_dialogues, shards
from engine.pocket.recipe.hearing import WARM_FRAMES, frame_times_ms, write_down
from engine.pocket.recipe.init_lm import draw
from engine.pocket.recipe.train_ear import ear_task
from engine.pocket.recipe.train_lm import Material
from engine.pocket.recipe.training import Plan, train
from engine.slot import Sampling
from tests.engine.pocket.work import EAR, LM


@pytest.fixture(scope="module")
def ear(work: Path, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    plan = Plan(320, 5e-3, warm_up=5)
    task = ear_task(work, EAR, plan, rows=8, window=40)
    train(task, plan, tmp_path_factory.mktemp("ear") / "ear.pt", minutes=5)
    material = Material.read(work)
    parts = (material.mimi, task.moshi.requires_grad_(False), material.tokenizer, material.voice.layout)
    return Checkpoint(*parts, {}, "made", Sampling())


def test_it_writes_what_it_hears(ear: Checkpoint, work: Path) -> None:
    dialogues = [dialogue for path in shards(work / "dialogues", "probe") for dialogue in read_dialogues(path)]
    sounds = [dialogue.audio for dialogue in dialogues if dialogue.audio is not None]
    wanted = [" ".join(span.label for span in dialogue.heard) for dialogue in dialogues]
    written = write_down(ear, sounds)
    assert len(written) == 4
    assert sum(text == right for text, right in zip(written, wanted, strict=True)) >= 3, written


def test_frames_are_timed(ear: Checkpoint, work: Path) -> None:
    moshi = Moshi(MoshiConfig.from_kwargs(LM)).requires_grad_(False)
    draw(moshi, ear.mimi, 0)
    talking = replace(ear, moshi=moshi)
    times = frame_times_ms(talking, ear, WARM_FRAMES + 5)
    assert len(times) == 5
    assert all(0 < processor and 0 < clock for processor, clock in times)
