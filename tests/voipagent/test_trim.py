"""Trimming beside a conversation: whenever it is due, at a pause if there is one; whatever fails, the call goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import numpy as np
import pytest

from engine.slot import FRAME_SAMPLES, EngineError, EngineFull, Frame, Pause, Prompt, PromptError, Reply, Sampling
from voipagent.context import Line
from voipagent.story import Story, tell_all
from voipagent.summary import Extractive, Summarizer, SummaryError
from voipagent.trim import Memory, Trimmer
from voipagent.window import PAUSE_FRAMES

WINDOW = 200
PERSONA = Prompt("You are Ada.", "alto")


class Row:
    """A Slot of a small window that keeps what it was primed with. `refuse` is raised by the next primes, in order."""

    window_frames = WINDOW
    hearing_delay_frames = 0
    ear, deaf = "", "a stand-in listens to nobody"
    saying = False

    def __init__(self) -> None:
        self.primes: list[tuple[Prompt, int]] = []
        self.refuse: list[Exception] = []
        self.busy: asyncio.Event | None = None
        self.pauses: list[Pause | None] = []

    def prompt_frames(self, prompt: Prompt) -> int:
        return len(prompt.text.split())

    async def prime(self, prompt: Prompt, keep_frames: int = 0, pause: Pause | None = None) -> None:
        self.primes.append((prompt, keep_frames))
        self.pauses.append(pause)
        if self.busy is not None:
            await self.busy.wait()
        if self.refuse:
            raise self.refuse.pop(0)

    async def step(self, frame: Frame) -> Reply:
        raise AssertionError("the conversation steps, not what trims it")

    def say(self, text: str) -> None: ...

    def sample(self, sampling: Sampling) -> None: ...


class Failing:
    async def summarize(self, last: Story, lines: Sequence[Line]) -> Story:
        raise SummaryError("the summariser answered 500")


class Pending:
    """Never answers; tells that it was given up."""

    def __init__(self) -> None:
        self.cancelled = asyncio.Event()

    async def summarize(self, last: Story, lines: Sequence[Line]) -> Story:
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled.set()
        raise AssertionError


class Call:
    """A conversation that only counts frames."""

    def __init__(self, row: Row, summarizer: Summarizer, lines: list[Line]) -> None:
        self.frames, self.lines = 0, lines
        memory = Memory(tell=tell_all, summarizer=summarizer)
        self.trimmer = Trimmer(row, memory, PERSONA, lambda: lines, lambda: self.frames * 0.08)

    async def goes_on(self, frames: int, text: str = "") -> None:
        for _ in range(frames):
            silence = np.zeros(FRAME_SAMPLES, np.float32)
            reply = Reply(silence, text, "", np.zeros(17, np.uint16), self.frames, 0.0, 0.0)
            self.frames += 1
            self.trimmer.stepped(reply, saying=False)
            for _ in range(8):  # whoever is ready, and who is woken by them
                await asyncio.sleep(0)


@asynccontextmanager
async def going(row: Row, summarizer: Summarizer | None = None, *said: str) -> AsyncIterator[Call]:
    lines = [Line("agent", text, float(at), at + 1.0) for at, text in enumerate(said)]
    call = Call(row, summarizer or Extractive(), lines)
    task = asyncio.create_task(call.trimmer.run())
    try:
        yield call
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error


async def test_a_call_of_any_length_is_trimmed_again_and_again_with_persona_and_facts() -> None:
    row = Row()
    async with going(row, None, "Thank you, Maria") as call:
        await call.goes_on(2_000)
    assert len(row.primes) == len(call.trimmer.trims) > 10
    for prompt, keep in row.primes:
        assert prompt.text.startswith("You are Ada. The call so far: The caller's name is Maria.")
        assert (prompt.voice, keep) == ("alto", 50)
    trim = call.trimmer.trims[0]
    assert (trim.why, trim.kept_frames, trim.error) == ("pause", 50, "")
    assert trim.at == pytest.approx(157 * 0.08)
    assert trim.prompt_frames == len(row.primes[0][0].text.split())


async def test_a_trim_begins_in_a_pause_and_ends_in_one() -> None:
    row = Row()
    async with going(row) as call:
        await call.goes_on(165, "word")
        assert row.primes == []
        await call.goes_on(PAUSE_FRAMES - 1)
        assert row.primes == []
        await call.goes_on(1)
        assert row.pauses == [Pause(PAUSE_FRAMES, 190 - 165 - PAUSE_FRAMES - 3)]
    assert [trim.why for trim in call.trimmer.trims] == ["pause"]


async def test_where_no_pause_comes_it_begins_in_time_for_the_hard_limit() -> None:
    row = Row()
    row.busy = asyncio.Event()
    async with going(row) as call:
        await call.goes_on(179, "word")  # and three of the persona: soon is 182.5 of 200
        assert row.primes == []
        await call.goes_on(1, "word")
        assert row.pauses == [Pause(PAUSE_FRAMES, 190 - 183)]
        await call.goes_on(7, "word")
        row.busy.set()
        await call.goes_on(1, "word")
    assert [trim.why for trim in call.trimmer.trims] == ["hard limit"]


async def test_a_row_that_had_to_give_way_is_told_apart() -> None:
    row = Row()
    async with going(row) as call:
        await call.goes_on(181, "word")
    assert [trim.why for trim in call.trimmer.trims] == ["no room"]


async def test_a_summariser_that_fails_costs_neither_persona_nor_facts() -> None:
    row = Row()
    async with going(row, Failing(), "You said three five two") as call:
        await call.goes_on(180)
    assert row.primes[0][0].text.startswith("You are Ada. The call so far: The caller's number is three five two.")
    assert call.trimmer.trims[0].error == "the summariser answered 500"


async def test_a_summariser_that_never_answers_is_given_up_at_the_hard_limit() -> None:
    row, summarizer = Row(), Pending()
    async with going(row, summarizer, "Thank you, Maria") as call:
        await call.goes_on(179)
        assert row.primes == []
        await call.goes_on(2)
        assert "Maria" in row.primes[0][0].text
        assert summarizer.cancelled.is_set()
    assert call.trimmer.trims[0].error == "the summary was not there in time"


@pytest.mark.parametrize("error", [EngineFull("no memory"), PromptError("outgrew its shadow")])
async def test_what_the_engine_refuses_is_told_and_tried_again_later(error: EngineError) -> None:
    row = Row()
    row.refuse = [error]
    async with going(row) as call:
        await call.goes_on(159)
        assert [trim.error for trim in call.trimmer.trims] == [str(error)]
        await call.goes_on(50)
        assert len(row.primes) == 1
        await call.goes_on(20)
        assert [trim.error for trim in call.trimmer.trims] == [str(error), ""]


async def test_an_engine_that_died_is_the_end_of_it() -> None:
    row = Row()
    row.refuse = [EngineError("the thread died")]
    with pytest.raises(EngineError, match="the thread died"):
        async with going(row) as call:
            await call.goes_on(200)


async def test_a_story_that_is_too_long_loses_its_oldest_words() -> None:
    row = Row()
    async with going(row, None, "Thank you, Maria", *[f"word {number}" for number in range(60)]) as call:
        await call.goes_on(180)
    ((prompt, _),) = row.primes
    assert row.prompt_frames(prompt) <= 40
    assert "Maria" in prompt.text
    assert prompt.text.endswith("word 59")


async def test_what_is_said_while_it_is_primed_counts() -> None:
    row = Row()
    row.busy = asyncio.Event()
    async with going(row) as call:
        await call.goes_on(175)
        assert len(row.primes) == 1
        row.busy.set()
        due = 160 - 50 - len(row.primes[0][0].text.split())
        stepped_meanwhile = 175 - 157
        await call.goes_on(due - stepped_meanwhile - 1)
        assert len(row.primes) == 1
        await call.goes_on(1)
        assert len(row.primes) == 2


async def test_a_row_that_is_stuck_is_primed_anew_at_once_without_what_it_said_last() -> None:
    row = Row()
    async with going(row, Pending(), "Thank you, Maria") as call:
        await call.goes_on(20, "word")
        call.trimmer.renew("loop", keep=False)
        await call.goes_on(1, "word")
        ((prompt, keep),) = row.primes
        assert "Maria" in prompt.text
        assert keep == 0
        call.trimmer.renew("dead air", keep=True)
        await call.goes_on(1)
        assert row.primes[1][1] == 50
    assert [(trim.why, trim.error) for trim in call.trimmer.trims] == [("loop", ""), ("dead air", "")]


async def test_a_row_that_is_stuck_waits_for_no_pause() -> None:
    """A trim that is under way is given up for what is wanted now."""
    row = Row()
    row.busy = asyncio.Event()
    async with going(row) as call:
        await call.goes_on(170)
        assert row.pauses == [Pause(PAUSE_FRAMES, 190 - 160)]
        call.trimmer.renew("loop", keep=False)
        await call.goes_on(1)
        assert row.pauses[1:] == [None]
        row.busy.set()
        await call.goes_on(1)
    assert [trim.why for trim in call.trimmer.trims] == ["loop"]


class Once:
    """An endpoint that sums up the first time, and is down from then on."""

    def __init__(self) -> None:
        self.asked = 0

    async def summarize(self, last: Story, lines: Sequence[Line]) -> Story:
        self.asked += 1
        if self.asked > 1:
            raise SummaryError("the summariser is gone")
        return Story({}, "She rang about a bike.")


@pytest.mark.parametrize(
    ("summarizer", "first"), [(None, "Agent: We open at nine."), (Once(), "She rang about a bike.")]
)
async def test_what_was_said_since_the_last_summary_is_not_forgotten(summarizer: Summarizer | None, first: str) -> None:
    """Whether the row is stuck, or nobody sums up any more."""
    row = Row()
    async with going(row, summarizer, "We open at nine.") as call:
        await call.goes_on(180)
        call.lines.append(Line("caller", "Order ninety nine.", 10.0, 12.0))
        call.trimmer.renew("loop", keep=False)
        await call.goes_on(1)
        call.lines.append(Line("caller", "Cancel it.", 13.0, 14.0))
        call.trimmer.renew("loop", keep=False)
        await call.goes_on(1)
    texts = [prompt.text.removeprefix("You are Ada. The call so far: ") for prompt, _ in row.primes]
    assert texts == [
        first,
        f"{first} Caller: Order ninety nine.",
        f"{first} Caller: Order ninety nine. Caller: Cancel it.",
    ]


async def test_a_row_that_is_stuck_waits_for_no_summary() -> None:
    row, summarizer = Row(), Pending()
    async with going(row, summarizer) as call:
        await call.goes_on(165)
        assert row.primes == []
        call.trimmer.renew("loop", keep=False)
        await call.goes_on(2)
        assert [keep for _, keep in row.primes] == [0]
        assert summarizer.cancelled.is_set()


def told(tell: Callable[[str, Story], str]) -> str:
    return tell("You are Ada.", Story({"name": "Maria"}))


def test_memory_by_itself_needs_no_network() -> None:
    memory = Memory()
    assert isinstance(memory.summarizer, Extractive)
    assert "Maria" in told(memory.tell)
