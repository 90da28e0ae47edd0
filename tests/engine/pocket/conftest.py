"""One WORK folder for the recipe's tests, and one thread for torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.engine.pocket.work import make_work


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As the codec's training and `encode` leave it. No test changes what is in it."""
    return make_work(tmp_path_factory.mktemp("pocket"))
