"""Makes calls into meetings elsewhere."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from signaling.call import OutgoingCall, SignalingError
from signaling.meetings.janus import JanusCall
from signaling.meetings.meeting import MeetingCall
from signaling.meetings.place import Place

CALLS: dict[str, Callable[[Place, tuple[str, int]], MeetingCall]] = {"janus": JanusCall}


class MeetingDialer:
    """Finds the way to a meeting by its URL; who may be called is decided where URLs come from.

    `find` opens a place with what is known of its server beside the URL.
    """

    def __init__(self, find: Callable[[str], Place] = Place.parse) -> None:
        self._find = find

    async def dial(self, target: str, trunk: str = "") -> OutgoingCall:
        """A call into the meeting at that URL; there are no trunks. Raises SignalingError."""
        place = self._find(target)
        return CALLS[place.protocol](place, (await _address(place), place.port))


async def _address(place: Place) -> str:
    """One of the server's: media may come from elsewhere, but which way to there we take is told by it."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise SignalingError(f"{place.server} cannot be looked up: {error.strerror}") from None
    return str(found[0][4][0])
