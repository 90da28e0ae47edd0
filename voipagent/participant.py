"""One participant's call: from its offer, by a PIN where one is asked for, into a room and out of it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar

from media.bridge import Side
from media.leg import AudioFormat, Digit, Leg, LegError, NoPort
from media.pcm import BLOCKS_PER_S
from signaling.call import Call, CallOffer, Rejection
from voipagent.consent import Announcement, announce_alone
from voipagent.meeting import Meeting, Refused
from voipagent.pin import TRIES, PinDialog
from voipagent.renegotiation import renegotiate
from voipagent.tasks import first_of

logger = logging.getLogger(__name__)

T = TypeVar("T")

WRONG_PIN = f"no right PIN in {TRIES} tries"


def leg_format(audio_format: AudioFormat) -> AudioFormat:
    """What a participant's leg is asked for: the room's rate, and frames of 20 ms. Longer ones would be a delay."""
    return AudioFormat(audio_format.sample_rate, audio_format.sample_rate // BLOCKS_PER_S)


class Participant:
    """A call that wants to be in a room. `run` returns when it is over.

    `meeting_of` gives the meeting of a room's name, opening it if need be. With `ask` the caller is asked for a PIN,
    and the dialog says which room; else it is `room`. Before the room hears a word, the caller hears `announcement`.
    """

    def __init__(
        self,
        call: Call,
        open_leg: Callable[[CallOffer], Leg],
        audio_format: AudioFormat,
        meeting_of: Callable[[str], Meeting],
        room: str = "",
        ask: Callable[[int], PinDialog] | None = None,
        announcement: Announcement | None = None,
    ) -> None:
        self._call, self._open_leg, self._format = call, open_leg, leg_format(audio_format)
        self._meeting_of, self._room, self._ask, self._announcement = meeting_of, room, ask, announcement

    async def run(self) -> None:
        """The whole of it. Whatever becomes of it, the call is over then, and its port free."""
        call, leg = self._call, self._open_leg(self._call.offer)
        try:
            await first_of(self._take_part(leg), self._gone())
        except asyncio.CancelledError:
            await call.hang_up("the agent is shutting down")
            raise
        except LegError as error:
            logger.warning("x %s no media: %s", call.offer.id, error)
            await call.reject(Rejection.BUSY if isinstance(error, NoPort) else Rejection.NOT_ACCEPTABLE)
            await call.hang_up(str(error))
        except Refused as refused:
            logger.warning("x %s refused, %s: %s", call.offer.id, refused.rejection.value, refused)
            await call.reject(refused.rejection)
            await call.hang_up(str(refused))
        finally:
            await call.hang_up("the participant's part failed")  # without effect once it is over
            await leg.close()

    async def _gone(self) -> None:
        await self._call.wait_ended()

    async def _take_part(self, leg: Leg) -> None:
        """Ask, if at all, and talk."""
        if self._ask is None:
            async with self._seated(self._room) as (meeting, name):
                await self._answer(leg)
                reason = await self._talk(meeting, name, leg)
        else:
            await self._answer(leg)
            dialog = self._ask(self._format.sample_rate)
            await _while_pressed(self._press(leg, dialog), first_of(_play(leg, dialog), _lost(leg)))
            if not dialog.room:
                raise Refused(Rejection.NOT_FOUND, WRONG_PIN)
            async with self._seated(dialog.room) as (meeting, name):
                reason = await self._talk(meeting, name, leg)
        await self._call.hang_up(reason)

    @contextlib.asynccontextmanager
    async def _seated(self, room: str) -> AsyncIterator[tuple[Meeting, str]]:
        """A place in it while entered, and the agent in its own. Raises Refused."""
        meeting = self._meeting_of(room)
        with meeting.place(self._call.offer.caller) as name:
            await meeting.wait_open()
            yield meeting, name

    async def _answer(self, leg: Leg) -> None:
        """Open the media, and accept."""
        call = self._call
        call.renegotiate = lambda offer: renegotiate(leg, offer, call.offer.id)
        call.answered = leg.accepted
        await call.ring()
        offer = call.offer.media
        await call.accept(await leg.offer() if offer is None else await leg.answer(offer))

    async def _talk(self, meeting: Meeting, name: str, leg: Leg) -> str:
        """Until it is over; why. Digits that come as signaling go where those of the leg do."""

        async def press() -> str:
            async for key in self._call.digits():
                meeting.room.leg.keypad.hear([Digit(key)])
            return "no more digits will come"

        consent = await announce_alone(self._announcement, leg, self._format)
        logger.info("- %s is in room %s", self._call.offer.id, meeting.name)
        return await _while_pressed(press(), meeting.talk(name, self._call.offer, Side(leg, self._format), consent))

    async def _press(self, leg: Leg, dialog: PinDialog) -> None:
        """Whatever is pressed, on either way."""

        async def by_leg() -> None:
            async for digit in leg.digits():
                dialog.press(digit.key)

        async with asyncio.TaskGroup() as group:
            group.create_task(by_leg())
            async for key in self._call.digits():
                dialog.press(key)


async def _play(leg: Leg, dialog: PinDialog) -> None:
    """Say what the dialog has to say, until it is over. Raises LegError when the leg is closed."""
    while not dialog.over:
        await leg.exchange()
        leg.play(dialog.tick())


async def _lost(leg: Leg) -> None:
    """Raises LegError once the far end is gone."""
    raise LegError(await leg.lost())


async def _while_pressed(pressing: Coroutine[Any, Any, object], work: Coroutine[Any, Any, T]) -> T:
    """What `work` gives or raises; `pressing` goes on meanwhile, and no longer."""
    keys = asyncio.ensure_future(pressing)
    try:
        return await work
    finally:
        keys.cancel()
        await asyncio.gather(keys, return_exceptions=True)
