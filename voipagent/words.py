"""When each word of a line was said. No I/O.

A streaming recogniser writes the pieces of a word at once, and before them a mark that one is about to begin. A word
begins at its mark, and lasts to the next: so Kyutai's own programs read it. But nothing marks where the last word
before a pause ends; it is given LAST_S beyond its last piece, about what is left of a word that begins with its text.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

LAST_S = 0.48
"""Six frames."""


@dataclass(frozen=True, slots=True)
class Word:
    """A word; times are seconds from the answer."""

    text: str
    start: float
    end: float


class Words:
    """The words of one side's line, as far as it has come. Times are those of when it was said."""

    def __init__(self) -> None:
        self._ended: list[Word] = []
        self._pieces: list[str] = []
        self._start = self._end = 0.0
        self._mark: float | None = None

    def hear(self, text: str, start: float, end: float, *, due: bool = False) -> None:
        """Take a frame's text, "" where there is none; `due`: a word is about to begin."""
        if due:
            self._close(end)
            self._mark = end
        elif text:
            if text[:1].isspace():
                self._close(start)
            if not self._pieces:
                self._start, self._mark = start if self._mark is None else self._mark, None
            self._pieces.append(text)
            self._end = end
        else:
            self._expire(end)

    def _expire(self, now: float) -> None:
        if self._pieces and now - self._end >= LAST_S:
            self._close(now)

    def _close(self, now: float) -> None:
        """The word is over by `now`."""
        text = "".join(self._pieces).strip()
        if text:
            end = max(min(now, self._end + LAST_S), self._start)
            self._ended.append(Word(text, round(self._start, 3), round(end, 3)))
        self._pieces.clear()

    @property
    def so_far(self) -> tuple[Word, ...]:
        """Those that are over."""
        return tuple(self._ended)

    def take(self) -> tuple[Word, ...]:
        """All of them; the next text begins another line. One that is not over ends with its last piece."""
        self._close(self._end)
        taken = self.so_far
        self._ended.clear()
        return taken


def parse_words(told: Iterable[Any]) -> tuple[Word, ...]:
    """The inverse of `asdict`. Raises TypeError for what is no word."""
    return tuple(Word(**word) for word in told)
