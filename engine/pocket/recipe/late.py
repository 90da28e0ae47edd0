"""What comes too late: the agent gives way to an interruption, or begins to speak, some frames after it should.

In what it learns from, it does all in time. One that has missed a frame would be in a place where it has never been:
talk to the end, say nothing at all, or go on with an answer's second word. So in some of what it learns from it is
late: it reads that it was, is not asked for it, and is asked to do it then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from engine.model.text import PAD
from engine.pocket.recipe.dialogues import LEAD, Encode, Timeline
from engine.pocket.recipe.formats import SILENCE, Clip, Dialogue, Event

LATE_SHARE = 0.5
"""Of the interruptions."""

LATEST = 6
"""Frames: an answer to the shortest interruption begins as many and two later."""

BEGUN_LATE_SHARE = 0.25
"""Of the answers, and of the questions into a silence."""

BEGUN_LATEST = 10
"""Frames."""


def given_way_late(
    dialogue: Dialogue, clips: Sequence[Clip], encode: Encode, random: np.random.Generator
) -> tuple[Dialogue, tuple[int, ...]]:
    """The dialogue with up to LATEST frames more of what the agent was saying behind some stops; and which they are."""
    schedule, text = dialogue.schedule.copy(), dialogue.text.copy()
    late: list[int] = []
    for event in dialogue.events:
        if event.kind != "stop" or random.random() >= LATE_SHARE or not 0 < event.frame < dialogue.frames:
            continue
        number, within = schedule[event.frame - 1].tolist()
        if number == SILENCE:
            continue
        line = Timeline(LEAD + 1 + clips[number].frames, clips, encode)
        line.speak([number], LEAD + 1)
        rest = slice(LEAD + 2 + within, LEAD + 2 + within + 1 + int(random.integers(LATEST)))
        frames = min(len(line.schedule[rest]), dialogue.frames - event.frame)
        schedule[event.frame : event.frame + frames] = line.schedule[rest][:frames]
        text[event.frame : event.frame + frames] = line.text[rest][:frames]
        late += range(event.frame, event.frame + frames)
    return replace(dialogue, schedule=schedule, text=text), tuple(late)


def begun_late(dialogue: Dialogue, random: np.random.Generator) -> tuple[Dialogue, tuple[int, ...]]:
    """The dialogue with some of what the agent says up to BEGUN_LATEST frames later; and in which frames it is late.

    Only what is heard out before anything else happens can be late.
    """
    schedule, text, events = dialogue.schedule.copy(), dialogue.text.copy(), list(dialogue.events)
    late: list[int] = []
    for place, event in enumerate(dialogue.events):
        first = event.frame - LEAD - 1
        if event.kind not in ("answer", "silence") or random.random() >= BEGUN_LATE_SHARE or first < 1:
            continue
        next_at = min([_begins(each) for each in dialogue.events if _begins(each) > first], default=dialogue.frames)
        end = min(_end(schedule, event.frame), next_at)
        room = BEGUN_LATEST if end == next_at == dialogue.frames else next_at - end
        frames = min(room, 1 + int(random.integers(BEGUN_LATEST)))
        if frames > 0:
            _shift(schedule, first, end, frames, SILENCE)
            _shift(text, first, end, frames, PAD)
            late += range(first, min(first + frames, dialogue.frames))
            events[place] = replace(event, frame=event.frame + frames)
    return replace(dialogue, schedule=schedule, text=text, events=tuple(events)), tuple(late)


def _begins(event: Event) -> int:
    """The first frame that it has something to do with."""
    if event.kind in ("question", "stop"):
        return event.start
    return event.frame if event.kind in ("noise", "missed") else event.frame - LEAD - 1


def _end(schedule: NDArray[np.int16], start: int) -> int:
    """The first silent frame from `start` on."""
    silent = np.flatnonzero(schedule[start:, 0] == SILENCE)
    return start + int(silent[0]) if len(silent) else len(schedule)


def _shift(values: NDArray[np.int16], first: int, end: int, frames: int, fill: int) -> None:
    """The part from `first` to `end` that many frames later; what would lie beyond the last is dropped."""
    moved = values[first:end].copy()
    values[first : first + frames] = fill
    rest = values[first + frames : end + frames]
    rest[:] = moved[: len(rest)]
