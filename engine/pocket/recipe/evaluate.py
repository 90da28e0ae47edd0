"""How good the embedded model is:  python -m engine.pocket.recipe.evaluate --checkpoint DIR --work DIR

Plays calls to the checkpoint as the engine serves it, through G.711, with voices that training never saw
(WORK/callers/held-out-*.npz), and prints one table: measure, gate, target, what was seen, and of how many. What is said
was never seen either where understanding is measured in new wordings, in unrelated sentences, and in pauses; elsewhere
it may have been. What cannot be run is in the table with the reason. --prompts: Debian's asterisk-core-sounds-en-wav,
one human.
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
from engine.pocket.recipe import judges
from engine.pocket.recipe.answering import exact, humans, personas, recall, unrelated
from engine.pocket.recipe.behaviour import echoes, interruptions, listening, noises, patience
from engine.pocket.recipe.channel import g711
from engine.pocket.recipe.domain import load_domain
from engine.pocket.recipe.exam import Exam, Material, tell
from engine.pocket.recipe.hearing import frame_times_ms, write_down
from engine.pocket.recipe.measures import EAR, FRAME_TIME, Result, as_json, table


def ear(exam: Exam) -> list[Result]:
    if exam.ear is None:
        return [EAR.result(why="the checkpoint has no ear")]
    said = exam.material.asked(2 * exam.most, None, lambda intent: True)
    written = write_down(exam.ear, [g711(each.audio) for each in said])
    # It was taught to write a word with a hyphen as one.
    pairs = [(each.text.replace("-", ""), text) for each, text in zip(said, written, strict=True)]
    for wanted, got in pairs[:20]:
        tell(f"ear: {wanted!r} -> {got!r}")
    return [EAR.result((100 * judges.word_error_rate(pairs),), len(pairs))]


def frame_time(exam: Exam) -> list[Result]:
    times = np.array(frame_times_ms(exam.checkpoint, exam.ear, 250))
    (median, clock), (high, clock_high) = np.median(times, axis=0), np.percentile(times, 99, axis=0)
    why = f"processor; by the clock of this machine {clock:.1f} / {clock_high:.1f}{'' if exam.ear else '; no ear'}"
    return [FRAME_TIME.result((float(median), float(high)), len(times), why)]


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
    checkpoint: Path,
    work: Path,
    *,
    most: int,
    rows: int,
    prompts: Path | None,
    parts: Sequence[str],
    callers: Path | None = None,
) -> list[Result]:
    """The results of these parts. Raises ValueError, CheckpointError where something needed is not there."""
    torch.set_num_threads(1)
    loaded = load_checkpoint(str(checkpoint))
    has_ear = (checkpoint / EAR_CONFIG).exists()
    exam = Exam(
        loaded,
        load_checkpoint(str(checkpoint), config_name=EAR_CONFIG) if has_ear else None,
        Batch(loaded, rows),
        Material(work, load_domain(), callers=callers),
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
    parser.add_argument("--work", type=Path, default=Path("build/pocket"), help="where everything lies (build/pocket)")
    parser.add_argument("--callers", type=Path, help="where the callers lie, if not in WORK/callers: WORK/natural")
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
        callers=options.callers,
    )
    print(table(results))
    if options.json:
        options.json.write_text(as_json(results), encoding="utf-8")


if __name__ == "__main__":
    main()
