"""Whatever the other rows of a batch go through, a call gives what it would have given alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine import prime as prime_module
from engine.batch import Batch, RowStep, Stepped
from engine.model.checkpoint import load_checkpoint
from engine.prime import SHADOWS
from engine.slot import Sampling
from tests.engine.rows import no_log, noise, prime

ROWS = 4
SPEECH = [noise(24, seed) for seed in range(4)]
PROMPTS = ["", "Hi."]


class Act(Enum):
    """What may befall a row in a tick; STEP and SAY bring a free row to life first."""

    REST = "rest"
    STEP = "step"
    SAY = "say"
    PRIME = "prime"
    RENEW = "renew"
    LEAVE = "leave"
    RESET = "reset"


@dataclass(frozen=True)
class Renewed:
    """A renewal came about: what the row was told, and how many of its columns it then had in all."""

    prompt: str
    columns: int


@dataclass
class Talk:
    """One call: how it draws, what happened in it, and what it gave."""

    number: int
    acts: list[Act | Renewed] = field(default_factory=list)
    gave: list[Stepped] = field(default_factory=list)
    renewal: Generator[bool, None, None] | None = None
    renewed: Renewed = Renewed("", 0)

    @property
    def sampling(self) -> Sampling:
        greedy = Sampling(text_temperature=0, audio_temperature=0)
        return greedy if self.number % 3 == 0 else Sampling(seed=self.number, audio_top_k=20 * self.number + 1)

    def begin(self, batch: Batch, row: int) -> None:
        batch.open(row, no_log())
        self._prime(batch, row, keep_frames=0)

    def act(self, batch: Batch, row: int, act: Act | Renewed) -> RowStep | None:
        """Prime at once; or what the row does in the next step."""
        self.acts.append(act)
        if isinstance(act, Renewed):
            prime(batch, row, act.prompt, act.columns, self.sampling)
            return None
        if act is Act.PRIME:
            self.end_renewal()
            self._prime(batch, row, keep_frames=self.number % 5)
            return None
        frame = SPEECH[self.number % len(SPEECH)][len(self.acts) % 24]
        return RowStep(row, frame, 300 + len(self.acts) if act is Act.SAY else None, self.sampling)

    def _prime(self, batch: Batch, row: int, keep_frames: int) -> None:
        prime(batch, row, PROMPTS[(self.number + len(self.acts)) % 2], keep_frames, self.sampling)

    def renew(self, batch: Batch, row: int) -> None:
        """Begin to; `renew_on` goes on. What has begun, but did not end, is as if it had not been."""
        self.end_renewal()
        prompt, keep_frames = PROMPTS[self.number % 2], len(self.gave) % 7
        self.renewal = batch.renew(row, batch.layout.frames(batch.tokenizer, prompt), keep_frames, self.sampling)
        self.renewed = Renewed(prompt, min(keep_frames, len(self.gave)) - len(self.gave))

    def renew_on(self) -> None:
        """A chunk. The columns since the first are caught up with."""
        assert self.renewal
        if next(self.renewal):
            self.end_renewal()
            self.acts.append(Renewed(self.renewed.prompt, self.renewed.columns + len(self.gave)))

    def end_renewal(self) -> None:
        """Give its shadow back."""
        if self.renewal:
            self.renewal.close()
            self.renewal = None


def together(batch: Batch, schedule: Sequence[Sequence[Act]]) -> list[Talk]:
    """Live through a schedule [ticks][rows], all rows beside each other."""
    talks: list[Talk] = []
    rows: list[Talk | None] = [None] * batch.rows
    for tick in schedule:
        steps: list[RowStep] = []
        for row, act in enumerate(tick):
            talk = rows[row]
            if talk and act in (Act.LEAVE, Act.RESET):
                talk.end_renewal()
                rows[row] = None
            if talk and act is Act.RENEW and sum(1 for one in rows if one and one.renewal) < SHADOWS:
                talk.renew(batch, row)
                talk.renew_on()
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
        for talk in rows:
            if talk and talk.renewal:
                talk.renew_on()
    for talk in talks:
        talk.end_renewal()
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
def test_rows_give_what_they_would_have_given_alone(
    exact: Callable[[int], Batch], monkeypatch: pytest.MonkeyPatch, examples: int
) -> None:
    """Joined, left, reset, primed, renewed while they speak, made to say something, left out: tokens are equal, frames
    to float32's last bits.

    The batches live on from example to example: what one leaves behind must not show in the next.
    """
    monkeypatch.setattr(prime_module, "CHUNK_COLUMNS", 9)  # so that a renewal takes some ticks
    batch, single, calls, renewals = exact(ROWS), exact(1), 0, 0
    acts = st.sampled_from(
        [Act.STEP] * 5 + [Act.REST] * 2 + [Act.SAY, Act.PRIME, Act.LEAVE, Act.RESET] + [Act.RENEW] * 2
    )
    schedules = st.lists(st.lists(acts, min_size=ROWS, max_size=ROWS), min_size=1, max_size=8)

    @settings(
        max_examples=examples, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
    )
    @given(schedules)
    def check(schedule: list[list[Act]]) -> None:
        nonlocal calls, renewals
        for talk in together(batch, schedule):
            want = alone(single, talk)
            for got, told in zip(talk.gave, want, strict=True):
                assert np.array_equal(got.tokens, told.tokens)
                assert (got.text, got.number, got.heard) == (told.text, told.number, told.heard)
                np.testing.assert_allclose(got.frame, told.frame, atol=1e-6)
            calls += 1
            renewals += sum(isinstance(act, Renewed) for act in talk.acts)

    check()
    assert calls > examples
    assert renewals > examples / 8
