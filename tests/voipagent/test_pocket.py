"""A call to the agent as it is installed: the embedded model over real SIP and RTP, on its own clock."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from media.codec import PCMU
from media.pcm import from_s16, to_s16
from tests.peers.folders import read
from voipagent.lab.caller import Caller, Turn
from voipagent.lab.demo import read_sentence
from voipagent.lab.phone import Codec, Phone, Target, call
from voipagent.lab.serving import serving_agent

GREETING = "Hello, this is the front desk. How can I help?"
RATE = 8_000


def talking(phone: Phone, caller: Caller) -> Iterator[bytes]:
    """What `caller` says, 20 ms at a time, to what has come meanwhile, however late that is."""
    encode, decode, heard = PCMU.make_encoder(), PCMU.make_decoder(), 0
    while not caller.over:
        for packet in phone.received[heard:]:
            caller.hear(to_s16(decode(packet.payload)))
            heard += 1
        yield encode(from_s16(caller.say(RATE // 50)))


async def test_a_question_on_the_phone_is_understood_and_answered(tmp_path: Path) -> None:
    caller = Caller([Turn(read_sentence("sunday"))], RATE)
    environ = {"VOIPAGENT_CALLS__DIR": str(tmp_path / "calls")}
    async with asyncio.timeout(120), serving_agent(environ) as agent:
        async with call(Target.parse(agent.target), Codec(0, "PCMU")) as phone:
            await phone.send(talking(phone, caller))
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
