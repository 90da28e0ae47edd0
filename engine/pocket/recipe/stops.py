"""Interruptions to which the agent gives way too late, and then still does.

Callers are recorded talking to an agent that stops when it should. One that has missed that frame would be in a place
where it has never been, and talk to the end. So in some of them it goes on for a while: it reads that it did, is not
asked for it, and is asked to be silent from then on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from engine.pocket.recipe.dialogues import LEAD, Encode, Timeline
from engine.pocket.recipe.formats import SILENCE, Clip, Dialogue

LATE_SHARE = 0.5
"""Of the interruptions."""

LATEST = 6
"""Frames: an answer to the shortest interruption begins as many and two later."""


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
