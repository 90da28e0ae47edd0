"""The ear learns to write what is said, and writes it when it is served a frame at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine.model.moshi_config import ZERO
from engine.model.text import PAD, SILENT
from engine.pocket.recipe import batches
from engine.pocket.recipe import train_ear as train_ear_module
from engine.pocket.recipe.batches import NEAR_SHARE, neighbours, spoil_codes
from engine.pocket.recipe.corpus import read_coded
from engine.pocket.recipe.train_ear import (
    BLIND_FRAMES,
    DELAY,
    EarTask,
    ear_frames,
    ear_task,
    train_ear,
    window_of,
)
from engine.pocket.recipe.train_lm import Material
from engine.pocket.recipe.training import Plan, load, train
from tests.engine.pocket.work import EAR

PLAN = Plan(120, 5e-3, warm_up=5)


@pytest.fixture
def task(work: Path) -> EarTask:
    return ear_task(work, EAR, PLAN, rows=8, window=40)


def test_text_lies_behind_the_sound(work: Path) -> None:
    dialogue, tokenizer = read_coded(work, "stage1")[0], Material.read(work).tokenizer
    frames = ear_frames(dialogue, tokenizer)
    assert dialogue.codes is not None and np.array_equal(frames[:, 1:], dialogue.codes)
    first = int(dialogue.heard[0].start_s / 0.08)
    assert (frames[: first + DELAY, 0] == PAD).all()
    assert "".join(str(tokenizer.piece(int(token))) for token in frames[:, 0]).split() == [
        span.label for span in dialogue.heard
    ]


def test_a_window_knows_what_began_before_it() -> None:
    frames = np.arange(200 * 9).reshape(200, 9)
    starts = set()
    for seed in range(200):
        taken, known = window_of(frames, 40, np.random.default_rng(seed))
        first = int(taken[0, 0]) // 9
        starts.add(first)
        length = min(40, 200 - first)
        assert np.array_equal(taken[:length], frames[first : first + length])
        assert (taken[length:, 1:] == ZERO).all() and (taken[length:, 0] == PAD).all()
        assert known.tolist() == [(not first or frame >= BLIND_FRAMES) and frame < length for frame in range(40)]
    assert 0 in starts and max(starts) >= 160


def test_it_learns_to_write(task: EarTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in ((train_ear_module, "DROPOUT"), (batches, "NEAR_SHARE")):  # they are for more steps than these
        monkeypatch.setattr(module, name, 0.0)
    frames, known = zip(*(window_of(each, 40, None) for each in task.held), strict=True)
    _, before = task.measure(np.stack(frames), np.stack(known))
    assert train(task, PLAN, tmp_path / "ear.pt", minutes=5)
    _, after = task.measure(np.stack(frames), np.stack(known))
    assert before["piece"] < 0.3 and after["piece"] > 0.9
    assert after["text"] < 0.2 * before["text"]


def test_the_command_writes_what_export_reads(work: Path, tmp_path: Path) -> None:
    for name in ("codec", "coded", "tokenizer.model"):
        (tmp_path / name).symlink_to(work / name)
    assert train_ear(tmp_path, EAR, Plan(2, 1e-3), 5, rows=2, window=20)
    assert load(tmp_path / "ear" / "model.pt")["sizes"] == EAR


def test_pieces_only_are_counted_as_such(task: EarTask) -> None:
    """A window without a word has none to get right."""
    silent = np.zeros((1, 20, 9), np.int64)
    silent[..., 0] = PAD
    assert PAD in SILENT
    _, figures = task.measure(silent, np.ones((1, 20), np.bool_))
    assert figures["piece"] == 0


def test_another_voice_may_say_it(work: Path, task: EarTask) -> None:
    frames, near = task.frames[0], neighbours(Material.read(work).mimi)
    changed = 0.0
    for seed in range(40):
        spoilt = frames.copy()
        spoil_codes(spoilt[:, 1:], task.moshi.config, np.random.default_rng(seed), near)
        changed += (spoilt[:, 1:] != frames[:, 1:])[:, 0].mean() / 40
    assert NEAR_SHARE < changed < 2 * NEAR_SHARE  # a bad line's are among them
