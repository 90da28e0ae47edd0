"""Through Kamailio with rtpengine: it translates encrypted audio to plain for one side of a call, whichever that is."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from tests.peers.baresip import baresip
from tests.peers.folders import Left, read
from tests.peers.kamailio import PASSWORD, Kamailio, kamailio
from tests.peers.libre import Phone, hears_itself, ringing, talk, telephone
from tests.peers.rtpengine import DTLS, PLAIN, SDES, rtpengine
from tests.peers.test_baresip import CALL_S, found, said
from tests.peers.test_kamailio import call, environ, registered
from voipagent.lab.bursts import make_bursts
from voipagent.lab.serving import ServingAgent, serving_agent

pytestmark = pytest.mark.peer("rtpengine", "kamailio")

BEST = "DTLS AEAD_AES_256_GCM"
"""rtpengine, like us, prefers it."""


@contextlib.asynccontextmanager
async def between(
    folder: Path, ours: str, theirs: str, srtp: str = "accept"
) -> AsyncIterator[tuple[Kamailio, ServingAgent]]:
    """Both, and an agent that is 1000 there and may call others; what was relayed went through rtpengine."""
    async with asyncio.timeout(90), rtpengine() as relay, kamailio(media=relay.route("1000", ours, theirs)) as proxy:
        trunk = proxy.trunk("1000", OUTBOUND="2000", SRTP=srtp)
        trunk["VOIPAGENT_HTTP__TOKEN"] = "s3cret"
        async with serving_agent(environ(folder, **trunk)) as agent:
            await registered(agent, "house")
            yield proxy, agent
            assert await agent.stop() == 0
    (left,) = read(folder / "calls")
    assert relay.relays(left.record["media"]["remote"])


def the_call(folder: Path) -> Left:
    (left,) = read(folder / "calls")
    return left


async def call_2000(agent: ServingAgent) -> None:
    """Over the API, with digits to press after a second. libre asks anew for its audio once it answered, and until
    that is agreed rtpengine holds packets back and sends later ones first: a key that was overtaken is heard twice.
    """
    body = json.dumps({"target": "2000", "digits": "ww15#"})
    head = (
        *("POST /api/v1/calls HTTP/1.1", "Host: x", "Connection: close", "Content-Type: application/json"),
        *("Authorization: Bearer s3cret", f"Content-Length: {len(body)}"),
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", agent.http_port)
    writer.write("\r\n".join([*head, "", body]).encode())
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    assert b" 202 " in answer, answer


def user_2000(proxy: Kamailio) -> Phone:
    return Phone(user="2000", password=PASSWORD.format(user="2000"), domain=f"127.0.0.1:{proxy.port}")


@pytest.mark.peer("baresip")
@pytest.mark.parametrize("by", ["caller", "agent"])
async def test_a_plain_telephone_calls_and_we_are_spoken_to_by_dtls(by: str, tmp_path: Path) -> None:
    (burst,) = make_bursts(1, 8_000, seed=13, first_s=0.0)
    async with between(tmp_path, DTLS, PLAIN, "demand") as (proxy, agent), telephone("pcmu") as phone:
        line = await call(proxy, "1000", phone)
        await talk(line, np.zeros(0, np.float32), 8_000, 1.0)
        assert await hears_itself(line, burst, 8_000)
        if by == "caller":
            await line.send_dtmf("15#")
            await line.hold()
            await talk(line, np.zeros(0, np.float32), 8_000, 0.5)
            await line.resume()
            await talk(line, np.zeros(0, np.float32), 8_000, 1.0)
            assert await hears_itself(line, burst, 8_000)
            await line.hangup()
            await proxy.said("loose BYE libre")
        else:
            assert await agent.stop() == 0
            await proxy.said("loose BYE 1000")
    left = the_call(tmp_path)
    assert (left.record["ended_by"], left.record["media"]["encryption"]) == (by, [BEST])
    assert (left.digits, len(left.record["holds"])) == (("15#", 1) if by == "caller" else ("", 0))
    assert np.abs(left.caller).max() > 0.2


@pytest.mark.peer("/usr/bin/baresip")  # the program: a module has its name
async def test_a_telephone_calls_by_dtls_and_we_are_spoken_to_plainly(tmp_path: Path) -> None:
    (tmp_path / "phone").mkdir()
    async with between(tmp_path, PLAIN, DTLS, "off") as (proxy, _):
        async with baresip(tmp_path / "phone", said(), "dtls_srtp", codec="opus/48000/2") as phone:
            await phone.tell("dial", f"sip:1000@127.0.0.1:{proxy.port}")
            await phone.event("CALL_ESTABLISHED")
            await asyncio.sleep(CALL_S)
            await phone.tell("hangup")
            await phone.event("CALL_CLOSED")
            await proxy.said("loose BYE phone")
    left = the_call(tmp_path)
    assert (left.record["ended_by"], left.record["media"]["encryption"]) == ("caller", ["none"])
    assert left.record["media"]["codec"] == "opus"
    assert found(left.caller[::3]) >= 3
    assert found(phone.heard()) >= 3


@pytest.mark.peer("/usr/bin/baresip")
async def test_we_call_plainly_and_the_telephone_is_spoken_to_by_dtls(tmp_path: Path) -> None:
    (tmp_path / "phone").mkdir()
    async with between(tmp_path, PLAIN, DTLS, "off") as (proxy, agent):
        registrar = (proxy.port, "2000", PASSWORD.format(user="2000"))
        async with baresip(tmp_path / "phone", said(), "dtls_srtp", registrar=registrar) as phone:
            await proxy.said("saved 2000")
            await call_2000(agent)
            await phone.event("CALL_ESTABLISHED")
            await asyncio.sleep(CALL_S)
            assert await agent.stop() == 0
            await phone.event("CALL_CLOSED")
            await proxy.said("loose BYE 1000")
    left = the_call(tmp_path)
    assert (left.record["direction"], left.record["ended_by"]) == ("out", "agent")
    assert left.record["media"]["encryption"] == ["none"]
    assert found(left.caller[::3]) >= 3
    assert found(phone.heard()) >= 3


@pytest.mark.peer("baresip")
@pytest.mark.parametrize(
    ("ours", "srtp", "by"), [(SDES, "demand", "callee"), (DTLS, "dtls", "callee"), (DTLS, "dtls", "agent")]
)
async def test_we_call_encrypted_and_the_telephone_is_spoken_to_plainly(
    ours: str, srtp: str, by: str, tmp_path: Path
) -> None:
    """By a key that our offer has, or by a handshake."""
    (burst,) = make_bursts(1, 8_000, seed=14, first_s=0.0)
    async with between(tmp_path, ours, PLAIN, srtp) as (proxy, agent), ringing(user_2000(proxy)) as (_, calls):
        await call_2000(agent)
        line, pressed = await calls.get(), asyncio.Queue[str]()
        line.on_dtmf(lambda event: pressed.put_nowait(event.digit))
        await line.answer()
        await line.wait_established(timeout=10)
        async with asyncio.timeout(20):
            assert [await pressed.get() for _ in range(3)] == ["1", "5", "#"]
        assert await hears_itself(line, burst, 8_000)
        assert pressed.empty()
        if by == "callee":
            await line.hangup()
            await proxy.said("loose BYE 2000")
        else:
            assert await agent.stop() == 0
            await proxy.said("loose BYE 1000")
    left = the_call(tmp_path)
    assert (left.record["direction"], left.record["ended_by"]) == ("out", by)
    (used,) = left.record["media"]["encryption"]
    assert used.startswith("DTLS ") is (srtp == "dtls") and used != "none"
    assert np.abs(left.caller).max() > 0.2
