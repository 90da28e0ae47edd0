"""Rows of one batch: each as if it were alone, and what its ear writes."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine import batch as batch_module
from engine import drawing as drawing_module
from engine.batch import Batch, RowStep, Stepped
from engine.ear import Ear
from engine.load import load_batch
from engine.model.checkpoint import load_checkpoint
from engine.model.listening import load_ear
from engine.model.mimi import MimiState
from engine.model.moshi import Step
from engine.model.text import PAD
from engine.slot import EngineFull, Sampling
from tests.engine.ears import DELAY_FRAMES
from tests.engine.rows import SEED_1, SEED_2, fingerprint, live_batch, no_log, noise, prime, same, talk, tokens

PROMPT = "You are Ada. You answer the telephone of a small hotel, and you are patient with everyone who calls."


@pytest.fixture
def batch(nano: Path) -> Batch:
    return live_batch(nano, rows=4)


# --- rows are alone ------------------------------------------------------------------------------------------------


def test_a_row_in_a_batch_equals_the_row_alone(batch: Batch, nano: Path) -> None:
    speech = {row: noise(12, seed=row) for row in range(4)}
    seeds = {row: Sampling(seed=row) for row in range(4)}
    together = [batch.step([RowStep(row, speech[row][n], None, seeds[row]) for row in range(4)]) for n in range(12)]
    for row in range(4):
        alone = live_batch(nano, rows=1)
        assert same([stepped[row] for stepped in together], talk(alone, 0, speech[row], seeds[row]))


def test_rows_that_come_and_go_do_not_disturb_each_other(batch: Batch, nano: Path) -> None:
    """Row 1 speaks in every tick; the others miss ticks, are opened, primed and fed at other times."""
    speech, got = noise(15), []
    for number, frame in enumerate(speech):
        steps = [RowStep(1, frame, None, SEED_1)]
        if number % 3:
            steps.append(RowStep(3, frame, None, SEED_2))
        if number == 10:
            batch.open(2, no_log())
            prime(batch, 2, PROMPT)
        if number > 10:
            steps.insert(0, RowStep(2, -frame, 17, SEED_2))
        got += [one for step, one in zip(steps, batch.step(steps), strict=True) if step.row == 1]
    assert same(got, talk(live_batch(nano, rows=4), 1, speech))


def test_a_masked_row_stands_still_bit_for_bit(batch: Batch) -> None:
    talk(batch, 2, noise(3))
    before = fingerprint(batch, 2)
    batch.step([RowStep(row, noise(1)[0], None, SEED_1) for row in (0, 1, 3)])
    batch.open(0, no_log())
    prime(batch, 0, PROMPT)
    assert fingerprint(batch, 2) == before
    talk(batch, 2, noise(1))
    assert fingerprint(batch, 2) != before


def test_a_row_that_is_opened_again_is_as_new(batch: Batch) -> None:
    fresh = talk(batch, 0, noise(10))
    talk(batch, 1, noise(12, seed=5), SEED_2)
    batch.open(1, no_log())
    prime(batch, 1)
    again = talk(batch, 1, noise(10))
    assert same(again, fresh)
    assert [one.number for one in again] == list(range(10))


def test_what_is_no_number_does_not_stay_in_the_row(batch: Batch) -> None:
    bad = noise(1)[0].copy()
    bad[::7], bad[1::7], bad[2::7] = np.nan, np.inf, -np.inf
    stepped = talk(batch, 0, [bad, *noise(5)])
    assert all(np.isfinite(one.frame).all() for one in stepped)
    assert np.isfinite(batch._state.kv.keys.numpy()).all()


@pytest.mark.parametrize("sampling", [SEED_1, Sampling(text_temperature=0, audio_temperature=0)])
@pytest.mark.parametrize("where", ["model", "codec"])
def test_what_breaks_in_one_row_ends_that_row_only(nano: Path, sampling: Sampling, where: str) -> None:
    """The others go on bit for bit as if it were whole; and the row is as new once it is opened again."""
    broken, whole = live_batch(nano, rows=3), live_batch(nano, rows=3)
    for number, frame in enumerate(noise(6)):
        if number == 2:
            ring = broken._state.kv.keys if where == "model" else broken._codec.decoder.transformer.values
            with torch.inference_mode():
                ring[1, 0, 0, 0, 0] = torch.nan
        steps = [RowStep(row, frame * (row + 1), None, sampling) for row in range(3)]
        got, want = broken.step(steps), whole.step(steps)
        assert [one.broken for one in got] == [False, number >= 2, False]
        for row in (0, 2):
            assert np.array_equal(got[row].tokens, want[row].tokens)
            assert np.array_equal(got[row].frame, want[row].frame)
    broken.open(1, no_log())
    prime(broken, 1)
    fresh = live_batch(nano, rows=1)
    assert same(talk(broken, 1, noise(8), sampling), talk(fresh, 0, noise(8), sampling))


@pytest.mark.parametrize("act", ["reset", "prefill"])
def test_a_row_that_memory_does_not_hold_is_refused_and_the_others_do_not_move(
    batch: Batch, monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    talk(batch, 0, noise(3))
    before = fingerprint(batch, 0)

    def full(*arguments: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 44.00 MiB.")

    with monkeypatch.context() as patch:
        patch.setattr(MimiState if act == "reset" else type(batch._moshi), act, full)
        with pytest.raises(EngineFull, match="the device's memory is full"):
            batch.open(1, no_log())
            prime(batch, 1, PROMPT)
    assert fingerprint(batch, 0) == before
    batch.open(1, no_log())
    prime(batch, 1)
    assert same(talk(batch, 1, noise(5)), talk(batch, 2, noise(5)))


def test_a_row_that_memory_cannot_prime_is_refused(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    talk(batch, 0, noise(2))
    before = fingerprint(batch, 0)
    monkeypatch.setattr(batch, "prime_bytes", 300 << 20)
    monkeypatch.setattr(batch_module, "spare_bytes", lambda device: 200 << 20)
    with pytest.raises(EngineFull, match="the device has 200 MiB left, and to prime a row takes 300 MiB"):
        batch.open(1, no_log())
    assert fingerprint(batch, 0) == before
    monkeypatch.setattr(batch_module, "spare_bytes", lambda device: 300 << 20)
    batch.open(1, no_log())


# --- a step --------------------------------------------------------------------------------------------------------


def test_what_comes_back_is_a_frame_and_a_column(batch: Batch) -> None:
    one = batch.step([RowStep(1, noise(1)[0], None, SEED_1)])[0]
    assert (one.frame.shape, str(one.frame.dtype)) == ((1920,), "float32")
    assert (one.tokens.shape, str(one.tokens.dtype)) == ((17,), "uint16")
    assert np.abs(one.frame).max() <= 1
    assert one.text == one.tokens[0]


def test_everything_is_on_the_device_before_anything_runs_there(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy to a GPU waits for all that was asked of it before; after the codec it would wait for the codec."""
    order: list[str] = []
    to_device, encode = batch._to_device, batch._mimi.encode

    def copy(values: NDArray[Any]) -> Tensor:
        order.append("copy")
        return to_device(values)

    def listen(audio: Tensor, state: MimiState, mask: Tensor) -> Tensor:
        order.append("run")
        return encode(audio, state, mask)

    monkeypatch.setattr(batch, "_to_device", copy)
    monkeypatch.setattr(batch._mimi, "encode", listen)
    talk(batch, 0, noise(1))
    assert order.index("run") == len(order) - 1


def test_until_the_longest_delay_has_passed_it_is_silent(nano: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(nano, tmp_path / "late")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "delays": [0, *[0, 2, 2, 2, 2, 2, 2, 2] * 2]}))
    late = live_batch(folder, rows=2)
    before = [tensor.clone() for tensor in late._codec.decoder.convs.carries]
    first, second = talk(late, 1, noise(2))[:2]
    assert not first.frame.any()
    assert second.frame.any()
    fresh = live_batch(folder, rows=2)
    talk(fresh, 1, noise(1))
    carries = fresh._codec.decoder.convs.carries
    assert all(torch.equal(now, then) for now, then in zip(carries, before, strict=True))


def test_no_rows_is_no_step(batch: Batch) -> None:
    before = fingerprint(batch, 0)
    assert batch.step([]) == []
    assert fingerprint(batch, 0) == before


def test_the_callers_codes_are_those_of_its_frame_from_the_first_on(batch: Batch, nano: Path) -> None:
    speech = noise(5)
    mimi = load_checkpoint(str(nano)).mimi
    state, mask = mimi.initial_state(1), torch.ones(1, dtype=torch.bool)
    codes = [mimi.encode(torch.from_numpy(frame)[None, None], state, mask)[0, :, 0] for frame in speech]
    assert np.array_equal(tokens(talk(batch, 0, speech))[:, 9:], torch.stack(codes).numpy())


def test_the_callers_first_frame_is_heard(batch: Batch) -> None:
    """Later frames alike, and what the codec remembers too: what is left is what the model heard."""
    heard: list[Tensor] = []
    step = batch._moshi.step

    def listen(*arguments: Tensor, **named: Tensor) -> Step:
        made = step(*arguments, **named)  # type: ignore[arg-type]
        heard.append(made.column[0])
        return made

    batch._moshi.step = listen  # type: ignore[method-assign, assignment]
    said = tokens(talk(batch, 0, noise(2)))
    assert heard[0][9] == said[0, 9]  # column 1: the first frame's semantic code
    assert heard[1][10:].tolist() == said[0, 10:].tolist()  # column 2: its acoustic codes


def test_forced_text_is_what_is_made_and_free_text_goes_on(batch: Batch) -> None:
    frames = noise(6)
    steps = [
        RowStep(0, frame, token, SEED_1) for frame, token in zip(frames, [0, 300, 301, PAD, None, None], strict=True)
    ]
    made = [batch.step([step])[0].text for step in steps]
    assert made[:4] == [0, 300, 301, PAD]
    free = [one.text for one in talk(batch, 1, frames)]
    assert made != free


def test_forced_text_changes_what_is_said(batch: Batch) -> None:
    frames = noise(4)
    forced = [batch.step([RowStep(0, frame, 300, SEED_1)])[0] for frame in frames]
    assert not np.array_equal(tokens(forced)[:, 1:9], tokens(talk(batch, 1, frames))[:, 1:9])


def test_the_seed_decides(batch: Batch) -> None:
    frames = noise(10)
    first, again, other = talk(batch, 0, frames), talk(batch, 1, frames), talk(batch, 2, frames, SEED_2)
    assert same(first, again)
    assert not np.array_equal(tokens(first)[:, :9], tokens(other)[:, :9])


def test_what_is_drawn_depends_on_seed_and_frame_and_on_no_place_or_neighbour(batch: Batch, nano: Path) -> None:
    """The same call in a row of its own; and in another row, between others, primed anew on its way."""
    alone, frames = live_batch(nano, rows=1), noise(20)
    prime(alone, 0, PROMPT, sampling=SEED_1)
    prime(batch, 3, PROMPT, sampling=SEED_1)
    got: list[Stepped] = []
    for number, frame in enumerate(frames):
        others = [RowStep(row, -frame, None, replace(SEED_2, seed=row)) for row in range(3) if number % (row + 1) == 0]
        got.append(batch.step([*others, RowStep(3, frame, None, SEED_1)])[-1])
        if number == 12:
            prime(batch, 3, PROMPT, keep_frames=13, sampling=SEED_1)
    assert same(got, talk(alone, 0, frames, SEED_1))
    assert len(np.unique(tokens(got)[:, :9])) > 50


def test_greedy_needs_no_seed(batch: Batch) -> None:
    frames = noise(10)
    greedy = [Sampling(text_temperature=0, audio_temperature=0, seed=seed) for seed in (1, 2)]
    prime(batch, 0, sampling=greedy[0])
    prime(batch, 1, sampling=greedy[1])
    assert same(talk(batch, 0, frames, greedy[0]), talk(batch, 1, frames, greedy[1]))


def test_a_greedy_row_says_the_same_beside_one_that_draws(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    greedy, drawing = Sampling(text_temperature=0, audio_temperature=0), Sampling(seed=1)
    prime(batch, 2, sampling=greedy)
    prime(batch, 3, sampling=greedy)
    together = [batch.step([RowStep(1, f, None, drawing), RowStep(2, f, None, greedy)]) for f in noise(10)]
    monkeypatch.setattr(drawing_module, "row_noise", lambda *_: pytest.fail("nothing is drawn"))
    assert same([stepped[1] for stepped in together], talk(batch, 3, noise(10), greedy))


def test_no_more_candidates_are_drawn_from_than_there_is_noise_for(nano: Path) -> None:
    checkpoint = replace(load_checkpoint(str(nano)), sampling=Sampling(text_temperature=0.1, audio_top_k=2_000))
    assert Batch(checkpoint, 1).sampling == Sampling(text_temperature=0.1, audio_top_k=250)


def test_candidates_are_as_many_as_asked_for(batch: Batch) -> None:
    """One candidate is greedy, whatever the temperature."""
    frames = noise(10)
    one = Sampling(text_top_k=1, audio_top_k=1, seed=1)
    greedy = Sampling(text_temperature=0, audio_temperature=0)
    prime(batch, 0, sampling=one)
    prime(batch, 1, sampling=greedy)
    assert same(talk(batch, 0, frames, one), talk(batch, 1, frames, greedy))


# --- the ear -------------------------------------------------------------------------------------------------------


@pytest.fixture
def listening(eared: Path) -> Batch:
    """Four rows with an ear, open and primed."""
    batch = load_batch(str(eared), 4, "cpu", "auto")
    for row in range(4):
        batch.open(row, no_log())
        prime(batch, row)
    return batch


def written(batch: Batch, stepped: list[Stepped], eared: Path) -> list[int]:
    """What a fresh ear of one row makes of the caller's codes in a log."""
    checkpoint = load_ear(str(eared), load_checkpoint(str(eared)))
    assert checkpoint is not None
    ear = Ear(checkpoint, 1)
    codes = torch.from_numpy(tokens(stepped)[:, batch._config.made :].astype(np.int64))
    return [int(ear.hear(frame[None], None)[0]) for frame in codes]


def test_the_ear_writes_what_it_makes_of_the_callers_codes(listening: Batch, eared: Path) -> None:
    """Row 1 speaks in every tick, row 3 in some."""
    got: dict[int, list[Stepped]] = {1: [], 3: []}
    for number, (one, three) in enumerate(zip(noise(20, seed=1), noise(20, seed=3), strict=True)):
        steps = [RowStep(1, one, None, SEED_1), *([RowStep(3, three, None, SEED_2)] if number % 3 else [])]
        for step, stepped in zip(steps, listening.step(steps), strict=True):
            got[step.row].append(stepped)
    for row, stepped_row in got.items():
        heard = [one.heard for one in stepped_row]
        assert heard == written(listening, stepped_row, eared), row
        assert len(set(heard)) > 5


def test_an_ear_changes_nothing_of_what_is_said(listening: Batch, batch: Batch) -> None:
    assert same(talk(listening, 0, noise(10)), talk(batch, 0, noise(10)))


def test_without_an_ear_nothing_is_heard(batch: Batch, eared: Path) -> None:
    deaf = load_batch(str(eared), 1, "cpu", "auto", ear="off")
    assert [(rows.hearing.rows, rows._ears) for rows in (batch, deaf)] == [(0, None)] * 2
    assert {one.heard for one in talk(batch, 0, noise(5))} == {PAD}


def test_a_row_that_is_opened_again_has_heard_nothing(listening: Batch) -> None:
    assert listening.hearing.delay_frames == DELAY_FRAMES
    first = [one.heard for one in talk(listening, 0, noise(10))]
    talk(listening, 0, noise(7, seed=8))
    listening.open(0, no_log())
    prime(listening, 0)
    assert [one.heard for one in talk(listening, 0, noise(10))] == first


def test_a_prime_in_mid_call_does_not_touch_the_ear(listening: Batch, eared: Path) -> None:
    before = talk(listening, 0, noise(5))
    prime(listening, 0, PROMPT, keep_frames=5)
    stepped = before + talk(listening, 0, noise(10, seed=8))
    assert [one.heard for one in stepped] == written(listening, stepped, eared)


def test_what_the_ear_writes_costs_no_copy_of_its_own(
    listening: Batch, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU each copy waits for the device."""
    copies = []

    def count(tensor: Tensor) -> Tensor:
        copies.append(tensor)
        return tensor

    monkeypatch.setattr(Tensor, "cpu", count)
    for name in ("item", "tolist", "__bool__", "__int__", "nonzero"):
        monkeypatch.setattr(Tensor, name, lambda *_: pytest.fail("the host waits for a value"))
    talk(batch, 0, noise(1))
    alone = len(copies)
    talk(listening, 0, noise(1))
    assert len(copies) == 2 * alone
