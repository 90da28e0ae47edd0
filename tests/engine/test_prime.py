"""Priming: in chunks as at once, from a log as if nothing had been, and beside the steps of a live row."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from engine import prime as prime_module
from engine.batch import Batch, KeyPrecision
from engine.load import load_batch
from engine.model.checkpoint import load_checkpoint
from engine.model.mimi import Mimi, MimiState
from engine.model.moshi import Step
from engine.model.text import PAD
from engine.prime import SHADOWS, TURNS
from engine.slot import EngineFull, Sampling
from tests.engine.rows import SEED_1, fingerprint, live_batch, no_log, noise, prime, same, talk, tensors, tokens

PROMPT = "You are Ada. You answer the telephone of a small hotel, and you are patient with everyone who calls."


@pytest.fixture
def batch(nano: Path) -> Batch:
    return live_batch(nano, rows=4)


# --- priming -------------------------------------------------------------------------------------------------------


def test_a_prompt_changes_what_is_said(batch: Batch) -> None:
    prime(batch, 0, PROMPT)
    assert not same(talk(batch, 0, noise(5)), talk(batch, 1, noise(5)))


@pytest.mark.parametrize("columns", [1, 3, 1_000])
def test_priming_in_chunks_equals_priming_at_once(batch: Batch, columns: int) -> None:
    prime(batch, 0, PROMPT)
    batch.primer.chunk_columns = columns
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
    past = batch.primer.past(batch._logs[0].log, 5).tolist()
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
    monkeypatch.setattr(prime_module, "CHUNK_COLUMNS", chunk)
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
    assert len(batch.primer.shadows) == SHADOWS


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
    assert batch.renewable_frames < batch.primer.shadows[0].kv.slots < batch.window_frames


def test_what_outgrows_a_shadow_is_refused_and_the_row_is_as_it_was(batch: Batch) -> None:
    talk(batch, 0, noise(1))
    before = fingerprint(batch, 0)
    slots = batch.primer.shadows[0].kv.slots
    with pytest.raises(ValueError, match=f"a prime of {slots + 1} positions outgrew a shadow of {slots}"):
        list(batch.renew(0, np.zeros((slots, 17), np.int64), 0, SEED_1))
    assert fingerprint(batch, 0) == before
    assert len(batch.primer.shadows) == SHADOWS


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
    assert len(batch.primer.shadows) == SHADOWS


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
