"""Callers who talk on, one thing after the other, and nobody answers: what the ear learns words from.

In calls most frames are without a word, and a question comes alone. Here one caller, or several, say whatever they have
been recorded to say, at any speed and through any mouth and microphone. Nothing in it is for the agent.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.pocket.recipe.channel import coloured
from engine.pocket.recipe.dialogues import Composer, Pool, Timeline, played, turn_of
from engine.pocket.recipe.formats import Dialogue, Utterance
from engine.pocket.recipe.sounds import COLOURED_SHARE
from engine.slot import FRAME_SAMPLES, SAMPLE_RATE

FRAMES = 128
"""Ten seconds: a window of the ear's training."""

EMPTY = 0.03
"""Of the windows, those in which nobody talks."""

TOGETHER = 0.45
"""Of the others, those in which everything is said by somebody else."""

SPEED = 0.15
"""They play this much faster or slower, log-uniformly."""

BEGINS_S = (0.0, 0.7)
BREATH_S, PAUSE_S = (0.05, 0.4), (0.4, 2.0)
"""Of silence between two things that are said; each as often as the other."""


def compose(composer: Composer, random: np.random.Generator) -> Dialogue:
    """One window, through a telephone."""
    line = Timeline(FRAMES, composer.clips, composer.encode)
    if random.random() >= EMPTY:
        _talk(line, composer.pool, random)
    return composer.finished(random, line, "")


def _talk(line: Timeline, pool: Pool, random: np.random.Generator) -> None:
    """Until the window is full."""
    together = random.random() < TOGETHER
    said = _theirs(pool, str(random.choice(pool.voices)))
    at_s = float(random.uniform(*BEGINS_S))
    while at_s < FRAMES * FRAME_SAMPLES / SAMPLE_RATE:
        if together:
            said = _theirs(pool, str(random.choice(pool.voices)))
        utterance = said[int(random.integers(len(said)))]
        turn = played(turn_of((utterance, 0.0)), float(np.exp(random.uniform(-SPEED, SPEED))))
        line.hear(turn.audio, int(at_s * SAMPLE_RATE), turn.words, turn.phones)
        pause = BREATH_S if random.random() < 0.5 else PAUSE_S
        at_s += len(turn.audio) / SAMPLE_RATE + float(random.uniform(*pause))
    if random.random() < COLOURED_SHARE:
        line.caller = coloured(line.caller, random)


def _theirs(pool: Pool, voice: str) -> Sequence[Utterance]:
    """All that a voice asks and tells."""
    asked = [each for (whose, _), some in pool.by_voice.items() if whose == voice for each in some]
    return [*asked, *pool.stories.get(voice, ()), *(each for each in pool.mutters if each.voice == voice)]
