"""Calls over TLS to the whole agent: from libre, which looks at its certificate, and baresip; and OpenSSL's word."""

from __future__ import annotations

import asyncio
import re
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

from tests.peers.baresip import baresip
from tests.peers.folders import read
from tests.peers.libre import hears_itself, talk, telephone
from tests.peers.test_baresip import found, said
from tests.signaling.sip.certificates import Authority
from voipagent.lab.bursts import make_bursts
from voipagent.lab.serving import ServingAgent, serving_agent

CALL_S = 6.5


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def environ(folder: Path, certificate: Path, **more: object) -> dict[str, str]:
    return {
        "VOIPAGENT_ENGINE__MODEL": "echo",
        "VOIPAGENT_CALLS__DIR": str(folder / "calls"),
        "VOIPAGENT_SIP__TLS_PORT": "0",
        "VOIPAGENT_SIP__TLS_CERT": str(certificate),
    } | {f"VOIPAGENT_SIP__{name}": str(value) for name, value in more.items()}


def target(agent: ServingAgent) -> str:
    (port,) = (match[1] for line in agent.log if (match := re.search(r"TLS on port (\d+)", line)))
    return f"sip:agent@127.0.0.1:{port};transport=tls"


@pytest.mark.peer("baresip")
async def test_libre_calls_over_tls_both_looking_at_certificates(authority: Authority, tmp_path: Path) -> None:
    """It takes ours by its authority, and shows one of its own, which we demand."""
    (burst,) = make_bursts(1, 8_000, seed=8, first_s=0.0)
    settings = environ(tmp_path, authority.sign("127.0.0.1"), TLS_CA=authority.path, TLS_VERIFY="demand")
    own = authority.sign("sip:phone.example.com")
    config = {"sip_certificate": own, "sip_cafile": authority.path, "sip_verify_server": "yes"}
    calling = telephone(transport="tls", config=config)
    async with asyncio.timeout(60), serving_agent(settings) as agent, calling as caller:
        line = await caller.dial(target(agent))
        await line.wait_established(timeout=10)
        await talk(line, np.zeros(0, np.float32), 8_000, 1.0)
        assert await hears_itself(line, burst, 8_000)
        await line.hangup()
        assert await agent.stop() == 0
    (left,) = read(tmp_path / "calls")
    assert left.record["ended_by"] == "caller"


@pytest.mark.peer("baresip")
async def test_libre_without_a_certificate_is_not_heard_where_one_is_demanded(
    authority: Authority, tmp_path: Path
) -> None:
    from baresip import CallFailed

    settings = environ(tmp_path, authority.sign("127.0.0.1"), TLS_CA=authority.path, TLS_VERIFY="demand")
    async with asyncio.timeout(60), serving_agent(settings) as agent, telephone(transport="tls") as caller:
        line = await caller.dial(target(agent))
        with pytest.raises(CallFailed):
            await line.wait_established(timeout=10)
        assert await agent.stop() == 0
        assert any("x 127.0.0.1 failed to agree on TLS: it shows no certificate" in line for line in agent.log)


@pytest.mark.peer("/usr/bin/baresip")  # the program: a module has its name
async def test_baresip_calls_over_tls_and_we_hang_up(authority: Authority, tmp_path: Path) -> None:
    (tmp_path / "phone").mkdir()
    async with asyncio.timeout(60), serving_agent(environ(tmp_path, authority.sign("127.0.0.1"))) as agent:
        async with baresip(tmp_path / "phone", said(), transport="tls") as phone:
            await phone.tell("dial", target(agent))
            await phone.event("CALL_ESTABLISHED")
            await asyncio.sleep(CALL_S)
            assert await agent.stop() == 0
            await phone.event("CALL_CLOSED")
    (left,) = read(tmp_path / "calls")
    assert left.record["ended_by"] == "agent"
    assert found(left.caller[::3]) >= 3
    assert found(phone.heard()) >= 3


@pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl here")
async def test_openssl_finds_our_certificate_good_and_a_new_one_after_sighup(
    authority: Authority, tmp_path: Path
) -> None:
    used = tmp_path / "used.pem"
    used.write_bytes(authority.sign("before.example.com").read_bytes())
    async with asyncio.timeout(60), serving_agent(environ(tmp_path, used)) as agent:
        place = target(agent).partition("@")[2].partition(";")[0]
        assert await verified(place, "before.example.com", authority)
        assert not await verified(place, "after.example.com", authority)
        used.write_bytes(authority.sign("after.example.com").read_bytes())
        await hung_up(agent, "certificates were read again")
        assert await verified(place, "after.example.com", authority)
        used.write_text("nonsense")
        await hung_up(agent, "the certificates of before stay")
        assert await verified(place, "after.example.com", authority)
        assert await agent.stop() == 0


async def hung_up(agent: ServingAgent, told: str) -> None:
    """Send SIGHUP, and wait until the log says so."""
    agent.process.send_signal(signal.SIGHUP)
    while not any(told in line for line in agent.log):
        await asyncio.sleep(0.01)


async def verified(place: str, name: str, authority: Authority) -> bool:
    process = await asyncio.create_subprocess_exec(
        *("openssl", "s_client", "-connect", place, "-CAfile", str(authority.path), "-verify_hostname", name),
        *("-verify_return_error", "-brief"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    told, _ = await process.communicate()
    return b"Verification: OK" in told
