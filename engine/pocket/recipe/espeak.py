"""espeak-ng, called in the process through its C library: its program does not tell the times of words."""

from __future__ import annotations

import atexit
import ctypes
import re
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.pocket.recipe.callers import Caller
from engine.pocket.recipe.formats import Span
from engine.pocket.recipe.phones import PAUSE, divided, from_ipa
from engine.pocket.recipe.synthesis import Spoken, SynthesisError, load
from engine.pocket.recipe.variants import Folder


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
        self._library = load("libespeak-ng.so.1", "espeak-ng")
        self._initialise(None)
        data = ctypes.c_char_p()
        self._library.espeak_Info(ctypes.byref(data))
        root = Path(tempfile.mkdtemp(prefix="espeak-variants-"))
        atexit.register(shutil.rmtree, root, ignore_errors=True)
        self._folder = Folder(Path((data.value or b"").decode()), root)
        self._library.espeak_Terminate()
        self.rate = self._initialise(root)
        self._callback = _ESPEAK_CALLBACK(self._heard)
        self._library.espeak_SetSynthCallback(self._callback)
        size, unsigned, pointer = ctypes.c_size_t, ctypes.c_uint, ctypes.c_void_p
        self._library.espeak_Synth.argtypes = [
            *(ctypes.c_char_p, size, unsigned, ctypes.c_int, unsigned, unsigned, pointer, pointer)
        ]
        self._audio: list[NDArray[np.int16]] = []
        self._events: list[tuple[int, int, int, int, str]] = []

    def _initialise(self, root: Path | None) -> int:
        """Hz that it speaks at."""
        path = None if root is None else str(root).encode()
        rate: int = self._library.espeak_Initialize(_SYNCHRONOUS, 0, path, _PHONES_AS_IPA)
        if rate <= 0:
            raise SynthesisError("libespeak-ng cannot be initialised; install the package espeak-ng-data")
        return rate

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
        self._folder.lay(caller.base)
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
