"""A room of the whole agent as a process: two browsers and a telephone, and rooms that are made meanwhile."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx2
import numpy as np

from media.codec import PCMU as PCMU_CODEC
from media.leg import Pcm
from signaling.front import SDP
from tests.media.browser import Browser
from tests.media.line import tone
from tests.peers.folders import read
from voipagent.lab.phone import Codec, Phone, PhoneError, Target, call
from voipagent.lab.serving import ServingAgent, serving_agent

PCMU = Codec(0, "PCMU")
BLOCKS = 50
SECRET = {"Authorization": "Bearer s3cret"}


def in_folder(folder: Path, **more: str) -> dict[str, str]:
    return {
        "VOIPAGENT_ENGINE__MODEL": "echo",
        "VOIPAGENT_CALLS__DIR": str(folder / "calls"),
        "VOIPAGENT_HTTP__TOKEN": "s3cret",
        "VOIPAGENT_WEBRTC__OPEN": "true",
        **more,
    }


def strength(pcm: Pcm, hertz: float, rate: int) -> float:
    """How loud a tone of that pitch is in it at best, as its amplitude in 100 ms: a busy machine tears holes."""
    pieces = pcm[: len(pcm) // (rate // 10) * (rate // 10)].reshape(-1, rate // 10)
    turns = np.exp(-2j * np.pi * hertz * np.arange(rate // 10) / rate)
    return float(2 * np.abs((pieces * turns).mean(axis=1)).max())


async def hears(browser: Browser, hertz: float) -> None:
    """Wait until that tone is in what it hears. Each half second it is looked: it takes long to look."""
    async with asyncio.timeout(30):
        while len(browser.heard) < BLOCKS or strength(np.concatenate(browser.heard[-BLOCKS:]), hertz, 48_000) < 0.1:
            await asyncio.sleep(0.5)


async def phone_hears(phone: Phone, hertz: float) -> None:
    decode = PCMU_CODEC.make_decoder()
    async with asyncio.timeout(30):
        while True:
            await asyncio.sleep(0.5)
            pcm = [decode(packet.payload) for packet in phone.received[-BLOCKS:]]
            if len(pcm) == BLOCKS and strength(np.concatenate(pcm), hertz, 8_000) > 0.1:
                return


async def join(http: httpx2.AsyncClient, browser: Browser, query: str) -> httpx2.Response:
    answer = await http.post(f"/duplex?{query}", content=await browser.offer(), headers={"Content-Type": SDP})
    if answer.status_code == 201:
        await browser.take(answer.text)
    return answer


def over_http(agent: ServingAgent) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(base_url=f"http://127.0.0.1:{agent.http_port}", timeout=15)


async def test_two_browsers_and_a_telephone_hear_each_other(tmp_path: Path) -> None:
    asyncio.get_running_loop().set_debug(False)  # three far ends in real time are enough to do
    environ = in_folder(tmp_path, VOIPAGENT_ROOMS__STANDUP__MAX="3")
    encode, blocks = PCMU_CODEC.make_encoder(), tone(PCMU_CODEC, 1600.0)
    async with asyncio.timeout(120), serving_agent(environ) as agent:
        target = Target.parse(f"sip:standup@127.0.0.1:{agent.sip_port}")
        async with over_http(agent) as http, Browser(440.0) as ada, Browser(1000.0) as bob, call(target, PCMU) as phone:
            talking = asyncio.create_task(phone.send(encode(next(blocks)) for _ in range(3_000)))
            assert (await join(http, ada, "room=standup&name=ada")).status_code == 201
            assert (await join(http, bob, "room=standup&name=bob")).status_code == 201
            for browser, other in ((ada, 1000.0), (ada, 1600.0), (bob, 440.0), (bob, 1600.0)):
                await hears(browser, other)
            for other in (440.0, 1000.0):
                await phone_hears(phone, other)
            async with Browser() as late:
                full = await join(http, late, "room=standup&name=late")
                assert (full.status_code, full.json()["detail"]) == (503, "room standup is full")
            (room,) = (await http.get("/api/v1/rooms", headers=SECRET)).json()
            assert room["participants"] == ["bench", "ada", "bob"] and room["call"].startswith("room-standup-")
            talking.cancel()
        assert await agent.stop() == 0
    (left,) = read(tmp_path / "calls")
    assert {each["kind"] for each in left.record["participants"]} == {"sip", "webrtc"}
    for hertz in (440.0, 1000.0, 1600.0):
        middle = left.caller[len(left.caller) // 2 :][:12_000]
        assert strength(middle, hertz, 24_000) > 0.1, hertz


async def test_a_room_for_a_while(tmp_path: Path) -> None:
    asyncio.get_running_loop().set_debug(False)
    async with asyncio.timeout(120), serving_agent(in_folder(tmp_path)) as agent:
        async with over_http(agent) as http, Browser(440.0) as ada:
            made = await http.post("/api/v1/rooms", json={"name": "sales", "pin": "4711"}, headers=SECRET)
            assert made.status_code == 201, made.text
            wrong = await join(http, ada, "room=sales&pin=0000")
            assert wrong.status_code == 404 and "PIN" in wrong.json()["detail"]
            assert (await join(http, ada, "room=sales&pin=4711")).status_code == 201
            await hears(ada, 440.0)  # the agent's echo
            assert (await http.delete("/api/v1/rooms/sales", headers=SECRET)).status_code == 204
            assert (await join(http, ada, "room=sales&pin=4711")).status_code == 404
        assert await agent.stop() == 0
    (left,) = read(tmp_path / "calls")
    assert (left.record["reason"], left.record["participants"][0]["reason"]) == ("the room was closed",) * 2


async def test_a_pin_is_asked_for_before_anything_else(tmp_path: Path) -> None:
    """A telephone that presses nothing hears the question, and takes no row."""
    environ = in_folder(tmp_path, VOIPAGENT_ROOMS__STANDUP__PIN="4711", VOIPAGENT_ENGINE__ROWS="1")
    async with asyncio.timeout(120), serving_agent(environ) as agent:
        target = Target.parse(f"sip:standup@127.0.0.1:{agent.sip_port}")
        async with call(target, PCMU) as asked, call(Target.parse(agent.target), PCMU) as other:
            await asyncio.gather(asked.send([b"\xff" * 160] * 100), other.send([b"\xff" * 160] * 100))
            decode = PCMU_CODEC.make_decoder()
            heard = np.concatenate([decode(packet.payload) for packet in asked.received])
            assert np.abs(heard).max() > 0.2
            try:
                async with call(Target.parse(agent.target), PCMU):
                    raise AssertionError("there was a second row")
            except PhoneError as error:
                assert "486" in str(error)
        assert await agent.stop() == 0
    assert [left.record["kind"] for left in read(tmp_path / "calls")] == ["sip"]


async def test_who_comes_into_a_room_hears_of_the_recording(tmp_path: Path) -> None:
    environ = in_folder(tmp_path, VOIPAGENT_ROOMS__STANDUP__MAX="3", VOIPAGENT_CALLS__CONSENT="tone")
    async with asyncio.timeout(60), serving_agent(environ) as agent:
        async with call(Target.parse(f"sip:standup@127.0.0.1:{agent.sip_port}"), PCMU) as phone:
            await phone.send([b"\xff" * 160] * 100)
        assert await agent.stop() == 0
    (left,) = read(tmp_path / "calls")
    assert left.record["participants"][0]["consent"]["heard"] == "tone"
