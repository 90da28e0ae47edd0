"""A row that was primed anew beside its steps is a fresh row that was fed the same columns, whenever it is swapped."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from engine.batch import Batch, RowStep, Stepped
from engine.model.checkpoint import load_checkpoint
from engine.scheduler import CATCH_UP_FRAMES
from engine.slot import FRAME_SAMPLES, Frame, Sampling
from tests.engine.rows import no_log, noise, prime

WINDOW = 40
"""So short that what comes after a swap outgrows it."""

AFTER = WINDOW + 4
"""Frames in which the two must say the same: until nothing that the swap brought is left."""

SPEECH = noise(150)
PROMPTS = ["", "Hi.", "You are Ada."]


@dataclass(frozen=True)
class Moment:
    """A renewal: frames stepped before it, in chunks of how many columns, and how many steps after each of them.

    `held`: so many times it is told to wait once it has caught up.
    """

    prompt: str
    before: int
    keep: int
    chunk: int
    steps: tuple[int, ...]
    held: int
    seed: int

    @property
    def sampling(self) -> Sampling:
        return Sampling(seed=self.seed, text_temperature=0.9)


moments = st.builds(
    Moment,
    prompt=st.sampled_from(PROMPTS),
    before=st.integers(0, WINDOW + 10),
    keep=st.integers(0, 12),
    chunk=st.integers(1, 30),
    steps=st.lists(st.integers(0, 2), max_size=8).map(tuple),
    held=st.integers(0, 2),
    seed=st.integers(0, 1_000),
)


@pytest.fixture(scope="module")
def batch(nano: Path, tmp_path_factory: pytest.TempPathFactory) -> Batch:
    """Two rows in float32, with an ear and a voice that cost nothing: no swap touches the codec."""
    folder = Path(shutil.copytree(nano, tmp_path_factory.mktemp("short") / "nano"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "context": WINDOW}))
    batch = Batch(load_checkpoint(str(folder)), 2)
    batch._mimi.encode = lambda audio, state, mask: (audio[:, 0, :8, None] * 1000).long() % 128  # type: ignore[method-assign]  # a stand-in
    batch._mimi.decode = lambda codes, state, mask: codes.new_zeros((len(codes), 1, FRAME_SAMPLES)).float()  # type: ignore[method-assign]  # likewise
    return batch


def both(batch: Batch, frames: Sequence[Frame], sampling: Sampling) -> list[list[Stepped]]:
    """Both rows hear the same; what each step gave."""
    return [batch.step([RowStep(row, frame, None, sampling) for row in range(2)]) for frame in frames]


def check_same(pairs: Sequence[Sequence[Stepped]]) -> None:
    for one, other in pairs:
        assert np.array_equal(one.tokens, other.tokens)


def remembered(batch: Batch, row: int) -> list[Tensor]:
    """Keys, values and columns ahead of `row`, the oldest position first."""
    state = batch.state.row(row)
    position, slots = int(state.kv.position), state.kv.slots
    held = torch.arange(max(0, position - slots), position) % slots
    return [state.kv.keys[:, :, :, held], state.kv.values[:, :, :, held], state.kv.position, state.ahead()]


def waits(times: int) -> Callable[[], bool]:
    left = chain(repeat(True, times), repeat(False))
    return lambda: next(left)


def swap(batch: Batch, moment: Moment, said: Iterator[Frame]) -> None:
    """Renew row 0 while both are stepped; then feed row 1, made fresh, the same columns one by one."""
    frames = batch.layout.frames(batch.tokenizer, moment.prompt)
    batch.primer.chunk_columns = moment.chunk
    kept, meanwhile = min(moment.keep, moment.before), 0
    steps = chain(moment.steps, repeat(0))
    for last in batch.renew(0, frames, moment.keep, moment.sampling, wait=waits(moment.held)):
        if not last:
            count = next(steps)
            check_same(both(batch, [next(said) for _ in range(count)], moment.sampling))
            meanwhile += count
    batch.primer.chunk_columns = 1
    prime(batch, 1, moment.prompt, kept + meanwhile, moment.sampling)


@pytest.mark.parametrize("examples", [6, pytest.param(300, marks=pytest.mark.acceptance)])
def test_a_swapped_row_is_a_fresh_row_fed_the_same_columns_at_any_moment(batch: Batch, examples: int) -> None:
    """Keys and values within 1e-5, and the same tokens ever after."""
    met: set[str] = set()

    @settings(
        max_examples=examples, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
    )
    @given(moments)
    def check(moment: Moment) -> None:
        # An engine takes no prime that outgrows its shadow: `renewable_frames`.
        columns = 1 + len(batch.layout.frames(batch.tokenizer, moment.prompt)) + min(moment.keep, moment.before)
        assume(columns + sum(moment.steps) <= batch.primer.shadow_slots)
        said = iter(SPEECH)
        for row in range(2):
            batch.open(row, no_log())
            prime(batch, row, "Hi.", sampling=moment.sampling)
        check_same(both(batch, [next(said) for _ in range(moment.before)], moment.sampling))
        swap(batch, moment, said)
        for mine, fresh in zip(remembered(batch, 0), remembered(batch, 1), strict=True):
            torch.testing.assert_close(mine, fresh, atol=1e-5, rtol=0)
        check_same(both(batch, SPEECH[-AFTER:], moment.sampling))
        met.update(name for name, is_so in vars(moment).items() if is_so)

    check()
    assert met >= {"prompt", "before", "keep", "steps", "held"}


def test_a_shadow_without_room_waits_no_longer(batch: Batch) -> None:
    """Whatever it is told: the columns of the steps until it is asked again might not fit."""
    batch.open(0, no_log())
    prime(batch, 0)
    batch.primer.chunk_columns = 64
    slots = batch.primer.shadows[0].kv.slots
    steps = 0
    for last in batch.renew(0, batch.layout.frames(batch.tokenizer, ""), 0, Sampling(), wait=lambda: True):
        if not last:
            batch.step([RowStep(0, SPEECH[steps], None, Sampling())])
            steps += 1
    assert 0 < steps <= slots - 2 * CATCH_UP_FRAMES < slots < WINDOW
