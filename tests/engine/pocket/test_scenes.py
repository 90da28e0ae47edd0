"""Scripted callers wait for their moment, speak, and hear themselves or the agent as told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.batch import Batch, RowStep, Stepped
from engine.model.prompt import PromptLayout
from engine.model.text import PAD, Tokenizer
from engine.nano import train_tokenizer
from engine.pocket.recipe.scenes import DONE_QUIET, PATIENCE, Record, Scene, Turn, play
from engine.prime import PrimeChunk
from engine.slot import FRAME_SAMPLES, Frame, Sampling, Tokens

LOUD = np.full(FRAME_SAMPLES, 0.1, np.float32)
QUIET = np.zeros(FRAME_SAMPLES, np.float32)


class Rows:
    """Rows whose agent talks as a rule says: from the frames heard so far, whether the next is loud."""

    def __init__(self, rows: int, rule: Callable[[list[Frame]], bool]) -> None:
        self.rows, self.streams, self._rule = rows, 17, rule
        self.tokenizer, self.layout = Tokenizer(train_tokenizer()), PromptLayout("system", (0,) * 8, (0,) * 8)
        self.heard: dict[int, list[Frame]] = {}
        self.opened: list[tuple[int, int]] = []
        self.kept: list[int] = []
        self.renewed: list[tuple[int, int, int]] = []
        self.window_frames = 100

    def open(self, row: int, log: Tokens) -> None:
        self.heard[row] = []
        self.opened.append((row, len(log)))

    def plan(self, row: int, frames: object, keep: int, sampling: Sampling) -> list[PrimeChunk]:
        self.kept.append(keep)
        return [PrimeChunk(row, np.zeros((2, 17), np.int64))]

    def renew(self, row: int, frames: NDArray[np.int64], keep: int, sampling: Sampling) -> Iterator[bool]:
        self.renewed.append((len(self.heard[row]), len(frames), keep))
        yield True

    def prefill(self, chunk: PrimeChunk) -> None:
        assert self.heard[chunk.row] == []

    def step(self, steps: list[RowStep]) -> list[Stepped]:
        made = []
        for step in steps:
            heard = self.heard[step.row]
            heard.append(step.frame)
            loud = self._rule(heard)
            word = self.tokenizer.encode("yes")[0] if loud else PAD
            made.append(Stepped(LOUD if loud else QUIET, word, np.zeros(17, np.uint16), len(heard) - 1))
        return made


def played(rows: Rows, *scenes: Scene) -> list[Record]:
    return play(cast(Batch, rows), scenes, Sampling())


def greets(heard: list[Frame]) -> bool:
    """Talks in frames 5 to 9, and for 20 frames once something loud has been heard and is over."""
    last = max((at for at, frame in enumerate(heard) if np.abs(frame).max() > 0.05), default=-100)
    return 5 <= len(heard) - 1 < 10 or 2 <= len(heard) - 1 - last < 22


def test_a_caller_waits_for_quiet_and_the_scene_ends_after_the_answer() -> None:
    rows = Rows(1, greets)
    (record,) = played(rows, Scene("hello", (Turn(np.tile(LOUD, 3), "quiet", 4),)))
    # Quiet in the first four frames already: the caller does not wait for a greeting.
    assert record.starts == [4] and record.ends == [7]
    assert record.talking[8:28].all() and len(record.frames) == 28 + DONE_QUIET
    assert len({*record.text[8:28]}) == 1 and not "".join(record.text[28:])


def test_a_breath_is_no_end_of_an_answer() -> None:
    """Who is to come in after six frames of it does so, with a gap of two among them."""
    rows = Rows(1, lambda heard: len(heard) - 1 in {5, 6, 7, *range(10, 40)})
    (record,) = played(rows, Scene("", (Turn(LOUD, "talking", 6),)))
    assert record.starts == [11]


def test_a_caller_interrupts_the_talking_agent() -> None:
    rows = Rows(1, greets)
    scene = Scene("", (Turn(LOUD, "quiet", 12), Turn(LOUD, "talking", 6)))
    (record,) = played(rows, scene)
    first, second = record.starts
    assert first == 10 + 12
    assert record.talking[second - 6 : second].all() and not record.talking[second - 7]
    assert second == first + 2 + 6


def test_a_caller_whose_moment_never_comes_speaks_at_last() -> None:
    (record,) = played(Rows(1, lambda heard: False), Scene("", (Turn(LOUD, "talking", 3),), listen=10))
    assert record.starts == [PATIENCE + 1]
    assert len(record.frames) == PATIENCE + 2 + 10


def test_what_is_said_into_a_turn_is_no_answer_to_it() -> None:
    """An "mm-hm" in frames 15 to 17 of a turn of forty from frame 10 on; the answer comes behind the turn."""
    rows = Rows(1, lambda heard: len(heard) - 1 in {15, 16, 17, *range(60, 70)})
    (record,) = played(rows, Scene("", (Turn(np.tile(LOUD, 40)),)))
    assert record.starts == [10] and record.ends == [50]
    assert record.talking[60:70].all() and len(record.frames) == 70 + DONE_QUIET


def test_a_patient_scene_listens_to_the_end() -> None:
    (record,) = played(Rows(1, greets), Scene("", (Turn(LOUD, "quiet", 3),), listen=70, patient=True))
    assert len(record.frames) - record.ends[-1] == 70


def test_scenes_share_the_rows_and_keep_their_order() -> None:
    rows = Rows(2, greets)
    scenes = [Scene("", (Turn(np.tile(LOUD, length), "quiet", 3),)) for length in (1, 7, 2, 5, 3)]
    records = played(rows, *scenes)
    assert [record.ends[0] - record.starts[0] for record in records] == [1, 7, 2, 5, 3]
    assert {row for row, _ in rows.opened} == {0, 1} and len(rows.opened) == 5


def test_a_call_goes_on_from_its_log() -> None:
    rows = Rows(1, greets)
    played(rows, Scene("", (), listen=5, log=np.zeros((40, 17), np.uint16), keep=9))
    assert rows.opened == [(0, 40)] and rows.kept == [9]


@pytest.mark.parametrize("delay_s", [0.0, 0.04, 0.08, 0.3])
def test_an_agent_hears_its_own_voice_later_and_softer(delay_s: float) -> None:
    rows = Rows(1, lambda heard: len(heard) == 3)  # the third frame, which is heard from the fourth on
    played(rows, Scene("", (), listen=12, echo=(-20.0, delay_s)))
    heard = np.concatenate(rows.heard[0])
    loud = np.flatnonzero(heard)
    assert loud[0] == 3 * FRAME_SAMPLES + int(delay_s * 24_000) and len(loud) == FRAME_SAMPLES
    assert heard[loud[0]] == pytest.approx(np.tanh(0.3) / 3 * 0.1, rel=1e-4)


def test_a_record_tells_its_log() -> None:
    record = Record(tokens=[np.arange(17, dtype=np.uint16)] * 3)
    assert record.log().shape == (3, 17)
    assert SimpleNamespace(log=record.log()).log.dtype == np.uint16


@pytest.mark.parametrize(("talks", "most"), [(False, 80), (True, 95)])
def test_a_long_call_goes_on_in_a_window_that_is_told_anew_who_it_is(talks: bool, most: int) -> None:
    """At the next pause once it is nearly full, and without one when there is no more time for that."""
    rows = Rows(1, lambda heard: talks)
    prompt = len(rows.layout.frames(rows.tokenizer, "hello"))
    (record,) = played(rows, Scene("hello", (), listen=180, patient=True))
    assert len(record.frames) == 180
    lived, next_one = most - prompt, most - prompt - 25
    assert rows.renewed[:2] == [(lived, prompt, 25), (lived + next_one, prompt, 25)]
    short = Rows(1, lambda heard: talks)
    played(short, Scene("hello", (), listen=lived - 1, patient=True))
    assert short.renewed == []
