"""Calls from libre/baresip, a telephone with 15 years of use, in each codec."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from tests.peers.folders import read
from tests.peers.libre import hears_itself, talk, telephone
from voipagent.lab.bursts import make_bursts
from voipagent.lab.serving import serving_agent

pytestmark = pytest.mark.peer("baresip")

CODECS = [
    ("pcmu", 8_000, "PCMU"),
    ("pcma", 8_000, "PCMA"),
    ("g722/16000/1", 16_000, "G722"),
    ("opus/48000/2", 48_000, "opus"),
]
GREETING = "Hello, this is Ada."


@pytest.mark.parametrize(("codec", "rate", "name"), CODECS, ids=[name for _, _, name in CODECS])
async def test_a_whole_call(codec: str, rate: int, name: str, tmp_path: Path) -> None:
    """Audio both ways, digits, hold and resume, and audio again; then the caller hangs up."""
    before, after = make_bursts(2, rate, seed=7, first_s=0.0)
    environ = {"VOIPAGENT_ENGINE__MODEL": "echo", "VOIPAGENT_CALLS__DIR": str(tmp_path / "calls")}
    environ |= {"VOIPAGENT_PERSONA__GREETING": GREETING}
    async with asyncio.timeout(60), serving_agent(environ) as agent, telephone(codec) as caller:
        line = await caller.dial(agent.target)
        await line.wait_established(timeout=10)
        await talk(line, np.zeros(0, np.float32), rate, 1.0)
        assert await hears_itself(line, before, rate)
        await line.send_dtmf("12#")
        await talk(line, np.zeros(0, np.float32), rate, 0.6)
        await line.hold()
        await asyncio.sleep(0.5)
        await line.resume()
        await talk(line, np.zeros(0, np.float32), rate, 1.0)
        assert await hears_itself(line, after, rate)
        await line.hangup()
        assert await agent.stop() == 0
    (left,) = read(tmp_path / "calls")
    assert left.record["media"]["codec"] == name
    assert left.digits == "12#"
    assert len(left.record["holds"]) == 1
    assert left.record["holds"][0]["duration_s"] >= 0.3
    assert (left.record["ended_by"], left.record["recording_error"]) == ("caller", "")
    assert left.lines[0].text == GREETING
    assert len(left.caller) == len(left.agent) == round(24_000 * left.record["duration_s"])
    assert np.abs(left.caller).max() > 0.2
    assert np.abs(left.agent).max() > 0.2


async def test_a_call_over_tcp(tmp_path: Path) -> None:
    environ = {"VOIPAGENT_ENGINE__MODEL": "echo", "VOIPAGENT_CALLS__DIR": str(tmp_path / "calls")}
    (burst,) = make_bursts(1, 8_000, seed=8, first_s=0.0)
    async with asyncio.timeout(60), serving_agent(environ) as agent, telephone("pcmu", "tcp") as caller:
        line = await caller.dial(f"{agent.target};transport=tcp")
        await line.wait_established(timeout=10)
        await talk(line, np.zeros(0, np.float32), 8_000, 1.0)
        assert await hears_itself(line, burst, 8_000)
        await line.hangup()
        assert await agent.stop() == 0


@pytest.mark.parametrize("encryption", ["srtp-mand", "dtls_srtp"])
async def test_an_encrypted_call(encryption: str, tmp_path: Path) -> None:
    environ = {"VOIPAGENT_ENGINE__MODEL": "echo", "VOIPAGENT_CALLS__DIR": str(tmp_path / "calls")}
    environ |= {"VOIPAGENT_SIP__SRTP": "demand"}
    (burst,) = make_bursts(1, 8_000, seed=10, first_s=0.0)
    async with asyncio.timeout(60), serving_agent(environ) as agent, telephone("pcmu", encryption=encryption) as caller:
        line = await caller.dial(agent.target)
        await line.wait_established(timeout=10)
        await talk(line, np.zeros(0, np.float32), 8_000, 1.0)
        assert await hears_itself(line, burst, 8_000)
        await line.hangup()
        assert await agent.stop() == 0
    (left,) = read(tmp_path / "calls")
    by_dtls = "DTLS " if encryption == "dtls_srtp" else ""
    assert left.record["media"]["encryption"] == [f"{by_dtls}AES_CM_128_HMAC_SHA1_80"]
    assert np.abs(left.caller).max() > 0.2
