"""The verbs that only print."""

from __future__ import annotations

import logging
import subprocess

import pytest
from typer.testing import CliRunner

from voipagent.cli import QUIET, _settings, cli

PROMPT = 'You are Ada.\nIt\'s "open" from 9 to 5; say $so.'


def test_config_is_read_back_by_a_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VOIPAGENT_PERSONA__PROMPT", PROMPT)
    monkeypatch.setenv("VOIPAGENT_SIP__ALLOW", "10.0.0.0/8, ::1")
    told = CliRunner().invoke(cli, ["config"], catch_exceptions=False).stdout
    script = f'{told}\nprintf %s "$VOIPAGENT_PERSONA__PROMPT|$VOIPAGENT_SIP__ALLOW|$VOIPAGENT_ENGINE__SEED"'
    read = subprocess.run(["sh", "-c", script], capture_output=True, check=True, text=True, env={})
    assert read.stdout == f"{PROMPT}|10.0.0.0/8,::1/128|"


def test_config_prints_the_example_file() -> None:
    told = CliRunner().invoke(cli, ["config", "--example"], catch_exceptions=False).stdout
    assert "#VOIPAGENT_SIP__PORT=5060" in told.splitlines()


def test_no_level_makes_others_write_down_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """httpx2 tells addresses, with their queries, and websockets whole headers."""
    before = {name: logging.getLogger(name).level for name in QUIET}
    try:
        monkeypatch.setenv("VOIPAGENT_LOG__LEVEL", "debug")
        _settings()
        assert not logging.getLogger("httpx2").isEnabledFor(logging.INFO)
        assert not logging.getLogger("websockets.client").isEnabledFor(logging.DEBUG)
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
