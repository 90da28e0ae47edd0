"""What the embedded model answers: to those it knows, to those it does not, by whom it is, and what it remembers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.pocket.prompt import render
from engine.pocket.recipe import human, judges
from engine.pocket.recipe.channel import g711
from engine.pocket.recipe.domain import TELLING, UNKNOWN, Domain, Facts, Wording
from engine.pocket.recipe.exam import (
    FRAME_MS,
    PERSONA,
    START,
    Exam,
    answered,
    but_for_mm_hm,
    onset,
    plain,
    tell,
    unless_silence,
)
from engine.pocket.recipe.formats import Audio
from engine.pocket.recipe.measures import (
    EXACT_TRAINED,
    EXACT_UNSEEN,
    FALSE_ANSWERS,
    HUMAN_DIGITS,
    HUMAN_FALLBACK,
    PERSONAS,
    PICKED,
    RECALL,
    RESPONSE,
    SPOKEN_WER,
    Result,
)
from engine.pocket.recipe.scenes import Record, Scene, Turn
from engine.pocket.recipe.voices import audible
from engine.slot import FRAME_SAMPLES


def exact(exam: Exam) -> list[Result]:
    """Text; what is said, to judges; when it is said."""
    results: list[Result] = []
    spoken: list[tuple[str, Audio]] = []
    delays: list[float] = []
    for measure, wording in ((EXACT_TRAINED, "train"), (EXACT_UNSEEN, "held-out")):
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
        results.append(measure.share(right))
    median = (float(np.median(delays)),) if delays else ()
    return [
        *results,
        *judged(exam, spoken),
        RESPONSE.result(median, len(delays), "" if delays else "nothing was answered right"),
    ]


def judged(exam: Exam, spoken: Sequence[tuple[str, Audio]]) -> list[Result]:
    """What was to be heard, and what judges hear."""
    results = []
    chosen = spoken[: exam.most]
    if not chosen:
        return [measure.result(why="nothing was answered right") for measure in (PICKED, SPOKEN_WER)]
    try:
        pick = judges.sphinx([text for text, _ in dict(chosen).items()] + _sentences(exam.material.domain))
        right = [plain(pick(audio)) == text for text, audio in chosen]
        results.append(PICKED.share(right))
    except judges.Missing as missing:
        results.append(PICKED.result(why=str(missing)))
    try:
        write = judges.whisper()
        pairs = [(text, write(audio)) for text, audio in chosen]
        for wanted, got in pairs[:20]:
            tell(f"said {wanted!r}, heard {got!r}")
        results.append(SPOKEN_WER.result((100 * judges.word_error_rate(pairs),), len(pairs)))
    except judges.Missing as missing:
        results.append(SPOKEN_WER.result(why=str(missing)))
    return results


def _sentences(domain: Domain) -> list[str]:
    return [domain.clip_text(answer) for answer in domain.answers()]


def unrelated(exam: Exam) -> list[Result]:
    """Sentences in wordings of their own, each text once. Who is not answered at all got no false answer, but is told
    of; neither the silence question nor an "mm-hm" is one.
    """
    said = {each.text: each for each in exam.material.asked(10**6, "held-out", lambda intent: intent == UNKNOWN)}
    chosen = list(said.values())[: 2 * exam.most]
    answers = [_spoken(exam, record) for record in exam.ask(chosen)]
    false = []
    for each, text in zip(chosen, answers, strict=True):
        false.append(bool(text) and text not in exam.material.answers(each))
        if false[-1]:
            tell(f"unrelated {each.text!r}: {text!r}")
    silent = answers.count("")
    return [FALSE_ANSWERS.share(false, f"and {silent} not answered" if silent else "")]


def _spoken(exam: Exam, record: Record) -> str:
    """What it answered to the last turn."""
    domain = exam.material.domain
    return but_for_mm_hm(plain(unless_silence(answered(record), domain.silence)), domain)


def humans(exam: Exam) -> list[Result]:
    if exam.prompts is None or not human.there(exam.prompts):
        why = "no recorded prompts; give their folder with --prompts"
        return [measure.result(why=why) for measure in (HUMAN_DIGITS, HUMAN_FALLBACK)]
    random = np.random.default_rng(3)
    numbers = [human.number(exam.prompts, random) for _ in range(exam.most)]
    records = exam.play([Scene(START, (Turn(g711(audio)),)) for _, audio in numbers])
    right = [
        plain(answered(record)) == plain(f"You said {text}") for (text, _), record in zip(numbers, records, strict=True)
    ]
    sentences = human.sentences(exam.prompts, exam.most)
    records = exam.play([Scene(START, (Turn(g711(audio)),)) for _, audio in sentences])
    fallbacks = {plain(text) for text in exam.material.domain.fallbacks}
    honest = [_spoken(exam, record) in fallbacks for record in records]
    return [HUMAN_DIGITS.share(right), HUMAN_FALLBACK.share(honest)]


def personas(exam: Exam) -> list[Result]:
    domain, random = exam.material.domain, np.random.default_rng(8)
    told = [domain.persona(random, "held-out" if number % 2 else "train") for number in range(exam.most)]
    records = exam.play([Scene(render(persona.text), (), listen=75) for persona in told])
    right = []
    for persona, record in zip(told, records, strict=True):
        right.append(plain(record.said()) == plain(domain.clip_text(domain.greeting(persona))))
        if not right[-1]:
            tell(f"told {persona.text!r}: {record.said()!r}")
    return [PERSONAS.share(right)]


def recall(exam: Exam) -> list[Result]:
    """A call is trimmed after the caller told a fact and asked something else; then it is asked for the fact.

    The prompt has the fact as it was told; whether the agent had read it back like that is said beside.
    """
    material = exam.material
    right, taken = [], []
    telling = material.asked(exam.most, "train", lambda intent: intent in TELLING)
    others = material.asked(2 * exam.most, "train", lambda intent: intent not in {"", UNKNOWN, *TELLING, "goodbye"})
    asking = {kind: material.asked(exam.most, "train", f"ask_{kind}".__eq__) for kind in TELLING.values()}
    if not others or not all(asking.values()):
        return [RECALL.result(why="no held-out voice asks for a fact")]
    first = exam.play(
        [
            Scene(START, tuple(Turn(g711(part.audio)) for part in (each, others[number % len(others)])))
            for number, each in enumerate(telling)
        ]
    )
    scenes, wanted = [], []
    for number, (each, record) in enumerate(zip(telling, first, strict=True)):
        kind = TELLING[each.intent]
        taken.append(plain(answered(record, 0)) in material.answers(each))
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
    return [RECALL.share(right, f"{sum(taken)} of {len(taken)} had been read back right")]
