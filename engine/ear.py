"""The caller's words: rows of a model that only listens, beside the rows that talk.

Its form is that of streaming speech-to-text (dep_q 0): it makes no codes, and writes its text some frames behind the
sound. It reads the codes that the talking model's codec has made of the caller's frame, so nothing is encoded twice.
"""

from __future__ import annotations

import torch
from torch import Tensor

from engine.model.moshi import UNGENERATED, Moshi, MoshiState
from engine.model.rows import Rows


class Ear:
    """`rows` fresh rows of a listening model, greedy. Use it from one thread only."""

    @torch.inference_mode()
    def __init__(self, moshi: Moshi, rows: int) -> None:
        self._moshi, self._state = moshi, moshi.initial_state(rows)
        self._begin(self._state)

    @torch.inference_mode()
    def reset(self, row: int) -> None:
        """Make `row` fresh. Between steps only."""
        state = self._state.row(row)
        state.reset(torch.ones(1, dtype=torch.bool))
        self._begin(state)

    def _begin(self, state: MoshiState) -> None:
        """A fresh row has run column 0, which is before any caller."""
        nothing = torch.full((len(state.table), self._moshi.config.n_q), UNGENERATED, device=state.table.device)
        self._step(state, nothing)

    @torch.inference_mode()
    def hear(self, codes: Tensor, rows: Rows | None, mask: Tensor | None = None) -> Tensor:
        """The codes of a caller's frame [B, at least n_q] for each of `rows` -> a text token each [B], on the device
        as it is. The other rows do not move, nor those where `mask` [B] is False. None is all rows."""
        codes = codes[:, : self._moshi.config.n_q]
        if rows is None:
            return self._step(self._state, codes, mask)
        state = self._state.select(rows)
        written = self._step(state, codes, mask)
        self._state.merge(rows, state)
        return written

    def _step(self, state: MoshiState, codes: Tensor, mask: Tensor | None = None) -> Tensor:
        free = torch.full((len(codes), 1), UNGENERATED, device=codes.device)
        return self._moshi.step(state, codes, free, None, mask).emitted[:, 0]
