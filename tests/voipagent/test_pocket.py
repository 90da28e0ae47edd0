"""A call to the agent as it is installed: the embedded model over real SIP and RTP, on its own clock."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np

from media.codec import PCMU
from tests.peers.folders import read
from voipagent.lab.demo import read_sentence
from voipagent.lab.phone import Codec, Target, call
from voipagent.lab.serving import serving_agent

GREETING = "Hello, this is the front desk How can I help?"
SECOND = 8_000


async def test_a_question_on_the_phone_is_understood_and_answered(tmp_path: Path) -> None:
    said = np.concatenate([np.zeros(6 * SECOND, np.int16), read_sentence("sunday"), np.zeros(6 * SECOND, np.int16)])
    blocks = np.pad(said, (0, -len(said) % 160)).reshape(-1, 160)
    encode = PCMU.make_encoder()
    environ = {"VOIPAGENT_CALLS__DIR": str(tmp_path / "calls")}
    async with asyncio.timeout(120), serving_agent(environ) as agent:
        async with call(Target.parse(agent.target), Codec(0, "PCMU")) as phone:
            await phone.send([encode((block / 32_768).astype(np.float32)) for block in blocks])
        assert await agent.stop() == 0
    (left,) = read(tmp_path / "calls")
    assert left.record["model"].startswith("pocket@")
    assert [line.text for line in left.lines if line.role == "agent"] == [
        GREETING,
        "On Sundays and holidays we are closed.",
    ]
    (heard,) = [line.text for line in left.lines if line.role == "caller"]
    assert "on Sunday" in heard
    assert [line.role for line in left.lines] == ["agent", "caller", "agent"]
    half = len(left.agent) // 2
    assert np.abs(left.agent[:half]).max() > 0.1 and np.abs(left.agent[half:]).max() > 0.1
