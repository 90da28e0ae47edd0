"""Prompts that are remembered: a row that begins with one is as one that ran it, and memory stays bounded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from engine.batch import Batch, KeyPrecision
from engine.local import LocalEngine
from engine.model.checkpoint import load_checkpoint
from engine.model.ring import KvState
from engine.model.voice import VoiceState
from engine.prefix import PrefixCounts, Prefixes
from engine.slot import Prompt, Sampling
from tests.engine.rows import SEED_1, SEED_2, no_log, noise, prime, same, talk

PERSONA = "You are Ada. You answer the telephone of a small hotel."
STORY = f"{PERSONA} The caller wants a room for two nights."


def rows_of(nano: Path, prefixes: Prefixes | None, kv: KeyPrecision = "full") -> Batch:
    batch = Batch(load_checkpoint(str(nano)), 3, kv=kv, prefixes=prefixes)
    for row in range(3):
        batch.open(row, no_log())
    return batch


def run_columns(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What the transformer is primed with from now on: the columns of each call."""
    ran: list[int] = []
    prefill = batch._moshi.transformer.prefill

    def listen(x: torch.Tensor, state: KvState, mask: torch.Tensor | None) -> torch.Tensor:
        ran.append(x.shape[1])
        return prefill(x, state, mask)

    monkeypatch.setattr(batch._moshi.transformer, "prefill", listen)
    return ran


@pytest.mark.parametrize("kv", ["full", "int8"])
def test_a_second_call_with_the_same_prompt_runs_none_of_it_and_is_the_same(
    nano: Path, monkeypatch: pytest.MonkeyPatch, kv: KeyPrecision
) -> None:
    """All that it remembers is the same to the last bit, and then its tokens; another seed draws otherwise."""
    prefixes = Prefixes(1 << 20)
    batch, fresh = rows_of(nano, prefixes, kv), rows_of(nano, None, kv)
    prime(batch, 0, PERSONA, sampling=SEED_2)
    talk(batch, 0, noise(3), SEED_2)  # what its row does then is its own
    ran = run_columns(batch, monkeypatch)
    prime(batch, 1, PERSONA, sampling=SEED_1)
    assert ran == []
    prime(fresh, 1, PERSONA, sampling=SEED_1)
    for mine, yours in zip(batch.state.kv._held(), fresh.state.kv._held(), strict=True):
        assert torch.equal(mine[1], yours[1])
    assert torch.equal(batch.state.table[1], fresh.state.table[1])
    assert same(talk(batch, 1, noise(6)), talk(fresh, 1, noise(6)))
    assert prefixes.counts.whole == prefixes.counts.none == prefixes.counts.held == 1


def test_of_a_longer_prompt_the_rest_is_run(nano: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when a call is told anew who it is and what was said, in place or beside its steps."""
    prefixes = Prefixes(1 << 20)
    batch, fresh = rows_of(nano, prefixes), rows_of(nano, None)
    prime(batch, 0, PERSONA)
    for each in (batch, fresh):
        prime(each, 1, "Hi.", sampling=SEED_1)
    assert same(talk(batch, 1, noise(4)), talk(fresh, 1, noise(4)))
    ran, held = run_columns(batch, monkeypatch), prefixes.counts.held
    frames = batch.layout.frames(batch.tokenizer, STORY)
    for each in (batch, fresh):
        for _ in each.renew(1, frames, 4, SEED_1):
            pass
    assert sum(ran) < len(frames) / 2 + 4
    assert prefixes.counts.part == 1 and prefixes.counts.held == held  # a story is nobody else's
    for mine, yours in zip(batch.state.kv._held(), fresh.state.kv._held(), strict=True):
        torch.testing.assert_close(mine[1], yours[1], atol=1e-5, rtol=0)
    assert same(talk(batch, 1, noise(6, seed=5)), talk(fresh, 1, noise(6, seed=5)))


def test_a_voice_that_is_a_state_is_remembered_with_its_prompt(nano: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prefixes = Prefixes(1 << 20)
    batch, fresh = rows_of(nano, prefixes), rows_of(nano, None)
    config, random = batch._config, torch.Generator().manual_seed(0)
    last = torch.tensor([token - 1 for token in config.initial])
    delayed = torch.tensor(config.delays) > 0
    voices = [
        VoiceState(torch.randn(9, config.dim, generator=random), last, torch.where(delayed, last, -2)) for _ in range(2)
    ]
    frames, ran = batch.layout.frames(batch.tokenizer, PERSONA), run_columns(batch, monkeypatch)

    def told(each: Batch, row: int, voice: VoiceState) -> int:
        ran.clear()
        for chunk in each.plan(row, frames, 0, SEED_1, voice):
            each.prefill(chunk)
        return sum(ran)

    assert [told(batch, 0, voices[0]), told(batch, 1, voices[0])] == [9 + len(frames), 0]
    assert told(batch, 2, voices[1]) == 9 + len(frames)  # another voice is another beginning
    told(fresh, 0, voices[0])
    assert batch.state.kv.position.tolist()[1] == 10 + len(frames)
    assert same(talk(batch, 1, noise(5)), talk(fresh, 0, noise(5)))


# --- what is held --------------------------------------------------------------------------------------------------


def kv_of(columns: int) -> KvState:
    """Rings of 40 slots, 8 bytes a position."""
    ring = torch.arange(40.0).view(1, 1, 1, 40, 1).clone()
    return KvState(ring, -ring, torch.tensor([columns]))


def columns_of(seed: int, length: int = 20) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(1, 100, (length, 3))


@pytest.fixture
def kept() -> Callable[..., Prefixes]:
    def keep(prefixes: Prefixes, *seeds: int) -> Prefixes:
        for seed in seeds:
            prefixes.keep(None, columns_of(seed), kv_of(20))
        return prefixes

    return keep


def test_the_least_recently_used_is_forgotten(kept: Callable[..., Prefixes]) -> None:
    prefixes = kept(Prefixes(2 * 160), 1, 2)
    assert prefixes.counts == PrefixCounts(held=2, held_bytes=320)
    assert prefixes.find(None, columns_of(1), 40)
    kept(prefixes, 3, 3)
    assert [bool(prefixes.find(None, columns_of(seed), 40)) for seed in (1, 2, 3)] == [True, False, True]
    assert prefixes.counts == PrefixCounts(whole=3, none=1, forgotten=1, held=2, held_bytes=320)
    prefixes.clear()
    assert prefixes.counts == PrefixCounts() and not prefixes.find(None, columns_of(1), 40)


def test_what_is_too_large_too_short_or_overwritten_is_not_held(kept: Callable[..., Prefixes]) -> None:
    assert kept(Prefixes(100), 1).counts.held == 0
    assert kept(Prefixes(0), 1).find(None, columns_of(1), 40) is None
    prefixes = Prefixes(10_000)
    prefixes.keep(None, columns_of(1, 7), kv_of(7))
    prefixes.keep(None, columns_of(1, 41), kv_of(41))
    assert prefixes.counts.held == 0


def test_a_part_is_taken_if_it_is_worth_it_and_may_be(kept: Callable[..., Prefixes]) -> None:
    prefixes, longer = kept(Prefixes(10_000), 1), np.concatenate((columns_of(1), columns_of(9)))
    found = prefixes.find(None, longer, 40)
    assert found and found.positions == 20
    assert torch.equal(found.kv.keys.flatten(), torch.arange(20.0))
    other = longer.copy()
    other[12] += 1
    assert (part := prefixes.find(None, other, 40)) and part.positions == 12
    other[7] += 1
    assert prefixes.find(None, other, 40) is None
    assert prefixes.find(None, longer, 19) is None  # more than a shadow holds
    assert kept(Prefixes(10_000, whole_only=True), 1).find(None, longer, 40) is None


def test_no_call_is_refused_for_what_others_may_need(
    kept: Callable[..., Prefixes], monkeypatch: pytest.MonkeyPatch
) -> None:
    prefixes = kept(Prefixes(10_000), 1, 2)

    def full(*arguments: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(KvState, "first", full)
    kept(prefixes, 3)
    assert prefixes.counts == PrefixCounts(forgotten=2)


async def test_an_engine_counts_them(nano: Path) -> None:
    async with LocalEngine(str(nano), rows=2, device="cpu") as engine:
        assert engine.prefix_counts == PrefixCounts()
        for seed in range(3):
            async with engine.open(Sampling(seed=seed)) as slot:
                await slot.prime(Prompt(PERSONA))
        counts = engine.prefix_counts
    assert (counts.whole, counts.none, counts.held) == (2, 1, 1) and counts.held_bytes > 0
