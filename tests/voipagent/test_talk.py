"""Files of every kind through the engine."""

from __future__ import annotations

import resource
import tracemalloc
import wave
from pathlib import Path
from typing import Literal

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from engine.echo import EchoEngine
from engine.slot import Sampling
from tests.engine.ears import write_listener
from voipagent.app import talk as talk_with_settings
from voipagent.context import Line
from voipagent.persona import Persona
from voipagent.settings import EngineSettings, Settings
from voipagent.talk import AudioFileError, read_frames, talk

RATE, FRAME = 24_000, 1_920


def write(path: Path, samples: NDArray[np.float32], rate: int, codec: str = "pcm_s16le", layout: str = "mono") -> Path:
    """`samples` (channels, T) in [-1, 1] as an audio file."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        assert isinstance(stream, av.AudioStream)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples.T.reshape(1, -1)), "flt", layout)
        frame.sample_rate = rate
        for converted in av.AudioResampler(format=stream.format, layout=layout, rate=rate).resample(frame):
            container.mux(stream.encode(converted))
        container.mux(stream.encode(None))
    return path


def tone(rate: int, seconds: float, channels: int = 1) -> NDArray[np.float32]:
    wave_ = 0.5 * np.sin(2 * np.pi * 440 * np.arange(int(rate * seconds)) / rate)
    return np.tile(wave_.astype(np.float32), (channels, 1))


def silent_wav(path: Path, seconds: int) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8_000)
        file.writeframes(bytes(seconds * 8_000 * 2))


async def through_echo(source: Path, target: Path, greeting: str = "") -> tuple[NDArray[np.int16], list[Line]]:
    lines: list[Line] = []
    async with EchoEngine(rows=1) as engine:
        await talk(engine, Persona(greeting=greeting), Sampling(), source, target, lines.append)
    with wave.open(str(target)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (RATE, 1, 2)
        return np.frombuffer(file.readframes(file.getnframes()), "<i2"), lines


@pytest.mark.parametrize(
    ("rate", "channels", "layout"),
    [(8_000, 1, "mono"), (11_025, 1, "mono"), (16_000, 2, "stereo"), (44_100, 2, "stereo"), (48_000, 6, "5.1")],
)
async def test_any_rate_and_channel_count(tmp_path: Path, rate: int, channels: int, layout: str) -> None:
    source = write(tmp_path / "in.wav", tone(rate, 1.23, channels), rate, layout=layout)
    got, _ = await through_echo(source, tmp_path / "out.wav")
    assert abs(len(got) - 1.23 * RATE) <= 2
    assert np.sqrt(np.mean((got[2400:-2400] / 32768) ** 2)) > 0.1


async def test_the_text_begins_with_the_greeting(tmp_path: Path) -> None:
    source = write(tmp_path / "in.wav", tone(RATE, 5), RATE)
    _, lines = await through_echo(source, tmp_path / "out.wav", greeting="Hello, this is Ada.")
    assert lines[0].text == "Hello, this is Ada."


async def test_a_file_without_samples_gives_one_without(tmp_path: Path) -> None:
    silent_wav(tmp_path / "in.wav", seconds=0)
    got, _ = await through_echo(tmp_path / "in.wav", tmp_path / "out.wav")
    assert len(got) == 0


async def test_what_is_no_number_becomes_silence(tmp_path: Path) -> None:
    samples = tone(RATE, 1)
    samples[0, 1000:2000] = np.nan
    samples[0, 3000] = np.inf
    source = write(tmp_path / "in.wav", samples, RATE, codec="pcm_f32le")
    got, _ = await through_echo(source, tmp_path / "out.wav")
    assert len(got) == RATE
    assert not got[1000:2000].any()
    assert got[3000] == 32767


@pytest.mark.parametrize("content", [b"", b"hello", b"RIFF\0\0\0\0WAVEfmt "])
def test_a_file_that_is_no_audio_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "in.wav").write_bytes(content)
    with pytest.raises(AudioFileError, match=r"in\.wav.* as audio: \S"):
        list(read_frames(tmp_path / "in.wav", RATE, FRAME))


def test_a_file_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(AudioFileError, match="No such file"):
        read_frames(tmp_path / "in.wav", RATE, FRAME)


async def test_an_output_that_cannot_be_written_is_refused_by_name(tmp_path: Path) -> None:
    source = write(tmp_path / "in.wav", tone(RATE, 0.1), RATE)
    with pytest.raises(AudioFileError, match=r"cannot write .*out\.wav"):
        await through_echo(source, tmp_path / "no" / "out.wav")


def test_frames_are_whole_but_the_last(tmp_path: Path) -> None:
    source = write(tmp_path / "in.wav", tone(RATE, 0.25), RATE)
    assert [len(frame) for frame in read_frames(source, RATE, FRAME)] == [1920, 1920, 1920, 240]


def test_memory_does_not_grow_with_the_length(tmp_path: Path) -> None:
    """A minute is 5.8 MB of samples, an hour sixty times that."""

    def peak(seconds: int) -> int:
        silent_wav(tmp_path / "in.wav", seconds)
        tracemalloc.start()
        count = sum(len(frame) for frame in read_frames(tmp_path / "in.wav", RATE, FRAME))
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert abs(count - seconds * RATE) < FRAME
        return used

    assert peak(180) < 2 * peak(6) < 1_000_000


def test_a_file_whose_kind_changes_midway_is_read_to_its_end(tmp_path: Path) -> None:
    """As where two MPEG files were put end to end."""
    mono = write(tmp_path / "mono.mp2", tone(48_000, 1), 48_000, codec="mp2")
    stereo = write(tmp_path / "stereo.mp2", tone(44_100, 1, 2), 44_100, codec="mp2", layout="stereo")
    (tmp_path / "in.mp2").write_bytes(mono.read_bytes() + stereo.read_bytes())
    frames = list(read_frames(tmp_path / "in.mp2", RATE, FRAME))
    assert sum(map(len, frames)) == pytest.approx(2 * RATE, rel=0.05)
    assert np.sqrt(np.mean(frames[18] ** 2)) > 0.3


async def test_the_input_is_never_written_over(tmp_path: Path) -> None:
    source = write(tmp_path / "in.wav", tone(RATE, 0.1), RATE)
    (tmp_path / "link.wav").hardlink_to(source)
    before = source.read_bytes()
    for target in (source, tmp_path / "." / "in.wav", tmp_path / "link.wav"):
        with pytest.raises(AudioFileError, match="one file cannot be two"):
            await through_echo(source, target)
    assert source.read_bytes() == before


async def test_a_full_disk_is_told_by_name(tmp_path: Path) -> None:
    source = write(tmp_path / "in.wav", tone(RATE, 1), RATE)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(AudioFileError, match=r"cannot write .*out\.wav.*: File too large"):
            await through_echo(source, tmp_path / "out.wav")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize(("ear", "roles"), [("auto", {"agent", "caller"}), ("off", {"agent"})])
async def test_the_transcript_has_the_callers_words_where_there_is_an_ear(
    eared: Path, tmp_path: Path, ear: Literal["auto", "off"], roles: set[str]
) -> None:
    source = write(tmp_path / "in.wav", tone(RATE, 4), RATE)
    settings = Settings(
        engine=EngineSettings(model=str(eared), device="cpu", seed=0, ear=ear), persona=Persona(greeting="Hello.")
    )
    await talk_with_settings(settings, source, tmp_path / "out.wav", tmp_path / "words.jsonl")
    lines = [Line.parse(text) for text in (tmp_path / "words.jsonl").read_text().splitlines()]
    assert {line.role for line in lines} == roles
    assert all(0 <= line.start < line.end <= 4 for line in lines)
    assert [line.start for line in lines] == sorted(line.start for line in lines)
    assert all(bool(line.words) == (line.role == "caller") for line in lines)
    assert all(line.start <= word.start <= word.end <= line.end for line in lines for word in line.words)


async def test_streaming_speech_to_text_weights_write_down_what_any_model_hears(nano: Path, tmp_path: Path) -> None:
    """A checkpoint of its own, named by the environment: 32 codebooks, a tokenizer, words marked."""
    ear = write_listener(tmp_path / "stt", nano)
    source = write(tmp_path / "in.wav", tone(RATE, 4), RATE)
    environ = {"MODEL": str(nano), "DEVICE": "cpu", "SEED": "0", "EAR": str(ear)}
    settings = Settings.load({f"VOIPAGENT_ENGINE__{name}": value for name, value in environ.items()})
    await talk_with_settings(settings, source, tmp_path / "out.wav", tmp_path / "words.jsonl")
    lines = [Line.parse(text) for text in (tmp_path / "words.jsonl").read_text().splitlines()]
    heard = [line for line in lines if line.role == "caller"]
    assert heard and all(line.words for line in heard)
    assert "".join(word.text for word in heard[0].words) == heard[0].text.replace(" ", "")
    assert max(word.end for line in heard for word in line.words) <= 4
