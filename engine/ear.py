"""The caller's words: rows of a model that only listens, beside the rows that talk.

Its form is that of streaming speech-to-text (dep_q 0): it makes no codes, and writes its text some frames behind the
sound. It reads the codes that the talking model's codec has made of the caller's frame, so nothing is encoded twice.
"""

from __future__ import annotations

import torch
from torch import Tensor

from engine.model.moshi import UNGENERATED, Moshi


class Ear:
    """`rows` fresh rows of a listening model, greedy. Use it from one thread only."""

    def __init__(self, moshi: Moshi, rows: int) -> None:
        self._moshi, self._state = moshi, moshi.initial_state(rows)
        device = self._state.kv.position.device
        self._free = torch.full((rows, 1), UNGENERATED, device=device)
        self._nothing = torch.full((rows, moshi.config.n_q), UNGENERATED, device=device)
        self.reset(torch.ones(rows, dtype=torch.bool, device=device))

    @torch.inference_mode()
    def reset(self, mask: Tensor) -> None:
        """Make the rows where `mask` [B] bool is True fresh: each has run column 0, which is before any caller.

        Between steps only.
        """
        self._state.reset(mask)
        self.hear(self._nothing, mask)

    @torch.inference_mode()
    def hear(self, codes: Tensor, mask: Tensor | None) -> Tensor:
        """The codes of a caller's frame [B, at least n_q] -> a text token each [B], on the device as it is.

        Rows where `mask` [B] bool is False do not move; theirs is UNGENERATED. None is all rows.
        """
        codes = codes[:, : self._moshi.config.n_q]
        return self._moshi.step(self._state, codes, self._free, None, mask).emitted[:, 0]
