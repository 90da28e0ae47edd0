"""Tokens are drawn as the reference draws them, and a row's noise is its own."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from engine.model.sampling import row_noise, sample


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
    noise = torch.from_numpy(row_noise(5, 0, count, 4))
    drawn = sample(logits.repeat(count, 1), torch.full((count,), temperature), torch.full((count,), 3), noise)
    kept = torch.tensor([1.0, 0.0, -math.inf, 0.5])
    expected = (kept / temperature).softmax(0)
    shares = torch.bincount(drawn, minlength=4) / count
    assert (shares - expected).abs().max() < 4 * math.sqrt(0.25 / count)


def test_bfloat16_logits_are_drawn_in_float32() -> None:
    logits = row(1.0, 1.0078125).bfloat16()  # neighbours in bfloat16
    assert sample(logits, torch.tensor([0.001]), torch.tensor([2]), torch.ones(1, 2)).tolist() == [1]


def test_noise_depends_on_seed_and_number_alone() -> None:
    one = row_noise(7, 3, 9, 25)
    assert one.shape == (9, 25) and one.dtype == np.float32 and (one > 0).all()
    assert np.array_equal(one, row_noise(7, 3, 9, 25))
    for other in (row_noise(8, 3, 9, 25), row_noise(7, 4, 9, 25)):
        assert not np.isin(one, other).any()


@pytest.mark.parametrize("seed", [0, -1, 2**63, 2**200])
def test_any_seed_will_do(seed: int) -> None:
    noise = row_noise(seed, 2**40, 4, 5_000)
    assert noise.mean() == pytest.approx(1, abs=0.03) and noise.var() == pytest.approx(1, abs=0.08)


def test_the_noise_stays_what_it_is() -> None:
    """Recordings are repeated from a seed: a change here would change every one of them."""
    raw = np.random.Philox(key=7, counter=[0, 3, 0, 0]).random_raw(3)
    uniform = (np.asarray(raw, np.uint64) >> np.uint64(11)) * 2.0**-53
    np.testing.assert_allclose(row_noise(7, 3, 1, 3)[0], -np.log(1 - uniform), rtol=1e-6)
