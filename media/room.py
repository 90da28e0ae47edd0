"""Several legs as one conversation: each hears all others, nobody himself, and an agent hears and talks to them all.

There is no timer here. The legs turn on one wheel, so with each tick each has its 20 ms, and a *round* mixes them as
soon as they are there. Who has none in time is silent in that round and not waited for in the next, so that a leg that
stands still delays the others once. What it then brings of rounds that are over is dropped, like a packet after its
tick, and what lies ready round after round is cut: nobody's voice comes later for good. The drift of far ends' clocks
is for each leg's playout. Each leg has its own rate.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from media.bridge import Side
from media.leg import AudioFormat, Exchange, LegError, Pcm
from media.mixer import Mixer, Speakers, level
from media.pcm import BLOCKS_PER_S, FADE_S, Resampler, SampleQueue, best_cut, cut
from media.roomleg import RoomLeg

logger = logging.getLogger(__name__)

AGENT = ""
"""The agent's name in the mix. No participant may have it."""

AHEAD_FRAMES = 2
"""A round waits for late legs until one is so many of its frames ahead: 40 ms, with frames of 20."""

TRIM_ROUNDS = BLOCKS_PER_S
"""What lay ready in each of so many rounds, a second of them, is a delay that nobody needs."""


class _Seat:
    """A participant's place: what came and is not mixed yet, at the room's rate.

    The rounds keep its queue, of a second, from being full; else the oldest is dropped. Empty, it is silent. Rounds
    wait for those who are `present`; of one who is not, the newest frame is kept for the next round.
    """

    def __init__(self, name: str, side: Side, sample_rate: int) -> None:
        self.name, self.side = name, side
        self.queue = SampleQueue(sample_rate)
        self.frame_samples = side.format.frame_samples * sample_rate // side.format.sample_rate
        self.present, self.held = True, False
        self.failed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._in = Resampler(side.format.sample_rate, sample_rate)
        self._out = Resampler(sample_rate, side.format.sample_rate)
        self._fade = round(FADE_S * sample_rate)
        self._lay_ready: deque[int] = deque(maxlen=TRIM_ROUNDS)  # after each round

    def hear(self, exchange: Exchange) -> None:
        """A frame's time came from the leg."""
        if not self.present:
            self.queue.clear()
        self.queue.put(self._in(exchange.heard))
        self.held = exchange.held

    def take(self, samples: int) -> Pcm:
        """Its part of a round."""
        self.present = len(self.queue) >= samples
        if len(self._lay_ready) == TRIM_ROUNDS and min(self._lay_ready) >= samples and len(self.queue) > samples:
            self._trim(samples)
        taken = self.queue.take(samples)
        self._lay_ready.append(len(self.queue))
        return taken

    def _trim(self, samples: int) -> None:
        waiting = self.queue.peek()
        self.queue.replace(cut(waiting, best_cut(waiting, samples, self._fade), samples, self._fade))
        self._lay_ready.clear()

    def play(self, pcm: Pcm) -> None:
        """What it hears. A leg that fails at that is its own fault only."""
        if self.failed.done():
            return
        try:
            self.side.leg.play(self._out(pcm))
        except Exception as error:
            logger.error("x a leg in a room failed and is lost", exc_info=error)
            self.fail(f"the media path failed: {type(error).__name__}: {error}")

    def fail(self, reason: str) -> None:
        """Its participant has to go."""
        if not self.failed.done():
            self.failed.set_result(reason)


class Room:
    """Whoever is in `join` hears all others, and whoever uses `leg`.

    Empty, it stands still. Whether somebody is still to come is not known here: whoever knows says `leg.lose`.
    """

    def __init__(self, audio_format: AudioFormat) -> None:
        """`audio_format` is what the user of `leg` wants; mixed is at its rate."""
        self.leg = RoomLeg(audio_format)
        self.rounds = 0
        self.speaking: frozenset[str] = frozenset()
        """Who speaks now; AGENT if the agent does."""
        self.when_speaking: Callable[[], object] = lambda: None
        """Called when that has changed."""
        self._rate = audio_format.sample_rate
        self._block = self._rate // BLOCKS_PER_S
        self._seats: dict[str, _Seat] = {}
        self._mixer, self._speakers = Mixer(), Speakers()
        self._soon: asyncio.Handle | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Who is there, who came first before the others."""
        return tuple(self._seats)

    async def join(self, name: str, side: Side) -> str:
        """Be part of it until the leg is lost or closed; why. Cancelled, it leaves, and the leg is as it was.

        Raises ValueError where somebody of that name is there.
        """
        if name in self._seats or name == AGENT:
            raise ValueError(f"there is somebody called {name!r} already")
        seat = self._seats[name] = _Seat(name, side, self._rate)
        try:
            return await _first(self._listen(seat), self._press(seat), side.leg.lost(), _outcome(seat.failed))
        finally:
            del self._seats[name]
            self._turn_soon()

    async def _listen(self, seat: _Seat) -> str:
        """Take what its leg hears; why that ended. After a stall that is much at once, as it is with the others."""
        while True:
            try:
                exchange = await seat.side.leg.exchange()
            except LegError as error:
                return str(error)
            if exchange.skipped and seat is next(iter(self._seats.values())):
                self.leg.skip(exchange.skipped * self._rate // seat.side.format.sample_rate)
            seat.hear(exchange)
            self._turn_soon()

    async def _press(self, seat: _Seat) -> str:
        async for digit in seat.side.leg.digits():
            self.leg.keypad.hear([digit])
        return "no more digits will come"

    # --- rounds ---

    def _turn_soon(self) -> None:
        """When all who were woken by the same tick have brought their parts."""
        if self._soon is None:
            self._soon = asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        self._soon = None
        while self._due():
            self._mix()

    def _due(self) -> bool:
        """Whether all who are waited for have their part, or one is too far ahead of them."""
        seats = self._seats.values()
        if not any(len(seat.queue) >= self._block for seat in seats):
            return False
        ahead = AHEAD_FRAMES * max(seat.frame_samples for seat in seats) + self._block
        return all(len(seat.queue) >= self._block for seat in seats if seat.present) or any(
            len(seat.queue) >= ahead for seat in seats
        )

    def _mix(self) -> None:
        """20 ms of everybody."""
        self.rounds += 1
        said = self.leg.say()
        seats = list(self._seats.values())
        voices = {seat.name: seat.take(self._block) for seat in seats}
        voices[AGENT] = said.pcm
        speaking = self._speakers.hear({name: level(pcm) for name, pcm in voices.items()})
        speakers = tuple(name for name in speaking if name != AGENT)
        heard = self._mixer.mix(voices)
        self.leg.hear(heard[AGENT], said, all(seat.held for seat in seats), speakers)
        for seat in seats:
            seat.play(heard[seat.name])
        self._tell(frozenset(speaking))

    def _tell(self, speaking: frozenset[str]) -> None:
        if speaking != self.speaking:
            self.speaking = speaking
            self.when_speaking()


async def _outcome(future: asyncio.Future[str]) -> str:
    return await asyncio.shield(future)


async def _first(*endings: Coroutine[Any, Any, str]) -> str:
    """What the first to be done gives; the others are cancelled."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(each) for each in endings]
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
    return next(task.result() for task in tasks if task in done)
