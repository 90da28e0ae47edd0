"""A prompt that is pinned stays in the row's window for good; rows beside it, and those without any, are untouched."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.batch import Batch, RowStep, Stepped
from engine.local import LocalEngine
from engine.model.checkpoint import load_checkpoint
from engine.slot import Prompt, PromptError, Sampling
from tests.engine.rows import SEED_1, no_log, noise, same, talk

WINDOW = 60
PROMPT = "You are Ada."


@pytest.fixture(scope="module")
def short(nano: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A window that a few seconds outgrow."""
    folder = Path(shutil.copytree(nano, tmp_path_factory.mktemp("short") / "nano"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "context": WINDOW}))
    return folder


def opened(folder: Path, rows: int, pinned: tuple[int, ...] = (), pins: bool = True) -> tuple[Batch, int]:
    """Rows primed with PROMPT, some of which have it pinned; and how many positions that is."""
    batch = Batch(load_checkpoint(str(folder)), rows, pins=pins)
    frames = batch.layout.frames(batch.tokenizer, PROMPT)
    for row in range(rows):
        batch.open(row, no_log())
        for chunk in batch.plan(row, frames, 0, SEED_1, pinned=row in pinned):
            batch.prefill(chunk)
    return batch, 1 + len(frames)


def test_what_is_pinned_is_never_overwritten_and_counts_to_the_window(short: Path) -> None:
    batch, positions = opened(short, 2, pinned=(0,))
    kv = batch.state.kv
    assert kv.pinned is not None and kv.pinned.tolist() == [positions - 1, 0]
    before = kv.keys[:, :, :, : positions - 1].clone()
    for frame in noise(2 * WINDOW):
        batch.step([RowStep(row, frame, None, SEED_1) for row in range(2)])
    after = kv.keys[:, :, :, : positions - 1]
    assert torch.equal(before[0], after[0])
    assert not torch.isclose(before[1], after[1]).any(-1).all()


def test_rows_of_every_policy_share_a_batch(short: Path) -> None:
    """Beside a pinned row another gives what it gives in a batch that knows no pins, and the pinned one what it gives
    alone; and only once the window is full is that anything else."""
    beside, _ = opened(short, 2, pinned=(1,))
    alone, _ = opened(short, 1, pinned=(0,))
    plain, told = opened(short, 1, pins=False)
    speech = noise(2 * WINDOW)
    pairs = [beside.step([RowStep(row, frame, None, SEED_1) for row in range(2)]) for frame in speech]
    kept, off = talk(alone, 0, speech), talk(plain, 0, speech)
    assert same([off_row for off_row, _ in pairs], off)
    assert same([pinned_row for _, pinned_row in pairs], kept)
    full = WINDOW - told
    assert same(kept[:full], off[:full])
    assert not same(kept[full:], off[full:])


def test_a_row_that_is_given_out_again_has_nothing_pinned(short: Path) -> None:
    batch, _ = opened(short, 1, pinned=(0,))
    frames = batch.layout.frames(batch.tokenizer, PROMPT)
    batch.open(0, no_log())
    for chunk in batch.plan(0, frames, 0, SEED_1):
        batch.prefill(chunk)
    assert batch.state.kv.pinned is not None and batch.state.kv.pinned.tolist() == [0]


async def test_a_call_is_stepped_far_beyond_its_window(short: Path) -> None:
    async with LocalEngine(str(short), rows=2, device="cpu", pins=True) as engine:
        async with engine.open(Sampling(seed=1)) as slot:
            await slot.prime(Prompt(PROMPT, pinned=True))
            replies = [await slot.step(frame) for frame in noise(3 * WINDOW)]
            assert [reply.number for reply in replies] == list(range(3 * WINDOW))
            assert np.isfinite(np.stack([reply.frame for reply in replies])).all()
            with pytest.raises(PromptError, match="pinned before the call begins"):
                await slot.prime(Prompt(PROMPT, pinned=True))


async def test_what_cannot_be_pinned_is_refused_with_the_reason(short: Path) -> None:
    long = "You are Ada, and you never tire of telling everyone who you are."
    async with LocalEngine(str(short), rows=1, device="cpu", pins=True) as engine, engine.open(Sampling()) as slot:
        with pytest.raises(PromptError, match=r"takes \d+ frames; pinned, it must be fewer than 30, half the window"):
            await slot.prime(Prompt(long, pinned=True))
        await slot.prime(Prompt(long))
    async with LocalEngine(str(short), rows=1, device="cpu") as engine, engine.open(Sampling()) as slot:
        with pytest.raises(PromptError, match="the engine was not made for it"):
            await slot.prime(Prompt(PROMPT, pinned=True))


@pytest.mark.acceptance
@pytest.mark.parametrize("pinned", [(), (0,)], ids=["off", "pin"])
def test_ten_minutes_of_a_call(nano: Path, pinned: tuple[int, ...]) -> None:
    """Fifteen windows; the first 40 s are the reference's, and to the last frame it speaks."""
    batch, told = opened(nano, 1, pinned)
    reference, _ = opened(nano, 1, pins=False)
    said: list[Stepped] = []
    for number in range(7_500):
        frame = noise(1, number)[0]
        said += batch.step([RowStep(0, frame, None, SEED_1)])
        if number < batch.window_frames - told or not pinned:
            (plain,) = reference.step([RowStep(0, frame, None, SEED_1)])
            assert np.array_equal(said[-1].tokens, plain.tokens) and np.array_equal(said[-1].frame, plain.frame)
    assert not any(one.broken for one in said)
    last = np.stack([one.frame for one in said[-100:]])
    assert 0.01 < np.sqrt(np.mean(np.square(last))) < 0.2
