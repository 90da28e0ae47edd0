"""`voipagent dial` and the API, whole: one agent of ours calls another, each a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import struct
import sys
import urllib.request
import wave
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tests.peers.folders import read
from tests.signaling.sip.answering import ANSWER
from tests.signaling.sip.test_outgoing import Phone, phone
from voipagent.lab.serving import serving_agent

ECHO = {"VOIPAGENT_ENGINE__MODEL": "echo"}
GREETING = "Hello, this is Ada. How can I help?"


def in_folder(folder: Path, **more: str) -> Mapping[str, str]:
    return {**ECHO, "VOIPAGENT_CALLS__DIR": str(folder), **more}


async def dial(environ: Mapping[str, str], *arguments: str, interrupt_after: str = "") -> tuple[int, str, str]:
    """Exit code and what was printed; with a word in its log after which it is interrupted."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "voipagent", "dial", *arguments),
        env={**os.environ, "VOIPAGENT_SIP__HOST": "127.0.0.1", "VOIPAGENT_SIP__PORT": "0", **environ},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None and process.stderr is not None
    log = []
    async with asyncio.timeout(60):
        async for line in process.stderr:
            log.append(line.decode())
            if interrupt_after and interrupt_after in log[-1]:
                process.send_signal(signal.SIGINT)
        printed = await process.stdout.read()
        return await process.wait(), printed.decode(), "".join(log)


def records(folder: Path) -> list[dict[str, Any]]:
    """What is left of calls that may have no recording."""
    return [json.loads(path.read_text()) for path in folder.glob("*/call.json")]


async def test_we_ring_ourselves_press_keys_and_hang_up(tmp_path: Path) -> None:
    allow = {"VOIPAGENT_OUTBOUND__DIRECT": "agent@127.0.0.1:*", "VOIPAGENT_OUTBOUND__MAX_CALL": "4"}
    greets = {"VOIPAGENT_PERSONA__GREETING": GREETING}
    async with asyncio.timeout(90), serving_agent(in_folder(tmp_path / "there")) as agent:
        code, printed, log = await dial(
            in_folder(tmp_path / "here", **allow, **greets), agent.target, "--digits", "12#"
        )
        assert code == 0, log
        assert printed == "over: the call lasted 4 s, which is the longest allowed\n"
        assert await agent.stop() == 0
    (ours,), (theirs,) = read(tmp_path / "here"), read(tmp_path / "there")
    assert (ours.record["direction"], theirs.record["direction"]) == ("out", "in")
    assert (ours.record["ended_by"], theirs.record["ended_by"]) == ("agent", "caller")
    assert ours.record["rang"] <= ours.record["answered"]
    assert theirs.digits == "12#"
    assert ours.lines[0].text == GREETING
    for side in (ours, theirs):
        assert side.record["outcome"] == ""
        assert side.record["media"]["packets_received"] > 100
        assert 3 < side.record["duration_s"] < 6


async def test_the_announcement_why_a_call_failed_is_kept(tmp_path: Path) -> None:
    """A far end that says something in its early media, and then that there is no such number."""
    audio = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    audio.bind(("127.0.0.1", 0))
    audio.setblocking(False)
    sdp = ANSWER.replace("50000", str(audio.getsockname()[1]))
    says = [b"\x00" * 160, b"\x80" * 160]  # the loudest that PCMU has, below and above

    async def announce(far: Phone) -> None:
        async with asyncio.timeout(60):  # a process has to begin
            invite = await far.asked.get()
        assert invite.media is not None
        far.say(invite, 183, body=sdp)
        to = ("127.0.0.1", int(invite.media.partition("m=audio ")[2].partition(" ")[0]))
        for number in range(60):
            packet = struct.pack("!BBHII", 0x80, 0, number, number * 160, 7) + says[number % 2]
            audio.sendto(packet, to)
            await asyncio.sleep(0.02)
        far.say(invite, 404)
        await far.hear("ACK")

    environ = in_folder(tmp_path, VOIPAGENT_OUTBOUND__DIRECT="*")
    with audio:
        async with phone() as far, asyncio.TaskGroup() as group:
            group.create_task(announce(far))
            code, printed, log = await dial(environ, f"sip:nobody@127.0.0.1:{far.port}")
    assert (code, printed) == (1, "not found: the far end knows no such number: 404 Fine\n"), log
    (record,) = records(tmp_path)
    assert (record["outcome"], record["early"], record["frames_stepped"]) == ("not found", "early.wav", 0)
    assert 0.8 < record["early_s"] < 3
    (path,) = tmp_path.glob("*/early.wav")
    with wave.open(str(path)) as file:
        left = np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, 2)[:, 0]
    assert np.abs(left.astype(np.float32)).mean() > 8000


async def test_a_call_that_no_setting_allows_is_one_clear_line(tmp_path: Path) -> None:
    code, printed, log = await dial(in_folder(tmp_path), "+49 30 1234")
    assert (code, printed) == (1, "")
    assert log.splitlines()[-1].startswith("voipagent: no pattern allows calls to +49301234")
    assert "VOIPAGENT_TRUNKS__<NAME>__OUTBOUND" in log and "Traceback" not in log
    assert records(tmp_path) == [] == list(tmp_path.glob("*Z-*"))


async def test_interrupted_it_hangs_up(tmp_path: Path) -> None:
    allow = {"VOIPAGENT_OUTBOUND__DIRECT": "*"}
    async with asyncio.timeout(90), serving_agent(in_folder(tmp_path / "there")) as agent:
        code, printed, _ = await dial(in_folder(tmp_path / "here", **allow), agent.target, interrupt_after="answered")
        assert (code, printed) == (0, "over: the agent is shutting down\n")
        assert await agent.stop() == 0
    (theirs,) = records(tmp_path / "there")
    assert (theirs["ended_by"], theirs["reason"]) == ("caller", "the agent is shutting down")


async def test_an_agent_that_serves_calls_another_when_it_is_told_to(tmp_path: Path) -> None:
    """And is refused there: the row of the other is taken by the first call."""
    settings = {"VOIPAGENT_HTTP__TOKEN": "s3cret", "VOIPAGENT_OUTBOUND__DIRECT": "*"}
    one_row = in_folder(tmp_path / "there", VOIPAGENT_ENGINE__ROWS="1")
    async with asyncio.timeout(90), serving_agent(one_row) as there:
        async with serving_agent(in_folder(tmp_path / "here", **settings)) as here:
            for _ in range(2):
                assert await asyncio.to_thread(post, here.http_port, there.target) == 202
            while not any("is busy: 486" in line for line in here.log):
                await asyncio.sleep(0.02)
            assert await here.stop() == 0
        assert await there.stop() == 0
    talked, refused = sorted(records(tmp_path / "here"), key=lambda record: record["outcome"])
    assert (talked["outcome"], talked["ended_by"]) == ("", "agent")
    assert (refused["outcome"], refused["ended_by"], refused["answered"]) == ("busy", "callee", "")


def post(port: int, target: str) -> int:
    body = json.dumps({"target": target}).encode()
    headers = {"Authorization": "Bearer s3cret", "Content-Type": "application/json"}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/api/v1/calls", body, headers)
    with urllib.request.urlopen(request, timeout=10) as response:
        status: int = response.status
        return status


async def test_interrupted_once_it_is_over_it_says_how_it_ended(tmp_path: Path) -> None:
    """While we wait for a far end that does not answer our BYE."""
    async with phone() as far, asyncio.TaskGroup() as group:

        async def take() -> None:
            async with asyncio.timeout(60):  # a process has to begin
                far.say(await far.asked.get(), 200, body=ANSWER)

        group.create_task(take())
        environ = in_folder(tmp_path, VOIPAGENT_OUTBOUND__DIRECT="*", VOIPAGENT_OUTBOUND__MAX_CALL="1")
        code, printed, _ = await dial(environ, f"sip:bob@127.0.0.1:{far.port}", interrupt_after=" over after ")
    assert (code, printed) == (0, "over: the call lasted 1 s, which is the longest allowed\n")
