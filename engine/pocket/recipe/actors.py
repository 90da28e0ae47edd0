"""People who were recorded: the actors of three games, as Debian packages these.

    beneath-a-steel-sky          11 kHz, 8 bits, compressed by `rnc.py`   (C) Revolution Software Ltd
    flight-of-the-amazon-queen   11 kHz, MP3                              (C) John Passfield and Steven Stamatiadis
    drascula                     11 kHz, 8 bits                           (C) Alcachofa Soft S.L.

Each is in Debian's main: free to use, modify and pass on with its notice, not to be sold by itself. What they say is as
whisper-base writes it (`dictation.py`), and its words and phones are where a synthesiser's reading, laid along, has
them. They talk of other things than the shop, so the agent is to say that it does not know, but for those few lines
that a caller may say, too.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain
from pathlib import Path
from typing import TypeAlias

import numpy as np

from engine.pocket.recipe import rnc
from engine.pocket.recipe.aligned import ReadAlong
from engine.pocket.recipe.callers import Caller
from engine.pocket.recipe.dictation import Written
from engine.pocket.recipe.domain import UNKNOWN, Domain
from engine.pocket.recipe.formats import Audio, Utterance
from engine.pocket.recipe.judges import words
from engine.pocket.recipe.synthesis import Spoken, SynthesisError
from engine.pocket.recipe.voices import say

RATE = 11_025

SECONDS = (0.5, 10.0)

LEAST_SCORE, MOST_SILENT = -0.7, 0.45
"""Of a line that is kept: log-probability a token of what was written, and the probability that nothing is said."""

LETTERS_A_SECOND = (3.0, 22.0)
"""Of what was written; what is beyond was made up."""

TOGETHER = 5
"""Lines of one actor that count as a voice: as many as a caller's, for voices are what is drawn."""

GAMES = Path("/usr/share/scummvm")

SPEECH = 50_000
"""The first number of a file of Beneath a Steel Sky that is speech."""


Said: TypeAlias = tuple[str, Audio]
"""An actor, and a line at RATE."""


@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """What an actor says, the line of that number. `actor` is as near to who it is as the game's files tell."""

    actor: str
    number: int
    audio: Audio
    rate: int = RATE


def lines(folder: Path = GAMES) -> list[Line]:
    """Those of all three. Raises ValueError where a game is not there, or is not what is expected."""
    games = (
        steel_sky(folder / "beneath-a-steel-sky"),
        amazon_queen(folder / "flight-of-the-amazon-queen" / "queen.1c"),
        drascula(folder / "drascula" / "en"),
    )
    found, counts = list[Line](), Counter[str]()
    for actor, audio in chain(*games):
        if SECONDS[0] <= len(audio) / RATE <= SECONDS[1]:
            found.append(Line(actor, counts[actor], audio))
            counts[actor] += 1
    return found


def steel_sky(folder: Path) -> Iterator[Said]:
    """`sky.dnr` has a file's number (16 bits), and where it lies in `sky.dsk` and how long it is (24 bits each)."""
    index, data = _read(folder / "sky.dnr"), _read(folder / "sky.dsk")
    for entry in struct.iter_unpack("<H3s3s", index[4:]):
        number, place, length = entry[0], *(int.from_bytes(field, "little") for field in entry[1:])
        start = (place & 0x7F_FFFF) << (4 if place >> 23 else 0)
        packed = data[start + 22 : start + (length & 0x3F_FFFF)]  # behind a header for pictures
        if number >= SPEECH and packed.startswith(rnc.MAGIC):
            yield "steel-sky", _eight_bits(rnc.unpack(packed))


def amazon_queen(path: Path) -> Iterator[Said]:
    """A table of names, places and lengths, most significant byte first, before everything else."""
    data = _read(path)
    if data[:4] != b"QTBL" or data[12] != 1:
        raise ValueError(f"{path} is no archive of MP3: it begins with {data[:13]!r}")
    (count,) = struct.unpack(">H", data[13:15])
    for name, start, length in struct.iter_unpack(">12sxII", data[15 : 15 + 21 * count]):
        stem, _, ending = name.split(b"\0")[0].decode("ascii", "replace").partition(".")
        if ending == "SB" and length:
            yield _queens(stem), _mp3(data[start : start + length])


def _queens(stem: str) -> str:
    """The hero, somebody in a scene between the acts, or who is talked to in a dialogue of that number."""
    if re.search(r"J\d$|^JOE", stem):
        return "queen-joe"
    return "queen-cut" if stem.startswith("C") else f"queen-{stem[:2]}"


def drascula(folder: Path) -> Iterator[Said]:
    """A line a file."""
    paths = sorted(folder.glob("*.ALS"))
    if not paths:
        raise ValueError(f"{folder} has no *.ALS; install the Debian package drascula")
    return (("drascula", _eight_bits(path.read_bytes())) for path in paths)


def spoken(line: Line, written: Written, domain: Domain, read_along: ReadAlong) -> Utterance | None:
    """What a line says and where; None where that is not known well enough."""
    text = said_once(words(written.text))
    letters = sum(map(len, text)) / (len(line.audio) / line.rate)
    if written.score < LEAST_SCORE or written.silent > MOST_SILENT or not text or re.search(r"\d", " ".join(text)):
        return None
    if not LETTERS_A_SECOND[0] <= letters <= LETTERS_A_SECOND[1]:
        return None
    voice = f"actor-{line.actor}-{line.number // TOGETHER}"
    caller = Caller(voice, "actor", line.actor, "held-out" if held_out(line.actor) else "train")

    def placed(text: str, caller: Caller) -> Spoken:
        return Spoken(line.audio, line.rate, *read_along(text, line.audio, line.rate))

    try:
        made = say(caller, " ".join(text), placed)
    except SynthesisError:  # nothing is to be heard in it
        return None
    return replace(made, intent=meant(made.text, domain))


def held_out(actor: str) -> bool:
    """Whether nobody learns from what this one says: some of the queen's smaller parts."""
    return actor.startswith("queen-") and zlib.crc32(actor.encode()) % 8 == 0


def meant(text: str, domain: Domain) -> str:
    """The one intent that this is a wording of, if there is one; "" of a mutter."""
    if text in domain.mutters:
        return ""
    of = _meanings(domain).get(text, set())
    return next(iter(of)) if len(of) == 1 else UNKNOWN


@cache
def _meanings(domain: Domain) -> dict[str, set[str]]:
    """Intents by what is said, as whisper's words are."""
    meanings: dict[str, set[str]] = defaultdict(set)
    for name, intent in domain.intents.items():
        for text in {*intent.wordings["train"], *intent.cores}.difference(intent.wordings["held-out"]):
            meanings[" ".join(words(text))].add(name)
    return dict(meanings)


def said_once(text: Sequence[str]) -> list[str]:
    """Without the repetitions that a short context makes whisper write: "so am I so am I so" was "so am I"."""
    for length in range(1, len(text) // 2 + 1):
        for start in range(len(text) - 2 * length + 1):
            again = len(text) - start - length
            tail = text[start:]
            if all(tail[place] == tail[place % length] for place in range(len(tail))) and (
                length >= 3 or again >= 2 * length
            ):
                return list(text[: start + length])
    return list(text)


def _eight_bits(data: bytes) -> Audio:
    return np.asarray((np.frombuffer(data, np.uint8).astype(np.float32) - 128) / 128, np.float32)


def _mp3(data: bytes) -> Audio:
    """Raises ValueError."""
    import av

    try:
        with av.open(io.BytesIO(data), mode="r", format="mp3") as file:
            parts = [frame.to_ndarray()[0].astype(np.float32) for frame in file.decode(audio=0)]
            rate = file.streams.audio[0].rate
    except av.FFmpegError as error:
        raise ValueError(f"an MP3 of {len(data)} bytes cannot be read: {error}") from None
    if rate != RATE:
        raise ValueError(f"an MP3 has {rate} Hz; {RATE} is read")
    return np.concatenate(parts)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error}); install the Debian package {path.parent.name}") from None
