"""The runs in a bench's CSV as a picture: what a tick takes by rows, and what the memory allows."""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path

KINDS = "device", "model", "precision", "weights", "kv", "window", "arrivals"
"""What one line of the picture has in common."""


def draw(table: Path, picture: Path) -> None:
    """Draw `table`. Raises ImportError without matplotlib, ValueError if it holds no run of this version."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError("drawing needs matplotlib: pip install matplotlib, or voipagent[lab]") from None
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot(xlabel="rows", ylabel="ms a tick")
    for kind, points in runs(table).items():
        rows, p50, p99, bound = zip(*points, strict=True)
        (line,) = axes.plot(rows, p50, marker="o", label=f"{kind}, p50")
        axes.plot(rows, p99, marker=".", linestyle="--", color=line.get_color(), label="p99")
        axes.plot(rows, bound, linestyle=":", color=line.get_color(), label="what memory allows")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(picture)


def runs(table: Path) -> dict[str, list[tuple[int, float, float, float]]]:
    """By kind, rows with their p50, p99 and bound in ms, ascending; the latest run of the same stands."""
    found: dict[str, dict[int, tuple[int, float, float, float]]] = defaultdict(dict)
    try:
        with table.open(encoding="utf-8", newline="") as file:
            for line in csv.DictReader(file):
                p50, p99, bound = (float(line[name]) for name in ("tick_p50", "tick_p99", "bound_ms"))
                rows, kind = int(line["rows"]), " ".join(line[name] for name in KINDS)
                found[kind][rows] = rows, p50, p99, bound
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{str(table)!r} is no table of runs: {error}") from None
    if not found:
        raise ValueError(f"{str(table)!r} holds no run")
    return {kind: [each[rows] for rows in sorted(each)] for kind, each in found.items()}
