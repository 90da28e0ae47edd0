"""What the tests of a leg wait for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from aiortc.rtp import RtpPacket

from media.leg import Digit
from tests.media.line import Line

QUIET = 0.01

T = TypeVar("T")


async def soon(task: asyncio.Future[T]) -> T:
    async with asyncio.timeout(5):
        return await task


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop read its sockets until something has come of it."""
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0)


async def keys(line: Line, count: int) -> list[Digit]:
    """The next digits of the leg, which are there already or never."""
    async with asyncio.timeout(5):
        digits = line.leg.digits()
        return [await anext(digits) for _ in range(count)]


def audio(packets: list[RtpPacket]) -> list[RtpPacket]:
    return [packet for packet in packets if packet.payload_type in (0, 8, 9, 96)]
