"""whisper-base writes down what recordings say, many at a time, and how sure it is.

It hears half a minute by itself; here it hears as much as there is and a second more, which takes a tenth of the time,
and has it write some short lines twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from engine.pocket.recipe.formats import Audio
from engine.pocket.recipe.judges import JUDGE_RATE, whisper_model

TOGETHER = 16
"""Recordings at a time."""

AROUND_S = 0.25
"""Silence before a recording."""

MORE_S, STEP_S = 1.0, 2.0
"""What is heard beyond the longest of them, and in steps of which length."""

WHOLE_S = 30
"""What it hears by itself."""

HOP_S = 0.01

MOST_TOKENS = 60
"""Of what is said; what would be longer is not to be relied on, for its end is not written."""


@dataclass(frozen=True, slots=True)
class Written:
    """`score` is the mean log-probability of a token, `silent` the probability that nobody speaks."""

    text: str
    score: float
    silent: float


Dictation: TypeAlias = Callable[[Sequence[Audio]], Iterator[Written]]
"""What recordings at JUDGE_RATE say, in their order, of less than half a minute each."""


def dictation() -> Dictation:
    """Raises Missing."""
    model = whisper_model()
    from ctranslate2 import StorageView
    from faster_whisper.tokenizer import Tokenizer

    tokens = Tokenizer(model.hf_tokenizer, True, task="transcribe", language="en")
    prompt = model.get_prompt(tokens, [], without_timestamps=True)

    def write(recordings: Sequence[Audio]) -> Iterator[Written]:
        for first in range(0, len(recordings), TOGETHER):
            some = recordings[first : first + TOGETHER]
            heard = np.stack([model.feature_extractor(_padded(each)) for each in some])[:, :, : _frames(some)]
            given = StorageView.from_array(np.ascontiguousarray(heard, np.float32))
            for result in model.model.generate(
                given,
                [prompt] * len(some),
                beam_size=1,
                max_length=2 * MOST_TOKENS,  # it takes half of this for what came before
                no_repeat_ngram_size=6,
                return_scores=True,
                return_no_speech_prob=True,
            ):
                (ids, *_), whole = result.sequences_ids, len(result.sequences_ids[0]) < MOST_TOKENS - 1
                score = float(result.scores[0]) if whole else -math.inf
                yield Written(str(model.hf_tokenizer.decode(ids)), score, float(result.no_speech_prob))

    return write


def _padded(audio: Audio) -> Audio:
    before = int(AROUND_S * JUDGE_RATE)
    return np.pad(audio, (before, WHOLE_S * JUDGE_RATE - before - len(audio)))


def _frames(some: Sequence[Audio]) -> int:
    longest_s = max(map(len, some)) / JUDGE_RATE + MORE_S
    return min(int(WHOLE_S / HOP_S), int(np.ceil(longest_s / STEP_S) * STEP_S / HOP_S))
