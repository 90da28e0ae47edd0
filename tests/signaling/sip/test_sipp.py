"""Calls by SIPp, a peer that somebody else wrote."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.signaling.sip.answering import desk


async def sipp(port: int, folder: Path, *options: str) -> None:
    """SIPp's own caller: INVITE, ACK, a pause, BYE. All of its calls must succeed."""
    command = ["sipp", "-sn", "uac", f"127.0.0.1:{port}", "-i", "127.0.0.1", "-nostdin", "-d", "50", *options]
    quiet = asyncio.subprocess.DEVNULL
    caller = await asyncio.create_subprocess_exec(*command, cwd=folder, stdin=quiet, stdout=quiet, stderr=quiet)
    try:
        async with asyncio.timeout(40):
            assert await caller.wait() == 0
    finally:
        if caller.returncode is None:
            caller.kill()
            await caller.wait()


@pytest.mark.peer("sipp")
@pytest.mark.parametrize("transport", ["u1", "t1"])
async def test_20_calls_a_second(transport: str, tmp_path: Path) -> None:
    async with desk() as agent:
        await sipp(agent.port, tmp_path, "-t", transport, "-r", "20", "-m", "40")
        assert len(agent.calls) == 40
        assert {(await call.wait_ended()).by for call in agent.calls} == {"caller"}
        agent.pass_time(64)
        assert agent.kept() == 0


@pytest.mark.peer("sipp")
async def test_calls_survive_loss(tmp_path: Path) -> None:
    """SIPp loses one packet in ten of those it sends and receives; every call succeeds by retransmission."""
    async with desk() as agent:
        await sipp(agent.port, tmp_path, "-r", "20", "-m", "20", "-lost", "10")
        assert len(agent.calls) == 20
