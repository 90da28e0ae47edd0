"""The picture of a call."""

from __future__ import annotations

import dataclasses
import json
import stat
import wave
from pathlib import Path

import av
import numpy as np
import pytest

from voipagent.context import Line
from voipagent.lab.timeline import TimelineError, draw
from voipagent.record import CallRecord


def make_folder(folder: Path, recording: str = "recording.wav", seconds: float = 2.0) -> Path:
    record = CallRecord("id", "sip", "alice", "agent", "192.0.2.7:5060", "now", persona="$\\Ada{$", recording=recording)
    record.digits.append({"key": "7", "at": 0.5, "duration_s": 0.1})
    record.recording_error = "" if recording else "off"
    (folder / "call.json").write_text(record.as_json())
    line = Line("agent", "Not $\\frac{math$, a price", 0.2, 0.9)
    (folder / "transcript.jsonl").write_text(f"{line}\n")
    if recording:
        with wave.open(str(folder / recording), "wb") as file:
            file.setnchannels(2)
            file.setsampwidth(2)
            file.setframerate(24_000)
            tone = (8_000 * np.sin(np.arange(round(seconds * 24_000)) / 20)).astype("<i2")
            file.writeframes(np.stack([tone, tone // 2], axis=1).tobytes())
    return folder


def test_a_call_becomes_a_private_picture(tmp_path: Path) -> None:
    path = draw(make_folder(tmp_path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with av.open(str(path)) as picture:
        pixels = next(picture.decode(video=0)).to_ndarray(format="rgb24")
    assert pixels.shape[0] > 400 and pixels.shape[1] > 1_200
    blue = (pixels[..., 2].astype(int) - pixels[..., 0] > 60).sum()
    red = (pixels[..., 0].astype(int) - pixels[..., 2] > 60).sum()
    assert blue > 1.5 * red > 1_000, "the caller is drawn twice as loud as the agent"


@pytest.mark.parametrize("missing", ["record", "recording"])
def test_what_is_missing_is_named(tmp_path: Path, missing: str) -> None:
    make_folder(tmp_path, recording="")
    if missing == "record":
        (tmp_path / "call.json").unlink()
    with pytest.raises(TimelineError, match="call.json" if missing == "record" else "not recorded"):
        draw(tmp_path)


def test_a_short_call_is_drawn_too(tmp_path: Path) -> None:
    make_folder(tmp_path, seconds=0.01)
    assert draw(tmp_path).exists()
    assert {field.name for field in dataclasses.fields(CallRecord)} == set(
        json.loads((tmp_path / "call.json").read_text())
    )
