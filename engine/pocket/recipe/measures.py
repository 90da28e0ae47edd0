"""What is measured of the embedded model, what is wanted of it, and the table of both."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np


@dataclass(frozen=True, slots=True)
class Measure:
    """A line of the table. `better` says which side of gate and target is good; `gate` None: report only."""

    name: str
    gate: tuple[float, ...] | None
    target: tuple[float, ...] | None
    unit: Literal["%", "ms"] = "%"
    better: Literal["high", "low"] = "high"

    def result(self, seen: tuple[float, ...] = (), count: int = 0, why: str = "") -> Result:
        """What was seen of it."""
        return Result(self.name, seen, count, why)

    def share(self, found: Sequence[bool], why: str = "") -> Result:
        """In how many of them it was so; `why` if there are none, or beside the share."""
        return self.result((100 * float(np.mean(found)),) if len(found) else (), len(found), why)

    def reached(self, seen: Sequence[float], wanted: tuple[float, ...]) -> bool:
        pairs = zip(seen, wanted, strict=True)
        return all(value >= bound if self.better == "high" else value <= bound for value, bound in pairs)

    def verdict(self, seen: Sequence[float]) -> str:
        if self.target and self.reached(seen, self.target):
            return "target"
        if self.gate and not self.reached(seen, self.gate):
            return "below"
        return "gate" if self.gate else "-"


@dataclass(frozen=True, slots=True)
class Result:
    """What was seen of a measure, in its unit, and of how many; or `why` it was not run."""

    measure: str
    seen: tuple[float, ...] = ()
    count: int = 0
    why: str = ""


def _share(name: str, gate: float | None, target: float, better: Literal["high", "low"] = "high") -> Measure:
    return Measure(name, None if gate is None else (gate,), (target,), "%", better)


EXACT_TRAINED = _share("exact answer text, unseen voices, trained wording", 90, 97)
EXACT_UNSEEN = _share("exact answer text, unseen voices, unseen wording", 65, 85)
FALSE_ANSWERS = _share("false answers on unrelated sentences", 20, 8, "low")
HUMAN_DIGITS = _share("recorded human: three digits read back", None, 60)
HUMAN_FALLBACK = _share("recorded human: honest fallback outside the domain", 80, 95)
PICKED = _share("spoken answer picked right by pocketsphinx, G.711", 95, 99)
SPOKEN_WER = _share("free WER of spoken answers, G.711", 8, 4, "low")
RESPONSE = Measure("response after end of question: sound, median", (700,), (480,), "ms", "low")
EARLY = _share("starts before the question ended (pauses to 700 ms)", 10, 3, "low")
BARGE_IN = Measure("barge-in to silence, median / p95", (500, 900), (400, 560), "ms", "low")
MUTTERED = _share("stops on a backchannel", 10, 3, "low")
BACKCHANNELS = _share("backchannels in caller turns over 4 s", 50, 80)
CROWDED = _share("turns under 2 s with a backchannel, or more than one in 3 s", 5, 1, "low")
ECHOES = _share("answers its own echo (-20 dB, 50-300 ms)", 2, 0, "low")
NOISES = _share("speaks in 60 s of music, noise or DTMF", 10, 3, "low")
PERSONAS = _share("name, company and greeting follow the persona text", 90, 98)
RECALL = _share("fact recalled after a trim", 80, 95)
EAR = _share("caller's words by the ear, WER, unseen voices, G.711", 20, 8, "low")
FRAME_TIME = Measure("frame time on one core, talking + ear, median / p99", (45, 70), (28, 45), "ms", "low")

MEASURES = (
    *(EXACT_TRAINED, EXACT_UNSEEN, FALSE_ANSWERS, HUMAN_DIGITS, HUMAN_FALLBACK, PICKED, SPOKEN_WER, RESPONSE, EARLY),
    *(BARGE_IN, MUTTERED, BACKCHANNELS, CROWDED, ECHOES, NOISES, PERSONAS, RECALL, EAR, FRAME_TIME),
)
"""In the order of the table."""


def table(results: Sequence[Result]) -> str:
    """All measures in Markdown, those that were not asked for left out."""
    found = {result.measure: result for result in results}
    lines = ["| measure | gate | target | seen | n | |", "|---|---|---|---|---|---|"]
    for measure in MEASURES:
        if (result := found.get(measure.name)) is None:
            continue
        seen = _values(measure, result.seen) if result.seen else f"not run: {result.why or 'nothing to measure'}"
        if result.seen and result.why:
            seen += f" ({result.why})"
        verdict = measure.verdict(result.seen) if result.seen else "-"
        gate = "report" if measure.gate is None else _bound(measure, measure.gate)
        target = "-" if measure.target is None else _bound(measure, measure.target)
        lines.append(f"| {measure.name} | {gate} | {target} | {seen} | {result.count} | {verdict} |")
    return "\n".join(lines)


def as_json(results: Sequence[Result]) -> str:
    """The same for machines."""
    return json.dumps([asdict(result) for result in results], indent=2) + "\n"


def _values(measure: Measure, values: Sequence[float]) -> str:
    digits = 1 if measure.unit == "%" or max(values) < 100 else 0
    return " / ".join(f"{value:.{digits}f}" for value in values) + f" {measure.unit}"


def _bound(measure: Measure, values: Sequence[float]) -> str:
    sign = "≥" if measure.better == "high" else "≤"
    return f"{sign} {' / '.join(f'{value:g}' for value in values)} {measure.unit}"
