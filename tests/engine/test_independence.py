"""Whatever the other rows of a batch go through, a call gives what it would have given alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.batch import Batch, RowStep, Stepped
from engine.model.checkpoint import load_checkpoint
from engine.slot import Sampling
from tests.engine.rows import no_log, noise

ROWS = 4
SPEECH = [noise(24, seed) for seed in range(4)]
PROMPTS = ["", "Hi."]


class Act(Enum):
    """What may befall a row in a tick; STEP and SAY bring a free row to life first."""

    REST = "rest"
    STEP = "step"
    SAY = "say"
    PRIME = "prime"
    LEAVE = "leave"
    RESET = "reset"


@dataclass
class Talk:
    """One call: how it draws, what happened in it, and what it gave."""

    number: int
    acts: list[Act] = field(default_factory=list)
    gave: list[Stepped] = field(default_factory=list)

    @property
    def sampling(self) -> Sampling:
        greedy = Sampling(text_temperature=0, audio_temperature=0)
        return greedy if self.number % 3 == 0 else Sampling(seed=self.number, audio_top_k=20 * self.number + 1)

    def begin(self, batch: Batch, row: int) -> None:
        batch.open(row, no_log())
        self._prime(batch, row, keep_frames=0)

    def act(self, batch: Batch, row: int, act: Act) -> RowStep | None:
        """Prime at once; or what the row does in the next step."""
        self.acts.append(act)
        if act is Act.PRIME:
            self._prime(batch, row, keep_frames=self.number % 5)
            return None
        frame = SPEECH[self.number % len(SPEECH)][len(self.acts) % 24]
        return RowStep(row, frame, 300 + len(self.acts) if act is Act.SAY else None, self.sampling)

    def _prime(self, batch: Batch, row: int, keep_frames: int) -> None:
        frames = batch.layout.frames(batch.tokenizer, PROMPTS[(self.number + len(self.acts)) % 2])
        for chunk in batch.plan(row, frames, keep_frames, self.sampling):
            batch.prefill(chunk)


def together(batch: Batch, schedule: Sequence[Sequence[Act]]) -> list[Talk]:
    """Live through a schedule [ticks][rows], all rows beside each other."""
    talks: list[Talk] = []
    rows: list[Talk | None] = [None] * batch.rows
    for tick in schedule:
        steps: list[RowStep] = []
        for row, act in enumerate(tick):
            talk = rows[row]
            if act in (Act.LEAVE, Act.RESET):
                rows[row] = None
            if act is Act.RESET or (talk is None and act in (Act.STEP, Act.SAY)):
                talks.append(talk := Talk(len(talks)))
                talk.begin(batch, row)
                rows[row] = talk
            if (talk := rows[row]) and act in (Act.STEP, Act.SAY, Act.PRIME) and (step := talk.act(batch, row, act)):
                steps.append(step)
        for step, stepped in zip(steps, batch.step(steps), strict=True):
            talk = rows[step.row]
            assert talk
            talk.gave.append(stepped)
    return talks


def alone(batch: Batch, talk: Talk) -> list[Stepped]:
    """The same call in a batch of one."""
    again = Talk(talk.number)
    again.begin(batch, 0)
    for act in talk.acts:
        if step := again.act(batch, 0, act):
            again.gave += batch.step([step])
    return again.gave


@pytest.fixture(scope="module")
def exact(nano: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Batch]:
    """Rows of the nano model in float64, with windows so short that a call outgrows them."""
    folder = Path(shutil.copytree(nano, tmp_path_factory.mktemp("short") / "nano"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "context": 12}))
    codec = json.loads((folder / "mimi.json").read_text())
    codec["transformer"]["context"] = 10
    (folder / "mimi.json").write_text(json.dumps(codec))

    def make(rows: int) -> Batch:
        checkpoint = load_checkpoint(str(folder))
        return Batch(replace(checkpoint, mimi=checkpoint.mimi.double(), moshi=checkpoint.moshi.double()), rows)

    return make


@pytest.mark.parametrize("examples", [40, pytest.param(1_000, marks=pytest.mark.acceptance)])
def test_rows_give_what_they_would_have_given_alone(exact: Callable[[int], Batch], examples: int) -> None:
    """Joined, left, reset, primed, made to say something, left out: tokens are equal, frames to float32's last bits.

    The batches live on from example to example: what one leaves behind must not show in the next.
    """
    batch, single, calls = exact(ROWS), exact(1), 0
    acts = st.sampled_from([Act.STEP] * 4 + [Act.REST] * 2 + [Act.SAY, Act.PRIME, Act.LEAVE, Act.RESET])
    schedules = st.lists(st.lists(acts, min_size=ROWS, max_size=ROWS), min_size=1, max_size=8)

    @settings(
        max_examples=examples, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
    )
    @given(schedules)
    def check(schedule: list[list[Act]]) -> None:
        nonlocal calls
        for talk in together(batch, schedule):
            want = alone(single, talk)
            for got, told in zip(talk.gave, want, strict=True):
                assert np.array_equal(got.tokens, told.tokens)
                assert (got.text, got.number, got.heard) == (told.text, told.number, told.heard)
                np.testing.assert_allclose(got.frame, told.frame, atol=1e-6)
            calls += 1

    check()
    assert calls > examples
