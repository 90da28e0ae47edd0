"""A server that speaks LiveKit's messages, with aiortc behind it: as many tones to hear as a test wants.

As the real one does, it sends descriptions without candidates, which follow one by one.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jwt
from aiortc import RTCBundlePolicy, RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from livekit.protocol.models import DisconnectReason, ParticipantInfo, TrackInfo
from livekit.protocol.rtc import (
    JoinResponse,
    LeaveRequest,
    Pong,
    ReconnectResponse,
    SessionDescription,
    SignalRequest,
    SignalResponse,
    SignalTarget,
    TrackPublishedResponse,
    TrickleRequest,
)
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.http11 import Request, Response

from tests.media.browser import Browser, Tone

KEY, SECRET, ROOM = "devkey", "a secret that is long enough for HS256", "standup"


class FakeLiveKit:
    """One participant at a time. What it was told is in `messages`; `grants` is what the last token allowed."""

    def __init__(self, *tones: float) -> None:
        self.publisher = Browser(direction="recvonly")
        self.subscriber = RTCPeerConnection(RTCConfiguration(iceServers=[], bundlePolicy=RTCBundlePolicy.MAX_BUNDLE))
        self.tones = tones
        self.port = 0
        self.messages: list[str] = []
        self.queries: list[dict[str, list[str]]] = []
        self.grants: dict[str, Any] = {}
        self.cid = ""
        self.knows_us = self.greets_again = self.answers = True
        self.left = asyncio.Event()
        self.socket: ServerConnection | None = None
        self._publishing = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self._publishing.on("track", self.publisher._listen)

    @property
    def url(self) -> str:
        return f"livekit://127.0.0.1:{self.port}/{ROOM}"

    async def say(self, **message: Any) -> None:
        assert self.socket is not None
        await self.socket.send(SignalResponse(**message).SerializeToString())

    async def leave(
        self, reason: DisconnectReason, action: LeaveRequest.Action = LeaveRequest.Action.DISCONNECT
    ) -> None:
        await self.say(leave=LeaveRequest(reason=reason, action=action))

    async def offer(self, *tones: float) -> None:
        """Have more to hear."""
        for hertz in tones:
            self.subscriber.addTransceiver(Tone(hertz), "sendonly")
        await self.subscriber.setLocalDescription(await self.subscriber.createOffer())
        await self._describe("offer", self.subscriber.localDescription.sdp, SignalTarget.SUBSCRIBER)

    def admit(self, connection: ServerConnection, request: Request) -> Response | None:
        """Before the WebSocket: the token, and the room."""
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        try:
            self.grants = jwt.decode(token, SECRET, algorithms=["HS256"])
        except jwt.InvalidTokenError as error:
            return connection.respond(HTTPStatus.UNAUTHORIZED, f"invalid token: {error}")
        if self.grants["video"]["room"] != ROOM:
            return connection.respond(HTTPStatus.NOT_FOUND, "requested room does not exist")
        self.queries.append(parse_qs(urlsplit(request.path).query))
        return None

    async def serve(self, socket: ServerConnection) -> None:
        self.socket = socket
        if "reconnect" in self.queries[-1]:
            if not self.knows_us:
                await self.leave(DisconnectReason.STATE_MISMATCH, LeaveRequest.Action.RECONNECT)
                return
            if self.greets_again:
                await self.say(reconnect=ReconnectResponse())
        else:
            us = ParticipantInfo(sid="PA_1", identity=self.grants["sub"])
            await self.say(join=JoinResponse(participant=us, ping_interval=1, ping_timeout=3))
            await self.say(room_update={})
        async for data in socket:
            assert isinstance(data, bytes)
            message = SignalRequest()
            message.ParseFromString(data)
            self.messages.append(message.WhichOneof("message") or "")
            await self._take(message)

    async def _take(self, message: SignalRequest) -> None:
        kind = message.WhichOneof("message")
        if kind == "add_track":
            self.cid = message.add_track.cid
            await self.say(track_published=TrackPublishedResponse(cid=self.cid, track=TrackInfo(sid="TR_1")))
        elif kind == "offer" and self.answers:
            peer = self._publishing
            await peer.setRemoteDescription(RTCSessionDescription(message.offer.sdp, "offer"))
            await peer.setLocalDescription(await peer.createAnswer())
            await self._describe("answer", peer.localDescription.sdp, SignalTarget.PUBLISHER)
            if self.tones:
                await self.offer(*self.tones)
        elif kind == "answer":
            await self.subscriber.setRemoteDescription(RTCSessionDescription(message.answer.sdp, "answer"))
        elif kind == "ping_req":
            await self.say(pong_resp=Pong(last_ping_timestamp=message.ping_req.timestamp))
        elif kind == "leave":
            assert message.leave.reason == DisconnectReason.CLIENT_INITIATED
            self.left.set()

    async def _describe(self, kind: str, sdp: str, target: SignalTarget) -> None:
        lines = sdp.splitlines()
        candidates = dict.fromkeys(line[2:] for line in lines if line.startswith("a=candidate"))
        bare = [line for line in lines if not line.startswith(("a=candidate", "a=end-of-candidates"))]
        description = SessionDescription(type=kind, sdp="\r\n".join([*bare, ""]), id=1)
        await self.say(**{kind: description})
        for candidate in candidates:
            init = json.dumps({"candidate": candidate, "sdpMid": "0", "sdpMLineIndex": 0})
            await self.say(trickle=TrickleRequest(candidateInit=init, target=target))
        await self.say(trickle=TrickleRequest(candidateInit="{}", target=target, final=True))

    async def close(self) -> None:
        await self.subscriber.close()
        await self._publishing.close()
        await self.publisher.__aexit__(None, None, None)


@asynccontextmanager
async def fake_livekit(*tones: float) -> AsyncIterator[FakeLiveKit]:
    """It serves until it is left."""
    fake = FakeLiveKit(*tones)
    listening: Server
    async with serve(fake.serve, "127.0.0.1", 0, process_request=fake.admit) as listening:
        fake.port = next(iter(listening.sockets)).getsockname()[1]
        try:
            yield fake
        finally:
            await fake.close()
