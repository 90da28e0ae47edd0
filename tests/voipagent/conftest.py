"""What the roof's tests share."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from voipagent.recording import Recorder


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    with Recorder() as recorder:
        yield recorder


@pytest.fixture
def terminal() -> Iterator[None]:
    """Begun at a terminal, whose end is told of: whoever runs the tests may have them outlive theirs (nohup)."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)
