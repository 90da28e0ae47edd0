"""All rows of one model, and the only bridge between numpy and torch.

Modules hold weights; a `Batch` holds what the rows remember: the codec's and the model's state, and each row's *log*,
the last `window_frames` columns of its call. A column of the log is what one step made and heard: the text and the
agent's codes of the column it made, delayed as the model has them, and the caller's codes of its frame, undelayed. So
a log says all that a row needs to be rebuilt, and a call's log, kept anywhere, rebuilds it on another device.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.ear import Ear
from engine.model.checkpoint import Checkpoint, EarCheckpoint, load_checkpoint, load_ear
from engine.model.moshi import UNGENERATED, MoshiState
from engine.model.rows import Rows
from engine.model.sampling import SamplingRows, row_noise
from engine.model.text import PAD
from engine.model.weights import Wanted, precision
from engine.slot import FRAME_SAMPLES, CheckpointError, EngineError, EngineFull, Frame, Sampling, Tokens

CHUNK_COLUMNS = 64
"""Columns in a prime chunk. On a 7B model and an H100 about 3 ms of arithmetic, so a tick hardly waits for it."""

SHADOWS = 2
"""Rows beside the others in which live ones are primed anew, at once."""

SHADOW_SHARE = 0.6
"""Of the window: what a shadow holds. A prompt and what is kept beside it are to take half of it or less."""

TURNS = 1 + SHADOWS
"""Chunks of all primes until a prime has its next, and so the steps that its row may make meanwhile."""

NOISE_WIDTH = 250
"""Most candidates that a draw may choose from: the reference's top-k for audio."""

PRIME_NUMBER = 0
"""The step that ends a prime draws noise of this number; frame n of the call that of n + 1."""

KeyPrecision: TypeAlias = Literal["full", "int8"]
"""Of keys and values: as the activations are, or half of that."""

CPU_ROWS = 4
CUDA_ROWS = 16
"""Rows where nobody says how many. Without CUDA graphs and 8-bit keys yet: 16 x 1.57 GB beside Moshi 7B's 15 GB."""


@dataclass(frozen=True, slots=True)
class RowStep:
    """A row's part in a step: what it hears, a text token to force or None, and how to draw the rest."""

    row: int
    frame: Frame
    forced: int | None
    sampling: Sampling


@dataclass(frozen=True, slots=True)
class Stepped:
    """What a row's part gave: the frame to play, the text token just made, the log's column, the frame's number, and
    the token that the ear wrote, PAD without one. `broken`: the row computes what is no number, and none of the rest
    means anything; it is of use again once it is opened anew."""

    frame: Frame
    text: int
    tokens: Tokens
    number: int
    heard: int = PAD
    broken: bool = False


@dataclass(frozen=True, slots=True)
class PrimeChunk:
    """Columns [N, K] to run through a row; the last 1 + D stay ahead of it.

    `fresh`: the model forgets the row first. `draw`: the column after the prompt is drawn, with this sampling.
    """

    row: int
    columns: NDArray[np.int64]
    fresh: bool = False
    draw: Sampling | None = None


_Settings: TypeAlias = tuple[Tensor, Tensor]
"""How rows draw, as it is copied: seeds, numbers and both top-k [4, B] int64, both temperatures [2, B] float32."""


@dataclass(slots=True)
class _Row:
    log: deque[Tokens]
    number: int = 0


class Batch:
    """`rows` rows of a checkpoint, and of the ear that writes down what they hear. Use it from one thread only.

    `kv`: how the model's keys and values lie in memory.

    Beside the rows lie SHADOWS shadows: one row each, shorter than the others, in which a live row is primed anew while
    it is stepped on (`renew`).
    """

    def __init__(
        self, checkpoint: Checkpoint, rows: int, ear: EarCheckpoint | None = None, kv: KeyPrecision = "full"
    ) -> None:
        self.rows = rows
        self.revision, self.tokenizer = checkpoint.revision, checkpoint.tokenizer
        self.layout, self.voices = checkpoint.layout, checkpoint.voices
        self.sampling = replace(
            checkpoint.sampling,
            text_top_k=min(NOISE_WIDTH, checkpoint.sampling.text_top_k),
            audio_top_k=min(NOISE_WIDTH, checkpoint.sampling.audio_top_k),
        )
        self._mimi, self._moshi = checkpoint.mimi, checkpoint.moshi
        self._config = checkpoint.moshi.config
        self.streams, self.window_frames = self._config.streams, self._config.context
        self.vocabulary = tuple(1 + token for token in self._config.initial)  # a stream's initial token is its last
        with torch.inference_mode():
            self._codec = self._mimi.initial_state(rows)
            self._state = self._moshi.initial_state(rows, eight_bits=kv == "int8")
            slots = min(self.window_frames, round(SHADOW_SHARE * self.window_frames) + 4 * TURNS)
            self._shadows = [self._moshi.initial_state(1, eight_bits=kv == "int8", slots=slots) for _ in range(SHADOWS)]
        self.renewable_frames = _renewable(slots, self.window_frames)
        self._device = self._state.kv.position.device
        self._audio = next(self._mimi.parameters()).dtype
        self._ahead = 1 + self._config.delay
        self._ear = Ear(ear.moshi, rows) if ear else None
        self.hearing_delay_frames = ear.delay_frames if ear else 0
        self._logs = [self._fresh_row() for _ in range(rows)]

    @property
    def state(self) -> MoshiState:
        """What the model remembers of the rows: for those who measure."""
        return self._state

    def _fresh_row(self) -> _Row:
        return _Row(deque(maxlen=self.window_frames + 1))  # one more: the made part of the oldest column that is kept

    @torch.inference_mode()
    def open(self, row: int, log: Tokens) -> None:
        """Make `row` as new, with `log` (T, K) as its past. It is primed before it is stepped.

        Raises EngineFull if the device's memory does not hold it; so does `prefill`. The other rows are as they were.
        """
        with _within_memory():
            self._open(row, log)

    def _open(self, row: int, log: Tokens) -> None:
        self._codec.reset(self._only(row))
        if self._ear:
            self._ear.reset(row)
        self._logs[row] = self._fresh_row()
        self._logs[row].log.extend(log)
        self._logs[row].number = len(log)

    def plan(self, row: int, frames: NDArray[np.int64], keep_frames: int, sampling: Sampling) -> list[PrimeChunk]:
        """The chunks that prime `row` with a prompt's `frames` (T, K) and then its own last `keep_frames` columns."""
        chunks = self._chunks(row, self._config.columns(torch.from_numpy(frames)).numpy())
        chunks[0] = replace(chunks[0], fresh=True)
        chunks[-1] = replace(chunks[-1], draw=sampling)
        kept = self._kept(row, keep_frames)
        return [*chunks, *(self._chunks(row, self._past(row, kept)) if kept else ())]

    def _kept(self, row: int, keep_frames: int) -> int:
        return min(keep_frames, len(self._logs[row].log), self.window_frames)

    def _chunks(self, row: int, columns: NDArray[np.int64]) -> list[PrimeChunk]:
        starts = range(0, max(1, len(columns) - self._ahead), CHUNK_COLUMNS)
        return [PrimeChunk(row, columns[start : start + CHUNK_COLUMNS + self._ahead]) for start in starts]

    def _past(self, row: int, kept: int) -> NDArray[np.int64]:
        """The row's last columns as its steps fed them, and those ahead: [kept + 1 + D, K].

        Column i holds what the step before made, and of each of the caller's streams the code that arrived delays[k]
        steps ago. UNGENERATED stands for what comes from the prompt, or is not known yet.
        """
        log, config = np.stack(self._logs[row].log).astype(np.int64), self._config
        start, made = len(log) - kept, config.made
        columns = np.full((kept + self._ahead, config.streams), UNGENERATED, np.int64)
        columns[1 : kept + 1, :made] = log[start:, :made]
        if start:
            lead = np.array(config.delays[:made]) == 0  # what lags behind belongs to the prompt's last frame
            columns[0, :made] = np.where(lead, log[start - 1, :made], UNGENERATED)
        for stream in range(made, config.streams):
            delay = config.delays[stream]
            columns[delay : delay + kept, stream] = log[start:, stream]
        return columns

    @torch.inference_mode()
    def prefill(self, chunk: PrimeChunk) -> None:
        """Run one chunk of a plan; in order, each once. Raises EngineFull, after which `row` must be opened anew."""
        self._prefill(chunk, self._state.row(chunk.row))

    @torch.inference_mode()
    def renew(
        self, row: int, frames: NDArray[np.int64], keep_frames: int, sampling: Sampling
    ) -> Generator[bool, None, None]:
        """Prime `row` with `frames` (T, K) and its last columns while it is stepped; at most SHADOWS rows at once.

        Each item has run one chunk, in a shadow. Before the last, which alone is True, the columns of the steps since
        the first were caught up with, and the shadow has become what the model remembers of the row; all else of the
        row is untouched. `keep_frames` are counted back from the first item. Close it to give the shadow back early.

        Raises EngineFull, and the row is as it was; ValueError if frames and what was stepped outgrow the shadow.
        """
        shadow = self._shadows.pop()
        try:
            caught_up = self._logs[row].number
            positions = 1 + len(frames) + self._kept(row, keep_frames)
            for chunk in self.plan(row, frames, keep_frames, sampling):
                self._prefill(chunk, shadow)
                yield False
            while behind := self._logs[row].number - caught_up:
                self._prefill(self._chunks(row, self._past(row, behind))[0], shadow)
                caught_up += min(behind, CHUNK_COLUMNS)
                positions += min(behind, CHUNK_COLUMNS)
                if behind <= CHUNK_COLUMNS:
                    break
                yield False
            if positions > shadow.kv.slots < self.window_frames:
                raise ValueError(f"a prime of {positions} positions outgrew a shadow of {shadow.kv.slots}")
            self._state.row(row).take_over(shadow, positions)
            yield True
        finally:
            self._shadows.append(shadow)

    @torch.inference_mode()
    def _prefill(self, chunk: PrimeChunk, state: MoshiState) -> None:
        with _within_memory():
            self._run_chunk(chunk, state)

    def _run_chunk(self, chunk: PrimeChunk, state: MoshiState) -> None:
        if chunk.fresh:
            state.reset(torch.ones(1, dtype=torch.bool))
        columns = torch.from_numpy(chunk.columns).to(self._device)[None]
        # The first columns of the row's past are partly the prompt's: what is not known here, the table holds.
        columns[:, : self._ahead] = torch.where(
            columns[:, : self._ahead] == UNGENERATED, state.ahead(), columns[:, : self._ahead]
        )
        self._moshi.prefill(state, columns, None)
        if chunk.draw is not None:
            self._draw(state, chunk.draw)

    def _draw(self, state: MoshiState, sampling: Sampling) -> None:
        """Make the first live column without a caller. No word is in it, so that forced text begins with the first step
        and the transcript misses nothing that was said."""
        caller = torch.full((1, self.streams - self._config.made), UNGENERATED, device=self._device)
        forced = torch.full((1, self._config.made), UNGENERATED, device=self._device)
        forced[:, 0] = PAD
        settings = self._settings([(PRIME_NUMBER, sampling)])
        self._moshi.step(state, caller, forced, self._sampling(settings), None)

    @torch.inference_mode()
    def step(self, steps: Sequence[RowStep]) -> list[Stepped]:
        """One step of the rows in `steps`, each at most once; the other rows do not move, and cost nothing."""
        if not steps:
            return []
        ascending = sorted(steps, key=lambda step: step.row)
        audio = np.stack([step.frame for step in ascending])[:, None]
        forced = np.full((len(steps), self._config.made), UNGENERATED, np.int64)
        for own, step in enumerate(ascending):
            if step.forced is not None:
                forced[own, 0] = step.forced
        said, made = self._run(
            # All of it before anything runs there: a copy waits for what the device was asked to do before.
            Rows.of([step.row for step in ascending], self._device),
            # What is no number would stay in the row's keys for the whole call.
            self._to_device(np.nan_to_num(audio, posinf=1.0, neginf=-1.0)),
            self._to_device(forced),
            self._settings([(PRIME_NUMBER + 1 + self._logs[step.row].number, step.sampling) for step in ascending]),
        )
        stepped = {step.row: self._stepped(step.row, said[own, 0], made[own]) for own, step in enumerate(ascending)}
        return [stepped[step.row] for step in steps]

    def _run(
        self, rows: Rows, audio: Tensor, forced: Tensor, settings: _Settings | None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Audio [B, 1, 1920] of `rows` -> audio of that shape; the log's columns and what the ear wrote, [B, K + 1]."""
        made, codec, state = self._config.made, self._codec.select(rows), self._state.select(rows)
        codes = self._mimi.encode(audio.to(self._audio), codec, None)[:, :, 0]
        caller = codes[:, : self.streams - made]
        emitted = self._moshi.step(state, caller, forced, self._sampling(settings), None).emitted
        # Nobody speaks before the longest delay has passed, of which a row that is primed has one frame behind it.
        speaks = None if self._config.delay <= 1 else emitted[:, 0] != UNGENERATED
        said = self._mimi.decode(emitted[:, 1:, None], codec, speaks).clamp(-1, 1)
        if speaks is not None:
            said = said.masked_fill(~speaks[:, None, None], 0)
        heard = self._ear.hear(codes, rows) if self._ear else codes.new_full((len(codes),), PAD)
        column = torch.cat((state.ahead()[:, 0, :made], caller, heard[:, None]), 1)
        self._codec.merge(rows, codec)
        self._state.merge(rows, state)
        return said.float().cpu().numpy(), column.cpu().numpy()

    def _stepped(self, row: int, said: Frame, column: NDArray[np.int64]) -> Stepped:
        # Copies: a reply does not hold the batch in memory.
        state, tokens = self._logs[row], column[:-1].astype(np.uint16)
        state.log.append(tokens)
        state.number += 1
        broken = bool((column[: self._config.made] == UNGENERATED).any()) or not np.isfinite(said).all()
        heard = PAD if column[-1] == UNGENERATED else int(column[-1])  # nothing yet; or it is the ear that is broken
        return Stepped(said.copy(), int(column[0]), tokens, state.number - 1, heard, broken)

    def warm_up(self) -> None:
        """Run primes and a step of no consequence, so that the first caller does not wait for kernels to be chosen.

        Before any row is opened.
        """
        for chunk in self.plan(0, np.zeros((CHUNK_COLUMNS, self.streams), np.int64), 0, Sampling()):
            self.prefill(chunk)
        silence = np.zeros(FRAME_SAMPLES, np.float32)
        self.step([RowStep(row, silence, None, Sampling()) for row in range(self.rows)])
        frames = np.zeros((min(CHUNK_COLUMNS, self.renewable_frames - 1), self.streams), np.int64)
        for _ in self.renew(0, frames, 0, Sampling()):
            pass

    # --- small tensors

    def _only(self, row: int) -> Tensor:
        """A mask [B] of one row."""
        mask = torch.zeros(self.rows, dtype=torch.bool, device=self._device)
        mask[row] = True
        return mask

    def _settings(self, draws: Sequence[tuple[int, Sampling]]) -> _Settings | None:
        """How rows draw, on the device; of each, the number of its noise and its settings. None: all are greedy."""
        if all(sampling.greedy for _, sampling in draws):
            return None
        whole = [(one.seed, number, one.text_top_k, one.audio_top_k) for number, one in draws]
        broken = [(one.text_temperature, one.audio_temperature) for _, one in draws]
        return self._to_device(np.array(whole, np.int64).T), self._to_device(np.array(broken, np.float32).T)

    def _sampling(self, settings: _Settings | None) -> SamplingRows | None:
        if settings is None:
            return None
        (seed, number, text_top_k, audio_top_k), (text_temperature, audio_temperature) = settings
        noise = row_noise(seed, number, self._config.made, NOISE_WIDTH)
        return SamplingRows(text_temperature, text_top_k, audio_temperature, audio_top_k, noise)

    def _to_device(self, values: NDArray[Any]) -> Tensor:
        return torch.from_numpy(values).to(self._device)


def _renewable(slots: int, window: int) -> int:
    """How many frames, kept ones included, a live row can be primed with in a shadow of so many slots.

    It holds what the row steps meanwhile, too: TURNS frames a chunk. The prompt, what is kept, and what is caught up
    with each end in a chunk that is not full. One as long as the window forgets what the row itself would have.
    """
    return slots if slots == window else (slots - 4 * TURNS) * CHUNK_COLUMNS // (CHUNK_COLUMNS + TURNS)


@contextlib.contextmanager
def _within_memory() -> Iterator[None]:
    """What the device's memory does not hold is refused: EngineFull."""
    full = False
    try:
        yield
    except torch.OutOfMemoryError:
        full = True  # nothing more in here: the error holds on to the tensors of all that was under way
    if full:
        raise EngineFull("the device's memory is full")


def load_batch(
    model: str,
    rows: int | None,
    device: str,
    prompt_style: str,
    ear: bool = True,
    weights: Wanted = "auto",
    kv: KeyPrecision = "full",
) -> Batch:
    """Load a checkpoint and make rows for it, warm; and for its `ear`, if that is wanted and it has one.

    Raises CheckpointError, EngineError if the device cannot be had, or cannot hold weights as `weights` wants them.
    """
    chosen = _device(device)
    rows = rows or (CUDA_ROWS if chosen.type == "cuda" else CPU_ROWS)
    if chosen.type == "cpu":
        torch.set_num_threads(cpu_threads(rows))
    try:
        dtype, packing = precision(weights, chosen)
    except ValueError as error:
        raise EngineError(str(error)) from None
    try:
        checkpoint = load_checkpoint(model, chosen, dtype, prompt_style, packing=packing)
        if not checkpoint.moshi.config.dep_q:
            raise CheckpointError(f"{model!r} listens but does not speak (dep_q is 0): a call needs one that does both")
        batch = Batch(checkpoint, rows, load_ear(model, checkpoint, chosen, dtype) if ear else None, kv)
        batch.warm_up()
    except torch.OutOfMemoryError as error:
        raise EngineError(f"{rows} rows of {model!r} do not fit the device's memory; ask for fewer") from error
    return batch


def has_cuda() -> bool:
    """Whether this machine has a CUDA device that torch can use."""
    return torch.cuda.is_available()


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if has_cuda() else "cpu"
    there = {"cpu": True, "cuda": has_cuda(), "mps": torch.backends.mps.is_available()}
    if not there.get(name.partition(":")[0], False):
        raise EngineError(f"torch {torch.__version__} finds no device {name!r} on this machine; cpu is always there")
    return torch.device(name)


def cpu_threads(rows: int) -> int:
    """One, while one core serves the rows: a step is some thousand small operations, and to split each among threads
    costs more than it gains; the other cores are for packets. Beyond, one for every CPU_ROWS rows, a core left free."""
    return max(1, min(rows // CPU_ROWS, (os.cpu_count() or 1) - 1))
