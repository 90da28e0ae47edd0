"""Calls from SIPp: each codec, digits, hold, and two hundred in a row."""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

from engine.echo import EchoEngine
from media.answer import Legs
from media.codec import CODECS, Codec
from media.leg import AudioFormat
from signaling.sip.endpoint import SipEndpoint
from tests.peers import sipp
from tests.peers.capture import Datagram, loopback
from tests.peers.folders import read
from voipagent.agent import Agent
from voipagent.lab.bursts import find, make_bursts, render
from voipagent.lab.serving import serving_agent
from voipagent.persona import Personas
from voipagent.recording import Recorder
from voipagent.settings import CallsSettings, SipSettings

pytestmark = pytest.mark.peer("sipp")

ROWS = 40
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


@pytest.mark.parametrize("codec", CODECS, ids=[codec.name for codec in CODECS])
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
    talk = talk_file(tmp_path, CODECS[0], np.zeros(1600, np.float32))
    environ = {"VOIPAGENT_ENGINE__MODEL": "echo", "VOIPAGENT_CALLS__DIR": str(tmp_path / "calls")}
    play = f'<nop><action><exec play_pcap_audio="{pcap}"/></action></nop>'
    async with serving_agent(environ) as agent:
        await sipp.run(tmp_path, sipp.invite(talk), play, sipp.pause(1500), sipp.bye(2), port=agent.sip_port)
        assert await agent.stop() == 0
    (left,) = read(tmp_path / "calls")
    assert left.digits == "1"


async def test_two_hundred_calls_leave_nothing_behind(tmp_path: Path) -> None:
    """No thread, task, port or file: counted before the first call and after the last."""
    talk = talk_file(tmp_path, CODECS[0], np.zeros(1600, np.float32))
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
