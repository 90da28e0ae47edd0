"""Reports of an RTP leg, both ways."""

from __future__ import annotations

import numpy as np
import pytest
from aiortc.rtp import (
    RtcpByePacket,
    RtcpPacket,
    RtcpReceiverInfo,
    RtcpRrPacket,
    RtcpSdesPacket,
    RtcpSenderInfo,
    RtcpSrPacket,
    RtpPacket,
)

from media import rtcp
from media.codec import OPUS, PCMU
from media.opus import OpusEncoder
from media.streamleg import KEEP_ALIVE_S
from tests.media.line import Line, Phone, drain, loudness


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
        report, names = RtcpPacket.parse(reports[-1])
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
        # Reports to an address where nobody is soon end.
        line.phone.rtcp.sendto(bytes(RtcpRrPacket(line.phone.ssrc)), line.phone.rtcp_target)
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


async def test_what_the_far_end_reports_of_us_is_in_the_statistics() -> None:
    async with Line() as line:
        await line.connect()
        await line.frame()
        line.run(400)
        packet = line.phone.packets(1)[0]
        block = RtcpReceiverInfo(packet.ssrc, 51, 9, 0, 160, 0, 0)
        other = RtcpReceiverInfo(packet.ssrc ^ 1, 255, 99, 0, 8_000, 0, 0)
        line.phone.rtcp.sendto(bytes(RtcpRrPacket(line.phone.ssrc, [other, block])), line.phone.rtcp_target)
        line.run(1)
        stats = line.leg.stats
        assert (stats.far_packets_lost, stats.far_jitter_s) == (9, 0.02)
        assert (stats.reports_received, stats.reports_sent) == (1, len(line.phone.reports()))
        assert line.leg._reports.far_loss == pytest.approx(0.2, abs=0.001)


async def test_jitter_is_in_seconds_whatever_the_clock() -> None:
    """Every other packet a tick late: what the smoothed deviation comes to (RFC 3550, section 6.4.1)."""
    found = []
    for codec in (PCMU, OPUS):
        async with Line(codec) as line:
            await line.connect()
            await line.frame()
            for number in range(200):
                line.phone.send(codec.make_encoder()(np.zeros(codec.block_samples, np.float32)))
                line.timers.run(0.03 if number % 2 else 0.01)
            found.append(line.leg.stats.jitter_s)
    assert found == [pytest.approx(0.02, rel=0.2)] * 2


async def test_fec_is_for_as_much_as_the_far_end_loses(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []
    monkeypatch.setattr(OpusEncoder, "expect_loss", lambda self, fraction: asked.append(fraction))
    async with Line(OPUS) as line:
        await line.connect("a=fmtp:96 useinbandfec=1")
        await line.frame()
        line.run(100)
        block = RtcpReceiverInfo(line.phone.packets(1)[0].ssrc, 51, 9, 0, 0, 0, 0)
        line.phone.rtcp.sendto(bytes(RtcpRrPacket(line.phone.ssrc, [block])), line.phone.rtcp_target)
        line.run(400)
    assert asked[-1] == pytest.approx(0.2, abs=0.001)
