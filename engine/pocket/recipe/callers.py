"""Who calls: pseudo-speakers to train with and to test with, each a voice with its pace, pitch and size of head."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from engine.pocket.recipe.formats import Split
from engine.pocket.recipe.variants import DRAWN


@dataclass(frozen=True, slots=True)
class Caller:
    """One pseudo-speaker.

    `stretch` > 1 is slower. `pitch` multiplies F0. `size` > 1 is a shorter vocal tract: played that much faster, the
    stretch making up for it. `warp` shifts the formants alone (by WORLD, so it costs more; 1 leaves it out).
    """

    name: str
    engine: str
    base: str
    split: Split
    stretch: float = 1.0
    pitch: float = 1.0
    size: float = 1.0
    warp: float = 1.0


FLITE_VOICES = ("rms", "slt", "kal16", "kal")
FLITE_MEAN_F0 = {"rms": 100.0, "slt": 170.0, "kal16": 105.0, "kal": 105.0, "awb": 130.0}
"""Hz: what `int_f0_target_mean` multiplies to."""

ESPEAK_VARIANTS = (
    *("f1", "f2", "f3", "f5", "m1", "m2", "m3", "m4", "m6", "m7", "m8", "klatt", "klatt2", "klatt3", "klatt5"),
    *("adam", "Alicia", "Andy", "Annie", "aunty", "belinda", "benjamin", "boris", "caleb", "david", "ed", "edward"),
    *("Gene", "grandma", "grandpa", "iven", "iven3", "john", "Lee", "linda", "max", "Michael", "miguel", "norbert"),
    *("paul", "pedro", "quincy", "rob", "robert", "steph", "steph3", "travis", "victor", "zac"),
)
ESPEAK_HELD_OUT = ("f4", "m5", "klatt4", "Andrea", "mike", "anika")
ESPEAK_DRAWN = 40
"""Voices of espeak-ng that are drawn, and not among its own: each call's is another."""

ESPEAK_ACCENTS = ("en-us", "en-us", "en", "en-gb-x-rp", "en-gb-scotland", "en-029")
"""As espeak-ng takes them before a variant; `en` is British."""


CHORUS = 100
"""Mixtures of Kokoro's own voices. They come behind those before: what these draw stays the same."""

CHOIR = 100
"""Mixtures of its others."""

ALIGNED = {"rhvoice": ("bdl", "clb", "slt"), "pico": ("en-US", "en-GB"), "festival": ("ked",)}
"""Five other people's voices, and slt's by other means; RHVoice's alan is left out, which may be who is held out as
awb."""

RELATIVES = 20
"""Of each of them."""

NATURAL = (
    Caller("joe", "piper", "joe", "held-out"),
    Caller("joe-slow", "piper", "joe", "held-out", 1.15),
    Caller("joe-small", "piper", "joe", "held-out", 1.0, 1.0, 1.08),
)
"""Somebody like people, to test with beside the others: those are harder to understand than people are."""


def callers(seed: int = 0) -> tuple[Caller, ...]:
    """Every pseudo-speaker, training and held out; the same for a seed.

    >>> len([caller for caller in callers() if caller.split == "train"]) >= 150
    True
    """
    random = np.random.default_rng(seed)

    def between(low: float, high: float) -> float:
        return round(float(random.uniform(low, high)), 3)

    made: list[Caller] = []
    for base in FLITE_VOICES:
        for n in range(20):
            made.append(
                Caller(
                    f"{base}-{n}", "flite", base, "train", between(0.78, 1.25), between(0.7, 1.4), between(0.86, 1.17)
                )
            )
    for n, variant in enumerate(ESPEAK_VARIANTS):
        accent = ESPEAK_ACCENTS[n % len(ESPEAK_ACCENTS)]
        made.append(
            Caller(f"{variant}-a", "espeak", f"en-us+{variant}", "train", between(0.85, 1.3), 1.0, between(0.92, 1.09))
        )
        made.append(
            Caller(
                f"{variant}-b",
                "espeak",
                f"{accent}+{variant}",
                "train",
                between(0.8, 1.35),
                between(0.8, 1.25),
                between(0.86, 1.16),
            )
        )
    for n in range(36):
        low = n % 2 == 1  # half of them as deep as men: pitch and formants go down together
        pitch, warp = (between(0.45, 0.75), between(0.78, 0.92)) if low else (between(0.8, 1.3), between(0.92, 1.12))
        made.append(
            Caller(f"heart-{n}", "heart", "heart", "train", between(0.8, 1.25), pitch, between(0.95, 1.05), warp)
        )
    for base in ("slt", "rms"):
        for n in range(8):
            made.append(
                Caller(
                    f"{base}-warped-{n}",
                    *("flite", base, "train"),
                    between(0.8, 1.2),
                    between(0.75, 1.4),
                    between(0.95, 1.05),
                    between(0.82, 1.18),
                )
            )
    made += [
        Caller("awb", "flite", "awb", "held-out"),
        Caller("awb-slow", "flite", "awb", "held-out", 1.2, 0.9),
        Caller("awb-small", "flite", "awb", "held-out", 1.0, 1.25, 1.1),
        *(Caller(variant, "espeak", f"en-us+{variant}", "held-out", 1.1) for variant in ESPEAK_HELD_OUT),
        *(Caller(f"{variant}-gb", "espeak", f"en+{variant}", "held-out", 0.95) for variant in ESPEAK_HELD_OUT),
    ]
    made += [
        Caller(f"chorus-{n}", "chorus", str(n), "train", between(0.8, 1.25), 1.0, between(0.88, 1.12))
        for n in range(CHORUS)
    ]
    made += [
        Caller(
            f"{base}-{engine}-{n}", engine, base, "train", between(0.8, 1.25), between(0.75, 1.35), between(0.88, 1.15)
        )
        for engine, bases in ALIGNED.items()
        for base in bases
        for n in range(RELATIVES)
    ]
    made += [
        Caller(f"drawn-{n}", "espeak", f"{ESPEAK_ACCENTS[n % len(ESPEAK_ACCENTS)]}+drawn-{n}", "train")
        for n in range(ESPEAK_DRAWN)
    ]
    made += [
        Caller(f"choir-{n}", "choir", str(n), "train", between(0.8, 1.25), 1.0, between(0.88, 1.12))
        for n in range(CHOIR)
    ]
    return tuple(made)


def drawn(caller: Caller) -> bool:
    """Whether espeak-ng is lent this voice."""
    return DRAWN.search(caller.base) is not None


def varied(caller: Caller, random: np.random.Generator) -> Caller:
    """Of its pace, pitch, head and accent somebody else: two hundred callers are soon known by heart."""
    base, stretch, pitch, size = caller.base, random.uniform(0.78, 1.32), caller.pitch, caller.size
    if caller.engine == "flite" or caller.engine in ALIGNED:
        pitch, size = random.uniform(0.65, 1.45), random.uniform(0.84, 1.18)
    elif caller.engine in {"chorus", "choir"}:
        base, size = str(int(random.integers(1 << 31))), random.uniform(0.86, 1.15)
    elif caller.engine == "espeak":
        accent = ESPEAK_ACCENTS[int(random.integers(len(ESPEAK_ACCENTS)))]
        variant = caller.base.partition("+")[2]
        if drawn(caller):
            variant = f"drawn-{int(random.integers(1 << 31))}"
        base = f"{accent}+{variant}"
        pitch, size = random.uniform(0.75, 1.3), random.uniform(0.86, 1.17)
    name = f"{caller.name}-{int(random.integers(1 << 32)):08x}"
    return replace(caller, name=name, base=base, stretch=float(stretch), pitch=float(pitch), size=float(size))
