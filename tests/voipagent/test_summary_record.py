"""A summariser that is slow, fails, talks nonsense or never ends costs a call nothing; the record says what it did."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from engine.echo import EchoEngine
from engine.slot import Sampling
from tests.fakes import SILENCE
from tests.voipagent.longcall import hold_call
from tests.voipagent.test_summary import Answer, completion, endpoint, for_ever, never, whole
from voipagent.context import Line
from voipagent.persona import Persona
from voipagent.recording import Recorder
from voipagent.story import Story, tell_all
from voipagent.summary import Summarizer
from voipagent.trim import Memory
from voipagent.window import Shares

SHARES = Shares(due=0.03, hard=0.04, keep=0.005, prompt=0.02)
"""Of the echo's 3,000 frames: a trim is due after 90, and begun at the latest after 113."""


class Watched:
    """A summariser of which one can see that it is done."""

    def __init__(self, summarizer: Summarizer) -> None:
        self.done = asyncio.Event()
        self._summarizer = summarizer

    async def summarize(self, last: Story, lines: Sequence[Line]) -> Story:
        try:
            return await self._summarizer.summarize(last, lines)
        finally:
            self.done.set()


@pytest.mark.parametrize(
    ("answer", "timeout_s", "error"),
    [
        (whole(completion("She wants a room.")), 20.0, ""),
        (whole(b"oops", "503 Service Unavailable"), 20.0, "the summariser answered 503 Service Unavailable"),
        (whole(b"<html>"), 20.0, "the summariser's answer is no chat completion"),
        (whole(completion("x" * 100_000)), 20.0, "the summariser's answer is longer than 65536 bytes"),
        (for_ever, 20.0, "the summariser's answer is longer than 65536 bytes"),
        (never, 0.2, "the summariser did not answer within 0.2 s"),
        (never, None, "the summary was not there in time"),
    ],
    ids=["well", "failing", "garbage", "100 kB", "without end", "slow", "slower than the call"],
)
async def test_the_call_goes_on_and_its_record_says_what_happened(
    recorder: Recorder, tmp_path: Path, answer: Answer, timeout_s: float | None, error: str
) -> None:
    """The caller is as patient as the summariser's time-out, if it has one."""
    persona = Persona(prompt="You are Ada.", greeting="Thank you, Maria.")
    async with (
        asyncio.timeout(60),
        endpoint(answer, timeout_s or 60.0) as (summarizer, asked),
        EchoEngine(rows=1) as engine,
        engine.open(Sampling()) as slot,
    ):
        watched = Watched(summarizer)

        async def before(number: int) -> None:
            if number == 100 and timeout_s:
                await watched.done.wait()
            if number == 115 and not timeout_s:
                while not asked:  # it is asked, but the call does not wait for it
                    await asyncio.sleep(0.001)
            await asyncio.sleep(0)

        memory = Memory(SHARES, tell_all, watched)
        left = await hold_call(
            slot, recorder, tmp_path, [SILENCE] * 130, memory, persona, before=before, channels="both"
        )
    first, *_ = left["trims"]
    assert (first["error"], left["ended_by"], left["frames_stepped"]) == (error, "caller", 130)
    assert "The caller's name is Maria." in first["summary"]
    assert ("She wants a room." in first["summary"]) == (not error)
