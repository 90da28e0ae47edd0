"""The ears of a batch's first rows, run beside its steps: plainly, or as static steps of their own.

Static, because whose ear hears changes from tick to tick, and what does not hear should cost nothing: an ear gives way
where there are too many calls, while the call goes on (`engine/admission.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.ear import Ear
from engine.graphs import COMPARED, StaticEar, Widths, check_same
from engine.model.listening import EarCheckpoint
from engine.model.moshi import UNGENERATED
from engine.model.rows import Rows
from engine.model.text import PAD

Written = NDArray[np.int64]
"""Of each row of a step [B, 1 + heads]: a text token, and the bits of the heads' probabilities."""


@dataclass(frozen=True, slots=True)
class Place:
    """Which rows of a step hear, as the device has it: of the ear, and among those of the step; None is all of them."""

    rows: Rows
    index: Tensor | None


class Ears:
    """Those of the first `ears` of `rows` rows. Use it from one thread only."""

    def __init__(self, checkpoint: EarCheckpoint, ears: int, rows: int, device: torch.device) -> None:
        self.ear, self._device = Ear(checkpoint, ears), device
        self.columns = 1 + self.ear.heads
        self._widths: Widths[StaticEar] = Widths([])
        self._sound = self.ear.sound(rows)  # what the rows of the last step heard, in their order

    def place(self, rows: Sequence[int], hearing: Sequence[int]) -> Place:
        """Rows of a step, of which those at `hearing` hear. To be made before anything runs: a copy to the device waits
        for what it was asked to do before."""
        everyone = len(hearing) == len(rows)
        index = None if everyone else torch.tensor(hearing, dtype=torch.int64, device=self._device)
        return Place(Rows.of([rows[at] for at in hearing], self._device), index)

    def hear(self, place: Place, sound: Tensor) -> Tensor:
        """What rows of a step write [B, columns] of what they hear, on the device; PAD where they do not."""
        if place.index is None:
            return self._written(sound, place.rows)
        written = torch.zeros(len(sound), self.columns, dtype=torch.int64, device=self._device)
        written[:, 0] = PAD
        return written.index_copy_(0, place.index, self._written(sound.index_select(0, place.index), place.rows))

    def _written(self, sound: Tensor, rows: Rows, mask: Tensor | None = None) -> Tensor:
        """Probabilities ride as their bits: one copy takes them out with the tokens."""
        tokens, quiet = self.ear.hear(sound, rows, mask)
        return torch.cat((tokens[:, None], quiet.contiguous().view(torch.int32).long()), 1)

    # --- as static steps

    def keep(self, sound: Tensor) -> None:
        """Leave what the rows of a step hear where `start` reads it; part of the static step."""
        self._sound[: len(sound)].copy_(sound[:, : self._sound.shape[1]])

    def start(self, rows: Sequence[int], hearing: Sequence[int]) -> Callable[[], Written]:
        """Begin to let the rows at `hearing` hear what was kept; what is returned gives what all `rows` write."""
        ears = [rows[at] for at in hearing]
        static = self._widths.of(len(ears)) if ears else None
        written = np.zeros((len(rows), self.columns), np.int64)
        written[:, 0] = PAD
        if static is not None:
            static.start(ears, hearing)

        def take() -> Written:
            if static is not None:
                written[hearing] = static.take(len(ears))
            elif ears:
                place = self.place(rows, hearing)
                written[hearing] = self._plain(place, hearing).cpu().numpy()
            return written

        return take

    @torch.inference_mode()
    def _plain(self, place: Place, hearing: Sequence[int]) -> Tensor:
        return self._written(self._sound[list(hearing)], place.rows)

    def prepare(self, widths: Sequence[int], pool: object | None) -> None:
        """Let so many rows or less hear in the narrowest of `widths`; captured, and compared, where there is a `pool`.

        Before any row is opened.
        """
        self._widths = Widths(
            [StaticEar(width, self.ear.rows, self.columns, self._device, self._body) for width in widths]
        )
        if pool is not None:
            self._widths.keep(lambda static: static.capture(pool))
            self._widths.keep(self._compare)

    def _body(self, rows: Rows, places: Tensor, mask: Tensor) -> Tensor:
        return self._written(self._sound.index_select(0, places), rows, mask)

    def _compare(self, static: StaticEar) -> None:
        """Raises ValueError if it writes anything else than a plain step of as many rows."""
        rows, random = range(static.width), np.random.default_rng(0)
        shape = self._sound.shape[1:]
        sounds = [
            torch.from_numpy(
                random.normal(0, 0.1, (static.width, *shape)).astype(np.float32)
                if self.ear.hears_audio
                else random.integers(0, 2, (static.width, *shape))
            ).to(self._device)
            for _ in range(COMPARED)
        ]

        def lived(hear: Callable[[], NDArray[np.int64]]) -> list[NDArray[np.int64]]:
            for row in range(self.ear.rows):
                self.ear.reset(row)
            written = []
            for sound in sounds:
                self._sound[: static.width].copy_(sound)
                written.append(hear().copy())
            return written

        def plain() -> NDArray[np.int64]:
            return self._plain(self.place(rows, rows), rows).cpu().numpy()

        def graph() -> NDArray[np.int64]:
            static.start(rows, rows)
            return static.take(static.width)

        with torch.inference_mode():
            for one, other in zip(lived(plain), lived(graph), strict=True):
                check_same(one[:, :1], other[:, :1])


def read(written: Written) -> tuple[int, tuple[float, ...]]:
    """One row's: the token, PAD where there is none yet, or no number; and the probabilities of quiet."""
    token, *bits = written.tolist()
    quiet = np.array(bits, np.int32).view(np.float32)
    return (PAD if token == UNGENERATED else token), tuple(quiet.tolist()) if np.isfinite(quiet).all() else ()
