"""Calls that we make, on fakes: a row before anything rings, the greeting on the answer, and what the record says."""

from __future__ import annotations

import asyncio
import json
import wave
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.echo import EchoEngine, EchoSlot
from engine.slot import FRAME_SAMPLES, EngineError, EngineFull, Prompt, Sampling
from media.leg import LegError, Pcm
from signaling.call import CallOffer, NotAllowed, Outcome, SignalingError
from tests.fakes import SILENCE, FakeLeg, FakeSource
from tests.voipagent.outgoing import FakeDialer, FakeOutgoingCall
from voipagent.agent import Agent
from voipagent.calls import CallsSettings
from voipagent.outbound import UnknownPersona, Wanted, explained
from voipagent.persona import NamedPersona, Persona, Personas
from voipagent.recording import Channels, Recorder
from voipagent.session import FRAME_S, MEASURED_FRAMES

ADA = Persona(prompt="You are Ada.", greeting="Hello, this is Ada.")
PERSONAS = Personas(ADA, {"bob": NamedPersona(name="Bob", prompt="You call {called} for {caller}.")})


class Keys(FakeLeg):
    """A leg with a keypad, that a test may break."""

    def __init__(self, refuse: str = "", mute: bool = False) -> None:
        super().__init__(refuse)
        self.pressed: list[str] = []
        self._mute = mute

    async def send_digits(self, digits: str) -> None:
        if self._mute:
            raise LegError("the far end takes no digits")
        self.pressed.append(digits)


class WatchedEngine(EchoEngine):
    """An engine that tells what its rows are primed with, and may be slow or fail at it."""

    def __init__(self, rows: int = 1, error: EngineError | None = None) -> None:
        super().__init__(rows)
        self.prompts: list[Prompt] = []
        self.may_prime = asyncio.Event()
        self.may_prime.set()
        self.said: list[str] = []
        self.error = error

    @asynccontextmanager
    async def open(self, sampling: Sampling, *rest: Any, **more: Any) -> AsyncIterator[EchoSlot]:
        async with super().open(sampling, *rest, **more) as slot:
            prime, say = slot.prime, slot.say

            async def watched(prompt: Prompt, *rest: Any, **more: Any) -> None:
                await self.may_prime.wait()
                if self.error is not None:
                    raise self.error
                self.prompts.append(prompt)
                await prime(prompt, *rest, **more)

            def heard(text: str) -> None:
                self.said.append(text)
                say(text)

            slot.prime, slot.say = watched, heard  # type: ignore[method-assign]  # a watcher, not another slot
            yield slot


class Stage:
    """An agent that makes calls, on fakes."""

    def __init__(self, agent: Agent, dialer: FakeDialer, engine: WatchedEngine, folder: Path, leg: Keys) -> None:
        self.agent, self.dialer, self.engine, self.folder, self.leg = agent, dialer, engine, folder, leg

    async def place(self, **wanted: str) -> None:
        async with asyncio.timeout(5):
            await self.agent.place(self.dialer, Wanted("+4930", **wanted))

    async def rung(self) -> None:
        async with asyncio.timeout(5):
            await self.dialer.calls[-1].invited.wait()

    async def over(self) -> dict[str, Any]:
        """The record, once the row is free again."""
        async with asyncio.timeout(5):
            while self.engine.free == 0:
                await asyncio.sleep(0.001)
        (path,) = self.folder.glob("*/call.json")
        record: dict[str, Any] = json.loads(path.read_text())
        return record


@asynccontextmanager
async def stage(
    recorder: Recorder,
    tmp_path: Path,
    *,
    dialer: FakeDialer | None = None,
    engine: WatchedEngine | None = None,
    leg: Keys | None = None,
    keep: Channels = "both",
) -> AsyncIterator[Stage]:
    dialer, engine, leg = dialer or FakeDialer(), engine or WatchedEngine(), leg or Keys()
    opened = leg

    def open_leg(offer: CallOffer) -> FakeLeg:
        assert offer.source == ("192.0.2.7", 5060)
        return opened

    async with engine:
        agent = Agent(engine, open_leg, PERSONAS, recorder, CallsSettings(dir=tmp_path, record=keep))
        running = asyncio.create_task(agent.run(FakeSource()))
        await asyncio.sleep(0)
        try:
            yield Stage(agent, dialer, engine, tmp_path, leg)
        finally:
            running.cancel()
            await asyncio.wait([running])


# --- from ringing to the end ---------------------------------------------------------------------------------------


async def test_a_call_that_is_taken(recorder: Recorder, tmp_path: Path) -> None:
    async with stage(recorder, tmp_path) as on:
        await on.place()
        await on.rung()
        (call,) = on.dialer.calls
        assert call.log == [("invite", "our offer")]
        assert on.engine.free == 0
        call.rings.set()
        await call.take()
        assert on.leg.answers == ["their answer"]
        on.leg.hear(*[SILENCE] * 3)
        await on.leg.heard(3)
        call.end("callee", "hung up")
        record = await on.over()
    assert record["direction"] == "out"
    assert (record["callee"], record["caller"], record["outcome"]) == ("+4930", "agent", "")
    assert record["rang"] and record["rang"] <= record["answered"]
    assert (record["ended_by"], record["reason"], record["frames_stepped"]) == ("callee", "hung up", 3)
    assert record["prime_s"] is not None
    assert on.leg.closed


async def test_a_re_invite_goes_to_the_leg(recorder: Recorder, tmp_path: Path) -> None:
    async with stage(recorder, tmp_path) as on:
        await on.place()
        await on.rung()
        (call,) = on.dialer.calls
        await call.take()
        assert call.renegotiate is not None
        assert await call.renegotiate("hold") == "answer to hold"
        call.end()
        await on.over()


async def test_the_row_is_primed_while_it_rings_and_greets_who_answers(recorder: Recorder, tmp_path: Path) -> None:
    engine = WatchedEngine()
    engine.may_prime.clear()
    async with stage(recorder, tmp_path, engine=engine) as on:
        await on.place()
        await on.rung()
        (call,) = on.dialer.calls
        assert engine.prompts == [] and engine.said == []
        await call.take()
        engine.may_prime.set()
        on.leg.hear(*[SILENCE] * 3)
        await on.leg.heard(3)
        assert engine.prompts == [ADA.engine_prompt()]
        assert engine.said[0] == ADA.greeting
        call.end("callee")
        await on.over()


@pytest.mark.parametrize(
    ("outcome", "by"), [(Outcome.BUSY, "callee"), (Outcome.NO_ANSWER, "agent"), (Outcome.DECLINED, "callee")]
)
async def test_a_call_that_nobody_takes(outcome: Outcome, by: str, recorder: Recorder, tmp_path: Path) -> None:
    async with stage(recorder, tmp_path) as on:
        await on.place()
        await on.rung()
        on.dialer.calls[0].come_to_nothing(outcome, "why", by)
        record = await on.over()
    assert (record["outcome"], record["ended_by"], record["reason"]) == (outcome.value, by, "why")
    assert (record["answered"], record["rang"], record["frames_stepped"]) == ("", "", 0)
    assert on.leg.closed


async def test_a_call_that_ended_while_the_row_was_primed(recorder: Recorder, tmp_path: Path) -> None:
    engine = WatchedEngine()
    engine.may_prime.clear()
    async with stage(recorder, tmp_path, engine=engine) as on:
        await on.place()
        await on.rung()
        on.dialer.calls[0].come_to_nothing(Outcome.BUSY, "busy")
        assert (await on.over())["outcome"] == "busy"


async def test_digits_are_pressed_once_it_is_answered(recorder: Recorder, tmp_path: Path) -> None:
    async with stage(recorder, tmp_path) as on:
        await on.place(digits="12,3#")
        await on.rung()
        (call,) = on.dialer.calls
        assert on.leg.pressed == []
        await call.take()
        on.leg.hear(SILENCE)
        await on.leg.heard(1)
        assert on.leg.pressed == ["12,3#"]
        call.end()
        await on.over()


async def test_a_far_end_that_takes_no_digits_is_talked_to_all_the_same(recorder: Recorder, tmp_path: Path) -> None:
    async with stage(recorder, tmp_path, leg=Keys(mute=True)) as on:
        await on.place(digits="1")
        await on.rung()
        (call,) = on.dialer.calls
        await call.take()
        on.leg.hear(*[SILENCE] * 2)
        await on.leg.heard(2)
        call.end("callee")
        assert (await on.over())["frames_stepped"] == 2


async def test_no_port_for_media(recorder: Recorder, tmp_path: Path) -> None:
    async with stage(recorder, tmp_path, leg=Keys(refuse="no port is free")) as on:
        await on.place()
        record = await on.over()
        assert record["reason"] == "no port is free"
        assert ("invite", "our offer") not in on.dialer.calls[0].log


async def test_an_engine_that_fails_while_it_rings(recorder: Recorder, tmp_path: Path) -> None:
    async with stage(recorder, tmp_path, engine=WatchedEngine(error=EngineError("out of memory"))) as on:
        await on.place()
        assert (await on.over())["reason"] == "the engine failed"


async def test_an_agent_that_stops_hangs_up(recorder: Recorder, tmp_path: Path) -> None:
    async with stage(recorder, tmp_path) as on:
        await on.place()
        await on.rung()
    assert (await on.over())["reason"] == "the agent is shutting down"


# --- what is heard before the answer --------------------------------------------------------------------------------


def frames(level: float, count: int) -> list[Pcm]:
    return [np.full(FRAME_SAMPLES, level, np.float32)] * count


async def test_an_announcement_is_kept_and_the_model_does_not_hear_it(recorder: Recorder, tmp_path: Path) -> None:
    async with stage(recorder, tmp_path) as on:
        await on.place()
        await on.rung()
        (call,) = on.dialer.calls
        call.early.set()
        on.leg.hear(*frames(0.5, 20))
        await on.leg.heard(20)
        call.come_to_nothing(Outcome.NOT_FOUND, "knows no such number")
        record = await on.over()
    assert (record["outcome"], record["frames_stepped"]) == ("not found", 0)
    assert (record["early"], record["early_s"], record["recording"]) == ("early.wav", 1.6, "")
    (path,) = tmp_path.glob("*/early.wav")
    with wave.open(str(path)) as file:
        both = np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, 2)
    assert (both[:, 0] == 16384).all() and (both[:, 1] == 0).all() and len(both) == 20 * FRAME_SAMPLES


async def test_how_it_rings_is_noted_for_the_case_that_we_are_killed(recorder: Recorder, tmp_path: Path) -> None:
    async with stage(recorder, tmp_path) as on:
        await on.place()
        await on.rung()
        (call,) = on.dialer.calls
        call.rings.set()
        call.early.set()
        heard, record = 0, {"rang": "", "early_s": 0.0}
        async with asyncio.timeout(5):
            while not (record["rang"] and record["early_s"]):  # a note is left out while the disk writes another
                heard += MEASURED_FRAMES
                on.leg.hear(*frames(0.5, MEASURED_FRAMES))
                await on.leg.heard(heard)
                for note in tmp_path.glob("*/begun.json"):
                    record = json.loads(note.read_text())["record"]
        assert any(record["early_s"] == round(n * FRAME_S, 3) for n in range(0, heard + 1, MEASURED_FRAMES))
        call.come_to_nothing(Outcome.BUSY, "busy")
        assert (await on.over())["early_s"] == round(heard * FRAME_S, 3)


async def test_what_comes_between_the_answer_and_the_greeting_is_nowhere(recorder: Recorder, tmp_path: Path) -> None:
    """The row is not primed yet: as without early media, the conversation begins where it is."""
    engine = WatchedEngine()
    engine.may_prime.clear()
    async with stage(recorder, tmp_path, engine=engine) as on:
        await on.place()
        await on.rung()
        (call,) = on.dialer.calls
        call.early.set()
        on.leg.hear(*frames(0.5, 2))
        await on.leg.heard(2)
        await call.take()
        await asyncio.sleep(0)
        on.leg.hear(*frames(0.25, 3))
        await on.leg.heard(5)
        engine.may_prime.set()
        async with asyncio.timeout(5):
            while not engine.said:
                await asyncio.sleep(0.001)
        on.leg.hear(*[SILENCE] * 3)
        async with asyncio.timeout(5):
            while len(on.leg.played) < 3:
                await asyncio.sleep(0.001)
        call.end("callee", "hung up")
        record = await on.over()
    assert (record["early_s"], record["frames_stepped"], record["duration_s"]) == (0.16, 3, 0.24)


async def test_a_voice_that_is_not_to_be_kept_is_not(recorder: Recorder, tmp_path: Path) -> None:
    async with stage(recorder, tmp_path, keep="agent") as on:
        await on.place()
        await on.rung()
        (call,) = on.dialer.calls
        call.early.set()
        on.leg.hear(*frames(0.5, 20))
        await on.leg.heard(20)
        call.come_to_nothing(Outcome.BUSY, "busy")
        record = await on.over()
    assert (record["early"], record["early_s"]) == ("", 0.0)
    assert not list(tmp_path.glob("*/early.wav"))


async def test_without_early_media_there_is_no_such_file(recorder: Recorder, tmp_path: Path) -> None:
    async with stage(recorder, tmp_path) as on:
        await on.place()
        await on.rung()
        on.dialer.calls[0].come_to_nothing(Outcome.BUSY, "busy")
        assert (await on.over())["early"] == ""
    assert not list(tmp_path.glob("*/early.wav"))


# --- before anything rings -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [NotAllowed("no pattern", ("trunks", "*", "outbound")), SignalingError("nowhere")])
async def test_a_call_that_cannot_be_made(error: SignalingError, recorder: Recorder, tmp_path: Path) -> None:
    async with stage(recorder, tmp_path, dialer=FakeDialer(error)) as on:
        with pytest.raises(type(error), match=str(error)):
            await on.place()
        assert on.engine.free == 1
    assert list(tmp_path.iterdir()) == []


async def test_a_fault_of_our_own_is_told_as_such(
    recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("voipagent.agent.OutgoingSession.begin", lambda *arguments: 1 / 0)
    async with stage(recorder, tmp_path) as on:
        with pytest.raises(EngineError, match="could not be begun"):
            await on.place()
        assert (await on.dialer.calls[0].wait_ended()).reason == "the session failed"
        assert on.engine.free == 1


async def test_no_row_is_free(recorder: Recorder, tmp_path: Path) -> None:
    """And the policy, which counts calls, is not asked."""
    async with stage(recorder, tmp_path) as on:
        await on.place()
        with pytest.raises(EngineFull):
            await on.place()
        assert len(on.dialer.calls) == 1
        on.dialer.calls[0].end()
        await on.over()


async def test_who_speaks(recorder: Recorder, tmp_path: Path) -> None:
    async with stage(recorder, tmp_path) as on:
        with pytest.raises(UnknownPersona, match="no persona 'carl'; known: agent, bob"):
            await on.place(persona="carl")
        await on.place(persona="bob")
        await on.rung()
        await on.dialer.calls[0].take()
        on.leg.hear(SILENCE)
        await on.leg.heard(1)
        assert on.engine.prompts == [Prompt(text="You call +4930 for agent.")]
        on.dialer.calls[0].end()
        assert (await on.over())["persona"] == "Bob"


async def test_nothing_is_called_while_nothing_is_taken(recorder: Recorder, tmp_path: Path) -> None:
    async with stage(recorder, tmp_path) as on:
        on.agent.draining = True
        with pytest.raises(EngineError, match="no calls are made now"):
            await on.place()
    agent = Agent(EchoEngine(rows=1), lambda offer: FakeLeg(), PERSONAS, recorder, CallsSettings(dir=tmp_path))
    with pytest.raises(EngineError, match="no calls are made now"):
        await agent.place(FakeDialer(), Wanted("1"))


async def test_whoever_wanted_it_may_go(recorder: Recorder, tmp_path: Path) -> None:
    """The call goes on; its record tells of it."""
    async with stage(recorder, tmp_path) as on:
        placing = asyncio.create_task(on.place())
        await asyncio.sleep(0)
        placing.cancel()
        await asyncio.wait([placing])
        async with asyncio.timeout(5):
            while not on.dialer.calls:
                await asyncio.sleep(0.001)
        await on.rung()
        on.dialer.calls[0].come_to_nothing(Outcome.BUSY, "busy")
        assert (await on.over())["outcome"] == "busy"


async def test_who_waits_for_a_call_is_let_go_when_the_agent_stops(recorder: Recorder, tmp_path: Path) -> None:
    dialing = asyncio.Event()

    class Stuck(FakeDialer):
        async def dial(self, target: str, trunk: str = "") -> FakeOutgoingCall:
            dialing.set()
            await asyncio.get_running_loop().create_future()
            return await super().dial(target, trunk)

    async with stage(recorder, tmp_path, dialer=Stuck()) as on:
        placing = asyncio.create_task(on.place())
        async with asyncio.timeout(5):
            await dialing.wait()
    with pytest.raises(asyncio.CancelledError):
        await placing


def test_which_setting_is_against_it() -> None:
    denied = NotAllowed("no pattern allows it", ("trunks", "*", "outbound"))
    assert explained(denied) == "no pattern allows it; VOIPAGENT_TRUNKS__<NAME>__OUTBOUND says what may be called"
    assert explained(SignalingError("nowhere")) == "nowhere"
