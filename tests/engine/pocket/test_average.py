"""What lies between two trainings."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engine.pocket.recipe.average import main
from engine.pocket.recipe.training import load, store


def left(folder: Path, value: float, dim: int = 2) -> str:
    weights = {"weight": torch.full((dim,), value), "count": torch.tensor(7)}
    store(folder / "model.pt", {"sizes": {"dim": dim}, "weights": weights})
    return str(folder)


def test_a_share_of_the_second(tmp_path: Path) -> None:
    first, second = left(tmp_path / "a", 1.0), left(tmp_path / "b", 3.0)
    for share, value in (("0.5", 2.0), ("0.25", 1.5)):
        main([first, second, "--to", str(tmp_path / "c"), "--share", share])
        made = load(tmp_path / "c" / "model.pt")
        assert made["sizes"] == {"dim": 2} and made["weights"]["count"] == 7
        assert made["weights"]["weight"].tolist() == [value, value]


def test_a_training_that_is_not_there_is_named(tmp_path: Path) -> None:
    first = left(tmp_path / "a", 1.0)
    with pytest.raises(ValueError, match=r"b/model\.pt is missing; engine\.pocket\.recipe\.train_lm leaves it"):
        main([first, str(tmp_path / "b"), "--to", str(tmp_path / "c")])


def test_other_models_have_no_mean(tmp_path: Path) -> None:
    first, second = left(tmp_path / "a", 1.0), left(tmp_path / "b", 3.0, dim=3)
    with pytest.raises(ValueError, match="models of other sizes"):
        main([first, second, "--to", str(tmp_path / "c")])
