from __future__ import annotations

import io
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
    SECONDS,
    SPEECH,
    TOGETHER,
    Line,
    amazon_queen,
    drascula,
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
from engine.pocket.recipe.standin import LINES, read_along
from engine.pocket.recipe.standin import lines as tones_lines
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


def queen(path: Path, files: dict[str, bytes], kind: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    table, data = b"", b""
    begin = 15 + 21 * len(files)
    for name, file in files.items():
        table += struct.pack(">12sxII", name.encode(), begin + len(data), len(file))
        data += file
    path.write_bytes(b"QTBLCEM10\0\0\0" + bytes([kind]) + struct.pack(">H", len(files)) + table + data)
    return path


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
    found = list(amazon_queen(queen(tmp_path / "queen.1c", files)))
    assert [actor for actor, _ in found] == ["queen-joe", "queen-joe", "queen-cut", "queen-13"]
    for _, audio in found:
        assert audio.dtype == np.float32 and 0.69 < len(audio) / RATE < 1 and 0.1 < np.abs(audio).max() < 0.5


def test_another_archive_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"queen\.1c is no archive of MP3: it begins with b'QTBL"):
        list(amazon_queen(queen(tmp_path / "queen.1c", {}, kind=2)))
    with pytest.raises(ValueError, match="has 22050 Hz; 11025 is read"):
        list(amazon_queen(queen(tmp_path / "queen.1c", {"A.SB": mp3(0.7, 22_050)})))
    with pytest.raises(ValueError, match="an MP3 of 300 bytes cannot be read"):
        list(amazon_queen(queen(tmp_path / "queen.1c", {"A.SB": bytes(300)})))


def test_all_lines_are_counted_by_who_says_them_but_for_those_of_no_use(tmp_path: Path) -> None:
    sky(tmp_path / "beneath-a-steel-sky", {SPEECH + 1: speech(hum(0.6)), SPEECH + 2: speech(hum(0.9))})
    queen(tmp_path / "flight-of-the-amazon-queen" / "queen.1c", {"A.SB": mp3(SECONDS[0] / 2), "13002P4.SB": mp3(1)})
    game = tmp_path / "drascula" / "en"
    game.mkdir(parents=True)
    (game / "1.ALS").write_bytes(hum(0.8).tobytes())
    (game / "2.ALS").write_bytes(hum(SECONDS[1] + 1).tobytes())
    assert [(line.actor, line.number) for line in lines(tmp_path)] == [
        ("steel-sky", 0),
        ("steel-sky", 1),
        ("queen-13", 0),
        ("drascula", 0),
    ]


@pytest.mark.parametrize("package", ["beneath-a-steel-sky", "flight-of-the-amazon-queen", "drascula"])
def test_a_game_that_is_not_there_is_named(package: str, tmp_path: Path) -> None:
    folder = tmp_path / package
    reading = {
        "beneath-a-steel-sky": lambda: list(steel_sky(folder)),
        "flight-of-the-amazon-queen": lambda: list(amazon_queen(folder / "queen.1c")),
        "drascula": lambda: list(drascula(folder)),
    }
    with pytest.raises(ValueError, match=f"install the Debian package {package}"):
        reading[package]()


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


def test_a_line_without_a_sound_is_left_out() -> None:
    def nothing(text: str, audio: Audio, rate: int) -> tuple[list[Span], list[Span]]:
        return [], []

    assert spoken(LATE[0], Written(LATE[1], -0.1, 0.0), DOMAIN, nothing) is None


def test_nobody_learns_from_some_of_the_actors() -> None:
    actors = [f"queen-{number:02}" for number in range(100)]
    assert 5 <= sum(map(held_out, actors)) <= 20 and not held_out("queen-joe") and not held_out("steel-sky")
    (strange,) = (actor for actor in actors[:10] if held_out(actor))
    made = said(replace(LATE[0], actor=strange), LATE[1])
    assert made is not None and made.split == "held-out"


@pytest.mark.parametrize(
    ("text", "intent"),
    [
        ("yes", "yes"),
        ("who are you", "who"),
        ("yeah", ""),
        ("i lost my keys", "lost"),
        ("the cook was late", UNKNOWN),
        ("", UNKNOWN),
    ],
)
def test_a_line_may_mean_what_a_caller_does(text: str, intent: str) -> None:
    assert meant(text, DOMAIN) == intent


def test_a_wording_that_is_held_out_stays_so() -> None:
    for name, intent in DOMAIN.intents.items():
        assert name not in {meant(text, DOMAIN) for text in intent.wordings["held-out"]}


@pytest.mark.parametrize(
    ("written", "once"),
    [
        ("so am i so am i so am i so", "so am i"),
        ("yes yes yes", "yes"),
        ("no no", "no no"),
        ("i said go home then i said go home then i said", "i said go home then"),
        ("well do you sell do you sell", "well do you sell"),
        ("it is what it is", "it is what it is"),
        ("", ""),
    ],
)
def test_what_was_written_twice_is_kept_once(written: str, once: str) -> None:
    assert said_once(written.split()) == once.split()


def test_the_stand_ins_lines_are_of_their_own_rate() -> None:
    made: Sequence[Line] = tones_lines()
    assert len(made) == len(LINES) and all(line.rate == 24_000 for line in made)
