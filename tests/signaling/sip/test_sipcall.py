"""sipcall.py: what a session asks of the peer within a call, over a socket."""

from __future__ import annotations

import asyncio

import pytest

from signaling.call import Rejection, SignalingError
from signaling.sip.asked import refreshed
from signaling.sip.sipcall import SipCall
from tests.fakes import FakeCall
from tests.signaling.sip.answering import desk
from tests.signaling.sip.peer import Peer, udp_peer


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
        with pytest.raises(SignalingError, match="the call is over"):
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


# --- refreshes -----------------------------------------------------------------------------------------------------

TIMER = ("Supported: timer", "Session-Expires: 90;refresher=uas")


async def test_where_the_peer_serves_no_update_a_session_is_refreshed_by_its_own_offer() -> None:
    """RFC 4028, section 7.4: the peer may answer with another place, which the session has to know."""
    async with desk() as opened, udp_peer(opened.port) as peer:
        await peer.call(*TIMER)
        call = await opened.next_call()
        asked: list[str | None] = []
        answers: asyncio.Queue[str] = asyncio.Queue()

        async def renegotiate(offer: str | None) -> str:
            asked.append(offer)
            return "as it is"

        call.renegotiate, call.answered = renegotiate, answers.put
        peer.ask("OPTIONS")  # once that is answered, our ACK has been read
        await peer.response(200)
        opened.pass_time(46)
        invite = await peer.request("INVITE")
        assert (asked, invite.body) == ([None], b"as it is")
        peer.answer(invite, 200, "Session-Expires: 90;refresher=uac", body="another place")
        async with asyncio.timeout(5):
            assert await answers.get() == "another place"
        assert (await peer.request("ACK")).cseq[0] == invite.cseq[0]
        await peer.hang_up()
        assert (await call.wait_ended()).by == "caller"


@pytest.mark.parametrize("what", ["nothing to offer", "refused", "useless"])
async def test_a_refresh_that_comes_to_nothing_ends_no_call(what: str, caplog: pytest.LogCaptureFixture) -> None:
    async with desk() as opened, udp_peer(opened.port) as peer:
        await peer.call(*TIMER)
        call = await opened.next_call()

        async def renegotiate(offer: str | None) -> str | Rejection:
            return Rejection.NOT_ACCEPTABLE if what == "nothing to offer" else "as it is"

        async def answered(answer: str) -> None:
            raise ValueError(f"{answer} is no answer")

        call.renegotiate, call.answered = renegotiate, answered
        assert isinstance(call, SipCall)
        refreshing = asyncio.create_task(refreshed(call))
        if what != "nothing to offer":
            invite = await peer.request("INVITE")
            peer.answer(invite, 488 if what == "refused" else 200, body="" if what == "refused" else "nonsense")
            await peer.request("ACK")
        await refreshing
        assert f"{call.offer.id} the session is not refreshed" in caplog.text
        await peer.hang_up()
        assert (await call.wait_ended()).by == "caller"


# --- transfers -----------------------------------------------------------------------------------------------------


async def test_a_transfer_and_then_the_peer_leaves() -> None:
    async with desk() as opened, udp_peer(opened.port) as peer:
        await peer.call()
        call = await opened.next_call()
        moving = asyncio.create_task(call.transfer("+4930123"))
        refer = await peer.request("REFER")
        assert refer.headers.get("Refer-To").startswith("<sip:+4930123@127.0.0.1")
        peer.answer(refer, 202)
        await notify(peer, "180 Ringing")
        assert not moving.done()
        await notify(peer, "200 OK")
        await moving
        await peer.hang_up()
        assert (await call.wait_ended()).by == "caller"


async def test_a_transfer_that_reaches_nobody() -> None:
    async with desk() as opened, udp_peer(opened.port) as peer:
        await peer.call()
        call = await opened.next_call()
        moving = asyncio.create_task(call.transfer("sip:bob@127.0.0.1"))
        peer.answer(await peer.request("REFER"), 202)
        await notify(peer, "486 Busy Here")
        with pytest.raises(SignalingError, match="486 Busy Here"):
            await moving
        await peer.hang_up()


async def test_transfers_that_cannot_be_asked_for() -> None:
    async with desk() as opened, udp_peer(opened.port) as peer:
        await peer.call()
        call = await opened.next_call()
        with pytest.raises(SignalingError, match="neither a URI like sip:a@b.c nor a number"):
            await call.transfer("bob and carol")
        with pytest.raises(SignalingError, match="only a call by SIP"):
            await call.transfer(FakeCall())
        await peer.hang_up()


async def test_two_calls_are_put_together() -> None:
    async with desk() as opened, udp_peer(opened.port) as peer, udp_peer(opened.port) as other:
        await peer.call()
        await other.call()
        call, second = await opened.next_call(), await opened.next_call()
        moving = asyncio.create_task(call.transfer(second))
        refer = await peer.request("REFER")
        assert f"to-tag%3D{other.from_tag}" in refer.headers.get("Refer-To")
        peer.answer(refer, 202)
        await notify(peer, "200 OK")
        await moving
        await peer.hang_up()
        await other.hang_up()


async def notify(peer: Peer, line: str) -> None:
    fields = ("Event: refer", "Subscription-State: active")
    peer.ask("NOTIFY", *fields, body=f"SIP/2.0 {line}\r\n", Content_Type="message/sipfrag")
    await peer.response(200)


@pytest.mark.parametrize("allowed", [True, False])
async def test_a_peer_that_has_us_call_others(allowed: bool) -> None:
    asked: asyncio.Queue[str] = asyncio.Queue()
    async with desk() as opened, udp_peer(opened.port) as peer:
        await peer.call()
        call = await opened.next_call()
        call.referred = asked.put
        opened.sip.may_refer = lambda host: allowed and host == "127.0.0.1"
        peer.ask("REFER", "Refer-To: <sip:bob@127.0.0.1>")
        await peer.response(202 if allowed else 603)
        if allowed:
            for line in ("100 Trying", "200 OK"):
                told = await peer.request("NOTIFY")
                assert told.body.decode().strip() == f"SIP/2.0 {line}"
                peer.answer(told)
            assert await asked.get() == "sip:bob@127.0.0.1"
        await peer.hang_up()


async def test_a_session_that_cannot_call_others_says_so() -> None:
    async def fails(target: str) -> None:
        raise SignalingError("nobody there")

    async with desk() as opened, udp_peer(opened.port) as peer:
        await peer.call()
        call = await opened.next_call()
        call.referred = fails
        opened.sip.may_refer = lambda host: True
        peer.ask("REFER", "Refer-To: <sip:bob@127.0.0.1>")
        await peer.response(202)
        for line in ("100 Trying", "503 Service Unavailable"):
            told = await peer.request("NOTIFY")
            assert told.body.decode().strip() == f"SIP/2.0 {line}"
            peer.answer(told)
        await peer.hang_up()
