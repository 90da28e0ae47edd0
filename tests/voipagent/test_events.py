"""What a session tells of its call, on fakes."""

from __future__ import annotations

from pathlib import Path

import pytest

from signaling.call import CallEnded
from tests.fakes import SILENCE
from tests.voipagent.test_session import SPEECH, listening, stage
from voipagent.context import Line
from voipagent.events import Answered, Began, Ended, Event, Measured, Spoke, Stepped, Telling
from voipagent.recording import Recorder


class Witness:
    """An observer that keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def __call__(self, call_id: str, event: Event) -> None:
        assert call_id == "id"
        self.events.append(event)

    def lines(self, *, final: bool) -> list[Line]:
        return [each.line for each in self.events if isinstance(each, Spoke) and each.final is final]


async def test_a_call_is_told_from_its_beginning_to_its_end(recorder: Recorder, tmp_path: Path) -> None:
    seen = Witness()
    async with stage(recorder, tmp_path, observers=[seen]) as on:
        on.leg.hear(*[SPEECH] * 25)
        await on.leg.heard(25)
        on.leg.hear(SILENCE, held=True)
        await on.leg.heard(26)
        on.call.end("caller", "hung up")
        await on.over()
    began, answered, *rest, measured, ended = seen.events
    assert began == Began("sip", "in", "", on.record["persona"])
    assert isinstance(answered, Answered) and answered.prime_s == on.record["prime_s"]
    assert sum(isinstance(each, Stepped) for each in rest) == 25
    assert [each.at for each in rest if isinstance(each, Measured)] == [0.96, 1.92]
    assert isinstance(measured, Measured) and measured.at == 2.08
    assert measured.stats == on.leg.stats and measured.stats is not on.leg.stats
    assert ended == Ended(CallEnded("caller", "hung up"))


async def test_lines_are_told_as_they_grow_and_once_they_are_final(
    recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.echo.EchoSlot", listening({3: " hel", 4: "lo", 40: " what"}))
    seen = Witness()
    async with stage(recorder, tmp_path, observers=[seen], record_whom="agent", greeting="Good day.") as on:
        on.leg.hear(*[SILENCE] * 42)
        await on.leg.heard(42)
        on.call.end()
        await on.over()
    growing = seen.lines(final=False)
    assert [line.text for line in growing if line.role == "caller"] == ["hel", "hello", "what"]
    assert {line.start for line in growing if line.text.startswith("hel")} == {0.08}, "by which they are one"
    agents = [line.text for line in growing if line.role == "agent"]
    assert agents[-1] == "Good day." and all(agents[-1].startswith(text) for text in agents)
    assert [line.text for line in seen.lines(final=True)] == ["Good day.", "hello", "what"]
    assert [line.text for line in on.lines] == ["Good day."], "theirs are told, not kept"


def test_an_observer_that_fails_is_logged_and_keeps_nothing_from_the_next(caplog: pytest.LogCaptureFixture) -> None:
    def broken(call_id: str, event: Event) -> None:
        raise RuntimeError("no")

    seen = Witness()
    Telling("id", [broken, seen])(Answered(0.5))
    assert seen.events == [Answered(0.5)]
    assert "x id an observer failed" in caplog.text
