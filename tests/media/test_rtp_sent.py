"""What leaves an RTP leg."""

from __future__ import annotations

import errno
import socket
from dataclasses import replace

import numpy as np
import pytest

from media.clock import CATCH_UP_TICKS
from media.codec import CODECS, G722, PCMU, Codec
from media.leg import Pcm
from media.streamleg import MAX_MISSED_TICKS
from tests.media.line import FORMAT, FRAME_S, Line, loudness, tone


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


@pytest.mark.parametrize("ptime_ms", [10, 30, 50])
async def test_packets_of_g722_are_whole_whatever_the_far_end_wants(ptime_ms: int) -> None:
    async with Line(G722) as line:
        await line.connect(f"a=ptime:{ptime_ms}")
        await line.frames(8)
        packets = line.phone.packets(12)
        lengths = {len(packet.payload) for packet in packets}
        assert len(lengths) == 1 and not any(length % 160 for length in lengths)
        steps = {
            (after.timestamp - before.timestamp) & 0xFFFFFFFF
            for before, after in zip(packets, packets[1:], strict=False)
        }
        assert steps == lengths


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
