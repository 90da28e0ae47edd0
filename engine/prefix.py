"""What the model remembers of prompts that were run: the next call that begins with the same need not run them.

Keys and values of a column depend on the columns up to it and on nothing else. So a row that is primed with a persona's
voice and prompt takes over what another has computed, as far as the two agree, and runs the rest. The least recently
used is forgotten where the memory for all of them is full; a call is never refused for it.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from engine.model.ring import KvState
from engine.model.voice import VoiceState, length_of

LEAST_COLUMNS = 8
"""In common, for it to be worth it."""


@dataclass(frozen=True, slots=True)
class PrefixCounts:
    """Primes that found all of their prompt, a part, or nothing; prompts that were forgotten, and what is held.

    Prompts too short to be remembered do not count.
    """

    whole: int = 0
    part: int = 0
    none: int = 0
    forgotten: int = 0
    held: int = 0
    held_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Shared:
    """The first `positions` of a row, to be copied into another."""

    kv: KvState
    positions: int


@dataclass(frozen=True, slots=True)
class _Entry:
    voice: VoiceState | None
    columns: NDArray[np.int64]  # [n, K], behind the voice's vectors
    shared: Shared


class Prefixes:
    """At most `most_bytes` of them; with 0, none. `whole_only`: a part of a prompt is not taken, for what is computed
    of the rest would depend, in its last bits, on where it begins."""

    def __init__(self, most_bytes: int, whole_only: bool = False) -> None:
        self._most_bytes, self._whole_only = most_bytes, whole_only
        self._entries: OrderedDict[int, _Entry] = OrderedDict()  # the most recently used last
        self._next = 0
        self.counts = PrefixCounts()

    def find(self, voice: VoiceState | None, columns: NDArray[np.int64], slots: int) -> Shared | None:
        """What is known of a voice and the columns [n, K] behind it, as far as a ring of `slots` holds it."""
        if not self._most_bytes or len(columns) < LEAST_COLUMNS:
            return None
        lengths = {key: _common(entry, voice, columns) for key, entry in self._entries.items()}
        best = max(lengths, key=lambda key: lengths[key], default=None)
        length = 0 if best is None else lengths[best]
        whole = length == len(columns)
        positions = length_of(voice) + length
        if best is None or positions > slots or length < LEAST_COLUMNS or (self._whole_only and not whole):
            self.counts = replace(self.counts, none=self.counts.none + 1)
            return None
        self._entries.move_to_end(best)
        self.counts = replace(self.counts, whole=self.counts.whole + whole, part=self.counts.part + (not whole))
        return Shared(self._entries[best].shared.kv, positions)

    def keep(self, voice: VoiceState | None, columns: NDArray[np.int64], kv: KvState) -> None:
        """Remember a row `kv` [1, ...] that has run a voice and the columns [n, K] behind it, and no more."""
        positions = length_of(voice) + len(columns)
        known = any(_common(entry, voice, columns) == len(columns) for entry in self._entries.values())
        size = kv.bytes_of(positions)
        if known or len(columns) < LEAST_COLUMNS or positions > kv.slots or size > self._most_bytes:
            return
        while self._entries and self.counts.held_bytes + size > self._most_bytes:
            self._forget()
        try:
            shared = Shared(kv.first(positions), positions)
        except torch.OutOfMemoryError:
            while self._entries:  # calls need it more
                self._forget()
            return
        self._entries[self._next] = _Entry(voice, columns.copy(), shared)
        self._next += 1
        self.counts = replace(self.counts, held=len(self._entries), held_bytes=self.counts.held_bytes + size)

    def clear(self) -> None:
        """Forget them all, and count anew."""
        self._entries.clear()
        self.counts = PrefixCounts()

    def _forget(self) -> None:
        _, entry = self._entries.popitem(last=False)
        size = entry.shared.kv.bytes_of(entry.shared.positions)
        self.counts = replace(
            self.counts,
            forgotten=self.counts.forgotten + 1,
            held=len(self._entries),
            held_bytes=self.counts.held_bytes - size,
        )


def _common(entry: _Entry, voice: VoiceState | None, columns: NDArray[np.int64]) -> int:
    """How many of the first columns are the same."""
    if entry.voice is not voice:
        return 0
    length = min(len(columns), len(entry.columns))
    differ = (columns[:length] != entry.columns[:length]).any(1)
    return int(differ.argmax()) if differ.any() else length
