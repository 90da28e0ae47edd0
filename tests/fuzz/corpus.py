"""What guided runs found worth keeping: inputs that together reach all that was reached, one zip a target."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterable
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "data" / "fuzz"
TORTURE = Path(__file__).parents[1] / "data"

MAX_BYTES = 4096
"""A longer input is not kept."""


def path(target: str) -> Path:
    return FOLDER / f"{target}.zip"


def load(target: str) -> list[bytes]:
    """The kept inputs of a target, in order of their names."""
    with zipfile.ZipFile(path(target)) as file:
        return [file.read(name) for name in sorted(file.namelist())]


def save(target: str, inputs: Iterable[bytes]) -> int:
    """Keep these and no others; the same inputs make the same file. Gives its size in bytes."""
    FOLDER.mkdir(exist_ok=True)
    kept = {hashlib.sha256(data).hexdigest()[:16]: data for data in inputs if len(data) <= MAX_BYTES}
    with zipfile.ZipFile(path(target), "w", zipfile.ZIP_DEFLATED, compresslevel=9) as file:
        for name, data in sorted(kept.items()):
            file.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    return path(target).stat().st_size


def torture() -> dict[str, bytes]:
    """The messages of RFC 4475 and RFC 5118, by name."""
    return {file.stem: file.read_bytes() for file in sorted(TORTURE.glob("rfc*/*.dat"))}
