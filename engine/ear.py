"""The caller's words: rows of a model that only listens, beside the rows that talk.

Its form is that of streaming speech-to-text (dep_q 0): it makes no codes, and writes its text some frames behind the
sound. It reads the codes that the talking model's codec has made of the caller's frame, so nothing is encoded twice; an
ear over another codec encodes the frame with that. Extra heads tell how likely it is that the caller is quiet for the
next 0.5, 1, 2 and 3 s (Kyutai's streaming models, "semantic VAD").
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from engine.model.listening import EarCheckpoint
from engine.model.mimi import Mimi
from engine.model.moshi import UNGENERATED, MoshiState
from engine.model.rows import Rows
from engine.model.text import Tokenizer
from engine.slot import FRAME_SAMPLES

NO_EAR = "the weights have no ear beside them"


@dataclass(frozen=True, slots=True)
class Hearing:
    """What writes down what the callers of the first `rows` rows say: so far behind, in tokens of this tokenizer.

    `deaf` is why nothing does so for the others.
    """

    tokenizer: Tokenizer
    rows: int = 0
    delay_frames: int = 0
    revision: str = ""
    deaf: str = NO_EAR


class Ear:
    """`rows` fresh rows of a listening model, greedy. Use it from one thread only."""

    @torch.inference_mode()
    def __init__(self, checkpoint: EarCheckpoint, rows: int) -> None:
        self.rows, self.hears_audio = rows, checkpoint.own
        self._moshi, self._codec = checkpoint.moshi, checkpoint.codec
        self._begun = self._begin(checkpoint.silence_frames)
        self._steps = 1 + checkpoint.silence_frames
        self._state = self._moshi.initial_state(rows)
        self._encoder = self._codec.initial_state(rows) if self.hears_audio else None
        self.heads = self._moshi.config.extra_heads_num_heads
        for row in range(rows):
            self.reset(row)

    @torch.inference_mode()
    def _begin(self, silence_frames: int) -> MoshiState:
        """A row as every fresh one is: it has run column 0, which is before any caller, and the silence it wants."""
        state = self._moshi.initial_state(1, slots=1 + silence_frames)
        nothing = torch.full((1, self._moshi.config.n_q), UNGENERATED, device=state.table.device)
        for codes in chain([nothing], silence(self._codec, silence_frames)):
            self._step(state, codes)
        return state

    @torch.inference_mode()
    def reset(self, row: int) -> None:
        """Make `row` fresh. Between steps only."""
        state = self._state.row(row)
        state.reset(torch.ones(1, dtype=torch.bool))
        state.take_over(self._begun, self._steps)
        if self._encoder is not None:
            only = torch.zeros(self.rows, dtype=torch.bool, device=state.table.device)
            only[row] = True
            self._encoder.reset(only)

    @torch.inference_mode()
    def fill(self) -> None:
        """Let every row have a full window, so that a step takes as long as it ever does; what it writes is nothing."""
        self._state.kv.position.fill_(self._moshi.config.context)

    def sound(self, rows: int) -> Tensor:
        """Room for what so many rows hear in a step, on the device: codes [rows, n_q], or audio [rows, 1, 1920]."""
        device = self._state.table.device
        if self.hears_audio:
            return torch.zeros(rows, 1, FRAME_SAMPLES, dtype=_dtype(self._codec), device=device)
        return torch.zeros(rows, self._moshi.config.n_q, dtype=torch.int64, device=device)

    @torch.inference_mode()
    def hear(self, sound: Tensor, rows: Rows | None, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What `rows` hear: the codes of a caller's frame [B, at least n_q]; the frame [B, 1, 1920] if `hears_audio`.

        Gives a text token each [B], and the heads' probabilities of quiet [B, heads] float32; all on the device as it
        is. The other rows do not move, nor those where `mask` [B] is False. None is all rows.
        """
        state = self._state if rows is None else self._state.select(rows)
        codes = self._encoded(sound, rows, mask) if self.hears_audio else sound
        heard = self._step(state, codes[:, : self._moshi.config.n_q], mask)
        if rows is not None:
            self._state.merge(rows, state)
        return heard

    def _encoded(self, audio: Tensor, rows: Rows | None, mask: Tensor | None) -> Tensor:
        """By a codec of its own."""
        assert self._encoder is not None
        state = self._encoder if rows is None else self._encoder.select(rows)
        codes = self._codec.encode(audio.to(_dtype(self._codec)), state, mask)[:, :, 0]
        if rows is not None:
            self._encoder.merge(rows, state)
        return codes

    def _step(self, state: MoshiState, codes: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        free = torch.full((len(codes), 1), UNGENERATED, device=codes.device)
        step = self._moshi.step(state, codes, free, None, mask)
        return step.emitted[:, 0], step.heads[:, :, 0]


def silence(codec: Mimi, frames: int) -> list[Tensor]:
    """The codes [1, codebooks] of each of so many frames of silence, from the start of a stream."""
    device = next(codec.parameters()).device
    state, quiet = codec.initial_state(1), torch.zeros(1, 1, FRAME_SAMPLES, dtype=_dtype(codec), device=device)
    return [codec.encode(quiet, state, None)[:, :, 0] for _ in range(frames)]


def _dtype(codec: Mimi) -> torch.dtype:
    return next(codec.parameters()).dtype
