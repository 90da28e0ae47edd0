"""Encrypted calls from baresip, in all ways that it has: keys in the description, offered or demanded, and by DTLS."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.peers.baresip import RATE, baresip
from tests.peers.folders import read
from voipagent.lab.bursts import find, make_bursts
from voipagent.lab.serving import serving_agent

pytestmark = pytest.mark.peer("/usr/bin/baresip")  # the program: a module has its name

NARROW = 8_000
CALL_S = 6.5
"""All bursts, and its first report, which is after 5 s."""

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
