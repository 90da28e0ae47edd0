"""The RTP leg against a telephone of raw sockets, under a made-up clock: the time of a call, and its end."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from aiortc.rtp import (
    RtpPacket,
)

from media import rtcp
from media.codec import CODECS, PCMU, Codec
from media.incoming import MAX_WAITING_S
from media.leg import Exchange, Leg, LegError
from media.receiver import FIRST_PACKET_S, SILENT_S, WORRY_S
from tests.media.line import FORMAT, FRAME_S, Line, Phone, loudness, tone
from tests.media.waiting import soon, until


async def test_it_is_a_leg() -> None:
    async with Line() as line:
        leg: Leg = line.leg
        assert not leg.held and leg.stats.codec == "" and not leg.ready
        await line.connect()
        assert leg.ready  # plain audio has its way from the answer on


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
        assert loudness(line.phone.hear(packets[20:])) == pytest.approx(0.25 / np.sqrt(2), rel=0.1)
        assert all(loudness(exchange.heard) == pytest.approx(0.177, abs=0.01) for exchange in exchanges[2:])
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
            exchanges = [await line.leg.exchange() for _ in range(round(MAX_WAITING_S / FRAME_S))]
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


async def test_after_5_s_of_silence_the_log_says_once_where_to_look(caplog: pytest.LogCaptureFixture) -> None:
    async with Line() as line:
        await line.connect()
        await line.frame()
        for _ in range(2):
            line.hush()
            line.run(round(WORRY_S * 50) - 10)
            assert not caplog.messages
            line.run(200)
            (message,) = caplog.messages
            assert message.startswith("x signalling is fine, but no RTP came from 127.0.0.1:")
            assert " in 5 s; the far end's SDP said 127.0.0.1:" in message
            caplog.clear()
            line.talk()
            line.run(5)


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


async def test_a_far_end_that_keeps_its_way_open_is_there() -> None:
    """By packets of a type that nobody agreed to (RFC 6263, section 4.6); but not by those of strangers."""
    async with Line() as line:
        answer = await line.connect()
        line.talk()
        await line.frames(5)
        stranger = Phone(host="127.0.0.2")
        stranger.read(answer)
        for phone, is_lost in ((line.phone, False), (stranger, True)):
            line.hush()
            for tick in range(round(2 * SILENT_S * 50)):
                if tick % 50 == 0:
                    phone.send(b"", kind=127, advance=False)
                line.run(1)
            assert line.leg._lost.done() == is_lost
        assert line.leg.stats.dropped_by_reason["unknown payload type"] > 2 * SILENT_S
        stranger.close()


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


async def test_a_silence_before_the_answer_is_forgiven_by_it() -> None:
    """A network that describes early media, and then sends none."""
    async with Line() as line:
        line.phone.read(await line.leg.offer())
        await line.leg.accepted(line.phone.sdp())
        asking = asyncio.ensure_future(line.leg.exchange())
        await asyncio.sleep(0)
        line.run(round(FIRST_PACKET_S * 50) + 10)
        assert line.leg._lost.done()
        await line.leg.accepted(line.phone.sdp())
        lost = asyncio.ensure_future(line.leg.lost())
        line.run(round((FIRST_PACKET_S - 0.1) * 50))
        assert not lost.done()
        line.run(10)
        assert "no RTP came" in await soon(lost)
        await soon(asking)


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
