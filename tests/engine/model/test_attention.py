"""attention.py: turning, and the parts of a call. What is computed is held to what test_transformer.py writes out."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from engine.model import attention
from engine.model.attention import Part, reach_of, rotate
from engine.model.ring import KvState


def test_rotation_turns_neighbours() -> None:
    x = torch.tensor([1.0, 0.0, 0.0, 1.0]).view(1, 1, 1, 4)
    angle = torch.tensor([0.5, 0.25]).view(1, 1, 1, 2)
    got = rotate(x, torch.polar(torch.ones_like(angle), angle)).flatten()
    want = torch.tensor([math.cos(0.5), math.sin(0.5), -math.sin(0.25), math.cos(0.25)])
    torch.testing.assert_close(got, want)


def part(rows: int, slots: int, mask: Tensor | None, pins: bool = False, reach: bool = False) -> Part:
    """Of rows that can be told apart."""
    number = torch.arange(rows)
    each = number.view(rows, 1, 1, 1)
    turned = each.expand(rows, 1, slots, 1) > 0, each.float()
    read = number + 10, number + 1
    bias, places = each.expand(rows, 1, 1, slots).float(), each.expand(rows, 2, 1, 4)
    whole = slice(None)
    return Part(whole, whole, bias, places, mask, turned if pins else None, read if reach else None)


def test_rows_by_the_stretches_they_lie_in() -> None:
    whole = part(5, 8, torch.tensor([True, False, True, True, False]), pins=True, reach=True)
    first, second = whole.along((slice(2, 4), slice(6, 9)))
    assert (first.own, first.rings) == (slice(0, 2), slice(2, 4))
    assert (second.own, second.rings) == (slice(2, 5), slice(6, 9))
    for one, rows in ((first, [0, 1]), (second, [2, 3, 4])):
        assert one.bias[:, 0, 0, 0].tolist() == one.slots[:, 0, 0, 0].tolist() == rows
        assert one.mask is not None and whole.mask is not None
        assert one.mask.tolist() == whole.mask[rows].tolist()
        assert one.pins is not None and one.pins[1].flatten().tolist() == rows
        assert one.reach is not None and one.reach[0].tolist() == [10, 11, 12][: len(rows)]
        assert one.reach[1].tolist() == [row + 1 for row in rows]


def test_rows_in_no_stretch_are_one_part() -> None:
    whole = part(3, 8, None)
    assert whole.along(()) == (whole,)


def state(rows: int, slots: int) -> KvState:
    return KvState(
        torch.zeros(rows, 1, 2, slots, 4), torch.zeros(rows, 1, 2, slots, 4), torch.zeros(rows, dtype=torch.int64)
    )


def test_a_kernel_reads_what_a_row_holds_and_nothing_of_one_that_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "_has_kernel", lambda _: True)
    positions, mask = torch.tensor([[0], [3], [40]]), torch.tensor([True, False, True])
    read = reach_of(torch.zeros(3, 1, 8), positions, state(3, 6), None)
    assert read is not None
    assert [each.tolist() for each in read] == [[0, 1, 2], [1, 4, 6]]
    masked = reach_of(torch.zeros(3, 1, 8), positions, state(3, 6), mask)
    assert masked is not None and masked[1].tolist() == [1, 0, 6]
    assert reach_of(torch.zeros(3, 2, 8), positions, state(3, 6), None) is None, "two positions a row"


def test_without_a_kernel_rings_are_read_whole() -> None:
    assert reach_of(torch.zeros(1, 1, 8), torch.zeros(1, 1, dtype=torch.int64), state(1, 6), None) is None
