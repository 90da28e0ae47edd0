"""endpoint.py and transport.py: calls over real sockets on loopback."""

from __future__ import annotations

import asyncio
import socket

import pytest

from signaling.call import CallEnded, SignalingError
from signaling.sip.endpoint import SipEndpoint
from tests.signaling.sip.answering import ANSWER, LOOPBACK, desk, leave
from tests.signaling.sip.peer import OFFER, tcp_peer, udp_peer


@pytest.mark.parametrize("connect", [udp_peer, tcp_peer])
async def test_a_call_from_its_offer_to_its_end(connect: object) -> None:
    assert callable(connect)
    async with desk() as agent, connect(agent.port) as peer:
        answer = await peer.call("Subject: a\ttest", uri=f"sip:4711@127.0.0.1:{agent.port}")
        assert answer.body.decode() == ANSWER
        assert answer.headers.get("Contact").startswith(f"<sip:127.0.0.1:{agent.port}")
        call = await agent.next_call()
        offer = call.offer
        assert (offer.kind, offer.caller, offer.callee, offer.media) == ("sip", "peer", "4711", OFFER)
        assert offer.source == peer.local
        assert offer.headers == {"Subject": "a test", "Call-ID": peer.call_id}
        assert offer.id == answer.to_tag
        await peer.hang_up()
        assert await call.wait_ended() == CallEnded("caller", "hung up")
        assert await call.wait_ended() == CallEnded("caller", "hung up")


async def test_we_hang_up() -> None:
    async with desk() as agent, udp_peer(agent.port) as peer:
        await peer.call()
        call = await agent.next_call()
        await call.hang_up('the engine "failed"\r\n')
        assert await call.wait_ended() == CallEnded("agent", 'the engine "failed"\r\n')
        bye = await peer.request("BYE")
        assert bye.headers.get("Reason") == "SIP;text=\"the engine 'failed'\""
        assert (bye.uri, bye.to_tag) == (f"sip:peer@127.0.0.1:{peer.local[1]}", peer.from_tag)
        peer.answer(bye)
        await call.hang_up("again")
        await peer.silence()


async def test_a_busy_port_is_one_clear_line() -> None:
    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
        with socket.socket(socket.AF_INET, kind) as taken:
            taken.bind(("127.0.0.1", 0))
            if kind == socket.SOCK_STREAM:
                taken.listen()
            port = taken.getsockname()[1]
            with pytest.raises(SignalingError, match=f"cannot listen for SIP on .* port {port}: .*another program"):
                async with SipEndpoint("127.0.0.1", port, allow=LOOPBACK):
                    raise AssertionError("bound twice")


async def test_an_address_that_is_not_ours_is_one_clear_line() -> None:
    with pytest.raises(SignalingError, match=r"cannot listen for SIP on UDP 192\.0\.2\.1 port 5060"):
        async with SipEndpoint("192.0.2.1", 5060, allow=LOOPBACK):
            raise AssertionError("bound to somebody else's address")


async def test_nothing_is_left_when_it_closes() -> None:
    before = asyncio.all_tasks()
    async with udp_peer(0) as peer:
        async with SipEndpoint("127.0.0.1", 0, allow=LOOPBACK) as sip:
            peer.agent = ("127.0.0.1", sip.port)
            peer.ask("INVITE", body=OFFER, uri="sip:agent@127.0.0.1")
            await peer.response(100, skip=())
        await peer.response(480)
        assert asyncio.all_tasks() == before
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", sip.port))


async def test_a_stranger_hears_nothing_and_the_log_says_how_to_let_it_in(caplog: pytest.LogCaptureFixture) -> None:
    async with desk(leave) as agent, udp_peer(agent.port, "127.0.0.2") as stranger:
        for _ in range(3):
            stranger.ask("OPTIONS")
            await stranger.silence()
    (line,) = [record.getMessage() for record in caplog.records if "not allowed" in record.getMessage()]
    assert line.startswith("x 127.0.0.2 ")
    assert "VOIPAGENT_SIP__ALLOW=127.0.0.1/32,127.0.0.2 " in line
