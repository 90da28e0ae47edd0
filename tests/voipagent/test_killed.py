"""An agent that is killed in mid-call: all but the last second is readable, and the next start closes the record."""

from __future__ import annotations

import asyncio
import json
import math
import signal
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from media.codec import CODECS
from voipagent.index import CallIndex, Query
from voipagent.lab.phone import Codec, Target, call
from voipagent.lab.serving import serving_agent
from voipagent.record import RECORD

TALK_S = 4.0
LOST_S = 1.0
NOISY_S = 0.5
"""How late a busy machine may be beside."""

GREETING = "Hello, this is Ada, and I have a great deal to tell you about opening hours, repairs, rentals and prices."
PCMU = next(codec for codec in CODECS if codec.name == "PCMU")


def tone(seconds: float) -> list[bytes]:
    """20 ms each, too soft to be a caller who interrupts."""
    encode = PCMU.make_encoder()
    wave = (0.02 * np.sin(2 * math.pi * 440 * np.arange(round(8000 * seconds)) / 8000)).astype(np.float32)
    return [encode(block) for block in np.split(wave, range(160, len(wave), 160))]


async def kill_in_mid_call(environ: Mapping[str, str]) -> float:
    """The seconds that the caller has spoken until then."""
    async with serving_agent(environ) as agent:
        async with call(Target.parse(agent.target), Codec(0, "PCMU")) as phone:
            await phone.send(tone(TALK_S))
            agent.process.kill()
            assert await agent.process.wait() == -signal.SIGKILL
            phone.ended.set()  # nobody is there to say goodbye to
    return TALK_S


def heard(path: Path) -> NDArray[np.float32]:
    """(2, T) of a recording that nobody finished, read by FFmpeg; times by its rate."""
    with av.open(str(path)) as file:
        rate = file.streams.audio[0].rate
        resampler = av.AudioResampler(format="fltp", layout="stereo", rate=8000)
        pieces = [piece for frame in file.decode(audio=0) for piece in resampler.resample(frame)]
        assert rate in (24_000, 48_000)
    samples: NDArray[np.float32] = np.concatenate([piece.to_ndarray() for piece in pieces], axis=1).astype(np.float32)
    return samples


def only(calls: Path) -> Path:
    (folder,) = calls.glob("*Z-*")
    return folder


def listed(port: int) -> list[tuple[str, str]]:
    """What the API says that there is, and how it ended."""
    asked = urllib.request.Request(f"http://127.0.0.1:{port}/api/v1/calls", headers={"Authorization": "Bearer s3cret"})
    with urllib.request.urlopen(asked, timeout=10) as answer:
        return [(call["path"], call["reason"]) for call in json.load(answer)["calls"]]


def record(folder: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((folder / RECORD).read_text())
    return told


@pytest.mark.parametrize("kind", ["wav", "ogg"])
async def test_all_but_the_last_second_is_readable_and_the_next_start_closes_the_record(
    tmp_path: Path, kind: str
) -> None:
    environ = {
        "VOIPAGENT_ENGINE__MODEL": "echo",
        "VOIPAGENT_CALLS__DIR": str(tmp_path),
        "VOIPAGENT_CALLS__FORMAT": kind,
        "VOIPAGENT_PERSONA__GREETING": GREETING,
        "VOIPAGENT_HTTP__TOKEN": "s3cret",
    }
    async with asyncio.timeout(90):
        spoken_s = await kill_in_mid_call(environ)
    folder = only(tmp_path)
    assert not (folder / RECORD).exists()
    caller, _ = heard(folder / f"recording.{kind}")
    assert len(caller) / 8000 > spoken_s - LOST_S - NOISY_S
    loud = np.abs(caller[-4000:]).reshape(-1, 80).max(axis=1)
    assert (loud > 0.01).mean() > 0.9  # up to its end it is what was said
    begun = json.loads((folder / "begun.json").read_text())
    assert begun["record"]["duration_s"] > spoken_s - LOST_S - NOISY_S

    if kind == "wav":
        async with asyncio.timeout(60), serving_agent(environ) as agent:
            assert await asyncio.to_thread(listed, agent.http_port) == [(folder.name, "the agent was killed")]
            assert await agent.stop() == 0
    else:
        assert CallIndex(tmp_path).sync().closed == 1
    left = record(folder)
    assert (left["ended_by"], left["reason"]) == ("agent", "the agent was killed")
    assert (left["recording"], left["answered"][:2], left["frames_stepped"] > 20) == (f"recording.{kind}", "20", True)
    (entry,) = CallIndex(tmp_path).find(Query())
    assert (entry.path, entry.reason, entry.outcome) == (folder.name, "the agent was killed", "answered")
    (line,) = json.loads((folder / "transcript.json").read_text())["lines"]
    assert GREETING.startswith(line["text"])
    assert line["end"] > left["duration_s"] - 1.5  # a word lasts
    assert {path.name for path in folder.iterdir()} == {RECORD, *left["artefacts"]}
