"""The RTP leg against a telephone that encrypts, under a made-up clock."""

from __future__ import annotations

import asyncio
import logging

import numpy as np
import pytest
from aiortc.rtp import RtcpPacket, RtcpSrPacket, RtpPacket

from media.clock import TICK_S
from media.codec import PCMA, PCMU
from media.crypto import SUITES, Crypto
from media.dtmf import Event
from media.leg import LegError
from media.receiver import FIRST_PACKET_S, FORGERIES
from media.rtcp import INTERVAL_S, compound
from media.sdp import parse
from media.srtp import OVERLAP_S
from tests.media.line import Line, Phone, SecurePhone, drain, loudness, tone

CM_80, CM_32, GCM_128, GCM_256 = SUITES
LOUD = pytest.approx(0.177, abs=0.005)


@pytest.fixture
def phone() -> SecurePhone:
    return SecurePhone(CM_80)


def secured(phone: SecurePhone) -> Line:
    return Line(phone=phone)


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the operator reads in the log."""
    ours = [record for record in caplog.records if record.name.startswith("media")]
    return [record.getMessage() for record in ours if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("profile", ["RTP/SAVP", "RTP/SAVPF", "RTP/AVP"])
@pytest.mark.parametrize("suite", SUITES)
async def test_an_encrypted_echo_through_a_wrap_of_both_counts(suite: str, profile: str) -> None:
    phone = SecurePhone(suite, profile=profile)
    async with secured(phone) as line:
        line.leg._sender.sequence = 65_500  # the phone's own count wraps too
        answer = await line.connect()
        assert parse(answer).media[0].profile == profile
        line.talk()
        exchanges = await line.frames(15, echo=True)
        packets = phone.packets(60)
        assert len(packets) == 60 and not phone.deaf
        assert loudness(phone.hear(packets[20:])) == LOUD
        assert [loudness(exchange.heard) for exchange in exchanges[2:]] == [LOUD] * 13
        stats = line.leg.stats
        assert stats.encryption == (suite,)
        assert (stats.packets_received, stats.packets_sent, stats.packets_dropped) == (60, 60, 0)


async def test_nothing_leaves_in_clear(phone: SecurePhone) -> None:
    async with secured(phone) as line:
        await line.connect()
        await line.frames(3)
        line.run(round(2 * INTERVAL_S / TICK_S))
        quiet = PCMU.make_encoder()(np.zeros(160, np.float32))
        for data in drain(phone.rtp, 12):
            assert len(data) == 12 + 160 + 10 and quiet[:40] not in data
        for data in drain(phone.rtcp, 1):
            with pytest.raises(ValueError):
                RtcpPacket.parse(data)


async def test_a_plain_call_is_told_as_one() -> None:
    async with Line() as line:
        assert not line.leg.stats.encryption
        await line.connect()
        assert line.leg.stats.encryption == ("none",)


async def test_our_first_packet_numbers_leave_room_before_the_wrap() -> None:
    for _ in range(20):
        async with Line() as line:
            assert line.leg._sender.sequence < 2**15


# --- whose packets count -------------------------------------------------------------------------------------------


async def test_what_does_not_authenticate_is_counted_and_not_heard(
    phone: SecurePhone, caplog: pytest.LogCaptureFixture
) -> None:
    """Plain RTP, a changed packet, and one under another key: 60 each, from the phone's own address."""
    async with secured(phone) as line:
        await line.connect()
        line.talk()
        say, other = line.each_tick, SecurePhone(CM_80)
        noise = PCMU.make_encoder()(np.random.default_rng(1).uniform(-1, 1, 160).astype(np.float32))

        def both() -> None:
            plain = RtpPacket(0, 0, phone.sequence, phone.timestamp, phone.ssrc, noise).serialize()
            phone.raw(plain)
            phone.raw(other.protect(plain))
            phone.raw(plain + bytes(10))
            say()

        line.each_tick = both
        exchanges = await line.frames(15)
        other.close()
        assert [loudness(exchange.heard) for exchange in exchanges[2:]] == [LOUD] * 13
        assert line.leg.stats.dropped_by_reason == {"SRTP not authentic": 180}
        assert not told(caplog)  # never so many in a row


async def test_a_replay_is_counted_and_not_heard(phone: SecurePhone) -> None:
    async with secured(phone) as line:
        await line.connect()
        blocks, sent = tone(PCMU), []

        def say_twice() -> None:
            packet = RtpPacket(0, 0, phone.sequence, phone.timestamp, phone.ssrc, phone.encode(next(blocks)))
            phone.sequence, phone.timestamp = (phone.sequence + 1) & 0xFFFF, (phone.timestamp + 160) & 0xFFFFFFFF
            sent.append(phone.protect(packet.serialize()))
            phone.raw(sent[-1])
            phone.raw(sent[max(0, len(sent) - 5)])

        line.each_tick = say_twice
        exchanges = await line.frames(15)
        assert [loudness(exchange.heard) for exchange in exchanges[2:]] == [LOUD] * 13
        stats = line.leg.stats
        assert (stats.packets_received, stats.packets_duplicate) == (60, 0)
        assert stats.dropped_by_reason == {"SRTP replayed": 60}


async def test_the_latch_believes_nobody_without_the_key(phone: SecurePhone) -> None:
    """The described port is nobody's; plain packets come before the phone's, from its address."""
    async with secured(phone) as line:
        answer = await line.leg.answer(phone.sdp(port=9))
        phone.read(answer)
        stranger = Phone()
        stranger.read(answer)
        blocks = tone(PCMU)
        line.each_tick = lambda: stranger.say(next(blocks))
        await line.frames(2)
        assert line.leg.stats.remote == "127.0.0.1:9"
        assert line.leg.stats.packets_received == 0
        line.talk()
        await line.frames(2)
        stranger.close()
        assert line.leg.stats.remote == f"127.0.0.1:{phone.port}"
        assert len(phone.packets(7)) >= 7


async def test_a_wrong_key_is_told_of_once_and_is_the_reason_of_the_end(
    phone: SecurePhone, caplog: pytest.LogCaptureFixture
) -> None:
    async with secured(phone) as line:
        await line.connect()
        phone.change(CM_80)  # but nobody was told
        line.talk()
        await line.frame()
        lost = asyncio.ensure_future(line.leg.lost())
        line.run(round(FIRST_PACKET_S / TICK_S) + 50)
        reason = await asyncio.wait_for(lost, 5)
        assert "no RTP came from 127.0.0.1" in reason
        assert reason.endswith("; 1500 packets did not fit the key of its SDP")
        forged, silent = told(caplog)
        assert (
            forged == f"x RTP from 127.0.0.1:{phone.port}: {FORGERIES} packets in a row, the last: SRTP not authentic"
        )
        assert " in 5 s; " in silent and silent.endswith("; 250 packets did not fit the key of its SDP")
        assert line.leg.stats.packets_received == 0


async def test_a_flood_of_forgeries_between_good_packets_does_not_fill_the_log(
    phone: SecurePhone, caplog: pytest.LogCaptureFixture
) -> None:
    async with secured(phone) as line:
        await line.connect()
        await line.frame()
        blocks = tone(PCMU)
        for _ in range(3):
            for _ in range(FORGERIES + 10):
                phone.raw(bytes([0x80, 0]) + bytes(170))
            line.run(2)
            phone.say(next(blocks))
            line.run(1)
        assert line.leg.stats.packets_received == 3
        assert len(told(caplog)) == 1


# --- digits, reports, holds ----------------------------------------------------------------------------------------


async def test_digits_both_ways(phone: SecurePhone) -> None:
    async with secured(phone) as line:
        await line.connect()
        await line.frame()
        for step in range(4):
            event = Event(7, step == 3, 160 * (step + 1))
            phone.send(bytes(event), kind=101, marker=step == 0, advance=False)
            line.run(1)
        digit = await asyncio.wait_for(anext(line.leg.digits()), 5)
        assert digit.key == "7"
        pressing = asyncio.ensure_future(line.leg.send_digits("#"))
        await line.frames(5)
        await asyncio.wait_for(pressing, 5)
        events = [packet.payload for packet in phone.packets(20) if packet.payload_type == 101]
        assert len(events) == 7
        assert {payload[0] for payload in events} == {11}


@pytest.mark.parametrize(("suite", "mux"), [(CM_80, False), (CM_32, False), (GCM_128, True), (GCM_256, True)])
async def test_reports_both_ways(suite: str, mux: bool) -> None:
    phone = SecurePhone(suite)
    async with secured(phone) as line:
        answer = await line.connect(*(["a=rtcp-mux"] if mux else []))
        assert ("a=rtcp-mux" in answer) is mux
        line.talk()
        line.run(1)
        await line.frames(20)
        line.run(round(2 * INTERVAL_S / TICK_S))
        if mux:
            data = [data for data in drain(phone.rtp, 1) if 192 <= data[1] <= 223]
            reports = [phone._in.unprotect_rtcp(report) for report in data]
        else:
            reports = phone.reports(1)
        first = RtcpPacket.parse(reports[0])[0]
        assert isinstance(first, RtcpSrPacket) and first.sender_info.packet_count > 20
        rtcp = phone.rtp if mux else phone.rtcp
        target = phone.target if mux else phone.rtcp_target
        report = compound(phone.ssrc, b"phone", None, [])
        sealed = phone._out.protect_rtcp(report)
        before = line.leg._receiver._rtcp_source
        rtcp.sendto(report, target)
        line.run(1)
        assert line.leg.stats.dropped_by_reason == {"SRTP not authentic": 1}
        assert line.leg._receiver._rtcp_source == before
        rtcp.sendto(sealed, target)
        rtcp.sendto(sealed, target)
        line.run(1)
        assert line.leg.stats.dropped_by_reason == {"SRTP not authentic": 1, "SRTP replayed": 1}
        assert line.leg._receiver._rtcp_source == rtcp.getsockname()


@pytest.mark.parametrize("how", ["a=sendonly", "a=inactive", "c=IN IP4 0.0.0.0"])
async def test_hold_and_resume_keep_the_keys_and_the_counts(how: str, phone: SecurePhone) -> None:
    async with secured(phone) as line:
        line.leg._sender.sequence = 65_520
        await line.connect()
        keys = phone.theirs
        line.talk()
        await line.frames(10, echo=True)
        for _ in range(3):
            phone.read(await line.leg.answer(phone.sdp(how)))
            assert (await line.frames(3))[-1].held
            await line.connect()
            exchanges = await line.frames(6, echo=True)
            assert loudness(exchanges[-1].heard) == LOUD
        assert phone.theirs == keys
        assert loudness(phone.hear(phone.packets(100)[-8:])) == LOUD
        assert not phone.deaf and not line.leg.stats.packets_dropped
        assert line.leg.stats.encryption == (CM_80,)


# --- other keys ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suite", [CM_80, GCM_256])
async def test_another_key_in_mid_call_leaves_no_gap(suite: str, phone: SecurePhone) -> None:
    """The phone goes on under its old key until it has our answer, which takes 200 ms; what it hears never stops."""
    async with secured(phone) as line:
        await line.connect()
        ours = phone.theirs
        line.talk()
        await line.frames(10, echo=True)
        for tag in range(2, 5):
            old = phone._out
            phone.change(suite, tag)
            new, phone._out = phone._out, old
            answer = await line.leg.answer(phone.sdp())
            phone.packets()  # all of before, under our key of before
            phone.read(answer)
            exchanges = await line.frames(3, echo=True)
            phone._out = new
            exchanges += await line.frames(10, echo=True)
            assert [loudness(exchange.heard) for exchange in exchanges] == [LOUD] * 13
            assert phone.theirs is not None and ours is not None
            assert (phone.theirs.tag, phone.theirs.suite) == (tag, suite)
            assert (phone.theirs.key == ours.key) is (suite == CM_80)
        assert loudness(phone.hear(phone.packets(10)[-8:])) == LOUD
        stats = line.leg.stats
        assert not phone.deaf
        assert (stats.packets_dropped, stats.packets_lost, stats.frames_concealed) == (0, 0, 0)
        assert stats.encryption == (CM_80, suite)[suite == CM_80 :]


async def test_a_key_that_was_replaced_does_not_count_for_ever(phone: SecurePhone) -> None:
    async with secured(phone) as line:
        await line.connect()
        line.talk()
        await line.frames(3)
        old = phone._out
        phone.change(CM_80, 2)
        phone._out = old
        phone.read(await line.leg.answer(phone.sdp()))
        await line.frames(3)
        assert not line.leg.stats.packets_dropped
        line.run(round(OVERLAP_S / TICK_S))
        dropped = line.leg.stats.packets_dropped
        line.run(50)
        assert line.leg.stats.dropped_by_reason["SRTP not authentic"] == dropped + 50


async def test_another_party_is_heard_and_hears_after_our_count_has_wrapped(phone: SecurePhone) -> None:
    """A transfer: another phone, elsewhere, which has no part in what was before."""
    async with secured(phone) as line:
        line.leg._sender.sequence = 65_530
        await line.connect()
        line.talk()
        await line.frames(10, echo=True)
        second = SecurePhone(CM_80)
        second.ssrc = 0x1234
        second.read(await line.leg.answer(second.sdp()))
        blocks = tone(PCMU)
        line.each_tick = lambda: second.say(next(blocks))
        exchanges = await line.frames(10, echo=True)
        assert loudness(exchanges[-1].heard) == LOUD
        assert loudness(second.hear(second.packets(40)[-8:])) == LOUD
        assert not second.deaf and second.theirs != phone.theirs
        second.close()


async def test_from_plain_to_encrypted_and_back() -> None:
    phone = SecurePhone(CM_80)
    async with secured(phone) as line:
        plain = Phone()
        answer = await line.leg.answer(plain.sdp())
        plain.read(answer)
        blocks = tone(PCMU)
        line.each_tick = lambda: plain.say(next(blocks))
        assert loudness((await line.frames(5))[-1].heard) == LOUD
        await line.connect()
        plain.say(next(blocks))  # still plain: it does not count
        line.talk()
        exchanges = await line.frames(30, echo=True)
        assert loudness(exchanges[-1].heard) == LOUD
        assert loudness(phone.hear(phone.packets(20)[-8:])) == LOUD
        plain.read(await line.leg.answer(plain.sdp()))
        line.each_tick = lambda: plain.say(next(blocks))
        exchanges = await line.frames(30, echo=True)
        assert loudness(exchanges[-1].heard) == LOUD
        assert loudness(plain.hear(plain.packets(20)[-8:])) == LOUD
        assert line.leg.stats.encryption == ("none", CM_80, "none")
        plain.close()


# --- refusals and offers -------------------------------------------------------------------------------------------


async def test_a_refused_change_leaves_keys_as_they_were(phone: SecurePhone) -> None:
    async with secured(phone) as line:
        await line.connect()
        line.talk()
        await line.frames(3)
        bad = phone.sdp().replace("inline:", "inline:AAAA")
        with pytest.raises(LegError, match="33 bytes, not 30"):
            await line.leg.answer(bad)
        exchanges = await line.frames(5, echo=True)
        assert loudness(exchanges[-1].heard) == LOUD
        phone.packets(20)
        assert not phone.deaf and not line.leg.stats.packets_dropped


async def test_policies_of_a_leg(phone: SecurePhone) -> None:
    async with Line(phone=phone, srtp="off") as line:
        with pytest.raises(LegError, match="'RTP/SAVP'; this agent speaks RTP/AVP"):
            await line.connect()
        assert not line.leg._transport.is_open
    async with Line(srtp="demand") as line:
        with pytest.raises(LegError, match="RTP/AVP, without a=crypto; this agent demands encryption"):
            await line.connect()
        assert not line.leg._transport.is_open


async def test_we_offer_encryption_where_it_is_demanded() -> None:
    phone = SecurePhone(GCM_128)
    async with Line(phone=phone, srtp="demand") as line:
        offer = await line.leg.offer()
        phone.read(offer)
        lines = [Crypto.parse(value) for name, value in parse(offer).media[0].attributes if name == "crypto"]
        chosen = next(crypto for crypto in lines if crypto.suite == GCM_128)
        phone.change(GCM_128, chosen.tag)
        phone.read(offer.replace(f"a=crypto:{lines[0].attribute()}\r\n", ""))
        assert phone.theirs == chosen
        await line.leg.accepted(phone.sdp())
        line.talk()
        exchanges = await line.frames(10, echo=True)
        assert loudness(exchanges[-1].heard) == LOUD
        assert loudness(phone.hear(phone.packets(40)[-8:])) == LOUD
        assert line.leg.stats.encryption == (GCM_128,)
        again = await line.leg.offer()  # in mid-call: the key that it has
        phone.read(again)
        assert phone.theirs == chosen
        phone.codec, phone.encode, phone.decode = PCMA, PCMA.make_encoder(), PCMA.make_decoder()
        await line.leg.accepted(phone.sdp())
        exchanges = await line.frames(10, echo=True)
        assert loudness(exchanges[-1].heard) == LOUD
        assert loudness(phone.hear(phone.packets(40)[-8:])) == LOUD
        assert not phone.deaf
