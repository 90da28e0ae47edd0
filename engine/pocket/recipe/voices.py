"""Who speaks in the training data: three synthesisers, each saying where its words and phones are.

    flite (Debian `flite`, BSD-like)         rms, slt, kal, kal16; awb is held out
    espeak-ng (Debian, used at build time)   its voice variants; six are held out
    hibari "heart" (PyPI, Apache-2.0)        the agent's voice, and, warped, many callers

flite and espeak-ng are called in the process through their C libraries: their programs do not tell the times of words.
A `Caller` is one pseudo-speaker: a voice with its pace, pitch, and size of head. `say` makes an `Utterance` of it.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from engine.pocket.recipe.formats import Audio, Span, Split, Utterance
from engine.pocket.recipe.phones import PAUSE, divided, from_flite, from_ipa
from engine.slot import SAMPLE_RATE

LEVEL = 0.08
"""RMS of a voice while it speaks, before the channel."""

EDGE_S = (0.04, 0.06)
"""What is kept before the first phone and after the last."""


class SynthesisError(Exception):
    """A synthesiser is not there, or refused a text; the message says which."""


@dataclass(frozen=True, slots=True, eq=False)
class Spoken:
    """What a synthesiser gives: sound at its own rate, and the spans of words and phones in seconds."""

    audio: Audio
    rate: int
    words: list[Span]
    phones: list[Span]


class Synthesiser(Protocol):
    def __call__(self, text: str, caller: Caller) -> Spoken: ...


@dataclass(frozen=True, slots=True)
class Caller:
    """One pseudo-speaker.

    `stretch` > 1 is slower. `pitch` multiplies F0. `size` > 1 is a shorter vocal tract: played that much faster, the
    stretch making up for it. `warp` shifts the formants alone (by WORLD, so it costs more; 1 leaves it out).
    """

    name: str
    engine: str
    base: str
    split: Split
    stretch: float = 1.0
    pitch: float = 1.0
    size: float = 1.0
    warp: float = 1.0


FLITE_VOICES = ("rms", "slt", "kal16", "kal")
FLITE_HELD_OUT = "awb"
FLITE_MEAN_F0 = {"rms": 100.0, "slt": 170.0, "kal16": 105.0, "kal": 105.0, "awb": 130.0}
"""Hz: what `int_f0_target_mean` multiplies to."""

ESPEAK_VARIANTS = (
    *("f1", "f2", "f3", "f5", "m1", "m2", "m3", "m4", "m6", "m7", "m8", "klatt", "klatt2", "klatt3", "klatt5"),
    *("adam", "Alicia", "Andy", "Annie", "aunty", "belinda", "benjamin", "boris", "caleb", "david", "ed", "edward"),
    *("Gene", "grandma", "grandpa", "iven", "iven3", "john", "Lee", "linda", "max", "Michael", "miguel", "norbert"),
    *("paul", "pedro", "quincy", "rob", "robert", "steph", "steph3", "travis", "victor", "zac"),
)
ESPEAK_HELD_OUT = ("f4", "m5", "klatt4", "Andrea", "mike", "anika")
ESPEAK_ACCENTS = ("en-us", "en-us", "en", "en-gb-x-rp", "en-gb-scotland", "en-029")
"""As espeak-ng takes them before a variant; `en` is British."""


def callers(seed: int = 0) -> tuple[Caller, ...]:
    """Every pseudo-speaker, training and held out; the same for a seed.

    >>> len([caller for caller in callers() if caller.split == "train"]) >= 150
    True
    """
    random = np.random.default_rng(seed)

    def between(low: float, high: float) -> float:
        return round(float(random.uniform(low, high)), 3)

    made: list[Caller] = []
    for base in FLITE_VOICES:
        for n in range(20):
            made.append(
                Caller(
                    f"{base}-{n}", "flite", base, "train", between(0.78, 1.25), between(0.7, 1.4), between(0.86, 1.17)
                )
            )
    for n, variant in enumerate(ESPEAK_VARIANTS):
        accent = ESPEAK_ACCENTS[n % len(ESPEAK_ACCENTS)]
        made.append(
            Caller(f"{variant}-a", "espeak", f"en-us+{variant}", "train", between(0.85, 1.3), 1.0, between(0.92, 1.09))
        )
        made.append(
            Caller(
                f"{variant}-b",
                "espeak",
                f"{accent}+{variant}",
                "train",
                between(0.8, 1.35),
                between(0.8, 1.25),
                between(0.86, 1.16),
            )
        )
    for n in range(36):
        low = n % 2 == 1  # half of them as deep as men: pitch and formants go down together
        pitch, warp = (between(0.45, 0.75), between(0.78, 0.92)) if low else (between(0.8, 1.3), between(0.92, 1.12))
        made.append(
            Caller(f"heart-{n}", "heart", "heart", "train", between(0.8, 1.25), pitch, between(0.95, 1.05), warp)
        )
    for base in ("slt", "rms"):
        for n in range(8):
            made.append(
                Caller(
                    f"{base}-warped-{n}",
                    *("flite", base, "train"),
                    between(0.8, 1.2),
                    between(0.75, 1.4),
                    between(0.95, 1.05),
                    between(0.82, 1.18),
                )
            )
    made += [
        Caller("awb", "flite", "awb", "held-out"),
        Caller("awb-slow", "flite", "awb", "held-out", 1.2, 0.9),
        Caller("awb-small", "flite", "awb", "held-out", 1.0, 1.25, 1.1),
        *(Caller(variant, "espeak", f"en-us+{variant}", "held-out", 1.1) for variant in ESPEAK_HELD_OUT),
        *(Caller(f"{variant}-gb", "espeak", f"en+{variant}", "held-out", 0.95) for variant in ESPEAK_HELD_OUT),
    ]
    return tuple(made)


def varied(caller: Caller, random: np.random.Generator) -> Caller:
    """Of its pace, pitch, head and accent somebody else: two hundred callers are soon known by heart."""
    base, stretch, pitch, size = caller.base, random.uniform(0.78, 1.32), caller.pitch, caller.size
    if caller.engine == "flite":
        pitch, size = random.uniform(0.65, 1.45), random.uniform(0.84, 1.18)
    elif caller.engine == "espeak":
        accent = ESPEAK_ACCENTS[int(random.integers(len(ESPEAK_ACCENTS)))]
        base = f"{accent}+{caller.base.partition('+')[2]}"
        pitch, size = random.uniform(0.75, 1.3), random.uniform(0.86, 1.17)
    name = f"{caller.name}-{int(random.integers(1 << 32)):08x}"
    return replace(caller, name=name, base=base, stretch=float(stretch), pitch=float(pitch), size=float(size))


def say(caller: Caller, text: str, synthesiser: Synthesiser | None = None) -> Utterance:
    """`text` in a caller's voice: 24 kHz, levelled, cut close to the speech. Raises SynthesisError."""
    spoken = (synthesiser or SYNTHESISERS[caller.engine])(text, caller)
    audio, squeeze = _resampled(spoken.audio, spoken.rate * caller.size)
    if caller.warp != 1 or (caller.engine == "heart" and caller.pitch != 1):
        pitch = caller.pitch / caller.size if caller.engine == "heart" else 1.0
        audio = _warped(audio, pitch, caller.warp)
    scale = 1 / (caller.size * squeeze)
    words, phones = _scaled(spoken.words, scale), _scaled(spoken.phones, scale)
    return _cut(Utterance(audio, text, caller.name, caller.split, words=words, phones=phones))


def _scaled(spans: Iterable[Span], scale: float) -> tuple[Span, ...]:
    return tuple(Span(span.label, span.start_s * scale, span.end_s * scale) for span in spans)


def _resampled(audio: Audio, rate: float) -> tuple[Audio, float]:
    """From `rate` to 24 kHz by a small fraction; also by how much the fraction is beside the rate."""
    ratio = Fraction(SAMPLE_RATE / rate).limit_denominator(80)
    if ratio == 1:
        return audio, 1.0
    from scipy.signal import resample_poly

    made: Audio = resample_poly(audio, ratio.numerator, ratio.denominator).astype(np.float32)
    return made, SAMPLE_RATE / rate / float(ratio)


def _cut(said: Utterance) -> Utterance:
    """Without the silence around it, and at LEVEL."""
    sounding = [span for span in said.phones if span.label != PAUSE] or list(said.words)
    if not sounding:
        raise SynthesisError(f"nothing is said by {said.voice} in {said.text!r}")
    first, last = audible(said.audio)
    start = max(0.0, sounding[0].start_s - EDGE_S[0], first - EDGE_S[0])
    end = min(said.seconds, sounding[-1].end_s + EDGE_S[1], last + EDGE_S[1])
    audio = said.audio[int(start * SAMPLE_RATE) : int(end * SAMPLE_RATE)]
    audio = np.clip(audio * np.float32(LEVEL / speech_level(audio)), -1, 1).astype(np.float32)
    fade = np.minimum(1, np.arange(len(audio), dtype=np.float32) / 120)
    audio = audio * fade * fade[::-1]

    def moved(spans: tuple[Span, ...]) -> tuple[Span, ...]:
        length = len(audio) / SAMPLE_RATE
        inside = (Span(s.label, max(0.0, s.start_s - start), min(length, s.end_s - start)) for s in spans)
        return tuple(span for span in inside if span.end_s > span.start_s)

    return replace(said, audio=audio, words=moved(said.words), phones=moved(said.phones))


BLOCK = 240
"""Samples whose level is taken at once: 10 ms."""


def _levels(audio: Audio) -> NDArray[np.float64]:
    blocks = audio[: len(audio) // BLOCK * BLOCK].reshape(-1, BLOCK).astype(np.float64)
    return np.asarray(np.sqrt(np.mean(np.square(blocks), axis=1) + 1e-12))


def audible(audio: Audio, below_peak: float = 0.03) -> tuple[float, float]:
    """Where its first and last blocks are that are not 30 dB below the loudest, in seconds."""
    levels = _levels(audio)
    loud = np.flatnonzero(levels > below_peak * levels.max(initial=1e-6))
    if not loud.size:
        return 0.0, 0.0
    return float(loud[0]) * BLOCK / SAMPLE_RATE, float(loud[-1] + 1) * BLOCK / SAMPLE_RATE


def speech_level(audio: Audio) -> float:
    """RMS of the blocks in which somebody speaks."""
    levels = _levels(audio)
    return float(np.sqrt(np.mean(np.square(levels[levels >= 0.1 * levels.max()]))))


def _warped(audio: Audio, pitch: float, warp: float) -> Audio:
    """Another speaker by WORLD (Morise et al. 2016): F0 times `pitch`, the envelope stretched along frequency."""
    import pyworld

    wave = audio.astype(np.float64)
    f0, times = pyworld.dio(wave, SAMPLE_RATE, f0_floor=70, f0_ceil=500)
    f0 = pyworld.stonemask(wave, f0, times, SAMPLE_RATE)
    envelope = pyworld.cheaptrick(wave, f0, times, SAMPLE_RATE, fft_size=1024)
    noise = pyworld.d4c(wave, f0, times, SAMPLE_RATE, fft_size=1024)
    bins = np.minimum(np.arange(513) / warp, 512)
    below, part = bins.astype(int), bins % 1
    above = np.minimum(below + 1, 512)
    logs = np.log(envelope)
    envelope = np.ascontiguousarray(np.exp(logs[:, below] * (1 - part) + logs[:, above] * part))
    noise = np.ascontiguousarray(noise[:, below])
    made: Audio = pyworld.synthesize(f0 * pitch, envelope, noise, SAMPLE_RATE)[: len(audio)].astype(np.float32)
    return np.pad(made, (0, len(audio) - len(made)))


class _FliteVoice(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("features", ctypes.c_void_p)]


class _FliteWave(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_char_p),
        ("rate", ctypes.c_int),
        ("samples", ctypes.c_int),
        ("channels", ctypes.c_int),
        ("data", ctypes.POINTER(ctypes.c_short)),
    ]


def _library(name: str, package: str) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        raise SynthesisError(f"{name} cannot be loaded ({error}); install the package {package}") from None


@cache
def _flite() -> ctypes.CDLL:
    library = _library("libflite.so.1", "flite")
    _library("libflite_usenglish.so.1", "flite")
    _library("libflite_cmulex.so.1", "flite")
    pointer, text, real = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_float
    for name, result, arguments in (
        ("flite_synth_text", pointer, [text, pointer]),
        ("utt_wave", ctypes.POINTER(_FliteWave), [pointer]),
        ("utt_relation", pointer, [pointer, text]),
        ("relation_head", pointer, [pointer]),
        ("item_next", pointer, [pointer]),
        ("flite_ffeature_string", text, [pointer, text]),
        ("flite_ffeature_float", real, [pointer, text]),
        ("flite_feat_set_float", None, [pointer, text, real]),
        ("delete_utterance", None, [pointer]),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    library.flite_init()
    return library


@cache
def _flite_voice(base: str) -> int:
    _flite()
    library = _library(f"libflite_cmu_us_{base}.so.1", "flite")
    register = getattr(library, f"register_cmu_us_{base}")
    register.restype, register.argtypes = ctypes.c_void_p, [ctypes.c_char_p]
    voice: int = register(None)
    return voice


def flite(text: str, caller: Caller) -> Spoken:
    """By libflite. A word's span is that of its segments, found by their token."""
    library, voice = _flite(), _flite_voice(caller.base)
    features = ctypes.cast(voice, ctypes.POINTER(_FliteVoice)).contents.features
    f0 = FLITE_MEAN_F0[caller.base] * caller.pitch / caller.size
    library.flite_feat_set_float(features, b"duration_stretch", caller.stretch * caller.size)
    library.flite_feat_set_float(features, b"int_f0_target_mean", f0)
    utterance = library.flite_synth_text(text.encode(), voice)
    if not utterance:
        raise SynthesisError(f"flite refused {text!r}")
    try:
        wave = library.utt_wave(utterance).contents
        audio = np.ctypeslib.as_array(wave.data, (wave.samples,)).astype(np.float32) / np.float32(32_768)
        words, phones = _flite_spans(library, utterance)
        return Spoken(audio, wave.rate, words, phones)
    finally:
        library.delete_utterance(utterance)


def _flite_spans(library: ctypes.CDLL, utterance: int) -> tuple[list[Span], list[Span]]:
    words: list[Span] = []
    phones: list[Span] = []
    start, last = 0.0, -1.0
    item = library.relation_head(library.utt_relation(utterance, b"Segment"))
    while item:
        end = float(library.flite_ffeature_float(item, b"end"))
        phone = from_flite(library.flite_ffeature_string(item, b"name").decode())
        phones.append(Span(phone, start, end))
        if phone != PAUSE:
            # A token's place among its sisters tells one "no" from the next.
            token = b"R:SylStructure.parent.parent.R:Token.parent."
            name = library.flite_ffeature_string(item, token + b"name").decode()
            place = float(library.flite_ffeature_float(item, token + b"file_pos"))
            if words and place == last:
                words[-1] = replace(words[-1], end_s=end)
            else:
                words.append(Span(name, start, end))
            last = place
        start = end
        item = library.item_next(item)
    return words, phones


class _EspeakId(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _EspeakEvent(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("unique", ctypes.c_uint),
        ("position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("milliseconds", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user", ctypes.c_void_p),
        ("id", _EspeakId),
    ]


_ESPEAK_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_EspeakEvent)
)
_SYNCHRONOUS, _PHONES_AS_IPA, _WORD, _PHONE, _UTF8, _RATE, _PITCH = 2, 0x3, 1, 7, 1, 1, 3


class _Espeak:
    """libespeak-ng, which there can be only one of in a process. Collects what it calls back."""

    def __init__(self) -> None:
        self._library = _library("libespeak-ng.so.1", "espeak-ng")
        self.rate: int = self._library.espeak_Initialize(_SYNCHRONOUS, 0, None, _PHONES_AS_IPA)
        if self.rate <= 0:
            raise SynthesisError("libespeak-ng cannot be initialised; install the package espeak-ng-data")
        self._callback = _ESPEAK_CALLBACK(self._heard)
        self._library.espeak_SetSynthCallback(self._callback)
        size, unsigned, pointer = ctypes.c_size_t, ctypes.c_uint, ctypes.c_void_p
        self._library.espeak_Synth.argtypes = [
            *(ctypes.c_char_p, size, unsigned, ctypes.c_int, unsigned, unsigned, pointer, pointer)
        ]
        self._audio: list[NDArray[np.int16]] = []
        self._events: list[tuple[int, int, int, int, str]] = []

    def _heard(self, wave: Any, samples: int, events: Any) -> int:
        if wave and samples > 0:
            self._audio.append(np.ctypeslib.as_array(wave, (samples,)).copy())
        number = 0
        while events[number].type:
            event = events[number]
            phone = event.id.string.decode(errors="ignore") if event.type == _PHONE else ""
            self._events.append((event.type, event.position, event.length, event.sample, phone))
            number += 1
        return 0

    def __call__(self, text: str, caller: Caller) -> Spoken:
        if self._library.espeak_SetVoiceByName(caller.base.encode()):
            raise SynthesisError(f"espeak-ng has no voice {caller.base!r}")
        self._library.espeak_SetParameter(_RATE, round(160 / (caller.stretch * caller.size)), 0)
        self._library.espeak_SetParameter(_PITCH, round(50 + 60 * (caller.pitch / caller.size - 1)), 0)
        self._audio, self._events = [], []
        data = text.encode()
        self._library.espeak_Synth(data, len(data) + 1, 0, 1, 0, _UTF8, None, None)
        audio = np.concatenate([np.zeros(0, np.int16), *self._audio]).astype(np.float32) / np.float32(32_768)
        return Spoken(audio, self.rate, self._words(text, len(audio)), self._phones(len(audio)))

    def _phones(self, samples: int) -> list[Span]:
        found = [(sample, name) for kind, _, _, sample, name in self._events if kind == _PHONE]
        spans: list[Span] = []
        for (start, name), (end, _) in zip(found, [*found[1:], (samples, "")], strict=True):
            if end > start:
                spans += divided(from_ipa(name) or (PAUSE,), start / self.rate, end / self.rate)
        return spans

    def _words(self, text: str, samples: int) -> list[Span]:
        """An event may stand for several words that are spoken as one: they share its time by their letters."""
        starts = {match.start() for match in re.finditer(r"[^\s.,?!]+", text)}
        events = [(position - 1, sample) for kind, position, _, sample, _ in self._events if kind == _WORD]
        # One more may stand at a sentence's end; and "mm-hm" alone has none.
        found = [event for event in events if event[0] in starts] or [(0, 0)]
        pauses = [
            sample
            for kind, _, _, sample, name in self._events
            if kind == _PHONE and not from_ipa(name)  # where a word ends that no word follows
        ]
        spans: list[Span] = []
        for (position, start), (until, next_start) in zip(found, [*found[1:], (len(text), samples)], strict=True):
            words = re.findall(r"[^\s.,?!]+", text[position:until])
            end = min([pause for pause in pauses if start < pause <= next_start], default=next_start)
            letters = sum(map(len, words))
            at = float(start)
            for word in words:
                to = at + (end - start) * len(word) / letters
                spans.append(Span(word, at / self.rate, to / self.rate))
                at = to
        return spans


@cache
def _espeak() -> _Espeak:
    return _Espeak()


def espeak(text: str, caller: Caller) -> Spoken:
    """By libespeak-ng."""
    return _espeak()(text, caller)


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


SYNTHESISERS: dict[str, Synthesiser] = {"flite": flite, "espeak": espeak, "heart": heart}
