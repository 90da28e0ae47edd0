"""Calls as long as one likes, as fast as they are stepped: a session with a leg that is always ready."""

from __future__ import annotations

import asyncio
import itertools
import json
import shutil
from collections.abc import Callable, Coroutine, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from engine.slot import Frame, Pause, Prompt, Reply, Slot
from media.leg import Exchange, Pcm
from tests.fakes import SILENCE, FakeCall, FakeLeg
from voipagent.events import Observer
from voipagent.persona import Persona
from voipagent.record import CallFolder, CallRecord, utc_now
from voipagent.recording import Channels, Recorder
from voipagent.session import Session
from voipagent.trim import Memory
from voipagent.watchdog import WatchdogSettings

NUMBERS = itertools.count()


Wait: TypeAlias = Coroutine[Any, Any, None]


async def at_once(number: int) -> None:
    """The others have their turn."""
    await asyncio.sleep(0)


class ReadyLeg(FakeLeg):
    """Hears these frames one after the other, and then the caller hangs up. What is said goes to `said`.

    Before each it awaits what `before` gives for its number.
    """

    def __init__(
        self, call: FakeCall, frames: Iterable[Frame], said: Callable[[Pcm], None], before: Callable[[int], Wait]
    ) -> None:
        super().__init__()
        self._call, self._frames, self._said, self._before = call, iter(frames), said, before
        self._number = 0

    async def exchange(self) -> Exchange:
        await self._before(self._number)
        self._number += 1
        frame = next(self._frames, None)
        if frame is None:
            self._call.end()
            await asyncio.get_running_loop().create_future()
        return Exchange(SILENCE if frame is None else frame, SILENCE)

    def play(self, pcm: Pcm) -> None:
        self._said(pcm)


class Watched:
    """What a row is told and what it writes, from now on: its prompts, and the text of each frame."""

    def __init__(self, slot: Slot) -> None:
        self.prompts: list[Prompt] = []
        self.texts: list[str] = []
        prime, step = slot.prime, slot.step

        async def told(prompt: Prompt, keep_frames: int = 0, pause: Pause | None = None) -> None:
            self.prompts.append(prompt)
            await prime(prompt, keep_frames, pause)

        async def read(frame: Frame) -> Reply:
            reply = await step(frame)
            self.texts.append(reply.text)
            return reply

        slot.prime, slot.step = told, read  # type: ignore[method-assign]

    def said(self, first: int, last: int | None = None) -> str:
        """In the frames from `first` to before `last`, or to the end."""
        return " ".join("".join(self.texts[first:last]).split())


async def hold_call(
    slot: Slot,
    recorder: Recorder,
    root: Path,
    frames: Iterable[Frame],
    memory: Memory | None = None,
    persona: Persona | None = None,
    said: Callable[[Pcm], None] = lambda _: None,
    watchdog: WatchdogSettings | None = None,
    observers: Sequence[Observer] = (),
    before: Callable[[int], Wait] = at_once,
    channels: Channels = "none",
) -> dict[str, Any]:
    """A whole call of these frames; gives its call.json, without the words of a caller who is not recorded."""
    call = FakeCall()
    name = f"call-{next(NUMBERS)}"
    folder = CallFolder(recorder, root, utc_now(), name)
    record = CallRecord(name, "sip", "alice", "agent", "192.0.2.7:5060", "now")
    recording = recorder.record(folder.path / "recording.wav", 24_000, channels)
    leg = ReadyLeg(call, frames, said, before)
    persona = persona or Persona(prompt="You are Ada.")
    session = Session(
        call, lambda _offer: leg, slot, persona, record, folder, recording, 600, memory, watchdog, observers
    )
    await session.run()
    left: dict[str, Any] = json.loads((folder.path / "call.json").read_text())
    return left


def shortened(nano: Path, folder: Path, window: int) -> Path:
    """The same checkpoint with another window."""
    short = Path(shutil.copytree(nano, folder / f"window-{window}" / "nano"))
    config = json.loads((short / "config.json").read_text())
    (short / "config.json").write_text(json.dumps({**config, "context": window}))
    return short
