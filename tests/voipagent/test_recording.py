"""The recording is what was exchanged: equal channels, private, and never in the way."""

from __future__ import annotations

import logging
import resource
import stat
import threading
import wave
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest

import voipagent.recording
from media.leg import Exchange, Pcm
from voipagent.recording import BLOCK_S, MAX_BEHIND_S, Channels, OggFile, Recorder, Recording, Stereo, WavFile

RATE = 24_000
FRAME = 1_920


def level(value: float, samples: int = FRAME) -> Pcm:
    return np.full(samples, value, np.float32)


async def record(recorder: Recorder, path: Path, *exchanges: Exchange, channels: Channels = "both") -> Recording:
    recording = recorder.record(path, RATE, channels)
    for exchange in exchanges:
        recording.write(exchange)
    await recording.close()
    return recording


def samples(path: Path) -> Stereo:
    with wave.open(str(path)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (RATE, 2, 2)
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, 2)


async def test_caller_left_agent_right(recorder: Recorder, tmp_path: Path) -> None:
    path = tmp_path / "r.wav"
    recording = await record(recorder, path, *[Exchange(level(0.5), level(-0.25))] * 30)
    got = samples(path)
    assert got.shape == (30 * FRAME, 2)
    assert set(got[:, 0]) == {round(0.5 * 32767)}
    assert set(got[:, 1]) == {round(-0.25 * 32767)}
    assert recording.seconds == pytest.approx(2.4)
    assert recording.error == ""


async def test_only_its_owner_may_read_it(recorder: Recorder, tmp_path: Path) -> None:
    await record(recorder, tmp_path / "r.wav", Exchange(level(0), level(0)))
    assert stat.S_IMODE((tmp_path / "r.wav").stat().st_mode) == 0o600


async def test_what_was_skipped_is_silence_on_both_sides(recorder: Recorder, tmp_path: Path) -> None:
    exchange = Exchange(level(0.5), level(0.5), skipped=2 * FRAME)
    recording = await record(recorder, tmp_path / "r.wav", exchange)
    got = samples(tmp_path / "r.wav")
    assert len(got) == recording.samples == 3 * FRAME
    assert not got[: 2 * FRAME].any()
    assert got[2 * FRAME :].all()


async def test_the_agent_alone_leaves_the_caller_silent(recorder: Recorder, tmp_path: Path) -> None:
    await record(recorder, tmp_path / "r.wav", Exchange(level(0.5), level(0.25)), channels="agent")
    got = samples(tmp_path / "r.wav")
    assert not got[:, 0].any()
    assert got[:, 1].all()


async def test_none_makes_no_file_but_keeps_the_time(recorder: Recorder, tmp_path: Path) -> None:
    recording = await record(recorder, tmp_path / "r.wav", *[Exchange(level(0), level(0))] * 50, channels="none")
    assert not (tmp_path / "r.wav").exists()
    assert recording.seconds == pytest.approx(4.0)


async def test_loud_and_broken_samples_are_clipped(recorder: Recorder, tmp_path: Path) -> None:
    await record(recorder, tmp_path / "r.wav", Exchange(level(7.0), level(float("nan"))))
    got = samples(tmp_path / "r.wav")
    assert set(got[:, 0]) == {32767}
    assert not got[:, 1].any()


async def test_opus_in_ogg_is_as_long_and_as_loud(recorder: Recorder, tmp_path: Path) -> None:
    tone = (0.3 * np.sin(2 * np.pi * 440 * np.arange(FRAME * 25) / RATE)).astype(np.float32)
    frames = [Exchange(frame, level(0)) for frame in np.split(tone, 25)]
    await record(recorder, tmp_path / "r.ogg", *frames)
    with av.open(str(tmp_path / "r.ogg")) as file:
        got = np.concatenate([frame.to_ndarray() for frame in file.decode(audio=0)], axis=1)
    assert abs(got.shape[1] / 48_000 - 2.0) < 0.05
    assert np.sqrt(np.mean(got[0] ** 2)) == pytest.approx(0.3 / np.sqrt(2), rel=0.1)
    assert np.sqrt(np.mean(got[1] ** 2)) < 0.01


@pytest.fixture
def small_disk() -> Iterator[None]:
    """No file may grow beyond a megabyte, 11 s of WAV: to who writes, the same as a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


async def test_a_full_disk_stops_the_recording_and_is_logged(
    recorder: Recorder, tmp_path: Path, small_disk: None, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        recording = await record(recorder, tmp_path / "r.wav", *[Exchange(level(0.5), level(0))] * 200)
    assert "File too large" in recording.error
    assert recording.seconds == pytest.approx(16.0)
    assert len(caplog.records) == 1
    assert 9 * RATE < len(samples(tmp_path / "r.wav")) < 11 * RATE  # what was written before plays


async def test_a_disk_that_fails_while_a_block_is_handed_over_does_not_fail_the_call(
    recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk's thread may stop the recording at any moment."""
    recording = recorder.record(tmp_path / "r.wav", RATE, "both")
    flush = recording._flush

    def late() -> None:
        recording._stop("disk full")
        flush()

    monkeypatch.setattr(recording, "_flush", late)
    for _ in range(30):
        recording.write(Exchange(level(0.5), level(0)))
    await recording.close()
    assert recording.error == "disk full"
    assert recording.seconds == pytest.approx(2.4)


class TornCodec(WavFile):
    def write(self, samples: Stereo) -> None:
        raise av.error.InvalidDataError(1, "Invalid data")


async def test_a_codec_that_fails_stops_the_recording_too(
    recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(voipagent.recording.FORMATS, "wav", TornCodec)
    recording = await record(recorder, tmp_path / "r.wav", *[Exchange(level(0.5), level(0))] * 20)
    assert "Invalid data" in recording.error


async def test_a_folder_that_is_not_there_stops_the_recording(recorder: Recorder, tmp_path: Path) -> None:
    recording = await record(recorder, tmp_path / "no" / "r.wav", *[Exchange(level(0.5), level(0))] * 20)
    assert "No such file" in recording.error


class StuckDisk(WavFile):
    unstuck = threading.Event()

    def write(self, samples: Stereo) -> None:
        self.unstuck.wait(10)


async def test_a_stuck_disk_is_given_up_with_bounded_memory(
    recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(voipagent.recording.FORMATS, "wav", StuckDisk)
    recording = recorder.record(tmp_path / "r.wav", RATE, "both")
    block = Exchange(level(0.5, int(BLOCK_S * RATE)), level(0, int(BLOCK_S * RATE)))
    for _ in range(round(MAX_BEHIND_S / BLOCK_S) + 5):
        recording.write(block)
    assert recording.error == f"the disk is {MAX_BEHIND_S} s behind"
    StuckDisk.unstuck.set()
    await recording.close()


@pytest.mark.parametrize("kind", [WavFile, OggFile])
def test_a_file_torn_in_mid_call_plays_up_to_the_last_second(
    tmp_path: Path, kind: type[WavFile] | type[OggFile]
) -> None:
    """At every block: what was handed over is in the file, but for less than a second less a block."""
    suffix = "wav" if kind is WavFile else "ogg"
    file, block = kind(tmp_path / f"r.{suffix}", RATE), round(BLOCK_S * RATE)
    for number in range(1, 11):
        file.write(np.full((block, 2), 1000, np.int16))
        (tmp_path / f"torn.{suffix}").write_bytes((tmp_path / f"r.{suffix}").read_bytes())
        with av.open(str(tmp_path / f"torn.{suffix}")) as torn:
            seconds = sum(frame.samples / frame.sample_rate for frame in torn.decode(audio=0))
        assert number * BLOCK_S - seconds <= 1 - BLOCK_S - 0.05
    file.close()
