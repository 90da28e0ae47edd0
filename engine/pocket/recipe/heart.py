"""hibari's voice "heart": the agent's, and, warped, many callers'."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np

from engine.pocket.recipe.callers import Caller
from engine.pocket.recipe.formats import Audio, Span
from engine.pocket.recipe.phones import PAUSE, divided, from_ipa
from engine.pocket.recipe.synthesis import Spoken, SynthesisError
from engine.slot import SAMPLE_RATE

DURATIONS = "/Round_output_0"
"""The node of hibari's graph that holds each phone's duration, in units of 600 samples."""


class Heart:
    """hibari's voice "heart", which also says where each phone is."""

    def __init__(self) -> None:
        try:
            import hibari
            import onnxruntime
        except ImportError as error:
            raise SynthesisError(f"{error.name} is not installed; pip install 'voipagent[recipe]'") from None
        self._tts = hibari.Hibari()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        model = Path(self._tts.model_path).read_bytes() + _graph_output(DURATIONS)
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._synthesise: Callable[..., Audio] = hibari.tts.dsp.synth

    def speak(self, text: str, speed: float = 1.0) -> Spoken:
        """The same sound every time. Raises SynthesisError if the words cannot be told apart in it."""
        audio: list[Audio] = []
        words: list[Span] = []
        phones: list[Span] = []
        offset = 0.0
        for sentence in self._tts.split_sentences(text):
            symbols = self._tts.g2p(sentence)
            symbols = "".join(symbol for symbol in symbols if symbol in self._tts.vocab)
            spoken = self._sentence(symbols, speed)
            said = re.findall(r"[^\s.,;:?!]+", sentence)
            spans = _words_of(symbols, spoken.phones)
            if len(spans) != len(said):
                raise SynthesisError(f"heart says {len(spans)} words for the {len(said)} of {sentence!r}")
            words += [Span(word, offset + a, offset + b) for word, (a, b) in zip(said, spans, strict=True)]
            phones += _phones_of(spoken.phones, offset)
            audio.append(spoken.audio)
            offset += len(spoken.audio) / SAMPLE_RATE
        return Spoken(np.concatenate(audio), SAMPLE_RATE, words, phones)

    def _sentence(self, symbols: str, speed: float) -> Spoken:
        """Its phones are hibari's own symbols here, the spaces and marks among them."""
        ids = np.array([self._tts.ids(symbols)], np.int64)
        names = [output.name for output in self._session.get_outputs()]
        values = dict(
            zip(names, self._session.run(None, {"ids": ids, "speed": np.array([speed], np.float32)}), strict=True)
        )
        parts = [values[name][0] for name in ("lh", "theta", "ln", "lr", "phi", "f0")]
        audio = self._synthesise(*parts, np.random.default_rng(0))
        ends = np.cumsum(values[DURATIONS].reshape(-1)) * 600 / SAMPLE_RATE
        phones = [
            Span(symbol, float(start), float(end))
            for symbol, start, end in zip(symbols, ends[:-2], ends[1:-1], strict=True)
        ]
        return Spoken(audio, SAMPLE_RATE, [], phones)


def _graph_output(name: str) -> bytes:
    """An ONNX file with one more output, when put behind it.

    Protocol buffers merge a message that comes twice: ModelProto.graph (7) { GraphProto.output (12) { name (1) } }.
    """
    inner = b"\x0a" + bytes([len(name)]) + name.encode()
    output = b"\x62" + bytes([len(inner)]) + inner
    return b"\x3a" + bytes([len(output)]) + output


def _words_of(symbols: str, phones: list[Span]) -> list[tuple[float, float]]:
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


def _phones_of(symbols: list[Span], offset: float) -> list[Span]:
    """hibari gives time to marks too: a stress's goes to what follows it, a length's and a gap's to the last phone."""
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


@cache
def heart_voice() -> Heart:
    return Heart()


def heart(text: str, caller: Caller) -> Spoken:
    """By hibari."""
    return heart_voice().speak(text, 1 / (caller.stretch * caller.size))
