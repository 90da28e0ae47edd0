"""What the start says of the embedded model."""

from __future__ import annotations

import logging

import pytest

from engine import batch
from voipagent import app
from voipagent.persona import Persona


@pytest.mark.parametrize("there", [True, False])
def test_who_has_a_card_is_told_how_to_use_it(
    there: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(batch, "has_cuda", lambda: there)
    with caplog.at_level(logging.INFO):
        app._tell_of_pocket(Persona())
    assert ("VOIPAGENT_ENGINE__MODEL=kyutai/moshiko-pytorch-bf16 voipagent serve" in caplog.text) is there


def test_a_greeting_that_it_cannot_say_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    app._tell_of_pocket(Persona(greeting="Welcome to the zoo."))
    assert "VOIPAGENT_PERSONA__GREETING" in caplog.text and caplog.records[-1].levelname == "WARNING"
    caplog.clear()
    app._tell_of_pocket(Persona(prompt="You are Emma."))
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
