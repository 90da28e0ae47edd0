"""Digits of an RTP leg, both ways."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import numpy as np
import pytest
from aiortc.rtp import (
    RtpPacket,
)

from media.codec import CODECS, OPUS, Codec
from media.dtmf import Event
from media.leg import Digit, LegError, Pcm
from media.tones import HIGH, LOW, PAD
from tests.media.line import FORMAT, Line, loudness
from tests.media.waiting import audio, keys


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
        pressing = asyncio.ensure_future(line.leg.send_digits("1w#"))
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
        assert (second.timestamp - first.timestamp) & 0xFFFFFFFF == (8 + 25) * 160  # a press, and half a second's pause
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
        async with asyncio.timeout(5):
            await line.leg.answer(line.phone.sdp())
            await line.leg.send_digits("")
    async with Line() as line:
        with pytest.raises(LegError, match="once a stream is agreed"):
            await line.leg.send_digits("1")


def keys_heard(pcm: Pcm, rate: int) -> str:
    """What a detector of tones hears: the two strongest of the eight in each 20 ms, where they stand out."""
    found, last = "", ""
    for block in pcm[: len(pcm) // (rate // 50) * (rate // 50)].reshape(-1, rate // 50):
        at = np.arange(len(block)) / rate
        power = {hertz: abs(np.dot(block, np.exp(-2j * np.pi * hertz * at))) / len(block) for hertz in LOW + HIGH}
        low, high = max(LOW, key=power.__getitem__), max(HIGH, key=power.__getitem__)
        key = PAD[4 * LOW.index(low) + HIGH.index(high)] if min(power[low], power[high]) > 0.05 else ""
        found += key if key != last else ""
        last = key
    return found


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
async def test_who_takes_no_events_hears_tones(codec: Codec) -> None:
    async with Line(codec) as line:
        await line.connect(formats=str(codec.payload_type))
        line.leg.play(np.full(FORMAT.frame_samples, 0.3, np.float32))
        pressing = asyncio.ensure_future(line.leg.send_digits("12w#D0"))
        exchanges = await line.frames(19)
        await asyncio.wait_for(pressing, 2)
        packets = line.phone.packets(76)
        assert {packet.payload_type for packet in packets} == {codec.payload_type}
        assert keys_heard(line.phone.hear(packets), codec.sample_rate) == "12#D0"
        assert keys_heard(np.concatenate([exchange.played for exchange in exchanges]), FORMAT.sample_rate) == "12#D0"
        assert [packet.marker for packet in packets] == [1] + [0] * 75


@pytest.mark.parametrize(("pause", "ticks"), [(",", 100), ("w", 25), ("W", 25), (",w", 125)])
async def test_pauses(pause: str, ticks: int) -> None:
    async with Line() as line:
        await line.connect()
        pressing = asyncio.ensure_future(line.leg.send_digits(f"1{pause}2"))
        await line.frames(36)
        await asyncio.wait_for(pressing, 2)
        events = [packet for packet in line.phone.packets(140) if packet.payload_type == 101]
        starts = [packet.timestamp for packet in events if packet.marker]
        assert (starts[1] - starts[0]) & 0xFFFFFFFF == (8 + ticks) * 160


async def test_keys_of_an_opus_call_are_timed_at_48_khz() -> None:
    """The same press as at 8 kHz: six times the numbers (RFC 4733, section 2.1)."""
    async with Line(OPUS) as line:
        await line.connect()
        pressing = asyncio.ensure_future(line.leg.send_digits("5"))
        await line.frames(4)
        await asyncio.wait_for(pressing, 2)
        events = [packet for packet in line.phone.packets(8) if packet.payload_type == 101]
        durations = [Event.parse(packet.payload).duration for packet in events]
        assert durations == [960, 1920, 2880, 3840, 4800, 4800, 4800]
        assert [Event.parse(packet.payload).end for packet in events] == [False] * 4 + [True] * 3
        for packet in events:
            line.phone.send(packet.payload, 101, advance=False)
        line.run(2)
        assert await keys(line, 1) == [Digit("5", 0.1)]


async def test_beside_opus_events_at_8_khz_will_do() -> None:
    """There are phones that know no other."""
    async with Line(OPUS) as line:
        offer = line.phone.sdp().replace("telephone-event/48000", "telephone-event/8000")
        answer = await line.leg.answer(offer)
        assert "a=rtpmap:101 telephone-event/8000" in answer
        line.phone.read(answer)
        pressing = asyncio.ensure_future(line.leg.send_digits("5"))
        await line.frames(4)
        await asyncio.wait_for(pressing, 2)
        events = [packet for packet in line.phone.packets(8) if packet.payload_type == 101]
        assert Event.parse(events[-1].payload).duration == 800


async def test_closing_ends_what_is_pressed() -> None:
    async with Line() as line:
        await line.connect()
        await line.frame()
        pressing = asyncio.ensure_future(line.leg.send_digits("123456"))
        await line.frame()
        await line.leg.close()
        with pytest.raises(LegError, match="closed before all keys"):
            await asyncio.wait_for(pressing, 2)


async def test_a_far_end_that_takes_no_events_any_more_hears_the_rest_as_tones() -> None:
    async with Line() as line:
        await line.connect()
        pressing = asyncio.ensure_future(line.leg.send_digits("123456"))
        await line.frames(2)
        await line.leg.answer(line.phone.sdp(formats="0"))
        line.phone.packets()
        await line.frames(11)
        await asyncio.wait_for(pressing, 2)
        packets = line.phone.packets(30)
        assert {packet.payload_type for packet in packets} == {0}
        assert keys_heard(line.phone.hear(packets), 8_000) == "23456"


async def test_keys_wait_for_the_end_of_a_hold() -> None:
    async with Line() as line:
        await line.connect()
        await line.leg.answer(line.phone.sdp("a=sendonly"))
        pressing = asyncio.ensure_future(line.leg.send_digits("1"))
        await line.frames(4)
        assert not pressing.done()
        await line.leg.answer(line.phone.sdp())
        await line.frames(3)
        await asyncio.wait_for(pressing, 2)
