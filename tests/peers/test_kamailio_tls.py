"""Kamailio over TLS: we look at its certificate, and it reaches us by the connection that we registered by."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from tests.peers.folders import read
from tests.peers.kamailio import kamailio
from tests.peers.libre import hears_itself, talk, telephone
from tests.peers.test_kamailio import call, environ, registered, trunks
from tests.signaling.sip.certificates import Authority
from voipagent.lab.bursts import make_bursts
from voipagent.lab.serving import serving_agent

pytestmark = pytest.mark.peer("kamailio")


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.mark.peer("baresip")
async def test_it_registers_by_tls_and_is_called_by_the_same_connection(authority: Authority, tmp_path: Path) -> None:
    """The agent has no certificate and listens for no TLS: there is no other way to it."""
    (burst,) = make_bursts(1, 8_000, seed=12, first_s=0.0)
    async with asyncio.timeout(90), kamailio(certificate=authority.sign("127.0.0.1")) as proxy:
        trunk = proxy.trunk("1000", TRANSPORT="tls", PORT=str(proxy.tls_port))
        trunk["VOIPAGENT_SIP__TLS_CA"] = str(authority.path)
        async with serving_agent(environ(tmp_path, **trunk)) as agent, telephone("pcmu") as phone:
            await registered(agent, "house")
            line = await call(proxy, "1000", phone)
            await talk(line, np.zeros(0, np.float32), 8_000, 1.0)
            assert await hears_itself(line, burst, 8_000)
            assert await agent.stop() == 0  # it hangs up along the Record-Route, and leaves the registrar
            await proxy.said("loose BYE 1000")
            await proxy.said("saved 1000 0")
    (left,) = read(tmp_path / "calls")
    assert (left.record["trunk"], left.record["ended_by"]) == ("house", "agent")
    assert np.abs(left.caller).max() > 0.2


async def test_a_registrar_that_is_somebody_else_is_not_told_our_password(authority: Authority, tmp_path: Path) -> None:
    async with asyncio.timeout(60), kamailio(certificate=authority.sign("sip:other.example.com")) as proxy:
        trunk = proxy.trunk("1000", TRANSPORT="tls", PORT=str(proxy.tls_port))
        trunk["VOIPAGENT_SIP__TLS_CA"] = str(authority.path)
        async with serving_agent(environ(tmp_path, **trunk)) as agent:
            while (state := (await trunks(agent))["house"])["registered"] is None:
                await asyncio.sleep(0.05)
            assert state["registered"] is False
            assert "its certificate is for other.example.com, not for 127.0.0.1" in state["why"]
            assert any(state["why"] in line for line in agent.log)
            assert await agent.stop() == 0
        assert "saved" not in proxy.log.read_text()
