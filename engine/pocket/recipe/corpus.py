"""Coded dialogues as what the models read and are to make: frames behind their prompt, and labels at frames.

Index i of an example is a frame of prompt and call together. Column i is read to predict frame i's text and first code
and frame i - 1's other codes, which column i + 1 holds; so everything that has a frame has that index.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.model.text import EPAD, PAD, SILENT, Tokenizer
from engine.pocket.prompt import render
from engine.pocket.recipe.dialogues import GREETING, LEAD, moved
from engine.pocket.recipe.domain import TELLING, Domain
from engine.pocket.recipe.encode import Voice
from engine.pocket.recipe.formats import SILENCE, Dialogue, Span, read_dialogues, shards
from engine.pocket.recipe.told import LISTS, Told
from engine.slot import FRAME_SAMPLES, SAMPLE_RATE

FRAME_S = FRAME_SAMPLES / SAMPLE_RATE

TEMPTING_FRAMES = 12
"""From where something is heard that is to change nothing. Were the frames in which the agent stops all asked for and
those in which it goes on seldom, it would learn to stop."""

PAUSE_FRAMES = 6
"""Without a word: what is said next is something new, and the first word of it decides all."""

EDGE_FRAMES = 4
"""From the first sound of a turn, and from the first silence after it: what makes a turn begin and end well."""

STOP_FRAMES = 4
"""From the first in which the agent is silent because it was interrupted."""

LISTENING_FRAMES = 38
"""From the first sound of an "mm-hm": no other is to begin in these 3 s, as long as the caller goes on."""

SAID = {"greeting", "answer", "silence", "backchannel"}
"""Events at whose frame the agent's sound begins."""

CLOSING = 2
"""Frames: a name is written in one or two pieces."""

LEAST_FRAMES = 100
"""Of a call that goes on in a fresh row."""

TOLD_FRAMES = 3
"""In which it is asked what the caller has just told."""

IGNORED = -100
"""A label that no loss counts."""


@dataclass(frozen=True, slots=True)
class Labels:
    """What words and intents there are to be told apart; what is rarer or unknown is left out."""

    intents: tuple[str, ...]
    words: tuple[str, ...]

    def intent(self, name: str) -> int:
        return self.intents.index(name) if name in self.intents else IGNORED


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """`frames` [P + T, K]; the first `prompt` are the prompt's. Frame numbers count from the prompt's first.

    `edges` bool [P + T]: frames at a turn's begin or end, or where it might have ended. `opening` bool [P + T]: the
    first piece of what is said, and of each further clip: where it is decided which.
    `asked`: (last frame of a question, its intent's label, its words' labels). `heard`: (frame in which a word ended,
    its label). `told`: (from which frame on, what is known then), by `told_so_far`. `stopped`: frames in which it is to
    fall silent because it was interrupted, or to listen on. `unasked`: frames that are read, but not asked for.
    """

    frames: NDArray[np.int64]
    prompt: int
    edges: NDArray[np.bool_]
    opening: NDArray[np.bool_]
    asked: tuple[tuple[int, int, tuple[int, ...]], ...]
    heard: tuple[tuple[int, int], ...]
    told: tuple[tuple[int, Told], ...] = ()
    stopped: tuple[int, ...] = ()
    unasked: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.frames)


def read_coded(work: Path, kind: str) -> list[Dialogue]:
    """All coded dialogues of a kind. Raises ValueError where there are none."""
    found = shards(work / "coded", kind)
    if not found:
        raise ValueError(f"{work / 'coded'} has no {kind} dialogues; make them with engine.pocket.recipe.encode")
    return [dialogue for path in found for dialogue in read_dialogues(path)]


def labels_of(dialogues: Iterable[Dialogue], most: int = 900, least: int = 5) -> Labels:
    """The intents, and the callers' words that are said often enough to be learnt."""
    intents: set[str] = set()
    words: Counter[str] = Counter()
    for dialogue in dialogues:
        intents |= {event.intent for event in dialogue.events if event.kind == "question" and event.intent}
        words.update(spelt(span.label) for span in dialogue.heard)
    known = [word for word, count in words.most_common(most) if count >= least and word]
    return Labels(tuple(sorted(intents)), tuple(known))


def spelt(word: str) -> str:
    """A word without what cannot be heard."""
    return re.sub(r"[^a-z']", "", word.lower())


def example_of(
    dialogue: Dialogue, voice: Voice, tokenizer: Tokenizer, labels: Labels, unasked: Sequence[int] = ()
) -> Example:
    """A whole dialogue behind its prompt, laid out as the engine primes a row. `unasked`: frames of the dialogue."""
    assert dialogue.codes is not None
    prompt = voice.layout.frames(tokenizer, dialogue.prompt)
    said = voice.agent(dialogue.schedule)
    call = np.concatenate((dialogue.text.astype(np.int64)[:, None], said, dialogue.codes.astype(np.int64)), 1)
    start, index = len(prompt), {word: number for number, word in enumerate(labels.words)}
    asked = tuple(
        (start + event.frame, labels.intent(event.intent), _known(event.text.split(), index))
        for event in dialogue.events
        if event.kind == "question" and event.frame < dialogue.frames
    )
    heard = tuple(
        (start + min(dialogue.frames - 1, int(span.end_s / FRAME_S)), index[spelt(span.label)])
        for span in dialogue.heard
        if spelt(span.label) in index
    )
    before = np.zeros(start, np.bool_)
    return Example(
        np.concatenate((prompt, call)),
        start,
        np.concatenate((before, _edges(dialogue.schedule) | _tempting(dialogue))),
        np.concatenate((before, _opening(dialogue.text, dialogue.schedule[:, 0]))),
        asked,
        heard,
        stopped=tuple(start + frame for frame in _stopped(dialogue, unasked)),
        unasked=tuple(start + frame for frame in unasked),
    )


def _stopped(dialogue: Dialogue, late: Sequence[int]) -> Iterator[int]:
    """STOP_FRAMES in which it is silent behind each stop, and those in which it came too late for that; and
    LISTENING_FRAMES of each "mm-hm", up to the end of the turn."""
    ends = {event.start: event.frame for event in dialogue.events if event.kind == "question"}
    for event in dialogue.events:
        first, last = event.frame, dialogue.frames
        if event.kind == "stop":
            while first in late:
                first += 1
            last = min(last, first + STOP_FRAMES)
        elif event.kind == "backchannel":
            last = min(last, first + LISTENING_FRAMES, ends.get(event.start, last) + 1)
        else:
            continue
        yield from range(first, last)


def _known(words: Sequence[str], index: dict[str, int]) -> tuple[int, ...]:
    return tuple(sorted({index[spelt(word)] for word in words if spelt(word) in index}))


def _edges(schedule: NDArray[np.int16]) -> NDArray[np.bool_]:
    """EDGE_FRAMES from each change between silence and a clip, or between clips."""
    clip = schedule[:, 0]
    edges = np.zeros(len(clip), np.bool_)
    for frame in (np.flatnonzero(np.diff(clip, prepend=SILENCE))).tolist():
        edges[frame : frame + EDGE_FRAMES] = True
    return edges


def _tempting(dialogue: Dialogue) -> NDArray[np.bool_]:
    """TEMPTING_FRAMES from each noise, and each mutter; and, of an interruption, those before the agent stops."""
    frames = np.zeros(dialogue.frames, np.bool_)
    for event in dialogue.events:
        if event.kind == "noise":
            frames[event.frame : event.frame + TEMPTING_FRAMES] = True
        elif event.kind == "stop":
            frames[event.start : event.frame] = True
    return frames


def _opening(text: NDArray[np.int16], clip: NDArray[np.int16]) -> NDArray[np.bool_]:
    """The first piece after a pause, and of each clip that follows another, a name, a digit, a company; and CLOSING
    frames behind that: a full stop there says that no company follows, or no further digit.
    """
    opening = np.zeros(len(text), np.bool_)
    last = -PAUSE_FRAMES - 1
    for frame in np.flatnonzero(~np.isin(text, list(SILENT))).tolist():
        opening[frame] = frame - last > PAUSE_FRAMES
        last = frame
    for start in (np.flatnonzero((np.diff(clip) != 0) & (clip[:-1] != SILENCE) & (clip[1:] != SILENCE)) + 1).tolist():
        begun = start - LEAD + np.flatnonzero(~np.isin(text[start - LEAD : start + LEAD], list(SILENT)))
        for frame in begun[:1].tolist():
            opening[frame : frame + 1 + CLOSING] = True
    return opening


def bare(example: Example) -> Example:
    """Without the prompt. Nothing is asked of its first frames: a call that begins without one is greeted there."""
    start = example.prompt
    return Example(
        example.frames[start:],
        GREETING,
        example.edges[start:],
        example.opening[start:],
        tuple((frame - start, intent, words) for frame, intent, words in example.asked),
        tuple((frame - start, word) for frame, word in example.heard),
        _without_persona(example.told, start),
        tuple(frame - start for frame in example.stopped),
        tuple(frame - start for frame in example.unasked),
    )


def excused(example: Example, dialogue: Dialogue) -> Example:
    """A window without its prompt, in which nothing is asked of the frames in which a question was missed."""
    missed = [event.frame for event in dialogue.events if event.kind == "missed"]
    return replace(example, prompt=max([example.prompt, *missed]))


def telling(example: Example) -> Example | None:
    """The example up to TOLD_FRAMES after the caller has told something last, and what is known then; None: nothing is
    told. Beyond that the agent says it, and it is known from there.
    """
    if len(example.told) < 2:
        return None
    start, known = example.told[-1]
    end = min(len(example), start + TOLD_FRAMES)
    return replace(
        example,
        frames=example.frames[:end],
        edges=example.edges[:end],
        opening=example.opening[:end],
        asked=tuple(each for each in example.asked if each[0] < end),
        heard=tuple(each for each in example.heard if each[0] < end),
        told=((start, known),),
        stopped=tuple(frame for frame in example.stopped if frame < end),
        unasked=tuple(frame for frame in example.unasked if frame < end),
    )


def _without_persona(told: Sequence[tuple[int, Told]], start: int) -> tuple[tuple[int, Told], ...]:
    """What is known where no prompt tells it, counted from frame `start`: nothing is asked if nobody tells anything."""
    facts = [(max(0, frame - start), known[len(LISTS) :]) for frame, known in told]
    if not any(any(known) for _, known in facts):
        return ()
    return tuple((frame, (*[IGNORED] * len(LISTS), *known)) for frame, known in facts)


def is_told(dialogue: Dialogue, domain: Domain) -> bool:
    """Whether an answer in it depends on what the prompt says."""
    return any(event.intent in domain.naming - TELLING.keys() for event in dialogue.events)


def cut_frame(dialogue: Dialogue, random: np.random.Generator) -> int:
    """Where a call may go on in a fresh row: while nobody says anything, nor so late that nothing follows. 0: nowhere,
    for what begins before the greeting has nothing to go on from.
    """
    first = int(random.integers(0, max(1, dialogue.frames - LEAST_FRAMES)))
    asked = [event for event in dialogue.events if event.kind == "question"]
    if not is_begun(dialogue):  # what its prompt knows already is not taken apart here
        first = min([first, *(event.start for event in asked if event.intent in TELLING)])
    silent = (dialogue.schedule[:, 0] == SILENCE) & np.isin(dialogue.text, list(SILENT))
    for event in asked:
        silent[event.start + 1 : event.frame + PAUSE_FRAMES + 1] = False
    for event in dialogue.events:
        if event.kind in SAID:  # its text leads its sound, and what it is said to is what a fresh row has not heard
            silent[max(0, event.frame - LEAD - 1) : event.frame] = False
    free = np.flatnonzero(silent[GREETING + 1 : first + 1])
    return GREETING + 1 + int(free[-1]) if free.size else 0


def cut(dialogue: Dialogue, first: int) -> Dialogue:
    """The call from frame `first` on, as it goes on in a fresh row: the prompt says what the caller has told so far. 0:
    the whole call.
    """
    if not first:
        return dialogue
    assert dialogue.codes is not None
    before = [event for event in dialogue.events if event.kind == "question" and event.start < first]
    known = {TELLING[event.intent]: event.slot for event in before if event.intent in TELLING}
    seconds = first * FRAME_S
    return replace(
        dialogue,
        prompt=render(dialogue.prompt, known) if is_begun(dialogue) else dialogue.prompt,
        schedule=dialogue.schedule[first:],
        text=dialogue.text[first:],
        codes=dialogue.codes[first:],
        heard=_behind(dialogue.heard, seconds),
        phones=_behind(dialogue.phones, seconds),
        events=tuple(
            replace(event, frame=event.frame - first, start=max(-1, event.start - first))
            for event in dialogue.events
            if event.frame >= first
        ),
    )


def _behind(spans: Iterable[Span], seconds: float) -> tuple[Span, ...]:
    """Those that begin later, counted from there."""
    return tuple(moved((span for span in spans if span.start_s >= seconds), -seconds))


def is_begun(dialogue: Dialogue) -> bool:
    """Whether it is a call from its beginning on, with a prompt that knows nothing."""
    return any(event.kind == "greeting" for event in dialogue.events)


def write_heard(heard: Sequence[Span], frames: int, tokenizer: Tokenizer, delay: int) -> NDArray[np.int64]:
    """What the ear is to write [T]: a word's boundary `delay` frames after its begin, then its pieces, else PAD.

    Where words crowd, a word waits for the one before it; what does not end before T is left out.
    """
    text = np.full(frames, PAD, np.int64)
    free = 0
    for span in heard:
        pieces = [token for token in tokenizer.encode(re.sub(r"[^A-Za-z']", "", span.label)) if token not in SILENT]
        at = max(free, int(span.start_s / FRAME_S) + delay)
        if at + 1 + len(pieces) > frames or span.start_s < 0:
            continue
        text[at] = EPAD
        text[at + 1 : at + 1 + len(pieces)] = pieces
        free = at + 1 + len(pieces)
    return text


class Buckets:
    """Draws examples of about the same length, as many as fill a budget of frames."""

    def __init__(self, lengths: Sequence[int]) -> None:
        if not lengths:
            raise ValueError("there are no examples to draw from")
        self._order = np.argsort(np.array(lengths), kind="stable")
        self._lengths = np.array(lengths)[self._order]

    def draw(self, random: np.random.Generator, budget: int) -> list[int]:
        """Numbers of examples: one, as likely for each, and others that are hardly longer."""
        centre = int(random.integers(len(self._order)))
        length = int(self._lengths[centre])
        count = max(1, budget // length)
        reach = max(2 * count, len(self._order) // 8)
        low, high = max(0, centre - reach), centre + reach + 1
        near = self._order[low:high][self._lengths[low:high] <= 1.25 * length]
        others = near[near != self._order[centre]]
        drawn = random.choice(others, min(count - 1, len(others)), replace=False) if len(others) else others
        return [int(self._order[centre]), *(int(number) for number in drawn)]
