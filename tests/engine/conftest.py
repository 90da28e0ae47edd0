"""What the engine's tests share: one nano checkpoint, and one thread for torch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engine.nano import write_nano

torch.set_num_threads(1)  # the tests share their cores with others, and the models are tiny


@pytest.fixture(scope="session")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A nano checkpoint that no test changes."""
    folder = tmp_path_factory.mktemp("checkpoints") / "nano"
    write_nano(folder, seed=0)
    return folder
