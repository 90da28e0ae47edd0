"""Callers who talk to rows of the engine, many at once and faster than real time, and what was said back.

A caller speaks when the agent has been quiet, or talking, for so long: so one scene fits any model. Frames count from
the call's first; the reply to a frame is heard with the next one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from engine.batch import Batch, RowStep
from engine.model.text import TextReader
from engine.pocket.recipe.formats import Audio, whole_frames
from engine.slot import FRAME_SAMPLES, SAMPLE_RATE, Frame, Sampling, Tokens

TALK_RMS = 0.01
"""Of a frame in which the agent says something: 18 dB below its voice."""

PATIENCE = 120
"""Frames after which a caller speaks in any case."""

BREATH = 3
"""Frames of silence within an answer, between two of its words; after more, it is said."""

DUE, HARD, KEEP, PAUSED = 0.8, 0.95, 0.25, 12
"""Of the window: where a row is told anew who it is, at a pause of so many frames, or without one, and how much of what
it lived it keeps. As `voipagent/window.py` has it, which no call gets around: an older row would forget its prompt."""

DONE_QUIET = 15
"""Frames of silence after an answer, at which a scene that needs no more ends."""


@dataclass(frozen=True, slots=True)
class Turn:
    """`audio` begins once the agent has been quiet, after answering the turn before, or talking for so many frames."""

    audio: Audio
    when: Literal["quiet", "talking"] = "quiet"
    frames: int = 10


@dataclass(frozen=True, slots=True)
class Scene:
    """One call: its prompt, what is said, and how many frames to listen after that.

    `patient`: listen to the end, whatever is answered. `echo`: decibels and seconds with which the agent hears itself.
    `log` and `keep`: the call goes on in a fresh row with the last columns of an earlier one.
    """

    prompt: str
    turns: tuple[Turn, ...] = ()
    listen: int = 75
    patient: bool = False
    echo: tuple[float, float] | None = None
    log: Tokens | None = None
    keep: int = 0


@dataclass(slots=True)
class Record:
    """What a scene gave: per frame the text that began, and the sound; where each turn began and ended."""

    text: list[str] = field(default_factory=list)
    frames: list[Frame] = field(default_factory=list)
    tokens: list[Tokens] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)

    @property
    def talking(self) -> NDArray[np.bool_]:
        """Per frame, whether anything is to be heard."""
        return np.array([_rms(frame) > TALK_RMS for frame in self.frames], np.bool_)

    @property
    def audio(self) -> Audio:
        return np.concatenate(self.frames)

    def said(self, first: int = 0, last: int | None = None) -> str:
        """The text that was made in these frames."""
        return " ".join("".join(self.text[first:last]).split())

    def log(self) -> Tokens:
        return np.stack(self.tokens)


class _Call:
    """A scene that is being played in a row."""

    def __init__(self, scene: Scene, batch: Batch) -> None:
        self.scene, self.record = scene, Record()
        self._reader = TextReader(batch.tokenizer)
        self._waiting = list(scene.turns)
        self._playing: Iterator[Frame] = iter(())
        self._quiet, self._talked, self._waited, self._listened, self._answered = 0, 0, 0, 0, False
        self._echo = np.zeros(0, np.float32)
        self.prompt = batch.layout.frames(batch.tokenizer, scene.prompt)
        self._held = len(self.prompt) + scene.keep

    def renew(self, batch: Batch, row: int, sampling: Sampling) -> None:
        """Tell the row anew who it is, if its window is nearly full."""
        window = batch.window_frames
        if self._held >= (DUE if self._quiet >= PAUSED else HARD) * window:
            keep = round(KEEP * window)
            for _ in batch.renew(row, self.prompt, keep, sampling):
                pass
            self._held = len(self.prompt) + keep

    def hears(self) -> Frame:
        """The caller's next frame."""
        frame = next(self._playing, None)
        if frame is None and self._waiting and self._due():
            if len(self.record.ends) < len(self.record.starts):
                self.record.ends.append(len(self.record.frames))
            audio = whole_frames(self._waiting.pop(0).audio)
            self._playing = iter(audio.reshape(-1, FRAME_SAMPLES))
            self.record.starts.append(len(self.record.frames))
            self._waited, self._answered = 0, False
            frame = next(self._playing, None)
        elif frame is None and len(self.record.ends) < len(self.record.starts):
            self.record.ends.append(len(self.record.frames))
        if frame is None:
            self._waited += 1
            self._listened += not self._waiting
            frame = np.zeros(FRAME_SAMPLES, np.float32)
        return frame + self._heard_again() if self.scene.echo else frame

    def _due(self) -> bool:
        turn = self._waiting[0]
        since = self._quiet if turn.when == "quiet" else self._talked
        if turn.when == "quiet" and self.record.starts and not self._answered:
            since = 0  # who has said something waits for what comes of it
        return since >= turn.frames or self._waited > PATIENCE

    def _heard_again(self) -> Frame:
        """The agent's voice of a while ago, bent by a cheap loudspeaker."""
        assert self.scene.echo is not None
        level_db, delay_s = self.scene.echo
        said = np.concatenate((np.zeros(SAMPLE_RATE, np.float32), *self.record.frames[-6:]))
        end = len(said) - int(delay_s * SAMPLE_RATE)  # without delay, the last frame said is heard with this one
        part = said[end - FRAME_SAMPLES : end]
        return np.asarray(np.tanh(3 * part) / 3 * 10 ** (level_db / 20), np.float32)

    def replied(self, frame: Frame, token: int, tokens: Tokens) -> bool:
        """Take what was said; True when the scene is over."""
        record = self.record
        record.text.append(self._reader.read(token))
        record.frames.append(frame)
        record.tokens.append(tokens)
        self._held += 1
        talking = _rms(frame) > TALK_RMS
        self._quiet = 0 if talking else self._quiet + 1
        self._talked = self._talked + 1 if talking or 0 < self._talked and self._quiet <= BREATH else 0
        # what is said into a turn is no answer to it, be it an "mm-hm": the scene would end before one comes
        self._answered |= talking and len(record.ends) == len(record.starts)
        if self._waiting or not self._listened:
            return False
        over = self._answered and self._quiet >= DONE_QUIET and not self.scene.patient
        return over or self._listened >= self.scene.listen


def play(batch: Batch, scenes: Sequence[Scene], sampling: Sampling) -> list[Record]:
    """Each scene in a row, as many at once as there are rows."""
    waiting, calls = list(range(len(scenes)))[::-1], dict[int, tuple[int, _Call]]()
    records: dict[int, Record] = {}
    while waiting or calls:
        for row in range(batch.rows):
            if row not in calls and waiting:
                number = waiting.pop()
                calls[row] = number, _open(batch, row, scenes[number], sampling)
        steps = [RowStep(row, call.hears(), None, sampling) for row, (_, call) in calls.items()]
        for row, stepped in zip(list(calls), batch.step(steps), strict=True):
            number, call = calls[row]
            if call.replied(stepped.frame, stepped.text, stepped.tokens):
                records[number] = call.record
                del calls[row]
            else:
                call.renew(batch, row, sampling)
    return [records[number] for number in range(len(scenes))]


def _open(batch: Batch, row: int, scene: Scene, sampling: Sampling) -> _Call:
    """As `LocalEngine` opens and primes a slot."""
    call = _Call(scene, batch)
    batch.open(row, np.zeros((0, batch.streams), np.uint16) if scene.log is None else scene.log)
    for chunk in batch.plan(row, call.prompt, scene.keep, sampling):
        batch.prefill(chunk)
    return call


def _rms(frame: Frame) -> float:
    return float(np.sqrt(np.mean(np.square(frame))))
