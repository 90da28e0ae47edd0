"""Rows of one batch: each as if it were alone, rebuilt from its log as if it had never gone."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from engine import batch as batch_module
from engine.batch import SHADOWS, TURNS, Batch, KeyPrecision, RowStep, Stepped, load_batch
from engine.ear import Ear
from engine.model.checkpoint import load_checkpoint, load_ear
from engine.model.mimi import Mimi, MimiState
from engine.model.moshi import MoshiState, Step
from engine.model.text import PAD
from engine.model.weights import Wanted
from engine.slot import CheckpointError, EngineError, EngineFull, Frame, Sampling
from tests.engine.ears import DELAY_FRAMES
from tests.engine.rows import live_batch, no_log, noise, prime

PROMPT = "You are Ada. You answer the telephone of a small hotel, and you are patient with everyone who calls."
SEED_1, SEED_2 = Sampling(seed=1), Sampling(seed=2)


@pytest.fixture
def batch(nano: Path) -> Batch:
    return live_batch(nano, rows=4)


def talk(batch: Batch, row: int, frames: Sequence[Frame], sampling: Sampling = SEED_1) -> list[Stepped]:
    """One row by itself."""
    return [batch.step([RowStep(row, frame, None, sampling)])[0] for frame in frames]


def tokens(stepped: Sequence[Stepped]) -> NDArray[np.uint16]:
    return np.stack([one.tokens for one in stepped])


def same(one: Sequence[Stepped], other: Sequence[Stepped]) -> bool:
    return np.array_equal(tokens(one), tokens(other)) and all(
        np.allclose(mine.frame, yours.frame, atol=1e-5) for mine, yours in zip(one, other, strict=True)
    )


def tensors(state: MimiState | MoshiState) -> list[Tensor]:
    """Everything that the rows remember."""
    if isinstance(state, MoshiState):
        return [state.kv.keys, state.kv.values, state.kv.position, state.table]
    encoder, decoder = state.encoder, state.decoder
    kvs = (encoder.transformer, decoder.transformer)
    carries = (*encoder.convs.carries, *encoder.downsample.carries, *decoder.upsample.carries, *decoder.convs.carries)
    return [*carries, encoder.fresh, *(part for kv in kvs for part in (kv.keys, kv.values, kv.position))]


def fingerprint(batch: Batch, row: int) -> str:
    """Every bit that `row` remembers."""
    digest = hashlib.sha256()
    for tensor in [*tensors(batch._codec), *tensors(batch._state)]:
        assert len(tensor) == batch.rows
        digest.update(tensor[row].numpy().tobytes())
    return digest.hexdigest()


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


def test_warming_up_leaves_no_trace(batch: Batch, nano: Path) -> None:
    warm = Batch(load_checkpoint(str(nano)), 4)
    warm.warm_up()
    for row in range(4):
        warm.open(row, no_log())
        prime(warm, row)
    assert [fingerprint(warm, row) for row in range(4)] == [fingerprint(batch, row) for row in range(4)]


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
    monkeypatch.setattr(batch_module, "row_noise", lambda *_: pytest.fail("nothing is drawn"))
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


# --- priming -------------------------------------------------------------------------------------------------------


def test_a_prompt_changes_what_is_said(batch: Batch) -> None:
    prime(batch, 0, PROMPT)
    assert not same(talk(batch, 0, noise(5)), talk(batch, 1, noise(5)))


@pytest.mark.parametrize("columns", [1, 3, 1_000])
def test_priming_in_chunks_equals_priming_at_once(batch: Batch, monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    prime(batch, 0, PROMPT)
    monkeypatch.setattr(batch_module, "CHUNK_COLUMNS", columns)
    chunks = batch.plan(1, batch.layout.frames(batch.tokenizer, PROMPT), 0, Sampling())
    assert max(len(chunk.columns) for chunk in chunks) <= columns + 2
    prime(batch, 1, PROMPT)
    assert same(talk(batch, 0, noise(10)), talk(batch, 1, noise(10)))


def test_the_first_live_column_holds_no_word(batch: Batch) -> None:
    """So a greeting that is said before the first step has nothing before it."""
    prime(batch, 0, PROMPT)
    assert batch._state.row(0).ahead()[0, 0, 0] == PAD


def test_a_row_that_is_primed_anew_goes_on_as_if_nothing_had_been(batch: Batch) -> None:
    """Same prompt, all of the past kept: the twin that was left alone says the same."""
    prime(batch, 0, PROMPT)
    prime(batch, 1, PROMPT)
    speech = noise(30)
    assert same(talk(batch, 0, speech[:20]), talk(batch, 1, speech[:20]))
    prime(batch, 1, PROMPT, keep_frames=20)
    assert same(talk(batch, 0, speech[20:]), talk(batch, 1, speech[20:]))


def test_the_columns_that_are_kept_are_those_that_were_fed(batch: Batch) -> None:
    fed: list[list[int]] = []
    step = batch._moshi.step

    def listen(*arguments: Tensor, **named: Tensor) -> Step:
        made = step(*arguments, **named)  # type: ignore[arg-type]
        fed.append(made.column[0].tolist())
        return made

    batch._moshi.step = listen  # type: ignore[method-assign, assignment]
    talk(batch, 0, noise(12))
    past = batch._past(0, 5).tolist()
    assert past[1:5] == fed[8:]
    assert past[0][:2] + past[0][9:10] == fed[7][:2] + fed[7][9:10]  # text and semantic codes; the rest is the prompt's
    assert past[5][:9] == batch._state.row(0).ahead()[0, 0, :9].tolist()


def test_where_the_kept_past_begins_the_acoustic_codes_are_the_prompts(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They lag by a frame; text and semantic codes of that column are the row's own."""
    log = tokens(talk(batch, 0, noise(12)))
    ran: list[Tensor] = []
    embed = batch._moshi._embed

    def listen(columns: Tensor) -> Tensor:
        ran.append(columns[0])
        return embed(columns)

    monkeypatch.setattr(batch._moshi, "_embed", listen)
    prime(batch, 0, PROMPT, keep_frames=5)
    told = 1 + len(batch.layout.frames(batch.tokenizer, PROMPT))
    first = torch.cat(ran)[told]
    agent, caller = batch.layout.silence, batch.layout.sine
    assert first[2:9].tolist() == list(agent[1:])
    assert first[10:].tolist() == list(caller[1:])
    assert first[:2].tolist() == log[-6, :2].tolist()
    assert first[9] == log[-5, 9]


@pytest.mark.parametrize(("keep", "kept"), [(0, 0), (1, 1), (7, 7), (12, 12), (400, 12)])
def test_no_more_is_kept_than_asked_for_or_there_is(batch: Batch, keep: int, kept: int) -> None:
    talk(batch, 0, noise(12))
    prime(batch, 0, PROMPT, keep_frames=keep)
    prompt = len(batch.layout.frames(batch.tokenizer, PROMPT))
    assert batch._state.kv.position.tolist()[0] == 1 + prompt + kept
    assert np.isfinite(talk(batch, 0, noise(3))[-1].frame).all()


def test_the_number_of_the_frame_goes_on_over_a_prime(batch: Batch) -> None:
    talk(batch, 0, noise(3))
    prime(batch, 0, PROMPT, keep_frames=2)
    assert talk(batch, 0, noise(1))[0].number == 3


def test_the_log_is_as_long_as_the_window(batch: Batch) -> None:
    log = np.tile(np.arange(17, dtype=np.uint16), (600, 1))
    batch.open(0, log)
    prime(batch, 0, keep_frames=600)
    assert batch._state.kv.position.tolist()[0] == 1 + batch.window_frames
    assert talk(batch, 0, noise(1))[0].number == 600


# --- priming a live row --------------------------------------------------------------------------------------------


def renewal(batch: Batch, row: int, text: str = PROMPT, keep_frames: int = 0) -> Generator[bool, None, None]:
    return batch.renew(row, batch.layout.frames(batch.tokenizer, text), keep_frames, SEED_1)


def remembered(batch: Batch, row: int) -> list[Tensor]:
    """What the model remembers of `row`, in numbers."""
    state = batch._state.row(row)
    held = min(int(state.kv.position), state.kv.slots)
    rings = [ring.read(torch.float32)[:, :, :held] for layer in state.kv.layers() for ring in layer]
    return [*rings, state.kv.position, state.ahead()]


@pytest.mark.parametrize("kv", ["full", "int8"])
@pytest.mark.parametrize(("before", "keep", "chunk"), [(0, 0, 64), (2, 0, 8), (9, 5, 3), (9, 400, 64), (20, 7, 1)])
def test_a_renewed_row_is_as_one_that_was_fed_the_same_columns(
    nano: Path, monkeypatch: pytest.MonkeyPatch, kv: KeyPrecision, before: int, keep: int, chunk: int
) -> None:
    """Stepped after each chunk; with chunks of one column it is far behind when the plan has run."""
    monkeypatch.setattr(batch_module, "CHUNK_COLUMNS", chunk)
    batch, speech = Batch(load_checkpoint(str(nano)), 2, kv=kv), noise(100)
    text = PROMPT if chunk > 1 else "Hello."
    for row in range(2):
        batch.open(row, no_log())
        prime(batch, row, "Hi.")
    said = iter(speech)
    for _ in range(before):
        assert same(talk(batch, 0, [frame := next(said)]), talk(batch, 1, [frame]))
    meanwhile = 0
    for number, last in enumerate(renewal(batch, 0, text, keep)):
        if not last and number % 3:
            assert same(talk(batch, 0, [frame := next(said)]), talk(batch, 1, [frame]))  # as if nothing were
            meanwhile += 1
    prime(batch, 1, text, min(keep, before) + meanwhile, SEED_1)
    exact = kv == "full"
    for mine, yours in zip(remembered(batch, 0), remembered(batch, 1), strict=True):
        torch.testing.assert_close(mine, yours, atol=1e-5 if exact else 0.1, rtol=0)  # or one step of 8 bits
    assert same(talk(batch, 0, speech[-20:]), talk(batch, 1, speech[-20:]))


def test_a_renewal_touches_nothing_until_it_ends_and_then_only_what_the_model_remembers(batch: Batch) -> None:
    talk(batch, 0, noise(4))
    before = [fingerprint(batch, row) for row in range(4)]
    codec = [tensor.clone() for tensor in tensors(batch._codec)]
    for last in (items := renewal(batch, 0, keep_frames=4)):
        assert ([fingerprint(batch, row) for row in range(4)] == before) == (not last)
    assert last and not list(items)
    assert [fingerprint(batch, row) for row in range(1, 4)] == before[1:]
    assert all(torch.equal(now, then) for now, then in zip(tensors(batch._codec), codec, strict=True))
    assert talk(batch, 0, noise(1))[0].number == 4


def test_a_renewal_that_is_given_up_leaves_the_row_as_it_was_and_its_shadow_to_the_next(batch: Batch) -> None:
    talk(batch, 0, noise(4))
    before = fingerprint(batch, 0)
    for _ in range(SHADOWS + 1):
        under_way = renewal(batch, 0, keep_frames=4)
        next(under_way)
        under_way.close()
    renewal(batch, 0).close()  # before it began
    assert fingerprint(batch, 0) == before
    assert len(batch._shadows) == SHADOWS


def test_two_rows_are_renewed_beside_each_other(batch: Batch) -> None:
    speech = noise(12)
    for row in range(4):
        talk(batch, row, speech[: 3 + row % 2])
    under_way = [renewal(batch, 0, keep_frames=3), renewal(batch, 1, "Hi.", keep_frames=2)]
    while under_way:
        under_way = [one for one in under_way if not next(one)]
    prime(batch, 2, PROMPT, keep_frames=3, sampling=SEED_1)
    prime(batch, 3, "Hi.", keep_frames=2, sampling=SEED_1)
    assert same(talk(batch, 0, speech), talk(batch, 2, speech))
    assert same(talk(batch, 1, speech), talk(batch, 3, speech))


def test_the_voice_does_not_click_where_a_row_is_renewed(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was played is one uninterrupted decode of the codes that the log holds."""
    decoded: list[Tensor] = []
    decode = batch._mimi.decode

    def listen(codes: Tensor, state: MimiState, mask: Tensor | None) -> Tensor:
        decoded.append(codes[0, :, 0])
        return decode(codes, state, mask)

    monkeypatch.setattr(batch._mimi, "decode", listen)
    said = talk(batch, 0, noise(3))
    for _ in range(3):
        for _last in renewal(batch, 0, keep_frames=5):
            said += talk(batch, 0, noise(2, seed=len(said)))
    log = torch.from_numpy(tokens(said).astype(np.int64))
    codes = torch.stack(decoded)
    assert torch.equal(codes[1:, 0], log[:-1, 1])  # the semantic code is made a step ahead of the acoustic ones
    assert torch.equal(codes[:, 1:], log[:, 2:9])
    with torch.inference_mode():
        state = batch._mimi.initial_state(1)
        whole = [decode(column[None, :, None], state, None)[0, 0].clamp(-1, 1).numpy() for column in codes]
    np.testing.assert_allclose(np.stack([one.frame for one in said]), np.stack(whole), atol=1e-5)


def test_the_most_that_a_live_row_can_be_primed_with_fits_whatever_it_steps_meanwhile(batch: Batch) -> None:
    frames = np.tile(np.arange(17), (batch.renewable_frames - 1 - 100, 1))
    speech = noise(TURNS)
    talk(batch, 0, [noise(1)[0]] * 100)
    items = []
    for last in batch.renew(0, frames, 100, SEED_1):
        items.append(last)
        talk(batch, 0, speech)
    assert items[-1] and len(items) > 4
    assert batch.renewable_frames < batch._shadows[0].kv.slots < batch.window_frames


def test_what_outgrows_a_shadow_is_refused_and_the_row_is_as_it_was(batch: Batch) -> None:
    talk(batch, 0, noise(1))
    before = fingerprint(batch, 0)
    slots = batch._shadows[0].kv.slots
    with pytest.raises(ValueError, match=f"a prime of {slots + 1} positions outgrew a shadow of {slots}"):
        list(batch.renew(0, np.zeros((slots, 17), np.int64), 0, SEED_1))
    assert fingerprint(batch, 0) == before
    assert len(batch._shadows) == SHADOWS


def test_a_renewal_that_memory_does_not_hold_is_refused_and_the_row_goes_on(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk(batch, 0, noise(3))
    before = fingerprint(batch, 0)

    def full(*arguments: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 44.00 MiB.")

    with monkeypatch.context() as patch:
        patch.setattr(type(batch._moshi), "prefill", full)
        with pytest.raises(EngineFull, match="the device's memory is full"):
            next(renewal(batch, 0))
    assert fingerprint(batch, 0) == before
    assert len(batch._shadows) == SHADOWS


# --- replay --------------------------------------------------------------------------------------------------------


@pytest.fixture
def plain_ears(monkeypatch: pytest.MonkeyPatch) -> None:
    """The codec's memory is not rebuilt; an ear without memory shows whether the model's is."""

    def encode(mimi: Mimi, audio: Tensor, state: MimiState, mask: Tensor) -> Tensor:
        return (audio[:, 0, :8, None] * 1000).long() % 128

    monkeypatch.setattr(Mimi, "encode", encode)


@pytest.mark.parametrize(("prompt", "frames"), [("", 1), ("", 70), (PROMPT, 2), (PROMPT, 70)])
def test_a_call_goes_on_elsewhere_with_the_same_tokens(nano: Path, plain_ears: None, prompt: str, frames: int) -> None:
    speech = noise(frames + 10)
    one = load_batch(str(nano), 1, "cpu", "auto")
    one.open(0, no_log())
    prime(one, 0, prompt, sampling=SEED_1)
    log = tokens(talk(one, 0, speech[:frames]))
    other = load_batch(str(nano), 3, "cpu", "auto")
    other.open(2, log)
    prime(other, 2, prompt, keep_frames=frames, sampling=SEED_1)
    here, there = talk(one, 0, speech[frames:]), talk(other, 2, speech[frames:])
    assert np.array_equal(tokens(here), tokens(there))
    assert [step.number for step in there] == list(range(frames, frames + 10))
    assert torch.allclose(one._state.kv.keys[0], other._state.kv.keys[2], atol=1e-4)


# --- the ear -------------------------------------------------------------------------------------------------------


@pytest.fixture
def listening(eared: Path) -> Batch:
    """Four rows with an ear, open and primed."""
    batch = load_batch(str(eared), 4, "cpu", "auto")
    for row in range(4):
        batch.open(row, no_log())
        prime(batch, row)
    return batch


def written(batch: Batch, stepped: Sequence[Stepped], eared: Path) -> list[int]:
    """What a fresh ear of one row makes of the caller's codes in a log."""
    checkpoint = load_ear(str(eared), load_checkpoint(str(eared)))
    assert checkpoint is not None
    ear = Ear(checkpoint.moshi, 1)
    codes = torch.from_numpy(tokens(stepped)[:, batch._config.made :].astype(np.int64))
    return [int(ear.hear(frame[None], None)) for frame in codes]


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
    deaf = load_batch(str(eared), 1, "cpu", "auto", ear=False)
    assert [(rows.hearing_delay_frames, rows._ear) for rows in (batch, deaf)] == [(0, None)] * 2
    assert {one.heard for one in talk(batch, 0, noise(5))} == {PAD}


def test_a_row_that_is_opened_again_has_heard_nothing(listening: Batch) -> None:
    assert listening.hearing_delay_frames == DELAY_FRAMES
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


# --- loading -------------------------------------------------------------------------------------------------------


def test_rows_are_four_on_a_cpu_unless_said(nano: Path) -> None:
    assert load_batch(str(nano), None, "cpu", "auto").rows == 4
    assert load_batch(str(nano), 7, "cpu", "auto").rows == 7


def test_a_device_that_is_not_there_is_named(nano: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(EngineError, match="no device 'cuda'"):
        load_batch(str(nano), 1, "cuda", "auto")
    with pytest.raises(EngineError, match="no device 'abacus'"):
        load_batch(str(nano), 1, "abacus", "auto")
    assert load_batch(str(nano), 1, "auto", "auto")._device.type == "cpu"


def test_weights_lie_in_memory_as_wanted(nano: Path) -> None:
    def kinds(weights: Wanted) -> set[torch.dtype]:
        return {tensor.dtype for tensor in load_batch(str(nano), 1, "cpu", "auto", weights=weights)._moshi.buffers()}

    assert kinds("auto") == set()
    assert kinds("int8") == {torch.int8, torch.float32}
    with pytest.raises(EngineError, match="fp8 needs a CUDA card"):
        load_batch(str(nano), 1, "cpu", "auto", weights="fp8")


@pytest.mark.parametrize("step", ["load_checkpoint", "Batch"])
def test_a_device_that_is_too_small_is_told_in_one_line(nano: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 44.00 MiB.")

    monkeypatch.setattr(batch_module, step, full)
    with pytest.raises(EngineError, match="do not fit the device's memory; ask for fewer"):
        load_batch(str(nano), 16, "cpu", "auto")


def test_weights_that_only_listen_are_refused(nano: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(nano, tmp_path / "stt")
    stored = load_file(folder / "model.safetensors")
    silent = {name: tensor for name, tensor in stored.items() if not name.startswith(("depformer", "linears"))}
    for stream in range(8, 16):
        del silent[f"emb.{stream}.weight"]
    save_file(silent, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    del config["prompt_config"], config["dep_q"]
    (folder / "config.json").write_text(json.dumps({**config, "n_q": 8, "delays": [0] * 9}))
    with pytest.raises(CheckpointError, match="listens but does not speak"):
        load_batch(str(folder), 1, "cpu", "auto")


@pytest.mark.parametrize(
    ("rows", "cores", "threads"), [(1, 2, 1), (4, 64, 1), (8, 64, 2), (64, 64, 16), (64, 2, 1), (64, 1, 1)]
)
def test_threads_follow_the_rows_and_leave_a_core(
    monkeypatch: pytest.MonkeyPatch, rows: int, cores: int, threads: int
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    assert batch_module.cpu_threads(rows) == threads
