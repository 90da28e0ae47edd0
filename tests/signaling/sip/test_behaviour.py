"""The behaviour matrix: each way in which SIP stacks were seen to fail, against a peer on a raw socket.

The agent behind the endpoint is the least there can be: it takes each call with a real media leg.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from media.answer import Legs
from media.leg import AudioFormat, Leg, LegError
from signaling.call import Call, CallEnded, Rejection
from signaling.sip.message import Response
from tests.signaling.sip.answering import Desk, desk, leave
from tests.signaling.sip.peer import OFFER, Peer, tcp_peer, udp_peer
from tests.signaling.sip.test_wire import DROPPED, OUTCOMES, torture

HOLD = OFFER.replace("o=- 1 1 ", "o=- 1 2 ") + "a=sendonly\r\n"
RESUME = OFFER.replace("o=- 1 1 ", "o=- 1 3 ")


SERVED = ("esc01", "longreq", "baddate", "inv2543", "sdp01")
"""The messages of RFC 4475 that are calls for us; test_useragent.py says what becomes of the other valid ones."""


def sdp(*lines: str) -> str:
    """A session description whose m= lines and attributes are those."""
    head = ("v=0", "o=- 1 1 IN IP4 127.0.0.1", "s=-", "c=IN IP4 127.0.0.1", "t=0 0")
    return "\r\n".join([*head, *lines, ""])


def lines(answer: Response, start: str) -> list[str]:
    """The lines of the description in a response that begin like that."""
    return [line for line in answer.body.decode().split("\r\n") if line.startswith(start)]


@contextlib.asynccontextmanager
async def agent() -> AsyncIterator[Desk]:
    """An endpoint whose calls are answered with legs, as a session does."""
    async with Legs(AudioFormat(24000, 1920), ports=(30000, 30400)) as legs:

        async def serve(call: Call) -> None:
            leg = legs.open_leg(call.offer.media, call.offer.source[0])
            try:
                await answer(call, leg)
            finally:
                await leg.close()

        async def answer(call: Call, leg: Leg) -> None:
            async def renegotiate(offer: str | None) -> str | Rejection:
                try:
                    return await leg.offer() if offer is None else await leg.answer(offer)
                except LegError:
                    return Rejection.NOT_ACCEPTABLE

            call.renegotiate, call.answered = renegotiate, leg.accepted
            await call.ring()
            try:
                media = call.offer.media
                await call.accept(await leg.offer() if media is None else await leg.answer(media))
            except LegError:
                await call.reject(Rejection.NOT_ACCEPTABLE)
            await call.wait_ended()

        async with desk(serve) as opened:
            yield opened


@contextlib.asynccontextmanager
async def talking(*extra: str, body: str = OFFER) -> AsyncIterator[tuple[Desk, Peer, Response]]:
    """A call that both are in, and the 200 that began it; ended by BYE."""
    async with agent() as opened, udp_peer(opened.port) as peer:
        answer = await peer.call(*extra, body=body)
        yield opened, peer, answer
        await peer.hang_up()


@contextlib.asynccontextmanager
async def ringing() -> AsyncIterator[tuple[Desk, Peer, Call]]:
    """A call that rings and is not answered."""
    async with desk(leave) as opened, udp_peer(opened.port) as peer:
        peer.ask("INVITE", body=OFFER)
        await peer.response(100, skip=())
        call = await opened.next_call()
        await call.ring()
        await peer.response(180)
        yield opened, peer, call


# --- the rows ------------------------------------------------------------------------------------------------------


async def test_basic_call_and_bye() -> None:
    async with agent() as opened, udp_peer(opened.port) as peer:
        peer.ask("INVITE", body=OFFER)
        assert [(await peer.response(code, skip=())).code for code in (100, 180, 200)] == [100, 180, 200]
        peer.send(peer.build("ACK", cseq=1))
        await peer.silence()  # and no re-INVITE that nobody asked for
        await peer.hang_up()
        assert await opened.calls[0].wait_ended() == CallEnded("caller", "hung up")


async def test_invite_repeated_while_ringing() -> None:
    async with ringing() as (opened, peer, call):
        peer.send(peer.invite)
        again = await peer.response(180, skip=())
        assert again.to_tag == call.offer.id
        assert len(opened.calls) == 1


async def test_invite_repeated_after_the_200() -> None:
    async with ringing() as (opened, peer, call):
        await call.accept("v=0")
        first = await peer.response(200)
        peer.send(peer.invite)
        assert await peer.response(200, skip=()) == first
        assert len(opened.calls) == 1
        await peer.hang_up()


async def test_200_without_ack_is_repeated() -> None:
    async with ringing() as (_, peer, call):
        await call.accept("v=0")
        first = await peer.response(200)
        assert await peer.response(200, skip=()) == first
        peer.ack(first)
        await peer.silence()
        await peer.hang_up()


async def test_bye_repeated() -> None:
    async with agent() as opened, udp_peer(opened.port) as peer:
        await peer.call()
        bye = peer.ask("BYE")
        first = await peer.response(200)
        peer.send(bye)
        assert await peer.response(200, skip=()) == first


async def test_cancel_while_ringing() -> None:
    async with ringing() as (_, peer, call):
        peer.cancel()
        assert (await peer.response(200)).cseq[1] == "CANCEL"
        terminated = await peer.response(487)
        peer.ack(terminated)
        assert await call.wait_ended() == CallEnded("caller", "cancelled")
        await call.accept("v=0")
        await peer.silence()


async def test_487_repeated_until_ack() -> None:
    async with ringing() as (_, peer, _):
        peer.cancel()
        await peer.response(200)
        first = await peer.response(487)
        assert await peer.response(487, skip=()) == first
        peer.ack(first)
        await peer.silence()


async def test_options() -> None:
    async with agent() as opened, udp_peer(opened.port) as peer:
        peer.ask("OPTIONS")
        answer = await peer.response(200)
        assert "INVITE" in answer.headers.values("Allow")
        assert answer.headers.get("Accept") == "application/sdp"


async def test_unknown_method() -> None:
    async with agent() as opened, udp_peer(opened.port) as peer:
        peer.ask("DANCE")
        await peer.response(501)
        peer.ask("PUBLISH")
        assert "PUBLISH" not in (await peer.response(405)).headers.values("Allow")


async def test_bye_for_no_dialog() -> None:
    async with agent() as opened, udp_peer(opened.port) as peer:
        peer.to_tag = "unknown"
        peer.ask("BYE")
        await peer.response(481)


async def test_hold() -> None:
    """sendonly is answered recvonly, and taken back."""
    async with talking() as (_, peer, _):
        for offer, direction in ((HOLD, "a=recvonly"), (RESUME, "a=sendrecv")):
            peer.ask("INVITE", body=offer)
            answer = await peer.response(200)
            peer.ack(answer)
            stated = [line for line in lines(answer, "a=") if line[2:] in ("recvonly", "sendrecv", "inactive")]
            assert (stated or ["a=sendrecv"]) == [direction]


async def test_invite_without_sdp() -> None:
    """The offer is in our 200, the answer in the ACK."""
    async with agent() as opened, udp_peer(opened.port) as peer:
        peer.ask("INVITE")
        offer = await peer.response(200, skip=(100, 180))
        assert "RTP/AVP" in lines(offer, "m=audio")[0]
        peer.ack(offer, body=sdp("m=audio 40000 RTP/AVP 0"))
        peer.ask("OPTIONS")
        await peer.response(200)
        await peer.hang_up()
        assert await opened.calls[0].wait_ended() == CallEnded("caller", "hung up")


async def test_invite_without_sdp_whose_answer_is_useless() -> None:
    async with agent() as opened, udp_peer(opened.port) as peer:
        peer.ask("INVITE")
        peer.ack(await peer.response(200, skip=(100, 180)), body=sdp("m=audio 0 RTP/AVP 0"))
        peer.answer(await peer.request("BYE"))
        ended = await opened.calls[0].wait_ended()
        assert (ended.by, ended.reason) == ("agent", "the answer refuses our audio stream")


async def test_update_refresh_and_info() -> None:
    async with talking() as (opened, peer, _):
        peer.ask("UPDATE")
        assert (await peer.response(200)).body == b""
        peer.ask("INFO", body="Signal=4\r\nDuration=100\r\n", Content_Type="application/dtmf-relay")
        await peer.response(200)
        digits = opened.calls[0].digits()
        async with asyncio.timeout(5):
            assert await anext(digits) == "4"


async def test_session_expires_offered() -> None:
    async with talking("Supported: timer", "Session-Expires: 1800;refresher=uac") as (_, peer, answer):
        assert answer.headers.get("Session-Expires") == "1800;refresher=uac"
        assert "timer" in answer.headers.options("Require")
        peer.ask("INVITE", "Supported: timer", "Session-Expires: 1800;refresher=uac", body=OFFER)
        again = await peer.response(200)
        peer.ack(again)
        assert again.body == answer.body  # a refresh renegotiates nothing
        assert again.headers.get("Session-Expires") == "1800;refresher=uac"


async def test_session_expires_too_small() -> None:
    async with agent() as opened, udp_peer(opened.port) as peer:
        peer.ask("INVITE", "Supported: timer", "Session-Expires: 30", body=OFFER)
        assert (await peer.response(422)).headers.get("Min-SE") == "90"


async def test_unknown_require() -> None:
    async with agent() as opened, udp_peer(opened.port) as peer:
        peer.ask("INVITE", "Require: nothing-we-know", body=OFFER)
        assert (await peer.response(420)).headers.get("Unsupported") == "nothing-we-know"


async def test_no_common_codec() -> None:
    async with agent() as opened, udp_peer(opened.port) as peer:
        peer.ask("INVITE", body=sdp("m=audio 40000 RTP/AVP 18", "a=rtpmap:18 G729/8000"))
        peer.ack(await peer.response(488, skip=(100, 180)))
        assert await opened.calls[0].wait_ended() == CallEnded("agent", "not acceptable")


async def test_static_pt_without_rtpmap() -> None:
    async with talking(body=sdp("m=audio 40000 RTP/AVP 8")) as (_, _, answer):
        assert lines(answer, "m=audio")[0].split()[2:] == ["RTP/AVP", "8"]


async def test_rtp_savp_with_crypto() -> None:
    """Never RTP/AVP, never SAVP without a key of ours; what we cannot protect is refused."""
    key = "a=crypto:3 AES_CM_128_HMAC_SHA1_80 inline:" + "A" * 40
    async with talking(body=sdp("m=audio 40000 RTP/SAVP 0", key)) as (_, _, answer):
        assert lines(answer, "m=audio")[0].split()[2:] == ["RTP/SAVP", "0"]
        (ours,) = lines(answer, "a=crypto")
        assert ours.startswith(key.rstrip("A")) and ours != key
    async with agent() as opened, udp_peer(opened.port) as peer:
        peer.ask("INVITE", body=sdp("m=audio 40000 RTP/SAVP 0", key[:-4]))
        await peer.response(488, skip=(100, 180))


async def test_telephone_event_offered_as_96() -> None:
    offered = ("m=audio 40000 RTP/AVP 0 96", "a=rtpmap:96 telephone-event/8000", "a=fmtp:96 0-15")
    async with talking(body=sdp(*offered)) as (_, _, answer):
        assert lines(answer, "m=audio")[0].split()[3:] == ["0", "96"]
        assert "a=rtpmap:96 telephone-event/8000" in lines(answer, "a=rtpmap")


async def test_audio_and_image_m_lines() -> None:
    offered = ("m=audio 40000 RTP/AVP 0", "m=image 40002 udptl t38", "a=T38FaxVersion:0")
    async with talking(body=sdp(*offered)) as (_, _, answer):
        audio, image = lines(answer, "m=")
        assert audio.startswith("m=audio ")
        assert image.split() == ["m=image", "0", "udptl", "t38"]


async def test_record_route_copied_into_200() -> None:
    routes = ("<sip:127.0.0.1;lr>, <sip:inner;lr;x=1>", "<sip:outer;lr>")
    async with talking(*(f"Record-Route: {route}" for route in routes)) as (opened, peer, answer):
        assert answer.headers.getlist("Record-Route") == routes
        assert len(opened.calls) == 1
        assert peer.to_tag


@pytest.mark.parametrize("writes", [1, 3])
async def test_tcp_message_in_three_writes(writes: int) -> None:
    async with agent() as opened, tcp_peer(opened.port) as peer:
        peer.cseq = 1
        peer.invite = peer.build("INVITE", body=OFFER)
        size = -(-len(peer.invite) // writes)
        for at in range(0, len(peer.invite), size):
            peer.send(peer.invite[at : at + size])
            await asyncio.sleep(0)
        peer.ack(await peer.response(200, skip=(100, 180)))
        await peer.hang_up()


async def test_tcp_two_messages_in_one_write() -> None:
    async with agent() as opened, tcp_peer(opened.port) as peer:
        peer.send(peer.build("OPTIONS", cseq=1) + peer.build("OPTIONS", cseq=2))
        assert [(await peer.response(200)).cseq[0] for _ in range(2)] == [1, 2]


@pytest.mark.parametrize("name", OUTCOMES)
async def test_rfc_4475(name: str) -> None:
    """Invalid messages are refused or dropped, valid ones served; and OPTIONS is answered at once afterwards."""
    async with desk(leave) as opened, udp_peer(opened.port) as peer:
        peer.send(torture(name))
        peer.ask("OPTIONS", Via=f"SIP/2.0/UDP {peer.local[0]}:{peer.local[1]};rport;branch=z9hG4bKafter")
        codes = []
        while (heard := await peer.hear()).via.parameters.get("branch") != "z9hG4bKafter":
            assert isinstance(heard, Response)
            codes.append(heard.code)
        # an answer to a torn message is torn too, because it repeats what was wrong
        codes += [int(peer.torn.get_nowait().split()[1]) for _ in range(peer.torn.qsize())]
        outcome = OUTCOMES[name]
        if isinstance(outcome, int):
            assert codes == ([] if outcome == DROPPED else [outcome])
        assert len(opened.calls) == (1 if name in SERVED else 0)
