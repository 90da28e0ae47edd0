"""The ear at work, a frame at a time, alone or beside a talking row."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import torch

from engine.batch import Batch, RowStep
from engine.ear import Ear
from engine.model.checkpoint import Checkpoint
from engine.model.listening import EarCheckpoint
from engine.model.text import TextReader
from engine.pocket.recipe.formats import Audio, whole_frames
from engine.slot import FRAME_SAMPLES, Sampling

TAIL_FRAMES = 32
"""Silence after what is said, in which its last words are written."""

ROWS = 32

WARM_FRAMES = 10
"""The first of a measurement, which are slower."""


@torch.inference_mode()
def write_down(checkpoint: Checkpoint, sounds: Sequence[Audio]) -> list[str]:
    """What the ear writes of each sound."""
    written: list[str] = []
    for first in range(0, len(sounds), ROWS):
        some = [whole_frames(sound) for sound in sounds[first : first + ROWS]]
        frames = max(len(sound) for sound in some) // FRAME_SAMPLES + TAIL_FRAMES
        audio = np.zeros((len(some), 1, frames * FRAME_SAMPLES), np.float32)
        for row, sound in enumerate(some):
            audio[row, 0, : len(sound)] = sound
        ear, state = Ear(_beside(checkpoint, checkpoint), len(some)), checkpoint.mimi.initial_state(len(some))
        readers = [TextReader(checkpoint.tokenizer) for _ in some]
        texts = [""] * len(some)
        for frame in torch.split(torch.from_numpy(audio), FRAME_SAMPLES, 2):
            tokens = ear.hear(checkpoint.mimi.encode(frame, state, None)[:, :, 0], None)[0].tolist()
            texts = [text + reader.read(token) for text, reader, token in zip(texts, readers, tokens, strict=True)]
        written += [" ".join(text.split()) for text in texts]
    return written


@torch.inference_mode()
def frame_times_ms(checkpoint: Checkpoint, ear: Checkpoint | None, frames: int) -> list[tuple[float, float]]:
    """What each frame of one call takes, talking and, if there is an ear, writing down: of this thread's processor,
    and by the clock, which other work on the machine makes longer."""
    batch = Batch(checkpoint, 1, _beside(ear, checkpoint) if ear else None)
    sampling, random = Sampling(0.0, 25, 0.0, 25), np.random.default_rng(0)
    batch.open(0, np.zeros((0, batch.streams), np.uint16))
    for chunk in batch.plan(0, batch.layout.frames(batch.tokenizer, "You are Emma."), 0, sampling):
        batch.prefill(chunk)
    times = []
    for _ in range(frames):
        frame = random.normal(0, 0.05, FRAME_SAMPLES).astype(np.float32)
        began = time.thread_time(), time.perf_counter()
        batch.step([RowStep(0, frame, None, sampling)])
        times.append((1000 * (time.thread_time() - began[0]), 1000 * (time.perf_counter() - began[1])))
    return times[WARM_FRAMES:]


def _beside(ear: Checkpoint, talking: Checkpoint) -> EarCheckpoint:
    """An ear that was loaded as a checkpoint of its own, over the codec of another."""
    return EarCheckpoint(ear.moshi, ear.tokenizer, talking.mimi, 0, ear.revision)
