"""Rows that listen: each as if it were alone, and fresh as if it had never heard anything."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from engine.ear import Ear
from engine.model.checkpoint import load_checkpoint
from engine.model.listening import EarCheckpoint, load_ear
from engine.model.moshi import UNGENERATED
from engine.model.rows import Rows
from engine.model.sampling import SamplingRows
from engine.model.text import PAD


@pytest.fixture(scope="module")
def checkpoint(eared: Path) -> EarCheckpoint:
    ear = load_ear(str(eared), load_checkpoint(str(eared)))
    assert ear is not None
    return ear


def some(*rows: int) -> Rows:
    return Rows.of(rows, torch.device("cpu"))


def sound(frames: int, seed: int) -> Tensor:
    """A caller's codes [frames, 8]."""
    return torch.randint(0, 128, (frames, 8), generator=torch.Generator().manual_seed(seed))


def alone(checkpoint: EarCheckpoint, codes: Tensor) -> list[int]:
    """What one fresh row writes."""
    ear = Ear(checkpoint, 1)
    return [int(ear.hear(frame[None], None)[0]) for frame in codes]


def by_hand(checkpoint: EarCheckpoint, codes: Tensor) -> list[int]:
    """The same from the model's own steps: column 0, then a column a frame, the likeliest token of each."""
    moshi = checkpoint.moshi
    state, zero, one = moshi.initial_state(1), torch.zeros(1), torch.ones(1, dtype=torch.int64)
    greedy, free = SamplingRows(zero, one, zero, one, torch.ones(1, 1, 1)), torch.full((1, 1), UNGENERATED)
    columns = [torch.full((8,), UNGENERATED), *codes]
    steps = [moshi.step(state, column[None], free, greedy, None) for column in columns]
    return [int(step.emitted[0, 0]) for step in steps[1:]]


def test_a_row_writes_what_the_models_own_steps_give(checkpoint: EarCheckpoint) -> None:
    written = alone(checkpoint, sound(70, seed=0))  # beyond its window of 50
    assert written == by_hand(checkpoint, sound(70, seed=0))
    assert PAD in written
    assert len(set(written)) > 10


def test_rows_that_miss_frames_write_what_they_would_alone(checkpoint: EarCheckpoint) -> None:
    ear = Ear(checkpoint, 3)
    sounds = [sound(30, seed) for seed in range(3)]
    written: list[list[int]] = [[], [], []]
    for tick in range(60):
        running = [row for row in range(3) if tick % (2 + row) == 0 and len(written[row]) < 30]
        if not running:
            continue
        codes = torch.stack([sounds[row][len(written[row])] for row in running])
        for row, token in zip(running, ear.hear(codes, some(*running))[0].tolist(), strict=True):
            written[row].append(token)
    assert [len(tokens) for tokens in written] == [30, 20, 15]
    for row in range(3):
        assert written[row] == alone(checkpoint, sounds[row][: len(written[row])])


def test_a_row_that_is_reset_is_as_new_and_the_others_go_on(checkpoint: EarCheckpoint) -> None:
    ear = Ear(checkpoint, 2)
    first, second = sound(20, seed=1), sound(20, seed=2)
    before = [ear.hear(torch.stack((first[at], second[at])), None)[0].tolist() for at in range(10)]
    ear.reset(1)
    after = [ear.hear(torch.stack((first[10 + at], second[at])), None)[0].tolist() for at in range(10)]
    assert [row[0] for row in before + after] == alone(checkpoint, first)
    assert [row[1] for row in after] == [row[1] for row in before] == alone(checkpoint, second[:10])


def test_a_row_that_hears_nothing_stands_still_bit_for_bit(checkpoint: EarCheckpoint) -> None:
    ear = Ear(checkpoint, 2)
    ear.hear(sound(2, seed=3), None)
    before = [tensor[1].clone() for tensor in (ear._state.kv.keys, ear._state.kv.values, ear._state.table)]
    ear.hear(sound(1, seed=4), some(0))
    after = [tensor[1] for tensor in (ear._state.kv.keys, ear._state.kv.values, ear._state.table)]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    assert ear._state.kv.position.tolist() == [3, 2]


def test_codebooks_that_it_does_not_read_change_nothing(checkpoint: EarCheckpoint) -> None:
    codes = sound(10, seed=5)
    more = torch.cat((codes, sound(10, seed=6)), 1)
    assert alone(checkpoint, more) == alone(checkpoint, codes)
