"""What the rows of a transformer remember: rings of keys and values, in full or in 8 bits.

A state is passed in and updated in place. Shapes: B rows, T positions of one call, C the ring's slots, G heads of keys
and values of size h, W = min(T, C) slots that a call writes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import repeat

import torch
from torch import Tensor

from engine.model.rows import Rows

LARGEST = 127
"""Of a key or a value in 8 bits."""


@dataclass(slots=True)
class KvState:
    """What the rows of one stack remember: the last C keys and values, and how far each row has come.

    Position p lies in slot p mod C. `position` counts a row's executed positions since its last reset. Rows that are
    `select`ed and no neighbours have their rings among those of all rows, where `stretches` says.

    In 8 bits, keys and values are int8, each vector with a scale of its own: half of bfloat16's bytes to hold and to
    read. (Of a vector's greatest number it then knows each to 0.4 %, float8_e4m3 to 6 % of itself.)

    Of a row's first positions, `pinned` are never overwritten: position p >= pinned lies in slot pinned + (p - pinned)
    mod (C - pinned). To a query at n >= C they are as near as if the ring were a window: position p of them counts as
    p + n - (C - 1) (attention sinks: StreamingLLM, arXiv 2309.17453, section 3.2). None: no row has any.
    """

    keys: Tensor  # [B, layers, G, C, h]
    values: Tensor  # [B, layers, G, C, h]
    position: Tensor  # [B] int64
    stretches: tuple[slice, ...] = ()
    scales: tuple[Tensor, Tensor] | None = None  # of keys and of values in 8 bits [B, layers, G, C, 1] float32
    index: Tensor | None = None  # [b] int64: which of the rings are meant, where they are scattered
    pinned: Tensor | None = None  # [B] int64

    def _held(self) -> tuple[Tensor, ...]:
        return self.keys, self.values, *(self.scales or ())

    def _of(self, keys: Tensor, values: Tensor, *scales: Tensor) -> KvState:
        return replace(self, keys=keys, values=values, scales=(scales[0], scales[1]) if scales else None)

    @property
    def slots(self) -> int:
        """How many positions a ring holds (C)."""
        return self.keys.shape[3]

    def take_over(self, other: KvState, positions: int) -> None:
        """Become `other`, which has come so many `positions` and forgot none of them, if its rings are no longer."""
        self.begin_as(other, positions)
        self.position.copy_(other.position)
        if self.pinned is not None:
            self.pinned.fill_(0)

    def first(self, positions: int) -> KvState:
        """A copy of the first `positions`, which were never overwritten, in rings of no more."""
        parts = (part[:, :, :, :positions].clone() for part in self._held())
        return replace(self._of(*parts), position=torch.full_like(self.position, positions), pinned=None)

    def begin_as(self, other: KvState, positions: int) -> None:
        """Of a fresh row: have come so many `positions`, the first of `other`."""
        for own, its in zip(self._held(), other._held(), strict=True):
            own[:, :, :, :positions] = its[:, :, :, :positions]
        self.position.fill_(positions)

    def bytes_of(self, positions: int) -> int:
        """What so many positions of all rows take."""
        return sum(part.numel() // self.slots * positions * part.element_size() for part in self._held())

    def layers(self) -> Iterator[tuple[Ring, Ring]]:
        """Each layer's rings, of keys and of values."""
        key_scales, value_scales = self.scales or (None, None)
        return zip(
            _rings(self.keys, key_scales, self.index), _rings(self.values, value_scales, self.index), strict=True
        )

    def reset(self, rows: Tensor) -> None:
        """Make the rows where `rows` [B] bool is True fresh. Between steps only: it asks the device which rows."""
        chosen = rows.nonzero().squeeze(1).to(self.position.device)  # the other rows' gigabytes are not even read
        for tensor in (*self._held(), self.position, *(() if self.pinned is None else (self.pinned,))):
            tensor.index_fill_(0, chosen, 0)

    def row(self, index: int) -> KvState:
        """A view of one row, B = 1: what is done to it is done to the row."""
        one = slice(index, index + 1)
        pinned = None if self.pinned is None else self.pinned[one]
        return replace(self._of(*(tensor[one] for tensor in self._held())), position=self.position[one], pinned=pinned)

    def select(self, rows: Rows) -> KvState:
        """The state of some rows, to run them alone. No ring is copied."""
        own = replace(
            self, position=rows.take(self.position), pinned=None if self.pinned is None else rows.take(self.pinned)
        )
        if rows.index is None:
            return own._of(*map(rows.take, self._held()))
        return replace(own, stretches=rows.stretches, index=None if rows.stretches else rows.index)

    def merge(self, rows: Rows, selected: KvState) -> None:
        """Take back what `select` gave, once it has run."""
        rows.put(self.position, selected.position)


@dataclass(frozen=True, slots=True)
class Ring:
    """The keys, or the values, of one layer's rows."""

    cells: Tensor  # [B, G, C, h], int8 where there are scales
    scales: Tensor | None  # [B, G, C, 1] float32
    index: Tensor | None = None  # [b] int64: the rows that are meant, all unless given

    def of(self, rows: slice) -> Ring:
        """Fewer of these rows."""
        return Ring(self.cells[rows], None if self.scales is None else self.scales[rows])

    def read(self, dtype: torch.dtype) -> Tensor:
        """All of it, as numbers of the activations' type."""
        cells = self._chosen(self.cells)
        return cells if self.scales is None else (cells * self._chosen(self.scales)).to(dtype)

    def _chosen(self, tensor: Tensor) -> Tensor:
        return tensor if self.index is None else tensor.index_select(0, self.index)

    def as_held(self, new: Tensor) -> Tensor:
        """new [B, G, T, h] as it would be read again."""
        if self.scales is None:
            return new
        whole, scales = rounded(new)
        return (whole * scales).to(new.dtype)

    def store(self, new: Tensor, slots: Tensor, mask: Tensor | None) -> None:
        """Write the last W of new [B, G, T, h] into slots [B, G, W, h], where mask [B] says so."""
        fresh = new[:, :, -slots.shape[2] :]
        if self.scales is not None:
            fresh, scales = rounded(fresh)
            self._write(self.scales, scales, slots[..., :1], mask)
        self._write(self.cells, fresh, slots, mask)

    def _write(self, ring: Tensor, fresh: Tensor, slots: Tensor, mask: Tensor | None) -> None:
        if self.index is None:
            _write(ring, fresh, slots, mask)
            return
        heads = torch.arange(ring.shape[1], device=ring.device)[:, None]
        place = self.index[:, None, None], heads, slots[..., 0]  # [b, G, W]
        ring[place] = fresh if mask is None else torch.where(mask[:, None, None, None], fresh, ring[place])


def _rings(cells: Tensor, scales: Tensor | None, index: Tensor | None) -> Iterator[Ring]:
    of_layers = repeat(None) if scales is None else scales.unbind(1)
    return (Ring(*layer, index) for layer in zip(cells.unbind(1), of_layers, strict=False))


def slots_of(positions: Tensor, slots: int, pinned: Tensor | None) -> Tensor:
    """The slot of each position [B, T], where the first pinned [B] ones stay in theirs."""
    if pinned is None:
        return positions % slots
    first = pinned[:, None]
    return torch.where(positions < first, positions, first + (positions - first) % (slots - first))


def positions_held(newest: Tensor, slots: int, pinned: Tensor | None = None) -> Tensor:
    """Which position each slot holds [B, C] once position newest [B, 1] is written; negative: none yet."""
    slot = torch.arange(slots, device=newest.device)
    if pinned is None:
        return newest - (newest - slot) % slots
    first = pinned[:, None]
    later = newest - (newest - slot) % (slots - first)
    return torch.where(slot < first, torch.where(slot <= newest, slot, -1), torch.where(later >= first, later, -1))


def rounded(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """vectors [..., h] in 8 bits: int8 [..., h], and what to multiply them with [..., 1] float32."""
    scales = vectors.abs().amax(-1, keepdim=True).float() / LARGEST
    return (vectors / scales.clamp_min(torch.finfo(torch.float32).tiny)).round().to(torch.int8), scales


def _write(ring: Tensor, fresh: Tensor, slots: Tensor, mask: Tensor | None) -> None:
    if mask is not None:
        fresh = torch.where(mask[:, None, None, None], fresh, ring.gather(2, slots))
    ring.scatter_(2, slots, fresh)
