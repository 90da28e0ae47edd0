"""The agent's voice, told before its prompt: from a recording, or as PersonaPlex's `.pt` files hold it.

A recording becomes frames: the agent's streams hold its codes, the text PAD, the caller's a tone (`PromptLayout`).

A `.pt` file holds a voice of n of the reference's frames, of which the first is never read; so it is n - 1 of ours:

    {"embeddings": [n - 1, 1, 1, dim], "cache": [1, K, 4]}

`embeddings` are the summed input vectors of columns 0 to n - 2. `cache` is the reference's ring of four columns, column
c in slot c mod 4: all of column n - 1, and of column n what is delayed by a frame. It is a pickle, from anywhere: only
tensors and numbers are unpickled, and nothing else may lie in it.
"""

from __future__ import annotations

import io
import math
import wave
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.model.mimi import Mimi
from engine.model.moshi_config import UNGENERATED, MoshiConfig
from engine.model.source import RECORDING, VoiceFile
from engine.slot import FRAME_SAMPLES, SAMPLE_RATE, CheckpointError

Audio: TypeAlias = NDArray[np.float32]

RING = 4
"""Columns in a `.pt` file's cache: the reference's greatest delay and three more."""

LOUDNESS = -24.0
"""LUFS that a recording is brought to, as the weights' were."""

MOST_SECONDS = 60.0
"""Of a recording: more takes too much of the window, and a voice is known after ten."""


@dataclass(frozen=True, slots=True)
class VoiceState:
    """A voice as the first columns of a call. The first `len(vectors)` are known as vectors only."""

    vectors: Tensor  # [n - 1, dim]
    last: Tensor  # [K] int64, column n - 1
    after: Tensor  # [K] int64, column n; UNGENERATED where its streams are not delayed

    def columns(self, config: MoshiConfig, frames: Tensor) -> Tensor:
        """What follows the vectors, with a prompt's frames [T, K] behind the voice: columns [1 + T + D, K]."""
        columns = config.columns(frames)
        columns[0] = self.last
        columns[1] = torch.where(self.after == UNGENERATED, columns[1], self.after)
        return columns


Voice: TypeAlias = NDArray[np.int64] | VoiceState
"""The agent's codes [n, agent] of a recording, or a state."""

Voices: TypeAlias = Mapping[str, Voice]
"""By name."""


def length_of(voice: VoiceState | None) -> int:
    """How many columns it puts before a prompt's frames."""
    return 0 if voice is None else len(voice.vectors)


def told(voice: Voice | None, agent: int) -> tuple[NDArray[np.int64] | None, VoiceState | None]:
    """What of a voice is laid out with the prompt, as codes [n, agent], and what comes before all that."""
    if isinstance(voice, VoiceState):
        return np.zeros((0, agent), np.int64), voice
    return voice, None


def read_voice(file: VoiceFile, mimi: Mimi, config: MoshiConfig) -> Voice:
    """A file of either kind, for a model of these sizes. Raises CheckpointError."""
    return record(file, mimi, config.dep_q) if file.kind == RECORDING else read_state(file, config)


def read_state(file: VoiceFile, config: MoshiConfig) -> VoiceState:
    """A `.pt` file, for a model of these sizes. Raises CheckpointError that says what in it is wrong."""

    def wrong(what: str) -> CheckpointError:
        return CheckpointError(f"the voice {file.place!r} {what}")

    try:
        held = torch.load(io.BytesIO(file.content), map_location="cpu", weights_only=True)
    except Exception as error:  # of anyone's bytes, unpickling makes any kind of error
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise wrong(f"cannot be read, or holds more than tensors: {reason}") from None
    if not isinstance(held, dict) or held.keys() != {"embeddings", "cache"}:
        raise wrong("must hold two tensors, 'embeddings' and 'cache'")
    vectors, cache = held["embeddings"], held["cache"]
    if not (isinstance(vectors, Tensor) and isinstance(cache, Tensor)):
        raise wrong("must hold two tensors, 'embeddings' and 'cache'")
    if vectors.ndim != 4 or vectors.shape[1:] != (1, 1, config.dim) or not vectors.is_floating_point():
        raise wrong(
            f"has embeddings {list(vectors.shape)}, {vectors.dtype}; they must be [n, 1, 1, {config.dim}], floats"
        )
    if not 1 <= len(vectors) < config.context:
        raise wrong(f"is {len(vectors)} columns long; the window has {config.context}")
    if not vectors.isfinite().all():
        raise wrong("has embeddings that are no numbers")
    if cache.shape != (1, config.streams, RING) or cache.is_floating_point() or cache.is_complex():
        raise wrong(
            f"has a cache {list(cache.shape)}, {cache.dtype}; it must be [1, {config.streams}, {RING}], integers"
        )
    if config.delay != 1:
        raise wrong(f"is of a model that delays some streams by one frame; this one's longest delay is {config.delay}")
    last, after = (cache[0, :, column % RING].long() for column in (len(vectors), len(vectors) + 1))
    delayed, initial = torch.tensor(config.delays) > 0, torch.tensor(config.initial)
    for tokens in (last, after[delayed]):
        if (tokens < 0).any() or (tokens > (initial if tokens is last else initial[delayed])).any():
            raise wrong("has a cache with tokens that this model does not have")
    return VoiceState(vectors[:, 0, 0], last, torch.where(delayed, after, UNGENERATED))


# --- recordings ----------------------------------------------------------------------------------------------------


def record(file: VoiceFile, mimi: Mimi, streams: int) -> NDArray[np.int64]:
    """The codes [n, streams] of a WAV file: mono, 24 kHz, at LOUDNESS. Raises CheckpointError if it is none."""
    sound = at_loudness(read_wave(file), LOUDNESS)
    sound = np.pad(sound, (0, -len(sound) % FRAME_SAMPLES))
    state = mimi.initial_state(1)
    frames = torch.from_numpy(sound).to(state.encoder.fresh.device).view(-1, 1, 1, FRAME_SAMPLES)
    codes = [mimi.encode(frame, state, None)[0, :streams, 0] for frame in frames]
    return torch.stack(codes).cpu().numpy()


def read_wave(file: VoiceFile) -> Audio:
    """A PCM WAV file as mono at 24 kHz, in [-1, 1]. Raises CheckpointError."""
    try:
        with wave.open(io.BytesIO(file.content), "rb") as sound:
            rate, width, channels = sound.getframerate(), sound.getsampwidth(), sound.getnchannels()
            raw = sound.readframes(math.ceil(MOST_SECONDS * rate) + 1)
    except (EOFError, wave.Error) as error:
        raise CheckpointError(
            f"the voice {file.place!r} is no PCM WAV file: {str(error) or 'it ends too early'}"
        ) from None
    samples = _samples(raw, width)
    samples = samples[: len(samples) // channels * channels].reshape(-1, channels).mean(1)
    if not 0 < len(samples) <= MOST_SECONDS * rate:
        raise CheckpointError(f"the voice {file.place!r} must last up to {MOST_SECONDS:g} s, and not be empty")
    return resampled(samples, rate)


def _samples(raw: bytes, width: int) -> NDArray[np.float64]:
    """Little-endian PCM of 1 (unsigned), 2, 3 or 4 bytes, in [-1, 1)."""
    octets = np.frombuffer(raw[: len(raw) // width * width], np.uint8).reshape(-1, width)
    if width == 1:
        return octets[:, 0] / 128.0 - 1
    wide = np.zeros((len(octets), 4), np.uint8)
    wide[:, 4 - width :] = octets
    return wide.view("<i4")[:, 0] / 2.0**31


def resampled(samples: NDArray[np.float64], rate: int) -> Audio:
    """At 24 kHz: its spectrum cut or filled up with zeros. Silence behind it keeps its end out of its beginning."""
    wanted = round(len(samples) * SAMPLE_RATE / rate)
    padded = len(samples) + rate  # a second, so that both lengths hold whole samples
    target = wanted + SAMPLE_RATE
    spectrum = np.fft.rfft(samples, padded)
    fitted = np.zeros(target // 2 + 1, complex)
    kept = min(len(spectrum), len(fitted))
    fitted[:kept] = spectrum[:kept]
    return (np.fft.irfft(fitted, target)[:wanted] * (target / padded)).astype(np.float32)


def at_loudness(sound: Audio, loudness: float) -> Audio:
    """Scaled to `loudness` LUFS; what is silent stays so."""
    level = loudness_of(sound)
    return sound if level == -math.inf else (sound * 10 ** ((loudness - level) / 20)).astype(np.float32)


def loudness_of(sound: Audio) -> float:
    """Integrated loudness in LUFS of mono at 24 kHz (ITU-R BS.1770-4); minus infinity for silence.

    The two filters are designed for 24 kHz from the analogue values behind the standard's table for 48 kHz.
    """
    size = len(sound) + SAMPLE_RATE  # the filters' tails have died away after a second
    z = np.exp(-2j * np.pi * np.fft.rfftfreq(size))
    weighed = np.fft.irfft(np.fft.rfft(sound, size) * _shelf(z) * _high_pass(z), size)[: len(sound)]
    block, hop = round(0.4 * SAMPLE_RATE), round(0.1 * SAMPLE_RATE)
    weighed = np.pad(weighed, (0, max(0, block - len(weighed))))
    powers = np.array([np.mean(weighed[at : at + block] ** 2) for at in range(0, len(weighed) - block + 1, hop)])
    heard = powers[powers > _power(-70)]
    if not len(heard):
        return -math.inf
    return _lufs(float(heard[heard > _power(_lufs(float(heard.mean())) - 10)].mean()))


def _lufs(power: float) -> float:
    return -0.691 + 10 * math.log10(power)


def _power(lufs: float) -> float:
    return float(10 ** ((lufs + 0.691) / 10))


def _shelf(z: NDArray[np.complex128]) -> NDArray[np.complex128]:
    """The head's: +4 dB above 1.7 kHz."""
    k, q, high = math.tan(math.pi * 1681.974450955533 / SAMPLE_RATE), 0.7071752369554196, 10 ** (3.999843853973347 / 20)
    band = high**0.4996667741545416
    above = high + band * k / q + k * k, 2 * (k * k - high), high - band * k / q + k * k
    below = 1 + k / q + k * k, 2 * (k * k - 1), 1 - k / q + k * k
    lifted: NDArray[np.complex128] = above[0] + above[1] * z + above[2] * z**2
    return lifted / (below[0] + below[1] * z + below[2] * z**2)


def _high_pass(z: NDArray[np.complex128]) -> NDArray[np.complex128]:
    """Above 38 Hz."""
    k, q = math.tan(math.pi * 38.13547087602444 / SAMPLE_RATE), 0.5003270373238773
    scale = 1 + k / q + k * k
    return (1 - z) ** 2 / (1 + 2 * (k * k - 1) / scale * z + (1 - k / q + k * k) / scale * z**2)
