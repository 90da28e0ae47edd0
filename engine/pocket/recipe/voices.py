"""Who speaks in the data: eight synthesisers, and where the words and phones are.

    flite (Debian `flite`, BSD-like)         rms, slt, kal, kal16; awb is held out
    espeak-ng (Debian, used at build time)   its voice variants, six of them held out, and drawn ones
    hibari "heart" (PyPI, Apache-2.0)        the agent's voice, and, warped, many callers
    Kokoro (PyPI and npm, Apache-2.0)        mixtures of its voices: the nearest to people that there is here
    RHVoice bdl, clb, slt (LGPL-2.1+), Pico en-US and en-GB ("claims to be Apache-2.0"; both in Debian's non-free) and
    Festival's ked (free, University of Edinburgh): five people more and slt, whose words are found by reading along
    Piper's joe (PyPI; the recordings CC0, learnt on from the voice lessac): only tested with

A `Caller` is one pseudo-speaker; `say` makes an `Utterance` of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from engine.pocket.recipe.aligned import festival, pico, piper, rhvoice
from engine.pocket.recipe.callers import Caller
from engine.pocket.recipe.chorus import choir, chorus
from engine.pocket.recipe.espeak import espeak
from engine.pocket.recipe.flite import flite
from engine.pocket.recipe.formats import Audio, Span, Utterance
from engine.pocket.recipe.heart import heart
from engine.pocket.recipe.phones import PAUSE
from engine.pocket.recipe.synthesis import Synthesiser, SynthesisError
from engine.slot import SAMPLE_RATE

LEVEL = 0.08
"""RMS of a voice while it speaks, before the channel."""

EDGE_S = (0.04, 0.06)
"""What is kept before the first phone and after the last."""

SYNTHESISERS: dict[str, Synthesiser] = {
    **{"flite": flite, "espeak": espeak, "heart": heart, "chorus": chorus, "choir": choir},
    **{"rhvoice": rhvoice, "pico": pico, "festival": festival, "piper": piper},
}


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
    if len(audio) < BLOCK:
        raise SynthesisError(f"{said.voice} is heard elsewhere than where {said.text!r} was found")
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
