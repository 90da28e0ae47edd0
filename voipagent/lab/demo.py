"""`make demo`: a real SIP telephone calls the agent over loopback, talks to it, hangs up, and shows what is left.

The telephone is libre/baresip, by way of `baresip-python`. Where that has no wheel the sentence goes through `talk`.
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
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import av
import numpy as np
from rich.console import Console
from rich.table import Table

from voipagent.lab.latency import Report
from voipagent.lab.latency import measure_call as measure_latency
from voipagent.lab.serving import ServingAgent, serving_agent
from voipagent.lab.timeline import draw

SENTENCE = Path(__file__).with_name("data") / "caller.ogg"
FOLDER = Path("demo")
GREETING = "Hello, this is Ada. How can I help you?"
CALL_S = 12.0
BURSTS = 30
RATE = 8_000

console = Console()


@dataclass(frozen=True)
class Heard:
    """What the caller noticed: seconds from dialling to the answer and to the first sound, and the sound itself."""

    answered_s: float
    first_sound_s: float | None
    seconds: float


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
        "VOIPAGENT_PERSONA__NAME": "Ada",
        "VOIPAGENT_PERSONA__GREETING": GREETING,
    }
    before = set(calls.glob("*"))
    console.print("Starting the agent …")
    async with serving_agent({**environ, **_own_settings()}) as agent:
        console.print(f"Calling {agent.target} with a SIP telephone, for {CALL_S:g} s …")
        heard = await call(agent, CALL_S)
        code = await agent.stop(signal.SIGTERM)
    (folder,) = set(calls.glob("*")) - before
    console.print("Measuring the way through the transport, with an agent that echoes …")
    with tempfile.TemporaryDirectory() as scratch:
        async with serving_agent({"VOIPAGENT_ENGINE__MODEL": "echo", "VOIPAGENT_CALLS__DIR": scratch}) as echo:
            report = await measure_latency(echo.target, "pcmu", bursts=BURSTS, loss=0.0, seed=0)
    _tell(folder, draw(folder), heard, report)
    return code


def _own_settings() -> dict[str, str]:
    """What the user has set stands, but for where the demo's call is kept."""
    return {name: value for name, value in os.environ.items() if name.startswith("VOIPAGENT_PERSONA__")}


# --- the caller ----------------------------------------------------------------------------------------------------


async def call(agent: ServingAgent, seconds: float) -> Heard:
    """Dial, say the sentence after the greeting has begun, listen, and hang up."""
    from baresip import Account, Config, Runtime, UserAgent

    runtime = Runtime()
    await runtime.start(
        Config(net_interface="127.0.0.1", native_log_level="error", extra_config_text="sip_listen 127.0.0.1:0\n")
    )
    try:
        caller = await UserAgent.create(
            runtime, Account("caller", "127.0.0.1", "", reg_interval=0, audio_codecs=("pcmu",))
        )
        dialled = time.perf_counter()
        line = await caller.dial(agent.target)
        await line.wait_established(timeout=15)
        answered_s = time.perf_counter() - dialled
        first_sound, heard_s = await _converse(line.audio, seconds)
        await line.hangup()
    finally:
        await runtime.close()
    return Heard(answered_s, None if first_sound is None else first_sound - dialled, heard_s)


async def _converse(audio: Any, seconds: float) -> tuple[float | None, float]:
    """Feed the sentence in time, collect what comes: (when the first sound came, seconds of audio heard)."""
    from baresip import AudioNotActive, AudioRestarted

    speech = np.concatenate([np.zeros(4 * RATE, np.int16), read_sentence(RATE)])
    pieces = iter(np.split(speech, range(160, len(speech), 160)))
    first_sound, heard_bytes, end = None, 0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        with contextlib.suppress(AudioNotActive, AudioRestarted):  # its own re-INVITE after the answer replaces streams
            piece = next(pieces, np.zeros(160, np.int16))
            audio.write(piece.tobytes())
            data = audio.read(65_536)
            heard_bytes += len(data)
            if first_sound is None and np.abs(np.frombuffer(data, "<i2").astype(int)).max(initial=0) > 300:
                first_sound = time.perf_counter()
        await asyncio.sleep(0.02)
    return first_sound, heard_bytes / 2 / RATE


def read_sentence(rate: int) -> np.ndarray[tuple[int], np.dtype[np.int16]]:
    """The shipped sentence, mono at `rate`."""
    with av.open(str(SENTENCE)) as container:
        resampler = av.AudioResampler(format="s16", layout="mono", rate=rate)
        pieces = [p.to_ndarray()[0] for frame in container.decode(audio=0) for p in resampler.resample(frame)]
    sentence: np.ndarray[tuple[int], np.dtype[np.int16]] = np.concatenate(pieces).astype(np.int16)
    return sentence


# --- what is told --------------------------------------------------------------------------------------------------


def _tell(folder: Path, picture: Path, heard: Heard, report: Report) -> None:
    record = json.loads((folder / "call.json").read_text())
    table = Table(title="One call", show_header=False)
    first = "nothing was heard" if heard.first_sound_s is None else f"{heard.first_sound_s:.2f} s after dialling"
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


def _talk_instead() -> int:
    """No telephone for this platform: the sentence goes through the engine all the same."""
    from voipagent.cli import talk

    target, transcript = FOLDER / "agent.wav", FOLDER / "transcript.jsonl"
    console.print(
        "There is no wheel of baresip-python for this platform: no SIP call, the sentence goes through `talk`."
    )
    talk(SENTENCE, target, transcript)
    console.print(f"What the agent said: {target}, in words: {transcript}. Go on: `.venv/bin/voipagent serve`.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
