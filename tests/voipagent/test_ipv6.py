"""The whole agent over IPv6: signalling and audio, by an address of that kind alone and beside IPv4."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from tests.peers.folders import read
from voipagent.lab.phone import Codec, Target, call
from voipagent.lab.serving import serving_agent


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="this kernel has no IPv6 loopback")
@pytest.mark.parametrize(("listens", "called"), [("::1", ("::1",)), ("::", ("::1", "127.0.0.1"))])
async def test_a_call_is_heard_and_answered(listens: str, called: tuple[str, ...], tmp_path: Path) -> None:
    environ = {
        "VOIPAGENT_ENGINE__MODEL": "echo",
        "VOIPAGENT_CALLS__DIR": str(tmp_path / "calls"),
        "VOIPAGENT_SIP__HOST": listens,
    }
    async with asyncio.timeout(60), serving_agent(environ) as agent:
        for host in called:
            async with call(Target("agent", host, agent.sip_port), Codec(0, "PCMU")) as phone:
                await phone.send([b"\x80" * 160] * 60)
                assert len(phone.received) > 40
        assert await agent.stop() == 0
    for left, host in zip(read(tmp_path / "calls"), called, strict=True):
        assert left.record["media"]["packets_received"] > 50
        assert left.record["media"]["remote"].startswith(f"[{host}]:" if ":" in host else f"{host}:")
