"""How good the embedded model is:  python -m engine.pocket.recipe.evaluate --checkpoint DIR --work DIR

Plays calls to the checkpoint as the engine serves it, with voices, wordings and personas that training never saw
(WORK/callers/held-out-*.npz), through G.711, and prints one table: measure, gate, target, what was seen, and of how
many. What cannot be run is in the table with the reason. --prompts: Debian's asterisk-core-sounds-en-wav, one human.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from engine.batch import Batch
from engine.model.checkpoint import load_checkpoint
from engine.model.listening import EAR_CONFIG
from engine.pocket.prompt import render
from engine.pocket.recipe import human, judges
from engine.pocket.recipe.channel import g711
from engine.pocket.recipe.dialogues import Turn as Spoken
from engine.pocket.recipe.dialogues import paused, pauses_within, turn_of
from engine.pocket.recipe.domain import TELLING, UNKNOWN, Domain, Facts, State, Wording, load_domain
from engine.pocket.recipe.exam import (
    FRAME_MS,
    PERSONA,
    START,
    Exam,
    Material,
    answered,
    onset,
    percent,
    plain,
    stopped,
    tell,
)
from engine.pocket.recipe.formats import Audio, Utterance
from engine.pocket.recipe.hearing import frame_times_ms, write_down
from engine.pocket.recipe.measures import MEASURES, Result, as_json, table
from engine.pocket.recipe.noises import keys, music
from engine.pocket.recipe.scenes import Record, Scene, Turn
from engine.pocket.recipe.voices import LEVEL, audible
from engine.slot import FRAME_SAMPLES, SAMPLE_RATE

BARGE_IN_FRAMES = 14
"""Into the answer: a second and a bit."""

MUTTER_FRAMES = 6


NOISE_S = 60


# --- the measures --------------------------------------------------------------------------------------------------


def exact(exam: Exam) -> list[Result]:
    """Text; what is said, to judges; when it is said."""
    names = [measure.name for measure in MEASURES[:2]]
    results: list[Result] = []
    spoken: list[tuple[str, Audio]] = []
    delays: list[float] = []
    for name, wording in zip(names, ("train", "held-out"), strict=True):
        said = exam.material.asked(exam.most, wording, lambda intent: intent not in {"", UNKNOWN})
        records = exam.ask(said)
        right = []
        for each, record in zip(said, records, strict=True):
            text = plain(answered(record))
            right.append(text in exam.material.answers(each))
            first = onset(record, record.starts[-1])
            if right[-1] and first is not None:
                spoken.append((text, record.audio[first * FRAME_SAMPLES :]))
                ended = record.starts[-1] + audible(each.audio)[1] / (FRAME_MS / 1000)
                delays.append((first + 1 - ended) * FRAME_MS)  # a reply is heard while the next frame is said
            else:
                tell(f"asked {each.text!r} ({each.voice}): {text!r}")
        results.append(Result(name, percent(right), len(right)))
    median = (float(np.median(delays)),) if delays else ()
    return [
        *results,
        *judged(exam, spoken),
        Result(MEASURES[7].name, median, len(delays), "" if delays else "nothing was answered right"),
    ]


def judged(exam: Exam, spoken: Sequence[tuple[str, Audio]]) -> list[Result]:
    """What was to be heard, and what judges hear."""
    picking, writing = MEASURES[5].name, MEASURES[6].name
    results = []
    chosen = spoken[: exam.most]
    if not chosen:
        return [Result(name, why="nothing was answered right") for name in (picking, writing)]
    try:
        pick = judges.sphinx([text for text, _ in dict(chosen).items()] + _sentences(exam.material.domain))
        right = [plain(pick(audio)) == text for text, audio in chosen]
        results.append(Result(picking, percent(right), len(right)))
    except judges.Missing as missing:
        results.append(Result(picking, why=str(missing)))
    try:
        write = judges.whisper()
        pairs = [(text, write(audio)) for text, audio in chosen]
        for wanted, got in pairs[:20]:
            tell(f"said {wanted!r}, heard {got!r}")
        results.append(Result(writing, (100 * judges.word_error_rate(pairs),), len(pairs)))
    except judges.Missing as missing:
        results.append(Result(writing, why=str(missing)))
    return results


def _sentences(domain: Domain) -> list[str]:
    return [domain.clip_text(answer) for answer in domain.answers()]


def unrelated(exam: Exam) -> list[Result]:
    said = exam.material.asked(2 * exam.most, None, lambda intent: intent == UNKNOWN)
    false = []
    for each, record in zip(said, exam.ask(said), strict=True):
        text = plain(answered(record))
        false.append(text not in exam.material.answers(each))
        if false[-1]:
            tell(f"unrelated {each.text!r}: {text!r}")
    return [Result(MEASURES[2].name, percent(false), len(false))]


def humans(exam: Exam) -> list[Result]:
    names = [measure.name for measure in MEASURES[3:5]]
    if exam.prompts is None or not human.there(exam.prompts):
        why = "no recorded prompts; give their folder with --prompts"
        return [Result(name, why=why) for name in names]
    random = np.random.default_rng(3)
    numbers = [human.number(exam.prompts, random) for _ in range(exam.most)]
    records = exam.play([Scene(START, (Turn(audio),)) for _, audio in numbers])
    right = [
        plain(answered(record)) == plain(f"You said {text}") for (text, _), record in zip(numbers, records, strict=True)
    ]
    sentences = human.sentences(exam.prompts, exam.most)
    records = exam.play([Scene(START, (Turn(audio),)) for _, audio in sentences])
    fallbacks = {plain(text) for text in exam.material.domain.fallbacks}
    honest = [plain(answered(record)) in fallbacks for record in records]
    return [Result(names[0], percent(right), len(right)), Result(names[1], percent(honest), len(honest))]


def patience(exam: Exam) -> list[Result]:
    """Questions with a pause of 300 to 700 ms inside, where what was said so far is no question yet."""
    random = np.random.default_rng(4)
    early: list[bool] = []
    scenes: list[Scene] = []
    ends: list[float] = []
    for each in exam.material.asked(4 * exam.most, None, lambda intent: intent not in {"", *TELLING}):
        places = pauses_within(exam.material.domain, each)
        if len(each.words) >= 4 and places and len(scenes) < exam.most:
            turn = paused(each, {int(random.choice(places)): float(random.uniform(0.3, 0.7))})
            scenes.append(Scene(START, (Turn(g711(turn.audio)),)))
            ends.append(turn.end_s)
    for record, end_s in zip(exam.play(scenes), ends, strict=True):
        first = onset(record, record.starts[-1])
        early.append(first is not None and (first - record.starts[-1]) * FRAME_MS < 1000 * end_s)
    return [Result(MEASURES[8].name, percent(early), len(early))]


def interruptions(exam: Exam) -> list[Result]:
    """A second question into the answer to the first; and into others a mere "mm-hm"."""
    material = exam.material
    known = [each for each in _answered_long(exam) if each.split == "held-out"][: exam.most]
    others = material.asked(len(known), None, lambda intent: intent not in {"", UNKNOWN})
    scenes = [
        Scene(START, (Turn(g711(one.audio)), Turn(g711(two.audio), "talking", BARGE_IN_FRAMES)))
        for one, two in zip(known, others, strict=False)
    ]
    delays = []
    for two, record in zip(others, exam.play(scenes), strict=False):
        first = record.starts[-1] + int(audible(two.audio)[0] * 1000 / FRAME_MS)
        if record.talking[first - 1]:
            # What is decided with frame f is heard in f + 1.
            delays.append((stopped(record, first) + 1) * FRAME_MS)
    mutters = [each for each in material.said if each.text in material.domain.mutters and each.seconds < 0.6]
    stops = []
    if mutters:
        chosen = [mutters[number % len(mutters)] for number in range(len(known))]
        scenes = [
            Scene(START, (Turn(g711(one.audio)), Turn(g711(mutter.audio), "talking", MUTTER_FRAMES)))
            for one, mutter in zip(known, chosen, strict=True)
        ]
        for each, record in zip(known, exam.play(scenes), strict=True):
            if record.talking[record.starts[-1] - 1]:
                clips = material.domain.answer(Wording(each.text, each.intent, each.slot), State(PERSONA))
                whole = sum(material.clips[clip].frames for clip in clips)
                began = record.starts[-1] - MUTTER_FRAMES
                stops.append(stopped(record, began) < 0.7 * whole)
    seen = (float(np.median(delays)), float(np.percentile(delays, 95))) if delays else ()
    return [
        Result(MEASURES[9].name, seen, len(delays), "" if delays else "it was never talking when interrupted"),
        Result(MEASURES[10].name, percent(stops), len(stops), "" if stops else "it was never talking when muttered at"),
    ]


def _answered_long(exam: Exam) -> list[Utterance]:
    """Questions whose answer lasts long enough to be interrupted."""
    material = exam.material

    def long(each: Utterance) -> bool:
        clips = material.domain.answer(Wording(each.text, each.intent, each.slot), State(PERSONA))
        return sum(material.clips[clip].frames for clip in clips) > BARGE_IN_FRAMES + 6

    return [each for each in material.asked(10**6, "train", lambda intent: intent not in {"", UNKNOWN}) if long(each)]


def listening(exam: Exam) -> list[Result]:
    """Stories, which want an "mm-hm", and short turns, which do not."""
    material, random = exam.material, np.random.default_rng(5)
    said = [each for each in material.said if not each.intent and each.text not in material.domain.mutters]
    questions = material.asked(10**6, None, lambda intent: intent not in {"", UNKNOWN})
    if len(said) < 3 or not questions:
        return [Result(measure.name, why="nobody tells a story") for measure in MEASURES[11:13]]
    turns: list[Spoken] = []
    while len(turns) < exam.most:
        phrases = [said[int(number)] for number in random.choice(len(said), 3, replace=False)]
        last = questions[int(random.integers(len(questions)))]
        parts = [(each, float(random.uniform(0.4, 0.75))) for each in (*phrases, last)]
        turns.append(turn_of(*parts, story=True))
    long = [turn for turn in turns if turn.end_s - turn.start_s > 4]
    given, crowded = [], []
    for turn, record in zip(long, exam.play([Scene(START, (Turn(g711(turn.audio)),)) for turn in long]), strict=True):
        frames = backchannels(record, material.domain, record.starts[-1], int(turn.end_s * 1000 / FRAME_MS))
        given.append(bool(frames))
        crowded.append(bool(np.any(np.diff(frames) * FRAME_MS < 3000)))
    short = [each for each in questions if each.seconds < 2][: exam.most]
    for each, record in zip(short, exam.ask(short), strict=True):
        crowded.append(
            bool(backchannels(record, material.domain, record.starts[-1], int(each.seconds * 1000 / FRAME_MS)))
        )
    return [
        Result(MEASURES[11].name, percent(given), len(given)),
        Result(MEASURES[12].name, percent(crowded), len(crowded)),
    ]


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
    """It hears its own greeting and answer; nothing that nobody asked may follow, nor may it stop."""
    random = np.random.default_rng(6)
    said = exam.material.asked(exam.most, "train", lambda intent: intent not in {"", UNKNOWN})
    scenes = [
        Scene(START, (Turn(g711(each.audio)),), listen=62, patient=True, echo=(-20.0, float(random.uniform(0.05, 0.3))))
        for each in said
    ]
    plainly = exam.ask(said, listen=62, patient=True)
    fooled = []
    for record, other in zip(exam.play(scenes), plainly, strict=True):
        # What it says without an echo is the measure: the echo must add nothing.
        fooled.append(len(judges.words(record.said())) > len(judges.words(other.said())))
    return [Result(MEASURES[13].name, percent(fooled), len(fooled))]


def noises(exam: Exam) -> list[Result]:
    random, scenes = np.random.default_rng(7), []
    count = max(3, exam.most // 8)
    for number in range(count):
        kind = ("music", "noise", "keys")[number % 3]
        parts, samples = [], 0
        while samples < NOISE_S * SAMPLE_RATE:
            if kind == "noise":
                part = (LEVEL * 0.3 * random.standard_normal(SAMPLE_RATE)).astype(np.float32)
            elif kind == "music":
                part = music(random)
            else:
                part = np.pad(keys(random), (0, int(random.integers(SAMPLE_RATE))))
            parts.append(part)
            samples += len(part)
        scenes.append(Scene(START, (Turn(g711(np.concatenate(parts)[: NOISE_S * SAMPLE_RATE])),), listen=3))
    spoke = []
    for record in exam.play(scenes):
        text = answered(record).replace(exam.material.domain.silence, "")
        spoke.append(bool(plain(text)))
        if spoke[-1]:
            tell(f"said into noise: {plain(text)!r}")
    return [Result(MEASURES[14].name, percent(spoke), len(spoke))]


def personas(exam: Exam) -> list[Result]:
    domain, random = exam.material.domain, np.random.default_rng(8)
    told = [domain.persona(random, "held-out" if number % 2 else "train") for number in range(exam.most)]
    records = exam.play([Scene(render(persona.text), (), listen=75) for persona in told])
    right = []
    for persona, record in zip(told, records, strict=True):
        right.append(plain(record.said()) == plain(domain.clip_text(domain.greeting(persona))))
        if not right[-1]:
            tell(f"told {persona.text!r}: {record.said()!r}")
    return [Result(MEASURES[15].name, percent(right), len(right))]


def recall(exam: Exam) -> list[Result]:
    """A call is trimmed after the caller told a fact and asked something else; then it is asked for the fact."""
    material = exam.material
    right = []
    telling = material.asked(exam.most, "train", lambda intent: intent in TELLING)
    others = material.asked(2 * exam.most, "train", lambda intent: intent not in {"", UNKNOWN, *TELLING, "goodbye"})
    asking = {kind: material.asked(exam.most, "train", f"ask_{kind}".__eq__) for kind in TELLING.values()}
    if not others or not all(asking.values()):
        return [Result(MEASURES[16].name, why="no held-out voice asks for a fact")]
    first = exam.play(
        [
            Scene(START, tuple(Turn(g711(part.audio)) for part in (each, others[number % len(others)])))
            for number, each in enumerate(telling)
        ]
    )
    scenes, wanted = [], []
    for number, (each, record) in enumerate(zip(telling, first, strict=True)):
        kind = TELLING[each.intent]
        question = asking[kind][number % len(asking[kind])]
        facts = Facts().told(Wording(each.text, each.intent, each.slot))
        prompt = render(PERSONA.text, {kind: each.slot})
        keep = exam.batch.window_frames // 4
        scenes.append(Scene(prompt, (Turn(g711(question.audio), "quiet", 3),), log=record.log(), keep=keep))
        wanted.append(material.answers(question, facts))
    for texts, record in zip(wanted, exam.play(scenes), strict=True):
        right.append(plain(answered(record)) in texts)
        if not right[-1]:
            tell(f"of {sorted(texts)} recalled {answered(record)!r}")
    return [Result(MEASURES[16].name, percent(right), len(right))]


def ear(exam: Exam) -> list[Result]:
    if exam.ear is None:
        return [Result(MEASURES[17].name, why="the checkpoint has no ear")]
    said = exam.material.asked(2 * exam.most, None, lambda intent: True)
    written = write_down(exam.ear, [g711(each.audio) for each in said])
    pairs = [(each.text, text) for each, text in zip(said, written, strict=True)]
    for wanted, got in pairs[:20]:
        tell(f"ear: {wanted!r} -> {got!r}")
    return [Result(MEASURES[17].name, (100 * judges.word_error_rate(pairs),), len(pairs))]


def frame_time(exam: Exam) -> list[Result]:
    times = np.array(frame_times_ms(exam.checkpoint, exam.ear, 250))
    (median, clock), (high, clock_high) = np.median(times, axis=0), np.percentile(times, 99, axis=0)
    why = f"processor; by the clock of this machine {clock:.1f} / {clock_high:.1f}{'' if exam.ear else '; no ear'}"
    return [Result(MEASURES[18].name, (float(median), float(high)), len(times), why)]


PARTS: dict[str, Callable[[Exam], list[Result]]] = {
    "exact": exact,
    "unrelated": unrelated,
    "humans": humans,
    "patience": patience,
    "interruptions": interruptions,
    "listening": listening,
    "echoes": echoes,
    "noises": noises,
    "personas": personas,
    "recall": recall,
    "ear": ear,
    "frame_time": frame_time,
}


def evaluate(
    checkpoint: Path, work: Path, *, most: int, rows: int, prompts: Path | None, parts: Sequence[str]
) -> list[Result]:
    """The results of these parts. Raises ValueError, CheckpointError where something needed is not there."""
    torch.set_num_threads(1)
    loaded = load_checkpoint(str(checkpoint))
    has_ear = (checkpoint / EAR_CONFIG).exists()
    exam = Exam(
        loaded,
        load_checkpoint(str(checkpoint), config_name=EAR_CONFIG) if has_ear else None,
        Batch(loaded, rows),
        Material(work, load_domain()),
        loaded.sampling,
        most,
        prompts,
    )
    results: list[Result] = []
    for number, name in enumerate(parts):
        began = time.monotonic()
        results += PARTS[name](exam)
        print(f"{number + 1}/{len(parts)} {name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return results


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="evaluate", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, required=True, help="the folder that export wrote")
    parser.add_argument("--work", type=Path, default=Path("build/pocket"), help="where the callers lie (build/pocket)")
    parser.add_argument("--most", type=int, default=100, help="of each kind of call (100)")
    parser.add_argument("--rows", type=int, default=16, help="calls at once (16)")
    parser.add_argument("--prompts", type=Path, help="folder of the recorded human's prompts")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--json", type=Path, help="also write the results there")
    options = parser.parse_args(arguments)
    results = evaluate(
        options.checkpoint,
        options.work,
        most=options.most,
        rows=options.rows,
        prompts=options.prompts,
        parts=options.parts,
    )
    print(table(results))
    if options.json:
        options.json.write_text(as_json(results), encoding="utf-8")


if __name__ == "__main__":
    main()
