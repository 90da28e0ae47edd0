"""A step whose inputs and outputs lie where they always lie, for so many rows: what a CUDA graph can hold.

A step of any number of rows up to `width` runs as one of `width`: the rest are rows that wait, each once, with a mask
that leaves them as they are. One copy brings everything in, one takes everything out, and nothing in between asks the
host. On CUDA the step is captured, and compared with the plain one before any call; where it cannot be, or differs, it
is not used. On a CPU it runs as it is.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.drawing import Settings
from engine.model.rows import Rows
from engine.slot import FRAME_SAMPLES

logger = logging.getLogger(__name__)

Body: TypeAlias = Callable[[Rows, Tensor, Tensor, Settings, Tensor], tuple[Tensor, Tensor]]
"""Rows, audio [B, 1, 1920], forced [B, made], how to draw, mask [B] -> audio likewise, and columns [B, C]."""

HearBody: TypeAlias = Callable[[Rows, Tensor, Tensor], Tensor]
"""Rows of the ear, their places among the rows of the step [B], mask [B] -> what is written [B, C]."""

Told: TypeAlias = tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]
"""Of the rows that step: audio [n, 1920], forced [n, made], and `drawing.numbers`."""

Gave: TypeAlias = tuple[NDArray[np.float32], NDArray[np.int64]]
"""Audio [n, 1920] and columns [n, C]."""

WARM_UPS = 2
"""Runs before a capture, in which kernels are chosen and compiled."""

COMPARED = 4
"""Steps of a graph that are compared with plain ones."""

LOUDEST_DIFFERENCE = 1e-3
"""Between a graph's samples and the plain step's, of 1. Tokens must be equal."""


Shapes: TypeAlias = Sequence[tuple[int, ...]]

S = TypeVar("S", bound="Static")
"""A kind of static step."""


class _Buffers:
    """The same parts on the host and on the device, in one tensor each."""

    def __init__(self, whole: Shapes, broken: Shapes, device: torch.device) -> None:
        """Shapes of the int64 parts and of the float32 parts; the latter have an even number of elements in all."""
        words = sum(map(_size, whole))
        total = words + sum(map(_size, broken)) // 2
        self.host = torch.zeros(total, dtype=torch.int64, pin_memory=device.type == "cuda")
        self.device = torch.zeros(total, dtype=torch.int64, device=device)
        self.there = _parts(self.device, whole, broken, words)
        self.here = [part.numpy() for part in _parts(self.host, whole, broken, words)]


def _size(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape))


def _parts(buffer: Tensor, whole: Shapes, broken: Shapes, words: int) -> list[Tensor]:
    """Views of a buffer, the int64 ones first."""
    parts: list[Tensor] = []
    for flat, shapes in ((buffer[:words], whole), (buffer[words:].view(torch.float32), broken)):
        pieces = torch.split(flat, list(map(_size, shapes)))
        parts += [piece.view(shape) for piece, shape in zip(pieces, shapes, strict=True)]
    return parts


class Static(ABC):
    """Something of `width` rows of `rows` that runs between a buffer in and a buffer out. The parts of the buffer in
    begin with the rows' numbers [width] and a mask [width]; `whole` and `broken` are the others, int64 and float32."""

    def __init__(self, width: int, rows: int, whole: Shapes, broken: Shapes, out: _Buffers, device: torch.device):
        self.width, self._rows, self._device, self._out = width, rows, device, out
        self._graph: torch.cuda.CUDAGraph | None = None
        self._in = _Buffers([(width,), (width,), *whole], broken, device)

    @abstractmethod
    def step(self) -> None:
        """What happens on the device, from the buffer in to the buffer out."""

    def _choose(self, rows: Sequence[int]) -> None:
        """Let it be these rows, and others that stand still."""
        index, mask = self._in.here[:2]
        waiting = (row for row in range(self._rows) if row not in set(rows))
        index[:] = [*rows, *(row for row, _ in zip(waiting, range(self.width - len(rows)), strict=False))]
        mask[: len(rows)], mask[len(rows) :] = 1, 0

    def _run(self) -> None:
        """From host to host, though the host does not wait for it."""
        self._in.device.copy_(self._in.host, non_blocking=True)
        if self._graph is None:
            self.step()
        else:
            self._graph.replay()
        self._out.host.copy_(self._out.device, non_blocking=True)

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()

    @torch.inference_mode()
    def capture(self, pool: Any) -> None:
        """Let a CUDA graph do it from now on. Before any row is opened.

        Graphs of one `pool` (`torch.cuda.graph_pool_handle`, whose type is torch's own) share their memory: what is in
        it means nothing once a graph has run.
        """
        self._in.here[0][:] = np.arange(self.width)
        self._in.here[1][:] = 0
        self._in.device.copy_(self._in.host)
        side = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]  # torch leaves it without types
        side.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                self.step()
        torch.cuda.current_stream(self._device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            self.step()
        self._graph = graph


class StaticStep(Static):
    """A step of `width` rows of `rows`, each of which makes so many tokens and gives columns of so many."""

    def __init__(self, width: int, rows: int, made: int, columns: int, device: torch.device, body: Body) -> None:
        out = _Buffers([(width, columns)], [(width, 1, FRAME_SAMPLES)], device)
        super().__init__(width, rows, [(width, made), (4, width)], [(2, width), (width, 1, FRAME_SAMPLES)], out, device)
        self._body = body

    @torch.inference_mode()
    def start(self, rows: Sequence[int], told: Told) -> None:
        """Begin to step `rows`, at most `width`; `take` gives what comes of it."""
        count = len(rows)
        self._choose(rows)
        _, _, forced, whole, broken, audio = self._in.here
        audio[:count, 0], forced[:count], whole[:, :count], broken[:, :count] = told
        self._run()

    def take(self, count: int) -> Gave:
        """What the first `count` rows gave, and all that was begun before: the host waits."""
        self._wait()
        column, said = self._out.here
        return said[:count, 0], column[:count]

    def run(self, rows: Sequence[int], told: Told) -> Gave:
        """Step `rows`, at most `width`."""
        self.start(rows, told)
        return self.take(len(rows))

    @torch.inference_mode()
    def step(self) -> None:
        """What happens on the device, from the buffer in to the buffer out."""
        index, mask, forced, whole, broken, audio = self._in.there
        said, columns = self._body(Rows.scattered(index), audio, forced, (whole, broken), mask != 0)
        self._out.there[0].copy_(columns)
        self._out.there[1].copy_(said)


class StaticEar(Static):
    """`width` rows of an ear that has `rows`, which writes columns of so many. It hears what the step before left."""

    def __init__(self, width: int, rows: int, columns: int, device: torch.device, body: HearBody) -> None:
        super().__init__(width, rows, [(width,)], [], _Buffers([(width, columns)], [], device), device)
        self._body = body

    @torch.inference_mode()
    def start(self, rows: Sequence[int], places: Sequence[int]) -> None:
        """Begin to let `rows` hear; `places` are theirs among the rows of the step before."""
        self._choose(rows)
        self._in.here[2][: len(rows)] = places
        self._run()

    def take(self, count: int) -> NDArray[np.int64]:
        """What the first `count` rows wrote [count, columns]: the host waits."""
        self._wait()
        written: NDArray[np.int64] = self._out.here[0][:count]
        return written

    @torch.inference_mode()
    def step(self) -> None:
        """What happens on the device, from the buffer in to the buffer out."""
        index, mask, places = self._in.there
        self._out.there[0].copy_(self._body(Rows.scattered(index), places, mask != 0))


class Widths(Generic[S]):
    """Static steps by width, as far as they can be used."""

    def __init__(self, steps: Sequence[S]) -> None:
        self._steps = sorted(steps, key=lambda step: step.width)

    def of(self, rows: int) -> S | None:
        """The narrowest for so many rows."""
        return next((step for step in self._steps if step.width >= rows), None)

    def keep(self, usable: Callable[[S], None]) -> None:
        """Those of which `usable` raises nothing; of any other, one line says why not."""
        kept = []
        for step in self._steps:
            try:
                usable(step)
            except Exception as error:  # of a device that nobody has tried this on, anything may come
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                logger.warning("x steps of up to %d rows run without a graph: %s", step.width, reason)
            else:
                kept.append(step)
        self._steps = kept


def check_equal(plain: Gave, static: Gave) -> None:
    """Raises ValueError where they differ."""
    check_same(plain[1], static[1])
    loudest = float(np.abs(plain[0] - static[0]).max())
    if not loudest <= LOUDEST_DIFFERENCE:
        raise ValueError(f"its samples differ by up to {loudest:.2g}")


def check_same(plain: NDArray[np.int64], static: NDArray[np.int64]) -> None:
    """Raises ValueError where tokens [B, C] differ."""
    differ = (plain != static).any(1)
    if differ.any():
        raise ValueError(f"it makes other tokens in {int(differ.sum())} of {len(differ)} rows")
