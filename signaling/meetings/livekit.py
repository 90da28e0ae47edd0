"""A room of LiveKit's: its messages over a WebSocket. We speak by one connection and hear by another.

The one is offered by us and answered by the server; the other is offered by the server, anew whenever somebody comes or
goes. Candidates of the server's follow its descriptions. Where the WebSocket breaks while the media goes on, we come
back to our place within `RESUME_S`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from collections.abc import Mapping

import jwt
from livekit.protocol.models import DisconnectReason, TrackSource, TrackType
from livekit.protocol.rtc import (
    AddTrackRequest,
    JoinResponse,
    LeaveRequest,
    Ping,
    SessionDescription,
    SignalRequest,
    SignalResponse,
    SignalTarget,
)
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus, WebSocketException

from signaling.call import Outcome, Rejection, SignalingError
from signaling.meetings.meeting import JOIN_S, LEAVE_S, MeetingCall, NotJoined, Over, with_candidates
from signaling.meetings.place import Place

logger = logging.getLogger(__name__)

PROTOCOL = 2
"""Of LiveKit's. From 3 on, whoever joins counts as there only once the data channels of the connection that it hears by
are open; we have none, and with 2 the connection that we speak by decides."""

TOKEN_S = 600
"""A token of ours is good for so long: it opens the door, and no more."""

RESUME_S = 20.0
"""We try to come back for so long."""

PING_S, PONG_S = 5.0, 15.0
"""Unless the server says otherwise: how often it is asked whether it is there, and how long it may be silent."""

MAX_MESSAGE = 1 << 20
"""Octets; a description of a large room has some 100,000."""

REASONS: Mapping[int, tuple[str, str]] = {
    DisconnectReason.DUPLICATE_IDENTITY: ("callee", "somebody else came to {} by our name"),
    DisconnectReason.SERVER_SHUTDOWN: ("network", "the server of {} is shutting down"),
    DisconnectReason.PARTICIPANT_REMOVED: ("callee", "we were thrown out of {}"),
    DisconnectReason.ROOM_DELETED: ("callee", "the room {} was closed"),
    DisconnectReason.ROOM_CLOSED: ("callee", "the room {} was closed"),
    DisconnectReason.JOIN_FAILURE: ("network", "{}: no media came through to the server"),
    DisconnectReason.MEDIA_FAILURE: ("network", "{}: no media came through to the server"),
}
"""Who ends it, and in which words; for others we have LiveKit's."""


class LiveKitCall(MeetingCall):
    """A call into a room of LiveKit's."""

    def __init__(self, place: Place, address: tuple[str, int]) -> None:
        if not place.token and not (place.key and place.secret):
            raise SignalingError(f"{place} takes an access token, or the server's API key and secret")
        super().__init__(place, address)
        self._identity = f"{place.name}-{self.offer.id[:6]}"
        self._token = place.token
        self._join = JoinResponse()
        self._answer = self._theirs = ""
        self._candidates: Mapping[int, list[str]] = {SignalTarget.PUBLISHER: [], SignalTarget.SUBSCRIBER: []}
        self._answers: tuple[str, str] = ("", "")
        self._heard_at = 0.0

    async def _live(self, media: str) -> None:
        socket = await self._first(media)
        while True:
            try:
                await self._stay(socket)
            except (WebSocketException, OSError) as error:
                logger.info("x %s %s: %s", self.offer.id, self.place.server, _shown(error))
            except asyncio.CancelledError:
                await self._leave(socket)
                raise
            finally:
                await socket.close()
            socket = await self._resume()

    async def _first(self, media: str) -> ClientConnection:
        """In for the first time. Raises NotJoined, Over."""
        socket: ClientConnection | None = None
        try:
            async with asyncio.timeout(JOIN_S):
                socket = await self._open({})
                await self._enter(socket, media)
            self._joined()
            return socket
        except BaseException as error:
            if socket is not None:
                try:
                    if isinstance(error, asyncio.CancelledError | TimeoutError):
                        await self._leave(socket)
                finally:  # as we may be told to hang up twice
                    await socket.close()
            if isinstance(error, TimeoutError):
                why = f"{self.place.server} did not let us in within {JOIN_S:g} s"
                raise NotJoined(why, Outcome.NO_ANSWER) from None
            if isinstance(error, WebSocketException | OSError):
                why = f"{self.place.server} cannot be reached: {_shown(error)}"
                raise NotJoined(why, Outcome.UNREACHABLE) from None
            raise

    async def _enter(self, socket: ClientConnection, media: str) -> None:
        """Say what we send, and offer it; until the server has answered."""
        first = await self._receive(socket)
        if first.WhichOneof("message") != "join":
            await self._happen(socket, first)
            raise NotJoined(f"{self.place.server} did not greet us as LiveKit does", Outcome.FAILED)
        self._join = first.join
        track = AddTrackRequest(
            cid=_track_id(media), name="voice", type=TrackType.AUDIO, source=TrackSource.MICROPHONE, disable_red=True
        )
        await self._send(socket, SignalRequest(add_track=track))
        while (message := await self._receive(socket)).WhichOneof("message") != "track_published":
            await self._happen(socket, message)
        await self._send(socket, SignalRequest(offer=SessionDescription(type="offer", sdp=media)))
        while not self._answer:
            await self._happen(socket, await self._receive(socket))

    async def _stay(self, socket: ClientConnection) -> None:
        """Raises Over; the socket's errors where it breaks."""
        interval_s, patience_s = self._join.ping_interval or PING_S, self._join.ping_timeout or PONG_S
        due = time.monotonic() + interval_s
        self._heard_at = time.monotonic()
        while True:
            try:
                async with asyncio.timeout(max(0.0, due - time.monotonic())):
                    message = await self._receive(socket)
            except TimeoutError:
                if time.monotonic() - self._heard_at > patience_s:
                    raise OSError(f"it said nothing for {patience_s:g} s") from None
                await self._send(socket, SignalRequest(ping_req=Ping(timestamp=int(time.time() * 1000))))
                due = time.monotonic() + interval_s
                continue
            self._heard_at = time.monotonic()
            if await self._happen(socket, message):
                return

    async def _resume(self) -> ClientConnection:
        """Back to our place. Raises Over where there is none any more, or nobody answers."""
        until, pause_s, why = time.monotonic() + RESUME_S, 0.5, ""
        while time.monotonic() < until:
            try:
                async with asyncio.timeout(RESUME_S):
                    return await self._return()
            except NotJoined as error:
                raise Over("network", str(error)) from None
            except (WebSocketException, OSError, TimeoutError) as error:
                why = _shown(error)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, 4.0)
        raise Over("network", f"{self.place.server} is gone: {why}")

    async def _return(self) -> ClientConnection:
        """Ask for our place once. Raises Over where it is gone, NotJoined, and the socket's errors."""
        socket = await self._open({"reconnect": "1", "sid": self._join.participant.sid})
        try:
            message = await self._receive(socket)
            if message.WhichOneof("message") == "reconnect":
                logger.info("- %s is back in the meeting %s", self.offer.id, self.place)
                return socket
            await self._happen(socket, message)  # which says why, where it is a leave
            raise Over("network", f"{self.place.server} has forgotten us")
        except BaseException as error:
            try:
                if isinstance(error, asyncio.CancelledError):
                    await self._leave(socket)
            finally:
                await socket.close()
            raise

    async def _leave(self, socket: ClientConnection) -> None:
        try:
            async with asyncio.timeout(LEAVE_S):
                leave = LeaveRequest(reason=DisconnectReason.CLIENT_INITIATED, action=LeaveRequest.Action.DISCONNECT)
                await self._send(socket, SignalRequest(leave=leave))
        except (WebSocketException, OSError, TimeoutError) as error:
            logger.info("x %s leaving %s: %s", self.offer.id, self.place, _shown(error))

    # --- the WebSocket ---

    async def _open(self, more: Mapping[str, str]) -> ClientConnection:
        """Raises NotJoined where we are turned away, the socket's errors where nobody is there."""
        place = self.place
        wanted = {"auto_subscribe": "1", "protocol": str(PROTOCOL), "sdk": "other", **more}
        query = "&".join(f"{name}={value}" for name, value in wanted.items())
        base = f"/{place.base.strip('/')}" if place.base.strip("/") else ""
        url = f"{place.web('ws')}{base}/rtc?{query}"
        try:
            return await connect(
                url,
                additional_headers={"Authorization": f"Bearer {self._access_token()}"},
                max_size=MAX_MESSAGE,
                close_timeout=LEAVE_S,
                proxy=None,
            )
        except InvalidStatus as error:
            status, said = error.response.status_code, (error.response.body or b"").decode(errors="replace")[:200]
            if status in (401, 403):
                raise NotJoined(f"{place.server} refuses our token: {said or status}", Outcome.FORBIDDEN) from None
            if status == 404:
                raise NotJoined(f"there is no room {place.room!r} at {place.server}", Outcome.NOT_FOUND) from None
            raise NotJoined(f"{place.server} turns us away: HTTP {status} {said}".strip(), Outcome.DECLINED) from None

    def _access_token(self) -> str:
        place = self.place
        if self._token:
            return self._token
        now = int(time.time())
        may = {"roomJoin": True, "room": place.room, "canPublish": True, "canSubscribe": True}
        claims = {"iss": place.key, "sub": self._identity, "name": place.name, "nbf": now - 10, "exp": now + TOKEN_S}
        return jwt.encode({**claims, "video": may}, place.secret, algorithm="HS256")

    async def _receive(self, socket: ClientConnection) -> SignalResponse:
        """The next message; what is none is dropped."""
        while True:
            data = await socket.recv()
            message = SignalResponse()
            try:
                message.ParseFromString(data if isinstance(data, bytes) else data.encode())
            except Exception as error:  # of protobuf, which has no one root for them
                logger.info("x %s a message from %s: %s", self.offer.id, self.place.server, error)
                continue
            return message

    async def _send(self, socket: ClientConnection, message: SignalRequest) -> None:
        await socket.send(message.SerializeToString())

    # --- what happens ---

    async def _happen(self, socket: ClientConnection, message: SignalResponse) -> bool:
        """Whether we are to come back by another WebSocket. Raises Over."""
        kind = message.WhichOneof("message")
        if kind == "answer":
            self._answer = message.answer.sdp
            await self._take(self._answer, self._candidates[SignalTarget.PUBLISHER])
        elif kind == "offer":
            self._theirs = message.offer.sdp
            await self._hear(socket, message.offer.id)
        elif kind == "trickle":
            await self._trickled(socket, message.trickle.candidateInit, message.trickle.target)
        elif kind == "refresh_token":
            self._token = message.refresh_token
        elif kind == "leave":
            return self._left(message.leave)
        return False

    def _left(self, leave: LeaveRequest) -> bool:
        if leave.action == LeaveRequest.Action.RESUME:
            return True
        if leave.action == LeaveRequest.Action.RECONNECT or leave.can_reconnect:
            raise Over("network", f"{self.place.server} wants us to join anew")
        name = DisconnectReason.Name(leave.reason).replace("_", " ").lower()
        by, words = REASONS.get(leave.reason, ("callee", "{} let us go: " + name))
        raise Over(by, words.format(self.place))

    async def _trickled(self, socket: ClientConnection, init: str, target: int) -> None:
        try:
            candidate = str(json.loads(init).get("candidate") or "")
        except (ValueError, AttributeError):
            logger.info("x %s a candidate from %s is no JSON", self.offer.id, self.place.server)
            return
        if not candidate or target not in self._candidates:
            return
        self._candidates[target].append(candidate.removeprefix("a="))
        if target == SignalTarget.PUBLISHER and self._answer:
            await self._take(self._answer, self._candidates[target])
        elif target == SignalTarget.SUBSCRIBER and self._theirs:
            await self._hear(socket, 0)

    async def _hear(self, socket: ClientConnection, number: int) -> None:
        """Have our leg agree to the server's offer, with the candidates there are. What it refuses is not heard."""
        if self.renegotiate is None:
            raise SignalingError("there is nobody to take the server's offer")
        told = await self.renegotiate(with_candidates(self._theirs, self._candidates[SignalTarget.SUBSCRIBER]))
        if isinstance(told, Rejection):
            logger.warning("x %s an offer from %s: %s", self.offer.id, self.place.server, told.value)
            return
        if self._answers != (self._theirs, told):  # else it is for the leg alone: candidates
            self._answers = (self._theirs, told)
            answer = SessionDescription(type="answer", sdp=told, id=number)
            await self._send(socket, SignalRequest(answer=answer))


def _track_id(media: str) -> str:
    """By what the server knows the track that we announce: our description names it in a=msid (RFC 8830)."""
    found = re.search(r"^a=msid:\S+ (\S+)", media, re.MULTILINE)
    return found[1] if found else "voice"


def _shown(error: Exception) -> str:
    return str(error) or type(error).__name__
