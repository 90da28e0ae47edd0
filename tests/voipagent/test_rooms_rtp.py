"""A room of real legs: three phones of raw sockets under a made-up clock, one of which presses a PIN."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydantic import SecretStr

from media.codec import G722, PCMU, Codec
from media.dtmf import Event
from media.leg import Pcm
from media.rtp import RtpLeg
from signaling.call import CallEnded
from tests.fakes import FakeCall, offer
from tests.media.line import Line, tone
from tests.peers.folders import read
from tests.voipagent.meetings import FORMAT, House, meeting_house, settle
from voipagent.participant import leg_format
from voipagent.recording import Recorder
from voipagent.roomsettings import RoomSettings

PITCHES = {"ada": 400.0, "bob": 1000.0, "cid": 1600.0}
CODECS = {"ada": PCMU, "bob": G722, "cid": PCMU}


class Phones:
    """Who calls a room, each with a tone, on one wheel."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.lines: dict[str, Line] = {}
        self.calls: dict[str, FakeCall] = {}
        self.said = {name: tone(codec, PITCHES[name]) for name, codec in CODECS.items()}

    @property
    def wheel(self) -> Line:
        return next(iter(self.lines.values()))

    async def call(self, name: str, callee: str = "+4930") -> None:
        """Until it is accepted, and the phone knows where to send."""
        line = self.lines[name] = Line(CODECS[name])
        line.leg = RtpLeg(leg_format(FORMAT), self.wheel.clock, self.wheel.ports, "127.0.0.1")
        self.house.legs[name] = line.leg
        call = self.calls[name] = FakeCall(replace(offer(line.phone.sdp(), name), caller=name, callee=callee))
        self.house.source.queue.put_nowait(call)
        async with asyncio.timeout(5):
            await call.accepted.wait()
        line.phone.read(next(str(what) for verb, what in call.log if verb == "accept"))

    async def tick(self, *talking: str, count: int = 1) -> None:
        """20 ms; those who do not talk say silence."""
        for _ in range(count):
            for name, line in self.lines.items():
                block = next(self.said[name])
                line.phone.say(block if name in talking else 0 * block)
            await self.turn()

    async def turn(self) -> None:
        self.wheel.timers.run(0.02)
        for _ in range(20):
            await asyncio.sleep(0)

    async def press(self, name: str, keys: str) -> None:
        """Keys of 100 ms by telephone-event (RFC 4733)."""
        phone = self.lines[name].phone
        for key in keys:
            for step in range(7):
                event = Event("0123456789*#".index(key), step >= 4, min(step + 1, 5) * 160)
                phone.send(bytes(event), kind=101, marker=step == 0, advance=False)
                await self.turn()
            phone.timestamp = (phone.timestamp + 7 * 160) & 0xFFFFFFFF
            await self.turn()

    def heard(self, name: str) -> dict[str, float]:
        """How loud each one's tone is in the last second of what that phone has got."""
        phone: Codec = self.lines[name].phone.codec
        pcm = self.lines[name].phone.hear(self.lines[name].phone.packets(50))[-phone.sample_rate :]
        return {who: strength(pcm, pitch, phone.sample_rate) for who, pitch in PITCHES.items()}


def strength(pcm: Pcm, hertz: float, rate: int) -> float:
    """How loud a tone of that pitch is in it, as its amplitude."""
    turns = np.exp(-2j * np.pi * hertz * np.arange(len(pcm)) / rate)
    return float(2 * abs(np.mean(pcm * turns)))


@contextlib.asynccontextmanager
async def phones(recorder: Recorder, folder: Path, pin: str = "", delay_frames: int = 10_000) -> AsyncIterator[Phones]:
    rooms = {"standup": RoomSettings(number="+4930", pin=SecretStr(pin))}
    async with meeting_house(recorder, folder, rooms, delay_frames=delay_frames) as house:
        on = Phones(house)
        try:
            yield on
        finally:
            for line in on.lines.values():
                line.phone.close()


async def test_three_phones_and_the_agent_in_a_room(recorder: Recorder, tmp_path: Path) -> None:
    async with phones(recorder, tmp_path) as on:
        for name in PITCHES:
            await on.call(name)
        await on.tick(*PITCHES, count=90)
        for name in PITCHES:
            for who, found in on.heard(name).items():
                assert found == pytest.approx(0.0 if who == name else 0.25, abs=0.04), (name, who)
        for name in ("ada", "cid"):
            on.calls[name].end()
            await settle()
        await on.turn()
        assert on.house.present() == ("bob",)
        on.calls["bob"].end()
        await on.house.rows_are_free(2)
    (left,) = read(tmp_path)
    for pitch in PITCHES.values():
        assert strength(left.caller[12_000:36_000], pitch, 24_000) == pytest.approx(0.25, abs=0.04)
    assert not left.agent.any()
    assert [each["name"] for each in left.record["participants"]] == list(PITCHES)
    media = left.record["participants"][1]["media"]
    assert media["codec"] == "G722" and media["packets_received"] > 80 and media["packets_lost"] == 0


async def test_the_agent_is_heard_by_all(recorder: Recorder, tmp_path: Path) -> None:
    async with phones(recorder, tmp_path, delay_frames=0) as on:
        for name in ("ada", "bob"):
            await on.call(name)
        await on.tick("ada", count=90)
        assert on.heard("ada")["ada"] == pytest.approx(0.25, abs=0.04)  # from the echo
        on.calls["ada"].end()
        await settle()
        on.calls["bob"].end()
        await on.house.rows_are_free(2)
    (left,) = read(tmp_path)
    assert strength(left.agent[12_000:36_000], PITCHES["ada"], 24_000) == pytest.approx(0.25, abs=0.04)
    assert len(left.agent) == len(left.caller) == round(24_000 * left.record["duration_s"])


async def test_a_pin_that_is_pressed(recorder: Recorder, tmp_path: Path) -> None:
    async with phones(recorder, tmp_path, pin="4711") as on:
        await on.call("ada")
        await on.tick(count=60)
        prompt = on.lines["ada"].phone.hear(on.lines["ada"].phone.packets(50))
        assert np.abs(prompt).max() > 0.1
        await on.press("ada", "4711")
        assert on.house.present() == ("ada",)
        await on.call("cid")
        await on.press("cid", "4712")
        await on.press("cid", "4711#")
        assert on.house.present() == ("ada", "cid")
        await on.tick("cid", count=90)
        assert on.heard("ada")["cid"] == pytest.approx(0.25, abs=0.04)


async def test_a_wrong_pin_ends_in_a_goodbye(recorder: Recorder, tmp_path: Path) -> None:
    async with phones(recorder, tmp_path, pin="4711") as on:
        await on.call("ada")
        for _ in range(3):
            await on.press("ada", "0000")
        await on.tick(count=120)
        assert await on.calls["ada"].wait_ended() == CallEnded("agent", "no right PIN in 3 tries")
        assert on.house.engine.free == 2
    assert list(tmp_path.iterdir()) == []
