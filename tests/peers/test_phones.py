"""A telephone of our own: libre/baresip registers with the agent, calls it by its password, and leaves."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import urllib.request
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.peers.folders import read
from tests.peers.libre import Phone, hears_itself, ringing, talk, telephones
from voipagent.lab.bursts import make_bursts
from voipagent.lab.serving import ServingAgent, serving_agent

pytestmark = pytest.mark.peer("baresip")

ELSEWHERE = {"VOIPAGENT_SIP__ALLOW": "192.0.2.0/24", "VOIPAGENT_SIP__CHALLENGE": "127.0.0.0/8"}
USERS = {"VOIPAGENT_SIP__USERS__LIBRE__PASSWORD": "wonderland"}


def user(agent: ServingAgent, password: str = "wonderland", transport: str = "udp") -> Phone:
    """Whose registrar is the agent."""
    return Phone(transport=transport, password=password, domain=f"127.0.0.1:{agent.sip_port}")


@contextlib.asynccontextmanager
async def office(tmp_path: Path, **more: str) -> AsyncIterator[ServingAgent]:
    environ = more | {"VOIPAGENT_ENGINE__MODEL": "echo", "VOIPAGENT_CALLS__DIR": str(tmp_path / "calls")}
    async with asyncio.timeout(60), serving_agent(environ | ELSEWHERE | USERS) as agent:
        yield agent


@pytest.mark.parametrize("transport", ["udp", "tcp"])
async def test_it_registers_calls_and_leaves(transport: str, tmp_path: Path) -> None:
    (burst,) = make_bursts(1, 8_000, seed=9, first_s=0.0)
    async with office(tmp_path) as agent, telephones(user(agent, transport=transport)) as (phone,):
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


async def call(agent: ServingAgent, target: str) -> None:
    """Have it call somebody, over the API."""
    body = json.dumps({"target": target}).encode()
    headers = {"Authorization": "Bearer s3cret", "Content-Type": "application/json"}
    request = urllib.request.Request(f"http://127.0.0.1:{agent.http_port}/api/v1/calls", body, headers)
    answer = await asyncio.to_thread(urllib.request.urlopen, request, timeout=10)
    with answer:
        assert answer.status == 202


@pytest.mark.parametrize(
    ("digests", "transport", "srtp", "encryption"),
    [("sha-256,md5", "udp", "dtls", "dtls_srtp"), ("sha-256", "tcp", "demand", "srtp-mand")],
)
async def test_it_is_called_by_us(digests: str, transport: str, srtp: str, encryption: str, tmp_path: Path) -> None:
    """Encrypted, when the API has it called by its name. It logs in by SHA-256; of two digests it takes the last."""
    (burst,) = make_bursts(1, 8_000, seed=10, first_s=0.0)
    more = {"VOIPAGENT_HTTP__TOKEN": "s3cret", "VOIPAGENT_SIP__DIGESTS": digests, "VOIPAGENT_LOG__LEVEL": "debug"}
    more["VOIPAGENT_SIP__SRTP"] = srtp
    async with (
        office(tmp_path, **more) as agent,
        ringing(replace(user(agent, transport=transport), encryption=encryption)) as (_, calls),
    ):
        while not (answers := [line for line in agent.log if line.startswith("  Authorization: Digest")]):
            await asyncio.sleep(0.02)
        assert digests != "sha-256" or all("algorithm=SHA-256" in line for line in answers)
        await call(agent, "libre")
        line = await calls.get()
        await line.answer()
        await line.wait_established(timeout=10)
        await talk(line, np.zeros(0, np.float32), 8_000, 1.0)
        assert await hears_itself(line, burst, 8_000)
        await line.hangup()
        while not any("hung up" in line for line in agent.log if "over after" in line):
            await asyncio.sleep(0.02)
    (left,) = read(tmp_path / "calls")
    assert (left.record["direction"], left.record["callee"], left.record["ended_by"]) == ("out", "libre", "callee")
    assert np.abs(left.caller).max() > 0.2
    (used,) = left.record["media"]["encryption"]
    assert used.startswith("DTLS " if srtp == "dtls" else "A")


CONFIG = """
poll_method epoll
sip_listen 127.0.0.1:{port}
net_interface 127.0.0.1
module_path /usr/lib/baresip/modules
module g711.so
module_app account.so
module_app menu.so
"""


@pytest.mark.peer("/usr/bin/baresip")  # the program: a module has its name
async def test_an_older_one_registers_too(tmp_path: Path) -> None:
    """baresip 1.0.0 of 2020, which answers nothing where SHA-256 is among what is asked for."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    (tmp_path / "config").write_text(CONFIG.format(port=port))
    (tmp_path / "contacts").write_text("")
    debug = {"VOIPAGENT_ENGINE__MODEL": "echo", "VOIPAGENT_CALLS__DIR": str(tmp_path / "calls")}
    debug |= {"VOIPAGENT_LOG__LEVEL": "debug"}
    async with asyncio.timeout(60), serving_agent(debug | ELSEWHERE | USERS) as agent:
        account = f"<sip:libre@127.0.0.1:{agent.sip_port}>;auth_pass=wonderland;regint=60"
        (tmp_path / "accounts").write_text(account + "\n")
        process = await asyncio.create_subprocess_exec(
            *("baresip", "-f", str(tmp_path), "-t", "30"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            await _answered(agent, 1, expires=60)
        finally:
            process.terminate()  # and it takes itself off again
            await process.wait()
        await _answered(agent, 2, expires=None)


async def _answered(agent: ServingAgent, times: int, expires: int | None) -> None:
    """Wait until a REGISTER was answered with a 200 so many times, the last one with or without a Contact."""
    while (log := "\n".join(agent.log)).count("SIP/2.0 200 OK") < times or not log.endswith("Content-Length: 0\n\n"):
        await asyncio.sleep(0.01)
    answer = log.rpartition("SIP/2.0 200 OK")[2]
    assert "REGISTER" in answer
    assert ("Contact: <sip:libre" in answer and f";expires={expires}" in answer) == (expires is not None)


async def test_a_wrong_password_is_refused_and_told(tmp_path: Path) -> None:
    from baresip import RegistrationError

    async with office(tmp_path) as agent, telephones(user(agent, "guess")) as (phone,):
        with pytest.raises(RegistrationError) as error:
            await phone.register(timeout=10)
        assert error.value.status == 401
        while not any("127.0.0.1: request turned away, wrong user name or password" in line for line in agent.log):
            await asyncio.sleep(0.01)
