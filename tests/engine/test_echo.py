"""The engine that echoes keeps the engine's contract."""

from __future__ import annotations

import numpy as np
import pytest

from engine.echo import EchoEngine, EchoSlot
from engine.slot import FRAME_SAMPLES, Engine, EngineError, EngineFull, EngineState, Frame, Reply, Sampling, Slot


def frame(level: float) -> Frame:
    return np.full(FRAME_SAMPLES, level, np.float32)


async def step_all(slot: EchoSlot, count: int) -> list[Reply]:
    return [await slot.step(frame(number)) for number in range(count)]


def test_it_is_an_engine() -> None:
    engine: Engine = EchoEngine(rows=1)
    slot: Slot = EchoSlot(0, None)
    assert (engine.sample_rate, engine.frame_samples, slot.window_frames) == (24_000, 1_920, 3_000)
    assert slot.hearing_delay_frames == 0


@pytest.mark.parametrize("delay", [0, 3])
async def test_a_frame_comes_back_after_the_delay(delay: int) -> None:
    async with EchoEngine(rows=1, delay_frames=delay) as engine, engine.open(Sampling()) as slot:
        replies = await step_all(slot, 10)
    assert [reply.frame[0] for reply in replies] == [0] * delay + list(range(10 - delay))
    assert [reply.number for reply in replies] == list(range(10))
    assert {reply.heard for reply in replies} == {""}


async def test_what_is_said_is_exactly_the_text_at_a_speakable_pace() -> None:
    text = "Good morning, this is Ada speaking."
    async with EchoEngine(rows=1) as engine, engine.open(Sampling()) as slot:
        slot.say(text)
        assert slot.saying
        replies = await step_all(slot, 60)
        assert not slot.saying
    assert "".join(reply.text for reply in replies) == text
    last = max(reply.number for reply in replies if reply.text)
    assert 10 <= len(text) / (last * 0.08) <= 25


async def test_a_new_text_replaces_the_rest_and_nothing_stops_it() -> None:
    async with EchoEngine(rows=1) as engine, engine.open(Sampling()) as slot:
        slot.say("one two three")
        assert (await slot.step(frame(0))).text == "one"
        slot.say("four")
        assert (await slot.step(frame(0))).text == "four"
        slot.say("five six")
        slot.say("")
        assert not slot.saying
        assert {reply.text for reply in await step_all(slot, 20)} == {""}


async def test_rows_are_given_out_and_taken_back() -> None:
    async with EchoEngine(rows=1) as engine:
        async with engine.open(Sampling()):
            assert engine.free == 0
            with pytest.raises(EngineFull):
                async with engine.open(Sampling()):
                    pass
        assert engine.free == 1


async def test_it_opens_only_while_ready() -> None:
    engine = EchoEngine(rows=1)
    with pytest.raises(EngineError, match="loading"):
        async with engine.open(Sampling()):
            pass
    async with engine:
        assert engine.state is EngineState.READY
    with pytest.raises(EngineError, match="draining"):
        async with engine.open(Sampling()):
            pass
