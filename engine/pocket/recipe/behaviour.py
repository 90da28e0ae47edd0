"""How the embedded model behaves: when it waits, stops, goes on, listens, and keeps silent."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from engine.pocket.recipe import judges
from engine.pocket.recipe.channel import g711
from engine.pocket.recipe.dialogues import INTERRUPTS_S, paused, pauses_within, turn_of
from engine.pocket.recipe.dialogues import Turn as Spoken
from engine.pocket.recipe.domain import TELLING, UNKNOWN, Domain, State, Wording
from engine.pocket.recipe.exam import (
    FRAME_MS,
    PERSONA,
    START,
    Exam,
    Material,
    answered,
    but_for_mm_hm,
    onset,
    plain,
    stopped,
    tell,
    unless_silence,
)
from engine.pocket.recipe.formats import Audio, Utterance
from engine.pocket.recipe.measures import (
    BACKCHANNELS,
    BARGE_IN,
    CROWDED,
    EARLY,
    ECHOES,
    MUTTERED,
    NOISES,
    Result,
)
from engine.pocket.recipe.noises import keys, music
from engine.pocket.recipe.scenes import Record, Scene, Turn
from engine.pocket.recipe.voices import LEVEL, audible
from engine.slot import SAMPLE_RATE

INTO = 5
"""Frames of an answer, at which somebody talks into it: most of it is still to be said."""

LONG = 24
"""Frames of an answer that somebody talks into, at INTO: what would end by itself then is left out call by call."""

LEFT = 15
"""Frames that it would have gone on for, had nobody: whoever stops then stops because of that."""

GOES_ON = 0.7
"""Of these, what is said in spite of a mutter if it goes on."""

AFTER = 12
"""Frames behind a short turn in which an "mm-hm" still belongs to it."""

NOISE_S = 60


def patience(exam: Exam) -> list[Result]:
    """Questions with a pause of 300 to 700 ms inside, where what was said so far is no question yet.

    Those are counted that it answers at all; an "mm-hm" in the pause is no answer.
    """
    material, random = exam.material, np.random.default_rng(4)
    turns: list[Spoken] = []
    for each in material.asked(10**6, "held-out", lambda intent: intent not in {"", *TELLING}):
        places = pauses_within(material.domain, each)
        if len(each.words) >= 4 and places and len(turns) < exam.most:
            turns.append(paused(each, {int(random.choice(places)): float(random.uniform(0.3, 0.7))}))
    early: list[bool] = []
    for turn, record in zip(turns, exam.play([_scene(turn.audio) for turn in turns]), strict=True):
        start, end = record.starts[-1], record.starts[-1] + int(turn.end_s * 1000 / FRAME_MS)
        if not but_for_mm_hm(plain(answered(record)), material.domain) or onset(record, start) is None:
            continue
        early.append(_says(record, start, end, material.domain))
        if early[-1]:
            tell(f"into {turn.wording.text!r}: {plain(answered(record))!r}")
    return [EARLY.share(early, "" if early else "nothing was answered")]


def _says(record: Record, start: int, end: int, domain: Domain) -> bool:
    """Whether it is heard in these frames with anything but an "mm-hm"."""
    first = onset(record, start)
    return first is not None and first < end and bool(but_for_mm_hm(plain(record.said(start, end)), domain))


def interruptions(exam: Exam) -> list[Result]:
    """A second question into the answer to the first; and into the same answers a mere "mm-hm".

    Each is compared with the same call in which nobody does: what ends by itself has not been stopped.
    """
    material = exam.material
    known = _answered_long(exam)[: exam.most]
    others = [
        each
        for each in material.asked(10**6, None, lambda intent: intent not in {"", UNKNOWN})
        if each.seconds >= INTERRUPTS_S  # as it is taught: what is shorter may be an "mm-hm"
    ]
    mutters = [each for each in material.asked(10**6, None, lambda intent: not intent) if _is_mutter(material, each)]
    plainly = exam.ask(known)
    delays = []
    questions = [others[number % len(others)] for number in range(len(known))] if others else []
    for (two, record), alone in zip(_talked_into(exam, known, questions), plainly, strict=bool(questions)):
        first = record.starts[-1] + int(audible(two.audio)[0] * 1000 / FRAME_MS)
        if _goes_on(record, alone, first):
            # What is decided with frame f is heard in f + 1.
            delays.append((stopped(record, first) + 1) * FRAME_MS)
    stops = []
    muttered = [mutters[number % len(mutters)] for number in range(len(known))] if mutters else []
    for (mutter, record), alone in zip(_talked_into(exam, known, muttered), plainly, strict=bool(muttered)):
        first = record.starts[-1]
        if _goes_on(record, alone, first):
            stops.append(stopped(record, first) < GOES_ON * stopped(alone, first))
            if stops[-1]:
                tell(f"stopped at {mutter.text!r}: {plain(answered(record, 0))!r}")
    seen = (float(np.median(delays)), float(np.percentile(delays, 95))) if delays else ()
    return [
        BARGE_IN.result(seen, len(delays), "" if delays else "it was never talking when interrupted"),
        MUTTERED.share(stops, "" if stops else "it was never talking when muttered at"),
    ]


def _talked_into(exam: Exam, known: Sequence[Utterance], into: Sequence[Utterance]) -> list[tuple[Utterance, Record]]:
    """Each question of `known` asked, and the answer to it talked into."""
    scenes = [
        Scene(START, (Turn(g711(one.audio)), Turn(g711(two.audio), "talking", INTO)))
        for one, two in zip(known, into, strict=False)
    ]
    return list(zip(into, exam.play(scenes), strict=True))


def _goes_on(record: Record, alone: Record, first: int) -> bool:
    """Whether it is talking before that frame, and would be for LEFT frames more."""
    return bool(record.talking[first - 1]) and stopped(alone, first) >= LEFT


def _is_mutter(material: Material, each: Utterance) -> bool:
    return each.text in material.domain.mutters and each.seconds < 0.6


def _answered_long(exam: Exam) -> list[Utterance]:
    """Questions whose answer lasts long enough to be interrupted."""
    material = exam.material

    def long(each: Utterance) -> bool:
        clips = material.domain.answer(Wording(each.text, each.intent, each.slot), State(PERSONA))
        return sum(material.clips[clip].frames for clip in clips) >= LONG

    return [each for each in material.asked(10**6, "train", lambda intent: intent not in {"", UNKNOWN}) if long(each)]


def listening(exam: Exam) -> list[Result]:
    """Stories, which want an "mm-hm", and short turns, which do not."""
    material, random = exam.material, np.random.default_rng(5)
    told = material.asked(10**6, None, lambda intent: not intent)
    said = [each for each in told if each.text not in material.domain.mutters]
    questions = material.asked(10**6, None, lambda intent: intent not in {"", UNKNOWN})
    if len(said) < 3 or not questions:
        return [measure.result(why="nobody tells a story") for measure in (BACKCHANNELS, CROWDED)]
    long = [turn for turn in (_story(said, questions, random) for _ in range(exam.most)) if turn.end_s > 4]
    given, crowded, hasty = [], [], []
    for turn, record in zip(long, exam.play([_scene(turn.audio) for turn in long]), strict=True):
        frames = backchannels(record, material.domain, record.starts[-1], int(turn.end_s * 1000 / FRAME_MS))
        given.append(bool(frames))
        crowded.append(bool(np.any(np.diff(frames) * FRAME_MS < 3000)))
    short = [each for each in material.asked(10**6) if each.seconds < 2][: exam.most]
    for each, record in zip(short, exam.ask(short), strict=True):
        frames = backchannels(record, material.domain, record.starts[-1], int(each.seconds * 1000 / FRAME_MS) + AFTER)
        hasty.append(bool(frames))
    apart = f"{sum(hasty)} of {len(hasty)} short turns, {sum(crowded)} of {len(crowded)} long ones"
    return [BACKCHANNELS.share(given), CROWDED.share([*crowded, *hasty], apart)]


def _story(said: Sequence[Utterance], questions: Sequence[Utterance], random: np.random.Generator) -> Spoken:
    """Three phrases and a question."""
    phrases = [said[int(number)] for number in random.choice(len(said), 3, replace=False)]
    last = questions[int(random.integers(len(questions)))]
    return turn_of(*((each, float(random.uniform(0.4, 0.75))) for each in (*phrases, last)), story=True)


def backchannels(record: Record, domain: Domain, start: int, frames: int) -> list[int]:
    """Frames of a turn in which the agent's "mm-hm" began."""
    text, found = "", []
    for frame in range(start, min(len(record.text), start + frames)):
        text += record.text[frame]
        if plain(text).endswith(domain.backchannel):
            found.append(frame)
            text = ""
    return found


def echoes(exam: Exam) -> list[Result]:
    """It hears its own greeting and its answer: it must not answer those, nor fall silent over them.

    Beside each is the same call without an echo: what is said there, too, is not the echo's fault.
    """
    random = np.random.default_rng(6)
    said = exam.material.asked(exam.most, "train", lambda intent: intent not in {"", UNKNOWN})
    scenes = [
        Scene(START, (Turn(g711(each.audio)),), listen=62, patient=True, echo=(-20.0, float(random.uniform(0.05, 0.3))))
        for each in said
    ]
    plainly = exam.ask(said, listen=62, patient=True)
    fooled = []
    for each, record, alone in zip(said, exam.play(scenes), plainly, strict=True):
        fooled.append(_is_fooled(record, alone, exam.material.domain))
        if fooled[-1]:
            tell(f"asked {each.text!r}: {record.said()!r}, and without the echo {alone.said()!r}")
    return [ECHOES.share(fooled)]


def _is_fooled(record: Record, alone: Record, domain: Domain) -> bool:
    """Whether more is said before the question or after the answer to it, or less, than in the same call alone.

    Another answer is none to the echo, but one to a question that was misheard.
    """
    (begun, first, more), (begun_alone, first_alone, more_alone) = (_in_parts(each, domain) for each in (record, alone))
    one_begins_the_other = first[: len(first_alone)] == first_alone[: len(first)]
    return begun != begun_alone or len(more) > len(more_alone) or (one_begins_the_other and first != first_alone)


def _in_parts(record: Record, domain: Domain) -> tuple[list[str], list[str], list[str]]:
    """The words that are said before the last turn, at once after it, and later.

    An "mm-hm" is none, nor is the question into a silence, which the call's end may cut anywhere.
    """
    start = record.starts[-1]
    heard = onset(record, start)
    end = len(record.text) if heard is None else heard + stopped(record, heard, len(record.text))
    first = but_for_mm_hm(plain(unless_silence(record.said(start, end), domain.silence)), domain)
    later = but_for_mm_hm(plain(unless_silence(record.said(end), domain.silence)), domain)
    return judges.words(record.said(0, start)), judges.words(first), judges.words(later)


def noises(exam: Exam) -> list[Result]:
    """A minute each behind the greeting: music, white noise, keys."""
    random, silence = np.random.default_rng(7), exam.material.domain.silence
    beds = [_bed(("music", "noise", "keys")[number % 3], random) for number in range(max(3, exam.most // 2))]
    spoke = []
    for record in exam.play([Scene(START, (Turn(g711(bed)),), listen=3) for bed in beds]):
        text = plain(unless_silence(answered(record), silence))
        spoke.append(bool(text))
        if text:
            tell(f"said into noise: {text!r}")
    return [NOISES.share(spoke)]


def _bed(kind: str, random: np.random.Generator) -> Audio:
    """NOISE_S of it."""
    parts: list[NDArray[np.float32]] = []
    samples = 0
    while samples < NOISE_S * SAMPLE_RATE:
        if kind == "noise":
            part = (LEVEL * 0.3 * random.standard_normal(SAMPLE_RATE)).astype(np.float32)
        elif kind == "music":
            part = music(random)
        else:
            part = np.pad(keys(random), (0, int(random.integers(SAMPLE_RATE))))
        parts.append(part)
        samples += len(part)
    return np.concatenate(parts)[: NOISE_S * SAMPLE_RATE]


def _scene(audio: Audio) -> Scene:
    return Scene(START, (Turn(g711(audio)),))
