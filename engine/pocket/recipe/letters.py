"""What hibari and Kokoro have in common: an alphabet of one letter a phone, and graphs that know its length."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.pocket.recipe.formats import Audio, Span
from engine.pocket.recipe.phones import PAUSE, divided, from_ipa
from engine.pocket.recipe.synthesis import Spoken, SynthesisError
from engine.slot import SAMPLE_RATE

UNIT = 600
"""Samples that a duration of 1 is."""


@cache
def hibari_voice() -> Any:
    """hibari, which also tells letters from words. Raises SynthesisError."""
    return installed("hibari").Hibari()


def installed(name: str) -> Any:
    """A package of the extra. Raises SynthesisError."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise SynthesisError(f"{error.name} is not installed; pip install 'voipagent[recipe]'") from None


def session(model: bytes, output: str) -> Any:
    """To run a graph by on one core, with one more output, of this name."""
    onnxruntime = installed("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model + graph_output(output), options, providers=["CPUExecutionProvider"])


def speak(text: str, sentence: Callable[[str], tuple[Audio, NDArray[Any]]]) -> Spoken:
    """`text`, by what gives the sound of a sentence's letters and how long each lasts, from a beginning to an end.

    Raises SynthesisError if the words cannot be told apart in it.
    """
    reader = hibari_voice()
    audio: list[Audio] = []
    words: list[Span] = []
    phones: list[Span] = []
    offset = 0.0
    for written in reader.split_sentences(text):
        letters = "".join(letter for letter in reader.g2p(written) if letter in reader.vocab)
        sound, durations = sentence(letters)
        timed = _timed(letters, durations)
        said = re.findall(r"[^\s.,;:?!]+", written)
        spans = words_of(letters, timed)
        if len(spans) != len(said):
            raise SynthesisError(f"{len(spans)} words are said for the {len(said)} of {written!r}")
        words += [Span(word, offset + a, offset + b) for word, (a, b) in zip(said, spans, strict=True)]
        phones += phones_of(timed, offset)
        audio.append(sound)
        offset += len(sound) / SAMPLE_RATE
    return Spoken(np.concatenate(audio), SAMPLE_RATE, words, phones)


def _timed(letters: str, durations: NDArray[Any]) -> list[Span]:
    """Letters as spans; the first and the last duration are of the silence around them."""
    ends = np.cumsum(durations.reshape(-1)) * UNIT / SAMPLE_RATE
    return [
        Span(letter, float(start), float(end))
        for letter, start, end in zip(letters, ends[:-2], ends[1:-1], strict=True)
    ]


def graph_output(name: str) -> bytes:
    """An ONNX file with one more output, when put behind it.

    Protocol buffers merge a message that comes twice: ModelProto.graph (7) { GraphProto.output (12) { name (1) } }.
    """
    inner = b"\x0a" + bytes([len(name)]) + name.encode()
    output = b"\x62" + bytes([len(inner)]) + inner
    return b"\x3a" + bytes([len(output)]) + output


def words_of(symbols: str, phones: list[Span]) -> list[tuple[float, float]]:
    """Start and end of each run of symbols that are neither space nor mark."""
    spans: list[tuple[float, float]] = []
    inside = False
    for symbol, span in zip(symbols, phones, strict=True):
        if symbol in ' .,;:?!—…"()“”':
            inside = False
        elif inside:
            spans[-1] = (spans[-1][0], span.end_s)
        else:
            spans.append((span.start_s, span.end_s))
            inside = True
    return spans


LONGEST_GAP_S = 0.08
"""A space that lasts longer is a pause; up to there it is how one word passes into the next."""


def phones_of(symbols: list[Span], offset: float) -> list[Span]:
    """Marks have time of their own: a stress's goes to what follows it, a length's and a gap's to the last phone."""
    phones: list[Span] = []
    start: float | None = None
    for symbol in symbols:
        begin = symbol.start_s if start is None else start
        names = from_ipa(symbol.label)
        start = begin if symbol.label in "ˈˌ" else None
        if not names and start is None:
            if symbol.end_s - begin <= LONGEST_GAP_S and phones:
                phones[-1] = replace(phones[-1], end_s=offset + symbol.end_s)
                continue
            names = (PAUSE,)
        if names and symbol.end_s > begin:
            phones += divided(names, offset + begin, offset + symbol.end_s)
    return phones
