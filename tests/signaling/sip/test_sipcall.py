"""sipcall.py: what a session asks of the peer within a call, over a socket."""

from __future__ import annotations

import asyncio

import pytest

from signaling.call import SignalingError
from tests.signaling.sip.answering import desk
from tests.signaling.sip.peer import udp_peer


async def test_a_change_gives_the_answer() -> None:
    async with desk() as opened, udp_peer(opened.port) as peer:
        await peer.call()
        call = await opened.next_call()
        changing = asyncio.create_task(call.propose("hold"))
        invite = await peer.request("INVITE")
        assert invite.body == b"hold"
        peer.answer(invite, 200, body="their answer")
        assert await changing == "their answer"
        assert (await peer.request("ACK")).cseq[0] == invite.cseq[0]
        await peer.hang_up()


async def test_a_change_that_is_refused() -> None:
    async with desk() as opened, udp_peer(opened.port) as peer:
        await peer.call()
        call = await opened.next_call()
        changing = asyncio.create_task(call.propose("hold"))
        peer.answer(await peer.request("INVITE"), 488)
        with pytest.raises(SignalingError, match="488 Fine"):
            await changing
        await peer.request("ACK")
        await peer.hang_up()


async def test_a_change_in_a_call_that_ends() -> None:
    async with desk() as opened, udp_peer(opened.port) as peer:
        await peer.call()
        call = await opened.next_call()
        changing = asyncio.create_task(call.propose("hold"))
        await peer.request("INVITE")
        await peer.hang_up()
        with pytest.raises(SignalingError, match="the call is over: hung up"):
            await changing
        with pytest.raises(SignalingError, match="the call is over"):
            await call.propose("again")


async def test_nobody_waits_for_a_change_any_more() -> None:
    async with desk() as opened, udp_peer(opened.port) as peer:
        await peer.call()
        call = await opened.next_call()
        changing = asyncio.create_task(call.propose("hold"))
        invite = await peer.request("INVITE")
        changing.cancel()
        await asyncio.wait([changing])
        peer.answer(invite, 200, body="their answer")
        await peer.request("ACK")
        await peer.hang_up()
