"""Ears from a checkpoint of their own, beside the rows that talk: shared codes, fewer ears than rows, and who hears."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine import load as load_module
from engine import room
from engine.batch import Batch, RowStep, Stepped
from engine.ear import NO_EAR, Ear
from engine.ears import Ears, read
from engine.load import load_batch
from engine.model.checkpoint import Checkpoint, load_checkpoint
from engine.model.listening import EarCheckpoint, load_listener
from engine.model.mimi import Mimi
from engine.model.moshi import UNGENERATED
from engine.model.text import EPAD, PAD
from engine.room import NO_ROOM, RESERVE, hearing, rows_that_fit, state_bytes
from engine.slot import CheckpointError, EngineError, Sampling
from tests.engine.ears import HEADS, LISTENER_DELAY_FRAMES, SILENCE_FRAMES, write_listener
from tests.engine.model import test_moshi
from tests.engine.rows import no_log, noise, prime, tokens
from tests.oracle import lm_cases as cases

GREEDY = Sampling(text_temperature=0, audio_temperature=0)


@pytest.fixture(scope="module")
def listener(nano: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_listener(tmp_path_factory.mktemp("ears") / "stt", nano)


@pytest.fixture(scope="module")
def stranger(nano: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One over another codec."""
    return write_listener(tmp_path_factory.mktemp("ears") / "other", nano, same_codec=False)


@cache
def loaded(nano: Path, ear: Path) -> tuple[Checkpoint, EarCheckpoint]:
    checkpoint = load_checkpoint(str(nano))
    return checkpoint, load_listener(str(ear), checkpoint)


def made(nano: Path, ear: Path, rows: int, ears: int | None = None, widths: Sequence[int] = ()) -> Batch:
    checkpoint, listening = loaded(nano, ear)
    batch = Batch(checkpoint, rows, listening, ears=ears)
    if widths:
        batch.prepare(widths, graphs=False)
    for row in range(rows):
        batch.open(row, no_log())
        prime(batch, row)
    return batch


def alone(ear: EarCheckpoint, codec: Mimi, frames: Sequence[NDArray[np.float32]]) -> list[tuple[int, list[float]]]:
    """What one fresh row writes of frames that `codec` encodes, by the model's own steps: column 0, silence, frames."""
    state, silent, own = ear.moshi.initial_state(1), codec.initial_state(1), codec.initial_state(1)
    quiet = torch.zeros(1, 1, 1920)
    columns = [torch.full((1, 32), UNGENERATED)]
    columns += [codec.encode(quiet, silent, None)[:, :, 0] for _ in range(ear.silence_frames)]
    columns += [codec.encode(torch.from_numpy(frame)[None, None], own, None)[:, :, 0] for frame in frames]
    free = torch.full((1, 1), UNGENERATED)
    steps = [ear.moshi.step(state, column, free, None, None) for column in columns]
    return [(int(step.emitted[0, 0]), step.heads[0, :, 0].tolist()) for step in steps[1 + ear.silence_frames :]]


def written(stepped: Sequence[Stepped]) -> list[tuple[int, list[float]]]:
    return [(one.heard, list(one.quiet)) for one in stepped]


# --- against the oracle --------------------------------------------------------------------------------------------


def test_text_and_quiet_equal_the_oracles(nano: Path) -> None:
    """Two rows in step, through the tiny model of the goldens: call 0 of the oracle hears nothing, as ours is begun."""
    moshi, seed = test_moshi.golden_model("stt"), test_moshi.seed_of("stt")
    talking = load_checkpoint(str(nano))  # its codec is never asked: the codes are given
    ears = Ears(EarCheckpoint(moshi, talking.tokenizer, talking.mimi, 6, "tiny"), 2, 2, torch.device("cpu"))
    caller = torch.from_numpy(cases.caller("stt", 2, cases.STEPS, seed))
    for number in range(1, cases.STEPS):
        got = ears.hear(ears.place([0, 1], [0, 1]), caller[number]).numpy()
        assert got[:, 0].tolist() == test_moshi.golden("stt", "emitted")[number, :, 0].tolist()
        for row in range(2):
            want = test_moshi.golden("stt", "heads")[number, row, :, 0]
            assert read(got[row])[1] == pytest.approx(want.tolist(), abs=1e-5)


# --- its checkpoint ------------------------------------------------------------------------------------------------


def test_a_published_ear_shares_the_codec_that_is_the_same(nano: Path, listener: Path) -> None:
    checkpoint, ear = loaded(nano, listener)
    assert (ear.own, ear.codec.codebooks, checkpoint.mimi.codebooks) == (False, 32, 8)
    assert (ear.delay_frames, ear.silence_frames) == (LISTENER_DELAY_FRAMES, SILENCE_FRAMES)
    assert (len(ear.tokenizer), len(checkpoint.tokenizer)) == (330, 400)
    assert ear.moshi.config.extra_heads_num_heads == HEADS
    assert ear.revision.startswith("stt@")


def test_another_codec_is_its_own(nano: Path, stranger: Path) -> None:
    assert loaded(nano, stranger)[1].own


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"stt_config": {}}, r"config.json: stt_config.audio_delay_seconds is None; it must be seconds"),
        ({"stt_config": {"audio_delay_seconds": 0.5, "audio_silence_prefix_seconds": -1}}, "prefix_seconds is -1;"),
        ({"card": 64}, "card is 64, but the codec's codebooks hold 128 codes"),
        ({"n_q": 1, "delays": [0, 0]}, "n_q is 1; a codec has at least 2 codebooks"),
        ({"wings": 2}, "unknown argument of the language model: 'wings'"),
        ({"tokenizer_name": "none.model"}, "none.model' is missing"),
    ],
)
def test_what_is_no_ear_is_refused(nano: Path, tmp_path: Path, settings: dict[str, Any], complaint: str) -> None:
    ear = write_listener(tmp_path / "stt", nano, **settings)
    with pytest.raises(CheckpointError, match=complaint):
        load_listener(str(ear), load_checkpoint(str(nano)))


def test_a_model_that_speaks_is_no_ear(nano: Path) -> None:
    with pytest.raises(CheckpointError, match="dep_q is 8; an ear makes no codes, so it must be 0"):
        load_listener(str(nano), load_checkpoint(str(nano)))


def test_a_text_that_is_delayed_in_its_columns_lies_behind_by_that(nano: Path, tmp_path: Path) -> None:
    """As in the form that this architecture's recognisers are trained in; then nothing else need be said."""
    ear = write_listener(tmp_path / "stt", nano, delays=[6, *[0] * 32], stt_config={})
    assert load_listener(str(ear), load_checkpoint(str(nano))).delay_frames == 6


# --- beside the rows that talk -------------------------------------------------------------------------------------


@pytest.mark.parametrize("widths", [(), (1, 2, 3)], ids=["plain", "static"])
@pytest.mark.parametrize("codec", ["listener", "stranger"])
def test_rows_write_what_they_would_alone(
    nano: Path, codec: str, widths: Sequence[int], request: pytest.FixtureRequest
) -> None:
    """Beside one that misses frames; over the codec of the rows that talk, and over one of its own."""
    folder = request.getfixturevalue(codec)
    batch, ear = made(nano, folder, 3, widths=widths), loaded(nano, folder)[1]
    speech = {row: noise(14, seed=row) for row in range(3)}
    got: dict[int, list[Stepped]] = {0: [], 1: [], 2: []}
    for tick in range(14):
        rows = [row for row in range(3) if row != 1 or tick % 3]
        steps = [RowStep(row, speech[row][len(got[row])], None, GREEDY) for row in rows]
        for row, stepped in zip(rows, batch.step(steps), strict=True):
            got[row].append(stepped)
    for row, stepped_row in got.items():
        want = alone(ear, ear.codec, speech[row][: len(stepped_row)])
        assert [token for token, _ in written(stepped_row)] == [token for token, _ in want]
        for (_, quiet), (_, wanted) in zip(written(stepped_row), want, strict=True):
            assert quiet == pytest.approx(wanted, abs=1e-5)
    heard = {one.heard for one in got[0]}
    assert len(heard) > 3 and heard & {PAD, EPAD}


def test_a_frame_is_encoded_once_for_both(nano: Path, listener: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batch, encoded = made(nano, listener, 2), []
    encode = Mimi.encode

    def counted(codec: Mimi, audio: Tensor, *more: object) -> Tensor:
        encoded.append(tuple(audio.shape))
        return encode(codec, audio, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(Mimi, "encode", counted)
    batch.step([RowStep(row, noise(1, row)[0], None, GREEDY) for row in range(2)])
    assert encoded == [(2, 1, 1920)]


def test_an_ear_changes_nothing_of_what_is_said(nano: Path, listener: Path) -> None:
    """Nor do the other codebooks that its codec makes."""
    with_ear, without = made(nano, listener, 1), Batch(load_checkpoint(str(nano)), 1)
    without.open(0, no_log())
    prime(without, 0)
    said = [[batch.step([RowStep(0, frame, None, GREEDY)])[0] for frame in noise(8)] for batch in (with_ear, without)]
    assert np.array_equal(tokens(said[0]), tokens(said[1]))
    assert np.array_equal(said[0][-1].frame, said[1][-1].frame)


@pytest.mark.parametrize("widths", [(), (1, 2, 4)], ids=["plain", "static"])
def test_who_does_not_hear_costs_nothing_and_stands_still(
    nano: Path, listener: Path, widths: Sequence[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows 0 and 1 have an ear, 2 and 3 none; the ear of 0 gives way."""
    batch, heard = made(nano, listener, 4, ears=2, widths=widths), []
    assert (batch.hearing.rows, batch.hearing.deaf) == (2, NO_ROOM)
    hear = Ear.hear

    def counted(ear: Ear, sound: Tensor, *more: object) -> tuple[Tensor, Tensor]:
        heard.append(len(sound))
        return hear(ear, sound, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(Ear, "hear", counted)
    for frame in noise(6):
        steps = [RowStep(row, frame, None, GREEDY, hears=row != 0) for row in range(4)]
        one, two, *others = batch.step(steps)
        assert [written([deaf]) for deaf in (one, *others)] == [[(PAD, [])]] * 3
        assert len(two.quiet) == HEADS
    assert heard == [1] * 6
    assert batch._ears is not None
    assert batch._ears.ear._state.kv.position.tolist() == [1 + SILENCE_FRAMES, 1 + SILENCE_FRAMES + 6]


def test_a_row_that_is_opened_again_begins_after_silence(nano: Path, stranger: Path) -> None:
    batch = made(nano, stranger, 1)
    first = [batch.step([RowStep(0, frame, None, GREEDY)])[0] for frame in noise(8)]
    batch.open(0, no_log())
    prime(batch, 0)
    again = [batch.step([RowStep(0, frame, None, GREEDY)])[0] for frame in noise(8)]
    assert written(again) == written(first)


def test_an_ear_that_computes_no_number_is_silent_and_its_call_goes_on(nano: Path, listener: Path) -> None:
    checkpoint, ear = loaded(nano, listener)
    broken = load_listener(str(listener), checkpoint)
    broken.moshi.out_norm.alpha.data.fill_(float("nan"))
    batch = Batch(checkpoint, 1, broken)
    batch.open(0, no_log())
    prime(batch, 0)
    (stepped,) = batch.step([RowStep(0, noise(1)[0], None, GREEDY)])
    assert written([stepped]) == [(PAD, [])] and not stepped.broken
    assert ear.moshi.out_norm.alpha.isfinite().all()


# --- where there is room -------------------------------------------------------------------------------------------


def test_what_a_row_takes_is_what_its_state_takes(nano: Path, listener: Path) -> None:
    ear = loaded(nano, listener)[1]
    here, there = ear.moshi.initial_state(1), ear.moshi.initial_state(1, device="meta")
    kv = 2 * 2 * 40 * 32 * 4  # keys and values, layers, window, width, float32
    assert state_bytes(here) == state_bytes(there) > kv
    assert state_bytes(ear.moshi.initial_state(3)) == 3 * state_bytes(here)


def test_as_many_rows_hear_as_memory_holds(nano: Path, listener: Path, caplog: pytest.LogCaptureFixture) -> None:
    ear = loaded(nano, listener)[1]
    row = state_bytes(ear.moshi.initial_state(1))
    ears = [hearing(ear, 4, spare and room.RESERVE + spare).rows for spare in (None, 4 * row, 3 * row, row - 1)]
    assert ears == [4, 4, 3, 0]
    assert hearing(ear, 4, 1).revision == "" and hearing(ear, 4, None).revision == ear.revision
    assert "what callers say is written down in 3 of 4 rows: the device's memory has no room" in caplog.text


@pytest.mark.parametrize(
    ("spare", "rows"), [(None, 16), (RESERVE + 18_000, 16), (RESERVE + 9_999, 7), (RESERVE + 3_000, 1), (0, 1)]
)
def test_where_nobody_says_how_many_there_are_as_many_rows_as_fit(spare: int | None, rows: int) -> None:
    assert rows_that_fit(1_000, spare, 16) == rows


def test_an_ear_over_another_codec_takes_that_codecs_memory_too(nano: Path, stranger: Path) -> None:
    ear = loaded(nano, stranger)[1]
    row = state_bytes(ear.moshi.initial_state(1))
    spare = room.RESERVE + 2 * row
    assert hearing(replace(ear, own=False), 2, spare).rows == 2
    assert hearing(ear, 2, spare).rows < 2


@pytest.mark.parametrize("step", ["load_listener", "Batch"])
def test_rows_come_before_ears_where_memory_is_short(
    nano: Path, listener: Path, step: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = getattr(load_module, step)

    def full(*arguments: object, **options: object) -> object:
        if step == "load_listener" or options.get("ear"):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 44.00 MiB.")
        return real(*arguments, **options)

    monkeypatch.setattr(load_module, step, full)
    batch = load_batch(str(nano), 2, "cpu", "auto", ear=str(listener))
    assert (batch.rows, batch.hearing.rows, batch.hearing.deaf) == (2, 0, NO_ROOM)
    assert "what callers say is not written down: the device's memory has no room" in caplog.text


@pytest.mark.parametrize(("ear", "why"), [("auto", NO_EAR), ("off", "no ear is wanted")])
def test_why_there_is_no_ear_is_said(nano: Path, ear: str, why: str) -> None:
    assert load_batch(str(nano), 1, "cpu", "auto", ear=ear).hearing.deaf == why


def test_an_ear_that_is_not_there_stops_the_start(nano: Path) -> None:
    with pytest.raises(EngineError, match="there is no folder 'nowhere'"):
        load_batch(str(nano), 1, "cpu", "auto", ear="nowhere")
