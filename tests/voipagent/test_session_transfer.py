"""session.py: hold by us, and a caller who is put through, on fakes."""

from __future__ import annotations

import asyncio
import wave
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import numpy as np
import pytest

from media.leg import Exchange, LegError
from signaling.call import CallEnded, SignalingError
from tests.fakes import FakeCall, FakeLeg, offer
from tests.voipagent.test_session import SPEECH, stage
from tests.voipagent.test_transfer import Board, Keys, Refusing
from voipagent.longest import Longest
from voipagent.recording import Channels, Recorder


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0)


async def played(leg: FakeLeg, count: int) -> None:
    """Wait until it was given as many pieces to play."""
    await until(lambda: len(leg.played) >= count)


async def test_hold_and_resume(recorder: Recorder, tmp_path: Path) -> None:
    async with stage(recorder, tmp_path) as on:
        await on.call.accepted.wait()
        for held in (True, False):
            await on.session.hold(held)
        assert on.call.log[-2:] == [("propose", "our offer to hold"), ("propose", "our offer")]
        assert on.leg.answers == ["answer to our offer to hold", "answer to our offer"]
        on.call.end()
        await on.over()


async def test_a_call_that_rings_is_not_held(
    recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Ringing(FakeCall):
        async def ring(self, early_media: str | None = None) -> None:
            await super().ring(early_media)
            await self.wait_ended()

    monkeypatch.setattr(FakeLeg, "offer", offered := AsyncMock())
    async with stage(recorder, tmp_path, call=Ringing()) as on:
        await until(lambda: bool(on.call.log))
        with pytest.raises(SignalingError, match="not answered yet"):
            await on.session.hold(True)
    offered.assert_not_called()


async def test_a_hold_that_is_refused_or_comes_to_no_use(recorder: Recorder, tmp_path: Path) -> None:
    class Stubborn(FakeCall):
        async def propose(self, media: str) -> str:
            raise SignalingError("488 Not Acceptable Here")

    class Deaf(FakeLeg):
        async def accepted(self, answer: str) -> None:
            raise LegError("no codec in it")

    async with stage(recorder, tmp_path, call=Stubborn()) as on:
        with pytest.raises(SignalingError, match="not answered yet"):
            await on.session.hold(True)
        await on.call.accepted.wait()
        with pytest.raises(SignalingError, match="488"):
            await on.session.hold(True)
        on.call.end()
        await on.over()
    async with stage(recorder, tmp_path / "other", leg=Deaf()) as on:
        await on.call.accepted.wait()
        with pytest.raises(SignalingError, match="the far end's answer cannot be used: no codec in it"):
            await on.session.hold(True)
        on.call.end()
        await on.over()


async def test_the_far_end_transfers_and_leaves(recorder: Recorder, tmp_path: Path) -> None:
    board = Board()
    async with stage(recorder, tmp_path) as on:
        await on.call.accepted.wait()
        assert await on.session.transfer(board.board, "+4930") == "transferred"
        on.call.end()
        await on.over()
    (noted,) = on.record["transfers"]
    assert (noted["to"], noted["how"], noted["why"]) == ("+4930", "transferred", "")


async def test_a_refused_transfer_becomes_a_bridge(recorder: Recorder, tmp_path: Path) -> None:
    """The model hears nothing any more, the two hear each other, the recording both; then the other hangs up."""
    board = Board()
    board.other.taken.set()
    async with stage(recorder, tmp_path, call=Refusing()) as on:
        on.leg.hear(SPEECH)
        await on.leg.heard(1)
        stepped = on.session.record.frames_stepped
        on.session.give_back = AsyncMock()
        assert await on.session.transfer(board.board, "+4930", "trunk") == "bridged"
        with pytest.raises(SignalingError, match="put through already"):
            await on.session.transfer(board.board, "+4931")
        await board.leg.heard(0)  # the bridge has begun
        on.leg.hear(SPEECH, SPEECH)
        board.leg.hear(SPEECH)
        said = len(on.leg.played)
        await until(lambda: len(board.leg.played) >= 2 and len(on.leg.played) > said)
        assert on.session.record.frames_stepped == stepped
        on.session.give_back.assert_awaited_once()  # others may have the row
        board.other.end("callee", "hung up there")
        assert await on.over() == CallEnded("agent", "hung up there")
    assert board.leg.closed and on.leg.closed
    assert on.record["transfers"][0]["how"] == "bridged"
    assert on.record["duration_s"] >= 0.24


@pytest.mark.parametrize(("whom", "kept"), [("both", [True, True]), ("agent", [False, False])])
async def test_where_callers_are_not_recorded_neither_is_whom_they_are_put_through_to(
    recorder: Recorder, tmp_path: Path, whom: Channels, kept: list[bool]
) -> None:
    board, leg = Board(), Echoing()
    board.other.taken.set()
    async with stage(recorder, tmp_path, call=Refusing(), leg=leg, record_whom=whom) as on:
        await on.call.accepted.wait()
        await on.session.transfer(board.board, "+4930")
        await board.leg.heard(0)
        for _ in range(2):
            said = len(leg.played)
            board.leg.hear(SPEECH)
            await played(leg, said + 1)
            leg.hear(SPEECH)
        await played(board.leg, 2)
        board.other.end("callee", "hung up there")
        await on.over()
        with wave.open(str(on.folder.path / "recording.wav")) as file:
            pcm = np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, 2)
    assert pcm.any(0).tolist() == kept


class Echoing(FakeLeg):
    """Says of each frame's time what really was played in it."""

    async def exchange(self) -> Exchange:
        exchange = await super().exchange()
        return replace(exchange, played=self.played[-1]) if self.played else exchange


async def test_digits_by_info_while_bridged(recorder: Recorder, tmp_path: Path) -> None:
    """They are in the record, and pressed for the other."""
    board = Board()
    board.leg = keys = Keys()
    board.other.taken.set()
    async with stage(recorder, tmp_path, call=Refusing()) as on:
        await on.call.accepted.wait()
        on.call.keys.put_nowait("1")
        await until(lambda: len(on.session.record.digits) == 1)
        await on.session.transfer(board.board, "+4930")
        on.call.keys.put_nowait("2")
        await until(lambda: keys.pressed == ["2"])
        on.call.end()
        await on.over()
    assert [digit["key"] for digit in on.record["digits"]] == ["1", "2"]


@pytest.mark.parametrize("held", [True, False])
async def test_what_a_call_and_a_hold_may_last_holds_while_bridged(
    recorder: Recorder, tmp_path: Path, held: bool
) -> None:
    """Each of them would go on, and cost money, for as long as nobody hangs up."""
    board, longest = Board(), Longest(0.8, "Goodbye.")
    board.other.taken.set()
    settings: dict[str, Any] = {"max_hold_s": 0.4} if held else {"longest": longest}
    async with stage(recorder, tmp_path, call=Refusing(), **settings) as on:
        await on.call.accepted.wait()
        await on.session.transfer(board.board, "+4930")
        await board.leg.heard(0)
        on.leg.hear(*[SPEECH] * 4)
        on.leg.hear(*[SPEECH] * (5 if held else 6), held=held)
        why = "on hold for more than 0.4 s" if held else longest.reason
        assert await on.over() == CallEnded("agent", why)
    assert on.record["frames_held"] == (5 if held else 0)
    assert [hold["duration_s"] for hold in on.record["holds"]] == [0.4] * held
    assert board.leg.closed and board.other.log[-1] == ("hang_up", "the other party hung up")


async def test_the_caller_hangs_up_while_bridged(recorder: Recorder, tmp_path: Path) -> None:
    board = Board()
    board.other.taken.set()
    async with stage(recorder, tmp_path, call=Refusing()) as on:
        await on.call.accepted.wait()
        await on.session.transfer(board.board, "+4930")
        on.call.end()
        assert (await on.over()).by == "caller"
    assert board.leg.closed
    assert board.other.log[-1] == ("hang_up", "the other party hung up")


async def test_nobody_there_and_the_conversation_goes_on(recorder: Recorder, tmp_path: Path) -> None:
    board = Board()
    board.other.end("callee", "busy")
    async with stage(recorder, tmp_path, call=Refusing(offer())) as on:
        await on.call.accepted.wait()
        with pytest.raises(SignalingError, match=r"\+4930 was not reached: busy"):
            await on.session.transfer(board.board, "+4930")
        on.leg.hear(SPEECH)
        await until(lambda: on.session.record.frames_stepped == 1)
        on.call.end()
        await on.over()
    assert on.record["transfers"][0] | {"at": 0.0} == {
        **{"at": 0.0, "to": "+4930", "how": "failed", "why": "+4930 was not reached: busy"}
    }
