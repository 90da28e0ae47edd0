"""Makes calls into meetings elsewhere."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from signaling.call import OutgoingCall, SignalingError
from signaling.meetings.janus import JanusCall
from signaling.meetings.place import Place


class MeetingDialer:
    """Finds the way to a meeting by its URL; who may be called is decided where URLs come from.

    `find` opens a place with what is known of its server beside the URL.
    """

    def __init__(self, find: Callable[[str], Place] = Place.parse) -> None:
        self._find = find

    async def dial(self, target: str, trunk: str = "") -> OutgoingCall:
        """A call into the meeting at that URL; there are no trunks. Raises SignalingError."""
        place = self._find(target)
        address = await _address(place), place.port
        return JanusCall(place, address) if place.protocol == "janus" else _livekit(place, address)


def _livekit(place: Place, address: tuple[str, int]) -> OutgoingCall:
    """Its packages are an extra. Raises SignalingError without them."""
    try:
        from signaling.meetings.livekit import LiveKitCall
    except ImportError as error:
        raise SignalingError(f"{place} takes more packages ({error}): pip install 'voipagent[livekit]'") from None
    return LiveKitCall(place, address)


async def _address(place: Place) -> str:
    """One of the server's: media may come from elsewhere, but which way to there we take is told by it."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise SignalingError(f"{place.server} cannot be looked up: {error.strerror}") from None
    return str(found[0][4][0])
