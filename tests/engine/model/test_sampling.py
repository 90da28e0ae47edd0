"""Tokens are drawn as the reference draws them, and a row's noise is its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from engine.model import sampling as sampling_file
from engine.model.moshi_config import UNGENERATED
from engine.model.sampling import WORD, SamplingRows, draw, philox, row_noise, sample


def row(*values: float) -> Tensor:
    return torch.tensor([values])


def test_a_temperature_of_zero_takes_the_likeliest_and_no_noise() -> None:
    logits = row(0.0, 3.0, 2.9)
    noise = row(1e9, 1e-9, 1e-9)
    for temperature in (0.0, -1.0):
        assert sample(logits, torch.tensor([temperature]), torch.tensor([3]), noise).tolist() == [1]


def test_the_noise_belongs_to_tokens_by_likelihood() -> None:
    logits = row(0.0, 2.0, 1.0)  # order: 1, 2, 0
    for place, token in enumerate([1, 2, 0]):
        noise = torch.ones(1, 3)
        noise[0, place] = 1e-6
        assert sample(logits, torch.ones(1), torch.tensor([3]), noise).tolist() == [token]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("rows", [None, "drawn"])
def test_a_row_whose_logits_are_no_numbers_draws_nothing(bad: float, rows: str | None) -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0], [0.0, bad, 3.0], [9.0, 1.0, bad], [1.0, -math.inf, 2.0]])
    ones, three = torch.ones(4), torch.full((4,), 3)
    how = SamplingRows(ones, three, ones, three, torch.tensor([1.0, 1e9, 1e9]).repeat(4, 2, 1)) if rows else None
    for stream in (0, 1):
        assert draw(logits, how, stream).tolist() == [1, UNGENERATED, UNGENERATED, 2]
    if how:
        cold = replace(how, text_temperature=torch.zeros(4))
        assert draw(logits, cold, 0).tolist() == [1, UNGENERATED, UNGENERATED, 2]


def test_top_k_keeps_the_likeliest_only() -> None:
    logits, noise = row(0.0, 2.0, 1.0), row(1.0, 1.0, 1e-6)
    assert sample(logits, torch.ones(1), torch.tensor([3]), noise).tolist() == [0]
    assert sample(logits, torch.ones(1), torch.tensor([2]), noise).tolist() == [1]


def test_noise_and_top_k_may_be_wider_than_the_vocabulary() -> None:
    assert sample(row(1.0, 0.0), torch.ones(1), torch.tensor([250]), torch.ones(1, 250)).tolist() == [0]


def test_every_row_has_its_own_settings() -> None:
    logits = row(1.0, 0.9, 0.8).repeat(4, 1)
    noise = row(1.0, 0.5, 0.4).repeat(4, 1)
    temperature, top_k = torch.tensor([0.0, 1.0, 1.0, 0.01]), torch.tensor([3, 3, 2, 3])
    assert sample(logits, temperature, top_k, noise).tolist() == [0, 2, 1, 0]


def test_draws_follow_the_tempered_distribution() -> None:
    logits, temperature, count = row(1.0, 0.0, -1.0, 0.5), 0.7, 20_000
    noise = one_noise(5, 0, count, 4)
    drawn = sample(logits.repeat(count, 1), torch.full((count,), temperature), torch.full((count,), 3), noise)
    kept = torch.tensor([1.0, 0.0, -math.inf, 0.5])
    expected = (kept / temperature).softmax(0)
    shares = torch.bincount(drawn, minlength=4) / count
    assert (shares - expected).abs().max() < 4 * math.sqrt(0.25 / count)


def test_bfloat16_logits_are_drawn_in_float32() -> None:
    logits = row(1.0, 1.0078125).bfloat16()  # neighbours in bfloat16
    assert sample(logits, torch.tensor([0.001]), torch.tensor([2]), torch.ones(1, 2)).tolist() == [1]


def test_float64_logits_are_drawn_in_float64() -> None:
    logits = torch.tensor([[1.0, 1.0 + 1e-12]], dtype=torch.float64)  # equal in float32, and the first of equals wins
    assert sample(logits, torch.ones(1), torch.tensor([1]), torch.ones(1, 2)).tolist() == [1]


# --- the noise -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((WORD,) * 4, (WORD,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_the_generators_known_answers(counter: Sequence[int], key: Sequence[int], words: Sequence[int]) -> None:
    """Those that its authors publish with it (Random123, kat_vectors, philox4x32 with 10 rounds)."""
    c0, c1, c2, c3 = (torch.tensor([[word]]) for word in counter)
    assert [int(word) for word in philox((c0, c1, c2, c3), (torch.tensor([key[0]]), torch.tensor([key[1]])))] == list(
        words
    )


def one_noise(seed: int, number: int, streams: int, width: int) -> Tensor:
    return row_noise(torch.tensor([seed]), torch.tensor([number]), streams, width)[0]


def by_hand(seed: int, number: int, stream: int, candidate: int) -> float:
    """The same in Python's own integers and floats."""
    c0, c1, c2, c3 = candidate // 4, stream, number % 2**32, number >> 32
    k0, k1 = seed % 2**32, seed >> 32
    for _ in range(10):
        left, right = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = (right >> 32) ^ c1 ^ k0, right % 2**32, (left >> 32) ^ c3 ^ k1, left % 2**32
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return -math.log1p(-((c0, c1, c2, c3)[candidate % 4] + 0.5) / 2**32)


@pytest.mark.parametrize(("seed", "number"), [(0, 0), (7, 3), (2**63 - 1, 2**40 + 5)])
def test_the_noise_stays_what_it_is(seed: int, number: int) -> None:
    """Calls are repeated from a seed: a change here would change every one of them."""
    want = [[by_hand(seed, number, stream, candidate) for candidate in range(9)] for stream in range(3)]
    torch.testing.assert_close(one_noise(seed, number, 3, 9), torch.tensor(want), rtol=1e-5, atol=0)


def test_a_rows_noise_is_its_own_bit_for_bit() -> None:
    """Whoever else is in the batch, wherever in it the row lies, and however much is drawn."""
    alone = one_noise(7, 3, 9, 25)
    together = row_noise(torch.tensor([5, 7, 0, 7]), torch.tensor([3, 3, 2**33, 4]), 9, 250)
    assert torch.equal(together[1, :, :25], alone)
    assert torch.equal(one_noise(7, 3, 17, 26)[:9, :25], alone)
    others = torch.cat((together[[0, 2, 3]].flatten(), alone[1:].flatten()))
    assert not torch.isin(others, alone[0]).any()


@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**63 - 1])
def test_any_seed_will_do(seed: int) -> None:
    noise = one_noise(seed, 2**40, 4, 5_000)
    assert noise.dtype == torch.float32 and 0 < noise.min() and noise.max() < math.inf
    assert float(noise.mean()) == pytest.approx(1, abs=0.03) and float(noise.var()) == pytest.approx(1, abs=0.08)


def test_the_most_and_the_least_that_can_be_drawn_are_finite_and_not_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    """A zero would win every race, and two of them could not be told apart."""
    ends = torch.tensor([[[0, WORD]]])
    monkeypatch.setattr(sampling_file, "philox", lambda counter, key: (ends,) * 4)
    noise = one_noise(0, 0, 1, 8)
    assert 0 < noise.min() < 2e-10
    assert 16 < noise.max() < 17
