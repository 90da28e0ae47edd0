"""A room while somebody is in it: who has a place, and who they were, for the record."""

from __future__ import annotations

import contextlib
import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from media.bridge import Side
from media.leg import AudioFormat, Leg
from media.room import AGENT, Room
from media.roomleg import EVERYBODY_LEFT
from signaling.call import CallEnded, CallOffer, Rejection
from voipagent.events import Gathered, Observer, Telling
from voipagent.roomcall import RoomCall
from voipagent.roomsettings import RoomSettings
from voipagent.tasks import first_of

KIND = "room"
"""Of a room's own call."""

LEFT = "left"
"""Why a participant is no longer there, if it was the participant's own wish."""

MOST_CHARACTERS = 32
"""Of a participant's name: it comes from the peer."""

MOST_ON_ROLL = 256
"""Of a room: its record has all of it, and is written anew each second."""


class Refused(Exception):
    """There is no place for this call; says why, and how that is answered."""

    def __init__(self, rejection: Rejection, why: str) -> None:
        super().__init__(why)
        self.rejection = rejection


class Meeting:
    """One room, from its first participant to its last."""

    def __init__(
        self,
        name: str,
        settings: RoomSettings,
        audio_format: AudioFormat,
        over: Callable[[], None],
        observers: Sequence[Observer] = (),
    ) -> None:
        """`over` is called as soon as nobody may come any more; `observers` are told who is there and who speaks."""
        self.name, self._settings, self._over = name, settings, over
        self.room = Room(audio_format)
        offer = CallOffer(
            f"room-{name}-{secrets.token_hex(4)}",
            KIND,
            name,
            settings.number or name,
            ("127.0.0.1", 0),
            wanted=settings.persona,
        )
        self.call = RoomCall(offer, self.room.leg, self._end)
        self._present: dict[str, tuple[dict[str, Any], Leg]] = {}
        self._places: list[str] = []
        self._observed = Telling(offer.id, observers)
        self.room.when_speaking = self._tell

    @property
    def names(self) -> tuple[str, ...]:
        """Who is there now."""
        return tuple(self._present)

    @contextlib.contextmanager
    def place(self, caller: str) -> Iterator[str]:
        """Keep a place while entered, for a participant who is called as is given. Raises Refused where it is full."""
        if len(self._places) >= self._settings.max:
            raise Refused(Rejection.BUSY, f"room {self.name} is full")
        name = _name(caller, self._places)
        self._places.append(name)
        try:
            yield name
        finally:
            self._places.remove(name)
            if not self._places:
                self._over()
                self.room.leg.lose(EVERYBODY_LEFT)
                self.call.forsake(EVERYBODY_LEFT)

    async def wait_open(self) -> None:
        """Wait until the agent has a row for it. Raises Refused."""
        rejection = await self.call.wait_taken()
        if rejection is not None:
            raise Refused(rejection, f"room {self.name} cannot be opened: the agent is {rejection.value}")

    async def talk(self, name: str, offer: CallOffer, side: Side, consent: Mapping[str, Any]) -> str:
        """Be part of it, in a place of that name, until the leg is lost or the room is closed; why.

        `consent`: what was heard of being recorded, for the roll.
        """
        entry: dict[str, Any] = {"name": name, "id": offer.id, "kind": offer.kind, "caller": offer.caller}
        entry |= {"joined": self._now, "left": None, "reason": "", "media": {}, "consent": consent}
        _enter(self.call.roll, entry)
        self._present[name] = entry, side.leg
        self._tell()
        reason = LEFT
        try:
            reason = await first_of(self.room.join(name, side), self._closed())
        finally:
            self._leave(name, reason)
        return reason

    @property
    def _now(self) -> float:
        return round(self.room.leg.seconds, 3)

    async def _closed(self) -> str:
        return (await self.call.wait_ended()).reason

    def _leave(self, name: str, reason: str) -> None:
        if name in self._present:
            entry, leg = self._present.pop(name)
            entry |= {"left": self._now, "reason": reason, "media": asdict(leg.stats)}
            self._tell()

    def _tell(self) -> None:
        """Who is there, and who speaks; at the end that is said by the end."""
        if not self.call.is_over:
            people = {entry["id"]: name for name, (entry, _) in self._present.items()}
            self._observed(Gathered(self._now, people, self.room.speaking & {*self._present, AGENT}))

    def _end(self, ended: CallEnded) -> None:
        """The room is closed, and its record is about to be: whoever is there leaves now."""
        self._over()
        for name in list(self._present):
            self._leave(name, LEFT if ended.reason == EVERYBODY_LEFT else ended.reason)


def _enter(roll: list[dict[str, Any]], entry: dict[str, Any]) -> None:
    """Who is there stays on the roll, and of those who have left the latest."""
    roll.append(entry)
    if len(roll) > MOST_ON_ROLL:
        roll.remove(next(each for each in roll if each["left"] is not None))


def _name(caller: str, taken: list[str]) -> str:
    """What a participant is called, as nobody else is."""
    plain = re.sub(r"[^\w@+. -]+", "", caller).strip()[:MOST_CHARACTERS] or "somebody"
    name, count = plain, 1
    while name in taken:
        count += 1
        name = f"{plain} {count}"
    return name
