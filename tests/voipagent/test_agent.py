"""Admission: a row before anything else, and a reason where there is none."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from engine.echo import EchoEngine, EchoSlot
from engine.slot import EngineState, Sampling
from media.leg import Leg, Pcm
from signaling.call import CallEnded, CallOffer, Rejection
from tests.fakes import SILENCE, FakeCall, FakeLeg, FakeSource, offer
from voipagent.agent import Agent
from voipagent.calls import CallsSettings
from voipagent.context import Line
from voipagent.events import Event, Refused
from voipagent.persona import Persona, Personas
from voipagent.recording import Recorder
from voipagent.story import Story
from voipagent.trim import Memory


class BuggyLeg(FakeLeg):
    def play(self, pcm: Pcm) -> None:
        raise ZeroDivisionError


def fake_leg(offer: CallOffer) -> Leg:
    leg = BuggyLeg() if offer.media == "buggy" else FakeLeg()
    leg.hear(*[SILENCE] * 3)
    return leg


@asynccontextmanager
async def running(
    recorder: Recorder, tmp_path: Path, engine: EchoEngine, seed: int | None = None, memory: Memory | None = None
) -> AsyncIterator[tuple[Agent, FakeSource]]:
    source = FakeSource()
    async with engine:
        agent = Agent(engine, fake_leg, Personas(), recorder, CallsSettings(dir=tmp_path), seed, memory)
        task = asyncio.create_task(agent.run(source))
        yield agent, source
        task.cancel()
        await asyncio.wait([task])


async def ring(source: FakeSource, call_id: str = "c", media: str = "offer") -> FakeCall:
    call = FakeCall(offer(media, call_id))
    source.queue.put_nowait(call)
    return call


async def accepted(call: FakeCall) -> None:
    async with asyncio.timeout(5):
        await call.accepted.wait()


async def freed(engine: EchoEngine, rows: int) -> None:
    """Wait until so many rows are free: a session gives its row back last of all."""
    async with asyncio.timeout(5):
        while engine.free != rows:
            await asyncio.sleep(0.001)


async def ended(call: FakeCall) -> CallEnded:
    async with asyncio.timeout(5):
        return await call.wait_ended()


async def test_the_record_has_the_trunk(recorder: Recorder, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with running(recorder, tmp_path, EchoEngine(rows=1)) as (_, source):
        call = FakeCall(replace(offer(), trunk="acme"))
        source.queue.put_nowait(call)
        await accepted(call)
        await call.hang_up()
        await ended(call)
    assert "call to agent from 192.0.2.7:5060 by trunk acme" in caplog.text
    (record,) = tmp_path.glob("*/call.json")
    assert json.loads(record.read_text())["trunk"] == "acme"


async def test_calls_beyond_the_rows_are_busy_and_a_freed_row_is_used_again(recorder: Recorder, tmp_path: Path) -> None:
    engine, told = EchoEngine(rows=2), list[tuple[str, Event]]()
    async with running(recorder, tmp_path, engine) as (agent, source):
        agent.observers.append(lambda call_id, event: told.append((call_id, event)))
        first, second = await ring(source, "1"), await ring(source, "2")
        await accepted(first)
        await accepted(second)
        third = await ring(source, "3")
        await ended(third)
        assert third.log == [("reject", Rejection.BUSY)]
        assert [event for call_id, event in told if call_id == "3"] == [Refused("sip", "", "busy")]
        first.end()
        await freed(engine, 1)
        await accepted(await ring(source, "4"))


class Slow:
    """Sums up once it may."""

    def __init__(self) -> None:
        self.asked, self.may = asyncio.Event(), asyncio.Event()

    async def summarize(self, last: Story, lines: Sequence[Line]) -> Story:
        self.asked.set()
        await self.may.wait()
        return Story({}, "They said nothing.")


async def test_no_row_waits_for_a_summary(recorder: Recorder, tmp_path: Path) -> None:
    engine, slow = EchoEngine(rows=1), Slow()
    async with running(recorder, tmp_path, engine, memory=Memory(summarizer=slow)) as (agent, source):
        agent.personas = Personas(Persona(greeting="Hello there."))
        call = await ring(source)
        await accepted(call)
        async with asyncio.timeout(10):
            while agent.sessions["c"].record.frames_stepped < 3:
                await asyncio.sleep(0.001)
            call.end()
            await slow.asked.wait()
        assert engine.free == 1
        slow.may.set()
        (record,) = tmp_path.glob("*/call.json")
        async with asyncio.timeout(10):
            while json.loads(record.read_text())["summary"] != "They said nothing.":
                await asyncio.sleep(0.001)


async def test_who_called_is_in_the_record_and_not_in_the_log(
    recorder: Recorder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        async with running(recorder, tmp_path, EchoEngine(rows=1)) as (_, source):
            await accepted(await ring(source))
    assert "call to agent from 192.0.2.7:5060" in caplog.text
    assert "alice" not in caplog.text
    (path,) = tmp_path.glob("*/call.json")
    assert json.loads(path.read_text())["caller"] == "alice"


async def test_a_refused_call_leaves_no_folder(recorder: Recorder, tmp_path: Path) -> None:
    async with running(recorder, tmp_path, EchoEngine(rows=1)) as (agent, source):
        agent.draining = True
        call = await ring(source)
        await ended(call)
        assert call.log == [("reject", Rejection.OVERLOADED)]
        assert not agent.ready
    assert list(tmp_path.iterdir()) == []


async def test_ready_follows_the_engine(recorder: Recorder, tmp_path: Path) -> None:
    engine = EchoEngine(rows=1)
    async with running(recorder, tmp_path, engine) as (agent, _):
        assert agent.ready
    assert engine.state is not EngineState.READY
    assert not agent.ready


async def test_the_source_takes_calls_while_the_agent_does(recorder: Recorder, tmp_path: Path) -> None:
    """Keep-alive probes are answered by it: a dispatcher in front must see what `/readyz` shows."""
    engine = EchoEngine(rows=1)
    async with running(recorder, tmp_path, engine) as (agent, source):
        await accepted(await ring(source))
        assert source.available()
        engine.state = EngineState.FAILED
        assert not source.available()
        engine.state = EngineState.READY
        agent.draining = True
        assert not source.available()


async def test_it_takes_no_more_calls_while_records_are_closed(recorder: Recorder, tmp_path: Path) -> None:
    source, leg = FakeSource(), FakeLeg()
    closing, close = asyncio.Event(), asyncio.Event()

    async def slow_close() -> None:
        closing.set()
        await close.wait()

    leg.close = slow_close  # type: ignore[method-assign]  # as slow as a full disk
    leg.hear(SILENCE)
    async with asyncio.timeout(5), EchoEngine(rows=1) as engine:
        agent = Agent(engine, lambda offer: leg, Personas(), recorder, CallsSettings(dir=tmp_path))
        task = asyncio.create_task(agent.run(source))
        await accepted(await ring(source))
        task.cancel()
        await closing.wait()
        assert engine.state is EngineState.READY
        assert not source.available()
        close.set()
        await asyncio.wait([task])


async def test_a_bug_in_one_session_leaves_the_others(
    recorder: Recorder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine = EchoEngine(rows=2)
    async with running(recorder, tmp_path, engine) as (_, source):
        good = await ring(source, "good")
        await accepted(good)
        with caplog.at_level(logging.ERROR):
            bad = await ring(source, "bad", media="buggy")
            assert (await ended(bad)).reason == "the session failed"
            await freed(engine, 1)
        assert not any(entry == ("hang_up", "the session failed") for entry in good.log)
        assert "ZeroDivisionError" in caplog.text
        await accepted(await ring(source, "next"))


async def test_the_weights_say_how_a_call_is_drawn(
    recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, opened = EchoEngine(rows=1), list[Sampling]()
    engine_open = engine.open
    monkeypatch.setattr(engine, "sampling", Sampling(text_temperature=0, audio_temperature=0))

    def noting(sampling: Sampling) -> AbstractAsyncContextManager[EchoSlot]:
        opened.append(sampling)
        return engine_open(sampling)

    monkeypatch.setattr(engine, "open", noting)
    async with running(recorder, tmp_path, engine, seed=7) as (_, source):
        await accepted(await ring(source))
    assert opened == [Sampling(text_temperature=0, audio_temperature=0, seed=7)]


async def test_the_seed_is_the_operators_or_new_for_each_call(recorder: Recorder, tmp_path: Path) -> None:
    async def seeds(folder: Path, seed: int | None) -> set[int]:
        folder.mkdir()
        async with running(recorder, folder, EchoEngine(rows=3), seed) as (_, source):
            for number in range(3):
                await accepted(await ring(source, str(number)))
        return {json.loads(path.read_text())["seed"] for path in folder.glob("*/call.json")}

    assert await seeds(tmp_path / "set", 7) == {7}
    assert len(await seeds(tmp_path / "new", None)) == 3


async def test_stopping_hangs_up_every_call_and_closes_every_record(recorder: Recorder, tmp_path: Path) -> None:
    async with running(recorder, tmp_path, EchoEngine(rows=3)) as (_, source):
        calls = [await ring(source, str(number)) for number in range(3)]
        for call in calls:
            await accepted(call)
    assert [call.log[-1] for call in calls] == [("hang_up", "the agent is shutting down")] * 3
    assert len(list(tmp_path.glob("*/call.json"))) == 3
