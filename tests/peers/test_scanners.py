"""sipvicious, with which strangers look for something to call through: it finds nothing, and guesses ten times."""

from __future__ import annotations

import asyncio
import re
import sys
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from signaling.sip.guard import FAILURES
from tests.peers.capture import loopback
from tests.signaling.sip.answering import Desk, desk, leave
from tests.signaling.sip.peer import udp_peer

pytestmark = pytest.mark.peer("sipvicious")

STRANGER = "127.0.0.1"
"""Where all of its programs send from, whatever they are told."""

FRIEND = "127.0.0.9"
ALLOWED: dict[str, Any] = {"allow": (ip_network(f"{FRIEND}/32"),)}
PASSWORD = "555"
"""One that svcrack comes to by itself: it counts from 100 to 999."""


async def scan(folder: Path, program: str, *options: str) -> str:
    """Run one of its programs; what it says."""
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).with_name(f"sipvicious_{program}")),
        *options,
        cwd=folder,
        env={"HOME": str(folder), "PATH": "/usr/bin:/bin", "COLUMNS": "200"},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), 60)
    except BaseException:
        process.kill()
        await process.wait()
        raise
    return output.decode(errors="replace")


async def check_alive(agent: Desk) -> None:
    async with udp_peer(agent.port, FRIEND) as peer:
        peer.ask("OPTIONS")
        await peer.response(200)


@pytest.mark.parametrize(
    ("program", "options"),
    [
        ("svmap", ["-p{port}", "127.0.0.1"]),
        ("svmap", ["-p{port}", "-m", "INVITE", "127.0.0.1"]),
        ("svwar", ["--force", "--maximumtime=1", "udp://127.0.0.1:{port}"]),
        ("svcrack", ["-u", "100", "--maximumtime=1", "udp://127.0.0.1:{port}"]),
    ],
    ids=["svmap", "svmap INVITE", "svwar", "svcrack"],
)
async def test_a_strangers_scan_gets_no_answer(program: str, options: list[str], tmp_path: Path) -> None:
    async with loopback() as seen, desk(leave, **ALLOWED) as agent:
        said = await scan(tmp_path, program, *(option.format(port=agent.port) for option in options))
        assert any(datagram.target_port == agent.port for datagram in seen), said
        assert [datagram for datagram in seen if datagram.source_port == agent.port] == []
        assert agent.sip._gate.turned_away > 0 and not agent.calls
        await check_alive(agent)


async def test_ten_wrong_passwords_are_all_that_are_heard(tmp_path: Path) -> None:
    """From where a password is asked for: the right one would be tried as well, were it not for the ban."""
    settings = ALLOWED | {"challenge": (ip_network(f"{STRANGER}/32"),), "users": {"100": PASSWORD}}
    async with loopback() as seen, desk(leave, **settings) as agent:
        said = await scan(tmp_path, "svcrack", "-u", "100", "--maximumtime=1", f"udp://127.0.0.1:{agent.port}")
        registrar = agent.sip._agent._registrar
        assert registrar is not None
        assert registrar.guard.failures == {"100": FAILURES}
        assert registrar.guard.banned(STRANGER, asyncio.get_running_loop().time())
        answers = [datagram.payload for datagram in seen if datagram.source_port == agent.port]
        assert {payload[:11] for payload in answers} == {b"SIP/2.0 401"}
        assert not re.search(rf"\b{PASSWORD}\b", said)  # a time it took may have those digits in it
        await check_alive(agent)
