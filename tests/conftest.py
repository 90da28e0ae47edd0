"""What all tests share: the nano checkpoint, also with an ear, and that a missing peer fails in CI, and else skips."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

import pytest


def pytest_runtest_setup(item: pytest.Item) -> None:
    """`@pytest.mark.peer("sipp")` names programs or modules that the test talks to."""
    for marker in item.iter_markers("peer"):
        for name in marker.args:
            if shutil.which(name) is None and importlib.util.find_spec(name) is None:
                missing = f"the peer {name!r} is not installed; .ci/run shows how"
                pytest.fail(missing) if os.environ.get("CI") else pytest.skip(missing)


@pytest.fixture(scope="session")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A nano checkpoint that no test changes."""
    import torch  # takes seconds, which other tests need not spend

    from engine.nano import write_nano

    torch.set_num_threads(1)  # more would get in each other's way on a machine that is shared
    folder = tmp_path_factory.mktemp("checkpoints") / "nano"
    write_nano(folder, seed=0)
    return folder


@pytest.fixture(scope="session")
def eared(nano: Path) -> Path:
    """The nano checkpoint with a tiny ear beside it. No test changes it."""
    from tests.engine.ears import write_ear

    folder = Path(shutil.copytree(nano, nano.with_name("eared")))
    write_ear(folder)
    return folder
