"""`make demo`: a real SIP telephone calls the agent over loopback, talks with it, hangs up, and shows what is left.

The telephone is libre/baresip, by way of `baresip-python`. Where that has no wheel the sentences go through `talk`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
import time
import wave
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import av
import numpy as np
from rich.console import Console
from rich.table import Table

from voipagent.context import Line
from voipagent.lab.caller import Caller, Pcm16, Turn
from voipagent.lab.latency import Report
from voipagent.lab.latency import measure_call as measure_latency
from voipagent.lab.serving import ServingAgent, serving_agent
from voipagent.lab.timeline import draw

SENTENCES = Path(__file__).with_name("data")
FOLDER = Path("demo")
CALL_S = 60.0
"""After which the telephone is put down, whatever is being said."""

BURSTS = 30
RATE = 8_000
PIECE = 160

console = Console()


@dataclass(frozen=True)
class Heard:
    """What the caller noticed: seconds from dialling to the answer, from the answer to the first sound, and in all."""

    answered_s: float
    first_sound_s: float | None
    seconds: float


def turns() -> list[Turn]:
    """Three questions, the last of them into the answer to the second, and a goodbye."""
    return [
        Turn(read_sentence("sunday")),
        Turn(read_sentence("rental")),
        Turn(read_sentence("parking"), "talking", 0.7),
        Turn(read_sentence("goodbye")),
    ]


def main() -> int:
    """The exit code."""
    FOLDER.mkdir(exist_ok=True)
    if find_spec("baresip") is None:
        return _talk_instead()
    return asyncio.run(_demo())


async def _demo() -> int:
    calls = FOLDER / "calls"
    environ = {
        "VOIPAGENT_CALLS__DIR": str(calls),
        "VOIPAGENT_PERSONA__NAME": "front desk",
    }
    before = set(calls.glob("*/call.json"))
    console.print("Starting the agent …")
    async with serving_agent({**environ, **_own_settings()}) as agent:
        console.print(f"Calling {agent.target} with a SIP telephone …")
        heard = await call(agent, Caller(turns(), RATE))
        code = await agent.stop(signal.SIGTERM)
    (record,) = set(calls.glob("*/call.json")) - before
    console.print("Measuring the way through the transport, with an agent that echoes …")
    with tempfile.TemporaryDirectory() as scratch:
        async with serving_agent({"VOIPAGENT_ENGINE__MODEL": "echo", "VOIPAGENT_CALLS__DIR": scratch}) as echo:
            report = await measure_latency(echo.target, "pcmu", bursts=BURSTS, loss=0.0, seed=0)
    _tell(record.parent, draw(record.parent), heard, report)
    return code


def _own_settings() -> dict[str, str]:
    """What the user has set stands, but for where the demo's call is kept."""
    return {name: value for name, value in os.environ.items() if name.startswith("VOIPAGENT_PERSONA__")}


# --- the caller ----------------------------------------------------------------------------------------------------


async def call(agent: ServingAgent, caller: Caller) -> Heard:
    """Dial, let the caller talk, and hang up."""
    from baresip import Account, Config, Runtime, UserAgent

    runtime = Runtime()
    await runtime.start(
        Config(net_interface="127.0.0.1", native_log_level="error", extra_config_text="sip_listen 127.0.0.1:0\n")
    )
    try:
        telephone = await UserAgent.create(
            runtime, Account("caller", "127.0.0.1", "", reg_interval=0, audio_codecs=("pcmu",))
        )
        dialled = time.perf_counter()
        line = await telephone.dial(agent.target)
        await line.wait_established(timeout=15)
        answered = time.perf_counter()
        await _converse(line.audio, caller)
        await line.hangup()
    finally:
        await runtime.close()
    return Heard(answered - dialled, caller.first_sound_s, time.perf_counter() - answered)


async def _converse(audio: Any, caller: Caller) -> None:
    """What the caller says in time, and to it what comes, until it has heard enough."""
    from baresip import AudioNotActive, AudioRestarted

    end = time.perf_counter() + CALL_S
    while not caller.over and time.perf_counter() < end:
        with contextlib.suppress(AudioNotActive, AudioRestarted):  # its own re-INVITE after the answer replaces streams
            caller.hear(np.frombuffer(audio.read(65_536), "<i2"))
            audio.write(caller.say(PIECE).tobytes())
        await asyncio.sleep(PIECE / RATE)


def read_sentence(name: str, rate: int = RATE) -> Pcm16:
    """A shipped sentence, mono at `rate`."""
    with av.open(str(SENTENCES / f"{name}.ogg")) as container:
        resampler = av.AudioResampler(format="s16", layout="mono", rate=rate)
        pieces = [p.to_ndarray()[0] for frame in container.decode(audio=0) for p in resampler.resample(frame)]
    sentence: Pcm16 = np.concatenate(pieces).astype(np.int16)
    return sentence


# --- what is told --------------------------------------------------------------------------------------------------


def _tell(folder: Path, picture: Path, heard: Heard, report: Report) -> None:
    record = json.loads((folder / "call.json").read_text())
    table = Table(title="One call", show_header=False)
    first = "nothing was heard" if heard.first_sound_s is None else f"{heard.first_sound_s:.2f} s after the answer"
    for name, value in {
        "answered": f"{heard.answered_s:.2f} s after dialling",
        "first sound": first,
        "lasted": f"{record['duration_s']:.1f} s, {record['frames_stepped']} frames through {record['model']}",
        "a frame in the model": f"{1000 * record['step_s_mean']:.1f} ms of the 80 ms it may take",
        "transport round trip": f"p50 {1000 * report.percentile(0.5):.0f} ms, p95 {1000 * report.percentile(0.95):.0f} "
        f"ms (n={len(report.echoes)}, PCMU, echo, 80 ms frames included)",
    }.items():
        table.add_row(name, value)
    console.print(table)
    _tell_conversation(folder / "transcript.jsonl")
    console.print(f"It left, in {folder}:", soft_wrap=True)
    for name, file in {
        "recording": record["recording"],
        "transcript": "transcript.jsonl",
        "call record": "call.json",
        "timeline": picture.name,
    }.items():
        console.print(f"  {name:<12} {file}")
    if record["model"].startswith("nano"):
        console.print("The weights of this demo are small and random: it makes sound, not sense.", soft_wrap=True)
    console.print(
        "Go on: `.venv/bin/voipagent serve` and call it from any SIP telephone on this machine; "
        "`.venv/bin/voipagent config` lists every setting.",
        soft_wrap=True,
    )


def _tell_conversation(transcript: Path) -> None:
    """The call in words: the agent's own, and the caller's as the agent understood them."""
    lines = [Line.parse(text) for text in transcript.read_text().splitlines()] if transcript.exists() else []
    table = Table("at", "who", "said", title="What was understood and answered")
    for line in sorted(lines, key=lambda line: line.start):
        table.add_row(f"{line.start:.1f} s", line.role, line.text)
    console.print(table)


def _talk_instead() -> int:
    """No telephone for this platform: the sentence goes through the engine all the same."""
    from voipagent.cli import talk

    source, target, transcript = FOLDER / "caller.wav", FOLDER / "agent.wav", FOLDER / "transcript.jsonl"
    console.print(
        "There is no wheel of baresip-python for this platform: no SIP call, the sentences go through `talk`."
    )
    _write_wav(
        source, np.concatenate([part for turn in turns() for part in (np.zeros(4 * RATE, np.int16), turn.audio)])
    )
    talk(source, target, transcript)
    _tell_conversation(transcript)
    console.print(f"What the agent said: {target}, in words: {transcript}. Go on: `.venv/bin/voipagent serve`.")
    return 0


def _write_wav(path: Path, audio: Pcm16) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(np.pad(audio, (0, 4 * RATE)).tobytes())


if __name__ == "__main__":
    sys.exit(main())
