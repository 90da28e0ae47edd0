"""What was said, by whom, and when. No I/O."""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeAlias

from voipagent.words import Word, Words, parse_words

PAUSE_S = 1.0
"""Silence in the text stream, in seconds, that ends a line."""

QUIET_HEAD, QUIET = 2, 0.5
"""Of an ear's heads the one for the next 2 s, and from when on it finds nothing said in them: a turn is over."""

WORD_S = 0.24
"""Without a piece for so long a word has no more of them."""

PATIENCE_S = 10.0
"""Seconds behind the call that a line waits, at most, for the other side to finish what it began earlier."""

SPEAKER_FRAMES = 2
"""How long after a word began it is looked who was loudest: it takes a while until that is no longer the last one."""

Role: TypeAlias = Literal["agent", "caller"]


@dataclass(frozen=True, slots=True)
class Line:
    """One stretch of speech; times are seconds from the answer. `interrupted`: the other side made it end early.

    `words`: when each was said, where that is known, as it is of a caller's. `speaker`: which of several callers.
    """

    role: Role
    text: str
    start: float
    end: float
    interrupted: bool = False
    words: tuple[Word, ...] = ()
    speaker: str = ""

    def __str__(self) -> str:
        return json.dumps(self.as_dict(), ensure_ascii=False)

    def as_dict(self) -> dict[str, Any]:
        """For JSON; without words that nobody has timed, and without a speaker where there is only one."""
        return {name: value for name, value in asdict(self).items() if value or name not in ("words", "speaker")}

    @classmethod
    def parse(cls, text: str) -> Line:
        """The inverse of `str`."""
        line = cls(**json.loads(text))
        return replace(line, words=parse_words(line.words))


class Transcript:
    """Joins what each side says into lines; finished ones are handed to `write` in the order in which they began.

    A line ends with a pause in its text stream, or where `end_line` or `break_line` says so; the caller's also where
    the ear's heads say that the turn is over. It waits while the other side is still at one that began earlier, but not
    beyond PATIENCE_S: until then only the note in a call's folder has it.

    The caller's words are known `delay_frames` after they were said (`Slot.hearing_delay_frames`); their times are set
    back by as much. What the caller says in the last of these before the end of the call is lost with it: nobody
    listens on for words that nobody answers.

    Where several are the caller, a word is of the one who was loudest soon after it began, and another one begins a
    line.
    """

    def __init__(self, write: Callable[[Line], None], delay_frames: int = 0) -> None:
        self._write = write
        self._agent, self._caller = _Side("agent"), _Side("caller")
        self._frames = deque([(0.0, 0.0)], maxlen=1 + delay_frames)  # the last steps' times
        self._speakers = deque([""], maxlen=1 + delay_frames)  # and who was loudest then
        self._over = deque([False], maxlen=1 + delay_frames)  # and whether the caller had said it all
        self._finished: list[Line] = []
        self.lines: list[Line] = []  # all that were written

    def hear(
        self,
        text: str,
        start: float,
        end: float,
        *,
        heard: str = "",
        word_due: bool = False,
        saying: bool = False,
        speakers: Sequence[str] = (),
        quiet: Sequence[float] = (),
    ) -> None:
        """Take the texts of one step, "" where there was none: the agent's, and `heard`, the caller's.

        The step's frame lasts from `start` to `end`. `saying`: a given text is not over yet, so that no silence ends
        the agent's line. A long word is one. `word_due`: one of the caller's is about to begin. `speakers`: who of
        several callers spoke in the frame, the loudest first; nobody: whoever spoke last, for a word ends softly.
        `quiet`: `Reply.quiet`, by which the caller's line may end before a pause does.
        """
        self._frames.append((start, end))
        self._speakers.append(speakers[0] if speakers else self._speakers[-1])
        self._finish(self._agent.hear(text, start, end, saying=saying))
        speaker = self._speakers[min(SPEAKER_FRAMES, len(self._speakers) - 1)]
        self._finish(self._caller.change_speaker(speaker, heard))
        self._finish(self._caller.hear(heard, *self._frames[0], due=word_due))
        self._over.append(len(quiet) > QUIET_HEAD and quiet[QUIET_HEAD] > QUIET)
        if self._over[0] and not word_due:
            self._finish(self._caller.end_turn(self._frames[0][1]))
        self._release(self._horizon())

    def end_line(self) -> None:
        """Finish the agent's line, if there is one."""
        self._finish(self._agent.end_line())
        self._release(self._horizon())

    def break_line(self, at: float) -> None:
        """The agent fell silent at that time of the call: what it said since is a line of its own."""
        self._finish(self._agent.break_line(at))
        self._release(self._horizon())

    @property
    def so_far(self) -> list[Line]:
        """All lines, and both sides' as far as they have come."""
        return [*self.lines, *sorted([*self._finished, *self.growing], key=lambda each: each.start)]

    @property
    def growing(self) -> list[Line]:
        """Both sides' lines as far as they have come."""
        return [line for line in (self._agent.line, self._caller.line) if line is not None]

    def close(self) -> None:
        """Finish both sides' lines, and write what is left."""
        self._finish(self._agent.end_line())
        self._finish(self._caller.end_line())
        self._release(math.inf)

    def _finish(self, line: Line | None) -> None:
        if line is not None:
            self._finished.append(line)
            self._finished.sort(key=lambda each: each.start)

    def _horizon(self) -> float:
        """What begins from here on may still come, or wait for what does."""
        (_, listened), (_, now) = self._frames[0], self._frames[-1]
        return max(min(self._agent.began(now), self._caller.began(listened)), now - PATIENCE_S)

    def _release(self, horizon: float) -> None:
        """Write the finished lines that began before."""
        while self._finished and self._finished[0].start <= round(horizon, 3):
            self.lines.append(self._finished.pop(0))
            self._write(self.lines[-1])


class _Side:
    """One side's line, as far as it has come."""

    def __init__(self, role: Role) -> None:
        self._role = role
        self._pieces: list[str] = []
        self._times: list[tuple[float, float]] = []  # of the pieces
        self._words = Words() if role == "caller" else None
        self._speaker = ""

    def began(self, now: float) -> float:
        """When the line began; without one `now`, for the next cannot begin earlier."""
        return self._times[0][0] if self._times else now

    def hear(self, text: str, start: float, end: float, *, saying: bool = False, due: bool = False) -> Line | None:
        """Take a frame's text; gives the line that a pause ends."""
        if self._words is not None:
            self._words.hear(text, start, end, due=due)
        if text:
            self._pieces.append(text)
            self._times.append((start, end))
        elif self._pieces and not saying and end - self._times[-1][1] > PAUSE_S:
            return self.end_line()
        return None

    def break_line(self, at: float) -> Line | None:
        """The line up to a time, with the whole of a word that began before it; what follows is the next line."""
        kept = sum(start < at for start, _ in self._times)
        while 0 < kept < len(self._pieces) and not self._pieces[kept].startswith(" "):
            kept += 1
        pieces, times = self._pieces[kept:], self._times[kept:]
        del self._pieces[kept:], self._times[kept:]
        line = self.end_line()
        self._pieces, self._times = pieces, times
        return line

    def end_turn(self, now: float) -> Line | None:
        """The line, unless its last word may go on."""
        return self.end_line() if self._pieces and now - self._times[-1][1] > WORD_S else None

    def change_speaker(self, speaker: str, text: str) -> Line | None:
        """Whose the coming text is, where it begins a word; gives the line that another one's ends."""
        if speaker == self._speaker or not text or (self._speaker and self._pieces and not text.startswith(" ")):
            return None
        line = self.end_line() if self._speaker else None
        self._speaker = speaker
        return line

    @property
    def line(self) -> Line | None:
        """The line as far as it has come."""
        text = "".join(self._pieces).strip()
        if not text:
            return None
        start, end = self._times[0][0], self._times[-1][1]
        return Line(self._role, text, round(start, 3), round(end, 3), speaker=self._speaker)

    def end_line(self) -> Line | None:
        """The line, if there is one; the next text begins another."""
        line = self.line
        words = self._words.take() if self._words is not None else ()
        if line is not None and words:
            # Lines are written in the order in which they began: none turns out later to have begun earlier.
            first = replace(words[0], start=max(words[0].start, line.start))
            line = replace(line, end=max(line.end, words[-1].end), words=(first, *words[1:]))
        self._pieces, self._times = [], []
        return line
