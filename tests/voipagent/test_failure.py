"""The model's thread dies in mid-call: who is told, and how."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from engine.batch import Batch, RowStep, Stepped
from engine.load import load_batch
from engine.local import LocalEngine
from engine.slot import EngineState
from media.answer import Legs
from media.leg import AudioFormat
from signaling.sip.endpoint import SipEndpoint
from tests.voipagent.test_api import get
from voipagent.agent import Agent
from voipagent.calls import CallsSettings
from voipagent.lab.phone import Codec, PhoneError, Target, call
from voipagent.persona import Personas
from voipagent.recording import Recorder
from voipagent.settings import SipSettings
from voipagent.web.api import create_api, serve_http

PCMU = Codec(0, "PCMU")
SILENCE = [b"\xff" * 160]


async def test_each_call_gets_bye_with_a_reason_and_new_ones_503(
    nano: Path, tmp_path: Path, recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    broken = threading.Event()
    engine = LocalEngine("nano", load=lambda: _breakable(nano, broken))
    calls = CallsSettings(dir=tmp_path / "calls")
    calls.dir.mkdir()
    async with (
        asyncio.timeout(60),
        engine,
        Legs(AudioFormat(engine.sample_rate, engine.frame_samples), ports=(31_000, 31_099)) as legs,
        SipEndpoint("127.0.0.1", 0, allow=SipSettings().allow) as sip,
    ):
        agent = Agent(engine, lambda offer: legs.open_leg(offer.media, offer.source[0]), Personas(), recorder, calls)
        target = Target("agent", "127.0.0.1", sip.port)
        async with serve_http(create_api(lambda: agent.ready), "127.0.0.1", 0) as port:
            running = asyncio.create_task(agent.run(sip))
            async with call(target, PCMU) as one, call(target, PCMU) as two:
                await asyncio.gather(one.send(SILENCE * 25), two.send(SILENCE * 25))
                assert await get(port, "/readyz") == (200, {"status": "ready"})
                broken.set()
                await asyncio.gather(one.ended.wait(), two.ended.wait())
                assert "the engine failed" in one.reason
                assert "the engine failed" in two.reason
            assert await get(port, "/readyz") == (503, {"status": "unavailable"})
            with pytest.raises(PhoneError, match="503 Service Unavailable"):
                async with call(target, PCMU):
                    pass
            running.cancel()
            await asyncio.wait([running])
    assert engine.state is EngineState.FAILED
    records = [json.loads((folder / "call.json").read_text()) for folder in calls.dir.iterdir()]
    assert {(record["ended_by"], record["reason"]) for record in records} == {("agent", "the engine failed")}
    assert len(records) == 2
    assert "the card fell out" in caplog.text


def _breakable(folder: Path, broken: threading.Event) -> Batch:
    """Rows whose next step fails once `broken` is set."""
    batch = load_batch(str(folder), 2, "cpu", "auto")
    whole = batch.step

    def step(steps: Sequence[RowStep]) -> list[Stepped]:
        if broken.is_set():
            raise RuntimeError("the card fell out")
        return whole(steps)

    batch.step = step  # type: ignore[method-assign]  # a device that fails cannot be had otherwise
    return batch
