"""A bridge of two legs, where each hears the other, as for a transfer that the far end refuses.

A mix of two without one's own voice is the other's voice. The legs turn on one wheel, so no drift is between them;
what comes in late or not at all is each leg's own affair, and it hands on silence. Each leg has its own rate.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from media.leg import AudioFormat, Exchange, Leg, LegError
from media.pcm import Resampler


@dataclass(frozen=True)
class Side:
    """A leg, and what its user asked it for."""

    leg: Leg
    format: AudioFormat


def _nobody(exchange: Exchange) -> None:
    """Does not listen."""


class Bridge:
    """Two legs that talk to each other while `run` does.

    `hear` is called with each exchange of the first leg: what its far end said, and what it was played, which is what
    the other said. That is both sides of the conversation, as a recording wants it, in the first leg's time.

    Between the two nothing is stored but what `Leg.play` stores, with the policy it has. A far end that holds is
    silent for the other. Digits of one are pressed for the other, one after the other; `deaf` counts those that it
    would not take. Those that come faster than they can be pressed wait in the leg that they come from.
    """

    def __init__(self, first: Side, second: Side, hear: Callable[[Exchange], None] = _nobody) -> None:
        self._first, self._second, self._hear = first, second, hear
        self.deaf = 0

    async def run(self) -> str:
        """Until one leg is lost or closed; why. Cancelled, it leaves both legs as they were."""
        first, second = self._first, self._second
        async with asyncio.TaskGroup() as group:
            ends = [
                group.create_task(first.leg.lost()),
                group.create_task(second.leg.lost()),
                group.create_task(self._carry(first, second, self._hear)),
                group.create_task(self._carry(second, first, _nobody)),
                group.create_task(self._press(first, second)),
                group.create_task(self._press(second, first)),
            ]
            done, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            for task in ends:
                task.cancel()
        return next(task.result() for task in ends if task in done)

    async def _carry(self, source: Side, target: Side, hear: Callable[[Exchange], None]) -> str:
        """What one says is played to the other; why that ended."""
        resample = Resampler(source.format.sample_rate, target.format.sample_rate)
        while True:
            try:
                exchange = await source.leg.exchange()
            except LegError as error:
                return str(error)
            target.leg.play(resample(exchange.heard))
            hear(exchange)

    async def _press(self, source: Side, target: Side) -> str:
        """What one presses is pressed for the other."""
        async for digit in source.leg.digits():
            try:
                await target.leg.send_digits(digit.key)
            except LegError:
                self.deaf += 1
        return "no more digits will come"
