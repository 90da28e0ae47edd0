"""How a session begins with an announcement and ends with a goodbye, on fakes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from engine.echo import EchoEngine
from engine.slot import FRAME_SAMPLES
from media.leg import Exchange
from signaling.call import CallEnded
from tests.fakes import SILENCE, FakeLeg
from tests.voipagent.test_session import SPEECH, listening, stage
from voipagent.consent import READY_S, Announcement
from voipagent.longest import TAIL_S, Longest
from voipagent.recording import Recorder

FRAMES = tuple(np.full(FRAME_SAMPLES, level, np.float32) for level in (0.1, 0.2, 0.3, 0.0, 0.0))
ANNOUNCEMENT = Announcement("consent.wav", FRAMES)
GREETING = "Hello, this is Ada. How can I help?"
GOODBYE = "Thank you for calling and goodbye."


class Paced(FakeLeg):
    """Lets others have their turn between two frames, as a clock does: what ends the call has happened by the next."""

    async def exchange(self) -> Exchange:
        for _ in range(10):
            await asyncio.sleep(0)
        return await super().exchange()


async def test_the_announcement_is_heard_before_the_first_step(recorder: Recorder, tmp_path: Path) -> None:
    """The engine that would say back what the caller says during it has not heard any of that."""
    async with stage(recorder, tmp_path, announcement=ANNOUNCEMENT) as on:
        on.leg.hear(*[SPEECH] * 5, SILENCE, SILENCE)
        await on.leg.heard(7)
        on.call.end()
        await on.over()
    assert [float(pcm.max()) for pcm in on.leg.played] == pytest.approx([0.1, 0.2, 0.3, 0, 0, 0, 0])
    assert on.record["frames_stepped"] == 2
    assert on.record["duration_s"] == pytest.approx(7 * 0.08)
    assert on.record["consent"] == {"heard": "consent.wav", "duration_s": 0.4, "whole": True}


class Browser(FakeLeg):
    """Has our answer, but no way yet: that comes with the frame `found`, and is `lost` with a later one."""

    def __init__(self, found: int, lost: int = 1_000) -> None:
        super().__init__()
        self.found, self.lost_at, self.ready = found, lost, False

    async def exchange(self) -> Exchange:
        exchange = await super().exchange()
        self.ready = self.found < self._returned <= self.lost_at
        return exchange


async def test_nothing_is_said_before_it_can_be_heard(recorder: Recorder, tmp_path: Path) -> None:
    async with stage(recorder, tmp_path, leg=Browser(3), announcement=ANNOUNCEMENT) as on:
        on.leg.hear(*[SPEECH] * 9, SILENCE, SILENCE)
        await on.leg.heard(11)
        on.call.end()
        await on.over()
    assert [float(pcm.max()) for pcm in on.leg.played] == pytest.approx([0.1, 0.2, 0.3, 0, 0, 0, 0])
    assert on.record["frames_stepped"] == 2
    assert on.record["duration_s"] == pytest.approx(11 * 0.08)
    assert on.record["consent"] == {"heard": "consent.wav", "duration_s": 0.4, "whole": True}


async def test_who_cannot_be_reached_has_not_heard_it_and_is_answered_all_the_same(
    recorder: Recorder, tmp_path: Path
) -> None:
    frames = round(READY_S / 0.08) + len(FRAMES) + 1
    for leg in (Browser(1_000), Browser(0, lost=3)):
        async with stage(recorder, tmp_path, leg=leg, announcement=ANNOUNCEMENT) as on:
            on.leg.hear(*[SILENCE] * frames)
            await on.leg.heard(frames)
            on.call.end()
            await on.over()
        assert on.record["frames_stepped"] >= 1
        assert on.record["consent"] == {"heard": "consent.wav", "duration_s": 0.4, "whole": False}


async def test_it_is_recorded_as_it_left(recorder: Recorder, tmp_path: Path) -> None:
    async with stage(recorder, tmp_path, announcement=ANNOUNCEMENT) as on:
        for played in (SILENCE, *FRAMES):
            on.leg.line.put_nowait(Exchange(SPEECH, played))
        await on.leg.heard(6)
        on.call.end()
        await on.over()
    sound = (on.folder.path / "recording.wav").read_bytes()[44:]
    agent = np.frombuffer(sound, "<i2").reshape(6, FRAME_SAMPLES, 2)[:, 0, 1] / 32767
    assert agent == pytest.approx([0, 0.1, 0.2, 0.3, 0, 0], abs=1e-3)


async def test_nobody_can_talk_it_away_and_the_greeting_follows_whole(recorder: Recorder, tmp_path: Path) -> None:
    long = Announcement("long.wav", FRAMES * 4)
    async with stage(recorder, tmp_path, announcement=long, greeting=GREETING) as on:
        on.leg.hear(*[SPEECH] * 20, *[SILENCE] * 60)
        await on.leg.heard(80)
        on.call.end()
        await on.over()
    assert [float(pcm.max()) for pcm in on.leg.played[:20]] == pytest.approx([0.1, 0.2, 0.3, 0, 0] * 4)
    assert [line.text for line in on.lines] == [GREETING]
    assert on.lines[0].start >= 20 * 0.08
    assert not on.record["barged_in"]
    assert on.record["response_latency"]["count"] == 0  # nobody was answered by it


async def test_who_does_not_agree_hangs_up(recorder: Recorder, tmp_path: Path) -> None:
    async with stage(recorder, tmp_path, announcement=ANNOUNCEMENT, greeting=GREETING) as on:
        on.leg.hear(SILENCE, SILENCE)
        await on.leg.heard(2)
        on.call.end()
        assert await on.over() == CallEnded("caller", "hung up")
    assert on.record["consent"] == {"heard": "consent.wav", "duration_s": 0.16, "whole": False}
    assert (on.record["frames_stepped"], on.lines) == (0, [])


async def test_while_the_caller_holds_it_waits(recorder: Recorder, tmp_path: Path) -> None:
    async with stage(recorder, tmp_path, announcement=ANNOUNCEMENT) as on:
        on.leg.hear(SILENCE)
        on.leg.hear(*[SILENCE] * 10, held=True)
        on.leg.hear(*[SILENCE] * 5)
        await on.leg.heard(16)
        on.call.end()
        await on.over()
    assert [float(pcm.max()) for pcm in on.leg.played] == pytest.approx([0.1, 0.2, 0.3, 0, 0, 0])
    assert (on.record["frames_held"], on.record["frames_stepped"]) == (10, 1)
    assert on.record["consent"]["whole"]


async def test_a_call_that_is_long_enough_ends_with_a_goodbye_that_is_heard(recorder: Recorder, tmp_path: Path) -> None:
    async with stage(recorder, tmp_path, leg=Paced(), longest=Longest(2.0, GOODBYE)) as on:
        on.leg.hear(*[SPEECH] * 100)
        ended = await on.over()
    assert ended == CallEnded("agent", "the call lasted 2 s, which is the longest allowed")
    assert [line.text for line in on.lines] == [GOODBYE]
    assert on.lines[0].start == pytest.approx(2.0, abs=0.1)
    assert TAIL_S <= on.record["duration_s"] - on.lines[0].end < 2 * TAIL_S
    assert not on.record["barged_in"]


async def test_it_takes_the_word_from_the_greeting(recorder: Recorder, tmp_path: Path) -> None:
    async with stage(recorder, tmp_path, leg=Paced(), longest=Longest(0.8, GOODBYE), greeting=GREETING) as on:
        on.leg.hear(*[SILENCE] * 100)
        await on.over()
    first, last = (line.text for line in on.lines)
    assert GREETING.startswith(first) and last == GOODBYE


async def test_who_speaks_over_the_greeting_as_time_runs_out_hears_the_whole_goodbye(
    recorder: Recorder, tmp_path: Path
) -> None:
    async with stage(recorder, tmp_path, leg=Paced(), longest=Longest(0.8, GOODBYE), greeting=GREETING) as on:
        on.leg.hear(*[SILENCE] * 8, *[SPEECH] * 92)
        await on.over()
    assert on.lines[-1].text == GOODBYE
    assert not on.record["barged_in"]


async def test_a_row_that_never_says_it_is_hung_up_on(
    recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Mute(listening({})):  # type: ignore[misc]  # a class made by a function
        saying = True

    monkeypatch.setattr("engine.echo.EchoSlot", Mute)
    monkeypatch.setattr("voipagent.longest.GOODBYE_S", 1.5)
    async with stage(recorder, tmp_path, leg=Paced(), longest=Longest(2.0, GOODBYE)) as on:
        on.leg.hear(*[SILENCE] * 100)
        await on.over()
    assert on.record["duration_s"] == pytest.approx(2 + 1.5, abs=0.2)
    assert on.record["ended_by"] == "agent"


async def test_a_call_on_hold_ends_without_words(recorder: Recorder, tmp_path: Path) -> None:
    async with stage(recorder, tmp_path, leg=Paced(), longest=Longest(2.0, GOODBYE)) as on:
        on.leg.hear(*[SILENCE] * 100, held=True)
        await on.over()
    assert (on.record["duration_s"], on.record["frames_stepped"]) == (pytest.approx(2.0), 0)


async def test_the_caller_may_go_first(recorder: Recorder, tmp_path: Path) -> None:
    engine = EchoEngine(rows=1)
    async with stage(recorder, tmp_path, engine=engine, longest=Longest(2.0, GOODBYE)) as on:
        on.leg.hear(*[SILENCE] * 27)
        await on.leg.heard(27)
        assert on.session.slot.saying
        on.call.end("caller", "hung up")
        async with asyncio.timeout(5):
            assert await on.over() == CallEnded("caller", "hung up")
