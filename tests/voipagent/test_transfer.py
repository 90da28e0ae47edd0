"""transfer.py: the far end does it, or we do, or nobody can."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import numpy as np
import pytest

from media.leg import AudioFormat, Exchange, LegError
from signaling.call import Call, CallOffer, SignalingError
from tests.fakes import FakeCall, FakeLeg, offer
from voipagent.consent import Announcement
from voipagent.transfer import Line, Switchboard

FORMAT = AudioFormat(24_000, 1_920)

T = TypeVar("T")


class FakeOutgoing(FakeCall):
    """A call of ours that the test answers."""

    def __init__(self) -> None:
        super().__init__(offer(None, "call-2"))
        self.taken = asyncio.Event()

    async def invite(self, media: str | None) -> None:
        self.log.append(("invite", media))

    async def wait_early(self) -> None:
        raise AssertionError("nobody asks")

    async def wait_ringing(self) -> None:
        await self.taken.wait()

    async def wait_answered(self) -> None:
        await self.taken.wait()


class Refusing(FakeCall):
    async def transfer(self, target: str | Call) -> None:
        await super().transfer(target)
        raise SignalingError("603 Decline")


class Board:
    """A switchboard, whose one call and leg are at hand."""

    def __init__(self, refuse: str = "", nowhere: bool = False) -> None:
        self.other, self.leg = FakeOutgoing(), FakeLeg(refuse)
        self.dialled: list[tuple[str, str]] = []
        self.nowhere = nowhere
        self.board = Switchboard(self, self.open_leg, FORMAT, lambda offer, target: "ours" if target == "alice" else "")

    async def dial(self, target: str, trunk: str = "") -> FakeOutgoing:
        self.dialled.append((target, trunk))
        if self.nowhere:
            raise SignalingError("no trunk may call there")
        return self.other

    def open_leg(self, call_offer: CallOffer) -> FakeLeg:
        assert call_offer is self.other.offer
        return self.leg


async def soon(work: Coroutine[Any, Any, T]) -> T:
    async with asyncio.timeout(5):
        return await work


async def test_the_far_end_does_it_itself() -> None:
    board, call = Board(), FakeCall()
    assert await soon(board.board.reach(call, "+4930123")) is None
    assert call.log == [("transfer", "+4930123")]
    assert board.dialled == []


async def test_where_it_refuses_we_call() -> None:
    board, call = Board(), Refusing()
    board.other.taken.set()
    line = await soon(board.board.reach(call, "+4930123", "trunk"))
    assert line is not None and line.leg is board.leg
    assert board.dialled == [("+4930123", "trunk")]
    assert board.other.log == [("invite", "our offer")]
    assert board.other.answered is not None and board.other.renegotiate is not None
    await board.other.answered("their answer")
    assert board.leg.answers == ["their answer"]
    assert await board.other.renegotiate("hold") == "answer to hold"
    for _ in range(2):
        await line.close()
    assert board.leg.closed
    assert board.other.log[-1] == ("hang_up", "the other party hung up")


async def test_who_is_called_hears_of_the_recording_first() -> None:
    board, announcement = Board(), Announcement("tone", (np.full(1_920, 0.1, np.float32),) * 2)
    board.board = Switchboard(board, board.open_leg, FORMAT, announcement=announcement)
    board.other.taken.set()
    board.leg.hear(*[np.zeros(1_920, np.float32)] * 2)
    line = await soon(board.board.reach(Refusing(), "+4930123"))
    assert line is not None and line.consent == {"heard": "tone", "duration_s": 0.16, "whole": True}
    assert len(board.leg.played) == 2
    await line.close()


@pytest.mark.parametrize("how", ["hangs up", "lost"])
async def test_who_is_gone_before_it_is_over_is_not_reached(how: str) -> None:
    board, announcement = Board(), Announcement("tone", (np.zeros(1_920, np.float32),))
    board.board = Switchboard(board, board.open_leg, FORMAT, announcement=announcement)
    board.other.taken.set()
    reaching = asyncio.ensure_future(soon(board.board.reach(Refusing(), "bob")))
    await board.leg.heard(0)
    if how == "lost":
        board.leg.broken.set_result("nothing comes")
    else:
        board.other.end("callee", "hung up")
    with pytest.raises(SignalingError, match="no media for bob: nothing comes|bob was not reached: hung up"):
        await reaching
    assert board.leg.closed


async def test_a_phone_of_our_own_is_called_by_us_alone() -> None:
    board, call = Board(), FakeCall()
    board.other.taken.set()
    line = await soon(board.board.reach(call, "alice"))
    assert line is not None and board.dialled == [("alice", "")]
    assert call.log == []
    await line.close()


async def test_nobody_answers_there() -> None:
    board, call = Board(), Refusing()
    board.other.end("callee", "busy")
    with pytest.raises(SignalingError, match="sip:bob@h was not reached: busy"):
        await soon(board.board.reach(call, "sip:bob@h"))
    assert board.leg.closed
    assert [name for name, _ in call.log] == ["transfer"]  # and goes on


async def test_no_way_leads_there() -> None:
    board = Board(nowhere=True)
    with pytest.raises(SignalingError, match="no trunk may call there"):
        await soon(board.board.reach(Refusing(), "+4930123"))
    assert not board.leg.closed  # there was none


async def test_no_port_for_it() -> None:
    board = Board(refuse="no port is free")
    with pytest.raises(SignalingError, match="no media for bob: no port is free") as error:
        await soon(board.board.reach(Refusing(), "bob"))
    assert isinstance(error.value.__cause__, LegError)
    assert board.leg.closed and board.other.log[-1][0] == "hang_up"


async def test_the_caller_hangs_up_meanwhile() -> None:
    board, call = Board(), Refusing()
    waiting = asyncio.create_task(board.board.reach(call, "bob"))
    while ("invite", "our offer") not in board.other.log:
        await asyncio.sleep(0)
    call.end()
    with pytest.raises(SignalingError, match="the call is over: hung up"):
        await soon(_line(waiting))
    assert board.leg.closed and board.other.log[-1][0] == "hang_up"


async def _line(task: asyncio.Task[Line | None]) -> Line | None:
    return await task


async def test_whoever_waited_is_gone() -> None:
    board = Board()
    waiting = asyncio.create_task(board.board.reach(Refusing(), "bob"))
    while ("invite", "our offer") not in board.other.log:
        await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    assert board.leg.closed and board.other.log[-1][0] == "hang_up"


def line_of(board: Board) -> Line:
    return Line(board.other, board.leg, FORMAT)


async def test_the_two_talk_until_one_is_gone() -> None:
    board, leg = Board(), FakeLeg()
    heard: list[Exchange] = []
    talking = asyncio.create_task(line_of(board).talk(leg, heard.append))
    voice = np.full(FORMAT.frame_samples, 0.5, np.float32)
    leg.hear(voice)
    async with asyncio.timeout(5):
        while not heard or not board.leg.played:
            await asyncio.sleep(0)
    assert np.array_equal(board.leg.played[0], voice)
    board.other.end("callee", "hung up there")
    assert await soon(_result(talking)) == "hung up there"


class Keys(FakeLeg):
    """A leg that takes digits."""

    def __init__(self) -> None:
        super().__init__()
        self.pressed: list[str] = []

    async def send_digits(self, digits: str) -> None:
        self.pressed.append(digits)


async def test_digits_by_info_are_pressed_on_the_other_side() -> None:
    board, leg = Board(), Keys()
    line = Line(board.other, theirs := Keys(), FORMAT)
    talking = asyncio.create_task(line.talk(leg, lambda exchange: None))
    for key in "12":
        board.other.keys.put_nowait(key)
        await line.press("#")
    async with asyncio.timeout(5):
        while leg.pressed != ["1", "2"]:
            await asyncio.sleep(0)
    assert theirs.pressed == ["#", "#"]
    await line_of(board).press("5")  # that leg takes none, and nobody minds
    board.other.end()
    assert await soon(_result(talking)) == "hung up"


async def test_the_others_media_is_lost() -> None:
    board = Board()
    talking = asyncio.create_task(line_of(board).talk(FakeLeg(), lambda exchange: None))
    board.leg.broken.set_result("no audio from there")
    assert await soon(_result(talking)) == "no audio from there"


async def _result(task: asyncio.Task[str]) -> str:
    return await task
