"""Calls with baresip 1.0.0: encrypted in all ways that it has, in the clear, over TCP, made to it, and transferred."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from media.leg import Leg
from signaling.call import Call
from tests.peers.baresip import RATE, baresip
from tests.peers.folders import read
from tests.peers.test_control import DESCRIBED, echoing
from tests.signaling.sip.answering import desk, leave
from voipagent.lab.bursts import find, make_bursts
from voipagent.lab.serving import serving_agent

pytestmark = pytest.mark.peer("/usr/bin/baresip")  # the program: a module has its name

NARROW = 8_000
CALL_S = 6.5
"""All bursts, and its first report, which is after 5 s."""

SOUND_S = 4.5
"""The bursts alone."""

BURSTS = make_bursts(4, NARROW, seed=5, first_s=1.0)


def said() -> NDArray[np.float32]:
    """The bursts at 48 kHz, then silence: at the end of its file baresip would hang up."""
    samples = np.zeros(60 * RATE, np.float32)
    for burst in BURSTS:
        spectrum = np.zeros(len(burst.noise) * 3 + 1, complex)
        narrow = np.fft.rfft(burst.noise)
        spectrum[: len(narrow)] = narrow
        wide = np.fft.irfft(spectrum, 6 * len(burst.noise)) * 6
        samples[6 * burst.start : 6 * burst.start + len(wide)] = wide
    return samples


def found(heard: NDArray[np.float32]) -> int:
    return sum(find(burst.noise, heard) is not None for burst in BURSTS)


def environ(folder: Path, srtp: str) -> dict[str, str]:
    return {
        "VOIPAGENT_ENGINE__MODEL": "echo",
        "VOIPAGENT_CALLS__DIR": str(folder / "calls"),
        "VOIPAGENT_SIP__SRTP": srtp,
    }


@pytest.mark.parametrize(
    ("encryption", "srtp", "by", "codec", "suite"),
    [
        ("srtp", "accept", "caller", "pcmu", "AES_CM_128_HMAC_SHA1_80"),
        ("srtp-mand", "demand", "agent", "opus/48000/2", "AES_CM_128_HMAC_SHA1_80"),
        ("dtls_srtp", "demand", "caller", "opus/48000/2", "DTLS AES_CM_128_HMAC_SHA1_80"),
        ("dtls_srtp", "accept", "agent", "pcmu", "DTLS AES_CM_128_HMAC_SHA1_80"),
    ],
)
async def test_a_whole_encrypted_call(
    encryption: str, srtp: str, by: str, codec: str, suite: str, tmp_path: Path
) -> None:
    """Each hears the other's bursts; one of them hangs up, and the other knows."""
    (tmp_path / "phone").mkdir()
    async with asyncio.timeout(60):
        async with serving_agent(environ(tmp_path, srtp)) as agent:
            async with baresip(tmp_path / "phone", said(), encryption, codec=codec) as phone:
                await phone.tell("dial", agent.target)
                await phone.event("CALL_ESTABLISHED")
                await asyncio.sleep(CALL_S)
                if by == "caller":
                    await phone.tell("hangup")
                else:
                    assert await agent.stop() == 0
                await phone.event("CALL_CLOSED")
            if by == "caller":
                assert await agent.stop() == 0
    (left,) = read(tmp_path / "calls")
    assert left.record["ended_by"] == by
    media = left.record["media"]
    assert media["encryption"] == [suite]
    assert media["codec"].lower() == codec.partition("/")[0]
    assert media["packets_received"] > 100
    assert media["dropped_by_reason"].get("SRTP not authentic", 0) <= 2  # its RTCP hole punch and goodbye are plain
    assert media["round_trip_s"] is not None  # reports are encrypted, and arrive both ways
    assert found(left.caller[::3]) >= 3
    assert found(phone.heard()) >= 3  # a jitter buffer that begins may lose one


@pytest.mark.parametrize(("encryption", "srtp"), [("", "demand"), ("srtp-mand", "off")])
async def test_a_phone_that_does_not_fit_the_policy_is_told_488(encryption: str, srtp: str, tmp_path: Path) -> None:
    (tmp_path / "phone").mkdir()
    async with asyncio.timeout(60), serving_agent(environ(tmp_path, srtp)) as agent:
        async with baresip(tmp_path / "phone", said(), encryption) as phone:
            await phone.tell("dial", agent.target)
            closed = await phone.event("CALL_CLOSED")
        assert "488" in closed["param"]
        assert await agent.stop() == 0
        assert any("no media: the offer's audio is " in line for line in agent.log)


async def test_a_whole_call_in_the_clear(tmp_path: Path) -> None:
    """Sound both ways, digits, hold and resume. After a hold it decodes no more, whatever comes."""
    (tmp_path / "phone").mkdir()
    async with asyncio.timeout(60), serving_agent(environ(tmp_path, "accept")) as agent:
        async with baresip(tmp_path / "phone", said(), transport="tcp", codec="pcma") as phone:
            await phone.tell("dial", f"{agent.target};transport=tcp")
            await phone.event("CALL_ESTABLISHED")
            await asyncio.sleep(SOUND_S)
            await phone.tell("sndcode", "15#")
            await asyncio.sleep(1)
            for command in ("hold", "resume", "hangup"):
                await phone.tell(command)
                await asyncio.sleep(0.5)
        assert await agent.stop() == 0
    (left,) = read(tmp_path / "calls")
    assert (left.record["ended_by"], left.record["media"]["codec"]) == ("caller", "PCMA")
    assert left.digits == "15#"
    assert len(left.record["holds"]) == 1
    assert found(left.caller[::3]) >= 3
    assert found(phone.heard()) >= 3


async def test_we_call_it_with_a_key_and_press_digits(tmp_path: Path) -> None:
    """Our offer with its four keys is too large for a datagram: it goes over TCP. It hangs up by another connection."""
    (tmp_path / "phone").mkdir()
    ours = {"VOIPAGENT_SIP__HOST": "127.0.0.1", "VOIPAGENT_SIP__PORT": "0", "VOIPAGENT_OUTBOUND__DIRECT": "phone@*"}
    async with asyncio.timeout(60), baresip(tmp_path / "phone", said(), "srtp", codec="g722/16000/1") as phone:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "voipagent", "dial", f"sip:phone@127.0.0.1:{phone.sip_port}", "--digits", "15#"),
            env={**os.environ, **environ(tmp_path, "demand"), **ours},
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            await phone.event("CALL_ESTABLISHED")
            await asyncio.sleep(SOUND_S)
            await phone.tell("hangup")
            printed, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    assert (process.returncode, printed) == (0, b"over: hung up\n")
    (left,) = read(tmp_path / "calls")
    assert (left.record["direction"], left.record["ended_by"]) == ("out", "callee")
    assert (left.record["media"]["codec"], left.record["media"]["encryption"]) == ("G722", ["AEAD_AES_256_GCM"])
    assert found(left.caller[::3]) >= 3
    assert found(phone.heard()) >= 3
    log = (tmp_path / "phone" / "log").read_text(errors="replace")
    assert [key for key in "15#" if f"received event: '{key}' (end=1)" in log] == ["1", "5", "#"]


async def test_it_is_transferred(tmp_path: Path) -> None:
    done: list[str] = []
    async with asyncio.timeout(60), desk(leave) as bob:

        async def transfer(call: Call, leg: Leg) -> None:
            await call.transfer(f"sip:bob@127.0.0.1:{bob.port}")
            done.append("transferred")

        async with echoing(transfer) as (opened, over), baresip(tmp_path, said()) as phone:
            await phone.tell("dial", f"sip:agent@127.0.0.1:{opened.port}")
            other = await bob.next_call()
            assert other.offer.callee == "bob"
            await other.ring()
            await other.accept(DESCRIBED)
            assert (await over).by in ("caller", "agent")
            assert done == ["transferred"]
            await other.hang_up()
