"""What RTCP says about a stream (RFC 3550, section 6.4 and appendix A): statistics, reports, round trip. Pure.

Packets are aiortc's classes. A goodbye is read and ignored: anybody can forge one, only signalling ends calls.
"""

from __future__ import annotations

import struct

from aiortc.rtp import (
    AnyRtcpPacket,
    RtcpPacket,
    RtcpReceiverInfo,
    RtcpRrPacket,
    RtcpSdesPacket,
    RtcpSenderInfo,
    RtcpSourceInfo,
    RtcpSrPacket,
    clamp_packets_lost,
)

INTERVAL_S = 5.0
"""Between two reports, give or take half of it (section 6.2)."""

MAX_ROUND_TRIP_S = 30
CLOCK_RATE = 8000
CNAME = 1
MAX_DROPOUT = 3000
MAX_MISORDER = 100
"""Appendix A.1: a jump beyond these is a restart, believed at the second packet in sequence."""


class Reception:
    """Statistics of one source, from its first packet on."""

    def __init__(self, ssrc: int, sequence: int) -> None:
        self.ssrc = ssrc
        self._lost_before = 0
        self._restart(sequence)
        self._transit: float | None = None
        self._jitter = 0.0  # in clock ticks
        self._report_ntp = 0  # middle 32 bits of the last sender report
        self._report_at = 0.0

    @property
    def lost(self) -> int:
        """Packets that never came, duplicates counted against them (appendix A.3)."""
        return self._lost_before + max(0, self._expected - self._received)

    @property
    def jitter_s(self) -> float:
        """Smoothed deviation of the transit time (appendix A.8)."""
        return self._jitter / CLOCK_RATE

    @property
    def _expected(self) -> int:
        return self._highest - self._base + 1

    def _restart(self, sequence: int) -> None:
        self._base = self._highest = sequence  # extended by the count of cycles
        self._received = self._expected_before = self._received_before = 0
        self._suspect: int | None = None

    def receive(self, sequence: int, timestamp: int | None, now: float) -> None:
        """Count a packet. `timestamp` is None where it does not tell when it was sent (digits)."""
        ahead = (sequence - self._highest) & 0xFFFF
        if ahead < MAX_DROPOUT:
            self._highest += ahead
        elif ahead < 0x10000 - MAX_MISORDER:
            if sequence != self._suspect:
                self._suspect = (sequence + 1) & 0xFFFF
                return
            self._lost_before = self.lost
            self._restart(sequence)
            self._transit = None
        self._received += 1
        if timestamp is not None:
            self._measure(timestamp, now)

    def _measure(self, timestamp: int, now: float) -> None:
        transit = now * CLOCK_RATE - timestamp
        if self._transit is not None:
            change = abs(transit - self._transit)
            change = min(change, abs(change - 2**32))  # the timestamp wrapped
            if change < CLOCK_RATE * 10:  # else the sender began anew
                self._jitter += (change - self._jitter) / 16
        self._transit = transit

    def heard_report(self, ntp: int, now: float) -> None:
        """A sender report of this source came; the next block tells it when."""
        self._report_ntp, self._report_at = (ntp >> 16) & 0xFFFFFFFF, now

    def block(self, now: float) -> RtcpReceiverInfo:
        """What we tell the source about itself; the fraction counts from the last block."""
        expected = self._expected - self._expected_before
        lost = expected - (self._received - self._received_before)
        self._expected_before, self._received_before = self._expected, self._received
        since = round((now - self._report_at) * 65536) if self._report_ntp else 0
        return RtcpReceiverInfo(
            ssrc=self.ssrc,
            fraction_lost=min(255, (max(0, lost) << 8) // expected) if expected > 0 else 0,
            packets_lost=clamp_packets_lost(self.lost),
            highest_sequence=self._highest & 0xFFFFFFFF,
            jitter=int(self._jitter) & 0xFFFFFFFF,
            lsr=self._report_ntp,
            dlsr=min(since, 0xFFFFFFFF),
        )


def parse(data: bytes) -> list[AnyRtcpPacket]:
    """Read a compound packet. Raises ValueError."""
    try:
        packets = RtcpPacket.parse(data)
    except struct.error as error:
        raise ValueError(f"RTCP packet is truncated: {error}") from None
    if not packets:
        raise ValueError("RTCP packet holds nothing we know")
    return packets


def compound(ssrc: int, name: bytes, sent: RtcpSenderInfo | None, blocks: list[RtcpReceiverInfo]) -> bytes:
    """A report and our canonical name: a sender's if we sent since the last one, else a receiver's."""
    report = RtcpRrPacket(ssrc, blocks) if sent is None else RtcpSrPacket(ssrc, sent, blocks)
    return bytes(report) + bytes(RtcpSdesPacket([RtcpSourceInfo(ssrc, [(CNAME, name)])]))


def round_trip_s(block: RtcpReceiverInfo, ntp: int) -> float | None:
    """From the far end's block about us, now being `ntp`; None if it cannot be told from that.

    It has heard no report of ours yet, or what it says cannot be: more than MAX_ROUND_TRIP_S.
    """
    if block.lsr == 0:
        return None
    ticks = (((ntp >> 16) & 0xFFFFFFFF) - block.lsr - block.dlsr) & 0xFFFFFFFF
    if ticks >= 0x80000000:  # before we sent it: clocks of different speed, on a short way
        return 0.0
    return ticks / 65536 if ticks <= MAX_ROUND_TRIP_S * 65536 else None
