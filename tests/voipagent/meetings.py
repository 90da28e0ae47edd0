"""An agent whose rooms a test's callers go to, with fake legs that say what the test has them say."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from engine.echo import EchoEngine
from media.leg import AudioFormat, Leg, Pcm
from signaling.call import CallEnded, CallOffer
from tests.fakes import FakeCall, FakeLeg, FakeSource, offer
from voipagent.agent import Agent
from voipagent.calls import CallsSettings
from voipagent.persona import NamedPersona, Personas
from voipagent.recording import Recorder
from voipagent.rooms import Rooms
from voipagent.roomsettings import RoomSettings

FORMAT = AudioFormat(24_000, 1_920)
SETTLE = 60
"""Turns of the loop in which whatever was begun is done."""


def block(level: float = 0.0) -> Pcm:
    return np.full(480, level, np.float32)


class Caller:
    """Somebody's call and leg."""

    def __init__(self, call: FakeCall, leg: FakeLeg) -> None:
        self.call, self.leg = call, leg

    @property
    def hears(self) -> float:
        """What it was played last."""
        return float(self.leg.played[-1][-1])

    async def ended(self) -> CallEnded:
        async with asyncio.timeout(5):
            return await self.call.wait_ended()

    async def accepted(self) -> None:
        async with asyncio.timeout(5):
            await self.call.accepted.wait()


class House:
    """The agent, its rooms, and everybody who has called."""

    def __init__(self, engine: EchoEngine, agent: Agent, rooms: Rooms, source: FakeSource, folder: Path) -> None:
        self.engine, self.agent, self.rooms, self.source, self.folder = engine, agent, rooms, source, folder
        self.legs: dict[str, Leg] = {}
        self.callers: list[Caller] = []

    def open_leg(self, call_offer: CallOffer) -> Leg:
        return self.legs[call_offer.id]

    async def call(
        self, callee: str = "standup", caller: str = "ada", leg: FakeLeg | None = None, **more: Any
    ) -> Caller:
        """Somebody calls; what becomes of it is the test's to see."""
        call_id = f"call-{len(self.callers)}"
        call = FakeCall(replace(offer(call_id=call_id), caller=caller, callee=callee, **more))
        self.callers.append(Caller(call, leg or FakeLeg()))
        self.legs[call_id] = self.callers[-1].leg
        self.source.queue.put_nowait(call)
        await settle()
        return self.callers[-1]

    async def say(self, *levels: float, ticks: int = 1) -> None:
        """So loud is each caller who is still there, in the order in which they called."""
        for _ in range(ticks):
            there = [caller for caller in self.callers if not caller.leg.closed]
            for caller, level in zip(there, levels, strict=True):
                caller.leg.hear(block(level))
            await settle()

    def present(self, room: str = "standup") -> tuple[str, ...]:
        return next(state.participants for state in self.rooms.states if state.name == room)

    async def rows_are_free(self, rows: int) -> None:
        """A session gives its row back last of all."""
        async with asyncio.timeout(5):
            while self.engine.free != rows:
                await asyncio.sleep(0.001)

    def records(self) -> list[dict[str, Any]]:
        return [json.loads(path.read_text()) for path in sorted(self.folder.glob("*/call.json"))]


async def settle() -> None:
    for _ in range(SETTLE):
        await asyncio.sleep(0)


@asynccontextmanager
async def meeting_house(
    recorder: Recorder,
    folder: Path,
    rooms: Mapping[str, RoomSettings] | None = None,
    *,
    rows: int = 2,
    delay_frames: int = 0,
    personas: Mapping[str, NamedPersona] | None = None,
    engine: EchoEngine | None = None,
) -> AsyncIterator[House]:
    """`delay_frames`: how late the engine says what it heard; many, and it is silent.

    Without the loop's debugging: a test turns it tens of thousands of times.
    """
    asyncio.get_running_loop().set_debug(False)
    source, engine = FakeSource(), engine or EchoEngine(rows, delay_frames)
    async with engine:
        named = dict(personas or {})
        agent = Agent(
            engine,
            lambda call_offer: house.open_leg(call_offer),
            Personas(named=named),
            recorder,
            CallsSettings(dir=folder),
        )
        configured = {"standup": RoomSettings()} if rooms is None else rooms
        agent.rooms = Rooms(configured, named, FORMAT, lambda call_offer: house.open_leg(call_offer), agent.observers)
        house = House(engine, agent, agent.rooms, source, folder)
        task = asyncio.create_task(agent.run(source, agent.rooms))
        await settle()
        try:
            yield house
        finally:
            task.cancel()
            await asyncio.wait([task])
