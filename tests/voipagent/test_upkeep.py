"""upkeep.py: a row is primed in time, trimmed where there is a memory, and helped where it is stuck."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
import pytest

from engine.slot import FRAME_SAMPLES, EngineError, Frame, PromptError, Reply
from media.leg import Exchange
from tests.voipagent.test_trim import Row
from voipagent.events import Trimmed, Troubled
from voipagent.persona import Persona
from voipagent.record import CallRecord
from voipagent.story import tell_all
from voipagent.summary import Extractive
from voipagent.trim import Memory
from voipagent.upkeep import Upkeep
from voipagent.watchdog import FRAME_S, WatchdogSettings

SPEECH = (0.1 * np.sin(np.arange(FRAME_SAMPLES))).astype(np.float32)
SILENCE = np.zeros(FRAME_SAMPLES, np.float32)
ECHO = 0.4 * SPEECH
PERSONA = Persona(prompt="You are Ada.", voice="alto")
MEMORY = Memory(tell=tell_all, summarizer=Extractive())


class Kept:
    """A row, and a conversation that only counts its frames."""

    def __init__(self, memory: Memory | None = None, *, ear: str = "") -> None:
        self.row = Row()
        self.row.deaf = "" if ear else self.row.deaf
        self.record = CallRecord("id", "sip", "alice", "agent", "192.0.2.7:5060", "before")
        self.told: list[Trimmed | Troubled] = []
        self.frames = 0
        settings = WatchdogSettings(dead_air=4, runaway=0, loops=False)
        self.upkeep = Upkeep(
            self.row,
            PERSONA,
            self.record,
            memory,
            settings,
            lambda: (),
            lambda: self.frames * FRAME_S,
            self.told.append,
        )

    async def goes_on(
        self, seconds: float, text: str = "", *, sound: Frame = SILENCE, heard: str = "", played: Frame = SILENCE
    ) -> None:
        for _ in range(round(seconds / FRAME_S)):
            reply = Reply(sound, text, heard, np.zeros(17, np.uint16), self.frames, 0.0, 0.0)
            self.frames += 1
            self.upkeep.stepped(Exchange(sound, played), reply)
            for _ in range(8):  # whoever is ready, and who is woken by them
                await asyncio.sleep(0)

    @asynccontextmanager
    async def upkept(self) -> AsyncIterator[None]:
        """Primed, and kept up meanwhile."""
        await self.upkeep.prime()
        task = asyncio.create_task(self.upkeep.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])


async def test_the_row_is_told_who_it_is_and_the_record_how_long_that_took() -> None:
    kept = Kept()
    await kept.upkeep.prime()
    assert kept.row.primes == [(PERSONA.engine_prompt(), 0)]
    assert kept.record.prime_s is not None and 0 <= kept.record.prime_s < 5


async def test_a_prime_that_takes_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("voipagent.upkeep.PRIME_S", 0.02)
    kept = Kept(MEMORY)
    kept.row.busy = asyncio.Event()
    with pytest.raises(EngineError, match="priming took longer than 0.02 s"):
        await kept.upkeep.prime()
    assert kept.record.prime_s is None and kept.upkeep.trims == ()


async def test_a_prompt_that_is_refused_is_for_the_session_to_hear_of() -> None:
    kept = Kept(MEMORY)
    kept.row.refuse = [PromptError("the prompt is too long")]
    with pytest.raises(PromptError, match="too long"):
        await kept.upkeep.prime()


@pytest.mark.parametrize("pinned", [None, True], ids=["no memory", "pinned"])
async def test_a_row_that_is_not_trimmed_is_left_alone(pinned: bool | None) -> None:
    kept = Kept(Memory(pinned=True) if pinned else None)
    await kept.upkeep.prime()
    async with asyncio.timeout(5):
        await kept.upkeep.run()
    await kept.goes_on(60, "word")
    [(prompt, _)] = kept.row.primes
    assert prompt.pinned is bool(pinned)
    assert kept.upkeep.trims == () and kept.told == []


async def test_a_row_whose_window_fills_is_trimmed_and_that_is_told() -> None:
    kept = Kept(MEMORY)
    async with kept.upkept():
        await kept.goes_on(2 * kept.row.window_frames * FRAME_S)
    assert len(kept.row.primes) - 1 == len(kept.upkeep.trims) == len(kept.told) >= 1
    assert all(isinstance(event, Trimmed) for event in kept.told)


@pytest.mark.parametrize("memory", [None, MEMORY], ids=["told alone", "primed anew"])
async def test_a_row_that_is_stuck_is_noted_and_with_a_memory_primed_anew(memory: Memory | None) -> None:
    kept = Kept(memory)
    async with kept.upkept():
        await kept.goes_on(1, sound=SPEECH)
        await kept.goes_on(6)
    [noted] = kept.record.troubles
    assert noted == {"at": pytest.approx(5, abs=0.2), "trouble": "dead air"}
    assert kept.told[0] == Troubled(noted["at"], "dead air")
    assert [trim.why for trim in kept.upkeep.trims] == (["dead air"] if memory else [])
    assert len(kept.row.primes) == (2 if memory else 1)


async def test_what_an_ear_wrote_counts_and_not_the_sound() -> None:
    kept = Kept(ear="test")
    await kept.upkeep.prime()
    await kept.goes_on(6, sound=SPEECH)
    await kept.goes_on(6)
    assert kept.record.troubles == []
    for piece in (" are", "", "", " you", "", " there"):  # an ear writes a piece in one frame, and none in the next
        await kept.goes_on(FRAME_S, heard=piece)
    await kept.goes_on(6)
    assert [noted["trouble"] for noted in kept.record.troubles] == ["dead air"]


async def test_our_own_echo_asks_for_nothing() -> None:
    """It comes back for half a second after the last word."""
    kept = Kept()
    await kept.upkeep.prime()
    await kept.goes_on(1, " hello", played=SPEECH)
    await kept.goes_on(0.48, sound=ECHO)
    await kept.goes_on(6)
    assert kept.record.troubles == []
