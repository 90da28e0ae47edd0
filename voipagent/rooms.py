"""Rooms on our own server: several people and the agent. Which there are, who wants into which, and a session for each.

To the agent a room is a call like others, which begins with its first participant and ends with its last. It gives
the participants' calls here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from media.leg import AudioFormat, Leg
from signaling.call import Call, CallOffer, Rejection
from voipagent.consent import Announcement
from voipagent.events import Observer
from voipagent.meeting import KIND, Meeting, Refused
from voipagent.participant import Participant
from voipagent.persona import NamedPersona, bare_number
from voipagent.pin import Guesses, PinDialog, shipped_prompts
from voipagent.roomcall import RoomCall
from voipagent.roomsettings import RoomSettings, check_rooms

logger = logging.getLogger(__name__)

MOST_TEMPORARY = 256
"""Rooms that the API made and nobody has deleted."""

MOST_ASKED = 64
"""Callers who are asked for a PIN at once, of all rooms. One more is busy."""


class RoomError(Exception):
    """No such room can be made, or taken away; the message says why."""


class UnknownRoom(RoomError):
    """There is no room of that name."""


@dataclass(frozen=True)
class RoomState:
    """What can be told of a room. `participants` are who is there now; `call` is the id of its record then."""

    name: str
    settings: RoomSettings
    temporary: bool
    participants: tuple[str, ...]
    call: str


class Rooms:
    """A CallSource of rooms that open. `open_leg` makes a participant's leg, with frames as `leg_format` has them;
    `observers` are told who is in a room and who speaks, those too that come later.
    """

    def __init__(
        self,
        rooms: Mapping[str, RoomSettings],
        personas: Mapping[str, NamedPersona],
        audio_format: AudioFormat,
        open_leg: Callable[[CallOffer], Leg],
        observers: Sequence[Observer] = (),
    ) -> None:
        self.available: Callable[[], bool] = lambda: True
        self.announcement: Announcement | None = None
        """What each participant hears before the room hears a word."""
        self._fixed, self._personas = dict(rooms), personas
        self._temporary: dict[str, RoomSettings] = {}
        self._format, self._open_leg, self._observers = audio_format, open_leg, observers
        self._meetings: dict[str, Meeting] = {}  # by room: those that take participants
        self._opened: asyncio.Queue[RoomCall] = asyncio.Queue()  # as many as there are rooms, at most
        self._guesses: dict[str, Guesses] = {}
        self._asking: set[object] = set()

    # --- which there are ---

    @property
    def states(self) -> list[RoomState]:
        """Every room, those of the settings first."""
        return [self._state(name, settings) for name, settings in self._rooms.items()]

    def add(self, name: str, settings: RoomSettings) -> RoomState:
        """Make a room until it is removed, or we end. Raises RoomError where name, number or persona cannot be."""
        if name in self._rooms:
            raise RoomError(f"there is a room {name!r} already")
        if len(self._temporary) >= MOST_TEMPORARY:
            raise RoomError(f"there are {MOST_TEMPORARY} rooms that were made so; delete one first")
        try:
            check_rooms({**self._rooms, name: settings}, self._personas)
        except ValueError as error:
            raise RoomError(str(error)) from None
        self._temporary[name] = settings
        return self._state(name, settings)

    async def remove(self, name: str) -> None:
        """Take a room away, and send home who is there. Raises UnknownRoom; RoomError for one of the settings."""
        if name in self._fixed:
            raise RoomError(f"room {name!r} is in the settings, and stays")
        if name not in self._temporary:
            raise UnknownRoom(f"there is no room {name!r}")
        del self._temporary[name]
        self._guesses.pop(name, None)
        if (meeting := self._meetings.get(name)) is not None:
            await meeting.call.hang_up("the room was closed")

    @property
    def _rooms(self) -> dict[str, RoomSettings]:
        return {**self._fixed, **self._temporary}

    def _state(self, name: str, settings: RoomSettings) -> RoomState:
        meeting = self._meetings.get(name)
        names, call = (meeting.names, meeting.call.offer.id) if meeting else ((), "")
        return RoomState(name, settings, name in self._temporary, names, call)

    # --- who wants in ---

    def wants(self, offer: CallOffer) -> bool:
        """Whether that call is for a room, also one that does not exist."""
        return offer.kind != KIND and bool(offer.room or self._called(offer))

    def _called(self, offer: CallOffer) -> list[str]:
        """The rooms that a called number or name leads to."""
        called = bare_number(offer.callee)
        rooms = self._rooms.items()
        return [name for name, room in rooms if called and called in map(bare_number, (name, room.number))]

    async def join(self, call: Call) -> None:
        """The whole of a participant's call, for which `wants` said yes."""
        offer = call.offer
        names = self._called(offer) if not offer.room else [offer.room] if offer.room in self._rooms else []
        asks = not offer.room and all(self._rooms[name].pin.get_secret_value() for name in names)
        if self._guessed_out(names):
            await _refuse(call, Rejection.BUSY, "too many PINs were wrong lately")
        elif asks:
            await self._ask(call, names)
        elif room := self._opened_by(names, offer.pin):
            await self._participant(call, room).run()
        else:
            await _refuse(call, Rejection.NOT_FOUND, "there is no such room, or its PIN is another")

    def _participant(self, call: Call, room: str = "", ask: Callable[[int], PinDialog] | None = None) -> Participant:
        return Participant(call, self._open_leg, self._format, self._meeting, room, ask, self.announcement)

    # --- PINs ---

    async def _ask(self, call: Call, names: Sequence[str]) -> None:
        """The whole of a call that has yet to say the PIN of one of these."""
        if len(self._asking) >= MOST_ASKED:
            await _refuse(call, Rejection.BUSY, "too many are asked for a PIN")
            return
        self._asking.add(asked := object())

        def opens(pin: str) -> str:
            if room := self._opened_by(names, pin):
                self._asking.discard(asked)
            return room

        def dialog(sample_rate: int) -> PinDialog:
            longest = max(len(self._rooms[name].pin.get_secret_value()) for name in names)
            return PinDialog(shipped_prompts(sample_rate), opens, longest)

        try:
            await self._participant(call, ask=dialog).run()
        finally:
            self._asking.discard(asked)

    def _opened_by(self, names: Sequence[str], pin: str) -> str:
        """Which of them that PIN opens, "" for none; a wrong one is counted. Too many, and none opens any."""
        rooms = self._rooms
        if self._guessed_out(names):  # also for who was asked before
            return ""
        for name in names:
            if name in rooms and rooms[name].takes(pin):
                return name
        for name in names if pin else ():
            self._guessed(name).add(self._now)
        return ""

    def _guessed_out(self, names: Iterable[str]) -> bool:
        """Whether too many PINs were wrong lately."""
        return any(self._guessed(name).too_many(self._now) for name in names)

    def _guessed(self, name: str) -> Guesses:
        return self._guesses.setdefault(name, Guesses())

    @property
    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    # --- rooms that run ---

    async def calls(self) -> AsyncIterator[RoomCall]:
        """Each room as it opens, but those that nobody waits for any more."""
        while True:
            call = await self._opened.get()
            if not call.is_over:
                yield call

    def _meeting(self, name: str) -> Meeting:
        """The one that runs, or a new one, for which a session will be had. Raises Refused."""
        settings = self._rooms.get(name)
        if settings is None:
            raise Refused(Rejection.NOT_FOUND, f"there is no room {name} any more")
        if name not in self._meetings:
            meeting = Meeting(name, settings, self._format, lambda: self._forget(meeting), self._observers)
            self._meetings[name] = meeting
            self._opened.put_nowait(meeting.call)
        return self._meetings[name]

    def _forget(self, meeting: Meeting) -> None:
        """Whoever comes from now on opens another."""
        if self._meetings.get(meeting.name) is meeting:
            del self._meetings[meeting.name]


async def _refuse(call: Call, rejection: Rejection, why: str) -> None:
    logger.warning("x %s refused, %s: %s", call.offer.id, rejection.value, why)
    await call.reject(rejection)
    await call.hang_up(why)
