"""Rows of a state alone: neighbours are views, others are gathered, and no ring is copied either way."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from engine.model.ring import KvState
from engine.model.rows import Rows
from engine.model.transformer import Transformer, TransformerConfig

CPU = torch.device("cpu")
SOME = [[0], [2, 3], [0, 2], [1, 3, 4], [0, 1, 3, 5], [0, 1, 2, 3, 4, 5]]


@pytest.mark.parametrize(
    ("rows", "stretches"),
    [([3], [(3, 4)]), ([1, 2, 3], [(1, 4)]), ([0, 2], [(0, 1), (2, 3)]), ([0, 1, 4, 6, 7], [(0, 2), (4, 5), (6, 8)])],
)
def test_neighbours_make_one_stretch(rows: list[int], stretches: list[tuple[int, int]]) -> None:
    some = Rows.of(rows, CPU)
    assert [(stretch.start, stretch.stop) for stretch in some.stretches] == stretches
    assert (some.index is None) == (len(stretches) == 1)


@pytest.mark.parametrize("rows", [[], [1, 1], [2, 0]])
def test_rows_ascend_and_there_is_one(rows: list[int]) -> None:
    with pytest.raises(ValueError, match="must ascend"):
        Rows.of(rows, CPU)


@pytest.mark.parametrize("rows", SOME)
def test_what_is_done_to_some_rows_is_done_to_them_alone(rows: list[int]) -> None:
    state, some = torch.arange(12.0).view(6, 2), Rows.of(rows, CPU)
    want = state.clone()
    want[rows] += 100
    taken = some.take(state)
    taken += 100
    some.put(state, taken)
    assert torch.equal(state, want)


def transformer() -> Transformer:
    model = Transformer(TransformerConfig(dim=16, heads=2, layers=2, hidden=32, context=4)).double()
    generator = torch.Generator().manual_seed(0)
    for weight in model.parameters():
        weight.data = torch.randn(weight.shape, generator=generator, dtype=torch.float64) / 4
    return model


def inputs(count: int, seed: int) -> Tensor:
    return torch.randn(count, 1, 16, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def step(model: Transformer, state: KvState, rows: Sequence[int], seed: int) -> Tensor:
    some = Rows.of(rows, CPU)
    selected = state.select(some)
    out: Tensor = model(inputs(6, seed)[list(rows)], selected, None)
    state.merge(some, selected)
    return out


@torch.no_grad()
def test_rows_that_are_selected_attend_as_under_a_mask() -> None:
    """Past the window, whichever rows run in whichever step; those that rest do not move by a bit."""
    model = transformer()
    selected, masked = model.initial_state(6), model.initial_state(6)
    for number in range(24):
        rows = SOME[number % len(SOME)]
        before = selected.keys.clone(), selected.values.clone()
        got = step(model, selected, rows, number)
        mask = torch.tensor([row in rows for row in range(6)])
        want = model(inputs(6, number), masked, mask)
        torch.testing.assert_close(got, want[rows], atol=1e-12, rtol=1e-9)
        assert torch.equal(selected.keys[~mask], before[0][~mask])
        assert torch.equal(selected.values[~mask], before[1][~mask])
        assert torch.equal(selected.position, masked.position)
    assert int(selected.position.min()) > 4


@pytest.mark.parametrize("rows", SOME)
def test_no_ring_is_copied(rows: list[int]) -> None:
    state = transformer().initial_state(6)
    selected = state.select(Rows.of(rows, CPU))
    for ring, whole in ((selected.keys, state.keys), (selected.values, state.values)):
        assert ring.untyped_storage().data_ptr() == whole.untyped_storage().data_ptr()
