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
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TypeAlias

import av
import numpy as np

from engine.pocket.recipe import rnc
from engine.pocket.recipe.aligned import ReadAlong
from engine.pocket.recipe.callers import Caller
from engine.pocket.recipe.dictation import Written
from engine.pocket.recipe.domain import TELLING, UNKNOWN, Domain
from engine.pocket.recipe.formats import Audio, Utterance
from engine.pocket.recipe.judges import errors, words
from engine.pocket.recipe.synthesis import Spoken, SynthesisError
from engine.pocket.recipe.voices import say

RATE = 11_025

SECONDS = (0.5, 10.0)

LEAST_SCORE, MOST_SILENT = -0.7, 0.45
"""Of a line that is kept: log-probability a token of what was written, and the probability that nothing is said."""

LETTERS_A_SECOND = (3.0, 22.0)
"""Of what was written; what is beyond was made up."""

ONCE = 7.0
"""The least of them where it was written twice: if what is kept of it is slower than that, it was said twice, too."""

ALIKE = 4
"""The least words that are taken for the same as others, though a third of them are not."""

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
    """Those of all three: a gigabyte. Raises ValueError where a game is not there, or is not what is expected."""
    found, counts = list[Line](), Counter[str]()
    for package, read in READERS.items():
        try:
            said = list(read(folder / package))
        except (OSError, ValueError, LookupError, struct.error, av.FFmpegError) as error:
            raise ValueError(
                f"the lines in {folder / package} cannot be read: {error}; install the Debian package {package}"
            ) from None
        for actor, audio in said:
            if SECONDS[0] <= len(audio) / RATE <= SECONDS[1]:
                found.append(Line(actor, counts[actor], audio))
                counts[actor] += 1
    return found


def steel_sky(folder: Path) -> Iterator[Said]:
    """`sky.dnr` has a file's number (16 bits), and where it lies in `sky.dsk` and how long it is (24 bits each)."""
    index, data = (folder / "sky.dnr").read_bytes(), (folder / "sky.dsk").read_bytes()
    for entry in struct.iter_unpack("<H3s3s", index[4:]):
        number, place, length = entry[0], *(int.from_bytes(field, "little") for field in entry[1:])
        start = (place & 0x7F_FFFF) << (4 if place >> 23 else 0)
        packed = data[start + 22 : start + (length & 0x3F_FFFF)]  # behind a header for pictures
        if number >= SPEECH and packed.startswith(rnc.MAGIC):
            yield "steel-sky", _eight_bits(rnc.unpack(packed))


def amazon_queen(folder: Path) -> Iterator[Said]:
    """In `queen.1c` a table of names, places and lengths, most significant byte first, is before everything else."""
    data = (folder / "queen.1c").read_bytes()
    if data[:4] != b"QTBL" or data[12:13] != b"\1":
        raise ValueError(f"queen.1c is no archive of MP3: it begins with {data[:13]!r}")
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
    paths = sorted((folder / "en").glob("*.ALS"))
    if not paths:
        raise ValueError("there is no en/*.ALS")
    return (("drascula", _eight_bits(path.read_bytes())) for path in paths)


READERS: Mapping[str, Callable[[Path], Iterable[Said]]] = {
    "beneath-a-steel-sky": steel_sky,
    "flight-of-the-amazon-queen": amazon_queen,
    "drascula": drascula,
}
"""By Debian's package, whose name its folder has, too."""


def spoken(line: Line, written: Written, domain: Domain, read_along: ReadAlong) -> Utterance | None:
    """What a line says and where; None where that is not known well enough, or nobody is to learn from it.

    Raises SynthesisError where nobody can read along.
    """
    text = words(written.text)
    once = said_once(text)
    if written.score < LEAST_SCORE or written.silent > MOST_SILENT or not once or re.search(r"\d", " ".join(once)):
        return None
    least, most = LETTERS_A_SECOND
    if not (least if once == text else ONCE) <= sum(map(len, once)) / (len(line.audio) / line.rate) <= most:
        return None
    meaning = meant(" ".join(once), domain)
    if meaning is None:
        return None
    intent, spelt = meaning
    found, phones = read_along(" ".join(once), line.audio, line.rate)
    voice = f"actor-{line.actor}-{line.number // TOGETHER}"
    caller = Caller(voice, "actor", line.actor, "held-out" if held_out(line.actor) else "train")
    try:
        made = say(caller, spelt, lambda text, caller: Spoken(line.audio, line.rate, found, phones))
    except SynthesisError:  # nothing is to be heard in it
        return None
    return replace(made, intent=intent) if len(made.words) == len(once) else None


def held_out(actor: str) -> bool:
    """Whether nobody learns from what this one says: some of the queen's smaller parts."""
    return actor.startswith("queen-") and zlib.crc32(actor.encode()) % 8 == 0


def meant(text: str, domain: Domain) -> tuple[str, str] | None:
    """An intent, "" of a mutter, and the text as the domain spells it; None for what is of use to nobody.

    That is a wording to be tested with, what may mean several things, and what tells a name or a number: who says one
    in a game says another than the agent knows.
    """
    if text in (known := _meanings(domain)):
        return known[text]
    return None if _telling(domain).fullmatch(text) else (UNKNOWN, text)


@cache
def _meanings(domain: Domain) -> dict[str, tuple[str, str] | None]:
    """By what is said, as whisper's words are; None of what is of no use."""
    meanings: dict[str, tuple[str, str] | None] = {}
    for name, intent in domain.intents.items():
        for text in (*intent.wordings["train"], *intent.wordings["held-out"], *intent.cores):
            key, meaning = _plain(text), (name, text)
            of_use = text in intent.wordings["train"] and meanings.get(key, meaning) == meaning
            meanings[key] = meaning if of_use else None
    return meanings | {_plain(text): ("", text) for text in domain.mutters}


@cache
def _telling(domain: Domain) -> re.Pattern[str]:
    """What tells a name, whichever, or a number. A word by itself is no name."""
    digit = "|".join(domain.lists["digit"])
    slots = {"{name}": r"[\w']+", "{digits}": rf"(?:{digit})(?: (?:{digit}))*"}
    texts = {text for name in TELLING for text in domain.intents[name].cores} - {"{name}"}
    return re.compile(
        "|".join(sorted(" ".join(slots.get(word) or _plain(word) for word in text.split()) for text in texts))
    )


def _plain(text: str) -> str:
    return " ".join(words(text))


def said_once(text: Sequence[str]) -> list[str]:
    """Without the repetitions that a short context makes whisper write: "so am I so am I so" was "so am I".

    It may write a long line a little otherwise the second time.
    """
    for length in range(1, len(text) // 2 + 1):
        for start in range(len(text) - 2 * length + 1):
            tail = text[start:]
            again = all(word == tail[place % length] for place, word in enumerate(tail))
            if again and (length >= 3 or len(tail) >= 3 * length):
                return list(text[: start + length])
    half = (len(text) + 1) // 2
    alike = half >= ALIKE and errors(text[:half], text[half:]) <= half // 3
    return list(text[:half] if alike else text)


def _eight_bits(data: bytes) -> Audio:
    return np.asarray((np.frombuffer(data, np.uint8).astype(np.float32) - 128) / 128, np.float32)


def _mp3(data: bytes) -> Audio:
    with av.open(io.BytesIO(data), mode="r", format="mp3") as file:
        parts = [frame.to_ndarray()[0].astype(np.float32) for frame in file.decode(audio=0)]
        rate = file.streams.audio[0].rate
    if rate != RATE:
        raise ValueError(f"an MP3 has {rate} Hz; {RATE} is read")
    return np.concatenate(parts)
