"""putthrough.py: once, not too early and not too late, and every attempt in the record."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from signaling.call import Call, SignalingError
from tests.fakes import FakeCall
from tests.voipagent.test_transfer import Board, Keys, Refusing, soon
from voipagent.putthrough import PutThrough
from voipagent.record import CallRecord
from voipagent.recording import Recorder


class Asked:
    """A call that somebody is to be put through from."""

    def __init__(self, recorder: Recorder, path: Path, call: FakeCall, answered: str = "now") -> None:
        self.board = Board()
        self.board.leg = self.keys = Keys()
        self.record = CallRecord("id", "sip", "alice", "agent", "192.0.2.7:5060", "before", answered=answered)
        self.asked = PutThrough(call, self.record, recorder.record(path / "recording.wav", 24_000, "both"))

    async def to(self, target: str) -> str:
        return await soon(self.asked.to(self.board.board, target, "trunk"))

    def noted(self) -> list[tuple[str, str]]:
        return [(transfer["to"], transfer["how"]) for transfer in self.record.transfers]


async def test_before_the_answer_nobody_is_put_through(recorder: Recorder, tmp_path: Path) -> None:
    early = Asked(recorder, tmp_path, Refusing(), answered="")
    with pytest.raises(SignalingError, match="not answered yet"):
        await early.to("+4930")
    assert early.board.dialled == [] and early.noted() == []


async def test_the_far_end_may_be_asked_again_and_no_line_comes(recorder: Recorder, tmp_path: Path) -> None:
    on = Asked(recorder, tmp_path, FakeCall())
    for _ in range(2):
        assert await on.to("+4930") == "transferred"
    assert on.noted() == [("+4930", "transferred")] * 2
    assert not on.asked.line().done()
    await on.asked.press("1")
    await on.asked.close()


async def test_a_line_comes_once_and_is_pressed_and_closed(recorder: Recorder, tmp_path: Path) -> None:
    on = Asked(recorder, tmp_path, Refusing())
    given_up, line = on.asked.line(), on.asked.line()
    given_up.cancel()
    on.board.other.taken.set()
    await on.asked.press("1")
    assert await on.to("+4930") == "bridged"
    assert (await asyncio.wait_for(line, 5)).leg is on.keys
    with pytest.raises(SignalingError, match="put through already"):
        await on.to("+4931")
    await on.asked.press("2")
    assert on.keys.pressed == ["2"]
    for _ in range(2):
        await on.asked.close()
    assert on.keys.closed and on.board.other.log[-1] == ("hang_up", "the other party hung up")
    assert on.noted() == [("+4930", "bridged")]


async def test_who_answers_too_late_is_hung_up_on(recorder: Recorder, tmp_path: Path) -> None:
    on = Asked(recorder, tmp_path, Refusing())
    reaching = asyncio.create_task(on.to("+4930"))
    while not on.board.other.log:
        await asyncio.sleep(0)
    await on.asked.close()
    on.board.other.taken.set()
    with pytest.raises(SignalingError, match="the call is over"):
        await reaching
    assert on.keys.closed and not on.asked.line().done()


class Slow(FakeCall):
    """Takes its time to be transferred."""

    async def transfer(self, target: str | Call) -> None:
        await asyncio.sleep(0)
        await super().transfer(target)


@pytest.mark.parametrize(("call", "how"), [(Refusing, "bridged"), (Slow, "transferred")])
async def test_whoever_asks_again_meanwhile_is_refused(
    recorder: Recorder, tmp_path: Path, call: type[FakeCall], how: str
) -> None:
    on = Asked(recorder, tmp_path, call())
    on.board.other.taken.set()
    outcomes = await asyncio.gather(on.to("+4930"), on.to("+4930"), return_exceptions=True)
    assert outcomes.count(how) == 1
    assert [str(each) for each in outcomes if isinstance(each, SignalingError)] == [
        "the caller is being put through already"
    ]
    assert len(on.board.dialled) == (how == "bridged") and on.noted() == [("+4930", how)]
    await on.asked.close()


async def test_nobody_is_reached_and_the_record_says_why(recorder: Recorder, tmp_path: Path) -> None:
    on = Asked(recorder, tmp_path, Refusing())
    on.board.other.end("callee", "busy")
    with pytest.raises(SignalingError, match="busy"):
        await on.to("+4930")
    assert on.record.transfers == [
        {"at": 0.0, "to": "+4930", "how": "failed", "why": "+4930 was not reached: busy"},
    ]
    assert not on.asked.line().done()
