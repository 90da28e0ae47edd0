"""What the steps of the recipe hand each other, and how it lies on disk. Numpy and the standard library only.

    WORK/clips.npz                    the agent's voice: every `Clip`, in the order that schedules count by
    WORK/tokenizer.model              SentencePiece, one for the agent's text, the prompt and the ear
    WORK/layout.json                  where weights were adopted: their prompt's codes of silence and of a tone
    WORK/callers/{train,held-out}-*.npz     `Utterance`s, clean: the channel is put on when they are used
    WORK/strangers/train-*.npz        the same, of things that have nothing to do with the shop
    WORK/actors/{train,held-out}-*.npz      the same, of people who were recorded; some of it callers say, too
    WORK/agent/train-*.npz            `Utterance`s that the agent's voice says besides its clips, for the codec alone
    WORK/dialogues/{stage1,strays,asides,talk,stage2,probe}-*.npz    `Dialogue`s with sound
    WORK/coded/*.npz                  the same with codes, once there is a codec

`shards` lists them; a shard is written under another name and renamed, so one that can be seen is complete.
Times are seconds from the start of the audio; frames are 80 ms. Audio is 16-bit on disk, float32 in [-1, 1] in memory.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from engine.slot import FRAME_SAMPLES

Audio: TypeAlias = NDArray[np.float32]
"""Mono, 24 kHz, shape (samples,)."""

Split: TypeAlias = Literal["train", "held-out"]

SILENCE = -1
"""In a schedule, where no clip is playing."""

CODEBOOKS = 8


@dataclass(frozen=True, slots=True)
class Span:
    """A word or a phone and where it sounds, in seconds."""

    label: str
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True, eq=False)
class Utterance:
    """One thing said. `split` is the voice's, `wording` that of its words; only train/train is trained on.

    `intent` is one of the domain's, `unknown`, or "" for speech that means nothing to the agent.
    `slot` is what the caller told: digits as words, or a name.
    """

    audio: Audio
    text: str
    voice: str
    split: Split
    intent: str = ""
    slot: str = ""
    wording: Split = "train"
    words: tuple[Span, ...] = ()
    phones: tuple[Span, ...] = ()

    @property
    def seconds(self) -> float:
        return len(self.audio) / 24_000


@dataclass(frozen=True, slots=True)
class ClipWord:
    """A word of a clip, and the frame of the clip in which its sound begins."""

    word: str
    frame: int


@dataclass(frozen=True, slots=True, eq=False)
class Clip:
    """One part of an answer in the agent's voice: whole frames, sound from the first of them on."""

    id: str
    audio: Audio
    words: tuple[ClipWord, ...]

    @property
    def frames(self) -> int:
        return len(self.audio) // FRAME_SAMPLES

    @property
    def text(self) -> str:
        return " ".join(word.word for word in self.words)


@dataclass(frozen=True, slots=True)
class Event:
    """Something that a score asks for, at a frame of the dialogue.

    kind        frame                                          intent, text
    greeting    first of the agent's sound                     its text
    question    last with the caller's speech (start: its first)   what was asked, in its words
    answer      first of the agent's sound (start: the question's last)    what it answers to, its text
    silence     first of the agent's question into a silence   its text
    stop        first that is silent after a barge-in (start: the caller's first)   -
    backchannel first of the agent's "mm-hm" (start: of the turn)      -
    missed      from which on something is asked of the agent      -
    noise       first of something to be ignored               which: mm-hm, cough, music, keys, …
    """

    kind: str
    frame: int
    start: int = -1
    intent: str = ""
    text: str = ""
    slot: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Dialogue:
    """T frames of a call, as the model is to live them, behind its prompt.

    `schedule` (T, 2): index of the clip (or SILENCE) and the frame within it. `text` (T,): the agent's text tokens.
    `heard`: the caller's words and where they sound, `phones` the same of phones. The caller's side is `audio`
    (T·1920,), what arrives through the channel, or `codes` (T, 8), what the codec made of it; the other is None.
    """

    prompt: str
    schedule: NDArray[np.int16]
    text: NDArray[np.int16]
    heard: tuple[Span, ...]
    events: tuple[Event, ...]
    split: Split = "train"
    audio: Audio | None = field(default=None, repr=False)
    codes: NDArray[np.uint16] | None = field(default=None, repr=False)
    phones: tuple[Span, ...] = ()

    @property
    def frames(self) -> int:
        return len(self.text)


def write_utterances(path: Path, utterances: Sequence[Utterance]) -> None:
    """One shard. Its text parts are JSON within the archive."""
    meta = [
        {
            **{name: getattr(each, name) for name in ("text", "voice", "split", "intent", "slot", "wording")},
            "words": _pack_spans(each.words),
            "phones": _pack_spans(each.phones),
        }
        for each in utterances
    ]
    _save(path, meta, **_pack_audio([each.audio for each in utterances]))


def read_utterances(path: Path) -> list[Utterance]:
    """Raises ValueError with the path where it is no such shard."""
    meta, arrays = _load(path, "audio", "lengths")
    return [
        Utterance(
            audio,
            words=_spans(entry.pop("words")),
            phones=_spans(entry.pop("phones")),
            **entry,
        )
        for entry, audio in zip(meta, _unpack_audio(arrays), strict=True)
    ]


def write_clips(path: Path, clips: Sequence[Clip]) -> None:
    """All clips, in order."""
    meta = [{"id": clip.id, "words": [[word.word, word.frame] for word in clip.words]} for clip in clips]
    _save(path, meta, **_pack_audio([clip.audio for clip in clips]))


def read_clips(path: Path) -> list[Clip]:
    """Raises ValueError with the path where there are none."""
    meta, arrays = _load(path, "audio", "lengths")
    return [
        Clip(entry["id"], audio, tuple(ClipWord(word, frame) for word, frame in entry["words"]))
        for entry, audio in zip(meta, _unpack_audio(arrays), strict=True)
    ]


def write_dialogues(path: Path, dialogues: Sequence[Dialogue]) -> None:
    """One shard; all of its dialogues have codes, or all have audio."""
    meta = [
        {
            "prompt": each.prompt,
            "split": each.split,
            "heard": _pack_spans(each.heard),
            "phones": _pack_spans(each.phones),
            "events": [asdict(event) for event in each.events],
        }
        for each in dialogues
    ]
    arrays: dict[str, NDArray[Any]] = {
        "frames": np.array([each.frames for each in dialogues], np.int64),
        "schedule": np.concatenate([each.schedule for each in dialogues]),
        "text": np.concatenate([each.text for each in dialogues]),
    }
    if all(each.codes is not None for each in dialogues):
        arrays["codes"] = np.concatenate([each.codes for each in dialogues if each.codes is not None])
    else:
        audio = [each.audio for each in dialogues if each.audio is not None]
        if len(audio) != len(dialogues):
            raise ValueError(f"a shard's dialogues have all audio or all codes; of {len(dialogues)}, {len(audio)} have")
        arrays |= _pack_audio(audio)
    _save(path, meta, **arrays)


def read_dialogues(path: Path) -> list[Dialogue]:
    """Raises ValueError with the path where it is no such shard."""
    meta, arrays = _load(path, "frames", "schedule", "text")
    cuts = np.cumsum(arrays["frames"])
    codes = np.split(arrays["codes"], cuts)[:-1] if "codes" in arrays else [None] * len(meta)
    audio = _unpack_audio(arrays) if "audio" in arrays else [None] * len(meta)
    return [
        Dialogue(
            entry["prompt"],
            schedule,
            text,
            _spans(entry["heard"]),
            tuple(Event(**event) for event in entry["events"]),
            entry["split"],
            its_audio,
            its_codes,
            _spans(entry.get("phones", ())),  # shards of an older version have none
        )
        for entry, schedule, text, its_audio, its_codes in zip(
            meta,
            np.split(arrays["schedule"], cuts)[:-1],
            np.split(arrays["text"], cuts)[:-1],
            audio,
            codes,
            strict=True,
        )
    ]


def shards(folder: Path, kind: str) -> list[Path]:
    """The shards of a kind (`train`, `stage1` …) that lie in a folder, in order; none where there is no folder."""
    return sorted(folder.glob(f"{kind}-[0-9]*.npz"))


def shard(folder: Path, kind: str, number: int) -> Path:
    return folder / f"{kind}-{number:05}.npz"


def whole_frames(audio: Audio) -> Audio:
    """Padded with silence to a frame's edge."""
    return np.pad(audio, (0, -len(audio) % FRAME_SAMPLES))


def _pack_spans(spans: Sequence[Span]) -> list[list[object]]:
    return [[span.label, round(span.start_s, 4), round(span.end_s, 4)] for span in spans]


def _spans(packed: Sequence[Any]) -> tuple[Span, ...]:
    return tuple(Span(label, start, end) for label, start, end in packed)


def _pack_audio(audio: Sequence[Audio]) -> dict[str, NDArray[Any]]:
    joined = np.concatenate([np.zeros(0, np.float32), *audio])
    return {
        "audio": np.round(np.clip(joined, -1, 1) * 32_767).astype(np.int16),
        "lengths": np.array([len(each) for each in audio], np.int64),
    }


def _unpack_audio(arrays: dict[str, NDArray[Any]]) -> list[Audio]:
    audio = arrays["audio"].astype(np.float32) / np.float32(32_767)
    return np.split(audio, np.cumsum(arrays["lengths"]))[:-1]


def _save(path: Path, meta: Sequence[object], **arrays: NDArray[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = np.frombuffer(json.dumps(meta).encode(), np.uint8)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with part.open("wb") as file:
        np.savez(file, allow_pickle=False, meta=text, **arrays)
    part.rename(path)


def _load(path: Path, *needed: str) -> tuple[list[dict[str, Any]], dict[str, NDArray[Any]]]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        missing = sorted({"meta", *needed} - arrays.keys())
        if missing:
            raise ValueError(f"it lacks {missing[0]!r}")
        return json.loads(arrays.pop("meta").tobytes()), arrays
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path} cannot be read: {error}; make it again with engine.pocket.recipe.generate") from None
