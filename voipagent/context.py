"""What was said, by whom, and when. No I/O."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Literal

PAUSE_S = 1.0
"""Silence in the text stream, in seconds, that ends a line."""


@dataclass(frozen=True, slots=True)
class Line:
    """One stretch of speech; times are seconds from the answer."""

    role: Literal["agent", "caller"]
    text: str
    start: float
    end: float

    def __str__(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def parse(cls, text: str) -> Line:
        """The inverse of `str`."""
        return cls(**json.loads(text))


class Transcript:
    """Joins the agent's pieces of text into lines; each finished line is handed to `write`.

    A line ends with a pause in the text stream, or where `end_line` says so.
    """

    def __init__(self, write: Callable[[Line], None]) -> None:
        self._write = write
        self._pieces: list[str] = []
        self._start = self._end = 0.0

    def hear(self, text: str, start: float, end: float, *, saying: bool = False) -> None:
        """Take the text of one frame, "" where the model was silent; the frame lasts from `start` to `end`.

        `saying`: a given text is not over yet, so that no silence ends its line. A long word is one.
        """
        if text:
            if not self._pieces:
                self._start = start
            self._pieces.append(text)
            self._end = end
        elif self._pieces and not saying and end - self._end > PAUSE_S:
            self.end_line()

    def end_line(self) -> None:
        """Finish the line, if there is one."""
        text = "".join(self._pieces).strip()
        if text:
            self._write(Line("agent", text, round(self._start, 3), round(self._end, 3)))
        self._pieces.clear()
