"""What a tick would take on a card that is not here, from the bytes that it reads: an estimate, and labelled so.

A tick reads all weights and each row's keys and values once. What share of the memory's speed it reaches is taken from
the run that was measured, so an estimate is worth as much as the two devices are alike; where memory is not what
limits the measured one, as on a CPU, it is worth little.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.admission import LIMIT_S
from engine.measure import Report
from engine.model.weights import GROUP

REACHED = 0.896
"""Of a card's published bandwidth: what plain reading reached on an H200 (4.3 of 4.8 TB/s)."""

USABLE = 0.94
OVERHEAD_BYTES = 1.4e9
"""Of a card's memory: what there is for us, and what CUDA and activations take."""

WEIGHTS = "as measured", "int8", "int4"

FLOATS = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes of a weight that is not packed, by its type."""

INT4_BYTES = 0.5 + 4 / GROUP
"""Of a weight in four bits, with its share of its group's scale."""


@dataclass(frozen=True, slots=True)
class Card:
    """As published: bytes a second, and bytes."""

    name: str
    bandwidth: float
    memory: float


CARDS = {
    "l4": Card("L4", 300e9, 24e9),
    "l40s": Card("L40S", 864e9, 48e9),
    "a100": Card("A100-80", 2.039e12, 80e9),
    "h100": Card("H100", 3.35e12, 80e9),
    "h200": Card("H200", 4.8e12, 141e9),
}


@dataclass(frozen=True, slots=True)
class Estimate:
    """Of a card and weights: a tick of as many rows as were measured, and the most rows by time and by memory."""

    card: str
    weights: str
    rows: int
    tick_ms: float
    rows_in_time: int
    rows_in_memory: int

    def __str__(self) -> str:
        return (
            f"estimate   {self.tick_ms:8.2f} ms a tick of {self.rows} rows on an {self.card}, weights {self.weights}, "
            f"by bytes, not measured; {self.rows_in_time} rows in {1000 * LIMIT_S:.0f} ms, {self.rows_in_memory} in "
            "memory"
        )


def estimate(report: Report, card: Card, weights: str) -> Estimate:
    """From a run elsewhere. With weights in `int8`, those of the language model take a byte each; with `int4`, those of
    its Temporal Transformer half a byte and their scales. What was measured in few bits stays as it was.
    """
    temporal: float = report.temporal_bytes
    others: float = report.weight_bytes - report.codec_bytes - report.temporal_bytes
    if weights != "as measured" and report.weights in FLOATS:
        size = FLOATS[report.weights]
        temporal, others = temporal * (1 if weights == "int8" else INT4_BYTES) / size, others / size
    read = temporal + others + report.codec_bytes
    speed = card.bandwidth * REACHED * report.of_bound

    def most(room: float) -> int:
        return max(0, int(room // report.row_bytes))

    return Estimate(
        card.name,
        weights,
        report.rows,
        1000 * (read + report.rows * report.row_bytes) / speed,
        most(LIMIT_S * speed - read),
        most(USABLE * card.memory - OVERHEAD_BYTES - read),
    )
