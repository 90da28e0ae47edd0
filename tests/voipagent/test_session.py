"""A session on fakes: a call, a leg, and the engine that echoes."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from engine.echo import EchoEngine, EchoSlot
from engine.slot import FRAME_SAMPLES, EngineError, EngineFull, Frame, Pause, Prompt, Reply, Sampling
from media.leg import Digit, Exchange, NoPort, Pcm
from signaling.call import CallEnded, Rejection
from tests.fakes import SILENCE, FakeCall, FakeLeg, offer
from voipagent.consent import Announcement
from voipagent.context import Line
from voipagent.events import Observer
from voipagent.longest import Longest
from voipagent.persona import Persona
from voipagent.record import CallFolder, CallRecord, utc_now
from voipagent.recording import Recorder
from voipagent.session import Session
from voipagent.trim import Memory
from voipagent.words import Word

SPEECH = (0.1 * np.sin(np.arange(FRAME_SAMPLES))).astype(np.float32)
GREETING = "Hello, this is Ada. How can I help?"


@dataclass
class Stage:
    """One session in flight, and what it left behind."""

    call: FakeCall
    leg: FakeLeg
    folder: CallFolder
    task: asyncio.Task[CallEnded]
    session: Session
    ended: CallEnded | None = field(default=None)

    async def over(self) -> CallEnded:
        async with asyncio.timeout(5):
            self.ended = await self.task
        return self.ended

    @property
    def record(self) -> dict[str, Any]:
        record: dict[str, Any] = json.loads((self.folder.path / "call.json").read_text())
        return record

    @property
    def lines(self) -> list[Line]:
        path = self.folder.path / "transcript.jsonl"
        return [Line.parse(line) for line in path.read_text().splitlines()] if path.exists() else []


@asynccontextmanager
async def stage(
    recorder: Recorder,
    tmp_path: Path,
    *,
    engine: EchoEngine | None = None,
    call: FakeCall | None = None,
    leg: FakeLeg | None = None,
    greeting: str = "",
    max_hold_s: float = 600,
    memory: Memory | None = None,
    record_whom: Literal["both", "agent", "none"] = "both",
    observers: Sequence[Observer] = (),
    announcement: Announcement | None = None,
    longest: Longest | None = None,
) -> AsyncIterator[Stage]:
    call, leg = call or FakeCall(), leg or FakeLeg()
    folder = CallFolder(recorder, tmp_path, utc_now(), "id")
    record = CallRecord("id", "sip", "alice", "agent", "192.0.2.7:5060", "now")
    recording = recorder.record(folder.path / "recording.wav", 24_000, record_whom)
    persona = Persona(prompt="You are Ada.", greeting=greeting)
    async with engine or EchoEngine(rows=1) as opened, opened.open(Sampling()) as slot:
        session = Session(
            call,
            lambda _offer: leg,
            slot,
            persona,
            record,
            folder,
            recording,
            max_hold_s,
            memory,
            observers=observers,
            announcement=announcement,
            longest=longest,
        )
        task = asyncio.create_task(session.run())
        try:
            yield Stage(call, leg, folder, task, session)
        finally:
            task.cancel()
            await asyncio.wait([task])


def listening(words: dict[int, str]) -> type[EchoSlot]:
    """An echo that hears `words` by the number of the step, two frames after they were said."""

    class Listening(EchoSlot):
        hearing_delay_frames = 2
        ear, deaf = "test", ""

        async def step(self, frame: Frame) -> Reply:
            reply = await super().step(frame)
            return replace(reply, heard=words.get(reply.number, ""))

    return Listening


async def test_a_call_from_ring_to_bye(recorder: Recorder, tmp_path: Path) -> None:
    async with stage(recorder, tmp_path) as on:
        on.leg.hear(SPEECH, SILENCE, SPEECH)
        await on.leg.heard(3)
        on.call.end("caller", "hung up")
        assert await on.over() == CallEnded("caller", "hung up")
    assert on.call.log == [("ring", None), ("accept", "answer to offer")]
    assert [bool(pcm.any()) for pcm in on.leg.played] == [True, False, True]
    assert on.leg.closed
    assert (on.record["ended_by"], on.record["reason"], on.record["frames_stepped"]) == ("caller", "hung up", 3)
    assert on.record["duration_s"] == pytest.approx(0.24)
    assert on.record["media"]["codec"] == "fake"
    assert on.record["answered"]
    assert 0 <= on.record["setup_s"] < 5


async def test_while_a_call_lasts_the_folder_tells_how_far_it_has_come(recorder: Recorder, tmp_path: Path) -> None:
    """What a killed agent would leave: the record so far, and the words of the line that is not over."""
    async with stage(recorder, tmp_path, greeting=GREETING) as on:
        on.leg.hear(*[SILENCE] * 14)
        await on.leg.heard(14)
        recorder.do(lambda: None).result(5)
        begun = json.loads((on.folder.path / "begun.json").read_text())
        assert (begun["record"]["frames_stepped"], begun["record"]["duration_s"]) == (11, pytest.approx(0.96))
        assert begun["record"]["answered"]
        (line,) = begun["lines"]
        assert GREETING.startswith(line["text"]) and line["text"]
        assert not (on.folder.path / "call.json").exists()
        on.call.end()
        await on.over()
    assert not (on.folder.path / "begun.json").exists()


@pytest.mark.parametrize("greeting", [GREETING, "Welcome to the Donaudampfschifffahrtsgesellschaft, how can I help?"])
async def test_the_greeting_comes_first_and_is_a_line_of_its_own(
    recorder: Recorder, tmp_path: Path, greeting: str
) -> None:
    """However long its words are: while one lasts, the text stream is silent."""
    async with stage(recorder, tmp_path, greeting=greeting) as on:
        on.leg.hear(*[SILENCE] * 100)
        await on.leg.heard(100)
        on.call.end()
        await on.over()
    assert on.lines[0].text == greeting
    assert on.lines[0].start < 0.5
    assert not on.record["barged_in"]


async def test_both_sides_are_in_the_transcript_in_the_order_in_which_they_spoke(
    recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.echo.EchoSlot", listening({3: " hel", 4: "lo", 40: " what", 42: " else"}))
    async with stage(recorder, tmp_path, greeting="Good day.") as on:
        on.leg.hear(*[SILENCE] * 45)
        await on.leg.heard(45)
        on.call.end()
        await on.over()
    assert [(line.role, line.text) for line in on.lines] == [
        *(("agent", "Good day."), ("caller", "hello"), ("caller", "what else")),
    ]
    assert [(line.start, line.end) for line in on.lines[1:]] == [(0.08, 0.72), (3.04, 3.28)]
    assert on.lines[2].words == (Word("what", 3.04, 3.2), Word("else", 3.2, 3.28))
    assert (on.record["ear"], on.record["deaf"], on.record["deaf_at"]) == ("test", "", None)


async def test_an_ear_that_gives_way_is_in_the_record_with_its_reason(
    recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Deafened(listening({1: " hello"})):  # type: ignore[misc]  # a class made by a function
        async def step(self, frame: Frame) -> Reply:
            reply: Reply = await super().step(frame)
            self.deaf = "there is no time for it" if reply.number >= 5 else ""
            return reply

    monkeypatch.setattr("engine.echo.EchoSlot", Deafened)
    async with stage(recorder, tmp_path) as on:
        on.leg.hear(*[SILENCE] * 10)
        await on.leg.heard(10)
        on.call.end()
        await on.over()
    assert (on.record["ear"], on.record["deaf"]) == ("test", "there is no time for it")
    assert on.record["deaf_at"] == pytest.approx(0.48)
    assert [line.text for line in on.lines] == ["hello"]


async def test_why_nobody_writes_down_what_the_caller_says_is_in_the_record(recorder: Recorder, tmp_path: Path) -> None:
    async with stage(recorder, tmp_path) as on:
        on.leg.hear(SPEECH)
        await on.leg.heard(1)
        on.call.end()
        await on.over()
    assert (on.record["ear"], on.record["deaf_at"]) == ("", None)
    assert on.record["deaf"] == "an echo listens to nobody"


async def test_a_model_that_does_not_answer_is_primed_anew_and_the_record_tells(
    recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    primed: list[int] = []

    class Primed(listening({number: " so" for number in range(10)})):  # type: ignore[misc]  # a class made by a function
        async def prime(self, prompt: Prompt, keep_frames: int = 0, pause: Pause | None = None) -> None:
            primed.append(keep_frames)

    monkeypatch.setattr("engine.echo.EchoSlot", Primed)
    async with stage(recorder, tmp_path, memory=Memory()) as on:
        on.leg.hear(*[SILENCE] * 170)
        await on.leg.heard(170)
        on.call.end()
        await on.over()
    assert on.record["troubles"] == [{"at": pytest.approx(12.8, abs=0.2), "trouble": "dead air"}]
    assert [trim["why"] for trim in on.record["trims"]] == ["dead air"]
    assert primed == [0, 750]


@pytest.mark.parametrize("whom", ["agent", "none"])
async def test_where_callers_are_not_recorded_their_words_are_not_kept(
    recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whom: Literal["agent", "none"]
) -> None:
    words = {number: " secret" for number in range(3, 12)}
    monkeypatch.setattr("engine.echo.EchoSlot", listening(words))
    async with stage(recorder, tmp_path, greeting="Good day.", memory=Memory(), record_whom=whom) as on:
        on.leg.hear(*[SILENCE] * 200)
        await on.leg.heard(200)
        on.call.end()
        await on.over()
    assert [line.text for line in on.lines] == ["Good day."]
    assert len(on.record["trims"]) == 1
    assert "secret" not in json.dumps(on.record)


async def test_while_held_nothing_is_heard_and_times_are_those_of_the_frames(
    recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was said right before the hold is known after it."""
    monkeypatch.setattr("engine.echo.EchoSlot", listening({4: " wait", 5: " so"}))
    async with stage(recorder, tmp_path) as on:
        on.leg.hear(*[SILENCE] * 4)
        on.leg.hear(*[SILENCE] * 10, held=True)
        on.leg.hear(*[SILENCE] * 30)
        await on.leg.heard(44)
        on.call.end()
        await on.over()
    assert [(line.role, line.text, line.start) for line in on.lines] == [("caller", "wait so", 0.16)]
    assert [word.start for word in on.lines[0].words] == [0.16, 0.24]


async def test_barge_in_stops_the_greeting(recorder: Recorder, tmp_path: Path) -> None:
    async with stage(recorder, tmp_path, greeting=GREETING) as on:
        on.leg.hear(*[SILENCE] * 8, *[SPEECH] * 10, *[SILENCE] * 80)
        await on.leg.heard(98)
        on.call.end()
        await on.over()
    said = "".join(line.text for line in on.lines)
    assert said
    assert GREETING.startswith(said)
    assert len(said) < len(GREETING)
    assert on.record["barged_in"]
    assert [line.interrupted for line in on.lines] == [True] * len(on.lines)


def saying(words: dict[int, str]) -> type[EchoSlot]:
    """An echo that says `words` by the number of the step."""

    class Saying(EchoSlot):
        async def step(self, frame: Frame) -> Reply:
            reply = await super().step(frame)
            return replace(reply, text=words.get(reply.number, ""))

    return Saying


async def test_what_the_agent_says_after_it_was_interrupted_is_a_line_of_its_own(
    recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though it says it in less than the pause that ends a line otherwise."""
    words = {number: f" {number}" for number in [*range(15), *range(20, 30)]}
    monkeypatch.setattr("engine.echo.EchoSlot", saying(words))
    async with stage(recorder, tmp_path) as on:
        for number in range(56):
            heard, played = SPEECH if 8 <= number < 16 else SILENCE, SPEECH if number in words else SILENCE
            on.leg.line.put_nowait(Exchange(heard, played))
        await on.leg.heard(56)
        on.call.end()
        await on.over()
    assert [(line.text.split()[0], line.text.split()[-1], line.interrupted) for line in on.lines] == [
        ("0", "14", True),
        ("20", "29", False),
    ]
    assert on.record["interruptions"] == 1


async def test_a_delayed_offer_is_ours_and_the_answer_reaches_the_leg(recorder: Recorder, tmp_path: Path) -> None:
    call = FakeCall(offer(media=None))
    async with stage(recorder, tmp_path, call=call) as on:
        async with asyncio.timeout(5):
            await call.accepted.wait()
        assert call.answered is not None
        await call.answered("their answer")
        call.end()
        await on.over()
    assert call.log[1] == ("accept", "our offer")
    assert on.leg.answers == ["their answer"]


async def test_media_we_cannot_serve_is_not_acceptable(recorder: Recorder, tmp_path: Path) -> None:
    async with stage(recorder, tmp_path, leg=FakeLeg(refuse="no common codec")) as on:
        await on.over()
    assert on.call.log == [("ring", None), ("reject", Rejection.NOT_ACCEPTABLE)]
    assert on.leg.closed


class Portless(FakeLeg):
    async def answer(self, offer: str) -> str:
        raise NoPort("no UDP port pair of 16384-16385 is free: 1 are in calls")


async def test_a_call_without_a_port_for_its_media_is_busy(recorder: Recorder, tmp_path: Path) -> None:
    async with stage(recorder, tmp_path, leg=Portless()) as on:
        await on.over()
    assert on.call.log == [("ring", None), ("reject", Rejection.BUSY)]
    assert on.leg.closed


async def test_a_caller_who_gives_up_while_it_rings(recorder: Recorder, tmp_path: Path) -> None:
    call = FakeCall()
    call.end("caller", "cancelled")
    async with stage(recorder, tmp_path, call=call) as on:
        await on.over()
    assert on.leg.closed
    assert on.record["reason"] == "cancelled"
    assert on.record["duration_s"] == 0


async def test_a_re_invite_goes_to_the_leg(recorder: Recorder, tmp_path: Path) -> None:
    async with stage(recorder, tmp_path) as on:
        await on.leg.heard(0)
        assert on.call.renegotiate is not None
        assert await on.call.renegotiate("hold") == "answer to hold"
        assert await on.call.renegotiate(None) == "our offer"
        on.leg._refuse = "video only"
        assert await on.call.renegotiate("video") is Rejection.NOT_ACCEPTABLE


async def test_while_held_the_model_is_not_stepped_but_the_record_goes_on(recorder: Recorder, tmp_path: Path) -> None:
    async with stage(recorder, tmp_path) as on:
        on.leg.hear(SPEECH)
        on.leg.hear(*[SILENCE] * 5, held=True)
        on.leg.hear(SPEECH)
        await on.leg.heard(7)
        on.call.end()
        await on.over()
    assert (on.record["frames_stepped"], on.record["frames_held"]) == (2, 5)
    assert on.record["duration_s"] == pytest.approx(7 * 0.08)
    assert on.record["holds"] == [{"at": 0.08, "duration_s": 0.4}]
    assert len(on.leg.played) == 2


async def test_a_hold_has_a_limit(recorder: Recorder, tmp_path: Path) -> None:
    async with stage(recorder, tmp_path, max_hold_s=0.4) as on:
        on.leg.hear(*[SILENCE] * 4, held=True)
        on.leg.hear(SILENCE)
        on.leg.hear(*[SILENCE] * 5, held=True)
        ended = await on.over()
    assert ended == CallEnded("agent", "on hold for more than 0.4 s")
    assert on.record["frames_held"] == 9
    assert [hold["at"] for hold in on.record["holds"]] == [0.0, 0.4]


async def test_lost_media_ends_the_call_with_its_reason(recorder: Recorder, tmp_path: Path) -> None:
    async with stage(recorder, tmp_path) as on:
        on.leg.broken.set_result("no RTP from 192.0.2.7:4000 in 15 s")
        assert await on.over() == CallEnded("agent", "no RTP from 192.0.2.7:4000 in 15 s")


async def test_digits_of_both_kinds_are_recorded(recorder: Recorder, tmp_path: Path) -> None:
    async with stage(recorder, tmp_path) as on:
        on.leg.hear(SILENCE)
        await on.leg.heard(1)
        on.leg.keys.put_nowait(Digit("5", 0.1))
        on.call.keys.put_nowait("#")
        on.leg.hear(SILENCE)
        await on.leg.heard(2)
        on.call.end()
        await on.over()
    assert sorted((digit["key"], digit["duration_s"]) for digit in on.record["digits"]) == [("#", 0.0), ("5", 0.1)]


async def test_of_keys_without_end_the_latest_are_kept(
    recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record is written anew each second, and a key is pressed in less."""
    monkeypatch.setattr("voipagent.record.MOST_NOTED", 3)
    async with stage(recorder, tmp_path) as on:
        on.leg.hear(SILENCE)
        await on.leg.heard(1)
        for key in "123456":
            on.call.keys.put_nowait(key)
        on.leg.hear(SILENCE)
        await on.leg.heard(2)
        on.call.end()
        await on.over()
    assert [digit["key"] for digit in on.record["digits"]] == ["4", "5", "6"]


async def fail(number: int) -> None:
    raise EngineError("the card fell out")


async def test_an_engine_that_fails_in_mid_call_hangs_up(recorder: Recorder, tmp_path: Path) -> None:
    async with stage(recorder, tmp_path, engine=EchoEngine(rows=1, before_step=fail)) as on:
        on.leg.hear(SPEECH)
        assert await on.over() == CallEnded("agent", "the engine failed")
    assert on.call.log[-1] == ("hang_up", "the engine failed")
    assert on.record["reason"] == "the engine failed"


async def test_a_row_that_cannot_be_primed_is_overload(
    recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(self: object, prompt: Prompt, keep_frames: int = 0) -> None:
        await asyncio.get_running_loop().create_future()

    monkeypatch.setattr("engine.echo.EchoSlot.prime", never)
    monkeypatch.setattr("voipagent.upkeep.PRIME_S", 0.05)
    async with stage(recorder, tmp_path) as on:
        await on.over()
    assert on.call.log == [("ring", None), ("reject", Rejection.OVERLOADED)]


async def test_a_row_that_memory_does_not_hold_is_busy(
    recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(self: object, prompt: Prompt, keep_frames: int = 0) -> None:
        raise EngineFull("the device's memory is full")

    monkeypatch.setattr("engine.echo.EchoSlot.prime", full)
    async with stage(recorder, tmp_path) as on:
        await on.over()
    assert on.call.log == [("ring", None), ("reject", Rejection.BUSY)]


async def test_a_bug_ends_the_call_and_is_not_swallowed(recorder: Recorder, tmp_path: Path) -> None:
    class Buggy(FakeLeg):
        def play(self, pcm: Pcm) -> None:
            raise ZeroDivisionError

    async with stage(recorder, tmp_path, leg=Buggy()) as on:
        on.leg.hear(SPEECH)
        with pytest.raises(ExceptionGroup):
            await on.over()
    assert on.call.log[-1] == ("hang_up", "the session failed")
    assert on.record["reason"] == "the session failed"


async def test_a_leg_that_fails_to_close_does_not_cost_the_record(recorder: Recorder, tmp_path: Path) -> None:
    class Stuck(FakeLeg):
        async def close(self) -> None:
            raise ZeroDivisionError

    async with stage(recorder, tmp_path, leg=Stuck()) as on:
        on.leg.hear(SPEECH)
        await on.leg.heard(1)
        on.call.end()
        with pytest.raises(ZeroDivisionError):
            await on.over()
    assert (on.record["ended_by"], on.record["frames_stepped"]) == ("caller", 1)


async def test_shutting_down_hangs_up_and_closes_the_record(recorder: Recorder, tmp_path: Path) -> None:
    async with stage(recorder, tmp_path) as on:
        on.leg.hear(SPEECH)
        await on.leg.heard(1)
        on.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await on.task
    assert on.call.log[-1] == ("hang_up", "the agent is shutting down")
    assert on.record["reason"] == "the agent is shutting down"
    assert (on.folder.path / "recording.wav").exists()


@pytest.mark.parametrize("by", ["caller", "agent"])
async def test_shutting_down_while_the_record_is_being_closed_loses_nothing(
    by: str, recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever ended the call: if that was a shutdown, this is the second time that we are told to go."""
    closing, go_on = asyncio.Event(), asyncio.Event()

    async def slow(self: FakeLeg) -> None:
        closing.set()
        await go_on.wait()
        self.closed = True

    monkeypatch.setattr(FakeLeg, "close", slow)
    async with stage(recorder, tmp_path) as on:
        on.leg.hear(SPEECH)
        await on.leg.heard(1)
        if by == "caller":
            on.call.end()
        else:
            on.task.cancel()
        await asyncio.wait_for(closing.wait(), 5)
        on.task.cancel()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await on.task
    assert on.leg.closed
    assert (on.record["ended_by"], on.record["frames_stepped"]) == (by, 1)


async def test_a_stuck_disk_holds_up_neither_the_call_nor_its_row(
    recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not when it begins, not while it lasts, not when it ends; and once the disk is back, all is there."""
    monkeypatch.setattr("voipagent.recording.CLOSE_S", 0.05)
    unstuck = threading.Event()
    recorder.do(unstuck.wait)
    async with stage(recorder, tmp_path, greeting="Hello.") as on:
        on.leg.hear(*[SILENCE] * 30)
        await on.leg.heard(30)
        on.call.end()
        assert await on.over() == CallEnded("caller", "hung up")
    assert list(tmp_path.iterdir()) == []
    unstuck.set()
    recorder.do(lambda: None).result(5)
    assert on.record["frames_stepped"] == 30
    assert on.lines[0].text == "Hello."
    assert (on.folder.path / on.record["recording"]).exists()
