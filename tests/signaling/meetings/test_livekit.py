"""LiveKit's signalling against a fake that speaks the same messages, with our own legs and aiortc's behind them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import jwt
import numpy as np
import pytest
from livekit.protocol.models import DisconnectReason
from livekit.protocol.rtc import LeaveRequest

from engine.slot import FRAME_SAMPLES, SAMPLE_RATE
from media.answer import Legs
from media.leg import AudioFormat, Leg, LegError, Pcm
from signaling.call import CallEnded, Outcome, OutgoingCall, Rejection, SignalingError
from signaling.meetings import livekit
from signaling.meetings.dialer import MeetingDialer
from signaling.meetings.place import Place
from tests.signaling.meetings.livekit import KEY, ROOM, SECRET, FakeLiveKit, fake_livekit

OURS = 660.0


@dataclass
class Guest:
    """We in a room, saying a tone."""

    call: OutgoingCall
    leg: Leg
    heard: list[Pcm] = field(default_factory=list)

    async def talk(self) -> None:
        sent = 0
        while True:
            self.heard.append((await self.leg.exchange()).heard)
            at = (sent + np.arange(FRAME_SAMPLES)) / SAMPLE_RATE
            self.leg.play((0.25 * np.sin(2 * np.pi * OURS * at)).astype(np.float32))
            sent += FRAME_SAMPLES

    async def hears(self, *tones: float) -> None:
        """Until each was heard from now on; a busy machine may leave gaps in any of them."""
        before, seen = len(self.heard), set[float]()
        async with asyncio.timeout(30):
            while not seen >= set(tones):
                await asyncio.sleep(0.02)
                seen = seen.union(*map(loud, self.heard[before:]))

    async def renegotiate(self, offer: str | None) -> str | Rejection:
        try:
            return await self.leg.answer(offer or "")
        except LegError:
            return Rejection.NOT_ACCEPTABLE


def loud(pcm: Pcm) -> set[float]:
    """The tones in it, of those that there are."""
    spectrum = np.abs(np.fft.rfft(pcm * np.hanning(len(pcm)))) / len(pcm)
    bins = {hertz: round(hertz * len(pcm) / SAMPLE_RATE) for hertz in (300.0, 500.0, 800.0, OURS)}
    return {hertz for hertz, place in bins.items() if spectrum[place - 1 : place + 2].max() > 0.02}


@asynccontextmanager
async def guest(url: str, key: str = KEY, secret: str = SECRET) -> AsyncIterator[Guest]:
    """On our way into that room; it leaves afterwards."""
    async with Legs(AudioFormat(SAMPLE_RATE, FRAME_SAMPLES), ports=(26_000, 26_999)) as legs:
        call = await MeetingDialer(lambda target: Place.parse(target).opened_by(key=key, secret=secret)).dial(url)
        us = Guest(call, legs.open_pair_leg(call.offer.source[0]))
        call.answered, call.renegotiate = us.leg.accepted, us.renegotiate
        await call.invite(await us.leg.offer())
        talking = asyncio.create_task(us.talk())
        try:
            yield us
        finally:
            talking.cancel()
            await asyncio.wait([talking])
            await call.hang_up()
            await us.leg.close()


@asynccontextmanager
async def meeting(*tones: float) -> AsyncIterator[tuple[FakeLiveKit, Guest]]:
    """We are in."""
    async with fake_livekit(*tones) as server, guest(server.url) as us:
        await asyncio.wait_for(us.call.wait_answered(), 30)
        yield server, us


async def ends(call: OutgoingCall) -> CallEnded:
    async with asyncio.timeout(30):
        return await call.wait_ended()


async def test_we_are_heard_and_hear_all_who_are_there_and_who_come_later() -> None:
    async with meeting(300.0, 500.0) as (server, us):
        await us.hears(300.0, 500.0)
        await server.publisher.hears(OURS, within_s=30)
        await server.offer(800.0)
        await us.hears(300.0, 500.0, 800.0)
        stats = us.leg.stats
        assert stats.packets_received > 0 and stats.packets_sent > 0 and stats.codec == "opus"
        assert us.leg.held is False
        await us.call.hang_up("that was all")
        await asyncio.wait_for(server.left.wait(), 5)
        assert await ends(us.call) == CallEnded("agent", "that was all")
    assert server.grants["video"] == {"roomJoin": True, "room": "standup", "canPublish": True, "canSubscribe": True}
    assert server.grants["iss"] == KEY and server.grants["name"] == "agent"
    assert server.queries == [{"auto_subscribe": ["1"], "protocol": ["2"], "sdk": ["other"]}]
    assert server.messages[:2] == ["add_track", "offer"]
    assert len(server.cid) == 8  # by which our description names the track


async def test_an_empty_room_is_silent_and_goes_on() -> None:
    async with meeting() as (server, us):
        await server.publisher.hears(OURS, within_s=30)
        assert loud(us.heard[-1]) == set()
        async with asyncio.timeout(10):
            while "ping_req" not in server.messages:
                await asyncio.sleep(0.02)


async def test_we_come_back_to_our_place_when_the_websocket_breaks() -> None:
    async with meeting(300.0) as (server, us):
        await us.hears(300.0)
        for _ in range(2):
            before = len(server.queries)
            assert server.socket is not None
            await server.socket.close()
            async with asyncio.timeout(10):
                while len(server.queries) == before:
                    await asyncio.sleep(0.02)
        assert server.queries[-1]["sid"] == ["PA_1"] and server.queries[-1]["reconnect"] == ["1"]
        await us.hears(300.0)
        await server.leave(DisconnectReason.UNKNOWN_REASON, LeaveRequest.Action.RESUME)
        async with asyncio.timeout(10):
            while len(server.queries) < 4:
                await asyncio.sleep(0.02)
        server.knows_us = False
        assert server.socket is not None
        await server.socket.close()
        assert await ends(us.call) == CallEnded(
            "network", f"{server.url[: server.url.rindex('/')]} wants us to join anew"
        )


async def test_who_hangs_up_while_it_comes_back_leaves() -> None:
    async with meeting() as (server, us):
        server.greets_again = False
        assert server.socket is not None
        first = server.socket
        await first.close()
        async with asyncio.timeout(10):
            while server.socket is first:
                await asyncio.sleep(0.02)
        await (await server.socket.ping())  # it is open at our end, too
        await us.call.hang_up("that was all")
        await asyncio.wait_for(server.left.wait(), 5)
        assert await ends(us.call) == CallEnded("agent", "that was all")
        await asyncio.wait_for(server.socket.wait_closed(), 5)


@pytest.mark.parametrize("ours", [True, False])
async def test_who_does_not_get_in_leaves(ours: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(livekit, "JOIN_S", 30.0 if ours else 1.0)
    async with fake_livekit() as server:
        server.answers = False
        async with guest(server.url) as us:
            async with asyncio.timeout(10):
                while "offer" not in server.messages:
                    await asyncio.sleep(0.02)
            if ours:
                await us.call.hang_up("that was all")
            await asyncio.wait_for(server.left.wait(), 5)
            ended = await ends(us.call)
            assert ended.outcome is (Outcome.CANCELLED if ours else Outcome.NO_ANSWER), ended


async def test_a_server_that_is_gone_is_tried_within_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(livekit, "RESUME_S", 0.7)
    async with fake_livekit() as server:
        leaving = guest(server.url)
        us = await leaving.__aenter__()
        await asyncio.wait_for(us.call.wait_answered(), 30)
    ended = await ends(us.call)
    assert ended.by == "network" and "is gone: " in ended.reason
    await leaving.__aexit__(None, None, None)


@pytest.mark.parametrize(
    ("reason", "ended"),
    [
        (DisconnectReason.PARTICIPANT_REMOVED, CallEnded("callee", "we were thrown out of {}")),
        (DisconnectReason.ROOM_DELETED, CallEnded("callee", "the room {} was closed")),
        (DisconnectReason.SERVER_SHUTDOWN, CallEnded("network", "the server of {} is shutting down")),
        (DisconnectReason.USER_REJECTED, CallEnded("callee", "{} let us go: user rejected")),
    ],
)
async def test_why_we_are_let_go_is_said(reason: DisconnectReason, ended: CallEnded) -> None:
    async with meeting() as (server, us):
        await server.leave(reason)
        assert await ends(us.call) == CallEnded(ended.by, ended.reason.format(server.url))


async def test_what_keeps_us_out_is_one_clear_line() -> None:
    async with fake_livekit() as server:
        where = server.url.rpartition("/")[0]
        wrong = [
            (server.url, "another secret that is long enough for it", Outcome.FORBIDDEN, "refuses our token: invalid"),
            (f"{where}/retro", SECRET, Outcome.NOT_FOUND, f"there is no room 'retro' at {where}"),
            ("livekit://127.0.0.1:9/x", SECRET, Outcome.UNREACHABLE, "livekit://127.0.0.1:9 cannot be reached: "),
        ]
        for url, secret, outcome, said in wrong:
            async with guest(url, secret=secret) as us:
                ended = await ends(us.call)
                assert ended.outcome is outcome and said in ended.reason, ended
        with pytest.raises(SignalingError, match="takes an access token, or the server's API key and secret"):
            await MeetingDialer().dial(server.url)


async def test_a_token_that_is_given_is_used() -> None:
    token = jwt.encode({"sub": "ada", "name": "Ada", "video": {"room": ROOM}}, SECRET, algorithm="HS256")
    async with fake_livekit() as server, guest(f"ws://127.0.0.1:{server.port}/?token={token}") as us:
        await asyncio.wait_for(us.call.wait_answered(), 30)
        assert server.grants["sub"] == "ada"
