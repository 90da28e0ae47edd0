"""A call's transcript as text: JSON lines while it lasts; JSON, WebVTT and plain text at its end. No I/O."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence

from voipagent.context import Line

LIVE = "transcript.jsonl"
"""What is written while the call lasts; the others are made of it."""

VERSION = 1
"""Of transcript.json. It rises only if a key changes its meaning."""

SHORTEST_S = 0.001
"""Of a cue: WebVTT wants an end after its start (W3C WebVTT, section 4.1)."""


def as_json(lines: Sequence[Line]) -> str:
    """`{"version", "lines": [{"role", "text", "start", "end", "interrupted"}]}`, in the order in which they began.

    With "words" where they are timed, and "speaker" where several are the caller.
    """
    told = {"version": VERSION, "lines": [line.as_dict() for line in _ordered(lines)]}
    return json.dumps(told, ensure_ascii=False, indent=2) + "\n"


def as_webvtt(lines: Sequence[Line]) -> str:
    """W3C WebVTT: a cue a line, its speaker as voice. Cues may overlap, as people do."""
    cues = [
        f"{_cue_times(line)}\n<v {_escaped(_who(line))}>{_escaped(_one_line(line.text))}</v>\n"
        for line in _ordered(lines)
    ]
    return "\n".join(["WEBVTT\n", *cues])


def as_text(lines: Sequence[Line]) -> str:
    """For people: when, who, what."""
    return "".join(f"[{_clock(line.start)[:-4]}] {_told(line)}\n" for line in _ordered(lines))


FILES: Mapping[str, Callable[[Sequence[Line]], str]] = {
    "transcript.json": as_json,
    "transcript.vtt": as_webvtt,
    "transcript.txt": as_text,
}
"""What is written at the end of a call, by the name of the file."""


def parse_lines(text: str) -> list[Line]:
    """JSON lines, but those that are none: the last one may be torn, where the writer was killed."""
    return [line for line in map(_parsed, text.split("\n")) if line is not None]


def _parsed(text: str) -> Line | None:
    try:
        line = Line.parse(text)
        return line if isinstance(line.text, str) and 0 <= line.start <= line.end else None
    except (ValueError, TypeError):
        return None


def _ordered(lines: Iterable[Line]) -> list[Line]:
    """A line that waited long for the other side's may have been written after one that began later."""
    return sorted(lines, key=lambda line: line.start)


def _told(line: Line) -> str:
    return f"{_who(line)}: {_one_line(line.text)}{' (interrupted)' if line.interrupted else ''}"


def _who(line: Line) -> str:
    return _one_line(line.speaker) or line.role.capitalize()


def _one_line(text: str) -> str:
    """A blank line would end the cue."""
    return " ".join(text.replace("\0", "\ufffd").split())


def _escaped(text: str) -> str:
    """Neither a tag nor an arrow can come from what was said (W3C WebVTT, section 4.2.2)."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _cue_times(line: Line) -> str:
    return f"{_clock(line.start)} --> {_clock(max(line.end, line.start + SHORTEST_S))}"


def _clock(seconds: float) -> str:
    """hh:mm:ss.ttt; hours have two digits or more."""
    milliseconds = round(seconds * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest // 1000:02d}.{rest % 1000:03d}"
