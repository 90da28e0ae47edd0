"""What whisper is given, and what is made of what it gives; whisper itself is a stand-in."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.pocket.recipe import dictation as module
from engine.pocket.recipe.dictation import MOST_TOKENS, TOGETHER, Written, dictation
from engine.pocket.recipe.formats import Audio
from engine.pocket.recipe.judges import JUDGE_RATE, Missing


class Whisper:
    """Hears the level of each 10 ms, and writes how many there were and where the sound began."""

    hf_tokenizer = SimpleNamespace(decode=lambda ids: " ".join(map(str, ids)))

    def __init__(self) -> None:
        self.model = self
        self.given: list[tuple[int, ...]] = []
        self.asked: dict[str, Any] = {}

    def get_prompt(self, tokenizer: object, before: Sequence[int], without_timestamps: bool) -> list[int]:
        return [1, 2, 3]

    def feature_extractor(self, audio: Audio) -> NDArray[np.float32]:
        assert len(audio) == 30 * JUDGE_RATE
        levels: NDArray[np.float32] = np.abs(audio).reshape(1, -1, JUDGE_RATE // 100).max(2)
        return levels

    def generate(self, heard: NDArray[np.float32], prompts: Sequence[list[int]], **asked: Any) -> list[SimpleNamespace]:
        assert len(prompts) == len(heard) and prompts[0] == [1, 2, 3]
        self.given.append(heard.shape)
        self.asked = asked
        return [
            SimpleNamespace(sequences_ids=[[each.shape[1], int(each[0].argmax())]], scores=[-0.25], no_speech_prob=0.5)
            for each in heard
        ]


@pytest.fixture
def whisper(monkeypatch: pytest.MonkeyPatch) -> Whisper:
    made = Whisper()
    monkeypatch.setattr(module, "whisper_model", lambda: made)
    view = SimpleNamespace(from_array=lambda array: array)
    monkeypatch.setitem(sys.modules, "ctranslate2", SimpleNamespace(StorageView=view))
    tokenizer = SimpleNamespace(Tokenizer=lambda *_, **__: None)
    monkeypatch.setitem(sys.modules, "faster_whisper", SimpleNamespace(tokenizer=tokenizer))
    monkeypatch.setitem(sys.modules, "faster_whisper.tokenizer", tokenizer)
    return made


def sound(seconds: float) -> Audio:
    return np.ones(int(seconds * JUDGE_RATE), np.float32)


def test_it_hears_as_much_as_there_is_and_some_silence_around(whisper: Whisper) -> None:
    (written,) = dictation()([sound(1.5)])
    assert written == Written("400 25", -0.25, 0.5)
    assert whisper.asked["max_length"] == 2 * MOST_TOKENS and whisper.asked["beam_size"] == 1


def test_the_longest_of_some_tells_how_much_all_hear(whisper: Whisper) -> None:
    assert [each.text for each in dictation()([sound(0.5), sound(4.0), sound(1.0)])] == ["600 25"] * 3


def test_they_come_in_their_order_some_at_a_time(whisper: Whisper) -> None:
    written = dictation()([sound(0.5)] * TOGETHER + [sound(3.5)])
    assert whisper.given == []  # nothing is heard before it is asked for
    assert [each.text for each in written] == ["200 25"] * TOGETHER + ["600 25"]
    assert [shape[0] for shape in whisper.given] == [TOGETHER, 1]


def test_of_what_is_not_written_to_its_end_nothing_is_known(whisper: Whisper, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_TOKENS", 3)
    (written,) = dictation()([sound(1.5)])
    assert written.text == "400 25" and written.score == -np.inf


def test_no_more_than_half_a_minute_is_heard(whisper: Whisper) -> None:
    assert [each.text for each in dictation()([sound(29.6)])] == ["3000 25"]


def test_where_whisper_is_missing_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone() -> None:
        raise Missing("faster_whisper is not installed")

    monkeypatch.setattr(module, "whisper_model", gone)
    with pytest.raises(Missing, match="faster_whisper is not installed"):
        dictation()
