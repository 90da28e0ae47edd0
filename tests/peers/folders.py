"""What a call left on the disk, for tests that look at it."""

from __future__ import annotations

import json
import wave
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voipagent.context import Line


@dataclass(frozen=True)
class Left:
    """One call's folder, read."""

    record: dict[str, Any]
    lines: list[Line]
    caller: NDArray[np.float32]
    agent: NDArray[np.float32]

    @property
    def digits(self) -> str:
        return "".join(digit["key"] for digit in self.record["digits"])


def read(calls: Path) -> list[Left]:
    """Every call, oldest first."""
    return [_read(folder) for folder in sorted(calls.iterdir()) if folder.is_dir()]


def _read(folder: Path) -> Left:
    record = json.loads((folder / "call.json").read_text())
    transcript = folder / "transcript.jsonl"
    lines = [Line.parse(text) for text in transcript.read_text().splitlines()] if transcript.exists() else []
    with wave.open(str(folder / record["recording"])) as file:
        pair = np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, 2)
    samples: NDArray[np.float32] = (pair / 32768).astype(np.float32)
    return Left(record, lines, samples[:, 0], samples[:, 1])
