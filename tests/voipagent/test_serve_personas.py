"""Prompts that lie in files, in an agent that is a process: SIGHUP gives new calls what they hold now."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

from tests.peers.folders import read
from voipagent.lab.phone import Codec, Target, call
from voipagent.lab.serving import ServingAgent, serving_agent

PCMU = Codec(0, "PCMU")


async def hung_up(agent: ServingAgent, told: str) -> None:
    """Send SIGHUP, and wait until the log says so."""
    agent.process.send_signal(signal.SIGHUP)
    while not any(told in line for line in agent.log):
        await asyncio.sleep(0.01)


async def greeted(agent: ServingAgent, meanwhile: str = "") -> None:
    """Be called, and hear the greeting; `meanwhile` SIGHUP is sent, after which the log says so."""
    async with call(Target.parse(agent.target), PCMU) as phone:
        if meanwhile:
            await hung_up(agent, meanwhile)
        await phone.send([b"\xff" * 160] * 60)


async def test_new_calls_are_greeted_as_the_file_says_now_and_a_bad_one_changes_nothing(tmp_path: Path) -> None:
    greeting, calls = tmp_path / "greeting.txt", tmp_path / "calls"
    greeting.write_text("One.")
    environ = {"VOIPAGENT_ENGINE__MODEL": "echo", "VOIPAGENT_CALLS__DIR": str(calls)}
    environ |= {"VOIPAGENT_PERSONA__GREETING_FILE": str(greeting)}
    async with asyncio.timeout(90), serving_agent(environ) as agent:
        greeting.write_text("Two.")
        await greeted(agent, "prompts were read again; changed: agent")
        greeting.write_text("Hello {nobody}.")
        await hung_up(agent, "the prompts of before stay")
        await greeted(agent)
        assert await agent.stop() == 0
    assert [[line.text for line in left.lines] for left in read(calls)] == [["One."], ["Two."]]
    assert not any("Traceback" in line for line in agent.log)
