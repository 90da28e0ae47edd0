"""A conversation that we begin: the row is reserved before anything rings, and primed while it rings at the far end."""

from __future__ import annotations

import asyncio
import itertools
import logging
from dataclasses import dataclass

from media.dtmf import check_digits
from media.leg import Leg, LegError
from signaling.call import CallEnded, NotAllowed, OutgoingCall, SignalingError
from voipagent.environment import NEST, PREFIX
from voipagent.record import utc_now
from voipagent.recording import Recording
from voipagent.renegotiation import renegotiate
from voipagent.session import MEASURED_FRAMES, Session

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wanted:
    """A call that somebody wants us to make: to a number or a SIP URI. Raises LegError for digits that are none.

    `trunk` is the one to call by, `persona` the one to speak; empty, both are chosen as the settings have it. `digits`
    are pressed once it is answered.
    """

    target: str
    trunk: str = ""
    persona: str = ""
    digits: str = ""

    def __post_init__(self) -> None:
        check_digits(self.digits)


class UnknownPersona(Exception):
    """No persona has that name; the message says which there are."""


class OutgoingSession(Session):
    """Holds a call that we make, a leg and a slot together. What it is given is as for `Session`, but the call.

    The model hears and says nothing before the call is answered: ringing tones and announcements are not for it. They
    are recorded, in a file of their own, since they may say why a call came to nothing.
    """

    def begin(self, call: OutgoingCall, digits: str, early: Recording) -> None:
        """What makes it outgoing; to be called before `run`. `early` takes what is heard before the answer."""
        self._outgoing, self._digits, self._early = call, digits, early
        self.record.direction = "out"

    async def _talk(self, leg: Leg) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._note_ringing(leg), name="ringing")
            group.create_task(self._press(leg), name="press digits")
            await super()._talk(leg)

    async def _answer(self, leg: Leg) -> None:
        """Let it ring, prime the row meanwhile, and greet whoever answers."""
        call = self._outgoing
        call.renegotiate = lambda offer: renegotiate(leg, offer, self.record.id)
        call.answered = leg.accepted
        await call.invite(await leg.offer())
        async with asyncio.TaskGroup() as group:
            taken = group.create_task(call.wait_answered(), name="answered")
            listening = group.create_task(self._hear_early(leg, taken), name="early media")
            await self._upkeep.prime()
            self._greet()
            await taken
            listening.cancel()
        self._note_answered()
        logger.info("- %s answered", self.record.id)

    async def _hear_early(self, leg: Leg, taken: asyncio.Task[None]) -> None:
        """Record what is heard before the answer; between that and the greeting, nothing is heard or kept."""
        await self._outgoing.wait_early()
        logger.info("- %s early media", self.record.id)
        for number in itertools.count(1):
            exchange = await leg.exchange()
            if taken.done() or not self._early.of_caller:
                continue
            self._early.write(exchange)
            if number % MEASURED_FRAMES == 0:
                self.record.early_s = round(self._early.seconds, 3)
                self._minutes.note(leg.stats, (), ())

    async def _close(self, leg: Leg, ended: CallEnded) -> None:
        await self._early.close()
        self.record.early_s, self.record.early = round(self._early.seconds, 3), self._early.name
        await super()._close(leg, ended)

    async def _note_ringing(self, leg: Leg) -> None:
        await self._outgoing.wait_ringing()
        self.record.rang = utc_now().isoformat()
        self._minutes.note(leg.stats, (), ())
        logger.info("- %s rings", self.record.id)

    async def _press(self, leg: Leg) -> None:
        """Press the keys that an answering machine or a switchboard waits for."""
        if not self._digits:
            return
        await self._outgoing.wait_answered()
        try:
            await leg.send_digits(self._digits)
        except LegError as error:
            logger.warning("x %s digits were not sent: %s", self.record.id, error)


def explained(error: SignalingError) -> str:
    """What is wrong, and which setting says so where one does."""
    if not isinstance(error, NotAllowed):
        return str(error)
    name = PREFIX + NEST.join("<NAME>" if part == "*" else part.upper() for part in error.setting)
    return f"{error}; {name} says what may be called"
