"""Voices: recordings become codes of the right loudness, `.pt` files go on as the call that they were cut from."""

from __future__ import annotations

import shutil
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from engine.batch import Batch
from engine.local import LocalEngine
from engine.model.checkpoint import load_checkpoint
from engine.model.moshi import Moshi, MoshiConfig
from engine.model.source import VoiceFile
from engine.model.text import PAD
from engine.model.voice import VoiceState, at_loudness, loudness_of, read_state, read_wave, record, resampled, told
from engine.slot import CheckpointError, Prompt, PromptError, Sampling
from tests.engine.model.test_moshi import Driver, build, same_future
from tests.engine.rows import no_log, noise, same, talk
from tests.oracle import lm_cases as cases
from tests.oracle.weights import uniform

SIZES = cases.TINY | {"context": 40}


# --- states --------------------------------------------------------------------------------------------------------


def spoken(model: Moshi, frames: torch.Tensor) -> dict[str, Any]:
    """What the reference saves of a voice of n frames, of which it never reads the first: `frames` are the others.

    Its ring of four columns holds, after n calls, column c in slot c mod 4.
    """
    n, config = len(frames) + 1, model.config
    columns = config.columns(frames)  # 0 to n, where column n has only what is delayed
    cache = torch.full((1, config.streams, 4), -2)
    for column in range(n - 2, n + 1):
        cache[0, :, column % 4] = columns[column]
    embeddings = model._embed(columns[None, : n - 1])[0][:, None, None]
    return {"embeddings": embeddings, "cache": cache}


@pytest.mark.parametrize("length", [1, 2, 5, 9], ids=str)
@pytest.mark.parametrize("chunk", [1, 4, 100], ids=str)
def test_a_saved_voice_goes_on_as_the_voice_itself(tmp_path: Path, length: int, chunk: int) -> None:
    """Whether a prompt follows the voice's frames, or the vectors and the cache: the same call."""
    model = build(SIZES, 3)
    with torch.no_grad():
        voice = torch.from_numpy(cases.tokens("voice", (length, 17), 24, 1))
        prompt = torch.from_numpy(cases.tokens("prompt", (6, 17), 24, 2))
        torch.save(spoken(model, voice), tmp_path / "NATF0.pt")
        whole, restored = Driver(model, 1), Driver(model, 1)
        model.prefill(whole.state, model.config.columns(torch.cat((voice, prompt)))[None], None)
        state = read_state(VoiceFile.read(tmp_path / "NATF0.pt"), model.config)
        for start in range(0, len(state.vectors), chunk):
            model.prefill_vectors(restored.state, state.vectors[None, start : start + chunk], None)
        model.prefill(restored.state, state.columns(model.config, prompt)[None], None)
        assert whole.state.kv.position.tolist() == restored.state.kv.position.tolist() == [length + 6]
        whole.step(), restored.step()
        same_future(whole, restored)


def with_(**changes: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda held: {name: value for name, value in {**held, **changes}.items() if value is not None}


class Evil:
    """What a pickle may do when it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("evil"),)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda held: [held], "must hold two tensors, 'embeddings' and 'cache'"),
        (with_(cache=None), "must hold two tensors"),
        (with_(more=torch.zeros(1)), "must hold two tensors"),
        (with_(cache=[1, 2]), "must hold two tensors"),
        (with_(embeddings=torch.zeros(3, 1, 1, 31)), r"embeddings \[3, 1, 1, 31\], .*; they must be \[n, 1, 1, 32\]"),
        (with_(embeddings=torch.zeros(3, 32)), r"has embeddings \[3, 32\]"),
        (with_(embeddings=torch.zeros(3, 1, 1, 32, dtype=torch.int64)), "torch.int64; they must be .* floats"),
        (with_(embeddings=torch.zeros(0, 1, 1, 32)), "is 0 columns long; the window has 40"),
        (with_(embeddings=torch.zeros(40, 1, 1, 32)), "is 40 columns long; the window has 40"),
        (with_(embeddings=torch.full((3, 1, 1, 32), torch.nan)), "embeddings that are no numbers"),
        (with_(cache=torch.zeros(1, 17, 3, dtype=torch.int64)), r"cache \[1, 17, 3\], .*; it must be \[1, 17, 4\]"),
        (with_(cache=torch.zeros(1, 17, 4)), "cache .*torch.float32; it must be .* integers"),
        (with_(cache=torch.full((1, 17, 4), 25)), "a cache with tokens that this model does not have"),
        (with_(cache=torch.full((1, 17, 4), -2)), "a cache with tokens that this model does not have"),
        (with_(more=Evil()), "cannot be read, or holds more than tensors"),
    ],
)
def test_a_state_that_is_none_is_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[dict[str, Any]], object],
    complaint: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    model = build(SIZES)
    with torch.no_grad():
        held = spoken(model, torch.from_numpy(cases.tokens("voice", (3, 17), 24, 1)))
    torch.save(change(held), tmp_path / "voice.pt")
    with pytest.raises(CheckpointError, match=rf"voice\.pt'.*{complaint}"):
        read_state(VoiceFile.read(tmp_path / "voice.pt"), model.config)
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("content", [b"", b"RIFF", bytes(5000)])
def test_a_torn_state_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "voice.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"voice\.pt' cannot be read"):
        read_state(VoiceFile.read(tmp_path / "voice.pt"), MoshiConfig())


def test_a_state_is_of_a_model_with_a_delay_of_one(tmp_path: Path) -> None:
    model = build(SIZES)
    with torch.no_grad():
        torch.save(spoken(model, torch.from_numpy(cases.tokens("voice", (3, 17), 24, 1))), tmp_path / "voice.pt")
    other = MoshiConfig.from_kwargs(SIZES | {"delays": [0, 0, *[2] * 7, 0, *[2] * 7]})
    with pytest.raises(CheckpointError, match="this one's longest delay is 2"):
        read_state(VoiceFile.read(tmp_path / "voice.pt"), other)


# --- recordings ----------------------------------------------------------------------------------------------------


def tone(hertz: float, seconds: float, rate: int = 24_000, level: float = 1.0) -> NDArray[np.float64]:
    return level * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


def write_wave(path: Path, samples: NDArray[Any], rate: int = 24_000, width: int = 2) -> Path:
    """Samples [n] or [n, channels] in [-1, 1]."""
    scaled = np.round(samples * (2 ** (8 * width - 1) - 1)).astype("<i4")
    with wave.open(str(path), "wb") as file:
        file.setparams((1 if samples.ndim == 1 else samples.shape[1], width, rate, 0, "NONE", ""))
        octets = (scaled + (128 if width == 1 else 0)).reshape(-1, 1).view(np.uint8)
        file.writeframes(octets[:, :width].tobytes())
    return path


def stored(path: Path, samples: NDArray[Any], rate: int, width: int) -> VoiceFile:
    return VoiceFile.read(write_wave(path, samples, rate, width))


def test_loudness_is_the_standards() -> None:
    """BS.1770-4: a 997 Hz tone of 0 dBFS in one channel reads -3.01 LUFS; EBU Tech 3341: levels add up in dB."""
    assert loudness_of(tone(997, 5).astype(np.float32)) == pytest.approx(-3.01, abs=0.05)
    assert loudness_of(tone(997, 5, level=0.1).astype(np.float32)) == pytest.approx(-23.01, abs=0.05)
    assert loudness_of(tone(38, 5).astype(np.float32)) == pytest.approx(-3.01 - 6.0 - 0.7, abs=0.8)  # cut off below
    assert loudness_of(tone(6000, 5).astype(np.float32)) == pytest.approx(-3.01 + 3.3, abs=0.2)  # the head's lift


def test_silence_does_not_count_as_loudness() -> None:
    loud = tone(997, 5).astype(np.float32)
    paused = np.concatenate((loud, np.zeros(240_000, np.float32)))
    assert loudness_of(paused) == pytest.approx(loudness_of(loud), abs=0.3)
    assert loudness_of(np.zeros(48_000, np.float32)) == -np.inf
    assert np.array_equal(at_loudness(np.zeros(100, np.float32), -24), np.zeros(100, np.float32))
    assert loudness_of(at_loudness(paused, -24)) == pytest.approx(-24, abs=0.01)


@pytest.mark.parametrize(("rate", "width", "channels"), [(24_000, 2, 1), (8_000, 1, 1), (44_100, 3, 2), (48_000, 4, 1)])
def test_any_pcm_becomes_mono_at_24_khz(tmp_path: Path, rate: int, width: int, channels: int) -> None:
    sound = tone(440, 1.3, rate, 0.5)
    samples = sound if channels == 1 else np.stack([sound * 1.5, sound * 0.5], 1)
    got = read_wave(stored(tmp_path / "voice.wav", samples, rate, width))
    want = tone(440, 1.3, 24_000, 0.5)
    assert got.dtype == np.float32 and got.shape == want.shape
    middle = slice(2_400, -2_400)
    assert np.abs(got[middle] - want[middle]).max() < (0.01 if width == 1 else 0.002)


def test_what_24_khz_cannot_hold_is_gone() -> None:
    got = resampled(tone(15_000, 1.0, 48_000) + tone(1_000, 1.0, 48_000), 48_000)
    assert np.abs(got[2_400:-2_400] - tone(1_000, 1.0)[2_400:-2_400]).max() < 0.01


@pytest.mark.parametrize(
    ("content", "complaint"),
    [(b"", "is no PCM WAV file"), (b"RIFF1234WAVE", "is no PCM WAV file"), (b"OggS" * 100, "is no PCM WAV file")],
)
def test_a_recording_that_is_none_is_refused(tmp_path: Path, content: bytes, complaint: str) -> None:
    (tmp_path / "voice.wav").write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"voice\.wav'.*{complaint}"):
        read_wave(VoiceFile.read(tmp_path / "voice.wav"))


@pytest.mark.parametrize("seconds", [0, 61])
def test_a_recording_has_a_length(tmp_path: Path, seconds: float) -> None:
    path = write_wave(tmp_path / "voice.wav", np.zeros(int(8_000 * seconds)), 8_000)
    with pytest.raises(CheckpointError, match="must last up to 60 s, and not be empty"):
        read_wave(VoiceFile.read(path))


# --- in a checkpoint -----------------------------------------------------------------------------------------------


SPOKEN = cases.tokens("voice of nano", (9, 17), 128, 1)


def save_state(nano: Path, path: Path) -> None:
    """SPOKEN as PersonaPlex would publish it, for the nano model."""
    with torch.no_grad():
        torch.save(spoken(load_checkpoint(str(nano)).moshi, torch.from_numpy(SPOKEN)), path)


@pytest.fixture
def voiced(nano: Path, tmp_path: Path) -> Path:
    """Nano with a recording and a state beside it; the state is of 9 frames of a voice of its own."""
    folder = Path(shutil.copytree(nano, tmp_path / "copy"))
    (folder / "voices").mkdir()
    noise = uniform("voice", (24_000,)) * np.linspace(0, 1, 24_000)
    write_wave(folder / "voices" / "ada.wav", noise)
    save_state(folder, folder / "voices" / "NATF0.pt")
    (folder / "voices" / "README.md").touch()
    return folder


def test_a_recording_beside_the_weights_comes_before_the_prompt(voiced: Path) -> None:
    checkpoint = load_checkpoint(str(voiced))
    assert list(checkpoint.voices) == ["NATF0", "ada"] and isinstance(checkpoint.voices["NATF0"], VoiceState)
    layout, tokenizer = checkpoint.layout, checkpoint.tokenizer
    codes = checkpoint.voices["ada"]
    assert isinstance(codes, np.ndarray)
    assert codes.shape == (13, 8) and len(np.unique(codes, axis=0)) > 5  # a second of sound, and not silence
    assert np.array_equal(codes, record(VoiceFile.read(voiced / "voices" / "ada.wav"), checkpoint.mimi, 8))
    told, gap = layout.frames(tokenizer, "You are Ada."), layout.gap_frames
    frames = layout.frames(tokenizer, "You are Ada.", codes)
    assert np.array_equal(frames[13:], told)
    assert frames[:13, 0].tolist() == [PAD] * 13
    assert np.array_equal(frames[:13, 1:9], codes)
    assert np.unique(frames[:, 9:], axis=0).tolist() == [list(layout.sine)]
    alone = layout.frames(tokenizer, "", codes)
    assert len(alone) == 13 + gap and np.array_equal(alone[13:, 1:9], np.tile(layout.silence, (gap, 1)))


async def test_a_call_may_have_any_voice(voiced: Path, tmp_path: Path) -> None:
    """A recording or a state, beside the weights or elsewhere; each says other things. An unknown one is refused."""
    elsewhere = tmp_path / "mine.pt"
    shutil.copy(voiced / "voices" / "NATF0.pt", elsewhere)
    said, frames = [], []
    async with LocalEngine(str(voiced), rows=1, device="cpu", voices=["ada", str(elsewhere)]) as engine:
        for voice in ("", "ada", "NATF0", str(elsewhere)):
            async with engine.open(Sampling(seed=1)) as slot:
                frames.append(slot.prompt_frames(Prompt("Hi.", voice)))
                await slot.prime(Prompt("Hi.", voice))
                said.append(np.stack([(await slot.step(np.zeros(1920, np.float32))).tokens for _ in range(4)]))
        async with engine.open(Sampling()) as slot:
            with pytest.raises(PromptError, match=f"no voice 'bob' .* there are: NATF0, ada, {elsewhere} "):
                await slot.prime(Prompt(voice="bob"))
            with pytest.raises(PromptError, match=r"the prompt takes \d+ frames and 480 are to be kept"):
                await slot.prime(Prompt("Hi.", "NATF0"), keep_frames=480)
    assert [more - frames[0] for more in frames] == [0, 13, 9, 9]
    assert np.array_equal(said[2], said[3])
    assert not any(np.array_equal(said[one], said[other]) for one, other in ((0, 1), (0, 2), (1, 2)))


@pytest.mark.parametrize("chunk", [4, 64])
@pytest.mark.parametrize("text", ["", "Hi."])
def test_a_row_with_a_states_voice_is_as_one_that_was_told_its_frames(voiced: Path, chunk: int, text: str) -> None:
    """Primed at once, and anew beside its steps."""
    checkpoint = load_checkpoint(str(voiced))
    state, layout = checkpoint.voices["NATF0"], checkpoint.layout
    assert isinstance(state, VoiceState)
    frames = layout.frames(checkpoint.tokenizer, text, told(state, 8)[0])
    batch, greedy = Batch(checkpoint, 2), Sampling(text_temperature=0, audio_temperature=0)
    batch.primer.chunk_columns = chunk
    for row, (whole, voice) in enumerate([(np.concatenate((SPOKEN, frames)), None), (frames, state)]):
        batch.open(row, no_log())
        for one in batch.plan(row, whole, 0, greedy, voice):
            batch.prefill(one)
    assert batch.state.kv.position.tolist() == [1 + len(SPOKEN) + len(frames)] * 2
    assert same(talk(batch, 0, noise(4), greedy), talk(batch, 1, noise(4), greedy))
    for _ in batch.renew(1, frames, 4, greedy, state):
        pass
    assert same(talk(batch, 0, noise(4), greedy), talk(batch, 1, noise(4), greedy))


def test_a_path_that_leads_nowhere_is_told_at_the_start(voiced: Path) -> None:
    with pytest.raises(CheckpointError, match=r"the voice '/nowhere/x\.wav' cannot be read: No such file"):
        load_checkpoint(str(voiced), voices=["/nowhere/x.wav"])
