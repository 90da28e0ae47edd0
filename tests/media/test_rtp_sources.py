"""Who may send to an RTP leg, and what becomes of the rest."""

from __future__ import annotations

import asyncio
import logging

import numpy as np
import pytest
from aiortc.rtp import (
    RtpPacket,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from media.codec import OPUS, PCMU, Codec
from media.receiver import MOST_CHANGES
from media.transport import MAX_READS
from tests.media.line import FORMAT, Line, Phone, loudness
from tests.media.waiting import until


async def test_300_foreign_packets_are_dropped_and_nobody_hears_them() -> None:
    async with Line() as line:
        answer = await line.connect()
        stranger = Phone(host="127.0.0.2")
        stranger.read(answer)
        line.talk()
        noise = np.random.default_rng(1).uniform(-1, 1, 160).astype(np.float32)
        say = line.each_tick

        def both() -> None:
            say()
            for _ in range(6):
                stranger.say(noise)

        line.each_tick = both
        exchanges = await line.frames(13)
        line.each_tick = say
        exchanges += await line.frames(10)
        stranger.close()
        assert line.leg.stats.dropped_by_reason == {"foreign source": 312}
        assert line.leg.stats.remote == f"127.0.0.1:{line.phone.port}"
        assert [loudness(exchange.heard) for exchange in exchanges[2:]] == pytest.approx([0.177] * 21, abs=0.005)
        assert len(line.phone.packets(92)) == 92


async def test_behind_address_translation_the_source_of_the_first_packet_counts() -> None:
    async with Line() as line:
        answer = await line.leg.answer(line.phone.sdp(port=9, address="127.0.0.3"))  # its private address
        line.phone.read(answer)
        line.talk()
        await line.frames(3)
        assert line.leg.stats.remote == f"127.0.0.1:{line.phone.port}"
        assert len(line.phone.packets(11)) >= 11


async def test_another_source_from_the_far_end_is_heard_at_once() -> None:
    async with Line() as line:
        await line.connect()
        line.talk()
        await line.frames(10)
        line.phone.ssrc, line.phone.sequence, line.phone.timestamp = 0x77, 3, 12345
        exchanges = await line.frames(5)
        assert all(loudness(exchange.heard) > 0.1 for exchange in exchanges[1:])
        stats = line.leg.stats
        assert (stats.packets_lost, stats.packets_late, stats.packets_dropped) == (0, 0, 0)


def torn(line: Line) -> list[tuple[str, bytes]]:
    whole = RtpPacket(0, 0, 5, 5, 5, bytes(160)).serialize()
    return [
        ("not RTP", b""),
        ("not RTP", whole[:11]),
        ("not RTP", bytes([0x40]) + whole[1:]),  # version 1
        ("not RTP", bytes([0x8F]) + whole[1:40]),  # 15 sources that are not there
        ("not RTP", bytes([0xA0]) + whole[1:]),  # padding of 0 bytes
        ("not RTP", b"\x00\x01\x00\x00\x21\x12\xa4\x42" + bytes(12)),  # STUN
        ("unknown payload type", RtpPacket(18, 0, 5, 5, 5, b"x").serialize()),
        ("empty", RtpPacket(0, 0, 5, 5, 5, b"").serialize()),
        ("torn telephone-event", RtpPacket(101, 0, 5, 5, 5, b"\x05\x0a").serialize()),
        ("not RTCP", b"\x80\xc8\x00\x01" + bytes(4)),
    ]


@pytest.mark.parametrize("number", range(10))
async def test_every_drop_has_a_reason(number: int) -> None:
    async with Line() as line:
        await line.connect()
        await line.frame()
        reason, data = torn(line)[number]
        line.phone.raw(data)
        line.run(1)
        assert line.leg.stats.dropped_by_reason == {reason: 1}
        assert line.leg.stats.packets_dropped == 1


async def test_packets_before_the_answer_are_dropped() -> None:
    async with Line() as line:
        line.phone.read(await line.leg.offer())
        line.talk()
        line.run(3)
        await until(lambda: line.leg.stats.packets_dropped == 3)  # it is the loop that reads these, not the wheel
        assert line.leg.stats.dropped_by_reason == {"before the answer": 3}


async def test_what_the_playout_does_not_play_has_a_reason_too() -> None:
    async with Line() as line:
        await line.connect()
        line.talk()
        await line.frames(3)
        line.phone.ssrc = 5
        for _ in range(50):  # as no network brings them: all at once, from another source
            line.each_tick()
        line.run(3)
        stats = line.leg.stats
        assert stats.dropped_by_reason.keys() == {"backlog"}
        assert 40 < stats.dropped_by_reason["backlog"] == stats.packets_dropped < 50
        line.leg.play(np.zeros(2 * FORMAT.sample_rate, np.float32))
        assert line.leg.stats.samples_dropped >= FORMAT.sample_rate


async def test_a_flood_does_not_hold_up_the_wheel() -> None:
    async with Line() as line:
        await line.connect()
        await line.frame()
        for _ in range(200):
            line.phone.raw(b"flood")
        line.run(1)
        assert line.leg.stats.dropped_by_reason == {"not RTP": MAX_READS}
        assert len(line.phone.packets(5)) == 5


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 63), st.binary(max_size=300)), max_size=30), st.booleans())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_datagrams_leave_the_leg_whole(datagrams: list[tuple[bool, int, bytes]], shaped: bool) -> None:
    async def play() -> None:
        async with Line() as line:
            await line.connect()
            await line.frame()
            for to_rtcp, flags, data in datagrams:
                head = bytes([0x80 | flags, 200 + len(data) % 4 if to_rtcp else (0, 13, 101)[len(data) % 3]])
                target = line.phone.rtcp_target if to_rtcp else line.phone.target
                (line.phone.rtcp if to_rtcp else line.phone.rtp).sendto(head + data if shaped else data, target)
            line.run(4)
            line.talk()
            exchanges = await line.frames(12)
            assert all(np.isfinite(exchange.heard).all() for exchange in exchanges)
            assert line.clock.failures == 0
            line.phone.packets(52)

    asyncio.run(play())


@pytest.mark.parametrize(("codec", "kind"), [(PCMU, 13), (PCMU, 98), (OPUS, 13)], ids=["static", "dynamic", "unasked"])
async def test_comfort_noise_is_silence_and_nothing_is_concealed(codec: Codec, kind: int) -> None:
    """RFC 3389: a packet says that there is silence from here on; then, for a while, none comes."""
    async with Line(codec) as line:
        formats = f"{codec.payload_type} 101" + (f" {kind}" if codec is PCMU else "")
        answer = await line.connect(*(["a=rtpmap:98 CN/8000"] if kind == 98 else []), formats=formats)
        assert (f"a=rtpmap:{kind} CN/8000" in answer) is (codec is PCMU)
        line.talk()
        await line.frames(10)
        line.hush()
        line.phone.send(b"\x40", kind, advance=False)
        exchanges = await line.frames(10)
        assert not exchanges[-1].heard.any() and not any(exchange.concealed for exchange in exchanges)
        line.phone.timestamp = (line.phone.timestamp + 40 * codec.timestamp_step) & 0xFFFFFFFF
        line.talk()
        exchanges = await line.frames(6)
        assert loudness(exchanges[-1].heard) == pytest.approx(0.177, abs=0.01)
        stats = line.leg.stats
        assert (stats.packets_lost, stats.frames_concealed, stats.packets_dropped) == (0, 0, 0)


async def test_a_source_a_packet_is_no_new_stream_each_time(caplog: pytest.LogCaptureFixture) -> None:
    """A few are believed, for that is what a transfer looks like; what is heard then stays."""
    caplog.set_level(logging.INFO)
    async with Line() as line:
        await line.connect()
        line.talk()
        await line.frames(5)
        line.hush()
        sequence = 0
        for ssrc in range(1, 200):
            line.phone.raw(RtpPacket(0, 0, (sequence := sequence + 1), 0, ssrc, b"\xff" * 160).serialize())
        line.run(10)
        assert line.leg.stats.dropped_by_reason == {"too many sources": 199 - MOST_CHANGES}
        assert sum("has a new source" in record.message for record in caplog.records) == MOST_CHANGES
        line.talk()
        line.run(60)
        exchanges = await line.frames(10)
        assert loudness(exchanges[-1].heard) == pytest.approx(0.177, abs=0.01)
