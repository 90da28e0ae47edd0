"""Settings of what is kept of calls and what callers are told; and both heard in a real call."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from media.codec import CODECS
from tests.peers.folders import read
from voipagent.app import serve
from voipagent.calls import GOODBYE, CallsSettings
from voipagent.environment import SettingsError
from voipagent.index import CallIndex, Query
from voipagent.lab.phone import Codec, Target, call
from voipagent.lab.serving import serving_agent
from voipagent.settings import Settings
from voipagent.talk import AudioFileError

PCMU = next(codec for codec in CODECS if codec.name == "PCMU")


def loaded(**environ: str) -> CallsSettings:
    return Settings.load({f"VOIPAGENT_CALLS__{name}": value for name, value in environ.items()}).calls


def test_by_default_everything_is_kept_for_ever_and_nobody_is_told() -> None:
    calls = loaded()
    assert (calls.retention_days, calls.recordings_days, calls.max_length) == (None, None, None)
    assert (calls.consent, calls.goodbye) == ("off", GOODBYE)


def test_values_are_read() -> None:
    calls = loaded(
        RETENTION_DAYS="90", RECORDINGS_DAYS="7.5", CONSENT="hello.wav", MAX_LENGTH="3600", GOODBYE="So long."
    )
    assert (calls.retention_days, calls.recordings_days, calls.max_length) == (90, 7.5, 3600)
    assert (calls.consent, calls.goodbye) == ("hello.wav", "So long.")


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("CONSENT", "yes", "'yes' is neither off nor tone, nor an audio file such as announcement.wav"),
        ("MAX_LENGTH", "0", "greater than 0"),
        ("RETENTION_DAYS", "-1", "greater than 0"),
        ("RETENTION_DAYS", "inf", "less than or equal to 36500"),
        ("RECORDINGS_DAYS", "1e12", "less than or equal to 36500"),
        ("RECORDINGS_DAYS", "never", "valid number"),
    ],
)
def test_what_makes_no_sense_is_refused(name: str, value: str, why: str) -> None:
    with pytest.raises(SettingsError, match=f"VOIPAGENT_CALLS__{name}: .*{why}"):
        loaded(**{name: value})


def test_the_embedded_model_just_hangs_up() -> None:
    calls = loaded(MAX_LENGTH="60")
    assert (calls.as_said_by("pocket").goodbye, calls.as_said_by("pocket").max_length) == ("", 60)
    assert calls.as_said_by("echo") == calls


def share_of(hertz: float, sound: np.ndarray[tuple[int], np.dtype[np.float32]]) -> float:
    """How much of the energy lies within 50 Hz of that."""
    power = np.abs(np.fft.rfft(sound)) ** 2
    near = np.abs(np.fft.rfftfreq(len(sound), 1 / 8000) - hertz) < 50
    return float(power[near].sum() / power.sum())


async def test_a_caller_hears_the_tone_then_is_greeted_and_at_last_told_goodbye(tmp_path: Path) -> None:
    environ = {
        "VOIPAGENT_ENGINE__MODEL": "echo",
        "VOIPAGENT_CALLS__DIR": str(tmp_path),
        "VOIPAGENT_CALLS__CONSENT": "tone",
        "VOIPAGENT_CALLS__MAX_LENGTH": "3",
        "VOIPAGENT_CALLS__GOODBYE": "Goodbye.",
        "VOIPAGENT_PERSONA__GREETING": "Hello.",
    }
    async with asyncio.timeout(90), serving_agent(environ) as agent:
        async with call(Target.parse(agent.target), Codec(0, "PCMU")) as phone:
            sending = asyncio.create_task(phone.send([b"\xff" * 160] * 1000))
            await phone.ended.wait()
            sending.cancel()
            await asyncio.wait([sending])
        assert "the longest allowed" in phone.reason
        assert await agent.stop() == 0
    decode = PCMU.make_decoder()
    heard = np.concatenate([decode(packet.payload) for packet in phone.received])
    loud = np.flatnonzero(np.abs(heard) > 0.1)
    assert share_of(1400, heard[loud[0] : loud[-1]]) > 0.9
    assert 0.4 < (loud[-1] - loud[0]) / 8000 < 0.6
    (left,) = read(tmp_path)
    assert left.record["consent"] == {"heard": "tone", "duration_s": pytest.approx(0.8, abs=0.1), "whole": True}
    assert [line.text for line in left.lines] == ["Hello.", "Goodbye."]
    assert left.lines[0].start >= left.record["consent"]["duration_s"]
    assert 3 < left.lines[1].start < left.record["duration_s"] - 1
    tone = left.agent[: round(24_000 * left.lines[0].start)]
    assert np.abs(tone).max() > 0.2  # it is in the recording
    assert [entry.reason for entry in CallIndex(tmp_path).find(Query())] == [left.record["reason"]]


async def test_an_announcement_that_is_not_there_is_no_start(tmp_path: Path) -> None:
    environ = {
        "VOIPAGENT_ENGINE__MODEL": "echo",
        "VOIPAGENT_CALLS__DIR": str(tmp_path),
        "VOIPAGENT_CALLS__CONSENT": "/nowhere/hello.wav",
    }
    environ |= {"VOIPAGENT_SIP__HOST": "127.0.0.1", "VOIPAGENT_SIP__PORT": "0", "VOIPAGENT_HTTP__PORT": "0"}
    with pytest.raises(AudioFileError, match="VOIPAGENT_CALLS__CONSENT: cannot read '/nowhere/hello.wav'"):
        async with asyncio.timeout(30):
            await serve(Settings.load(environ))
