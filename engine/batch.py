"""All rows of one model, and the only bridge between numpy and torch.

Modules hold weights; a `Batch` holds what the rows remember: the codec's and the model's state, and each row's log, the
last `window_frames` columns of its call (`engine/prime.py`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.admission import Admission
from engine.drawing import NOISE_WIDTH, PRIME_NUMBER, Draws, Settings, numbers, sampling_rows, settings
from engine.ear import NO_EAR, Hearing
from engine.ears import Ears, read
from engine.graphs import COMPARED, Gave, StaticStep, Told, Widths, check_equal
from engine.model.checkpoint import Checkpoint
from engine.model.listening import EarCheckpoint
from engine.model.moshi import UNGENERATED, MoshiState
from engine.model.rows import Rows
from engine.model.text import PAD
from engine.model.voice import VoiceState
from engine.prefix import Prefixes
from engine.prime import PrimeChunk, Primer, within_memory
from engine.room import hearing, spare_bytes
from engine.slot import FRAME_SAMPLES, EngineFull, Frame, Sampling, Tokens

KeyPrecision: TypeAlias = Literal["full", "int8"]
"""Of keys and values: as the activations are, or half of that."""


@dataclass(frozen=True, slots=True)
class RowStep:
    """A row's part in a step: what it hears, a text token to force or None, how to draw the rest, and whether its ear
    hears it too, if it has one."""

    row: int
    frame: Frame
    forced: int | None
    sampling: Sampling
    hears: bool = True


@dataclass(frozen=True, slots=True)
class Stepped:
    """What a row's part gave: the frame to play, the text token just made, the log's column, the frame's number, and
    the token that the ear wrote, PAD without one. `broken`: the row computes what is no number, and none of the rest
    means anything; it is of use again once it is opened anew. `quiet`: of what the ear's heads look for."""

    frame: Frame
    text: int
    tokens: Tokens
    number: int
    heard: int = PAD
    broken: bool = False
    quiet: tuple[float, ...] = ()


@dataclass(slots=True)
class _Row:
    log: deque[Tokens]
    number: int = 0


class Batch:
    """`rows` rows of a checkpoint, and of the ear that writes down what they hear. Use it from one thread only.

    `ears`: how many rows, the first ones, have an ear; None: as many as memory holds. `deaf`: why there is no `ear`.
    `kv`: how the model's keys and values lie in memory. `limit_s`: the longest that a frame may take to its reply; None
    is any time. What ticks take, `rehearsal` finds. `prefixes`: where prompts are remembered; nowhere unless given.
    `pins`: prompts can be pinned.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        rows: int,
        ear: EarCheckpoint | None = None,
        kv: KeyPrecision = "full",
        limit_s: float | None = None,
        prefixes: Prefixes | None = None,
        ears: int | None = None,
        deaf: str = NO_EAR,
        pins: bool = False,
    ) -> None:
        self.rows = rows
        self.revision, self.tokenizer = checkpoint.revision, checkpoint.tokenizer
        self.layout, self.voices = checkpoint.layout, checkpoint.voices
        self.sampling = replace(
            checkpoint.sampling,
            text_top_k=min(NOISE_WIDTH, checkpoint.sampling.text_top_k),
            audio_top_k=min(NOISE_WIDTH, checkpoint.sampling.audio_top_k),
        )
        self._mimi = checkpoint.mimi if ear is None or ear.own else ear.codec
        self._moshi = checkpoint.moshi
        self._config = checkpoint.moshi.config
        self.streams, self.window_frames = self._config.streams, self._config.context
        self.vocabulary = tuple(1 + token for token in self._config.initial)  # a stream's initial token is its last
        with torch.inference_mode():
            self._codec = self._mimi.initial_state(rows)
            self._state = self._moshi.initial_state(rows, eight_bits=kv == "int8", pins=pins)
            self.primer = Primer(self._moshi, self._state, kv == "int8", prefixes or Prefixes(0))
        self.renewable_frames, self.pins = self.primer.renewable_frames, pins
        self._device = self._state.kv.position.device
        self._audio = next(self._mimi.parameters()).dtype
        none = Hearing(self.tokenizer, deaf=deaf)
        self.hearing = hearing(ear, rows if ears is None else ears, spare_bytes(self._device)) if ear else none
        self._ears = Ears(ear, self.hearing.rows, rows, self._device) if ear and self.hearing.rows else None
        self._logs = [self._fresh_row() for _ in range(rows)]
        self.admission = Admission(rows, limit_s)
        self.prime_bytes = 0
        """What priming a row takes of the device's memory, once that is known."""
        self.prefixes = self.primer.prefixes
        self._widths: Widths[StaticStep] = Widths([])

    @property
    def ears(self) -> Ears | None:
        """Those of its rows, if there are any: for those who measure."""
        return self._ears

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
        spare = spare_bytes(self._device)
        if spare is not None and spare < self.prime_bytes:
            raise EngineFull(
                f"the device has {spare >> 20} MiB left, and to prime a row takes {self.prime_bytes >> 20} MiB"
            )
        with within_memory():
            self._open(row, log)

    def _open(self, row: int, log: Tokens) -> None:
        self._codec.reset(self._only(row))
        if self._ears and row < self.hearing.rows:
            self._ears.ear.reset(row)
        self._logs[row] = self._fresh_row()
        self._logs[row].log.extend(log)
        self._logs[row].number = len(log)

    def plan(
        self,
        row: int,
        frames: NDArray[np.int64],
        keep_frames: int,
        sampling: Sampling,
        voice: VoiceState | None = None,
        pinned: bool = False,
    ) -> list[PrimeChunk]:
        """The chunks that prime `row`: `Primer.plan`."""
        return self.primer.plan(row, frames, self._logs[row].log, keep_frames, sampling, voice, pinned=pinned)

    def prefill(self, chunk: PrimeChunk) -> None:
        """Run one chunk of a plan; in order, each once. Raises EngineFull, after which `row` must be opened anew."""
        self.primer.prefill(chunk)

    def prime_by(self, columns: int) -> None:
        """Prime in chunks of so many columns. Before any row is opened."""
        self.primer.chunk_columns = columns
        self.renewable_frames = self.primer.renewable_frames

    def renew(
        self,
        row: int,
        frames: NDArray[np.int64],
        keep_frames: int,
        sampling: Sampling,
        voice: VoiceState | None = None,
        wait: Callable[[], bool] = lambda: False,
    ) -> Generator[bool, None, None]:
        """Prime `row` beside its steps: `Primer.renew`. Raises EngineFull, and the row is as it was; ValueError."""
        held = self._logs[row]
        return self.primer.renew(row, frames, lambda: (held.log, held.number), keep_frames, sampling, voice, wait)

    @torch.inference_mode()
    def step(self, steps: Sequence[RowStep]) -> list[Stepped]:
        """One step of the rows in `steps`, each at most once; the other rows do not move, and cost nothing."""
        if not steps:
            return []
        ascending = sorted(steps, key=lambda step: step.row)
        # What is no number would stay in the row's keys for the whole call.
        audio = np.nan_to_num(np.stack([step.frame for step in ascending]), posinf=1.0, neginf=-1.0)
        forced = np.full((len(steps), self._config.made), UNGENERATED, np.int64)
        for own, step in enumerate(ascending):
            if step.forced is not None:
                forced[own, 0] = step.forced
        draws = [(PRIME_NUMBER + 1 + self._logs[step.row].number, step.sampling) for step in ascending]
        heard = [own for own, step in enumerate(ascending) if step.hears and step.row < self.hearing.rows]
        said, made = self._run([step.row for step in ascending], audio, forced, draws, heard)
        stepped = {
            step.row: self._stepped(step.row, said[own], made[own], own in heard) for own, step in enumerate(ascending)
        }
        return [stepped[step.row] for step in steps]

    def _run(
        self,
        rows: Sequence[int],
        audio: NDArray[np.float32],
        forced: NDArray[np.int64],
        draws: Draws,
        hearing: Sequence[int] = (),
    ) -> Gave:
        """Audio, and columns with what the ears wrote beside them, [n, K + 1 + heads]; `hearing` are places in `rows`.

        Without ears, columns alone.
        """
        static = self._widths.of(len(rows))
        if static is None:
            return self._run_plain(rows, audio, forced, draws, hearing)
        static.start(rows, (audio, forced, *numbers(draws)))
        written = self._ears.start(rows, hearing) if self._ears else None
        said, columns = static.take(len(rows))
        return said, np.concatenate((columns, written()), 1) if written else columns

    def _run_plain(
        self,
        rows: Sequence[int],
        audio: NDArray[np.float32],
        forced: NDArray[np.int64],
        draws: Draws,
        hearing: Sequence[int] = (),
    ) -> Gave:
        # All of it before anything runs there: a copy waits for what the device was asked to do before.
        place = self._ears.place(rows, hearing) if self._ears and hearing else None
        said, columns, sound = self._step(
            Rows.of(rows, self._device),
            self._to_device(audio[:, None]),
            self._to_device(forced),
            settings(draws, self._device),
        )
        if self._ears and place:
            columns = torch.cat((columns, self._ears.hear(place, sound)), 1)
        return said.cpu().numpy()[:, 0], columns.cpu().numpy()

    def _body(self, rows: Rows, audio: Tensor, forced: Tensor, how: Settings, mask: Tensor) -> tuple[Tensor, Tensor]:
        """A static step; what its rows heard is kept for their ears."""
        said, columns, sound = self._step(rows, audio, forced, how, mask)
        if self._ears:
            self._ears.keep(sound)
        return said, columns

    def _step(
        self, rows: Rows, audio: Tensor, forced: Tensor, how: Settings | None, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Audio [B, 1, 1920] of `rows` -> audio of that shape; the log's columns [B, K]; and what an ear reads, codes
        or the audio.

        Where `mask` [B] is False, a row does not move, and what comes of it means nothing.
        """
        made, codec, state = self._config.made, self._codec.select(rows), self._state.select(rows)
        audio = audio.to(self._audio)
        codes = self._mimi.encode(audio, codec, mask)[:, :, 0]
        caller = codes[:, : self.streams - made]
        emitted = self._moshi.step(state, caller, forced, sampling_rows(how, made), mask).emitted
        # Nobody speaks before the longest delay has passed, of which a row that is primed has one frame behind it.
        speaks = mask if self._config.delay <= 1 else emitted[:, 0] != UNGENERATED
        said = self._mimi.decode(emitted[:, 1:, None], codec, speaks).clamp(-1, 1)
        if speaks is not None:
            said = said.masked_fill(~speaks[:, None, None], 0)
        columns = torch.cat((state.ahead()[:, 0, :made], caller), 1)
        self._codec.merge(rows, codec)
        self._state.merge(rows, state)
        return said.float(), columns, audio if self._ears and self._ears.ear.hears_audio else codes

    def _stepped(self, row: int, said: Frame, column: NDArray[np.int64], hears: bool) -> Stepped:
        # Copies: a reply does not hold the batch in memory.
        state, tokens = self._logs[row], column[: self.streams].astype(np.uint16)
        state.log.append(tokens)
        state.number += 1
        broken = bool((column[: self._config.made] == UNGENERATED).any()) or not np.isfinite(said).all()
        token, quiet = read(column[self.streams :]) if hears else (PAD, ())
        return Stepped(said.copy(), int(column[0]), tokens, state.number - 1, token, broken, quiet)

    def prepare(self, widths: Sequence[int], graphs: bool) -> None:
        """Run steps as static ones, each of so many rows or less in the narrowest of `widths` that holds them.

        With `graphs` they are captured, each compared with the plain step first. Before any row is opened.
        """
        made, device = self._config.made, self._device
        self._widths = Widths([StaticStep(each, self.rows, made, self.streams, device, self._body) for each in widths])
        pool = torch.cuda.graph_pool_handle() if graphs else None
        if pool is not None:
            self._widths.keep(lambda static: static.capture(pool))
            self._widths.keep(self._compare)
        if self._ears:
            ears = self.hearing.rows
            self._ears.prepare(sorted({min(each, ears) for each in widths}), pool)
            self._forget()

    @torch.inference_mode()
    def _compare(self, static: StaticStep) -> None:
        """Raises ValueError if it gives anything else than a plain step of as many rows."""
        rows, random = range(static.width), np.random.default_rng(0)
        draws = [(row, Sampling(seed=row)) for row in rows]
        forced = np.full((static.width, self._config.made), UNGENERATED, np.int64)
        audio = [random.normal(0, 0.1, (static.width, FRAME_SAMPLES)).astype(np.float32) for _ in range(COMPARED)]
        self._forget()
        plain = [self._run_plain(rows, frame, forced, draws) for frame in audio]
        self._forget()
        for frame, gave in zip(audio, plain, strict=True):
            told: Told = (frame, forced, *numbers(draws))
            check_equal(gave, static.run(rows, told))

    @torch.inference_mode()
    def _forget(self) -> None:
        """Make every row as new, but not primed."""
        every = torch.ones(self.rows, dtype=torch.bool, device=self._device)
        self._codec.reset(every)
        self._state.reset(every)
        for row in range(self.hearing.rows):
            assert self._ears
            self._ears.ear.reset(row)

    # --- small tensors

    def _only(self, row: int) -> Tensor:
        """A mask [B] of one row."""
        mask = torch.zeros(self.rows, dtype=torch.bool, device=self._device)
        mask[row] = True
        return mask

    def _to_device(self, values: NDArray[Any]) -> Tensor:
        return torch.from_numpy(values).to(self._device)
