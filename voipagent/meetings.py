"""Meetings elsewhere: which we know, and those that we are to be in for as long as we run."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any

from engine.slot import EngineError
from signaling.call import CallEnded, NotAllowed, OutgoingCall, SignalingError
from signaling.meetings.place import Place
from voipagent.meetingsettings import MeetingSettings
from voipagent.outbound import UnknownPersona, Wanted

logger = logging.getLogger(__name__)

PAUSE_S = 1.0
"""Before the first try to be in a meeting again; twice as long before each other one, until `LONGEST_PAUSE_S`."""

LONGEST_PAUSE_S = 60.0
"""Also after we were thrown out: whoever did that is not to be pestered."""


class UnknownMeeting(SignalingError):
    """No meeting has that name; the message says which there are."""


class Meetings:
    """By their names, or by URLs. `place` begins a call, as `Agent.place` does with our dialer."""

    def __init__(
        self,
        meetings: Mapping[str, MeetingSettings],
        place: Callable[[Wanted], Awaitable[OutgoingCall]],
        pause_s: float = PAUSE_S,
    ) -> None:
        self._meetings, self._place, self._pause_s = meetings, place, pause_s

    def find(self, target: str) -> Place:
        """The place of a meeting by its name, or by a URL, which its server's settings open. Raises SignalingError."""
        if "://" not in target:
            return self._named(target).place
        place = Place.parse(target)
        for meeting in self._of(place):
            place = meeting.open(place)
        return place

    def check(self, target: str) -> None:
        """Whether somebody from outside may have us go there. Raises NotAllowed, SignalingError."""
        if "://" in target and not self._of(place := Place.parse(target)):
            raise NotAllowed(f"no meeting of ours is on {place.server}", ("meetings", "*", "url"))

    async def join(self, target: str, persona: str = "") -> OutgoingCall:
        """Begin a call into a meeting, by its own persona or another.

        Raises SignalingError, and what `Agent.place` does.
        """
        if not persona and "://" not in target:
            persona = self._named(target).persona
        return await self._place(Wanted(target, persona=persona))

    async def beside(self, running: Coroutine[Any, Any, None]) -> None:
        """Be in the meetings that we are to be in, for as long as `running` does."""
        keeping = asyncio.create_task(self._run(), name="meetings")
        try:
            await running
        finally:
            keeping.cancel()
            await asyncio.wait([keeping])

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for name, meeting in self._meetings.items():
                if meeting.auto_join:
                    group.create_task(self._keep(name), name=f"meeting {name}")

    async def _keep(self, name: str) -> None:
        """What keeps us out may pass, so it is told and tried again."""
        pause_s = self._pause_s
        while True:
            ended = await self._attend(name)
            if ended is not None and ended.outcome is None:  # we were in
                pause_s = LONGEST_PAUSE_S if ended.by == "callee" else self._pause_s
            logger.info("- meeting %s: again in %g s", name, pause_s)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    async def _attend(self, name: str) -> CallEnded | None:
        """From joining to the end; None where we could not begin."""
        try:
            ended = await (await self.join(name)).wait_ended()
        except (EngineError, SignalingError, UnknownPersona) as error:
            logger.warning("x meeting %s: %s", name, error)
            return None
        if ended.outcome is not None:
            logger.warning("x meeting %s: %s", name, ended.reason)
        return ended

    def _of(self, place: Place) -> list[MeetingSettings]:
        """Those on its server, first what is in the same room."""
        there = [each for each in self._meetings.values() if Place.parse(each.url).server == place.server]
        return sorted(there, key=lambda meeting: not meeting.is_at(place))

    def _named(self, name: str) -> MeetingSettings:
        meeting = self._meetings.get(name.lower())
        if meeting is None:
            known = (
                f"known: {', '.join(self._meetings)}" if self._meetings else "VOIPAGENT_MEETINGS__<NAME>__URL is one"
            )
            raise UnknownMeeting(f"there is no meeting {name!r}; {known}")
        return meeting
