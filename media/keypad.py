"""Digits of a leg, for those who wait: what the far end pressed, and keys that we press one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from media.dtmf import DigitSender, EventPacket, check_digits
from media.leg import Digit, LegError

MAX_DIGITS = 64
"""Digits that wait for a reader. Full: the oldest is dropped and counted."""


class Keypad:
    """`dropped` counts digits that nobody read."""

    def __init__(self) -> None:
        self.dropped = 0
        self._heard: asyncio.Queue[Digit] = asyncio.Queue(MAX_DIGITS)
        self._keys = DigitSender()
        self._pressed: list[asyncio.Future[None]] = []

    def hear(self, digits: list[Digit]) -> None:
        """The far end pressed these."""
        for digit in digits:
            if self._heard.full():
                self._heard.get_nowait()
                self.dropped += 1
            self._heard.put_nowait(digit)

    async def digits(self) -> AsyncIterator[Digit]:
        """The far end's digits."""
        while True:
            yield await self._heard.get()

    async def press(self, digits: str) -> None:
        """Press keys; returns when the last has left. Raises LegError for what is no key, and when stopped."""
        if not check_digits(digits):
            return
        self._keys.press(digits)
        pressed = asyncio.get_running_loop().create_future()
        self._pressed.append(pressed)
        await pressed

    def stop(self, reason: str) -> None:
        """Forget what is left to press; who waits for it gets LegError."""
        self._keys.stop()
        self._tell(LegError(reason))

    @property
    def pressed(self) -> tuple[str, float] | None:
        """The key of the coming tick, and the seconds that it has been down or was; None where there is none."""
        return self._keys.pressed

    def step(self, timestamp: int, rate: int = 8000) -> tuple[bool, EventPacket | None]:
        """A tick whose audio would have `timestamp`: whether it belongs to a key instead, and that key's packet.

        `rate` is the clock of durations.
        """
        if not self._keys.busy:
            return False, None
        pressing = self._keys.suppresses_audio
        packet = self._keys.step(timestamp, rate)
        if not self._keys.busy:
            self._tell(None)
        return pressing, packet

    def _tell(self, error: LegError | None) -> None:
        for pressed in self._pressed:
            if pressed.done():
                continue  # whoever waited was cancelled
            if error is None:
                pressed.set_result(None)
            else:
                pressed.set_exception(error)
        self._pressed.clear()
