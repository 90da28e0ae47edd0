"""A call into a meeting, whatever protocol leads there."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from signaling.call import CallEnded, Outcome, SignalingError
from signaling.meetings.meeting import MeetingCall, NotJoined, Over, with_candidates
from signaling.meetings.place import Place


class Scripted(MeetingCall):
    """Goes there as a test says."""

    def __init__(self, script: Callable[[Scripted, str], Awaitable[None]]) -> None:
        super().__init__(Place("janus", "meet.example.com", 8088, "1"), ("192.0.2.7", 8088))
        self._script = script
        self.left = False

    async def _live(self, media: str) -> None:
        try:
            await self._script(self, media)
        finally:
            self.left = True


async def stays(call: Scripted, media: str) -> None:
    await call._take("v=0\nm=audio\n", [])
    call._joined()
    await asyncio.Event().wait()


async def ended(call: MeetingCall) -> CallEnded:
    async with asyncio.timeout(5):
        return await call.wait_ended()


async def test_it_is_answered_once_we_are_in_and_hanging_up_waits_until_we_have_left() -> None:
    call, taken = Scripted(stays), []

    async def take(description: str) -> None:
        taken.append(description)

    call.answered = take
    await call.invite("our offer")
    await asyncio.wait_for(call.wait_answered(), 5)
    await asyncio.wait_for(call.wait_ringing(), 5)
    assert taken == ["v=0\r\nm=audio\r\n"]
    await call.hang_up("enough")
    assert call.left
    assert await ended(call) == CallEnded("agent", "enough")
    await call.hang_up("again")
    assert await ended(call) == CallEnded("agent", "enough")


async def test_hung_up_before_it_began_nobody_goes_there() -> None:
    call = Scripted(stays)
    await call.hang_up()
    await call.invite("our offer")
    assert await ended(call) == CallEnded("agent", "hung up", Outcome.CANCELLED)
    assert not call.left


@pytest.mark.parametrize(
    ("fault", "before", "after"),
    [
        (NotJoined("no", Outcome.FORBIDDEN), CallEnded("callee", "no", Outcome.FORBIDDEN), CallEnded("callee", "no")),
        (Over("network", "gone"), CallEnded("network", "gone", Outcome.FAILED), CallEnded("network", "gone")),
        (ValueError("a bug"), CallEnded("agent", "a bug", Outcome.FAILED), CallEnded("agent", "a bug")),
    ],
)
async def test_whatever_goes_wrong_is_its_end(fault: Exception, before: CallEnded, after: CallEnded) -> None:
    async def fails(call: Scripted, media: str) -> None:
        raise fault

    async def fails_later(call: Scripted, media: str) -> None:
        call._joined()
        raise fault

    for script, expected in ((fails, before), (fails_later, after)):
        call = Scripted(script)
        await call.invite("our offer")
        assert await ended(call) == expected


async def test_a_leg_that_cannot_use_the_answer_is_its_end() -> None:
    call = Scripted(stays)

    async def refuse(description: str) -> None:
        raise ValueError("no codec that we speak")

    call.answered = refuse
    await call.invite("our offer")
    assert await ended(call) == CallEnded("agent", "no codec that we speak", Outcome.FAILED)


async def test_what_a_meeting_cannot_do_is_refused() -> None:
    call = Scripted(stays)
    for asked in (call.propose("hold"), call.transfer("sip:ada@example.com"), call.invite(None)):
        with pytest.raises(SignalingError):
            await asked
    assert (call.offer.kind, call.offer.callee) == ("meeting", "janus://meet.example.com:8088/1")


def test_candidates_go_into_each_stream() -> None:
    told = with_candidates(
        "v=0\r\ns=-\r\nm=audio 9\r\na=mid:0\r\nm=audio 9\r\na=mid:1\r\n", ["candidate:1", "candidate:2"]
    )
    stream = "m=audio 9\r\na=mid:{}\r\na=candidate:1\r\na=candidate:2\r\n"
    assert told == "v=0\r\ns=-\r\n" + stream.format(0) + stream.format(1)
    assert with_candidates("v=0\nm=audio 9\n", []) == "v=0\r\nm=audio 9\r\n"
