"""What all tests share: a peer that is missing is a failure in CI, and elsewhere a skip with its reason."""

from __future__ import annotations

import importlib.util
import os
import shutil

import pytest


def pytest_runtest_setup(item: pytest.Item) -> None:
    """`@pytest.mark.peer("sipp")` names programs or modules that the test talks to."""
    for marker in item.iter_markers("peer"):
        for name in marker.args:
            if shutil.which(name) is None and importlib.util.find_spec(name) is None:
                missing = f"the peer {name!r} is not installed; .ci/run shows how"
                pytest.fail(missing) if os.environ.get("CI") else pytest.skip(missing)
