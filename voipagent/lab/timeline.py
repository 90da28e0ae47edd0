"""One call as a picture: both voices over time, what was said, and what happened."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import av
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from voipagent.context import Line

COLUMNS = 1_600
"""Points across: each shows the loudest sample of its time."""

CALLER, AGENT, QUIET = "#2a6f97", "#c8553d", "#666666"

Samples = NDArray[np.float32]


class TimelineError(Exception):
    """The folder holds no call that can be drawn; says what is missing."""


def draw(folder: Path) -> Path:
    """Write `timeline.png` into a call's folder; gives its path. Raises TimelineError."""
    record, lines = _read_record(folder), _read_lines(folder)
    caller, agent, duration_s = _read_voices(folder / record["recording"])
    figure = Figure(figsize=(14, 5), layout="constrained")
    title = f"{record['caller']} calls {record['persona']}, {duration_s:.1f} s  ({record['model']})"
    figure.suptitle(title, parse_math=False)
    top, bottom = figure.subplots(2, 1, sharex=True)
    _draw_voice(top, "caller", caller, duration_s, CALLER)
    _draw_voice(bottom, "agent", agent, duration_s, AGENT)
    for axes, role in ((top, "caller"), (bottom, "agent")):
        _draw_words(axes, [line for line in lines if line.role == role])
    for digit in record["digits"]:
        top.axvline(digit["at"], color=QUIET, linewidth=0.8)
        top.annotate(digit["key"], (digit["at"], 0.85), color=QUIET)
    ending = f"seconds from the answer; {record['ended_by']} ended it: {record['reason']}"
    bottom.set_xlabel(ending, parse_math=False)
    path = folder / "timeline.png"
    figure.savefig(path, dpi=110)
    path.chmod(0o600)
    return path


def _read_record(folder: Path) -> Mapping[str, Any]:
    try:
        record: Mapping[str, Any] = json.loads((folder / "call.json").read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise TimelineError(f"{folder}: no call.json that can be read: {error}") from None
    if not record["recording"]:
        raise TimelineError(f"{folder}: the call was not recorded ({record['recording_error']})")
    return record


def _read_lines(folder: Path) -> list[Line]:
    path = folder / "transcript.jsonl"
    return [Line.parse(text) for text in path.read_text().splitlines()] if path.exists() else []


def _read_voices(path: Path) -> tuple[Samples, Samples, float]:
    """(caller, agent) as the loudest sample in each of COLUMNS stretches, and the length in seconds."""
    with av.open(str(path)) as container:
        rate = container.streams.audio[0].rate
        resampler = av.AudioResampler(format="fltp", layout="stereo", rate=rate)
        pieces = [piece.to_ndarray() for frame in container.decode(audio=0) for piece in resampler.resample(frame)]
    if not pieces:
        raise TimelineError(f"{path} holds no audio")
    voices = np.concatenate(pieces, axis=1)
    caller, agent = (_loudest(np.abs(voice)) for voice in voices)
    return caller, agent, voices.shape[1] / rate


def _loudest(levels: Samples) -> Samples:
    edges = np.unique(np.linspace(0, len(levels), COLUMNS, endpoint=False).astype(int))
    loudest: Samples = np.maximum.reduceat(levels, edges)
    return loudest


def _draw_voice(axes: Axes, name: str, levels: Samples, duration_s: float, color: str) -> None:
    times = np.linspace(0, duration_s, len(levels), endpoint=False)
    axes.fill_between(times, -levels, levels, color=color, linewidth=0)
    axes.set(ylim=(-1, 1), xlim=(0, duration_s), yticks=[], ylabel=name)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _draw_words(axes: Axes, lines: list[Line]) -> None:
    """Each line above its own time, high and low by turns so that neighbours do not cover each other."""
    for number, line in enumerate(lines):
        height = 0.8 if number % 2 == 0 else -0.9
        axes.hlines(height - 0.05, line.start, line.end, color=QUIET, linewidth=1)
        axes.text(line.start, height, line.text[:120], fontsize=8, clip_on=True, parse_math=False)
