"""Asking for a PIN: what is played, what was pressed, and how often anybody may guess.

Time is in ticks of 20 ms here, which the caller's leg counts; nothing waits.
"""

from __future__ import annotations

import wave
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from media.leg import Pcm
from media.pcm import BLOCKS_PER_S, Resampler, from_s16, silence

DATA = Path(__file__).parent / "data"

TRIES = 3

FIRST_TICKS = 10 * BLOCKS_PER_S
"""Who presses nothing for so long after the prompt has tried."""

NEXT_TICKS = 4 * BLOCKS_PER_S
"""What was pressed so long ago is all: not everybody knows which key the hash key is."""

MOST_TICKS = 120 * BLOCKS_PER_S
"""Of all tries: whoever is asked takes one of few places from others."""

PAUSE_TICKS = BLOCKS_PER_S // 2
"""Before the first word: a caller lifts the telephone to the ear."""

MAX_WRONG, WRONG_S = 30, 600.0
"""More wrong PINs than that in so many seconds, and nobody is asked any more: four digits would be found in an hour."""


@dataclass(frozen=True)
class Prompts:
    """What is said, at one rate."""

    ask: Pcm
    wrong: Pcm
    bye: Pcm
    sample_rate: int


@cache
def shipped_prompts(sample_rate: int) -> Prompts:
    """Those beside us, at that rate."""
    ask, wrong, bye = (_read(DATA / f"{name}.wav", sample_rate) for name in ("ask", "wrong", "bye"))
    return Prompts(ask, wrong, bye, sample_rate)


def _read(path: Path, sample_rate: int) -> Pcm:
    with wave.open(str(path)) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.int16)
        pcm = Resampler(file.getframerate(), sample_rate)(from_s16(samples))
    return pcm


class PinDialog:
    """Three tries. `room` is what the PIN opens once it is right; `over` is said when all tries are used, and heard.

    `opens` says which room a PIN opens, "" for none. A PIN ends with #, with `longest` digits, or with a pause; *
    begins it anew. Whoever presses a key is spoken to no longer, and who takes too long has tried for the last time.
    """

    def __init__(self, prompts: Prompts, opens: Callable[[str], str], longest: int) -> None:
        self.room = ""
        self._prompts, self._opens, self._longest = prompts, opens, longest
        self._block = prompts.sample_rate // BLOCKS_PER_S
        self._digits = ""
        self._tries = self._still = self._ticks = 0
        self._said = np.concatenate([silence(PAUSE_TICKS * self._block), prompts.ask])

    @property
    def over(self) -> bool:
        """Whether there is nothing more to wait for."""
        return bool(self.room) or (self._tries == TRIES and not len(self._said))

    def press(self, key: str) -> None:
        """A key. What is none of a PIN's is passed over."""
        if self._tries == TRIES or self.room or key not in "0123456789*#":
            return
        self._said, self._still = silence(0), 0
        if key == "*":
            self._digits = ""
        elif key == "#":
            self._try()
        else:
            self._digits += key
            if len(self._digits) == self._longest:
                self._try()

    def tick(self) -> Pcm:
        """The next 20 ms to be played."""
        self._ticks += 1
        if self._ticks == MOST_TICKS and self._tries < TRIES and not self.room:
            self._digits, self._tries = "", TRIES - 1
            self._try()
        block, self._said = self._said[: self._block], self._said[self._block :]
        if len(block):
            return np.concatenate([block, silence(self._block - len(block))])
        self._still += 1
        if self._still >= (NEXT_TICKS if self._digits else FIRST_TICKS) and not self.over:
            self._try()
        return silence(self._block)

    def _try(self) -> None:
        """What was pressed is all. To have pressed nothing is a try, but no guess."""
        self.room = self._opens(self._digits) if self._digits else ""
        if self.room:
            return
        prompts, guessed = self._prompts, bool(self._digits)
        self._digits, self._still = "", 0
        self._tries += 1
        answer = [prompts.wrong] * guessed
        rest = prompts.bye if self._tries == TRIES else prompts.ask
        self._said = np.concatenate([*answer, silence(PAUSE_TICKS * self._block), rest])


class Guesses:
    """How often a PIN was wrong lately, whoever tried. `now` is any monotonic clock in seconds."""

    def __init__(self) -> None:
        self._wrong: deque[float] = deque(maxlen=MAX_WRONG)

    def add(self, now: float) -> None:
        """One was wrong."""
        self._wrong.append(now)

    def too_many(self, now: float) -> bool:
        """Whether nobody is to be asked now."""
        return len(self._wrong) == MAX_WRONG and now - self._wrong[0] < WRONG_S
