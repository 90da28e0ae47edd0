"""The whole agent as a process: how it starts, how it ends, and what one call through it takes."""

from __future__ import annotations

import asyncio
import csv
import os
import shutil
import signal
import socket
import stat
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from engine.slot import PromptError
from tests.peers.folders import read
from voipagent.app import serve
from voipagent.calls import CallsSettings
from voipagent.http import HttpSettings
from voipagent.index import CallIndex, Query
from voipagent.lab.demo import SENTENCES
from voipagent.lab.latency import Echo, Report, measure_call
from voipagent.lab.phone import Codec, PhoneError, Target, call
from voipagent.lab.serving import serving_agent
from voipagent.persona import Persona
from voipagent.settings import EngineSettings, Settings, SipSettings
from voipagent.transcript import FILES, LIVE

ECHO = {"VOIPAGENT_ENGINE__MODEL": "echo"}
PCMU = Codec(0, "PCMU")
GREETING = "Hello, this is Ada. How can I help?"


def in_folder(tmp_path: Path, **more: str) -> Mapping[str, str]:
    return {**ECHO, "VOIPAGENT_CALLS__DIR": str(tmp_path / "calls"), **more}


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_a_signal_hangs_up_closes_the_record_and_ends_with_0(number: signal.Signals, tmp_path: Path) -> None:
    async with asyncio.timeout(60), serving_agent(in_folder(tmp_path)) as agent:
        async with call(Target.parse(agent.target), PCMU) as phone:
            await phone.send([b"\xff" * 160] * 50)
            began = time.monotonic()
            assert await agent.stop(number) == 0
            assert time.monotonic() - began < 3 * 5
            await asyncio.wait_for(phone.ended.wait(), 5)
    (left,) = read(tmp_path / "calls")
    assert (left.record["ended_by"], left.record["reason"]) == ("agent", "the agent is shutting down")
    assert left.record["frames_stepped"] >= 8
    assert len(left.caller) == len(left.agent) == round(24_000 * left.record["duration_s"])


async def test_what_a_call_leaves_is_private_and_begins_with_the_greeting(tmp_path: Path) -> None:
    """Also for who has his agents log little: it is found all the same."""
    environ = in_folder(tmp_path, VOIPAGENT_PERSONA__GREETING=GREETING, VOIPAGENT_LOG__LEVEL="warning")
    async with asyncio.timeout(60), serving_agent(environ) as agent:
        async with call(Target.parse(agent.target), PCMU) as phone:
            await phone.send([b"\xff" * 160] * 225)
            assert len(phone.received) > 200
        assert await agent.stop() == 0
    (left,) = read(tmp_path / "calls")
    assert left.lines[0].text == GREETING
    assert left.record["ended_by"] == "caller"
    folder, index = sorted((tmp_path / "calls").iterdir())
    assert stat.S_IMODE(index.stat().st_mode) == 0o600
    assert [entry.path for entry in CallIndex(tmp_path / "calls").find(Query())] == [folder.name]
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    assert {path.name for path in folder.iterdir()} == {"call.json", "recording.wav", LIVE, *FILES}


async def test_one_call_too_many_is_busy_and_the_first_goes_on(tmp_path: Path) -> None:
    environ = in_folder(tmp_path, VOIPAGENT_ENGINE__ROWS="1")
    async with asyncio.timeout(60), serving_agent(environ) as agent:
        async with call(Target.parse(agent.target), PCMU) as phone:
            await phone.send([b"\xff" * 160] * 10)
            with pytest.raises(PhoneError, match="486 Busy Here"):
                async with call(Target.parse(agent.target), PCMU):
                    pass
            before = len(phone.received)
            await phone.send([b"\xff" * 160] * 25)
            assert len(phone.received) - before > 15
        while not await answers(agent.target):  # the row is free once the first call's record is closed
            pass


async def answers(target: str) -> bool:
    try:
        async with call(Target.parse(target), PCMU):
            return True
    except PhoneError as error:
        assert "486" in str(error)
        return False


async def test_the_transport_adds_little(tmp_path: Path) -> None:
    """Two calls at once, one losing 2 % each way: every burst comes back. Time fails only at three times the target."""
    async with asyncio.timeout(90), serving_agent(in_folder(tmp_path)) as agent:
        lossy, _ = await asyncio.gather(
            measure_call(agent.target, "pcmu", bursts=30, loss=0.02, seed=1),
            bench_to(tmp_path / "trips.csv", agent.target),
        )
    rows = list(csv.DictReader((tmp_path / "trips.csv").read_text().splitlines()))
    clean = Report("pcmu", 0.0, tuple(Echo(float(row["sent_s"]), float(row["round_trip_s"])) for row in rows))
    assert len(rows) == 30
    assert (clean.missing, lossy.missing) == (0, 0)
    assert clean.percentile(0.5) < 3 * 0.14, str(clean)
    assert lossy.percentile(0.5) < 3 * 0.18, str(lossy)


async def bench_to(report: Path, target: str) -> None:
    """`voipagent bench latency`, as the README has it."""
    bench = ("bench", "latency", "--target", target, "--codec", "pcmu", "--bursts", "30", "--csv", str(report))
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "voipagent", *bench)
    assert await process.wait() == 0


async def refused(environ: Mapping[str, str], *arguments: str) -> str:
    """What `voipagent serve` says when it does not start: one line."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "voipagent", *(arguments or ("serve",))),
        env={**os.environ, **environ},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    _, stderr = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 1
    told = [line for line in stderr.decode().splitlines() if line.startswith("voipagent: ")]
    assert len(told) == 1
    assert "Traceback" not in stderr.decode()
    return told[0]


async def test_a_busy_sip_port_is_one_clear_line(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        environ = in_folder(tmp_path, VOIPAGENT_SIP__HOST="127.0.0.1", VOIPAGENT_SIP__PORT=str(port))
        line = await refused(environ)
    assert str(port) in line
    assert "in use" in line


async def test_a_busy_http_port_is_one_clear_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        environ = {"VOIPAGENT_SIP__HOST": "127.0.0.1", "VOIPAGENT_SIP__PORT": "0", "VOIPAGENT_HTTP__PORT": port}
        line = await refused(in_folder(tmp_path, **environ))
    assert f"127.0.0.1:{port}: Address already in use" in line


async def test_a_call_folder_that_cannot_be_written_is_no_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    line = await refused({**ECHO, "VOIPAGENT_CALLS__DIR": str(tmp_path / "file" / "calls")})
    assert "VOIPAGENT_CALLS__DIR" in line


async def test_a_wrong_setting_is_no_start() -> None:
    line = await refused({"VOIPAGENT_SIP__PROT": "5060"})
    assert "VOIPAGENT_SIP__PROT is not a setting; did you mean VOIPAGENT_SIP__PORT?" in line


async def test_a_persona_that_no_call_could_have_is_no_start(nano: Path, tmp_path: Path) -> None:
    """Not a fault that each caller finds anew."""
    settings = Settings(
        sip=SipSettings(host="127.0.0.1", port=0),
        http=HttpSettings(port=0),
        engine=EngineSettings(model=str(nano), rows=1, device="cpu"),
        persona=Persona(voice="bob"),
        calls=CallsSettings(dir=tmp_path),
    )
    async with asyncio.timeout(60):
        with pytest.raises(PromptError, match="no voice 'bob' lies beside the weights"):
            await serve(settings)


async def test_talk_names_a_torn_checkpoint(nano: Path, tmp_path: Path) -> None:
    torn = shutil.copytree(nano, tmp_path / "torn")
    weights = torn / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    line = await refused(
        {"VOIPAGENT_ENGINE__MODEL": str(torn)}, "talk", str(SENTENCES / "sunday.ogg"), str(tmp_path / "o")
    )
    assert "model.safetensors" in line


async def test_talk_names_what_is_no_audio(tmp_path: Path) -> None:
    (tmp_path / "in.wav").write_text("no audio")
    line = await refused(ECHO, "talk", str(tmp_path / "in.wav"), str(tmp_path / "out.wav"))
    assert "in.wav" in line


async def test_a_target_where_nobody_answers_says_what_to_look_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("voipagent.lab.phone.RING_S", 0.3)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as deaf:
        deaf.bind(("127.0.0.1", 0))
        with pytest.raises(PhoneError, match="VOIPAGENT_SIP__ALLOW"):
            async with call(Target("agent", "127.0.0.1", deaf.getsockname()[1]), PCMU):
                pass
