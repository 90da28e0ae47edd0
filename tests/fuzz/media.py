"""What reads session descriptions, RTP, RTCP and digits, as functions that raise for whatever must not happen."""

from __future__ import annotations

import re

from aiortc.rtp import RtpPacket

from media import dtmf as events
from media.crypto import Policy
from media.describer import Describer
from media.leg import LegError
from media.negotiation import choose, confirm
from media.receiver import Receiver
from media.rtcp import Reports
from media.sdp import parse as parse_sdp
from signaling.sip.info import KINDS, digit

PEER = "192.0.2.7"
POLICIES: tuple[Policy, ...] = ("off", "accept", "demand")

_KEY = re.compile(r"inline:([A-Za-z0-9+/=]{8,})")


def sdp(data: bytes) -> None:
    """An offer and an answer: agreed on, or refused in words that have no key in them; what we write can be read."""
    text = data.decode(errors="replace")
    policy = POLICIES[len(data) % 3]
    try:
        offer = parse_sdp(text)
        stream = choose(offer, PEER, policy)
    except LegError as error:
        _said(text, error)
    else:
        _keeps_keys(text, repr(stream))
        answer = Describer(1, policy).answer(offer, stream, "198.51.100.1", 4000)
        assert "\n" not in answer.replace("\r\n", "")
        assert len(parse_sdp(answer).media) == len(offer.media)
    _answered(text)


def _answered(text: str) -> None:
    """The same text as the answer to an offer of ours."""
    for policy in (POLICIES[0], POLICIES[2]):
        offer = parse_sdp(Describer(1, policy).offer("198.51.100.1", 4000))
        try:
            confirm(offer, parse_sdp(text), PEER, policy)
        except LegError as error:
            _said(text, error)


def _said(text: str, error: LegError) -> None:
    """What is told of it is fit for a log."""
    assert str(error).isprintable() and len(str(error)) < 2000
    _keeps_keys(text, str(error))


def _keeps_keys(text: str, said: str) -> None:
    for key in _KEY.findall(text):
        assert text.count(key) > 1 or key not in said, "a key was told"


def dtmf(data: bytes) -> None:
    """Packets of telephone-events, 9 bytes each: time that passes, a timestamp, a payload; and the same as INFO."""
    receiver, now, keys = events.DigitReceiver(), 0.0, 0
    for at in range(0, len(data), 9):
        chunk = data[at : at + 9]
        now += chunk[0] / 256
        try:
            digits = receiver.receive(chunk[5:], int.from_bytes(chunk[1:5], "big"), chunk[0] % 3, now)
        except ValueError:
            assert len(chunk[5:]) < 4
            continue
        digits += receiver.poll(now)
        assert all(heard.key in events.KEYS and 0 <= heard.duration_s < 2**32 for heard in digits)
        keys += len(digits)
        event = events.Event.parse(chunk[5:])
        assert events.Event.parse(bytes(event)) == event
    keys += len(receiver.poll(now + 1))
    assert keys <= -(-len(data) // 9)
    assert receiver.poll(now + 2) == []
    for kind in KINDS:
        assert len(digit(kind, data)) <= 1


def media(data: bytes) -> None:
    """Datagrams at a leg's ports, each after a byte with its length: RTP at even ones, RTCP at odd ones."""
    receiver = Receiver(PEER, Reports(7, 1.7e9))
    now, at, count = 0.0, 0, 0
    receiver.receive_rtp(data, (PEER, 4000), now)
    receiver.adopt(choose(parse_sdp(OFFER), PEER), now)
    receiver.begin(now)
    while at < len(data):
        size, packet = data[at], data[at + 1 : at + 1 + data[at]]
        at, count, now = at + 1 + size, count + 1, now + 0.02
        if size % 2:
            receiver.receive_rtcp(packet, (PEER, 4001), now)
        else:
            receiver.receive_rtp(packet, (PEER, 4000 + 2 * (size % 8 == 2)), now)
        assert len(receiver.tick(now).pcm) == 160
        receiver.poll(now)
    receiver.receive_rtp(RtpPacket(payload_type=0, ssrc=9, payload=b"\xff" * 160).serialize(), (PEER, 4000), now)
    assert receiver.packets <= count + 1 and sum(receiver.dropped.values()) <= count + 2
    assert receiver.target[0] == PEER


OFFER = (
    "v=0\r\no=- 1 1 IN IP4 192.0.2.7\r\ns=-\r\nc=IN IP4 192.0.2.7\r\nt=0 0\r\n"
    "m=audio 4000 RTP/AVP 0 101\r\na=rtpmap:101 telephone-event/8000\r\n"
)
