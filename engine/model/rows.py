"""Some rows of a state: where they lie, and how to compute with them alone.

A batch steps those rows only that have a frame. Rows that lie side by side are a view of the state; nothing is copied.
Others are gathered, which is for small tensors only: the rings of a transformer are hundreds of megabytes a row, and
are read and written where they lie, a stretch of neighbours at a time (`KvState.select`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of a state, each once. `Rows.of` makes them, or `scattered`."""

    stretches: tuple[slice, ...]  # neighbours together; none where only the device knows which they are
    index: Tensor | None  # [B] int64, on the state's device; None: they are all neighbours

    @classmethod
    def of(cls, rows: Sequence[int], device: torch.device) -> Rows:
        """These `rows`. Raises ValueError unless they ascend, and there is one."""
        if not rows or any(one >= other for one, other in zip(rows, rows[1:], strict=False)):
            raise ValueError(f"rows must ascend, each once, and be at least one: {list(rows)}")
        starts = [row for at, row in enumerate(rows) if not at or rows[at - 1] != row - 1]
        ends = [row + 1 for at, row in enumerate(rows) if at + 1 == len(rows) or rows[at + 1] != row + 1]
        stretches = tuple(map(slice, starts, ends))
        return cls(stretches, None if len(stretches) == 1 else torch.tensor(rows, device=device))

    @classmethod
    def scattered(cls, index: Tensor) -> Rows:
        """Rows whose numbers [B] the device has, in any order: for a step that is the same whichever they are."""
        return cls((), index)

    def take(self, tensor: Tensor) -> Tensor:
        """These rows of a tensor [R, ...], as a view if they are neighbours, else copied."""
        return tensor[self.stretches[0]] if self.index is None else tensor.index_select(0, self.index)

    def put(self, tensor: Tensor, taken: Tensor) -> None:
        """Write back what `take` gave, and what became of it."""
        if self.index is not None:
            tensor.index_copy_(0, self.index, taken)
