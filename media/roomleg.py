"""What an agent in a room hears and says, as a Leg: everybody in one mix, and everybody hears it.

It is fed by `room`, 20 ms at a time. As with any leg its time begins with the first `exchange`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from media.incoming import Incoming
from media.keypad import Keypad
from media.leg import AudioFormat, Digit, Exchange, LegError, LegStats, Pcm
from media.outgoing import Outgoing, Sent
from media.pcm import BLOCKS_PER_S, silence
from media.playout import Heard

EVERYBODY_LEFT = "everybody has left"


class RoomLeg:
    """The agent's place. It is held while everybody holds; it is lost when the last one has left.

    Nobody describes media to it: descriptions are "". Digits are whoever's pressed them; nothing can be pressed.
    """

    def __init__(self, audio_format: AudioFormat) -> None:
        """Raises ValueError if a frame is no whole number of blocks of 20 ms."""
        self.keypad = Keypad()
        self._format = audio_format
        self._incoming = Incoming(audio_format, audio_format.sample_rate)
        self._outgoing = Outgoing(audio_format, audio_format.sample_rate)
        self._stats = LegStats(codec="room")
        self._wanted = self._closed = self._held = False
        self._blocks = 0
        self._arrived = asyncio.Event()
        self._lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    # --- for the room ---

    @property
    def seconds(self) -> float:
        """How long its time has lasted."""
        return self._blocks / BLOCKS_PER_S

    def say(self) -> Sent:
        """The agent's next 20 ms."""
        if self._wanted and not self._held and not self._closed:
            return self._outgoing.tick()
        block = silence(self._format.sample_rate // BLOCKS_PER_S)
        return Sent(block, block)

    def hear(self, mix: Pcm, said: Sent, held: bool, speakers: tuple[str, ...]) -> None:
        """20 ms are over: what everybody said, and what the agent said meanwhile."""
        if held != self._held:
            self._held = held
            self._outgoing.clear()
        if not self._wanted or self._closed:
            return
        self._blocks += 1
        self._incoming.put(Heard(mix), said, held, speakers)
        if self._incoming.waiting:
            self._arrived.set()

    def skip(self, samples: int) -> None:
        """So many samples of everybody's time were lost, because we came too late for them."""
        if self._wanted:
            self._incoming.skip(samples)

    def lose(self, reason: str) -> None:
        """Nobody is there any more."""
        if not self._lost.done():
            self._lost.set_result(reason)

    # --- Leg ---

    @property
    def held(self) -> bool:
        """Whether everybody holds."""
        return self._held

    @property
    def ready(self) -> bool:
        """Whoever is there hears what is played."""
        return True

    @property
    def stats(self) -> LegStats:
        """Counters so far, as far as a mix has any."""
        stats, outgoing = self._stats, self._outgoing
        stats.samples_padded, stats.samples_cut, stats.samples_dropped = outgoing.padded, outgoing.cut, outgoing.dropped
        stats.dropped_by_reason = {"digit nobody read": self.keypad.dropped} if self.keypad.dropped else {}
        stats.packets_dropped = self.keypad.dropped
        return stats

    async def offer(self, hold: bool | None = None) -> str:
        """Nothing. Raises LegError for a hold: a room cannot be told to."""
        if hold:
            raise LegError("a room cannot be put on hold")
        return ""

    async def answer(self, offer: str) -> str:
        """Nothing."""
        return ""

    async def accepted(self, answer: str) -> None:
        """Nothing."""

    async def exchange(self) -> Exchange:
        """The next frame's time. Raises LegError once closed."""
        self._wanted = True
        while (exchange := self._incoming.take()) is None:
            if self._closed:
                raise LegError("the leg is closed")
            self._arrived.clear()
            await self._arrived.wait()
        self._stats.frames_skipped += exchange.skipped // self._format.frame_samples
        return exchange

    def play(self, pcm: Pcm) -> None:
        """Say that to everybody; what is played while everybody holds is not kept."""
        if not self._held:
            self._outgoing.play(pcm)

    def digits(self) -> AsyncIterator[Digit]:
        """Everybody's digits."""
        return self.keypad.digits()

    async def send_digits(self, digits: str) -> None:
        """Raises LegError."""
        raise LegError("in a room there is nobody in particular to press keys for")

    async def lost(self) -> str:
        """Wait until the last one has left."""
        return await asyncio.shield(self._lost)

    async def close(self) -> None:
        """The agent leaves; the others may go on. Idempotent."""
        self._closed = True
        self._arrived.set()
