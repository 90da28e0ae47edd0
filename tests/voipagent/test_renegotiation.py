from __future__ import annotations

import logging

import pytest

from media.leg import LegError
from signaling.call import Rejection
from tests.fakes import FakeLeg
from voipagent.renegotiation import renegotiate


class Stubborn(FakeLeg):
    async def answer(self, offer: str) -> str:
        raise LegError("no codec of ours")


async def test_an_offer_is_answered_and_its_lack_is_answered_with_ours() -> None:
    leg = FakeLeg()
    assert await renegotiate(leg, "their offer", "7") == await FakeLeg().answer("their offer")
    assert await renegotiate(leg, None, "7") == await FakeLeg().offer()


async def test_what_the_leg_cannot_do_is_not_acceptable_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "voipagent.renegotiation"):
        assert await renegotiate(Stubborn(), "their offer", "7") is Rejection.NOT_ACCEPTABLE
    assert "x 7 change refused: no codec of ours" in caplog.text
