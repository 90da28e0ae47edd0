"""Putting columns through a row before it listens, or beside its steps: what to run, in chunks, and running it.

A row's *log* holds the last columns of its call. A column of the log is what one step made and heard: the text and the
agent's codes of the column it made, delayed as the model has them, and the caller's codes of its frame, undelayed. So
a log says all that a row needs to be rebuilt, and a call's log, kept anywhere, rebuilds it on another device.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.drawing import PRIME_NUMBER, sampling_rows, settings
from engine.model.moshi import UNGENERATED, Moshi, MoshiState
from engine.model.text import PAD
from engine.model.voice import VoiceState, length_of
from engine.prefix import Prefixes, Shared
from engine.scheduler import CATCH_UP_FRAMES
from engine.slot import EngineFull, Sampling, Tokens

CHUNK_COLUMNS = 64
"""Columns in a chunk. On a 7B model and an H100 about 3 ms of arithmetic, so a tick hardly waits for it."""

SHADOWS = 2
"""Rows beside the others in which live ones are primed anew, at once."""

SHADOW_SHARE = 0.6
"""Of the window: what a shadow holds. A prompt and what is kept beside it are to take half of it or less."""

TURNS = 1 + SHADOWS
"""Chunks of all primes until a prime has its next, and so the steps that its row may make meanwhile."""


@dataclass(frozen=True, slots=True)
class PrimeChunk:
    """Columns [N, K] to run through a row; the last 1 + D stay ahead of it. Or `vectors` [N, dim] of a voice.

    `fresh`: the model forgets the row first, and then knows what is `shared`. `draw`: the column after the prompt is
    drawn, with this sampling; before that, what it has become is `kept` for others, who begin with this. `pinned`: of
    the row's positions, so many first ones are pinned after this.
    """

    row: int
    columns: NDArray[np.int64]
    fresh: bool = False
    draw: Sampling | None = None
    vectors: Tensor | None = None
    shared: Shared | None = None
    kept: tuple[VoiceState | None, NDArray[np.int64]] | None = None
    pinned: int = 0


class Primer:
    """Primes the rows of one model's `state`. Beside them lie SHADOWS shadows: one row each, shorter than the others,
    in which a live row is primed anew while it is stepped on (`renew`)."""

    def __init__(self, moshi: Moshi, state: MoshiState, eight_bits: bool, prefixes: Prefixes) -> None:
        self.prefixes = prefixes
        self._moshi, self._config, self._state = moshi, moshi.config, state
        self._ahead = 1 + self._config.delay
        self._device = state.table.device
        self.shadows = [moshi.initial_state(1, eight_bits=eight_bits, slots=self.shadow_slots) for _ in range(SHADOWS)]
        self.chunk_columns = CHUNK_COLUMNS

    @property
    def renewable_frames(self) -> int:
        """How many frames, kept ones included, a live row can be primed with in a shadow.

        It holds what the row steps meanwhile, too: TURNS frames a chunk. The prompt, what is kept, and what is caught
        up with each end in a chunk that is not full. One as long as the window forgets what the row itself would have.
        """
        slots, chunk = self.shadow_slots, self.chunk_columns
        return slots if slots == self._config.context else (slots - 4 * TURNS) * chunk // (chunk + TURNS)

    @property
    def shadow_slots(self) -> int:
        """How many positions a shadow holds."""
        return min(self._config.context, round(SHADOW_SHARE * self._config.context) + 4 * TURNS)

    def plan(
        self,
        row: int,
        frames: NDArray[np.int64],
        log: Sequence[Tokens],
        keep_frames: int,
        sampling: Sampling,
        voice: VoiceState | None = None,
        slots: int | None = None,
        pinned: bool = False,
    ) -> list[PrimeChunk]:
        """The chunks that prime `row` with a prompt's `frames` (T, K) and then the last `keep_frames` of its log.

        A `voice` that is a state comes before the prompt. `slots` is what the row's ring holds, if not the window: a
        shadow's, of which nothing is kept for others. `pinned`: voice and prompt are, and the initial column before.
        """
        told = torch.from_numpy(frames)
        columns = (voice.columns(self._config, told) if voice else self._config.columns(told)).numpy()
        known = columns[: len(columns) - self._ahead]
        shared = self.prefixes.find(voice, known, slots or self._config.context)
        if shared:
            chunks = self._chunks(row, columns[shared.positions - length_of(voice) :])
        else:
            chunks = [*self._spoken(row, voice), *self._chunks(row, columns)]
        chunks[0] = replace(chunks[0], fresh=True, shared=shared)
        chunks[-1] = replace(chunks[-1], draw=sampling, kept=None if slots else (voice, known))
        kept = self.kept(log, keep_frames)
        chunks += self._chunks(row, self.past(log, kept)) if kept else ()
        if pinned:
            chunks[-1] = replace(chunks[-1], pinned=length_of(voice) + len(known))
        return chunks

    def _spoken(self, row: int, voice: VoiceState | None) -> list[PrimeChunk]:
        nothing = np.zeros((0, self._config.streams), np.int64)
        parts = torch.split(voice.vectors, self.chunk_columns) if voice else ()
        return [PrimeChunk(row, nothing, vectors=part) for part in parts]

    def kept(self, log: Sequence[Tokens], keep_frames: int) -> int:
        """How many of those there are."""
        return min(keep_frames, len(log), self._config.context)

    def _chunks(self, row: int, columns: NDArray[np.int64]) -> list[PrimeChunk]:
        size = self.chunk_columns
        starts = range(0, max(1, len(columns) - self._ahead), size)
        return [PrimeChunk(row, columns[start : start + size + self._ahead]) for start in starts]

    def past(self, log: Sequence[Tokens], kept: int) -> NDArray[np.int64]:
        """The last columns of a log as its steps fed them, and those ahead: [kept + 1 + D, K].

        Column i holds what the step before made, and of each of the caller's streams the code that arrived delays[k]
        steps ago. UNGENERATED stands for what comes from the prompt, or is not known yet.
        """
        stacked, config = np.stack(log).astype(np.int64), self._config
        start, made = len(stacked) - kept, config.made
        columns = np.full((kept + self._ahead, config.streams), UNGENERATED, np.int64)
        columns[1 : kept + 1, :made] = stacked[start:, :made]
        if start:
            lead = np.array(config.delays[:made]) == 0  # what lags behind belongs to the prompt's last frame
            columns[0, :made] = np.where(lead, stacked[start - 1, :made], UNGENERATED)
        for stream in range(made, config.streams):
            delay = config.delays[stream]
            columns[delay : delay + kept, stream] = stacked[start:, stream]
        return columns

    def prefill(self, chunk: PrimeChunk) -> None:
        """Run one chunk of a plan; in order, each once. Raises EngineFull, after which the row must be opened anew."""
        self._prefill(chunk, self._state.row(chunk.row))

    def run_zeros(self, columns: int) -> None:
        """Run so many columns of no meaning through row 0, behind what it holds: for who takes the time."""
        self.prefill(PrimeChunk(0, np.zeros((columns + self._ahead, self._config.streams), np.int64)))

    def renew(
        self,
        row: int,
        frames: NDArray[np.int64],
        log: Callable[[], tuple[Sequence[Tokens], int]],
        keep_frames: int,
        sampling: Sampling,
        voice: VoiceState | None = None,
        wait: Callable[[], bool] = lambda: False,
    ) -> Generator[bool, None, None]:
        """Prime `row` with `frames` (T, K) and its last columns while it is stepped; at most SHADOWS rows at once.

        `log` gives the row's log as it is by then, and how many columns there were in all. Each item has run one chunk,
        in a shadow. Before the last, which alone is True, the columns of the steps since the first were caught up with,
        and the shadow has become what the model remembers of the row; all else of the row is untouched. `keep_frames`
        are counted back from the first item. Close it to give the shadow back early.

        Once all is caught up with, `wait` is asked whether the last item is to wait; then the next catches up anew. It
        is not asked where the shadow has no room for the steps until then, CATCH_UP_FRAMES and a few.

        Raises EngineFull, and the row is as it was; ValueError if frames and what was stepped outgrow the shadow.
        """
        shadow = self.shadows.pop()
        try:
            columns, caught_up = log()
            positions = 1 + length_of(voice) + len(frames) + self.kept(columns, keep_frames)
            for chunk in self.plan(row, frames, columns, keep_frames, sampling, voice, shadow.kv.slots):
                self._prefill(chunk, shadow)
                yield False
            while True:
                columns, number = log()
                if behind := min(number - caught_up, self.chunk_columns):
                    self._prefill(self._chunks(row, self.past(columns, number - caught_up))[0], shadow)
                caught_up, positions = caught_up + behind, positions + behind
                if caught_up == number and not (self._has_room(shadow, positions) and wait()):
                    break
                yield False
            if positions > shadow.kv.slots < self._config.context:
                raise ValueError(f"a prime of {positions} positions outgrew a shadow of {shadow.kv.slots}")
            with torch.inference_mode():
                self._state.row(row).take_over(shadow, positions)
            yield True
        finally:
            self.shadows.append(shadow)

    def _has_room(self, shadow: MoshiState, positions: int) -> bool:
        slots = shadow.kv.slots
        return slots == self._config.context or slots - positions >= 2 * CATCH_UP_FRAMES

    @torch.inference_mode()
    def _prefill(self, chunk: PrimeChunk, state: MoshiState) -> None:
        with within_memory():
            self._run_chunk(chunk, state)
        if self._device.type == "cuda":
            # Else the next tick would wait for it, and seem to take as long.
            torch.cuda.current_stream(self._device).synchronize()

    def _run_chunk(self, chunk: PrimeChunk, state: MoshiState) -> None:
        if chunk.fresh:
            state.reset(torch.ones(1, dtype=torch.bool))
        if chunk.shared:
            state.kv.begin_as(chunk.shared.kv, chunk.shared.positions)
        if chunk.vectors is not None:
            self._moshi.prefill_vectors(state, chunk.vectors.to(self._device)[None], None)
            return
        columns = torch.from_numpy(chunk.columns).to(self._device)[None]
        # The first columns of the row's past are partly the prompt's: what is not known here, the table holds.
        columns[:, : self._ahead] = torch.where(
            columns[:, : self._ahead] == UNGENERATED, state.ahead(), columns[:, : self._ahead]
        )
        self._moshi.prefill(state, columns, None)
        if chunk.kept:
            self.prefixes.keep(*chunk.kept, state.kv)
        if chunk.draw is not None:
            self._draw(state, chunk.draw)
        if chunk.pinned:
            assert state.kv.pinned is not None  # who asks for it has looked
            state.kv.pinned.fill_(chunk.pinned)

    def _draw(self, state: MoshiState, sampling: Sampling) -> None:
        """Make the first live column without a caller. No word is in it, so that forced text begins with the first step
        and the transcript misses nothing that was said."""
        made = self._config.made
        caller = self._ungenerated(self._config.streams - made)
        forced = self._ungenerated(made)
        forced[:, 0] = PAD
        how = settings([(PRIME_NUMBER, sampling)], self._device)
        self._moshi.step(state, caller, forced, sampling_rows(how, made), None)

    def _ungenerated(self, streams: int) -> Tensor:
        return torch.full((1, streams), UNGENERATED, device=self._device)


@contextlib.contextmanager
def within_memory() -> Iterator[None]:
    """What the device's memory does not hold is refused: EngineFull."""
    full = False
    try:
        yield
    except torch.OutOfMemoryError:
        full = True  # nothing more in here: the error holds on to the tensors of all that was under way
    if full:
        raise EngineFull("the device's memory is full")
