"""roomcall.py: what a session sees of a room."""

from __future__ import annotations

import asyncio

import pytest

from media.leg import AudioFormat
from media.roomleg import EVERYBODY_LEFT, RoomLeg
from signaling.call import Call, CallEnded, Rejection, SignalingError
from tests.fakes import offer
from voipagent.roomcall import RoomCall


class Room:
    """A room's call, and what it told when it was over."""

    def __init__(self) -> None:
        self.told: list[CallEnded] = []
        self.leg = RoomLeg(AudioFormat(24_000, 1_920))
        self.call = RoomCall(offer(None), self.leg, self.told.append)


async def test_it_is_a_call_that_is_taken_when_it_rings() -> None:
    room = Room()
    call: Call = room.call
    assert room.call.open_leg(call.offer) is room.leg
    taken = asyncio.create_task(room.call.wait_taken())
    await asyncio.sleep(0)
    assert not taken.done()
    await call.ring()
    assert await asyncio.wait_for(taken, 5) is None
    await call.accept("")
    assert not room.call.is_over and room.told == []


@pytest.mark.parametrize(("reason", "by"), [(EVERYBODY_LEFT, "caller"), ("the engine failed", "agent")])
async def test_it_ends_once_and_tells(reason: str, by: str) -> None:
    room = Room()
    await room.call.ring()
    await room.call.hang_up(reason)
    await room.call.hang_up("again")
    assert room.call.is_over and room.told == [CallEnded(by, reason)] == [await room.call.wait_ended()]
    assert [key async for key in room.call.digits()] == []


async def test_a_rejection_is_told_to_who_waits() -> None:
    room = Room()
    await room.call.reject(Rejection.BUSY)
    assert await room.call.wait_taken() is Rejection.BUSY
    assert room.told == [CallEnded("agent", "busy")]


async def test_hung_up_before_it_was_taken_it_is_not_open() -> None:
    room = Room()
    await room.call.hang_up("the session failed")
    assert await room.call.wait_taken() is Rejection.OVERLOADED


async def test_forsaken_it_ends_only_where_the_agent_has_not_come() -> None:
    alone, taken = Room(), Room()
    await taken.call.ring()
    for room in (alone, taken):
        room.call.forsake(EVERYBODY_LEFT)
    assert alone.told == [CallEnded("caller", EVERYBODY_LEFT)]
    assert taken.told == []


async def test_nobody_in_particular_can_be_asked_for_anything() -> None:
    room = Room()
    with pytest.raises(SignalingError, match="nobody in particular"):
        await room.call.propose("hold")
    with pytest.raises(SignalingError, match="cannot be transferred"):
        await room.call.transfer("+4930")
