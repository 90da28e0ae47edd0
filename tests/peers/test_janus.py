"""We take part in a room of Janus's AudioBridge: we hear the others there, and are heard."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from engine.slot import FRAME_SAMPLES, SAMPLE_RATE
from media.answer import Legs
from media.leg import AudioFormat, Leg
from signaling.call import CallEnded, Outcome, OutgoingCall
from signaling.meetings.dialer import MeetingDialer
from tests.media.browser import pitch
from tests.peers.janus import ADMIN, LOCKED, PIN, ROOM, Janus, Participant, janus
from tests.peers.netns import namespace
from tests.voipagent.test_dial import in_folder, records
from voipagent.lab.serving import serving_agent

pytestmark = pytest.mark.peer("janus", "ip")

OURS, THEIRS = 660.0, 440.0


@dataclass
class Guest:
    """We in a room, saying a tone."""

    call: OutgoingCall
    leg: Leg
    heard: list[float]

    async def hears(self, hertz: float) -> None:
        async with asyncio.timeout(30):
            while self.heard[-3:] != [hertz] * 3:
                await asyncio.sleep(0.02)

    async def talk(self) -> None:
        sent = 0
        while True:
            exchange = await self.leg.exchange()
            self.heard.append(pitch(exchange.heard, SAMPLE_RATE))
            at = (sent + np.arange(FRAME_SAMPLES)) / SAMPLE_RATE
            self.leg.play((0.25 * np.sin(2 * np.pi * OURS * at)).astype(np.float32))
            sent += FRAME_SAMPLES


@asynccontextmanager
async def guest(url: str) -> AsyncIterator[Guest]:
    """On our way into that room; it leaves afterwards."""
    async with Legs(AudioFormat(SAMPLE_RATE, FRAME_SAMPLES), ports=(26_000, 26_999)) as legs:
        call = await MeetingDialer().dial(url)
        leg = legs.open_web_leg(call.offer.source[0])
        call.answered = leg.accepted
        await call.invite(await leg.offer())
        us = Guest(call, leg, [])
        talking = asyncio.create_task(us.talk())
        try:
            yield us
        finally:
            talking.cancel()
            await asyncio.wait([talking])
            await call.hang_up()


@pytest.fixture
async def server() -> AsyncIterator[Janus]:
    async with namespace() as net, janus(net.here) as server:
        yield server


async def ends(call: OutgoingCall) -> CallEnded:
    async with asyncio.timeout(40):
        return await call.wait_ended()


async def test_we_hear_who_is_there_are_heard_and_are_thrown_out(server: Janus) -> None:
    async with Participant(server, THEIRS) as other, guest(server.room()) as us:
        await asyncio.wait_for(us.call.wait_answered(), 30)
        await us.hears(THEIRS)
        await other.browser.hears(OURS, within_s=30)
        number = (await other.participants())["agent"]
        await other.ask({"request": "kick", "room": ROOM, "secret": ADMIN, "id": number})
        ended = await ends(us.call)
        assert ended == CallEnded("callee", f"we were thrown out of {server.room()}")
        assert "agent" not in await other.participants()


async def test_we_leave_and_the_room_knows_it(server: Janus) -> None:
    async with Participant(server, THEIRS) as other:
        async with guest(server.room(options="?name=Ada")) as us:
            await asyncio.wait_for(us.call.wait_answered(), 30)
            assert set(await other.participants()) == {"Ada", "other"}
            await us.call.hang_up("the talk is over")
            assert await ends(us.call) == CallEnded("agent", "the talk is over")
        assert set(await other.participants()) == {"other"}


async def test_a_server_that_is_started_anew_has_forgotten_us(server: Janus) -> None:
    async with guest(server.room()) as us:
        await asyncio.wait_for(us.call.wait_answered(), 30)
        await server.stop()
        await server.start()
        ended = await ends(us.call)
        assert (ended.by, ended.outcome) == ("network", None)
        assert "was started anew" in ended.reason


async def test_a_room_that_is_closed_is_the_end(server: Janus) -> None:
    async with Participant(server, THEIRS) as other, guest(server.room()) as us:
        await asyncio.wait_for(us.call.wait_answered(), 30)
        await other.ask({"request": "destroy", "room": ROOM, "secret": ADMIN})
        assert await ends(us.call) == CallEnded("callee", f"the room {server.room()} was closed")


async def test_the_agent_that_serves_is_in_a_meeting_of_its_own_accord(server: Janus, tmp_path: Path) -> None:
    meeting = {"VOIPAGENT_MEETINGS__STANDUP__URL": server.room(), "VOIPAGENT_MEETINGS__STUDY__URL": server.room(LOCKED)}
    environ = {**in_folder(tmp_path), **meeting, "VOIPAGENT_MEETINGS__STANDUP__AUTO_JOIN": "true"}
    async with serving_agent(environ), Participant(server, THEIRS) as other:
        await other.browser.hears(THEIRS, within_s=30)  # its engine says back what it hears
    (record,) = records(tmp_path)
    assert (record["kind"], record["callee"], record["direction"]) == ("meeting", server.room(), "out")
    assert record["ended_by"] == "agent" and record["media"]["packets_received"] > 0


async def test_what_is_wrong_with_a_room_is_one_clear_line(server: Janus) -> None:
    where = f"janus://{server.host}:{server.port}"
    wrong = {
        server.room(77): (Outcome.NOT_FOUND, f"there is no room '77' at {where}"),
        server.room(LOCKED): (Outcome.FORBIDDEN, f"{where}/{LOCKED} wants a pin: "),
        server.room(LOCKED, "?pin=1"): (Outcome.FORBIDDEN, f"{where}/{LOCKED} wants another pin: "),
        f"janus://{server.host}:9/1": (Outcome.UNREACHABLE, f"janus://{server.host}:9 cannot be reached: "),
        server.room(options="?base=nowhere"): (Outcome.FAILED, f"what answers at http://{server.host}:8089/nowhere"),
    }
    for url, (outcome, said) in wrong.items():
        async with guest(url) as us:
            ended = await ends(us.call)
            assert ended.outcome is outcome and ended.reason.startswith(said), ended
    async with guest(server.room(LOCKED, f"?pin={PIN}")) as us:
        await asyncio.wait_for(us.call.wait_answered(), 30)


async def test_candidates_that_come_later_are_taken() -> None:
    async with namespace() as net, janus(net.here, trickle=True) as server, guest(server.room()) as us:
        await asyncio.wait_for(us.call.wait_answered(), 30)
        async with asyncio.timeout(30):
            while not us.leg.stats.packets_received:
                await asyncio.sleep(0.02)
