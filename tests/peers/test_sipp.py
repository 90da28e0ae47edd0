"""Calls from SIPp: each codec, digits, hold, and two hundred in a row."""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import threading
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.echo import EchoEngine
from media.answer import Legs
from media.codec import CODECS, PCMU, Codec
from media.leg import AudioFormat
from signaling.sip.endpoint import SipEndpoint
from tests.peers import sipp
from tests.peers.capture import Datagram, loopback
from tests.peers.folders import read
from tests.signaling.sip.answering import desk, leave
from voipagent.agent import Agent
from voipagent.calls import CallsSettings
from voipagent.lab.bursts import find, make_bursts, render
from voipagent.lab.serving import serving_agent
from voipagent.persona import Personas
from voipagent.recording import Recorder
from voipagent.settings import SipSettings

pytestmark = pytest.mark.peer("sipp")

PLAYED = [codec for codec in CODECS if codec.name != "opus"]
"""SIPp knows no Opus: `Unknown rtp payload type 96`."""

ROWS = 40
REGISTER = """
REGISTER sip:[remote_ip]:[remote_port] SIP/2.0
Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch]
From: <sip:100@[remote_ip]>;tag=[pid]T[call_number]
To: <sip:100@[remote_ip]>
Call-ID: [call_id]
CSeq: {number} REGISTER
Contact: <sip:100@[local_ip]:[local_port]>
Max-Forwards: 70
Expires: {expires}
{login}Content-Length: 0

"""
ASKED = '<recv response="401" auth="true"/>'
GRANTED = '<recv response="200"><action>{}</action></recv>'
DIGITS_PCAP = Path("/usr/share/sip-tester/dtmf_2833_1.pcap")


def talk_file(folder: Path, codec: Codec, samples: np.ndarray[tuple[int], np.dtype[np.float32]]) -> sipp.Talk:
    """`samples` as SIPp plays them: headerless, in the codec."""
    size = codec.sample_rate // 50
    encode = codec.make_encoder()
    path = folder / f"talk.{codec.name}"
    path.write_bytes(b"".join(encode(block) for block in np.split(samples, range(size, len(samples), size))))
    return sipp.Talk(codec.name, codec.payload_type, path)


def heard_by(port: int, seen: list[Datagram], codec: Codec) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """The audio that reached a port, put end to end."""
    decode = codec.make_decoder()
    packets = [d.payload for d in seen if d.target_port == port and d.payload[:1] == b"\x80"]
    return np.concatenate([decode(packet[12:]) for packet in packets if packet[1] & 0x7F == codec.payload_type])


@pytest.mark.parametrize("codec", PLAYED, ids=[codec.name for codec in PLAYED])
async def test_audio_both_ways_and_hold(codec: Codec, tmp_path: Path) -> None:
    (burst,) = make_bursts(1, codec.sample_rate, seed=9, first_s=0.0)
    talk = talk_file(tmp_path, codec, render([burst], codec.sample_rate, tail_s=0.5))
    environ = {"VOIPAGENT_ENGINE__MODEL": "echo", "VOIPAGENT_CALLS__DIR": str(tmp_path / "calls")}
    steps = (
        sipp.invite(talk),
        *(talk.stream, sipp.pause(2500)),
        *(sipp.reinvite(talk, 2, "sendonly"), sipp.pause(500), sipp.reinvite(talk, 3, "sendrecv"), sipp.pause(1500)),
        sipp.bye(4),
    )
    async with loopback() as seen, serving_agent(environ) as agent:
        await sipp.run(tmp_path, *steps, port=agent.sip_port)
        assert await agent.stop() == 0
    (left,) = read(tmp_path / "calls")
    port = int(left.record["media"]["remote"].rpartition(":")[2])
    assert left.record["media"]["codec"] == codec.name
    assert left.record["media"]["packets_received"] > 100
    assert find(burst.noise, heard_by(port, seen, codec)) is not None, "the agent's echo reached SIPp"
    assert np.abs(left.caller).max() > 0.2
    assert len(left.record["holds"]) == 1
    assert left.record["ended_by"] == "caller"


async def test_digits_from_a_capture(tmp_path: Path) -> None:
    """SIPp's own capture of the key 1, in RFC 4733."""
    pcap = shutil.copy(DIGITS_PCAP, tmp_path / "digit.pcap")
    talk = talk_file(tmp_path, PCMU, np.zeros(1600, np.float32))
    environ = {"VOIPAGENT_ENGINE__MODEL": "echo", "VOIPAGENT_CALLS__DIR": str(tmp_path / "calls")}
    play = f'<nop><action><exec play_pcap_audio="{pcap}"/></action></nop>'
    async with serving_agent(environ) as agent:
        await sipp.run(tmp_path, sipp.invite(talk), play, sipp.pause(1500), sipp.bye(2), port=agent.sip_port)
        assert await agent.stop() == 0
    (left,) = read(tmp_path / "calls")
    assert left.digits == "1"


@pytest.mark.parametrize("digests", [("MD5",), ("MD5", "SHA-256")])
async def test_it_registers_with_us_and_leaves(digests: tuple[str, ...], tmp_path: Path) -> None:
    """By its password, which our challenge asks for both times; it knows MD5 alone, and reads one challenge."""
    settings: dict[str, Any] = {"allow": (), "challenge": (ip_network("127.0.0.0/8"),)}
    settings |= {"users": {"100": "wonderland"}, "digests": digests}
    login = "[authentication username=100 password=wonderland]\n"
    here = '<ereg regexp="expires=60" search_in="hdr" header="Contact:" check_it="true" assign_to="seen"/>'
    nobody = '<ereg regexp="Contact:" search_in="msg" check_it_inverse="true" assign_to="seen"/>'
    steps: list[str] = []
    for number, expires, looks in ((1, 60, here), (3, 0, nobody)):
        steps += sipp.send(REGISTER.format(number=number, expires=expires, login="")), ASKED
        steps += sipp.send(REGISTER.format(number=number + 1, expires=expires, login=login)), GRANTED.format(looks)
    async with desk(leave, **settings) as agent:
        await sipp.run(tmp_path, *steps, '<Reference variables="seen"/>', port=agent.port)


async def test_two_hundred_calls_leave_nothing_behind(tmp_path: Path) -> None:
    """No thread, task, port or file: counted before the first call and after the last."""
    talk = talk_file(tmp_path, PCMU, np.zeros(1600, np.float32))
    engine, calls = EchoEngine(rows=ROWS), CallsSettings(dir=tmp_path / "calls")
    calls.dir.mkdir()
    format_ = AudioFormat(engine.sample_rate, engine.frame_samples)
    with Recorder() as recorder:
        async with (
            engine,
            Legs(format_, ports=(30_000, 30_999)) as legs,
            SipEndpoint("127.0.0.1", 0, allow=SipSettings().allow) as sip,
        ):
            agent = Agent(
                engine, lambda offer: legs.open_leg(offer.media, offer.source[0]), Personas(), recorder, calls
            )
            running = asyncio.create_task(agent.run(sip))
            await sipp.run(tmp_path, *short(talk), port=sip.port, calls=5)
            await until_idle(engine)
            before = counts()
            await sipp.run(tmp_path, *short(talk), port=sip.port, calls=200, rate=10)
            await until_idle(engine)
            assert counts() == before
            running.cancel()
            await asyncio.wait([running])
    ended = [left.record for left in read(calls.dir)]
    assert len(ended) == 205
    assert {(record["ended_by"], record["recording_error"]) for record in ended} == {("caller", "")}


def short(talk: sipp.Talk) -> tuple[str, ...]:
    return sipp.invite(talk), talk.stream, sipp.pause(400), sipp.bye(2)


async def until_idle(engine: EchoEngine) -> None:
    """Every row is free again."""
    async with asyncio.timeout(10):
        while engine.free < ROWS:
            await asyncio.sleep(0.02)


def counts() -> dict[str, int]:
    gc.collect()
    return {
        "threads": threading.active_count(),
        "tasks": len(asyncio.all_tasks()),
        "files": len(os.listdir("/proc/self/fd")),
    }
