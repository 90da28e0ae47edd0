"""Stand-in voices made of tones, for runs that only show that the recipe runs: nothing to install, and no sense.

Each letter is a phone of 60 ms: a pulse train through two resonances that belong to the letter, or noise for some.
"""

from __future__ import annotations

import re
from functools import cache
from itertools import cycle

import numpy as np

from engine.pocket.recipe.actors import Line
from engine.pocket.recipe.callers import Caller
from engine.pocket.recipe.dictation import Dictation, Written
from engine.pocket.recipe.domain import ClipText
from engine.pocket.recipe.formats import Audio, Clip, ClipWord, Span, Utterance, whole_frames
from engine.pocket.recipe.phones import PAUSE, PHONES
from engine.pocket.recipe.synthesis import Spoken
from engine.pocket.recipe.voices import LEVEL
from engine.slot import FRAME_SAMPLES, SAMPLE_RATE

LETTER_S = 0.06
GAP_S = 0.05
AGENT_PITCH = 200.0
NOISY = "cfhsxz"


def callers() -> tuple[Caller, ...]:
    """Six to train on, two held out."""
    return tuple(
        Caller(f"tones-{n}", "tones", "tones", "train" if n < 6 else "held-out", 1 + 0.1 * (n % 3), 0.7 + 0.1 * n)
        for n in range(8)
    )


def tones(text: str, caller: Caller) -> Spoken:
    """A voice that says letters."""
    audio: list[Audio] = []
    words: list[Span] = []
    phones: list[Span] = []
    at = 0.0
    for word in re.findall(r"[\w'-]+", text):
        start = at
        for letter in word.lower():
            sound = _letter(letter, LETTER_S * caller.stretch, 150 * caller.pitch)
            audio.append(sound)
            phones.append(Span(PHONES[1 + ord(letter) % (len(PHONES) - 1)], at, at + len(sound) / SAMPLE_RATE))
            at += len(sound) / SAMPLE_RATE
        words.append(Span(word, start, at))
        gap = np.zeros(int(GAP_S * SAMPLE_RATE), np.float32)
        audio.append(gap)
        phones.append(Span(PAUSE, at, at + GAP_S))
        at += GAP_S
    return Spoken(np.concatenate(audio), SAMPLE_RATE, words, phones)


@cache
def _letter(letter: str, seconds: float, pitch: float) -> Audio:
    time = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    number = ord(letter) % 31
    formants = 300 + 22 * number, 900 + 70 * (number * 7 % 31)
    if letter in NOISY:
        made = np.random.default_rng(number).standard_normal(len(time)) * 0.3
    else:
        made = np.zeros(len(time))
        for n in range(1, int(3_400 / pitch)):
            distance = min(abs(n * pitch - formant) for formant in formants)
            made += np.cos(2 * np.pi * n * pitch * time) / (1 + distance / 120) ** 2
    made = made * np.hanning(len(time))
    return np.asarray(LEVEL * made / np.sqrt(np.mean(np.square(made)) + 1e-9), np.float32)


def tone_clip(text: ClipText) -> Clip:
    """A clip of the agent's, in tones; its words are cut out of nothing, so carriers are not needed."""
    spoken = tones(text.id, Caller("agent", "tones", "tones", "train", 1.0, AGENT_PITCH / 150))
    words = text.id.split()
    frames = [int(span.start_s * SAMPLE_RATE) // FRAME_SAMPLES for span in spoken.words]
    return Clip(
        text.id,
        whole_frames(spoken.audio),
        tuple(ClipWord(word, frame) for word, frame in zip(words, frames, strict=True)),
    )


def tone_sentence(text: str) -> Utterance:
    """What the agent's voice says besides its clips."""
    spoken = tones(text, Caller("agent", "tones", "tones", "train", 1.0, AGENT_PITCH / 150))
    return Utterance(spoken.audio, text, "agent", "train", words=tuple(spoken.words), phones=tuple(spoken.phones))


LINES = ("yes", "no", "yeah", "the cook was late", "we saw a train", "nobody came", "it rained all day", "look out")


def lines() -> list[Line]:
    """Lines of some actors, two of whom are held out."""
    actors = ("somebody", "somebody", "queen-01", "queen-02", "queen-03", "queen-04", "queen-07", "queen-13")
    voices = zip(actors, LINES, strict=True)
    return [
        Line(actor, 0, tones(text, Caller(actor, "tones", "tones", "train")).audio, SAMPLE_RATE)
        for actor, text in voices
    ]


def dictation() -> Dictation:
    """Writes LINES, whatever it hears."""
    return lambda recordings: (Written(text, 0.0, 0.0) for text, _ in zip(cycle(LINES), recordings, strict=False))


def read_along(text: str, audio: Audio, rate: int) -> tuple[list[Span], list[Span]]:
    """By the same voice, so nothing is to be laid along."""
    made = tones(text, Caller("reader", "tones", "tones", "train"))
    return made.words, made.phones
