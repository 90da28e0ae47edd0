"""flite, called in the process through its C library: its program does not tell the times of words."""

from __future__ import annotations

import ctypes
from dataclasses import replace
from functools import cache

import numpy as np

from engine.pocket.recipe.callers import FLITE_MEAN_F0, Caller
from engine.pocket.recipe.formats import Span
from engine.pocket.recipe.phones import PAUSE, from_flite
from engine.pocket.recipe.synthesis import Spoken, SynthesisError, load


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


@cache
def _flite() -> ctypes.CDLL:
    library = load("libflite.so.1", "flite")
    load("libflite_usenglish.so.1", "flite")
    load("libflite_cmulex.so.1", "flite")
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
    library = load(f"libflite_cmu_us_{base}.so.1", "flite")
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
