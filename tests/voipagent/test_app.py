"""What the start says of the embedded model, and how legs are opened for trunks."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import AsyncIterator

import pytest

from engine import room
from engine.echo import EchoEngine
from media.answer import Legs
from media.leg import AudioFormat, LegError
from media.published import PublishedLeg
from media.webrtc import WebRtcLeg
from signaling.call import CallOffer, SignalingError
from signaling.sip.trunk import Trunk
from voipagent import app
from voipagent.outbound import Wanted
from voipagent.persona import NamedPersona, Persona
from voipagent.settings import EngineSettings, Settings
from voipagent.webrtc import WebLegs


@pytest.mark.parametrize("there", [True, False])
def test_who_has_a_card_is_told_how_to_use_it(
    there: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(room, "has_cuda", lambda: there)
    with caplog.at_level(logging.INFO):
        app._tell_of_cards()
    assert ("VOIPAGENT_ENGINE__MODEL=kyutai/moshiko-pytorch-bf16 voipagent serve" in caplog.text) is there


async def test_what_the_weights_will_not_obey_is_said_of_each_persona(caplog: pytest.LogCaptureFixture) -> None:
    settings = Settings(
        engine=EngineSettings(model="pocket"),
        persona=Persona(greeting="Welcome to the zoo."),
        personas={"ada": NamedPersona(name="ada", prompt="You are Emma.", language="fr")},
    )
    async with EchoEngine(rows=1) as engine:
        app._tell_of_personas(settings, engine)
        told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert [line.split(":")[0] for line in told] == ["- persona agent", "- persona ada", "- persona ada"]
        assert "GREETING" in told[0] and "LANGUAGE=fr" in told[2]
        caplog.clear()
        app._tell_of_personas(Settings(engine=EngineSettings(model="pocket")), engine)
        assert not caplog.records


OFFER = "\r\n".join(
    [
        *("v=0", "o=- 1 1 IN IP4 127.0.0.1", "s=-", "c=IN IP4 127.0.0.1", "t=0 0"),
        *("m=audio 40000 RTP/AVP 0 8", "a=rtpmap:0 PCMU/8000", "a=rtpmap:8 PCMA/8000", ""),
    ]
)


def web_legs(legs: Legs) -> WebLegs:
    return WebLegs(legs.open_web_leg, lambda call_id, candidates: None, lambda call_id, open_listener: lambda: None)


async def test_browsers_and_publishers_have_legs_of_their_own() -> None:
    async with Legs(AudioFormat(24_000, 1920), ports=(28_000, 28_099)) as legs:
        open_leg = app._leg_opener(legs, [], web_legs(legs))
        for callee, kind in (("duplex", WebRtcLeg), ("whip", PublishedLeg)):
            leg = open_leg(CallOffer("c", "webrtc", "browser", callee, ("127.0.0.1", 5060), OFFER))
            assert type(leg) is kind
            with pytest.raises(LegError, match="audio is 'RTP/AVP'; WebRTC's is"):
                await leg.answer(OFFER)
            await leg.close()


async def test_a_leg_is_opened_as_the_trunk_wants_it() -> None:
    trunks = [Trunk("acme", "192.0.2.1", codecs=("pcma",)), Trunk("secret", "192.0.2.2", srtp="demand")]
    async with Legs(AudioFormat(24_000, 1920), ports=(28_000, 28_099)) as legs:
        open_leg = app._leg_opener(legs, trunks, web_legs(legs))
        for trunk, spoken in (("", "RTP/AVP 0"), ("acme", "RTP/AVP 8"), ("unknown", "RTP/AVP 0")):
            offer = CallOffer("c", "sip", "ada", "agent", ("127.0.0.1", 5060), OFFER, trunk=trunk)
            leg = open_leg(offer)
            assert spoken in await leg.answer(OFFER)
            await leg.close()
        leg = open_leg(CallOffer("c", "sip", "ada", "agent", ("127.0.0.1", 5060), OFFER, trunk="secret"))
        with pytest.raises(LegError, match="this agent demands encryption"):
            await leg.answer(OFFER)
        await leg.close()


async def test_a_signal_before_there_is_a_call_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextlib.asynccontextmanager
    async def loading(settings: Settings) -> AsyncIterator[None]:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.Event().wait()
        yield

    monkeypatch.setattr(app, "_house", loading)
    with pytest.raises(SignalingError, match="stopped before there was a call"):
        async with asyncio.timeout(10):
            await app.dial(Settings(), Wanted("sip:ada@127.0.0.1"))


@pytest.mark.usefixtures("terminal")
async def test_where_something_can_be_read_again_a_hangup_in_between_ends_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO), app._stopped_by_signals(hangup=False):
        os.kill(os.getpid(), signal.SIGHUP)
        async with asyncio.timeout(10):
            while "nothing is read again" not in caplog.text:
                await asyncio.sleep(0.001)


async def test_who_was_begun_to_outlive_a_terminal_does() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with app._stopped_by_signals():
            os.kill(os.getpid(), signal.SIGHUP)
            await asyncio.sleep(0)
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


async def test_after_one_signal_the_next_kills_whichever_it_is() -> None:
    """Once more cancelled, we would leave what is still being written."""
    with app._stopped_by_signals():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(asyncio.Event().wait(), 10)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
