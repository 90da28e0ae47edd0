"""roomleg.py: the contract of a Leg, fed by hand."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from media.leg import AudioFormat, Digit, Exchange, Leg, LegError, Pcm
from media.roomleg import EVERYBODY_LEFT, RoomLeg

FORMAT = AudioFormat(24_000, 1_920)
BLOCK = 480


def block(level: float) -> Pcm:
    return np.full(BLOCK, level, np.float32)


def rounds(leg: RoomLeg, *levels: float, held: bool = False, speakers: tuple[str, ...] = ()) -> None:
    for level in levels:
        leg.hear(block(level), leg.say(), held, speakers)


async def begun() -> tuple[RoomLeg, asyncio.Task[Exchange]]:
    """A leg that somebody waits at."""
    leg = RoomLeg(FORMAT)
    waiting = asyncio.create_task(leg.exchange())
    await asyncio.sleep(0)
    return leg, waiting


async def test_it_is_a_leg_whose_media_nobody_describes() -> None:
    leg: Leg = RoomLeg(FORMAT)
    assert (await leg.offer(), await leg.answer("anything")) == ("", "")
    await leg.accepted("anything")
    assert leg.stats.codec == "room" and not leg.held
    with pytest.raises(LegError, match="hold"):
        await leg.offer(hold=True)
    with pytest.raises(LegError, match="nobody in particular"):
        await leg.send_digits("1")


async def test_four_rounds_are_a_frame_of_what_was_heard_and_said() -> None:
    leg, waiting = await begun()
    rounds(leg, 0.1)
    leg.play(np.full(1_920, 0.5, np.float32))
    rounds(leg, 0.2, 0.3, 0.4, speakers=("ada",))
    exchange = await asyncio.wait_for(waiting, 5)
    assert exchange.heard[::BLOCK] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert exchange.played[::BLOCK] == pytest.approx([0.0, 0.0, 0.5, 0.5])  # a lead of 20 ms, as on every leg
    assert exchange.speakers == ("ada",)
    assert leg.seconds == pytest.approx(0.08)


async def test_its_time_begins_with_the_first_exchange() -> None:
    leg = RoomLeg(FORMAT)
    rounds(leg, *[0.9] * 20)
    waiting = asyncio.create_task(leg.exchange())
    await asyncio.sleep(0)
    rounds(leg, *[0.1] * 4)
    exchange = await asyncio.wait_for(waiting, 5)
    assert (exchange.heard.max(), exchange.skipped) == (pytest.approx(0.1), 0)
    assert leg.seconds == pytest.approx(0.08)


async def test_a_late_reader_loses_the_oldest_and_is_told() -> None:
    leg, waiting = await begun()
    rounds(leg, *[0.1] * 4)
    await asyncio.wait_for(waiting, 5)
    rounds(leg, *[0.2] * 4 * 5)
    leg.skip(480)
    assert (await leg.exchange()).skipped == 2 * 1_920 + 480
    assert leg.stats.frames_skipped == 2


async def test_while_everybody_holds_it_is_silent_and_forgets_what_was_to_be_said() -> None:
    leg, waiting = await begun()
    leg.play(np.full(1_920, 0.5, np.float32))
    rounds(leg, *[0.0] * 4, held=True)
    assert (await asyncio.wait_for(waiting, 5)).held and leg.held
    leg.play(np.full(1_920, 0.5, np.float32))
    rounds(leg, *[0.0] * 4)
    back = await leg.exchange()
    assert not back.held and not back.played.any()


async def test_digits_are_everybodys() -> None:
    leg = RoomLeg(FORMAT)
    leg.keypad.hear([Digit("4")])
    leg.keypad.hear([Digit("2")])
    digits = leg.digits()
    assert [(await anext(digits)).key, (await anext(digits)).key] == ["4", "2"]


async def test_digits_that_nobody_reads_are_counted() -> None:
    leg = RoomLeg(FORMAT)
    leg.keypad.hear([Digit("1")] * 70)
    assert leg.stats.dropped_by_reason == {"digit nobody read": 6}
    assert leg.stats.packets_dropped == 6


async def test_it_is_lost_when_the_last_one_leaves() -> None:
    leg = RoomLeg(FORMAT)
    leg.lose(EVERYBODY_LEFT)
    leg.lose("again")
    assert await asyncio.wait_for(leg.lost(), 5) == EVERYBODY_LEFT


async def test_closed_it_says_nothing_and_whoever_waits_is_told() -> None:
    leg, waiting = await begun()
    leg.play(np.full(1_920, 0.5, np.float32))
    await leg.close()
    await leg.close()
    with pytest.raises(LegError, match="closed"):
        await asyncio.wait_for(waiting, 5)
    assert not any(leg.say().pcm.any() for _ in range(5))
    rounds(leg, 0.1)
    assert leg.seconds == 0.0


async def test_a_reply_that_comes_too_late_is_owed_as_on_every_leg() -> None:
    leg, waiting = await begun()
    leg.play(np.full(1_920, 0.5, np.float32))
    rounds(leg, *[0.0] * 8)
    exchange = [await asyncio.wait_for(waiting, 5), await leg.exchange()]
    assert sum(each.padded for each in exchange) == leg.stats.samples_padded == 3 * BLOCK
