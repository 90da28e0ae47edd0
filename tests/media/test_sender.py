"""The sending half: numbers, times and markers of packets, without a socket."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from aiortc.rtp import RtpPacket

from media.codec import G722, PCMA
from media.dtmf import EventPacket
from media.leg import Pcm
from media.negotiation import choose
from media.sdp import parse
from media.sender import Sender
from media.stream import Stream

BLOCK: Pcm = np.zeros(160, np.float32)


def agreed(ptime_ms: int = 20) -> Stream:
    lines = ["v=0", "c=IN IP4 192.0.2.1", "m=audio 4000 RTP/AVP 0 127", "a=rtpmap:127 telephone-event/8000"]
    return choose(parse("\r\n".join([*lines, f"a=ptime:{ptime_ms}", ""])), "192.0.2.1")


def sender(ptime_ms: int = 20) -> Sender:
    made = Sender()
    made.adopt(agreed(ptime_ms))
    return made


def said(sender: Sender, ticks: int) -> list[RtpPacket]:
    packets = []
    for _ in range(ticks):
        packets += [RtpPacket.parse(data) for data in sender.audio(BLOCK)]
        sender.advance()
    return packets


def test_two_begin_at_different_places() -> None:
    senders = [Sender() for _ in range(4)]
    for field in ("ssrc", "sequence", "timestamp"):
        assert len({getattr(one, field) for one in senders}) > 1


def test_numbers_and_times_wrap() -> None:
    one = sender()
    one.sequence, one.timestamp = 0xFFFF, 0xFFFFFFFF - 159
    packets = said(one, 3)
    assert [packet.sequence_number for packet in packets] == [0xFFFF, 0, 1]
    assert [packet.timestamp for packet in packets] == [0xFFFFFFFF - 159, 0, 160]
    assert (one.packets, one.octets) == (3, 480)


def test_the_first_packet_after_a_pause_is_marked_and_its_time_is_where_the_ticks_are() -> None:
    one = sender()
    before = said(one, 2)
    assert one.pause() == []
    one.advance()
    after = said(one, 2)
    assert [packet.marker for packet in before + after] == [1, 0, 1, 0]
    assert (after[0].timestamp - before[0].timestamp) & 0xFFFFFFFF == 3 * 160


def test_what_waits_for_a_longer_packet_leaves_at_a_pause_or_in_the_codec_that_it_was_said_in() -> None:
    stops: list[Callable[[Sender], list[bytes]]] = [
        lambda one: one.pause(),
        lambda one: one.adopt(replace(agreed(), payload_type=8, codec=PCMA)),
    ]
    for stop in stops:
        one = sender(60)
        first, began = said(one, 4)[0], one.timestamp
        (rest,) = [RtpPacket.parse(data) for data in stop(one)]
        assert (rest.payload_type, len(rest.payload), rest.marker) == (0, 160, 0)
        assert (rest.timestamp - first.timestamp) & 0xFFFFFFFF == 480
        assert (one.timestamp - began, one.sequence) == (0, (rest.sequence_number + 1) & 0xFFFF)


def test_the_same_description_again_leaves_the_encoder_alone() -> None:
    """A refresh of the session must not be heard: the far end's decoder follows our encoder's state."""
    noise = np.random.default_rng(1).normal(0, 0.1, (20, 320)).astype(np.float32)
    one, other = Sender(), Sender()
    for each in (one, other):
        each.adopt(replace(agreed(), codec=G722))
    for block in noise:
        other.adopt(replace(agreed(), codec=G722))
        payloads = [RtpPacket.parse(each.audio(block)[0]).payload for each in (one, other)]
        assert payloads[0] == payloads[1]


@pytest.mark.parametrize("marker", [True, False])
def test_keys_and_keep_alives_are_numbered_with_the_audio(marker: bool) -> None:
    one = sender()
    data = [*one.audio(BLOCK), one.event(EventPacket(b"\x01\x0a\x00\xa0", 77, marker)), *one.keep_alive()]
    audio, event, kept = (RtpPacket.parse(packet) for packet in data)
    assert (event.payload_type, event.timestamp, event.marker, event.payload) == (127, 77, marker, b"\x01\x0a\x00\xa0")
    assert (kept.payload_type, kept.payload, kept.timestamp) == (126, b"", one.timestamp)
    first = audio.sequence_number
    assert [event.sequence_number, kept.sequence_number] == [(first + 1) & 0xFFFF, (first + 2) & 0xFFFF]
    assert {audio.ssrc, event.ssrc, kept.ssrc} == {one.ssrc}


def test_where_every_type_was_agreed_nothing_keeps_the_way_open() -> None:
    one = sender()
    one.adopt(replace(agreed(), event_types=frozenset(range(96, 128))))
    assert one.keep_alive() == [] and one.packets == 0
