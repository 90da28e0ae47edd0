"""The ear learns to write what is said, and writes it when it is served a frame at a time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.model.moshi_config import ZERO
from engine.model.text import PAD, SILENT
from engine.pocket.recipe import batches
from engine.pocket.recipe import train_ear as train_ear_module
from engine.pocket.recipe.batches import NEAR_SHARE, neighbours, spoil_codes
from engine.pocket.recipe.corpus import read_coded
from engine.pocket.recipe.phones import PAUSE, PHONES
from engine.pocket.recipe.sounds import UNKNOWN
from engine.pocket.recipe.spectra import SUBFRAMES
from engine.pocket.recipe.train_ear import (
    BLIND_FRAMES,
    DELAY,
    READ,
    EarTask,
    ear_frames,
    ear_task,
    phones_of,
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
    assert dialogue.codes is not None and np.array_equal(frames[:, 1:READ], dialogue.codes)
    first = int(dialogue.heard[0].start_s / 0.08)
    assert (frames[: first + DELAY, 0] == PAD).all()
    assert "".join(str(tokenizer.piece(int(token))) for token in frames[:, 0]).split() == [
        span.label for span in dialogue.heard
    ]


def test_phones_lie_where_the_codec_hears_them(work: Path) -> None:
    dialogue = read_coded(work, "stage1")[0]
    assert dialogue.phones
    span = dialogue.phones[len(dialogue.phones) // 2]
    place = int((span.start_s + span.end_s) / 2 / 0.02 + 2)  # two of them later
    phones = phones_of(dialogue)
    assert phones.shape == (dialogue.frames, SUBFRAMES)
    assert PHONES[phones.flatten()[place]] == span.label
    assert PHONES[phones[0, 0]] == PAUSE
    assert (phones_of(replace(dialogue, phones=())) == UNKNOWN).all()  # a shard of before there were any
    assert (phones_of(replace(dialogue, phones=(), heard=())) == PHONES.index(PAUSE)).all()


def test_a_window_knows_what_began_before_it() -> None:
    width = READ + SUBFRAMES
    frames = np.arange(200 * width).reshape(200, width)
    starts = set()
    for seed in range(200):
        taken, known = window_of(frames, 40, np.random.default_rng(seed))
        first = int(taken[0, 0]) // width
        starts.add(first)
        length = min(40, 200 - first)
        assert np.array_equal(taken[:length], frames[first : first + length])
        assert (taken[length:, 1:READ] == ZERO).all() and (taken[length:, 0] == PAD).all()
        assert (taken[length:, READ:] == UNKNOWN).all()
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


def test_it_learns_to_tell_phones_apart(task: EarTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name, value in (
        *((train_ear_module, "DROPOUT", 0.0), (batches, "NEAR_SHARE", 0.0)),
        (train_ear_module, "PHONE_WEIGHT", 3.0),  # most of so short a call is a pause
    ):
        monkeypatch.setattr(module, name, value)
    frames, known = zip(*(window_of(each, 40, None) for each in task.held), strict=True)
    _, before = task.measure(np.stack(frames), np.stack(known))
    assert train(task, PLAN, tmp_path / "ear.pt", minutes=5)
    _, after = task.measure(np.stack(frames), np.stack(known))
    assert before["phone"] < 0.2 and after["phone"] > 0.5


def test_the_command_writes_what_export_reads(work: Path, tmp_path: Path) -> None:
    for name in ("codec", "coded", "tokenizer.model"):
        (tmp_path / name).symlink_to(work / name)
    assert train_ear(tmp_path, EAR, Plan(2, 1e-3), 5, rows=2, window=20)
    model = load(tmp_path / "ear" / "model.pt")
    assert model["sizes"] == EAR and not any("head" in name for name in model["weights"])


def test_it_goes_on_with_what_reads_phones(task: EarTask) -> None:
    before = {name: weight.clone() for name, weight in task.head.state_dict().items()}
    saved = task.save()
    adopted = {"moshi": saved["moshi"]}  # shipped weights have no head
    task.restore(adopted)
    assert all(torch.equal(weight, before[name]) for name, weight in task.head.state_dict().items())
    task.restore({**saved, "head": {name: weight + 1 for name, weight in before.items()}})
    assert all(torch.equal(weight, before[name] + 1) for name, weight in task.head.state_dict().items())


def test_what_it_wrote_itself_stands_for_the_truth(task: EarTask, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it makes a mistake, it reads that in the next column; nothing else of a column changes."""
    monkeypatch.setattr(train_ear_module, "OWN_SHARE", 1.0)
    read = torch.from_numpy(np.stack([window_of(each, 40, None)[0] for each in task.held])[:, :, :READ])
    own = task._own(read, np.random.default_rng(0))
    written = task._written(read, 0.0)[1].argmax(2)
    assert torch.equal(own[:, 1:, 0], written[:, :-1]) and not torch.equal(own, read)
    assert torch.equal(own[:, :, 1:], read[:, :, 1:]) and torch.equal(own[:, 0], read[:, 0])
    monkeypatch.setattr(train_ear_module, "OWN_SHARE", 0.0)
    assert torch.equal(task._own(read, np.random.default_rng(0)), read)


def test_its_mistakes_are_read_in_some_of_the_steps(task: EarTask, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def own(read: torch.Tensor, random: np.random.Generator) -> torch.Tensor:
        asked.append(len(read))
        return read

    monkeypatch.setattr(task, "_own", own)
    for step in range(20):
        task.loss(1 + step, np.random.default_rng(step))
    assert 4 <= len(asked) <= 16
    asked.clear()
    task.measure(task.held[0][None, :20], np.ones((1, 20), np.bool_))  # judged by the truth alone
    assert not asked


def test_pieces_only_are_counted_as_such(task: EarTask) -> None:
    """A window without a word has none to get right."""
    silent = np.zeros((1, 20, READ + SUBFRAMES), np.int64)
    silent[..., 0], silent[..., READ:] = PAD, UNKNOWN
    assert PAD in SILENT
    _, figures = task.measure(silent, np.ones((1, 20), np.bool_))
    assert figures["piece"] == 0 and "phone" not in figures  # nobody says which there are


def test_another_voice_may_say_it(work: Path, task: EarTask) -> None:
    frames, near = task.frames[0], neighbours(Material.read(work).mimi)
    changed = 0.0
    for seed in range(40):
        spoilt = frames.copy()
        spoil_codes(spoilt[:, 1:READ], task.moshi.config, np.random.default_rng(seed), near)
        changed += (spoilt[:, 1:READ] != frames[:, 1:READ])[:, 0].mean() / 40
    assert NEAR_SHARE < changed < 2 * NEAR_SHARE  # a bad line's are among them
