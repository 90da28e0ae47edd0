from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.pocket.recipe import letters
from engine.pocket.recipe.callers import Caller, callers, varied
from engine.pocket.recipe.chorus import (
    FOLDER,
    LATE,
    REACH,
    WIDTH,
    earlier,
    lent_voices,
    mixtures,
    small_mixtures,
)
from engine.pocket.recipe.formats import Audio, Span
from engine.pocket.recipe.letters import UNIT, graph_output, phones_of, words_of
from engine.pocket.recipe.phones import FLITE, IPA, PAUSE, PHONES, divided, from_flite, from_ipa
from engine.pocket.recipe.standin import tones
from engine.pocket.recipe.synthesis import Spoken, SynthesisError
from engine.pocket.recipe.voices import EDGE_S, LEVEL, audible, say, speech_level
from engine.slot import SAMPLE_RATE

TONES = Caller("tones", "tones", "tones", "train")


def test_relatives_keep_what_makes_a_voice_and_nothing_of_what_makes_it_known() -> None:
    random = np.random.default_rng(0)
    for caller in callers():
        first, second = varied(caller, random), varied(caller, random)
        assert first.name != second.name and first.stretch != second.stretch
        assert {first.engine, second.engine} == {caller.engine} and first.warp == second.warp == caller.warp
        drawn = caller.name.startswith("drawn-")
        assert (first.base.partition("+")[2] == caller.base.partition("+")[2]) != drawn
        assert (first.base == caller.base) or caller.engine in {"espeak", "chorus", "choir"}
        assert (first.pitch == caller.pitch) == (caller.engine in {"heart", "chorus", "choir"})


def spans(*parts: tuple[str, float]) -> list[Span]:
    """Labels with their lengths, one after the other."""
    made, at = [], 0.0
    for label, length in parts:
        made.append(Span(label, at, at + length))
        at += length
    return made


def test_there_are_forty_phones_and_every_alphabet_maps_to_them() -> None:
    assert len(PHONES) == len(set(PHONES)) == 40 and PHONES[0] == PAUSE
    assert {phone for names in IPA.values() for phone in names.split()} | set(FLITE.values()) <= set(PHONES)
    reached = {phone for names in IPA.values() for phone in names.split()}
    assert reached == set(PHONES) - {PAUSE}


@pytest.mark.parametrize(
    ("symbol", "phones"),
    [
        ("oʊ", ("ow",)),
        ("ʧ", ("ch",)),
        ("tʃ", ("ch",)),
        ("ˈaɪ", ("ay",)),
        ("iː", ("iy",)),
        ("ɜː", ("er",)),
        ("ɪə", ("ih", "r")),
        ("ɾ", ("t",)),
        ("ˌ", ()),
        ("", ()),
        ("θɹ", ("th", "r")),
    ],
)
def test_ipa_is_read_longest_first(symbol: str, phones: tuple[str, ...]) -> None:
    assert from_ipa(symbol) == phones


def test_flites_phones_are_ours_but_for_the_schwa() -> None:
    assert [from_flite(name) for name in ("ax", "pau", "k", "h#")] == ["ah", PAUSE, "k", PAUSE]
    with pytest.raises(KeyError, match="'qq' is not a phone"):
        from_flite("qq")


def test_phones_that_share_a_span_divide_it() -> None:
    assert divided(("uh", "r"), 1.0, 2.0) == [Span("uh", 1.0, 1.5), Span("r", 1.5, 2.0)]
    assert divided((), 1.0, 2.0) == []


def test_marks_give_their_time_to_the_phones_beside_them() -> None:
    symbols = spans(("h", 0.05), ("ˈ", 0.05), ("ɛ", 0.1), ("l", 0.05), ("ː", 0.02), (" ", 0.07), ("p", 0.1))
    made = phones_of(symbols, 1.0)
    assert [span.label for span in made] == ["hh", "eh", "l", "p"]
    lengths = [span.end_s - span.start_s for span in made]
    assert lengths == pytest.approx([0.05, 0.15, 0.14, 0.1])
    assert made[0].start_s == 1.0
    assert [span.label for span in phones_of(spans(("h", 0.1), (",", 0.3), ("h", 0.1)), 0)] == ["hh", PAUSE, "hh"]


def test_words_are_the_runs_between_spaces_and_marks() -> None:
    symbols = "hˈI, ju?"
    assert words_of(symbols, spans(*((symbol, 1.0) for symbol in symbols))) == [(0.0, 3.0), (5.0, 7.0)]


class Reader:
    """Spells."""

    vocab = "abc ."

    def split_sentences(self, text: str) -> list[str]:
        return text.split("|")

    def g2p(self, text: str) -> str:
        return text + "~"


def test_sentences_follow_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(letters, "hibari_voice", Reader)
    asked: list[str] = []

    def sentence(written: str) -> tuple[Audio, NDArray[np.int64]]:
        asked.append(written)
        durations = np.array([[2, *[4] * len(written), 2]])
        return np.zeros(int(durations.sum()) * UNIT, np.float32), durations

    made = letters.speak("ab c|b.", sentence)
    assert asked == ["ab c", "b."]
    first_s, letter_s = 20 * UNIT / SAMPLE_RATE, 4 * UNIT / SAMPLE_RATE
    assert [word.label for word in made.words] == ["ab", "c", "b"]
    starts = [letter_s / 2, 3.5 * letter_s, first_s + letter_s / 2]
    assert [word.start_s for word in made.words] == pytest.approx(starts)
    assert len(made.audio) == (20 + 12) * UNIT
    with pytest.raises(SynthesisError, match="1 words are said for the 2 of 'ab ~c'"):
        monkeypatch.setattr(Reader, "g2p", lambda self, text: "abc")
        letters.speak("ab ~c", sentence)


def test_a_package_that_is_not_there_is_named() -> None:
    with pytest.raises(SynthesisError, match="no_such_package is not installed; pip install 'voipagent.recipe.'"):
        letters.installed("no_such_package")


def test_a_number_is_a_voice_between_others_or_a_little_beyond() -> None:
    sounds = np.array([mixtures(number, 5) for number in range(200)])
    assert sounds.shape == (200, 2, 5)
    assert np.allclose(sounds.sum(2), 1)
    away = np.linalg.norm(sounds - 0.2, axis=2)
    assert 0.4 <= away.min() and 0.9 < away.max() <= REACH
    assert np.array_equal(mixtures(3, 5), mixtures(3, 5)) and not np.array_equal(*mixtures(3, 5))


def test_of_many_voices_few_are_mixed() -> None:
    made = np.array([small_mixtures(number, 54) for number in range(300)])
    assert np.allclose(made.sum(2), 1) and made.min() >= 0
    assert set((made[:, 0] > 0).sum(1)) == set((made[:, 1] > 0).sum(1)) == {1, 2, 3}
    own_manner = np.array([np.array_equal(sound, manner) for sound, manner in made])
    assert 0.4 < own_manner.mean() < 0.6
    assert (made[:, 0].max(0) > 0).all(), "each of them is somebody's"
    assert np.array_equal(small_mixtures(3, 54), small_mixtures(3, 54))
    assert len(small_mixtures(3, 2)[0]) == 2, "also of two"


def test_the_choirs_voices_are_where_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    voices = np.random.default_rng(0).normal(size=(2, 510, 1, WIDTH)).astype("<f4")
    for name, voice in zip(("bf_emma", "am_echo"), voices, strict=True):
        voice.tofile(tmp_path / f"{name}.bin")
    monkeypatch.setenv(FOLDER, str(tmp_path))
    assert np.array_equal(lent_voices(), voices[::-1, :, 0]), "in the order of their names"


@pytest.mark.parametrize("folder", [None, "", "nowhere"])
def test_without_them_it_is_said_where_they_are_to_be_had(
    folder: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(FOLDER, raising=False)
    if folder is not None:
        monkeypatch.setenv(FOLDER, folder and str(tmp_path / folder))
    with pytest.raises(SynthesisError, match="KOKORO_VOICES names no folder with voices.*kokoro-js"):
        lent_voices()


def test_a_graphs_output_is_a_message_that_merges_into_a_model() -> None:
    """ModelProto.graph (field 7) { GraphProto.output (12) { ValueInfoProto.name (1) } }, each with its length."""
    made = graph_output("/Round_output_0")
    assert made[0] == 7 << 3 | 2 and made[1] == len(made) - 2
    assert made[2] == 12 << 3 | 2 and made[3] == len(made) - 4
    assert made[4] == 1 << 3 | 2 and made[6:] == b"/Round_output_0" and made[5] == 15


def test_what_is_said_is_cut_close_and_levelled() -> None:
    def late(text: str, caller: Caller) -> Spoken:
        one = tones(text, caller)
        pad = SAMPLE_RATE // 2
        return Spoken(
            0.1 * np.pad(one.audio, (pad, pad)),
            SAMPLE_RATE,
            [Span(word.label, word.start_s + 0.5, word.end_s + 0.5) for word in one.words],
            [Span(phone.label, phone.start_s + 0.5, phone.end_s + 0.5) for phone in one.phones],
        )

    made = say(TONES, "good day", late)
    assert made.seconds == pytest.approx(7 * 0.06 + 0.05 + sum(EDGE_S), abs=0.03)
    assert speech_level(made.audio) == pytest.approx(LEVEL, rel=0.02)
    assert [word.label for word in made.words] == ["good", "day"]
    assert made.words[0].start_s == pytest.approx(EDGE_S[0], abs=0.011)
    assert made.words[1].start_s - made.words[0].end_s == pytest.approx(0.05, abs=1e-6)
    assert all(0 <= span.start_s < span.end_s <= made.seconds + 1e-9 for span in (*made.words, *made.phones))
    first, last = audible(made.audio)
    assert first <= EDGE_S[0] + 0.01 and last >= made.seconds - EDGE_S[1] - 0.01


def test_a_voice_that_says_nothing_is_an_error() -> None:
    with pytest.raises(SynthesisError, match=re.escape("nothing is said by tones in '...'")):
        say(TONES, "...", lambda text, caller: Spoken(np.zeros(2_400, np.float32), SAMPLE_RATE, [], []))


def test_stand_ins_say_letters_for_their_length_and_are_told_apart() -> None:
    slow = Caller("slow", "tones", "tones", "train", stretch=1.5)
    one, other = say(TONES, "abc", tones), say(slow, "abc", tones)
    assert [span.label for span in one.phones if span.label != PAUSE] == [
        span.label for span in other.phones if span.label != PAUSE
    ]
    assert other.words[0].end_s - other.words[0].start_s == pytest.approx(1.5 * 3 * 0.06, abs=0.01)
    assert not np.allclose(tones("a", TONES).audio, tones("o", TONES).audio, atol=0.01)


def test_letters_come_earlier_as_far_as_there_is_silence() -> None:
    for first in (LATE + 3, 1):
        given = np.array([first, 4, 5, 6])
        by = min(LATE, first)
        assert earlier(given).tolist() == [first - by, 4, 5, 6 + by]
        assert given[0] == first
