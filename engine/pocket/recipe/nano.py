"""The whole recipe in about a minute:  python -m engine.pocket.recipe.nano --work DIR

Every step that makes the embedded model, on voices of tones, with sizes and step counts that teach it next to nothing:
what comes out is a whole checkpoint and a whole table, to see that the chain holds together.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from engine.nano import MIMI
from engine.pocket.recipe import generate
from engine.pocket.recipe.domain import Domain, load_domain
from engine.pocket.recipe.encode import encode_all
from engine.pocket.recipe.evaluate import PARTS, evaluate
from engine.pocket.recipe.export import export
from engine.pocket.recipe.measures import Result, table
from engine.pocket.recipe.tokenizer import PIECES
from engine.pocket.recipe.train_codec import train_decoder, train_encoder, tune_encoder
from engine.pocket.recipe.train_ear import train_ear
from engine.pocket.recipe.train_lm import train_lm
from engine.pocket.recipe.training import Plan, load

CARD = MIMI["quantizer"]["bins"]

LM: dict[str, Any] = {
    **{"dim": 48, "num_layers": 2, "num_heads": 2, "context": 500, "n_q": 16, "dep_q": 8, "card": CARD},
    **{"text_card": PIECES, "depformer_dim": 32, "depformer_num_heads": 2, "depformer_num_layers": 1},
}

EAR: dict[str, Any] = {
    **{"dim": 32, "num_layers": 2, "num_heads": 2, "context": 250, "n_q": 8, "dep_q": 0, "card": CARD},
    **{"text_card": PIECES, "delays": [0] * 9},
}

MINUTES = 5.0
"""No step takes that long; all stop after their steps."""

PROBES = ("exact", "personas", "recall", "ear", "frame_time")
"""Parts of the evaluation that take seconds."""


def steps(work: Path, domain: Domain) -> dict[str, Callable[[], object]]:
    """The recipe's steps, in their order; each leaves its files in `work`."""
    makers, until = generate.nano_makers(), time.monotonic() + 60 * MINUTES
    return {
        "clips": lambda: generate.make_clips(work, domain, makers),
        "callers": lambda: generate.make_callers(work, domain, makers, 0, 2, 40, until),
        "strangers": lambda: generate.make_strangers(work, domain, makers, 0, 1, 8, until),
        "actors": lambda: generate.make_actors(work, domain, makers, 8, until),
        "agent": lambda: generate.make_agent(work, domain, makers, 0, 1, 8, until),
        "stage1": lambda: generate.make_dialogues(work, domain, "stage1", 0, 1, 12, until),
        "stage2": lambda: generate.make_dialogues(work, domain, "stage2", 0, 1, 4, until),
        "strays": lambda: generate.make_dialogues(work, domain, "strays", 0, 1, 4, until),
        "asides": lambda: generate.make_dialogues(work, domain, "asides", 0, 1, 4, until),
        "talk": lambda: generate.make_dialogues(work, domain, "talk", 0, 1, 2, until),
        "probe": lambda: generate.make_dialogues(work, domain, "probe", 0, 1, 2, until),
        "encoder": lambda: train_encoder(work, Plan(16, 1e-3, warm_up=4), MINUTES, config=MIMI, rows=8),
        "tuned encoder": lambda: tune_encoder(work, Plan(4, 1e-3, warm_up=2), MINUTES, rows=8),
        "codes": lambda: encode_all(work, MINUTES),
        "decoder": lambda: train_decoder(work, Plan(6, 1e-3, warm_up=2), MINUTES),
        "language model": lambda: train_lm(work, LM, Plan(30, 3e-3, warm_up=5), MINUTES, budget=400),
        "ear": lambda: train_ear(work, EAR, Plan(20, 3e-3, warm_up=5), MINUTES, rows=4, window=60),
        "export": lambda: export(work, work / "checkpoint"),
    }


def curve(checkpoint: Path) -> list[dict[str, float]]:
    """The figures that a training left in its checkpoint."""
    lines: list[dict[str, float]] = load(checkpoint)["curve"]
    return lines


def run(work: Path, parts: Sequence[str] = PROBES, most: int = 2) -> list[Result]:
    """All of it; the evaluation's results."""
    for name, step in steps(work, load_domain()).items():
        began = time.monotonic()
        step()
        print(f"{name}: {time.monotonic() - began:.1f} s", flush=True)
    return evaluate(work / "checkpoint", work, most=most, rows=4, prompts=None, parts=parts)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="nano", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--work", type=Path, default=Path("build/pocket-nano"), help="where it goes (build/pocket-nano)"
    )
    parser.add_argument("--all", action="store_true", help="every part of the evaluation, which takes some minutes")
    options = parser.parse_args(arguments)
    print(table(run(options.work, list(PARTS) if options.all else PROBES)))


if __name__ == "__main__":
    main()
