"""Hold, change and delayed offers of an RTP leg."""

from __future__ import annotations

import asyncio
import socket

import numpy as np
import pytest

from media import rtcp
from media.codec import G722, OPUS, PCMA, PCMU, Codec
from media.leg import LegError
from media.receiver import FIRST_PACKET_S, UNCONFIRMED_S
from media.streamleg import KEEP_ALIVE_S
from tests.media.line import FORMAT, FRAME_S, Line, Phone, loudness, tone
from tests.media.waiting import audio


@pytest.mark.parametrize("how", ["sendonly", "inactive", "0.0.0.0"])
async def test_hold_and_resume(how: str) -> None:
    async with Line() as line:
        first = await line.connect()
        line.talk()
        await line.frames(5, echo=True)
        line.phone.packets(20)
        if how == "0.0.0.0":
            answer = await line.leg.answer(line.phone.sdp(address="0.0.0.0"))
        else:
            answer = await line.leg.answer(line.phone.sdp(f"a={how}"))
        assert line.leg.held
        assert ("a=inactive" if how == "inactive" else "a=recvonly") in answer
        exchanges = await line.frames(25)  # its music is not for us
        assert all(exchange.held for exchange in exchanges)
        assert not exchanges[0].heard[100:].any()  # a filter's tail of what was said before
        assert not any(exchange.heard.any() or exchange.played.any() for exchange in exchanges[1:])
        assert audio(line.phone.packets()) == []

        resumed = await line.leg.answer(line.phone.sdp())
        assert resumed.split("\r\n")[5:] == first.split("\r\n")[5:]
        before = line.timers.now
        exchange = await line.frame(echo=True)
        assert not exchange.held and line.timers.now - before <= FRAME_S + 1e-6
        exchanges = await line.frames(5, echo=True)
        assert all(loudness(exchange.heard) > 0.1 for exchange in exchanges[1:])
        packets = line.phone.packets(20)
        assert packets[0].marker == 1
        assert loudness(line.phone.hear(packets[12:])) > 0.1


async def test_a_held_peer_is_kept_alive_and_the_stream_goes_on_where_time_is() -> None:
    async with Line() as line:
        await line.connect()
        line.talk()
        await line.frames(5)
        line.hush()
        last = line.phone.packets(20)[-1]
        await line.leg.answer(line.phone.sdp("a=sendonly"))
        ticks = round(3 * KEEP_ALIVE_S / 0.02)
        line.run(ticks)
        kept = line.phone.packets(3)
        assert len(kept) == 3
        assert {packet.payload for packet in kept} == {b""}
        assert not {packet.payload_type for packet in kept} & {0, 8, 9, 13, 101}
        assert line.phone.reports(5)
        await line.leg.answer(line.phone.sdp())
        line.run(1)
        packet = line.phone.packets(1)[0]
        assert packet.sequence_number == (last.sequence_number + 4) & 0xFFFF
        assert (packet.timestamp - last.timestamp) & 0xFFFFFFFF == (ticks + 1) * 160


async def test_nothing_at_all_is_sent_to_the_address_0() -> None:
    async with Line() as line:
        await line.connect()
        await line.frame()
        line.phone.packets(4)
        await line.leg.answer(line.phone.sdp(address="0.0.0.0"))
        line.run(2000)
        assert line.phone.packets() == [] and line.phone.reports() == []


async def test_a_call_may_begin_on_hold() -> None:
    async with Line() as line:
        line.phone.read(await line.leg.answer(line.phone.sdp(address="0.0.0.0")))
        assert (await line.frame()).held and line.leg.stats.remote == ""
        await line.leg.answer(line.phone.sdp())
        line.talk()
        assert loudness((await line.frames(3, echo=True))[-1].heard) > 0.1
        assert len(audio(line.phone.packets(12))) == 12


async def test_nothing_of_before_a_hold_is_heard_after_it() -> None:
    """Neither here, where a lost packet's place would be filled with it, nor there, from a filter or a fade."""
    async with Line() as line:
        await line.connect()
        line.talk()
        await line.frames(5, echo=True)
        line.hush()
        await line.leg.answer(line.phone.sdp("a=sendonly"))
        await line.frames(5)
        line.phone.packets()
        await line.leg.answer(line.phone.sdp())
        exchanges = await line.frames(3)
        assert not any(exchange.heard.any() or exchange.played.any() for exchange in exchanges)
        assert not line.phone.hear(line.phone.packets(12)).any()


async def test_the_first_frame_on_hold_has_what_was_said_before_it() -> None:
    """It is in the record, though the model is not stepped for it; from the hold on there is silence."""
    async with Line() as line:
        await line.connect()
        line.talk()
        await line.frames(5, echo=True)
        pending = asyncio.ensure_future(line.leg.exchange())
        await asyncio.sleep(0)
        line.run(2)
        await line.leg.answer(line.phone.sdp("a=sendonly"))
        line.run(2)
        exchange = await asyncio.wait_for(pending, 2)
        assert exchange.held
        assert loudness(exchange.heard[:960]) > 0.1 and loudness(exchange.played[:960]) > 0.1
        assert not exchange.heard[960 + 96 :].any() and not exchange.played[960:].any()  # but for the filter's tail


@pytest.mark.parametrize("cycles", [20])
async def test_twenty_holds_in_one_call_add_no_delay(cycles: int) -> None:
    async with Line() as line:
        await line.connect()
        line.talk()
        for _ in range(cycles):
            await line.frames(4, echo=True)
            await line.leg.answer(line.phone.sdp("a=sendonly"))
            await line.frames(2)
            await line.leg.answer(line.phone.sdp())
        await line.frames(10, echo=True)
        assert line.leg._outgoing.waiting_s <= 0.1
        assert line.leg.stats.playout_delay_s <= 0.06


async def test_a_listener_hears_us_and_is_not_held() -> None:
    async with Line() as line:
        await line.connect("a=recvonly")
        exchange = await line.frame()
        assert not exchange.held
        assert len(audio(line.phone.packets(4))) == 4
        line.phone.rtcp.sendto(rtcp.compound(1, b"x", None, []), line.phone.rtcp_target)
        line.run(round(FIRST_PACKET_S * 50) + 10)
        assert not line.leg._lost.done()  # nothing is expected from it
        line.phone.packets()
        line.run(4)
        assert len(audio(line.phone.packets(4))) == 4


@pytest.mark.parametrize("by_report", [False, True])
async def test_media_to_an_address_that_never_answers_ends_after_10_s(by_report: bool) -> None:
    """It may be anybody's: a description can name whom it likes."""
    async with Line() as line:
        await line.connect()
        line.leg.play(np.full(FORMAT.frame_samples, 0.5, np.float32))
        await line.frame()
        sent = 0
        for _ in range(600):
            line.run(1)
            sent += len(line.phone.packets())
        assert sent == round(UNCONFIRMED_S * 50) - 1
        if by_report:
            line.phone.rtcp.sendto(rtcp.compound(1, b"x", None, []), line.phone.rtcp_target)
        else:
            line.phone.say(np.zeros(160, np.float32))
        line.run(4)
        assert [packet.marker for packet in line.phone.packets(4)] == [1, 0, 0, 0]


async def test_an_answer_in_two_codecs_is_heard_in_both() -> None:
    """Many answer with all that they know, and send what suits them (RFC 3264, section 6.1)."""
    async with Line(PCMA) as line:
        line.phone.read(await line.leg.offer())
        await line.leg.accepted(line.phone.sdp("a=rtpmap:0 PCMU/8000", formats="0 8 101"))
        line.talk()
        exchanges = await line.frames(10, echo=True)
        assert all(loudness(exchange.heard) > 0.1 for exchange in exchanges[2:])
        assert {packet.payload_type for packet in line.phone.packets(40)} == {0}
        line.phone.codec, line.phone.encode = PCMU, PCMU.make_encoder()
        line.talk()
        exchanges = await line.frames(10, echo=True)
        assert all(loudness(exchange.heard) > 0.1 for exchange in exchanges[2:])
        assert line.leg.stats.packets_dropped == 0


async def test_reports_from_signalling_do_not_confirm_an_address_elsewhere() -> None:
    """Else a caller could turn us on whom it likes and keep us going with a report now and then."""
    async with Line() as line:
        victim = Phone(host="127.0.0.2")
        answer = await line.leg.answer(line.phone.sdp(port=victim.port, address="127.0.0.2"))
        line.phone.read(answer)
        await line.frame()
        sent = 0
        for tick in range(600):
            if tick % 50 == 0:
                line.phone.rtcp.sendto(rtcp.compound(1, b"x", None, []), line.phone.rtcp_target)
            line.run(1)
            sent += len(victim.packets())
        assert sent < UNCONFIRMED_S * 50
        victim.close()


async def test_a_call_that_is_confirmed_is_not_so_at_another_address() -> None:
    async with Line() as line:
        await line.connect()
        line.talk()
        await line.frames(4, echo=True)
        line.hush()
        victim = Phone(host="127.0.0.2")
        line.phone.read(await line.leg.answer(line.phone.sdp(port=victim.port, address="127.0.0.2")))
        await line.frame()
        sent = 0
        for _ in range(600):
            line.run(1)
            sent += len(victim.packets())
        assert 0 < sent <= UNCONFIRMED_S * 50
        victim.close()


@pytest.mark.parametrize(
    ("before", "after"), [(PCMU, G722), (G722, PCMA), (PCMA, OPUS), (OPUS, PCMU)], ids=lambda codec: codec.name
)
async def test_another_codec_in_mid_call(before: Codec, after: Codec) -> None:
    async with Line(before) as line:
        await line.connect()
        line.talk()
        await line.frames(10, echo=True)
        old = line.phone.packets(40)
        line.phone.codec = after
        line.phone.encode, line.phone.decode = after.make_encoder(), after.make_decoder()
        await line.connect()
        line.talk()
        exchanges = await line.frames(10, echo=True)
        assert all(loudness(exchange.heard) > 0.1 for exchange in exchanges[2:])
        packets = line.phone.packets(40)
        assert {packet.payload_type for packet in packets} == {after.payload_type}
        assert {packet.ssrc for packet in packets} == {old[0].ssrc}
        assert (packets[0].timestamp - old[-1].timestamp) & 0xFFFFFFFF == before.timestamp_step
        assert loudness(line.phone.hear(packets[12:])) > 0.1
        assert line.leg.stats.codec == after.name


async def test_the_old_codec_is_heard_until_the_new_one_comes() -> None:
    """The far end goes on with it until our answer is there (RFC 3264, section 8.3.2)."""
    async with Line() as line:
        await line.connect()
        line.talk()
        await line.frames(5)
        old, line.phone.codec = line.phone.codec, G722
        await line.connect()
        line.phone.codec = old
        exchanges = await line.frames(3)
        assert all(loudness(exchange.heard) > 0.15 for exchange in exchanges)
        line.phone.codec, line.phone.encode = G722, G722.make_encoder()
        line.talk()
        exchanges = await line.frames(5)
        assert all(loudness(exchange.heard) > 0.15 for exchange in exchanges[1:])
        assert line.leg.stats.packets_dropped == 0
        line.phone.send(bytes([0xFF]) * 160, kind=0)  # a straggler
        line.run(1)
        assert line.leg.stats.dropped_by_reason == {"unknown payload type": 1}


@pytest.mark.parametrize(
    "offer",
    [
        "nonsense",
        "v=0\r\nc=IN IP4 127.0.0.1\r\nm=audio 4000 RTP/AVP 18\r\n",
        "v=0\r\nc=IN IP4 127.0.0.1\r\nm=audio 4000 RTP/SAVP 0\r\n",
        "v=0\r\nc=IN IP4 224.0.0.1\r\nm=audio 4000 RTP/AVP 0\r\n",
        "v=0\r\nc=IN IP4 127.0.0.1\r\nm=image 4000 udptl t38\r\n",
    ],
)
async def test_what_was_agreed_stands_when_a_change_is_refused(offer: str) -> None:
    async with Line() as line:
        first = await line.connect()
        line.talk()
        await line.frames(3)
        with pytest.raises(LegError):
            await line.leg.answer(offer)
        exchanges = await line.frames(3)
        assert all(loudness(exchange.heard) > 0.1 for exchange in exchanges)
        assert len(line.phone.packets(24)) == 24
        assert await line.leg.answer(line.phone.sdp()) == first


async def test_a_refused_offer_opens_no_port() -> None:
    async with Line() as line:
        with pytest.raises(LegError):
            await line.leg.answer("nonsense")
        assert line.leg._transport._pair is None and len(line.clock) == 0


@pytest.mark.parametrize("ssrc", [0xABCD, 0x1234])
async def test_the_far_end_moves(ssrc: int) -> None:
    async with Line() as line:
        answer = await line.connect()
        line.talk()
        await line.frames(5)
        moved = Phone()
        moved.read(answer)
        moved.ssrc = ssrc
        moved.sequence, moved.timestamp = line.phone.sequence, line.phone.timestamp
        assert await line.leg.answer(moved.sdp()) == answer
        say = line.each_tick
        line.phone.packets(20)
        line.run(1)
        assert len(moved.packets(1)) == 1 and line.phone.packets() == []
        line.hush()
        blocks = tone(PCMU)

        def both() -> None:  # the old one does not stop at once
            say()
            moved.say(next(blocks))

        line.each_tick = both
        exchanges = await line.frames(5)
        assert all(loudness(exchange.heard) > 0.1 for exchange in exchanges[2:])
        assert line.leg.stats.remote == f"127.0.0.1:{moved.port}"
        moved.close()


async def test_we_offer_and_the_far_end_answers_later() -> None:
    async with Line(PCMA) as line:
        offer = await line.leg.offer()
        assert "RTP/AVP 96 9 0 8 101 102" in offer
        line.phone.read(offer)
        pending = asyncio.ensure_future(line.leg.exchange())
        line.leg.play(np.full(FORMAT.frame_samples, 0.5, np.float32))  # a greeting, before the far end has acknowledged
        await asyncio.sleep(0)
        line.run(50)
        assert not pending.done() and line.phone.packets() == []
        await line.leg.accepted(line.phone.sdp())
        line.run(4)
        exchange = await asyncio.wait_for(pending, 2)
        assert loudness(exchange.played) > 0.3  # and nothing of it was lost meanwhile
        assert {packet.payload_type for packet in line.phone.packets(4)} == {8}


async def test_answers_that_do_not_fit() -> None:
    async with Line() as line:
        with pytest.raises(LegError, match="nothing was offered"):
            await line.leg.accepted(line.phone.sdp())
        await line.leg.offer()
        with pytest.raises(LegError, match="our offer"):
            await line.leg.accepted(line.phone.sdp(formats="18"))
        with pytest.raises(LegError, match="cannot reach"):
            await line.leg.accepted(line.phone.sdp(address="::1"))
        await line.leg.accepted(line.phone.sdp())
        await line.leg.accepted(line.phone.sdp())
        await line.leg.answer(line.phone.sdp())
        with pytest.raises(LegError, match="nothing was offered"):
            await line.leg.accepted(line.phone.sdp())


async def test_our_offer_in_mid_call_changes_nothing_until_it_is_answered() -> None:
    async with Line() as line:
        await line.connect()
        line.talk()
        await line.frames(3)
        offer = await line.leg.offer()
        assert "m=audio" in offer and "RTP/AVP 96 9 0 8 101 102" in offer
        assert loudness((await line.frame()).heard) > 0.1
        await line.leg.accepted(line.phone.sdp("a=inactive"))
        assert line.leg.held


@pytest.mark.skipif(not socket.has_ipv6, reason="this machine has no IPv6")
async def test_ipv6() -> None:
    try:
        line = Line(host="::1")
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    async with line:
        answer = await line.connect()
        assert "c=IN IP6 ::1" in answer
        line.talk()
        assert loudness((await line.frames(3))[-1].heard) > 0.1
        assert line.leg.stats.remote == f"[::1]:{line.phone.port}"
        assert len(line.phone.packets(12)) == 12


async def test_media_over_the_other_ip_version_than_signalling() -> None:
    """And a change to it in mid-call: the sockets are replaced, the call's time goes on."""
    async with Line() as line:
        try:
            other = Phone(host="::1")
        except OSError:
            pytest.skip("this machine has no IPv6 loopback")
        await line.connect()
        await line.frame()
        answer = await line.leg.answer(other.sdp())
        assert "c=IN IP6 ::1" in answer
        other.read(answer)
        blocks = tone(PCMU)
        line.each_tick = lambda: other.say(next(blocks))
        exchanges = await line.frames(4)
        assert loudness(exchanges[-1].heard) > 0.1 and not exchanges[-1].skipped
        assert len(other.packets(16)) == 16
        other.close()


# --- we hold -------------------------------------------------------------------------------------------------------


async def test_we_hold_and_resume() -> None:
    """Nothing is heard meanwhile; what we play leaves; the far end's refreshes do not end it."""
    async with Line() as line:
        await line.connect()
        line.talk()
        await line.frames(5, echo=True)
        offer = await line.leg.offer(hold=True)
        assert "a=sendonly" in offer
        assert all(loudness(exchange.heard) > 0.1 for exchange in await line.frames(2))  # it is not agreed yet
        await line.leg.accepted(line.phone.sdp("a=recvonly"))
        assert not line.leg.held
        line.phone.packets()
        await line.frames(3)
        for _ in range(2):
            line.leg.play(np.full(FORMAT.frame_samples, 0.3, np.float32))
            exchange = await line.frame()
            assert not exchange.heard.any() and not exchange.held
        assert loudness(line.phone.hear(line.phone.packets(20)[-4:])) > 0.2
        assert "a=sendonly" in await line.leg.answer(line.phone.sdp("a=sendrecv"))
        assert not (await line.frames(3))[-1].heard.any()
        assert "a=sendonly" in await line.leg.offer()  # the far end wants an offer: it stays as it is
        await line.leg.accepted(line.phone.sdp("a=sendrecv"))
        assert not (await line.frames(3))[-1].heard.any()
        assert "a=sendrecv" in await line.leg.offer(hold=False)
        await line.leg.accepted(line.phone.sdp())
        exchanges = await line.frames(5)
        assert loudness(exchanges[-1].heard) == pytest.approx(0.177, abs=0.01)
        assert line.leg.stats.frames_concealed == 0


async def test_a_far_end_that_we_hold_is_not_missed() -> None:
    async with Line() as line:
        await line.connect()
        await line.frame()
        await line.leg.offer(hold=True)
        await line.leg.accepted(line.phone.sdp("a=recvonly"))
        line.run(round(FIRST_PACKET_S * 50) + 100)
        assert not line.leg._lost.done()


async def test_a_hold_that_is_refused_is_none() -> None:
    async with Line() as line:
        await line.connect()
        line.talk()
        await line.frames(3)
        await line.leg.offer(hold=True)
        with pytest.raises(LegError, match="refuses our audio"):
            await line.leg.accepted(line.phone.sdp(port=0))
        assert loudness((await line.frames(2))[-1].heard) > 0.1
        assert "a=sendrecv" in await line.leg.answer(line.phone.sdp())
