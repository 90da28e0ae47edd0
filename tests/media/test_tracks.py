"""Tracks: each source is received by itself, and all are heard mixed."""

from __future__ import annotations

import numpy as np
from aiortc.rtp import RtcpRrPacket, RtcpSenderInfo, RtpPacket

from media.codec import G722, PCMU
from media.dtmf import SILENT_S, Event
from media.leg import Pcm
from media.negotiation import choose
from media.rtcp import Reports, compound
from media.rtcp import parse as parse_rtcp
from media.sdp import parse
from media.secure import Security
from media.tracks import IDLE_S, MAX_TRACKS, Tracks
from tests.media.line import THERE, sdp, tone

SOURCE = (THERE, 4000)


class Speaker:
    """One source: an even tone."""

    def __init__(self, ssrc: int, hertz: float = 440.0) -> None:
        self._ssrc, self._number = ssrc, 0
        self._encode, self._blocks = PCMU.make_encoder(), tone(PCMU, hertz)

    def packet(self) -> bytes:
        payload = self._encode(next(self._blocks))
        packet = RtpPacket(0, 0, self._number, self._number * 160, self._ssrc, payload)
        self._number += 1
        return packet.serialize()


def begun() -> Tracks:
    made = Tracks(THERE, Reports(1, 0.0), Security())
    made.adopt(choose(parse(sdp("m=audio 4000 RTP/AVP 0")), THERE), 0.0)
    made.begin(0.0)
    return made


def listen(made: Tracks, *speakers: Speaker, ticks: int = 50, start: float = 0.0) -> Pcm:
    """What is heard meanwhile, but for the beginning."""
    blocks = []
    for number in range(ticks):
        now = start + number * 0.02
        for speaker in speakers:
            made.receive_rtp(speaker.packet(), SOURCE, now)
        blocks.append(made.tick(now).pcm)
    return np.concatenate(blocks[-25:])


def loud(pcm: Pcm, hertz: float) -> bool:
    spectrum = np.abs(np.fft.rfft(pcm)) / len(pcm)
    return bool(spectrum[round(hertz * len(pcm) / 8000)] > 0.02)


def test_all_who_speak_are_heard_at_once_and_counted_together() -> None:
    made = begun()
    heard = listen(made, Speaker(1, 440.0), Speaker(2, 880.0))
    assert loud(heard, 440.0) and loud(heard, 880.0) and not loud(heard, 660.0)
    assert (made.packets, made.lost, len(made.receivers)) == (100, 0, 2)
    assert not made.dropped


def test_one_who_falls_silent_is_not_heard_and_the_others_are() -> None:
    made = begun()
    both = Speaker(1, 440.0), Speaker(2, 880.0)
    listen(made, *both)
    heard = listen(made, both[1], ticks=100, start=1.0)
    assert loud(heard, 880.0) and not loud(heard, 440.0)


def test_many_at_once_do_not_leave_the_range() -> None:
    made = begun()
    heard = listen(made, *(Speaker(number, 440.0) for number in range(1, 9)))
    assert 0.9 < float(np.abs(heard).max()) <= 1.0


def test_nobody_is_silence() -> None:
    assert not begun().tick(0.02).pcm.any()


def test_full_the_one_who_was_silent_longest_gives_way_once_he_was_for_long() -> None:
    made = begun()
    for number in range(MAX_TRACKS):
        made.receive_rtp(Speaker(1 + number).packet(), SOURCE, number / 100)
    made.receive_rtp(Speaker(99).packet(), SOURCE, 1.0)
    assert (made.dropped["one track too many"], len(made.receivers)) == (1, MAX_TRACKS)
    made.receive_rtp(Speaker(99).packet(), SOURCE, IDLE_S)
    assert (made.dropped["one track too many"], len(made.receivers)) == (1, MAX_TRACKS)


def test_what_is_no_audio_of_theirs_opens_no_track() -> None:
    made = begun()
    stranger = RtpPacket(77, 0, 1, 1, 5, b"x").serialize()
    made.receive_rtp(stranger, SOURCE, 0.0)
    made.receive_rtp(b"\x80", SOURCE, 0.0)
    made.receive_rtp(Speaker(1).packet(), ("203.0.113.9", 1), 0.0)
    assert made.receivers == [] and made.packets == 0
    assert dict(made.dropped) == {"unknown payload type": 1, "not RTP": 1, "foreign source": 1}
    waiting = Tracks(THERE, Reports(1, 0.0), Security())
    waiting.receive_rtp(Speaker(1).packet(), SOURCE, 0.0)
    assert waiting.dropped["before the answer"] == 1


def test_what_was_lost_of_each_is_told() -> None:
    made, speaker = begun(), Speaker(1)
    listen(made, speaker)
    for _ in range(3):
        speaker.packet()
    listen(made, speaker, start=1.06)
    assert made.lost == 3 and made.jitter_s >= 0.0


def test_in_another_codec_all_begin_anew() -> None:
    made = begun()
    listen(made, Speaker(1), Speaker(2, 880.0))
    made.adopt(choose(parse(sdp("m=audio 4000 RTP/AVP 9")), THERE), 1.0)
    assert made.codec is G722 and made.receivers == []
    payload = G722.make_encoder()(next(tone(G722)))
    for number in range(10):
        made.receive_rtp(RtpPacket(9, 0, number, number * 160, 3, payload).serialize(), SOURCE, 1.0 + number * 0.02)
        assert len(made.tick(1.0 + number * 0.02).pcm) == G722.block_samples
    assert len(made.receivers) == 1


def test_a_key_whose_end_was_lost_is_told_of_a_while_later() -> None:
    made = begun()
    made.adopt(choose(parse(sdp("m=audio 4000 RTP/AVP 0 101", "a=rtpmap:101 telephone-event/8000")), THERE), 0.0)
    listen(made, Speaker(1))
    pressed = RtpPacket(101, 1, 50, 9_000, 1, bytes(Event(5, False, 160))).serialize()
    assert made.receive_rtp(pressed, SOURCE, 1.0) == []
    assert made.poll(1.0) == []
    assert [digit.key for digit in made.poll(1.1 + SILENT_S)] == ["5"]


def test_the_server_is_told_how_each_of_them_is_received() -> None:
    made, ours = begun(), Reports(1, 0.0)
    listen(made, Speaker(5), Speaker(7, 880.0), ticks=20)
    sent = RtcpSenderInfo(0x0123_4567_89AB_CDEF, 0, 20, 3_200)
    made.receive_rtcp(compound(7, b"x", sent, []), SOURCE, 0.5)
    (report,) = parse_rtcp(ours.say(0, 0, 0, 1.0, made.blocks(1.0)))
    assert isinstance(report, RtcpRrPacket)
    assert [(block.ssrc, block.packets_lost) for block in report.reports] == [(5, 0), (7, 0)]
    assert [block.highest_sequence for block in report.reports] == [19, 19]
    assert [block.lsr for block in report.reports] == [0, 0x4567_89AB]


def test_what_is_not_authentic_makes_no_track_and_is_counted() -> None:
    made = Tracks(THERE, Reports(1, 0.0), (security := Security()))
    made.adopt(choose(parse(sdp("m=audio 4000 RTP/AVP 0")), THERE), 0.0)
    security._unprotectors[0].wait(0.0)
    for number in range(1, 30):
        made.receive_rtp(Speaker(number).packet(), SOURCE, 0.0)
    assert made.receivers == [] and made.dropped == {"SRTP before its key": 29}
