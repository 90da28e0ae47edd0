"""The mean of two trainings of one model:  python -m engine.pocket.recipe.average FIRST SECOND --to THIRD

    FIRST/model.pt, SECOND/model.pt -> THIRD/model.pt, which `export` reads

Where one goes on from the other, or both from a third, what lies between them often understands unseen voices better
than either; trainings that have gone far apart have nothing between them. Measure before you ship.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from engine.pocket.recipe.training import load, store


def average(first: Path, second: Path, share: float = 0.5) -> dict[str, Any]:
    """What `train_moshi` leaves, `share` of it from the second. Raises ValueError where one is not there, or they
    are other models.
    """
    for path in (first, second):
        if not path.exists():
            raise ValueError(f"{path} is missing; engine.pocket.recipe.train_lm leaves it in WORK/lm")
    one, other = load(first), load(second)
    if one["sizes"] != other["sizes"]:
        raise ValueError(f"{first} and {second} are models of other sizes")
    weights = {
        name: weight.lerp(other["weights"][name], share) if weight.is_floating_point() else weight
        for name, weight in one["weights"].items()
    }
    return {"sizes": one["sizes"], "weights": weights}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="average", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    parser.add_argument("--to", type=Path, required=True)
    parser.add_argument("--share", type=float, default=0.5, help="of the second (0.5)")
    options = parser.parse_args(arguments)
    mean = average(options.first / "model.pt", options.second / "model.pt", options.share)
    store(options.to / "model.pt", mean)


if __name__ == "__main__":
    main()
