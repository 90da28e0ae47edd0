"""The RTP leg against a telephone of raw sockets, under a made-up clock."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from aiortc.rtp import (
    RtcpByePacket,
    RtcpReceiverInfo,
    RtcpRrPacket,
    RtcpSdesPacket,
    RtcpSenderInfo,
    RtcpSrPacket,
    RtpPacket,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from media import rtcp
from media.clock import CATCH_UP_TICKS
from media.codec import CODECS, G722, PCMA, PCMU, Codec
from media.dtmf import Event
from media.incoming import MAX_WAITING
from media.leg import Digit, Exchange, Leg, LegError, Pcm
from media.receiver import FIRST_PACKET_S, SILENT_S, UNCONFIRMED_S
from media.rtp import KEEP_ALIVE_S, MAX_MISSED_TICKS
from media.transport import MAX_READS
from tests.media.line import FORMAT, FRAME_S, Line, Phone, drain, loudness, tone

QUIET = 0.01


async def soon(task: asyncio.Future[str]) -> str:
    async with asyncio.timeout(5):
        return await task


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop read its sockets until something has come of it."""
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0)


async def keys(line: Line, count: int) -> list[Digit]:
    """The next digits of the leg, which are there already or never."""
    async with asyncio.timeout(5):
        digits = line.leg.digits()
        return [await anext(digits) for _ in range(count)]


def audio(packets: list[RtpPacket]) -> list[RtpPacket]:
    return [packet for packet in packets if packet.payload_type in (0, 8, 9)]


# --- the call's time -----------------------------------------------------------------------------------------------


async def test_it_is_a_leg() -> None:
    async with Line() as line:
        leg: Leg = line.leg
        assert not leg.held and leg.stats.codec == ""


async def test_a_frame_each_80_ms_whatever_comes_in() -> None:
    async with Line() as line:
        await line.connect()
        for _ in range(50):
            before = line.timers.now
            exchange = await line.frame()
            assert line.timers.now - before == pytest.approx(FRAME_S)
            assert exchange.heard.shape == exchange.played.shape == (FORMAT.frame_samples,)
            assert not exchange.heard.any() and not exchange.held and not exchange.skipped


async def test_time_begins_with_the_first_exchange_and_nothing_is_sent_before() -> None:
    async with Line() as line:
        await line.connect()
        line.talk()
        line.run(100)
        assert line.phone.packets() == []
        first = await line.frame()
        assert first.skipped == 0
        assert len(line.phone.packets(4)) == 4


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
async def test_an_echo_comes_back_with_a_frames_delay(codec: Codec) -> None:
    async with Line(codec) as line:
        await line.connect()
        line.talk()
        exchanges = await line.frames(25, echo=True)
        packets = line.phone.packets(100)
        assert len(packets) == 100
        assert loudness(line.phone.hear(packets[20:])) == pytest.approx(0.25 / np.sqrt(2), rel=0.03)
        assert all(loudness(exchange.heard) == pytest.approx(0.177, abs=0.005) for exchange in exchanges[2:])
        stats = line.leg.stats
        assert (stats.codec, stats.remote) == (codec.name, f"127.0.0.1:{line.phone.port}")
        assert (stats.packets_received, stats.packets_sent) == (100, 100)
        assert (stats.packets_lost, stats.packets_dropped, stats.samples_padded) == (0, 0, 0)


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
async def test_the_fourth_packet_completes_a_frame(codec: Codec) -> None:
    async with Line(codec) as line:
        await line.connect()
        line.talk()
        await line.frames(5)
        pending = asyncio.ensure_future(line.leg.exchange())
        await asyncio.sleep(0)
        line.run(3)
        await asyncio.sleep(0)
        assert not pending.done()
        line.run(1)
        exchange = await asyncio.wait_for(pending, 2)
        assert loudness(exchange.heard[-100:]) > 0.1


async def test_played_is_what_left_in_the_same_time() -> None:
    async with Line() as line:
        await line.connect()
        noise = np.random.default_rng(1).uniform(-0.3, 0.3, (10, FORMAT.frame_samples // 3)).astype(np.float32)
        heard, played = [], []
        for block in noise:
            line.leg.play(np.repeat(block, 3))
            exchange = await line.frame()
            played.append(exchange.played)
            heard.append(line.phone.hear(line.phone.packets(4)))
        at_8_khz = np.concatenate(played).reshape(-1, 3).mean(axis=1)
        assert not at_8_khz[:160].any() and loudness(at_8_khz[160:]) > 0.1  # 20 ms of lead, then what we said
        delay = np.argmax(np.correlate(np.concatenate(heard), at_8_khz[:4000], "valid"))
        assert delay <= 20  # the resampler's own 2 ms


async def test_a_late_reader_finds_the_newest_frames_and_a_count_of_the_others() -> None:
    async with Line() as line:
        await line.connect()
        line.talk()
        await line.frame()
        line.run(4 * 10)
        async with asyncio.timeout(5):
            exchanges = [await line.leg.exchange() for _ in range(MAX_WAITING)]
        assert [exchange.skipped for exchange in exchanges] == [7 * FORMAT.frame_samples, 0, 0]
        assert (await line.frame()).skipped == 0
        assert line.leg.stats.frames_skipped == 7


async def test_loss_is_concealed_and_counted() -> None:
    async with Line() as line:
        await line.connect()
        line.talk()
        await line.frames(10)
        say, line.each_tick = line.each_tick, lambda: None
        line.phone.sequence += 1
        line.phone.timestamp = (line.phone.timestamp + 160) & 0xFFFFFFFF
        line.run(1)
        line.each_tick = say
        line.run(3)
        exchanges = await line.frames(3)
        assert sum(exchange.concealed for exchange in exchanges) == FORMAT.sample_rate // 50
        assert line.leg.stats.packets_lost == 1
        assert line.leg.stats.frames_concealed == 1


async def test_what_comes_twice_or_too_late_is_counted() -> None:
    async with Line() as line:
        await line.connect()
        sent: list[tuple[int, int, bytes]] = []
        blocks = tone(PCMU)

        def talk() -> None:
            sent.append((line.phone.sequence, line.phone.timestamp, line.phone.encode(next(blocks))))
            line.phone.send(sent[-1][2])

        def again(ago: int) -> None:
            sequence, timestamp, payload = sent[-ago]
            line.phone.raw(RtpPacket(0, 0, sequence, timestamp, line.phone.ssrc, payload).serialize())

        line.each_tick = talk
        await line.frames(5)
        again(1)
        again(2)
        line.run(1)
        assert line.leg.stats.packets_duplicate == 2
        line.phone.sequence += 1  # one that is on its way for 200 ms
        sent.append((line.phone.sequence - 1, line.phone.timestamp, bytes(160)))
        line.phone.timestamp = (line.phone.timestamp + 160) & 0xFFFFFFFF
        line.run(10)
        again(11)
        line.run(1)
        stats = line.leg.stats
        assert (stats.packets_late, stats.packets_lost, stats.packets_dropped) == (1, 0, 0)


# --- packets out ---------------------------------------------------------------------------------------------------


async def test_packets_are_numbered_and_timed_without_a_gap_and_marked_once() -> None:
    async with Line() as line:
        await line.connect()
        await line.frames(10)
        packets = line.phone.packets(40)
        first = packets[0]
        assert [packet.marker for packet in packets] == [1] + [0] * 39
        assert {packet.ssrc for packet in packets} == {first.ssrc}
        for step, packet in enumerate(packets):
            assert packet.sequence_number == (first.sequence_number + step) & 0xFFFF
            assert packet.timestamp == (first.timestamp + step * 160) & 0xFFFFFFFF
            assert (packet.payload_type, len(packet.payload)) == (0, 160)


@pytest.mark.parametrize(("ptime_ms", "count"), [(10, 48), (20, 24), (30, 16), (40, 12), (60, 8)])
async def test_packets_are_as_long_as_the_far_end_wants(ptime_ms: int, count: int) -> None:
    async with Line() as line:
        await line.connect(f"a=ptime:{ptime_ms}")
        await line.frames(6)
        packets = line.phone.packets(count)
        assert len(packets) == count
        assert {len(packet.payload) for packet in packets} == {ptime_ms * 8}
        steps = {
            (after.timestamp - before.timestamp) & 0xFFFFFFFF
            for before, after in zip(packets, packets[1:], strict=False)
        }
        assert steps == {ptime_ms * 8}


@pytest.mark.parametrize("packet_ms", [10, 30, 40, 60])
async def test_packets_of_any_length_are_heard(packet_ms: int) -> None:
    async with Line() as line:
        await line.connect()
        blocks = tone(PCMU)
        waiting = b""

        def speak() -> None:
            nonlocal waiting
            waiting += line.phone.encode(next(blocks))
            while len(waiting) >= packet_ms * 8:
                line.phone.send(waiting[: packet_ms * 8])
                waiting = waiting[packet_ms * 8 :]

        line.each_tick = speak
        exchanges = await line.frames(30)
        assert all(loudness(exchange.heard) > 0.1 for exchange in exchanges[5:])


async def test_a_stalled_wheel_sends_a_little_late_and_skips_the_rest_and_no_time_is_lost() -> None:
    async with Line() as line:
        await line.connect()
        blocks = tone(PCMU)
        await line.frames(5)
        line.phone.packets(20)
        for _ in range(50):  # a second in which our loop does not run; the network does
            line.phone.say(next(blocks))
        line.timers.jump(1.0)
        packets = line.phone.packets(3)
        assert len(packets) == 3
        line.run(4)
        rest = line.phone.packets(4)
        assert (rest[-1].timestamp - packets[0].timestamp) & 0xFFFFFFFF == 6 * 160
        exchanges = []
        while line.leg._incoming.waiting:
            exchanges.append(await line.frame())
        # 54 ticks since the last frame: 13 frames and a half
        assert sum(1 + exchange.skipped // FORMAT.frame_samples for exchange in exchanges) == 13
        assert loudness(exchanges[0].heard) > 0.1  # nothing was lost but what waited for the reader for too long
        stats = line.leg.stats
        assert (stats.packets_received, stats.packets_late, stats.packets_dropped) == (50, 0, 0)


async def test_a_suspended_machine_does_not_make_up_for_its_sleep() -> None:
    async with Line() as line:
        await line.connect()
        line.talk()
        await line.frame()
        line.timers.jump(3600.0)
        exchanges = []
        while line.leg._incoming.waiting:
            exchanges.append(await line.frame())
        made_up = sum(1 + exchange.skipped // FORMAT.frame_samples for exchange in exchanges)
        assert made_up == (MAX_MISSED_TICKS + CATCH_UP_TICKS + 1) // 4
        exchanges = await line.frames(10)
        assert all(loudness(exchange.heard) > 0.1 for exchange in exchanges[2:])


def delay_s(said: list[Pcm], heard: dict[int, Pcm], end: int, codec: Codec) -> float:
    """How far the echo is behind at block `end`: where the 0.6 s before it are found in what was said."""
    gone = np.zeros(codec.block_samples, np.float32)
    piece = np.concatenate([heard.get(number, gone) for number in range(end - 30, end)])
    found = np.correlate(np.concatenate(said[end - 100 : end]), piece, "valid")
    return (70 * codec.block_samples - int(np.argmax(found))) / codec.sample_rate


@pytest.mark.parametrize("who", ["engine", "loop"])
@pytest.mark.parametrize("stall_s", [0.06, 0.3, 1.0])
@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
async def test_two_seconds_after_a_stall_the_delay_is_what_it_was(who: str, stall_s: float, codec: Codec) -> None:
    """Of the engine, while our loop runs on; or of our loop, with all that hangs on it. The caller talks through it."""
    random = np.random.default_rng(3)
    said: list[Pcm] = []
    heard: dict[int, Pcm] = {}
    async with Line(codec) as line:
        await line.connect()

        def talk() -> None:
            said.append(random.uniform(-0.3, 0.3, codec.block_samples).astype(np.float32))
            line.phone.say(said[-1])

        def listen() -> None:
            for packet in line.phone.packets():
                first.append(packet.timestamp)
                number = ((packet.timestamp - first[0]) & 0xFFFFFFFF) // codec.timestamp_step
                heard[number] = line.phone.decode(packet.payload)

        first: list[int] = []

        def both() -> None:
            talk()
            listen()

        line.each_tick = both
        await line.frames(30, echo=True)
        before = delay_s(said, heard, 118, codec)
        if who == "engine":
            line.run(round(stall_s / 0.02))
        else:
            for _ in range(round(stall_s / 0.02)):
                talk()
            line.timers.jump(stall_s)
        await line.frames(25 + round(stall_s / FRAME_S), echo=True)
        after = delay_s(said, heard, 118 + round((stall_s + 2) / 0.02), codec)
        assert 0.1 < before < 0.14
        assert abs(after - before) <= 0.0201


async def test_the_gap_of_a_stall_is_in_the_timestamps_and_marked() -> None:
    async with Line() as line:
        await line.connect()
        await line.frames(2)
        before = line.phone.packets(8)[-1]
        line.timers.jump(0.2)
        first, *others = line.phone.packets(3)
        assert first.sequence_number == (before.sequence_number + 1) & 0xFFFF
        assert (first.timestamp - before.timestamp) & 0xFFFFFFFF == 8 * 160
        assert [first.marker, *(packet.marker for packet in others)] == [1, 0, 0]


async def test_a_network_that_takes_nothing_is_counted_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Line() as line:
        await line.connect()
        await line.frame()
        pair = line.leg._transport._pair
        assert pair is not None

        class Unreachable(socket.socket):
            def sendto(self, *args: object) -> int:
                raise OSError(errno.ENETUNREACH, "network is unreachable")

        with monkeypatch.context() as patch, Unreachable(socket.AF_INET, socket.SOCK_DGRAM) as broken:
            broken.setblocking(False)
            patch.setattr(line.leg._transport, "_pair", replace(pair, rtp=broken))
            await line.frames(2)
        await line.frame()
        assert line.leg.stats.dropped_by_reason == {"not sent": 8}
        assert len(line.phone.packets(8)) == 8


# --- who may send --------------------------------------------------------------------------------------------------


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


# --- digits --------------------------------------------------------------------------------------------------------


async def press(line: Line, key: int, lose: Callable[[int], bool] = lambda step: False) -> None:
    """The phone presses a key for 100 ms; it says nothing meanwhile."""
    say, line.each_tick = line.each_tick, lambda: None
    for step in range(7):
        if lose(step):
            line.phone.sequence = (line.phone.sequence + 1) & 0xFFFF
        else:
            event = Event(key, step >= 4, min(step + 1, 5) * 160)
            line.phone.send(bytes(event), kind=101, marker=step == 0, advance=False)
        line.run(1)
    line.phone.timestamp = (line.phone.timestamp + 7 * 160) & 0xFFFFFFFF
    line.each_tick = say


async def test_digits_come_in_once_each_and_are_not_concealed_speech() -> None:
    async with Line() as line:
        await line.connect()
        line.talk()
        await line.frames(5)
        for key in (1, 1, 11):
            await press(line, key)
            line.run(5)
        assert await keys(line, 3) == [Digit("1", 0.1), Digit("1", 0.1), Digit("#", 0.1)]
        line.hush()
        exchanges = await line.frames(12)
        assert line.leg._keypad._heard.empty()
        assert line.leg.stats.packets_lost == 0
        assert exchanges[-1].concealed == 0


@pytest.mark.parametrize("lost", [{0}, {4, 5, 6}, {0, 1, 2, 3, 4, 5}])
async def test_a_digit_survives_the_loss_of_its_first_or_last_packets(lost: set[int]) -> None:
    async with Line() as line:
        await line.connect()
        await line.frame()
        await press(line, 7, lose=lambda step: step in lost)
        line.run(15)
        assert [digit.key for digit in await keys(line, 1)] == ["7"]
        assert line.leg._keypad._heard.empty()


async def test_digits_nobody_reads_are_not_kept_for_ever() -> None:
    async with Line() as line:
        await line.connect()
        await line.frame()
        for number in range(70):
            line.phone.timestamp = (line.phone.timestamp + 1000) & 0xFFFFFFFF
            line.phone.send(bytes(Event(number % 10, True, 800)), kind=101, advance=False)
            line.run(1)
        assert line.leg._keypad._heard.qsize() == 64
        assert line.leg.stats.dropped_by_reason == {"digit nobody read": 6}
        assert (await keys(line, 1))[0].key == "6"


async def test_we_press_keys_within_our_stream() -> None:
    async with Line() as line:
        await line.connect("a=rtpmap:96 telephone-event/8000", formats="0 96")
        await line.frames(2)
        pressing = asyncio.ensure_future(line.leg.send_digits("1,#"))
        exchanges = await line.frames(20)
        await asyncio.wait_for(pressing, 2)
        await line.frames(1)
        packets = line.phone.packets(80)
        events = [packet for packet in packets if packet.payload_type == 96]
        assert len(events) == 14
        assert [packet.marker for packet in events] == [1, 0, 0, 0, 0, 0, 0] * 2
        assert len({packet.ssrc for packet in packets}) == 1
        numbers = [(packet.sequence_number - packets[0].sequence_number) & 0xFFFF for packet in packets]
        assert numbers == list(range(len(packets)))
        first, second = events[0], events[7]
        assert {packet.timestamp for packet in events[:7]} == {first.timestamp}
        assert (first.timestamp - packets[0].timestamp) & 0xFFFFFFFF == 8 * 160
        assert (second.timestamp - first.timestamp) & 0xFFFFFFFF == (8 + 50) * 160  # a press, and a second's pause
        # no audio during the press; the next begins a talkspurt
        after = packets[packets.index(events[6]) + 1]
        assert (after.payload_type, after.marker) == (0, 1)
        assert (after.timestamp - first.timestamp) & 0xFFFFFFFF == 8 * 160
        assert len(exchanges) == 20


async def test_audio_is_not_played_while_a_key_is_pressed() -> None:
    async with Line() as line:
        await line.connect()
        loud = np.full(FORMAT.frame_samples, 0.5, np.float32)
        for _ in range(3):
            line.leg.play(loud)
            await line.frame()
        pressing = asyncio.ensure_future(line.leg.send_digits("5"))
        line.leg.play(loud)
        exchange = await line.frame()
        assert not exchange.played.any()
        line.leg.play(loud)
        await line.frame()
        await asyncio.wait_for(pressing, 2)
        line.leg.play(loud)
        assert loudness((await line.frame()).played) > 0.4


@pytest.mark.parametrize("ptime_ms", [30, 40, 60])
@pytest.mark.parametrize("how", ["key", "codec", "stall", "hold"])
async def test_what_waits_for_a_longer_packet_leaves_when_audio_pauses(ptime_ms: int, how: str) -> None:
    """The record says that it was played."""
    async with Line() as line:
        ptime = f"a=ptime:{ptime_ms}"
        await line.connect(ptime)
        line.leg.play(np.full(FORMAT.sample_rate // 2, 0.5, np.float32))
        exchanges = await line.frames(1)
        line.run(1)
        if how == "key":
            pressing = asyncio.ensure_future(line.leg.send_digits("1"))
            await asyncio.sleep(0)
            line.run(10)
            await asyncio.wait_for(pressing, 2)
        elif how == "codec":
            await line.leg.answer(line.phone.sdp(ptime, formats="8 101"))
            line.run(3)
        elif how == "stall":
            line.timers.jump(0.1)
        await line.leg.answer(line.phone.sdp("a=sendonly", ptime))
        line.run(4)
        while line.leg._incoming.waiting:
            exchanges.append(await line.leg.exchange())
        blocks = np.concatenate([exchange.played for exchange in exchanges]).reshape(-1, FORMAT.sample_rate // 50)
        loud = int(np.count_nonzero(np.abs(blocks).max(axis=1) > 0.25))
        left = sum(len(packet.payload) for packet in audio(line.phone.packets()))
        assert left == (1 + loud) * 160  # the lead of 20 ms before it is silence that was sent


async def test_digits_from_a_source_of_their_own_do_not_break_the_audio() -> None:
    async with Line() as line:
        await line.connect()
        line.talk()
        await line.frames(5)
        say, ssrc, sequence = line.each_tick, line.phone.ssrc, 7
        for step in range(7):
            say()
            data = RtpPacket(101, 0, sequence + step, 99, 0x5151, bytes(Event(3, step >= 4, min(step + 1, 5) * 160)))
            line.phone.raw(data.serialize())
            line.each_tick = lambda: None
            line.run(1)
        line.each_tick = say
        exchanges = await line.frames(3)
        assert [digit.key for digit in await keys(line, 1)] == ["3"]
        assert line.phone.ssrc == ssrc
        assert [loudness(exchange.heard) for exchange in exchanges] == pytest.approx([0.177] * 3, abs=0.005)
        stats = line.leg.stats
        assert (stats.packets_lost, stats.packets_late, stats.frames_concealed, stats.packets_dropped) == (0, 0, 0, 0)


async def test_digits_that_cannot_be_sent() -> None:
    async with Line() as line:
        await line.leg.answer(line.phone.sdp(formats="0"))
        with pytest.raises(LegError, match="'x' is no key"):
            await line.leg.send_digits("12x")
        with pytest.raises(LegError, match="no telephone-event"):
            await line.leg.send_digits("12")
        async with asyncio.timeout(5):
            await line.leg.answer(line.phone.sdp())
            await line.leg.send_digits("")


async def test_closing_ends_what_is_pressed() -> None:
    async with Line() as line:
        await line.connect()
        await line.frame()
        pressing = asyncio.ensure_future(line.leg.send_digits("123456"))
        await line.frame()
        await line.leg.close()
        with pytest.raises(LegError, match="closed before all keys"):
            await asyncio.wait_for(pressing, 2)


async def test_a_far_end_that_takes_no_digits_any_more_ends_what_is_pressed() -> None:
    async with Line() as line:
        await line.connect()
        await line.frame()
        pressing = asyncio.ensure_future(line.leg.send_digits("123456"))
        await line.frame()
        await line.leg.answer(line.phone.sdp(formats="0"))
        with pytest.raises(LegError, match="takes no digits any more"):
            await asyncio.wait_for(pressing, 2)
        line.phone.packets()
        await line.frame()
        assert {packet.payload_type for packet in line.phone.packets(4)} == {0}


# --- hold, change, delayed offer -----------------------------------------------------------------------------------


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
        await line.frames(5)
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


@pytest.mark.parametrize(("before", "after"), [(PCMU, G722), (G722, PCMA), (PCMA, PCMU)], ids=lambda codec: codec.name)
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
        assert (packets[0].timestamp - old[-1].timestamp) & 0xFFFFFFFF == 160
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
        assert "RTP/AVP 9 0 8 101" in offer
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
        with pytest.raises(LegError, match="nothing was offered"):
            await line.leg.accepted(line.phone.sdp())


async def test_our_offer_in_mid_call_changes_nothing_until_it_is_answered() -> None:
    async with Line() as line:
        await line.connect()
        line.talk()
        await line.frames(3)
        offer = await line.leg.offer()
        assert "m=audio" in offer and "RTP/AVP 9 0 8 101" in offer
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


# --- reports -------------------------------------------------------------------------------------------------------


async def test_reports_leave_at_irregular_times_and_say_what_was_sent_and_heard() -> None:
    async with Line() as line:
        await line.connect()
        line.talk()
        await line.frame()
        times: list[float] = []
        reports: list[bytes] = []
        packets: list[RtpPacket] = []
        for _ in range(2500):
            line.run(1)
            packets += line.phone.packets()
            if found := line.phone.reports():
                times.append(line.timers.now)
                reports += found
        gaps = [after - before for before, after in zip(times, times[1:], strict=False)]
        assert len(gaps) >= 5 and all(2.4 <= gap <= 7.6 for gap in gaps)
        assert max(gaps) - min(gaps) > 0.05
        report, names = rtcp.parse(reports[-1])
        assert isinstance(report, RtcpSrPacket) and isinstance(names, RtcpSdesPacket)
        assert report.ssrc == packets[0].ssrc
        sent = [packet for packet in packets if (report.sender_info.rtp_timestamp - packet.timestamp) & 0x80000000 == 0]
        assert len(packets) > 2400 and abs(report.sender_info.packet_count - len(sent)) <= 1
        (block,) = report.reports
        assert (block.ssrc, block.packets_lost, block.fraction_lost) == (line.phone.ssrc, 0, 0)


async def test_who_sends_nothing_gives_a_receivers_report() -> None:
    async with Line() as line:
        await line.connect("a=inactive")
        await line.frame()
        line.run(round(KEEP_ALIVE_S * 50) - 20)
        kinds = [type(rtcp.parse(data)[0]) for data in line.phone.reports(2)]
        assert kinds[1:] == [RtcpRrPacket] * (len(kinds) - 1)  # the first tells of the keep-alive


async def test_the_round_trip_is_measured() -> None:
    async with Line() as line:
        await line.connect()
        await line.frame()
        line.run(400)
        packet = line.phone.packets(1)[0]
        report = next(rtcp.parse(data)[0] for data in reversed(line.phone.reports(1)))
        assert isinstance(report, RtcpSrPacket)
        lsr = (report.sender_info.ntp_timestamp >> 16) & 0xFFFFFFFF
        ntp_now = line.leg._reports._ntp(line.timers.now)
        since = ((ntp_now >> 16) - lsr) & 0xFFFFFFFF
        line.timers.now += 0.1
        block = RtcpReceiverInfo(packet.ssrc, 0, 0, 0, 0, lsr, since)
        line.phone.rtcp.sendto(bytes(RtcpRrPacket(line.phone.ssrc, [block])), line.phone.rtcp_target)
        line.run(1)
        assert line.leg.stats.round_trip_s == pytest.approx(0.12, abs=0.021)


async def test_muxed_reports_share_the_port() -> None:
    async with Line() as line:
        answer = await line.connect("a=rtcp-mux")
        assert "a=rtcp-mux" in answer
        line.talk()
        await line.frames(5)
        line.phone.raw(rtcp.compound(line.phone.ssrc, b"x", RtcpSenderInfo(1 << 40, 0, 1, 1), []))
        data: list[bytes] = []
        for _ in range(500):
            line.run(1)
            data += drain(line.phone.rtp)
        assert line.phone.reports() == []
        reports = [rtcp.parse(item)[0] for item in data if 192 <= item[1] <= 223]
        last = reports[-1]
        assert isinstance(last, RtcpSrPacket)
        assert last.reports[0].lsr == 1 << 24
        assert line.leg.stats.packets_dropped == 0


async def test_a_forged_goodbye_or_report_changes_nothing() -> None:
    async with Line() as line:
        answer = await line.connect()
        line.talk()
        await line.frames(5)
        stranger = Phone(host="127.0.0.2")
        stranger.read(answer)
        goodbye = bytes(RtcpRrPacket(line.phone.ssrc, [])) + bytes(RtcpByePacket([line.phone.ssrc]))
        stranger.rtcp.sendto(goodbye, stranger.rtcp_target)
        line.phone.rtcp.sendto(goodbye, line.phone.rtcp_target)
        exchanges = await line.frames(5)
        assert all(loudness(exchange.heard) > 0.1 for exchange in exchanges)
        assert not line.leg._lost.done()
        assert line.leg.stats.dropped_by_reason == {"foreign RTCP": 1}
        line.run(500)
        assert stranger.reports() == [] and line.phone.reports(1)
        stranger.close()


# --- the end -------------------------------------------------------------------------------------------------------


async def test_a_far_end_that_was_never_heard_is_lost_after_30_s() -> None:
    async with Line() as line:
        await line.connect()
        lost = asyncio.ensure_future(line.leg.lost())
        await line.frame()
        line.run(round((FIRST_PACKET_S - 0.1) * 50) - 4)
        await asyncio.sleep(0)
        assert not lost.done()
        line.run(10)
        assert await soon(lost) == (
            f"signalling is fine, but no RTP came from 127.0.0.1:{line.phone.port} in 30 s; the far end's SDP said "
            f"127.0.0.1:{line.phone.port}, its signalling comes from 127.0.0.1"
        )


async def test_a_far_end_that_falls_silent_is_lost_after_15_s_and_strangers_are_told_of() -> None:
    async with Line() as line:
        answer = await line.connect()
        line.talk()
        await line.frames(5)
        stranger = Phone(host="127.0.0.2")
        stranger.read(answer)
        stranger.send(bytes(160))
        line.hush()
        line.run(round((SILENT_S - 0.1) * 50))
        assert not line.leg._lost.done()
        line.run(10)
        reason = await soon(asyncio.ensure_future(line.leg.lost()))
        assert "no RTP came" in reason and "in 15 s" in reason
        assert reason.endswith("; 1 packets from other addresses were dropped")
        stranger.close()


async def test_a_far_end_that_sends_no_silence_is_there_while_it_reports() -> None:
    """A muted phone with silence suppression; but reports alone do not say that audio finds its way."""
    async with Line() as line:
        await line.connect()
        line.talk()
        await line.frames(5)
        line.hush()
        for tick in range(round(4 * SILENT_S * 50)):
            if tick % 250 == 0:
                line.phone.rtcp.sendto(rtcp.compound(line.phone.ssrc, b"x", None, []), line.phone.rtcp_target)
            line.run(1)
        assert not line.leg._lost.done()
        line.run(round(SILENT_S * 50) + 10)
        assert line.leg._lost.done()


async def test_a_hold_of_minutes_is_no_loss_and_the_limit_starts_over_with_the_resume() -> None:
    async with Line() as line:
        await line.connect()
        line.talk()
        await line.frames(2)
        line.hush()
        await line.leg.answer(line.phone.sdp("a=sendonly"))
        line.run(round(FIRST_PACKET_S * 50) + 10)
        await line.leg.answer(line.phone.sdp())
        line.run(round((SILENT_S - 0.1) * 50))
        assert not line.leg._lost.done()
        line.run(10)
        assert line.leg._lost.done()


@pytest.mark.parametrize("verb", ["tick", "receive"])
async def test_a_leg_that_fails_is_lost_alone(
    verb: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with Line() as line:
        await line.connect()
        await line.frame()
        other = Line(ports=line.ports)
        other.timers, other.clock = line.timers, line.clock
        other.leg._clock = line.clock
        async with other:
            await other.connect()
            await other.frame()

            def break_(*args: object) -> None:
                raise RuntimeError("a bug")

            monkeypatch.setattr(line.leg._receiver.playout, verb, break_)
            pressing = asyncio.ensure_future(line.leg.send_digits("123"))
            line.phone.say(next(tone(PCMU)))  # it is the loop that reads this one, not the wheel
            await until(lambda: line.leg.stats.packets_received == 1)
            await other.frames(5)
            assert await soon(asyncio.ensure_future(line.leg.lost())) == "the media path failed: RuntimeError: a bug"
            with pytest.raises(LegError, match="a bug"):
                await asyncio.wait_for(pressing, 2)
            assert line.clock.failures == 1
            assert "a leg failed" in caplog.text
            assert len(line.clock) == 1 and line.leg._transport._pair is None


async def test_closed_it_gives_everything_back_and_says_so() -> None:
    async with Line() as line:
        await line.connect()
        await line.frame()
        waiting = asyncio.ensure_future(line.leg.exchange())
        await asyncio.sleep(0)
        pair = line.leg._transport._pair
        assert pair is not None
        await line.leg.close()
        await line.leg.close()
        assert pair.rtp.fileno() == pair.rtcp.fileno() == -1
        assert len(line.clock) == 0 and not line.timers.due
        with pytest.raises(LegError, match="closed"):
            await asyncio.wait_for(waiting, 2)
        for verb in (line.leg.offer(), line.leg.answer(line.phone.sdp()), line.leg.accepted("x")):
            with pytest.raises(LegError, match="closed"):
                await verb
        line.leg.play(np.zeros(10, np.float32))
        assert line.leg.stats.codec == "PCMU"


async def test_what_waits_when_it_closes_can_still_be_taken() -> None:
    async with Line() as line:
        await line.connect()
        await line.frame()
        line.run(8)
        await line.leg.close()
        async with asyncio.timeout(2):
            exchanges: list[Exchange] = [await line.leg.exchange() for _ in range(2)]
        assert len(exchanges) == 2
