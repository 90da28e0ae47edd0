"""What RTCP says about a stream (RFC 3550, section 6.4 and appendix A): statistics, reports, round trip. Pure.

Reports are aiortc's classes. A goodbye is passed over: anybody can forge one, only signalling ends calls.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from typing import TypeAlias

from aiortc.rtp import (
    RtcpPacket,
    RtcpReceiverInfo,
    RtcpRrPacket,
    RtcpSdesPacket,
    RtcpSenderInfo,
    RtcpSourceInfo,
    RtcpSrPacket,
    clamp_packets_lost,
)

Report: TypeAlias = RtcpSrPacket | RtcpRrPacket

_SIZES = {200: 28, 201: 8}
"""Octets of a sender's report, and of a receiver's, without their blocks (sections 6.4.1 and 6.4.2)."""

INTERVAL_S = 5.0
"""Between two reports, give or take half of it (section 6.2)."""

UNIX_TO_NTP_S = 2_208_988_800
MAX_ROUND_TRIP_S = 30
CNAME = 1
MAX_BLOCKS = 31
"""Of a report: their number has five bits (section 6.4.1)."""

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
        self._clock_rate = 8000
        self._report_ntp = 0  # middle 32 bits of the last sender report
        self._report_at = 0.0

    @property
    def lost(self) -> int:
        """Packets that never came, duplicates counted against them (appendix A.3)."""
        return self._lost_before + max(0, self._expected - self._received)

    @property
    def jitter_s(self) -> float:
        """Smoothed deviation of the transit time (appendix A.8)."""
        return self._jitter / self._clock_rate

    @property
    def _expected(self) -> int:
        return self._highest - self._base + 1

    def _restart(self, sequence: int) -> None:
        self._base = self._highest = sequence  # extended by the count of cycles
        self._received = self._expected_before = self._received_before = 0
        self._suspect: int | None = None

    def receive(self, sequence: int, timestamp: int | None, now: float, clock_rate: int = 8000) -> None:
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
            self._measure(timestamp, now, clock_rate)

    def _measure(self, timestamp: int, now: float, clock_rate: int) -> None:
        if clock_rate != self._clock_rate:  # another codec within the stream (RFC 7160)
            self._jitter *= clock_rate / self._clock_rate
            self._clock_rate, self._transit = clock_rate, None
        transit = now * clock_rate - timestamp
        if self._transit is not None:
            change = abs(transit - self._transit)
            change = min(change, abs(change - 2**32))  # the timestamp wrapped
            if change < clock_rate * 10:  # else the sender began anew
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


class Reports:
    """One party's side of RTCP: what is heard and said about both streams. `now` is monotonic seconds.

    `ssrc` is our own stream's; `unix_offset_s` makes `now` the time of day, which sender reports carry.

    `far_loss`, `far_lost` and `far_jitter_s` are what the far end last said of our stream: the share of packets lost
    since its report before, how many it has lost in all, and its jitter. `sent` and `received` count reports.
    """

    def __init__(self, ssrc: int, unix_offset_s: float) -> None:
        self.round_trip_s: float | None = None
        self.far_loss = self.far_jitter_s = 0.0
        self.far_lost = self.sent = self.received = 0
        self.clock_rate = 8000  # of our stream
        self._ssrc = ssrc
        self.name = secrets.token_hex(8)  # CNAME, of this call only: it tells nobody who we are (RFC 7022)
        self._offset_s = unix_offset_s + UNIX_TO_NTP_S
        self._reception: Reception | None = None
        self._lost_before = 0
        self._due = 0.0
        self._said_packets = 0

    @property
    def source(self) -> int | None:
        """The SSRC of the stream that is heard."""
        return self._reception.ssrc if self._reception else None

    @property
    def lost(self) -> int:
        """Packets that never came, of all sources."""
        return self._lost_before + (self._reception.lost if self._reception else 0)

    @property
    def jitter_s(self) -> float:
        """Of the present source."""
        return self._reception.jitter_s if self._reception else 0.0

    def heard(self, ssrc: int, sequence: int, timestamp: int | None, now: float, clock_rate: int = 8000) -> bool:
        """Count a packet. Whether it is the first of another source than the last one's."""
        before = self._reception
        if before is None or before.ssrc != ssrc:
            self._lost_before = self.lost
            self._reception = Reception(ssrc, sequence)
        assert self._reception is not None
        self._reception.receive(sequence, timestamp, now, clock_rate)
        return before is not None and before is not self._reception

    def begin(self, now: float) -> None:
        """From now on reports are due; the first after half the interval."""
        self._due = now + _interval_s() / 2

    def is_due(self, now: float) -> bool:
        """Whether it is time for `say`."""
        return now >= self._due

    def blocks(self, now: float) -> list[RtcpReceiverInfo]:
        """What is to be said of the source that is heard, if there is one; the fraction counts from the last time."""
        return [self._reception.block(now)] if self._reception else []

    def say(
        self, packets: int, octets: int, timestamp: int, now: float, others: Iterable[RtcpReceiverInfo] = ()
    ) -> bytes:
        """A report: what we have sent so far, if that is more than last time, and what we have heard, by us and of
        `others`, as many as it holds.
        """
        self._due = now + _interval_s()
        self.sent += 1
        sent = None
        if packets > self._said_packets:
            self._said_packets = packets
            sent = RtcpSenderInfo(self._ntp(now), timestamp, packets & 0xFFFFFFFF, octets & 0xFFFFFFFF)
        return compound(self._ssrc, self.name.encode(), sent, [*self.blocks(now), *others][:MAX_BLOCKS])

    def read(self, data: bytes, now: float) -> None:
        """Take a report of the far end. Raises ValueError."""
        packets = parse(data)
        self.received += 1
        for packet in packets:
            if isinstance(packet, RtcpSrPacket) and self._reception and packet.ssrc == self._reception.ssrc:
                self._reception.heard_report(packet.sender_info.ntp_timestamp, now)
            for block in packet.reports:
                self._measure(block, now)

    def _measure(self, block: RtcpReceiverInfo, now: float) -> None:
        if block.ssrc != self._ssrc:
            return
        self.far_loss = block.fraction_lost / 256
        self.far_lost, self.far_jitter_s = max(0, block.packets_lost), block.jitter / self.clock_rate
        if (measured := round_trip_s(block, self._ntp(now))) is not None:
            self.round_trip_s = measured

    def _ntp(self, now: float) -> int:
        return int((now + self._offset_s) * 2**32) & (2**64 - 1)


def _interval_s() -> float:
    """Irregular, so that nobody's reports march in step."""
    return INTERVAL_S * (0.5 + secrets.randbelow(1024) / 1024)


def parse(data: bytes) -> list[Report]:
    """The reports in a compound packet, without extensions of theirs; what else is in it is passed over.

    Raises ValueError. (aiortc, which reads a report here, takes neither extensions nor every SDES that is right.)
    """
    reports: list[Report] = []
    if not data:
        raise ValueError("RTCP packet is empty")
    while data:
        if len(data) < 4 or data[0] >> 6 != 2 or not 192 <= data[1] <= 223:
            raise ValueError("not an RTCP packet")
        packet, data = _parted(data)
        size = _SIZES.get(packet[1])
        if size is not None:
            size += 24 * (packet[0] & 0x1F)
            if len(packet) < size:
                raise ValueError("RTCP report is shorter than the blocks that it says it has")
            header = bytes([packet[0] & 0xDF, packet[1]]) + (size // 4 - 1).to_bytes(2, "big")
            reports += [
                report
                for report in RtcpPacket.parse(header + packet[4:size])
                if isinstance(report, RtcpSrPacket | RtcpRrPacket)
            ]
    return reports


def _parted(data: bytes) -> tuple[bytes, bytes]:
    """The first packet, and what follows it."""
    length = 4 + 4 * int.from_bytes(data[2:4], "big")
    if len(data) < length:
        raise ValueError("RTCP packet is truncated")
    return data[:length], data[length:]


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
