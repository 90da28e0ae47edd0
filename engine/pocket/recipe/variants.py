"""Voices for espeak-ng without end: of the same synthesiser, but with a throat, a melody and a roughness of their own.

A variant is a file beside espeak-ng's own (its docs, voices.md): lines such as `formant 2 115 90 100`, in per cent of
the language's voice. They are drawn within what its own variants use, so that whoever is drawn can be understood.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

DRAWN = re.compile(r"\+drawn-(\d+)$")
"""At the end of a caller's base: by whom it is spoken, as the seed of a draw."""


def variant(seed: int) -> str:
    """The file of a variant; the same for a seed.

    >>> variant(7) == variant(7) != variant(8)
    True
    """
    return "\n".join(("language variant", f"name drawn-{seed}", *_lines(np.random.default_rng(seed)), ""))


def _lines(random: np.random.Generator) -> Iterator[str]:
    def between(low: float, high: float) -> int:
        return round(float(random.uniform(low, high)))

    low = between(75, 205)  # Hz, as far as a voice goes down
    yield f"pitch {low} {round(low * random.uniform(1.2, 1.65))}"
    klatt = int(random.integers(1, 6)) if random.random() < 0.25 else 0
    if klatt:
        yield f"klatt {klatt}"
    size = random.uniform(0.87, 1.2)  # a shorter vocal tract lifts all its resonances
    for number in range(9):
        lift = between(100 * size * 0.94, 100 * size * 1.06)
        yield f"formant {number} {lift} {between(75, 125)} {between(75, 160)}"
    yield f"voicing {between(70, 170)}"
    yield f"consonants {between(70, 130)} {between(70, 130)}"
    yield f"flutter {between(0, 6)}"
    yield f"roughness {between(0, 4)}"
    yield f"intonation {between(1, 4)}"
    if random.random() < 0.25:
        yield f"breath {' '.join(str(between(0, 8)) for _ in range(8))}"
    if random.random() < 0.3:
        yield f"tone 100 {between(150, 255)} 600 {between(90, 200)} 1500 {between(60, 130)} 3500 {between(30, 110)}"
    if random.random() < 0.3:
        yield f"echo {between(60, 140)} {between(5, 25)}"
    if random.random() < 0.4:
        yield f"stressAmp {' '.join(str(between(14, 24)) for _ in range(8))}"
    if random.random() < 0.4:
        yield f"stressAdd {' '.join(str(between(-25, 40)) for _ in range(8))}"


class Folder:
    """espeak-ng's data, all of it by links but for its variants, which others may be laid beside."""

    def __init__(self, data: Path, root: Path) -> None:
        """`root` is what espeak-ng is to be told: an empty folder for a copy of `data` to lie in."""
        ours = root / data.name
        self._variants = ours / "voices" / "!v"
        self._variants.mkdir(parents=True)
        for there, here in ((data, ours), (data / "voices", ours / "voices"), (data / "voices" / "!v", self._variants)):
            for each in there.iterdir():
                if not (here / each.name).exists():
                    (here / each.name).symlink_to(each)

    def lay(self, base: str) -> None:
        """The file that a voice wants, where it is one that is drawn."""
        if (drawn := DRAWN.search(base)) is not None:
            (self._variants / base.partition("+")[2]).write_text(variant(int(drawn[1])))
