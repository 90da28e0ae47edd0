from __future__ import annotations

import io
import shutil
import struct
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from engine.pocket.recipe.actors import (
    RATE,
    READERS,
    SECONDS,
    SPEECH,
    TOGETHER,
    Line,
    amazon_queen,
    held_out,
    lines,
    meant,
    said_once,
    spoken,
    steel_sky,
)
from engine.pocket.recipe.dictation import Written
from engine.pocket.recipe.domain import UNKNOWN, load_domain
from engine.pocket.recipe.formats import Audio, Span, Utterance
from engine.pocket.recipe.judges import words
from engine.pocket.recipe.standin import LINES, read_along
from engine.pocket.recipe.standin import lines as tones_lines
from engine.pocket.recipe.synthesis import SynthesisError
from tests.engine.pocket.rnc import pack

DOMAIN = load_domain()


def hum(seconds: float) -> NDArray[np.uint8]:
    return (128 + 60 * np.sin(2 * np.pi * 200 * np.arange(int(seconds * RATE)) / RATE)).astype(np.uint8)


def sky(folder: Path, files: dict[int, bytes]) -> Path:
    """An archive whose last file lies beyond what its place is counted in by single bytes."""
    folder.mkdir(parents=True)
    index, data = struct.pack("<I", len(files)), b""
    for number, file in files.items():
        far = number == max(files)
        if far:
            data += bytes(-len(data) % 16)
        place = len(data) >> 4 | 1 << 23 if far else len(data)
        index += struct.pack("<H", number) + place.to_bytes(3, "little") + (len(file) | 1 << 22).to_bytes(3, "little")
        data += file
    (folder / "sky.dnr").write_bytes(index)
    (folder / "sky.dsk").write_bytes(data)
    return folder


def speech(sound: NDArray[np.uint8]) -> bytes:
    half = len(sound) // 2
    whole = sound.tobytes()
    return bytes(22) + pack(whole, [[(whole[:half], (0, 0))], [(whole[half:], (0, 0))]])


def mp3(seconds: float, rate: int = RATE) -> bytes:
    written = io.BytesIO()
    with av.open(written, "w", format="mp3") as file:
        stream = file.add_stream("mp3", rate=rate, layout="mono")
        wave = (8_000 * np.sin(2 * np.pi * 200 * np.arange(int(seconds * rate)) / rate)).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(wave[None], format="s16", layout="mono")
        frame.rate = rate
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            file.mux(packet)
    return written.getvalue()


def queen(folder: Path, files: dict[str, bytes], kind: int = 1) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    table, data = b"", b""
    begin = 15 + 21 * len(files)
    for name, file in files.items():
        table += struct.pack(">12sxII", name.encode(), begin + len(data), len(file))
        data += file
    (folder / "queen.1c").write_bytes(b"QTBLCEM10\0\0\0" + bytes([kind]) + struct.pack(">H", len(files)) + table + data)
    return folder


def test_the_sky_has_speech_among_its_files(tmp_path: Path) -> None:
    sounds = hum(0.6), hum(0.9)
    files = {7: bytes(40), SPEECH: bytes(60), SPEECH + 3: speech(sounds[0]), SPEECH + 9: speech(sounds[1])}
    found = list(steel_sky(sky(tmp_path / "sky", files)))
    assert [actor for actor, _ in found] == ["steel-sky"] * 2
    for (_, audio), sound in zip(found, sounds, strict=True):
        np.testing.assert_array_equal(audio * 128 + 128, sound)


def test_the_queens_lines_are_mp3_and_tell_who_speaks(tmp_path: Path) -> None:
    names = ("04001J1.SB", "JOE0012.SB", "C10A_01.SB", "13002P4.SB")
    files = {**{name: mp3(0.7) for name in names}, "MAP.PCX": b"picture", "13003P1.SB": b""}
    found = list(amazon_queen(queen(tmp_path, files)))
    assert [actor for actor, _ in found] == ["queen-joe", "queen-joe", "queen-cut", "queen-13"]
    for _, audio in found:
        assert audio.dtype == np.float32 and 0.69 < len(audio) / RATE < 1 and 0.1 < np.abs(audio).max() < 0.5


def three(folder: Path) -> Path:
    """The games, with a line or two each."""
    sky(folder / "beneath-a-steel-sky", {SPEECH + 1: speech(hum(0.6)), SPEECH + 2: speech(hum(0.9))})
    queen(folder / "flight-of-the-amazon-queen", {"A.SB": mp3(SECONDS[0] / 2), "13002P4.SB": mp3(1)})
    game = folder / "drascula" / "en"
    game.mkdir(parents=True)
    (game / "1.ALS").write_bytes(hum(0.8).tobytes())
    (game / "2.ALS").write_bytes(hum(SECONDS[1] + 1).tobytes())
    return folder


def test_all_lines_are_counted_by_who_says_them_but_for_those_of_no_use(tmp_path: Path) -> None:
    assert [(line.actor, line.number) for line in lines(three(tmp_path))] == [
        ("steel-sky", 0),
        ("steel-sky", 1),
        ("queen-13", 0),
        ("drascula", 0),
    ]


BROKEN: dict[str, tuple[str, bytes, str]] = {
    "another-archive": ("flight-of-the-amazon-queen/queen.1c", b"QTBLCEM10\0\0\0\2", r"queen\.1c is no archive of MP3"),
    "no-table": ("flight-of-the-amazon-queen/queen.1c", b"QTBLCEM10\0\0\0\1", "2 bytes"),
    "half-a-table": ("flight-of-the-amazon-queen/queen.1c", b"QTBLCEM10\0\0\0\1\0\5abc", "multiple of 21"),
    "half-an-index": ("beneath-a-steel-sky/sky.dnr", b"1234567", "multiple of 8"),
    "half-a-sound": ("beneath-a-steel-sky/sky.dsk", speech(hum(0.6))[:-9], "RNC data end"),
}
"""A game's file, what lies there instead, and what is said of it."""


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_game_is_named_with_its_package(case: str, tmp_path: Path) -> None:
    name, data, why = BROKEN[case]
    (three(tmp_path) / name).write_bytes(data)
    with pytest.raises(
        ValueError, match=rf"cannot be read: .*{why}.*; install the Debian package {name.split('/')[0]}$"
    ):
        lines(tmp_path)


@pytest.mark.parametrize(
    ("sound", "why"),
    [(bytes(300), "Invalid data"), (mp3(0.7, 22_050), "an MP3 has 22050 Hz; 11025 is read")],
    ids=["no-mp3", "other-rate"],
)
def test_a_sound_that_is_none_is_named_with_its_package(sound: bytes, why: str, tmp_path: Path) -> None:
    queen(three(tmp_path) / "flight-of-the-amazon-queen", {"A.SB": sound})
    with pytest.raises(ValueError, match=rf"{why}.*; install the Debian package flight-of-the-amazon-queen"):
        lines(tmp_path)


@pytest.mark.parametrize("package", READERS)
def test_a_game_that_is_not_there_is_named(package: str, tmp_path: Path) -> None:
    shutil.rmtree(three(tmp_path) / package)
    with pytest.raises(ValueError, match=f"install the Debian package {package}$"):
        lines(tmp_path)


def said(line: Line, text: str, score: float = -0.1, silent: float = 0.0) -> Utterance | None:
    return spoken(line, Written(text, score, silent), DOMAIN, read_along)


LATE = tones_lines()[3], LINES[3]
"""A line of the stand-ins', and what it says."""


def test_what_is_said_is_kept_with_its_words_and_phones() -> None:
    made = said(*LATE)
    assert made is not None and made.text == "the cook was late" and made.intent == UNKNOWN
    assert [word.label for word in made.words] == ["the", "cook", "was", "late"] and len(made.phones) > 12
    assert made.seconds >= made.phones[-1].start_s and (made.split, made.voice) == ("train", "actor-queen-02-0")


def test_some_lines_of_an_actor_are_one_voice() -> None:
    made = [said(replace(LATE[0], number=number), LATE[1]) for number in range(2 * TOGETHER)]
    assert [each and each.voice for each in made] == [f"actor-queen-02-{n}" for n in (0, 1) for _ in range(TOGETHER)]


@pytest.mark.parametrize(
    ("text", "score", "silent"),
    [
        (LATE[1], -0.9, 0.0),
        (LATE[1], -0.1, 0.6),
        ("the cook was 74", -0.1, 0.0),
        ("...", -0.1, 0.0),
        ("a", -0.1, 0.0),
        (f"{LATE[1]} and so was everybody else who had been asked to come", -0.1, 0.0),
    ],
    ids=["unsure", "silent", "number", "nothing", "too-slow", "too-fast"],
)
def test_what_is_not_known_well_is_left_out(text: str, score: float, silent: float) -> None:
    assert said(LATE[0], text, score, silent) is None


@pytest.mark.parametrize("shift_s", [None, 9.0], ids=["nothing", "elsewhere"])
def test_a_line_in_which_nothing_is_found_is_left_out(shift_s: float | None) -> None:
    def lost(text: str, audio: Audio, rate: int) -> tuple[list[Span], list[Span]]:
        found = [Span("the", shift_s, shift_s + 0.1)] if shift_s else []
        return found, found

    assert spoken(LATE[0], Written(LATE[1], -0.1, 0.0), DOMAIN, lost) is None


def test_a_line_of_which_not_all_words_are_found_is_left_out() -> None:
    def deaf(text: str, audio: Audio, rate: int) -> tuple[list[Span], list[Span]]:
        found, phones = read_along(text, audio, rate)
        return found[1:], phones

    assert spoken(LATE[0], Written(LATE[1], -0.1, 0.0), DOMAIN, deaf) is None


def test_without_anybody_to_read_along_nothing_is_lost() -> None:
    def gone(text: str, audio: Audio, rate: int) -> tuple[list[Span], list[Span]]:
        raise SynthesisError("install the package libflite1")

    with pytest.raises(SynthesisError, match="libflite1"):
        spoken(LATE[0], Written(LATE[1], -0.1, 0.0), DOMAIN, gone)


def test_what_was_written_twice_and_is_too_slow_once_was_said_twice() -> None:
    line = LATE[0]
    long = replace(line, audio=np.concatenate([line.audio, line.audio, line.audio]))
    assert said(line, f"{LATE[1]} {LATE[1]}") is not None
    assert said(long, f"{LATE[1]} {LATE[1]}") is None and said(long, LATE[1]) is not None


def test_nobody_learns_from_some_of_the_actors() -> None:
    actors = [f"queen-{number:02}" for number in range(100)]
    assert 5 <= sum(map(held_out, actors)) <= 20 and not held_out("queen-joe") and not held_out("steel-sky")
    (strange,) = (actor for actor in actors[:10] if held_out(actor))
    made = said(replace(LATE[0], actor=strange), LATE[1])
    assert made is not None and made.split == "held-out"


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        *(
            ("yes", ("yes", "yes")),
            ("who are you", ("who", "who are you")),
            ("i am missing my bag", ("lost", "I am missing my bag")),
        ),
        *(("yeah", ("", "yeah")), ("i see", ("", "I see")), ("mm hm", ("", "mm-hm"))),
        *(("the cook was late", (UNKNOWN, "the cook was late")), ("my name is ironstein", None)),
        *(("my number is four four two", None), ("my number is up", (UNKNOWN, "my number is up"))),
    ],
)
def test_a_line_may_mean_what_a_caller_does(text: str, meaning: tuple[str, str] | None) -> None:
    assert meant(text, DOMAIN) == meaning


def test_what_is_tested_with_is_of_no_use() -> None:
    texts = {text for intent in DOMAIN.intents.values() for text in intent.wordings["held-out"]}
    assert len(texts) > 500 and {meant(" ".join(words(text)), DOMAIN) for text in texts} == {None}


def test_what_is_of_no_use_is_left_out() -> None:
    line = replace(tones_lines()[0], audio=np.resize(tones_lines()[3].audio, 24_000))
    assert said(line, "my name is frank") is None


@pytest.mark.parametrize(
    ("written", "once"),
    [
        ("so am i so am i so am i so", "so am i"),
        ("yes yes yes", "yes"),
        ("no no", "no no"),
        ("i said go home then i said go home then i said", "i said go home then"),
        ("well do you sell do you sell", "well do you sell"),
        ("it is what it is", "it is what it is"),
        ("why did you become a cook why do you become a cook", "why did you become a cook"),
        ("why did you become a cook why i became one i forgot", "why did you become a cook why i became one i forgot"),
        ("no he did no she did", "no he did no she did"),
        ("", ""),
    ],
)
def test_what_was_written_twice_is_kept_once(written: str, once: str) -> None:
    assert said_once(written.split()) == once.split()


def test_the_stand_ins_lines_are_of_their_own_rate_and_some_are_held_out() -> None:
    made: Sequence[Line] = tones_lines()
    assert len(made) == len(LINES) and all(line.rate == 24_000 for line in made)
    assert sum(held_out(line.actor) for line in made) == 2
