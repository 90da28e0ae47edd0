"""Windows for the ear: who talks in them, what, and where."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import pytest

from engine.model.text import PAD
from engine.pocket.recipe import talk
from engine.pocket.recipe.dialogues import Pool
from engine.pocket.recipe.formats import SILENCE, Dialogue, Utterance
from engine.pocket.recipe.phones import PAUSE
from engine.pocket.recipe.talk import EMPTY, FRAMES, TOGETHER, compose
from engine.slot import FRAME_SAMPLES
from tests.engine.pocket.test_dialogues import caller_sounds, composer, no_telephone, said

COUNT = 60


@cache
def composed() -> tuple[Dialogue, ...]:
    """Uncoloured."""
    with no_telephone() as patch:
        patch.setattr(talk, "COLOURED_SHARE", 0.0)
        return tuple(compose(composer(), np.random.default_rng(seed)) for seed in range(COUNT))


def test_nobody_answers() -> None:
    for dialogue in composed():
        assert (
            dialogue.frames == FRAMES and dialogue.audio is not None and len(dialogue.audio) == FRAMES * FRAME_SAMPLES
        )
        assert (dialogue.schedule[:, 0] == SILENCE).all() and (dialogue.text == PAD).all()
        assert dialogue.events == () and dialogue.prompt == "" and dialogue.split == "train"


def test_words_and_phones_stand_where_they_sound() -> None:
    for dialogue in composed():
        sounds = caller_sounds(dialogue)
        for span in (*dialogue.heard, *(phone for phone in dialogue.phones if phone.label != PAUSE)):
            assert 0 <= span.start_s < span.end_s <= FRAMES * 0.08
            assert sounds[max(0, int(span.start_s / 0.08) - 1) : int(span.end_s / 0.08) + 2].any()
        starts = [word.start_s for word in dialogue.heard]
        assert starts == sorted(starts)
        if dialogue.heard:
            assert len(dialogue.phones) >= len(dialogue.heard)


def test_it_is_denser_than_calls_and_now_and_then_nobody_talks() -> None:
    words = [len(dialogue.heard) for dialogue in composed()]
    assert np.median(words) > 10
    assert 0 < words.count(0) < 4 * EMPTY * COUNT + 2


def test_one_caller_says_it_all_or_others_do() -> None:
    assert {each.voice for each in said("train")} == set(composer().pool.voices) and 0.2 < TOGETHER < 0.8
    for voice in composer().pool.voices:
        theirs = {each.text for each in talk._theirs(composer().pool, voice)}
        assert theirs == {each.text for each in said("train") if each.voice == voice}
    asked, theirs_of = list[str](), talk._theirs

    def note(pool: Pool, voice: str) -> Sequence[Utterance]:
        asked.append(voice)
        return theirs_of(pool, voice)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(talk, "_theirs", note)
        alone = []
        for seed in range(COUNT):
            asked.clear()
            compose(composer(), np.random.default_rng(seed))
            alone.append(len(asked) == 1)
    assert 0.3 * COUNT < sum(alone) < 0.8 * COUNT


def test_mouths_and_microphones_differ() -> None:
    with no_telephone() as patch:
        patch.setattr(talk, "COLOURED_SHARE", 1.0)
        coloured = [compose(composer(), np.random.default_rng(seed)) for seed in range(4)]
    for one, other in zip(coloured, composed(), strict=False):
        assert one.audio is not None and other.audio is not None
        assert [word.label for word in one.heard] == [word.label for word in other.heard]
        assert not one.heard or not np.allclose(one.audio, other.audio, atol=0.01)
