"""The agent's voice: hibari's "heart", spoken again by WORLD so that it repeats itself on the frame grid.

A small decoder learns a sound quickly where the same codes always stand for the same samples. So the voice is monotone
at 200 Hz: one pulse every 120 samples from a clip's first sample on, sixteen in a frame, each the minimum-phase impulse
response of the envelope at that time; and its noise is one fixed frame of it, tiled. Only the envelope moves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.pocket.recipe.domain import ClipText
from engine.pocket.recipe.formats import Audio, Clip, ClipWord, Span, Utterance, whole_frames
from engine.pocket.recipe.heart import heart_voice
from engine.pocket.recipe.phones import PAUSE
from engine.pocket.recipe.synthesis import Spoken, SynthesisError
from engine.pocket.recipe.voices import LEVEL, audible, speech_level
from engine.slot import FRAME_SAMPLES, SAMPLE_RATE

PERIOD = 120
"""Samples between pulses: 200 Hz, the natural pitch of the voice, and a step of the decoder's 200 Hz layer."""

STEP_S = 0.005
"""Between WORLD's frames."""

FFT = 1024
NOISE_WINDOW = 480
NOISE_SHARE = 0.7
"""Of the aperiodicity where the voice is voiced: less breath than WORLD hears, for the pulses carry it well enough."""

EDGE_S = (0.02, 0.06)
"""What is kept before the first phone and after the last, where silence is beside them."""

PAUSE_S = 0.03
"""Words further apart than this have silence between them."""

FADE = 120

VOICE = "agent"


@dataclass(frozen=True, slots=True, eq=False)
class Analysis:
    """WORLD's view of a sound, a row each 5 ms. `envelope` is a power spectrum, `noise` an amplitude ratio."""

    voiced: NDArray[np.bool_]  # [T]
    envelope: NDArray[np.float64]  # [T, 513]
    noise: NDArray[np.float64]  # [T, 513]


def analyse(audio: Audio) -> Analysis:
    """WORLD (Morise et al. 2016), with Harvest's F0 refined by StoneMask."""
    import pyworld

    wave = audio.astype(np.float64)
    f0, times = pyworld.harvest(wave, SAMPLE_RATE, f0_floor=90, f0_ceil=400, frame_period=1000 * STEP_S)
    f0 = pyworld.stonemask(wave, f0, times, SAMPLE_RATE)
    envelope = pyworld.cheaptrick(wave, f0, times, SAMPLE_RATE, fft_size=FFT)
    noise = pyworld.d4c(wave, f0, times, SAMPLE_RATE, fft_size=FFT)
    return Analysis(f0 > 0, envelope, noise)


def locked(analysis: Analysis, times_s: NDArray[np.floating[Any]]) -> Audio:
    """The sound whose n-th pulse, at sample n·120, takes its envelope from the analysed sound at `times_s[n]`."""
    at = np.clip(times_s / STEP_S, 0, len(analysis.envelope) - 1)
    below, part = at.astype(int), (at % 1)[:, None]
    above = np.minimum(below + 1, len(analysis.envelope) - 1)
    logs = np.log(analysis.envelope)
    magnitude = np.exp((logs[below] * (1 - part) + logs[above] * part) / 2)
    noise = analysis.noise[below] * (1 - part) + analysis.noise[above] * part
    voiced = analysis.voiced[np.round(at).astype(int).clip(0, len(analysis.voiced) - 1)]
    samples = len(times_s) * PERIOD
    return _pulses(magnitude * np.sqrt(1 - noise**2), voiced, samples) + _breath(
        magnitude * np.where(voiced[:, None], NOISE_SHARE * noise, 1), samples
    )


def _pulses(magnitude: NDArray[np.float64], voiced: NDArray[np.bool_], samples: int) -> Audio:
    made = np.zeros(samples + FFT)
    for n in np.flatnonzero(voiced):
        made[n * PERIOD : n * PERIOD + FFT] += minimum_phase(magnitude[n])
    return np.asarray(made[:samples] * np.sqrt(PERIOD), np.float32)


def minimum_phase(magnitude: NDArray[np.float64]) -> NDArray[np.float64]:
    """The impulse response with this spectrum that comes as early as can be: its cepstrum folded onto n >= 0."""
    cepstrum = np.fft.irfft(np.log(np.maximum(magnitude, 1e-9)), FFT)
    cepstrum[1 : FFT // 2] *= 2
    cepstrum[FFT // 2 + 1 :] = 0
    return np.asarray(np.fft.irfft(np.exp(np.fft.rfft(cepstrum)), FFT))


def _breath(magnitude: NDArray[np.float64], samples: int) -> Audio:
    """The one frame of noise, tiled from sample 0 on, filtered by windows that overlap four times."""
    half = NOISE_WINDOW // 2
    template = np.random.default_rng(7).standard_normal(FRAME_SAMPLES)
    tiled = np.tile(template, samples // FRAME_SAMPLES + 3)[FRAME_SAMPLES - half :]
    starts = np.arange(len(magnitude)) * PERIOD
    windows = tiled[starts[:, None] + np.arange(NOISE_WINDOW)] * np.hanning(NOISE_WINDOW + 1)[:-1]
    filtered = np.fft.irfft(np.fft.rfft(windows, FFT) * magnitude, FFT) / (NOISE_WINDOW / PERIOD / 2)
    made = np.zeros(samples + 2 * FFT)
    for start, window in zip(starts, np.roll(filtered, (FFT - NOISE_WINDOW) // 2, axis=1), strict=True):
        made[start : start + FFT] += window
    offset = half + (FFT - NOISE_WINDOW) // 2
    return np.asarray(made[offset : offset + samples], np.float32)


def speak_clip(text: ClipText) -> Clip:
    """A clip of the agent's voice. Raises SynthesisError where its words cannot be told apart."""
    spoken = heart_voice().speak(text.carrier)
    return cut_clip(text, spoken, analyse(spoken.audio))


def cut_clip(text: ClipText, spoken: Spoken, analysis: Analysis) -> Clip:
    """A whole answer keeps its pace and is padded; a part is stretched to the nearest frame, so that parts can meet."""
    words = spoken.words[text.first : text.last]
    labels = text.id.split()
    if len(words) != len(labels):
        raise SynthesisError(f"{text.id!r} is not words {text.first} to {text.last} of {text.carrier!r}")
    start, end = _edges(text, spoken)
    frame_s = FRAME_SAMPLES / SAMPLE_RATE
    pace = (end - start) / (frame_s * max(1, round((end - start) / frame_s))) if text.part else 1.0
    times = start + np.arange(round((end - start) / pace / STEP_S)) * STEP_S * pace
    audio = whole_frames(_levelled(locked(analysis, times)))
    frames = [int(max(0.0, word.start_s - start) / pace / frame_s) for word in words]
    return Clip(text.id, audio, tuple(ClipWord(label, frame) for label, frame in zip(labels, frames, strict=True)))


def _edges(text: ClipText, spoken: Spoken) -> tuple[float, float]:
    """Where the clip begins and ends in its carrier, in seconds: at the words' edges, with some of a silence there."""
    length = len(spoken.audio) / SAMPLE_RATE
    first, last = audible(spoken.audio)
    words = [Span("", 0, first), *spoken.words, Span("", last, length)]
    until = len(spoken.words) if text.last is None else text.last
    before, begin, end, after = words[text.first], words[text.first + 1], words[until], words[until + 1]
    start_s, end_s = max(first, begin.start_s), min(last, end.end_s)
    lead = min(EDGE_S[0], start_s / 2) if start_s - before.end_s > PAUSE_S or text.first == 0 else 0.0
    tail = min(EDGE_S[1], (length - end_s) / 2) if after.start_s - end_s > PAUSE_S or text.last is None else 0.0
    return start_s - lead, end_s + tail


def speak_freely(text: str) -> Utterance:
    """A sentence in the agent's voice that is no clip, for the codec to learn the voice beyond its answers."""
    spoken = heart_voice().speak(text)
    times = np.arange(len(spoken.audio) // PERIOD) * STEP_S
    audio = _levelled(locked(analyse(spoken.audio), times))
    return Utterance(
        audio, text, VOICE, "train", words=tuple(spoken.words), phones=tuple(_without_silence(spoken.phones))
    )


def _without_silence(phones: list[Span]) -> list[Span]:
    return [span for span in phones if span.label != PAUSE or span.end_s - span.start_s > STEP_S]


def _levelled(audio: Audio) -> Audio:
    """At the level of a voice while it speaks, its ends faded."""
    fade = np.minimum(1, (np.arange(len(audio), dtype=np.float32) + 1) / FADE)
    made: Audio = np.clip(audio * (LEVEL / speech_level(audio)) * fade * fade[::-1], -1, 1).astype(np.float32)
    return made
