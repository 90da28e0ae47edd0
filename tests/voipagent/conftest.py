"""What the roof's tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from voipagent.recording import Recorder


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    with Recorder() as recorder:
        yield recorder
