"""The engine on a CUDA device: graphs of every width, kernels for packed weights, and the words it says on a CPU."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from engine.admission import row_counts
from engine.batch import Batch, KeyPrecision, RowStep
from engine.load import load_batch
from engine.local import LocalEngine
from engine.model.text import TextReader
from engine.model.weights import Wanted
from engine.pocket import FOLDER
from engine.pocket.prompt import render
from engine.slot import FRAME_SAMPLES, Pause, Prompt, Sampling
from tests.engine.rows import no_log

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

ROWS = 5
PERSONA = "You are Emma from Blue Harbor."
GREETED = 60
SILENCE = np.zeros(FRAME_SAMPLES, np.float32)


def greetings(batch: Batch, rows: Sequence[int], frames: int = GREETED) -> list[str]:
    """What each of these rows says to silence."""
    for row in rows:
        batch.open(row, no_log(batch.streams))
        for chunk in batch.plan(row, batch.layout.frames(batch.tokenizer, render(PERSONA)), 0, batch.sampling):
            batch.prefill(chunk)
    readers, said = [TextReader(batch.tokenizer) for _ in rows], ["" for _ in rows]
    for _ in range(frames):
        steps = [RowStep(row, SILENCE, None, batch.sampling) for row in rows]
        for place, stepped in enumerate(batch.step(steps)):
            assert not stepped.broken
            said[place] += readers[place].read(stepped.text)
    return [text.strip() for text in said]


@pytest.fixture(scope="module")
def expected() -> str:
    (greeting,) = greetings(load_batch(str(FOLDER), 1, "cpu", "auto"), [0])
    assert "Emma" in greeting
    return greeting


@pytest.mark.parametrize(
    ("weights", "kv"),
    [("auto", "full"), ("bf16", "full"), ("bf16", "int8"), ("fp8", "int8"), ("int8", "int8"), ("int4", "full")],
)
def test_it_greets_as_on_a_cpu_by_graphs(
    weights: Wanted, kv: KeyPrecision, expected: str, caplog: pytest.LogCaptureFixture
) -> None:
    batch = load_batch(str(FOLDER), ROWS, "cuda", "auto", weights=weights, kv=kv)
    assert [record.getMessage() for record in caplog.records] == []
    assert [step.width for step in batch._widths._steps] == row_counts(ROWS)
    assert batch.hearing.rows == ROWS
    said = greetings(batch, range(ROWS))
    if weights != "int4":  # so few bits are for models that have weights to spare
        assert set(said) == {expected}


def test_prompts_can_be_pinned_and_steps_deterministic(expected: str, caplog: pytest.LogCaptureFixture) -> None:
    pinned = load_batch(str(FOLDER), 2, "cuda", "auto", pins=True)
    assert [record.getMessage() for record in caplog.records] == []
    assert greetings(pinned, [1]) == [expected]


async def test_calls_come_are_renewed_and_go(expected: str) -> None:
    async with LocalEngine(str(FOLDER), rows=3, device="cuda") as engine:

        async def call(frames: int) -> str:
            async with engine.open(Sampling(text_temperature=0, audio_temperature=0)) as slot:
                await slot.prime(Prompt(render(PERSONA)))
                replies = [await slot.step(SILENCE) for _ in range(frames)]
                renewing = asyncio.create_task(
                    slot.prime(Prompt(render(PERSONA, {"name": "Maria"})), keep_frames=40, pause=Pause(5, 50))
                )
                while not renewing.done():
                    replies.append(await slot.step(SILENCE))
                await renewing
                replies += [await slot.step(SILENCE) for _ in range(20)]
                assert [reply.number for reply in replies] == list(range(len(replies)))
                assert all(np.isfinite(reply.frame).all() for reply in replies)
                return "".join(reply.text for reply in replies)

        for said in await asyncio.gather(*(call(frames) for frames in (70, 90, 110))):
            assert said.strip().startswith(expected)
        assert engine.free == 3
