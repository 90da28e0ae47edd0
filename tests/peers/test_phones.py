"""A telephone of our own: libre/baresip registers with the agent, calls it by its password, and leaves."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.peers.folders import read
from tests.peers.test_libre import hears_itself, talk
from voipagent.lab.bursts import make_bursts
from voipagent.lab.serving import ServingAgent, serving_agent

pytestmark = pytest.mark.peer("baresip")

ELSEWHERE = {"VOIPAGENT_SIP__ALLOW": "192.0.2.0/24", "VOIPAGENT_SIP__CHALLENGE": "127.0.0.0/8"}
USERS = {"VOIPAGENT_SIP__USERS__LIBRE__PASSWORD": "wonderland"}


@contextlib.asynccontextmanager
async def telephone(agent: ServingAgent, password: str, transport: str = "udp") -> AsyncIterator[Any]:
    """A user agent of libre whose registrar is the agent."""
    from baresip import Account, Config, Runtime, UserAgent

    runtime = Runtime()
    listen = "sip_listen 127.0.0.1:0\n"
    await runtime.start(Config(net_interface="127.0.0.1", native_log_level="error", extra_config_text=listen))
    try:
        domain = f"127.0.0.1:{agent.sip_port}"
        account = Account("libre", domain, password, reg_interval=60, audio_codecs=("pcmu",), transport=transport)  # type: ignore[arg-type,unused-ignore]  # typed only where the wheel is installed
        yield await UserAgent.create(runtime, account)
    finally:
        await runtime.close()


@contextlib.asynccontextmanager
async def office(tmp_path: Path) -> AsyncIterator[ServingAgent]:
    environ = {"VOIPAGENT_ENGINE__MODEL": "echo", "VOIPAGENT_CALLS__DIR": str(tmp_path / "calls")}
    async with asyncio.timeout(60), serving_agent(environ | ELSEWHERE | USERS) as agent:
        yield agent


@pytest.mark.parametrize("transport", ["udp", "tcp"])
async def test_it_registers_calls_and_leaves(transport: str, tmp_path: Path) -> None:
    (burst,) = make_bursts(1, 8_000, seed=9, first_s=0.0)
    async with office(tmp_path) as agent, telephone(agent, "wonderland", transport) as phone:
        await phone.register(timeout=10)
        line = await phone.dial(f"{agent.target};transport={transport}")
        await line.wait_established(timeout=10)
        await talk(line, np.zeros(0, np.float32), 8_000, 1.0)
        assert await hears_itself(line, burst, 8_000)
        await line.hangup()
        await phone.unregister(timeout=10)
        assert await agent.stop() == 0
    (left,) = read(tmp_path / "calls")
    assert left.record["ended_by"] == "caller"
    assert np.abs(left.caller).max() > 0.2


async def test_a_wrong_password_is_refused_and_told(tmp_path: Path) -> None:
    from baresip import RegistrationError

    async with office(tmp_path) as agent, telephone(agent, "guess") as phone:
        with pytest.raises(RegistrationError) as error:
            await phone.register(timeout=10)
        assert error.value.status == 401
        while not any("127.0.0.1: request turned away, wrong user name or password" in line for line in agent.log):
            await asyncio.sleep(0.01)
