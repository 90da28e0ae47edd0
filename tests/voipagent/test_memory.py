"""Settings of long calls, and one call that is longer than its row's window, on the nano model."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import numpy as np
import pytest

from engine.batch import Batch
from engine.echo import EchoEngine
from engine.local import LocalEngine
from engine.localslot import LocalSlot
from engine.model.checkpoint import load_checkpoint
from engine.slot import Pause, Prompt, PromptError, Sampling
from media.leg import Pcm
from tests.engine.rows import no_log, noise, prime, talk
from tests.fakes import SILENCE, FakeCall, FakeLeg
from tests.voipagent.longcall import hold_call, shortened
from voipagent.environment import SettingsError
from voipagent.memory import ContextSettings, SummarySettings, open_memory
from voipagent.persona import Persona
from voipagent.prompts import check_persona
from voipagent.record import CallFolder, CallRecord, utc_now
from voipagent.recording import Recorder
from voipagent.session import Session
from voipagent.settings import Settings
from voipagent.story import tell_all
from voipagent.summary import Endpoint, Extractive
from voipagent.trim import Memory
from voipagent.window import Shares


async def test_by_default_calls_are_kept_going_without_anybodys_help() -> None:
    settings = Settings.load({})
    async with open_memory(settings.context, settings.summary, tell_all) as memory:
        assert memory is not None
        assert memory.shares == Shares(0.8, 0.95, 0.25, 0.2)
        assert isinstance(memory.summarizer, Extractive)


async def test_off_is_off() -> None:
    async with open_memory(ContextSettings(policy="off"), SummarySettings(), tell_all) as memory:
        assert memory is None


async def test_an_endpoint_is_used_where_one_is_named() -> None:
    environ = {"VOIPAGENT_SUMMARY__URL": "http://127.0.0.1:9/v1", "VOIPAGENT_SUMMARY__MODEL": "small"}
    settings = Settings.load(environ | {"VOIPAGENT_SUMMARY__API_KEY": "hush"})
    assert "hush" not in repr(settings)
    async with open_memory(settings.context, settings.summary, tell_all) as memory:
        assert memory is not None
        assert isinstance(memory.summarizer, Endpoint)


@pytest.mark.parametrize(
    ("environ", "complaint"),
    [
        ({"CONTEXT__DUE": "0.99"}, r"VOIPAGENT_CONTEXT: due \(0.99\) must be above 0, and hard \(0.95\)"),
        ({"CONTEXT__KEEP": "0.4"}, r"VOIPAGENT_CONTEXT: keep \(0.4\) and prompt \(0.2\)"),
        ({"CONTEXT__KEEP": "nan"}, r"VOIPAGENT_CONTEXT: keep \(nan\) and prompt \(0.2\)"),
        ({"CONTEXT__POLICY": "pinned"}, "VOIPAGENT_CONTEXT__POLICY: Input should be 'reprime', 'pin' or 'off'"),
        ({"SUMMARY__URL": "http://127.0.0.1:9"}, "VOIPAGENT_SUMMARY: url and model belong together"),
        *(
            ({"SUMMARY__URL": url, "SUMMARY__MODEL": "m"}, f"VOIPAGENT_SUMMARY__URL: '{re.escape(url)}' is no address")
            for url in ("127.0.0.1:9", "http://127.0.0.1:99999/v1", "http://127.0.0.1:abc", "http://[::1", "http:///v1")
        ),
        *(
            ({"SUMMARY__URL": url, "SUMMARY__MODEL": "m"}, f"VOIPAGENT_SUMMARY__URL: '{re.escape(url)}' is no address")
            for url in ("https://example.com/v1?api-version=2024", "https://example.com/v1#a")  # a path follows
        ),
        *(
            ({f"{name}": "schlüssel"}, f"VOIPAGENT_{name}: it is sent in a header: printable ASCII characters")
            for name in ("SUMMARY__API_KEY", "HTTP__TOKEN", "WEBRTC__TOKEN", "METRICS__TOKEN")
        ),
    ],
)
def test_what_cannot_be_meant_stops_the_start(environ: dict[str, str], complaint: str) -> None:
    with pytest.raises(SettingsError, match=complaint):
        Settings.load({f"VOIPAGENT_{name}": value for name, value in environ.items()})


async def test_a_persona_beyond_its_share_is_refused_with_its_size() -> None:
    persona = Persona(prompt=" ".join(["word"] * 601))
    async with EchoEngine(rows=1) as engine:
        await check_persona(engine, persona)
        with pytest.raises(
            PromptError, match="'agent' takes 601 frames, and may take 600 of the model's window of 3000: shorten"
        ):
            await check_persona(engine, persona, Memory())
        await check_persona(engine, persona, Memory(Shares(prompt=0.21)))


async def test_a_long_call_is_told_again_who_it_is(nano: Path, recorder: Recorder, tmp_path: Path) -> None:
    """Nobody waits: the frames come as fast as they are stepped, and each is answered."""
    call, leg = FakeCall(), FakeLeg()
    folder = CallFolder(recorder, tmp_path, utc_now(), "id")
    record = CallRecord("id", "sip", "alice", "agent", "192.0.2.7:5060", "now")
    recording = recorder.record(folder.path / "recording.wav", 24_000, "both")
    async with LocalEngine(str(nano), rows=1, device="cpu") as engine, engine.open(Sampling(seed=1)) as slot:
        frames = 420  # the window is 500
        leg.hear(*[SILENCE] * frames)
        persona, memory = Persona(prompt="You are Ada."), Memory(Shares(due=0.5, hard=0.6, keep=0.2))
        session = Session(call, lambda _offer: leg, slot, persona, record, folder, recording, 600, memory)
        task = asyncio.create_task(session.run())
        async with asyncio.timeout(200):
            for number in range(frames):
                await leg.heard(number + 1)
        call.end()
        await task
        window = engine.window_frames
    left = json.loads((folder.path / "call.json").read_text())
    assert left["frames_stepped"] == frames
    assert left["ended_by"] == "caller"
    assert len(left["trims"]) >= 2
    for trim in left["trims"]:
        assert (trim["error"], trim["kept_frames"]) == ("", window // 5)
        assert 0 < trim["prompt_frames"] <= window // 5


PERSONA = Persona(prompt="You are Ada.")


def spied(slot: LocalSlot) -> list[Prompt]:
    """What the slot is primed with, from now on."""
    told: list[Prompt] = []
    prime = slot.prime

    async def listen(prompt: Prompt, keep_frames: int = 0, pause: Pause | None = None) -> None:
        told.append(prompt)
        await prime(prompt, keep_frames, pause)

    slot.prime = listen  # type: ignore[method-assign]
    return told


async def test_a_pinned_persona_is_neither_told_again_nor_forgotten(
    nano: Path, recorder: Recorder, tmp_path: Path
) -> None:
    folder = shortened(nano, tmp_path, 60)
    async with (
        open_memory(ContextSettings(policy="pin"), SummarySettings(), tell_all) as memory,
        LocalEngine(str(folder), rows=1, device="cpu", pins=True) as engine,
        engine.open(Sampling(seed=1)) as slot,
    ):
        told = spied(slot)
        left = await hold_call(slot, recorder, tmp_path, [SILENCE] * 130, memory, PERSONA)
    assert (left["frames_stepped"], left["trims"]) == (130, [])
    assert told == [Prompt("You are Ada.", pinned=True)]


async def test_off_is_as_if_there_were_none_of_this(nano: Path, recorder: Recorder, tmp_path: Path) -> None:
    """Bit for bit what the bare rows give that are primed once and stepped, beyond their window."""
    folder, speech, played = shortened(nano, tmp_path, 60), noise(130), list[Pcm]()
    async with (
        open_memory(ContextSettings(policy="off"), SummarySettings(), tell_all) as memory,
        LocalEngine(str(folder), rows=1, device="cpu") as engine,
        engine.open(Sampling(seed=1)) as slot,
    ):
        left = await hold_call(slot, recorder, tmp_path, speech, memory, PERSONA, played.append)
    assert left["trims"] == []
    batch = Batch(load_checkpoint(str(folder)), 1)
    batch.open(0, no_log())
    prime(batch, 0, "You are Ada.", sampling=Sampling(seed=1))
    for frame, stepped in zip(played, talk(batch, 0, speech, Sampling(seed=1)), strict=True):
        assert np.array_equal(frame, stepped.frame)
