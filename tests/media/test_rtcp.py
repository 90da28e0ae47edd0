"""RTCP: the statistics of a stream, and reports that say and read them."""

from __future__ import annotations

import pytest
from aiortc.rtp import (
    RtcpByePacket,
    RtcpPacket,
    RtcpReceiverInfo,
    RtcpRrPacket,
    RtcpSdesPacket,
    RtcpSenderInfo,
    RtcpSrPacket,
)
from hypothesis import given
from hypothesis import strategies as st

from media import rtcp
from media.rtcp import Reception, Reports, compound, round_trip_s


def reception(*sequences: int) -> Reception:
    """After packets that came 20 ms apart, in this order, each with the timestamp of its number."""
    stream = Reception(7, sequences[0])
    for step, sequence in enumerate(sequences):
        stream.receive(sequence, sequence * 160, step * 0.02)
    return stream


@pytest.mark.parametrize(
    ("sequences", "lost", "highest"),
    [
        ((1, 2, 3), 0, 3),
        ((1, 2, 5), 2, 5),
        ((1, 3, 2, 4), 0, 4),
        ((65_534, 65_535, 0, 1), 0, 0x10001),
        ((65_534, 2), 3, 0x10002),
        ((5, 5, 6), 0, 6),
        ((5, 4, 6), 0, 6),
    ],
)
def test_losses_are_counted_across_order_and_wrap(sequences: tuple[int, ...], lost: int, highest: int) -> None:
    stream = reception(*sequences)
    assert stream.lost == lost
    assert stream.block(1.0).highest_sequence == highest


def test_one_wild_number_is_ignored_and_two_in_sequence_are_a_restart() -> None:
    stream = reception(1, 2, 4, 30_000, 5, 6)
    assert stream.lost == 1
    assert stream.block(1.0).highest_sequence == 6
    stream.receive(40_000, 0, 2.0)
    stream.receive(40_001, 160, 2.02)
    stream.receive(40_002, 320, 2.04)
    assert stream.lost == 1
    assert stream.block(3.0).highest_sequence == 40_002


def test_the_fraction_counts_from_the_last_block() -> None:
    stream = reception(0, 1, 2, 4)
    assert stream.block(1.0).fraction_lost == 256 // 5
    for sequence in range(5, 9):
        stream.receive(sequence, sequence * 160, 1.0)
    block = stream.block(2.0)
    assert (block.fraction_lost, block.packets_lost) == (0, 1)
    assert stream.block(3.0).fraction_lost == 0


def test_an_even_stream_has_no_jitter_even_where_the_timestamp_wraps() -> None:
    stream = Reception(7, 0)
    for step in range(100):
        stream.receive(step, (2**32 - 5000 + step * 160) % 2**32, step * 0.02)
    assert stream.jitter_s < 1e-6


def test_jitter_approaches_the_deviation_of_arrival() -> None:
    stream = Reception(7, 0)
    for step in range(200):
        stream.receive(step, step * 160, step * 0.02 + (0.005 if step % 2 else 0.0))
    assert stream.jitter_s == pytest.approx(0.005, rel=0.01)
    stream.receive(200, None, 99.0)  # a digit's timestamp does not tell when it was sent
    assert stream.jitter_s == pytest.approx(0.005, rel=0.01)


def test_a_sender_report_is_echoed_with_its_age() -> None:
    stream = reception(1, 2)
    assert (stream.block(1.0).lsr, stream.block(1.0).dlsr) == (0, 0)
    stream.heard_report(0x1122334455667788, 2.0)
    block = stream.block(3.5)
    assert (block.lsr, block.dlsr) == (0x33445566, 98_304)


def test_the_round_trip_is_what_is_left_of_the_time_since_our_report() -> None:
    ntp = 0x0000111122220000
    block = RtcpReceiverInfo(1, 0, 0, 0, 0, lsr=0x11112222, dlsr=65_536)
    assert round_trip_s(block, ntp + (5 << 30)) == pytest.approx(0.25)
    assert round_trip_s(block, ntp + (1 << 31)) == 0.0  # their clock runs ahead of ours
    assert round_trip_s(RtcpReceiverInfo(1, 0, 0, 0, 0, lsr=0, dlsr=0), ntp) is None
    assert round_trip_s(block, ntp + (40 << 32)) is None  # nobody would talk like that


def test_a_compound_packet_reads_back() -> None:
    sent = RtcpSenderInfo(1 << 63, 160, 1, 160)
    block = reception(1, 2, 4).block(1.0)
    told = compound(9, b"name", sent, [block])
    (report,) = rtcp.parse(told)
    names = RtcpPacket.parse(told)[1]
    assert isinstance(report, RtcpSrPacket) and isinstance(names, RtcpSdesPacket)
    assert (report.ssrc, report.sender_info, report.reports) == (9, sent, [block])
    assert names.chunks[0].items == [(rtcp.CNAME, b"name")]
    assert rtcp.parse(compound(9, b"name", None, [])) == [RtcpRrPacket(9, [])]


def test_two_parties_tell_each_other_what_they_heard() -> None:
    ours, theirs = Reports(1, 0.0), Reports(2, 50.0)  # whose clocks say different times
    ours.begin(0.0)
    assert not ours.is_due(1.2) and ours.is_due(3.8)
    assert Reports(3, 0.0).source is None
    for sequence in (10, 11, 13):
        assert not theirs.heard(1, sequence, sequence * 160, sequence * 0.02)
        assert not ours.heard(2, sequence, None, 0.0)
    theirs.read(ours.say(3, 480, 2080, now=4.0), now=4.1)
    ours.read(theirs.say(0, 0, 0, now=5.1), now=5.2)
    assert ours.round_trip_s == pytest.approx(0.2, abs=1e-4)
    assert theirs.round_trip_s is None
    assert (ours.lost, theirs.lost, ours.source) == (1, 1, 2)
    assert not ours.is_due(6.4) and ours.is_due(11.6)


def test_a_report_is_a_senders_only_when_more_was_sent() -> None:
    reports = Reports(1, 0.0)
    kinds = [type(rtcp.parse(reports.say(packets, 0, 0, 9.0))[0]) for packets in (0, 1, 1, 2)]
    assert kinds == [RtcpRrPacket, RtcpSrPacket, RtcpRrPacket, RtcpSrPacket]


def test_another_source_is_told_and_the_losses_of_all_are_summed() -> None:
    reports = Reports(1, 0.0)
    for sequence in (1, 3):
        assert not reports.heard(2, sequence, sequence, 0.0)
    assert reports.heard(3, 40_000, 0, 0.0)
    assert not reports.heard(3, 40_003, 0, 0.0)
    assert reports.lost == 3


def test_the_time_of_day_is_in_a_senders_report() -> None:
    report = rtcp.parse(Reports(1, 1_000_000.0).say(1, 1, 1, now=5.25))[0]
    assert isinstance(report, RtcpSrPacket)
    assert report.sender_info.ntp_timestamp == (1_000_005 + 2_208_988_800 << 32) + (1 << 30)


def test_a_goodbye_is_passed_over() -> None:
    assert rtcp.parse(bytes(RtcpByePacket([1]))) == []


@pytest.mark.parametrize("kind", ["sender", "receiver"])
def test_what_a_profile_adds_to_a_report_is_passed_over(kind: str) -> None:
    """Section 6.4.3: before it are as many blocks as are said; padding may follow."""
    sent = RtcpSenderInfo(1 << 63, 160, 1, 160) if kind == "sender" else None
    block = reception(1, 2, 4).block(1.0)
    plain = compound(9, b"name", sent, [block])
    size = (28 if sent else 8) + 24
    longer = plain[:2] + (size // 4 - 1 + 3).to_bytes(2, "big") + plain[4:size] + b"\x07" * 12 + plain[size:]
    assert rtcp.parse(longer) == rtcp.parse(plain)
    padded = bytes([plain[0] | 0x20]) + longer[1:size] + b"\0\0\0\x0c".rjust(12, b"\0")
    assert rtcp.parse(padded) == rtcp.parse(plain)


@pytest.mark.parametrize("length", range(1, 9))
def test_a_mixers_names_do_not_matter_to_its_report(length: int) -> None:
    """It has several chunks, each filled up to 32 bits (section 6.5)."""
    chunk = bytes([0, 0, 0, 9, rtcp.CNAME, length]) + b"x" * length
    chunk += b"\0" * (4 - len(chunk) % 4)
    names = bytes([0x82, 202]) + (2 * len(chunk) // 4).to_bytes(2, "big") + 2 * chunk
    report = bytes(RtcpRrPacket(9, [reception(1, 2, 4).block(1.0)]))
    assert rtcp.parse(report + names) == rtcp.parse(report)
    assert rtcp.parse(names + report) == rtcp.parse(report)


@pytest.mark.parametrize("data", [b"", b"\x80", b"\x80\xc8\x00\x00", b"\x81\xc9\x00\x01\x00\x00\x00\x01", b"\x00" * 8])
def test_torn_packets_are_value_errors(data: bytes) -> None:
    with pytest.raises(ValueError, match="."):
        rtcp.parse(data)


@given(st.binary(max_size=120))
def test_any_bytes_are_read_or_a_value_error(data: bytes) -> None:
    try:
        rtcp.parse(data)
    except ValueError as error:
        assert str(error)


@given(st.sampled_from([200, 201, 202, 203, 205, 206]), st.integers(0, 63), st.binary(max_size=64))
def test_any_body_under_a_right_header_is_read_or_a_value_error(kind: int, flags: int, body: bytes) -> None:
    body += b"\0" * (-len(body) % 4)
    try:
        rtcp.parse(bytes([0x80 | flags, kind]) + (len(body) // 4).to_bytes(2, "big") + body)
    except ValueError as error:
        assert str(error)


@given(st.lists(st.tuples(st.integers(0, 65_535), st.integers(0, 2**32 - 1), st.floats(0, 1e6)), min_size=1))
def test_any_packets_keep_the_block_within_its_fields(packets: list[tuple[int, int, float]]) -> None:
    stream = Reception(7, packets[0][0])
    for sequence, timestamp, _ in packets:
        stream.receive(sequence, timestamp, 0.0)
        assert stream.lost >= 0
    for _, _, now in sorted(packets, key=lambda packet: packet[2]):
        assert len(bytes(stream.block(now))) == 24
