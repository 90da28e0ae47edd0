"""Announcements: frames of the engine's size from any audio file, and clear words where there are none."""

from __future__ import annotations

import asyncio
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from media.leg import AudioFormat, Exchange
from tests.fakes import FakeLeg
from voipagent.consent import LONGEST_S, PAUSE_S, TONE_HZ, TONE_S, Announcement, announce_alone, load_announcement
from voipagent.lab.demo import SENTENCES
from voipagent.talk import AudioFileError

RATE, FRAME = 24_000, 1_920


def loaded(consent: str) -> Announcement:
    announcement = load_announcement(consent, RATE, FRAME)
    assert announcement is not None
    assert {frame.shape for frame in announcement.frames} == {(FRAME,)}
    assert {frame.dtype for frame in announcement.frames} == {np.dtype(np.float32)}
    return announcement


def write(path: Path, seconds: float, level: float, rate: int = 8_000) -> str:
    samples = (level * 32767 * np.sin(np.arange(round(seconds * rate)) / 3)).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())
    return str(path)


def test_off_is_nothing() -> None:
    assert load_announcement("off", RATE, FRAME) is None


def test_the_tone_is_one_and_no_click() -> None:
    sound = np.concatenate(loaded("tone").frames)
    spectrum = np.abs(np.fft.rfft(sound))
    assert np.fft.rfftfreq(len(sound), 1 / RATE)[spectrum.argmax()] == pytest.approx(TONE_HZ, abs=2)
    assert np.abs(np.diff(sound)).max() < 0.1
    assert np.flatnonzero(sound)[-1] == pytest.approx(TONE_S * RATE, abs=10)
    assert loaded("tone").name == "tone"


@pytest.mark.parametrize(("rate", "seconds"), [(8_000, 1.0), (44_100, 0.73), (16_000, 0.05)])
def test_a_file_is_as_long_as_it_is_and_a_pause_follows(tmp_path: Path, rate: int, seconds: float) -> None:
    announcement = loaded(write(tmp_path / "consent.wav", seconds, 0.5, rate))
    assert announcement.name == "consent.wav"
    sound = np.concatenate(announcement.frames)
    last = np.flatnonzero(np.abs(sound) > 0.01)[-1] / RATE
    assert last == pytest.approx(seconds, abs=0.02)
    assert PAUSE_S - 0.03 <= len(sound) / RATE - last < PAUSE_S + 0.08 + 0.03


def test_any_audio_file_will_do() -> None:
    assert len(loaded(str(SENTENCES / "sunday.ogg")).frames) > 10


def test_what_cannot_be_an_announcement_is_said(tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("Hello.")
    write(tmp_path / "long.wav", LONGEST_S + 1, 0.5)
    write(tmp_path / "silent.wav", 1, 0.0)
    write(tmp_path / "empty.wav", 0, 0.0)
    for name, why in [
        ("none.wav", "No such file"),
        ("text.wav", "cannot read"),
        ("long.wav", "longer than 60 s"),
        ("silent.wav", "nothing is to be heard"),
        ("empty.wav", "nothing is to be heard|cannot read"),
    ]:
        with pytest.raises(AudioFileError, match=f"VOIPAGENT_CALLS__CONSENT: .*({why})"):
            load_announcement(str(tmp_path / name), RATE, FRAME)


class Line(FakeLeg):
    """A leg whose way is there in the frames that are named."""

    def __init__(self, *ready: bool) -> None:
        super().__init__()
        self._ready, self.ready = list(ready), False

    async def exchange(self) -> Exchange:
        self.ready = self._ready.pop(0) if self._ready else self.ready
        return await super().exchange()


async def announced(leg: FakeLeg, frames: int = 2) -> dict[str, Any]:
    sound = Announcement("tone", (np.full(FRAME, 0.1, np.float32),) * frames)
    async with asyncio.timeout(5):
        return await announce_alone(sound, leg, AudioFormat(RATE, FRAME))


async def test_it_is_played_once_there_is_a_way() -> None:
    leg = Line(False, False, True)
    leg.hear(*[np.zeros(FRAME, np.float32)] * 9)
    assert await announced(leg) == {"heard": "tone", "duration_s": 0.16, "whole": True}
    assert leg.line.qsize() == 9 - 3 - 2


async def test_it_is_played_though_there_is_no_way_yet_but_the_note_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("voipagent.consent.READY_S", 0.4)
    leg = Line()
    leg.hear(*[np.zeros(FRAME, np.float32)] * 9)
    assert await announced(leg) == {"heard": "tone", "duration_s": 0.16, "whole": False}
    assert leg.line.qsize() == 9 - 5 - 2


async def test_what_was_not_heard_once_is_not_heard_whole() -> None:
    leg = Line(True, False, True, True)
    leg.hear(*[np.zeros(FRAME, np.float32)] * 9)
    assert not (await announced(leg, 3))["whole"]


async def test_a_hold_only_delays_it() -> None:
    leg = Line(True)
    for held in (False, True, True, False):
        leg.hear(np.zeros(FRAME, np.float32), held=held)
    leg.ready = True
    assert await announced(leg) == {"heard": "tone", "duration_s": 0.16, "whole": True}
    assert len(leg.played) == 2 and leg.line.empty()


def test_the_last_frame_is_filled_with_silence() -> None:
    frames = list(Announcement("tone", (np.ones(FRAME, np.float32),) * 2).cut(1_000))
    assert [len(frame) for frame in frames] == [1_000] * 4
    assert np.concatenate(frames).sum() == 2 * FRAME
