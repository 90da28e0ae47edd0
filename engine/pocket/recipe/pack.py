"""Callers that travel:  python -m engine.pocket.recipe.pack {pack,unpack} --work DIR --file callers.pack

    pack      WORK/callers -> FILE, some of them, as Opus: every voice and intent, in at most --most-mib
    unpack    FILE -> WORK/callers, in shards like those of `generate callers`

For machines that have neither flite nor espeak-ng, or little room: with what is unpacked there, and `generate clips`,
every other step runs as it is. FILE is a zip with two members for each shard:

    train-00000.opus   Ogg Opus (RFC 7845): its utterances end to end, silence before each; any player plays it
    train-00000.json   a list, in their order: what an `Utterance` holds, besides its sound, and where that is:
                       "start", "samples" in the stream at 24 kHz; "words", "phones" as [label, silence, length],
                       in 0.1 ms, each from the end of the one before

The same callers and seed give the same file. Opus keeps what lies below 8 kHz, the level, and the time: see `decoded`.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from lzma import LZMAError
from pathlib import Path
from typing import Any
from zipfile import ZIP_LZMA, ZIP_STORED, BadZipFile, ZipFile, ZipInfo

import av
import numpy as np
from av.codec.context import Flags

from engine.pocket.recipe.channel import resampled
from engine.pocket.recipe.formats import Audio, Span, Split, Utterance, read_utterances, shards, write_utterances
from engine.slot import SAMPLE_RATE

MOST_MIB = 9.0
HELD_OUT = 0.15
"""Of the file, what is there to test with."""

KBPS = 12.0
SHARD = 200
"""Utterances in a shard."""

OPUS_RATE = 16_000
"""What the encoder is given; at 8 kHz it is no better below 4 kHz, and callers from a browser have more than that."""

DECODED_RATE = 48_000
"""Always, whatever was encoded."""

OPUS = {"application": "audio", "frame_duration": "60"}
"""`voip` bends the phase of what is low; 60 ms save a twentieth of the bytes over 20 ms."""

OGG = {"fflags": "+bitexact", "page_duration": "12000000"}
"""The same serial number every time; pages of 12 s, for each has a header."""

GAP = SAMPLE_RATE * 60 // 1000
"""Samples of silence before an utterance: what the encoder remembers of the one before has died away."""

SLACK = 1.25
"""How much more than fits at the nominal rate is tried: silence takes fewer bytes."""

TICKS = 10_000
"""In a second, of the times in the index: as exact as the shards' own."""

SHARD_NAME = re.compile(r"(?:train|held-out)-[0-9]{5}")


@dataclass(frozen=True, slots=True)
class Packed:
    """What lies in a file."""

    utterances: int
    voices: int
    intents: int
    minutes: float

    @classmethod
    def of(cls, said: Sequence[Utterance]) -> Packed:
        voices, intents = {each.voice for each in said}, {each.intent for each in said}
        return cls(len(said), len(voices), len(intents), sum(each.seconds for each in said) / 60)

    def __str__(self) -> str:
        return f"{self.utterances} utterances, {self.voices} voices, {self.intents} intents, {self.minutes:.1f} minutes"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="pack", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("part", choices=("pack", "unpack"))
    parser.add_argument("--work", type=Path, default=Path("build/pocket"), help="where callers lie (build/pocket)")
    parser.add_argument("--file", type=Path, default=Path("callers.pack"), help="what travels (callers.pack)")
    parser.add_argument("--most-mib", type=float, default=MOST_MIB, help=f"pack: of the whole file ({MOST_MIB:g})")
    parser.add_argument("--held-out", type=float, default=HELD_OUT, help=f"pack: share to test with ({HELD_OUT:g})")
    parser.add_argument("--kbps", type=float, default=KBPS, help=f"pack: kilobits a second of sound ({KBPS:g})")
    parser.add_argument("--seed", type=int, default=0, help="pack: who is chosen (0)")
    options = parser.parse_args(arguments)
    if options.part == "pack":
        most = int(options.most_mib * 2**20)
        packed = pack(options.work, options.file, most, options.held_out, options.kbps, options.seed)
    else:
        packed = unpack(options.work, options.file)
    for split, what in packed.items():
        print(f"{split}: {what}")
    print(f"{options.file}: {options.file.stat().st_size / 2**20:.2f} MiB")


def pack(
    work: Path, file: Path, most: int, held_out: float = HELD_OUT, kbps: float = KBPS, seed: int = 0
) -> dict[Split, Packed]:
    """Choose callers and write a file of at most `most` bytes. Raises ValueError where there are none, or none fits."""
    if not 0 <= held_out < 1:
        raise ValueError(f"the share to test with is {held_out}; it must be at least 0 and below 1")
    members: dict[str, bytes] = {}
    packed: dict[Split, Packed] = {}
    budget: tuple[tuple[Split, int], ...] = (("held-out", int(held_out * most)), ("train", most))
    for split, until in budget:
        seconds = SLACK * 8 * until / (1000 * kbps)
        lying = shards(work / "callers", split)
        if not lying and split == "train":
            raise ValueError(f"no callers lie in {work / 'callers'}: generate callers first")
        said = _chosen(lying, np.random.default_rng((seed, *split.encode())), seconds)
        kept: list[Utterance] = []
        for first in range(0, len(said), SHARD):
            part, made = _fitting(said[first : first + SHARD], f"{split}-{first // SHARD:05}", members, until, kbps)
            members |= made
            kept += part
            if len(part) < SHARD:
                break  # it is full, or that was the last
        if split == "train" and not kept:
            raise ValueError(f"{most} bytes hold not one utterance to train on; allow the file more")
        packed[split] = Packed.of(kept)
    _write(file, _zipped(members))
    return packed


def unpack(work: Path, file: Path) -> dict[Split, Packed]:
    """Write the shards that were packed. Raises ValueError where the file is none, or callers lie there already."""
    folder = work / "callers"
    if there := [*shards(folder, "train"), *shards(folder, "held-out")]:
        raise ValueError(f"callers lie in {folder} already, {there[0].name} the first; delete them to unpack others")
    packed: dict[Split, list[Utterance]] = {"held-out": [], "train": []}
    for name, said in list(_unpacked(file)):  # all or nothing
        write_utterances(folder / f"{name}.npz", said)
        packed["train" if name.startswith("train") else "held-out"] += said
    return {split: Packed.of(said) for split, said in packed.items()}


def in_turn(said: Sequence[Utterance], random: np.random.Generator) -> list[int]:
    """Numbers of the utterances in an order of which any beginning is as even as can be.

    Splits of voice and wording are mixed as in the whole. Among each, voices take turns; whose turn it is says, of the
    intents it has left, the one that has come least for how often it is there at all.
    """
    kinds: dict[tuple[str, str], list[int]] = defaultdict(list)
    for number in random.permutation(len(said)).tolist():
        kinds[said[number].split, said[number].wording].append(number)
    placed: list[tuple[float, int]] = []
    for kind in sorted(kinds):
        numbers = _round_robin(said, kinds[kind])
        placed += [((place + 0.5) / len(numbers), number) for place, number in enumerate(numbers)]
    return [number for _, number in sorted(placed)]


def _round_robin(said: Sequence[Utterance], numbers: Sequence[int]) -> list[int]:
    there = Counter(said[number].intent for number in numbers)
    taken: Counter[str] = Counter()
    left: dict[str, list[int]] = defaultdict(list)
    for number in numbers:
        left[said[number].voice].append(number)
    order: list[int] = []
    while left:
        for voice in list(left):
            number = min(left[voice], key=lambda each: taken[said[each].intent] / there[said[each].intent])
            taken[said[number].intent] += 1
            order.append(number)
            left[voice].remove(number)
            if not left[voice]:
                del left[voice]
    return order


def _chosen(paths: Sequence[Path], random: np.random.Generator, seconds: float) -> list[Utterance]:
    """The first of them in turn, so many as last that long. Goes through the shards twice: all would be gigabytes."""
    said: list[Utterance] = []
    lengths: list[float] = []
    where: list[tuple[Path, int]] = []
    for path in paths:
        for place, each in enumerate(read_utterances(path)):
            said.append(replace(each, audio=np.zeros(0, np.float32)))
            lengths.append(each.seconds)
            where.append((path, place))
    order = in_turn(said, random)
    ends = accumulate(lengths[number] for number in order)
    order = [number for number, end in zip(order, ends, strict=True) if end <= seconds]
    wanted: dict[Path, list[int]] = defaultdict(list)
    for number in order:
        wanted[where[number][0]].append(number)
    for path, numbers in wanted.items():
        whole = read_utterances(path)
        for number in numbers:
            said[number] = replace(said[number], audio=whole[where[number][1]].audio.copy())
    return [said[number] for number in order]


def _fitting(
    said: Sequence[Utterance], name: str, others: Mapping[str, bytes], until: int, kbps: float
) -> tuple[Sequence[Utterance], dict[str, bytes]]:
    """As many of them, from the first on, as a file of `until` bytes holds beside the others; and their members."""
    before = len(_zipped(others))
    while said:
        print(f"{name}: {len(said)} utterances", file=sys.stderr, flush=True)
        made = _members(said, name, kbps)
        size = len(_zipped({**others, **made}))
        if size <= until:
            return said, made
        share = max(0, until - before) / (size - before)
        said = said[: min(len(said) - 1, int(share * len(said)))]
    return said, {}


def _members(said: Sequence[Utterance], name: str, kbps: float) -> dict[str, bytes]:
    index: list[dict[str, object]] = []
    parts: list[Audio] = []
    at = 0
    for each in said:
        parts += [np.zeros(GAP, np.float32), each.audio]
        fields = {name: getattr(each, name) for name in ("text", "voice", "split", "intent", "slot", "wording")}
        times = {"words": _pack_spans(each.words), "phones": _pack_spans(each.phones)}
        index.append({**fields, "start": at + GAP, "samples": len(each.audio), **times})
        at += GAP + len(each.audio)
    text = json.dumps(index, separators=(",", ":"), ensure_ascii=False)
    return {f"{name}.opus": encoded(np.concatenate(parts), kbps), f"{name}.json": text.encode()}


def _pack_spans(spans: Sequence[Span]) -> list[list[object]]:
    packed: list[list[object]] = []
    last = 0
    for span in spans:
        start, end = round(span.start_s * TICKS), round(span.end_s * TICKS)
        packed.append([span.label, start - last, end - start])
        last = end
    return packed


def _spans(packed: Sequence[tuple[str, int, int]]) -> tuple[Span, ...]:
    spans: list[Span] = []
    last = 0
    for label, silence, length in packed:
        spans.append(Span(label, (last + silence) / TICKS, (last + silence + length) / TICKS))
        last += silence + length
    return tuple(spans)


def encoded(audio: Audio, kbps: float = KBPS) -> bytes:
    """24 kHz as Ogg Opus."""
    whole = np.pad(audio, (0, -len(audio) % SAMPLE_RATE))  # to a second: a length whose spectrum is quickly taken
    narrow = np.round(np.clip(resampled(whole, OPUS_RATE), -1, 1) * 32_767).astype(np.int16)
    frame = av.AudioFrame.from_ndarray(narrow[None], format="s16", layout="mono")
    frame.sample_rate, frame.pts = OPUS_RATE, 0
    file = io.BytesIO()
    with av.open(file, "w", format="ogg", options=OGG) as container:
        stream = container.add_stream("libopus", rate=OPUS_RATE, options=OPUS, layout="mono", format="s16")
        stream.bit_rate = int(1000 * kbps)
        stream.codec_context.flags |= Flags.bitexact
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


def decoded(data: bytes) -> Audio:
    """At 48 kHz; each sample when it was said: the encoder's look-ahead, the "pre-skip" in its header, is cut off.

    Raises av.FFmpegError where it is no such stream.
    """
    with av.open(io.BytesIO(data), "r") as container:
        parts = [frame.to_ndarray()[0] for frame in container.decode(audio=0)]
    return np.concatenate([np.zeros(0, np.float32), *parts]).astype(np.float32)


def _unpacked(file: Path) -> Iterator[tuple[str, list[Utterance]]]:
    try:
        with ZipFile(file) as archive:
            names = sorted(name.removesuffix(".json") for name in archive.namelist() if name.endswith(".json"))
            if not names:
                raise ValueError("there are no callers in it")
            for name in names:
                if not SHARD_NAME.fullmatch(name):
                    raise ValueError(f"{name!r} is no shard of callers")
                index = json.loads(archive.read(f"{name}.json"))
                yield name, _utterances(index, decoded(archive.read(f"{name}.opus")))
    except (OSError, ValueError, LookupError, TypeError, EOFError, LZMAError, BadZipFile, av.FFmpegError) as error:
        raise ValueError(f"{file} cannot be unpacked: {error}; make it again with engine.pocket.recipe.pack") from None


def _utterances(index: Sequence[dict[str, Any]], sound: Audio) -> list[Utterance]:
    said: list[Utterance] = []
    double = DECODED_RATE // SAMPLE_RATE
    for entry in index:
        start, end = entry.pop("start"), entry.pop("samples")
        part = sound[double * start : double * (start + end)]
        if len(part) < double * end:
            raise ValueError(f"the sound ends before {entry['text']!r} does")
        audio = np.clip(resampled(part, SAMPLE_RATE, DECODED_RATE), -1, 1)
        words, phones = _spans(entry.pop("words")), _spans(entry.pop("phones"))
        said.append(Utterance(audio, words=words, phones=phones, **entry))
    return said


def _zipped(members: Mapping[str, bytes]) -> bytes:
    """The same for the same members: without the time."""
    file = io.BytesIO()
    with ZipFile(file, "w") as archive:
        for name, data in members.items():
            kind = ZIP_LZMA if name.endswith(".json") else ZIP_STORED
            archive.writestr(ZipInfo(name), data, kind)
    return file.getvalue()


def _write(file: Path, data: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    part.write_bytes(data)
    part.rename(file)


if __name__ == "__main__":
    main(sys.argv[1:])
