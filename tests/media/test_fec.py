"""Lost packets of Opus in the playout: what the next ones tell of them, and pauses of a sender that says nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from media.codec import OPUS, Codec
from media.opus import OpusEncoder
from media.pcm import silence
from media.playout import Playout
from tests.media.path import TICK_S, Line, network, packets, voice


def sent_with(fmtp: str) -> Codec:
    """Opus as it is sent to who asks for that."""
    return replace(OPUS, make_encoder=lambda _="": OpusEncoder(fmtp))


WITH, WITHOUT = sent_with("useinbandfec=1"), sent_with("")


@pytest.mark.parametrize("jitter_s", [0.0, 0.005, 0.02])
@pytest.mark.parametrize("loss", [0.02, 0.05])
def test_with_fec_a_third_is_concealed_of_what_is_without(jitter_s: float, loss: float) -> None:
    """The same packets are lost in both; counted in blocks, not judged by ear."""
    lines = {}
    for codec in (WITH, WITHOUT):
        sent = packets(codec, voice(20.0))
        arrived = network(sent, jitter_s, loss)
        lines[codec] = line = Line(codec)
        line.run(arrived, 20.0)
        lost = len(sent) - len(arrived)
    fec, plain = lines[WITH].playout, lines[WITHOUT].playout
    assert plain.recovered == 0 and plain.concealed >= lost - 1 > 10
    assert fec.concealed <= plain.concealed / 2
    assert fec.recovered + fec.concealed >= lost - 1


def test_what_is_recovered_sounds_like_what_was_lost() -> None:
    """Nearer to a stream without loss than what is invented in its place."""
    pcm = voice(10.0)
    outs = {}
    for name, codec, loss in (("whole", WITH, 0.0), ("fec", WITH, 0.05), ("plain", WITHOUT, 0.05)):
        line = Line(codec)
        line.playout._delay.reserve(1e9)  # all three wait equally long
        blocks = []
        arrivals = sorted(network(packets(codec, pcm), 0.0, loss), key=lambda packet: packet.arrival)
        for number in range(480):
            while arrivals and arrivals[0].arrival <= number * TICK_S:
                packet = arrivals.pop(0)
                line.playout.receive(packet.timestamp, packet.payload, packet.arrival)
            blocks.append(line.playout.tick(number * TICK_S).pcm)
        outs[name] = np.concatenate(blocks[50:])
    errors = {name: float(np.sum(np.square(outs[name] - outs["whole"]))) for name in ("fec", "plain")}
    assert errors["fec"] < errors["plain"] / 1.5


def test_who_has_lost_nothing_waits_no_longer_for_fec() -> None:
    delays = []
    for loss in (0.0, 0.05):
        line = Line(WITH)
        line.run(network(packets(WITH, voice(10.0)), 0.0, loss), 10.0)
        delays.append(line.playout.delay_s)
    assert delays[0] < 0.03 and delays[0] + 0.015 < delays[1] < 0.06


def test_pauses_of_a_sender_that_says_nothing_are_not_concealed() -> None:
    """DTX: a packet of a byte or two says that there is nothing to say; then none comes for a while."""
    encode, playout = OpusEncoder(), Playout(OPUS)
    heard = []
    for number in range(100):
        now = number * TICK_S
        paused = 30 <= number < 60
        if not paused:
            sound = encode(voice(2.0)[960 * number : 960 * (number + 1)])
            playout.receive(960 * number, sound, now - 0.01)
        elif number == 30:
            playout.receive(960 * number, b"\x78", now - 0.01)  # the TOC alone
        heard.append(playout.tick(now))
    assert playout.concealed == 0 and sum(block.concealed for block in heard) == 0
    loud = [float(np.abs(block.pcm).max()) > 0.01 for block in heard]
    assert not any(loud[38:58]) and all(loud[66:])


@pytest.mark.parametrize("ms", [10, 20, 40, 60])
def test_packets_of_any_length_are_heard_and_tell_of_one_that_was_lost(ms: int) -> None:
    pcm, samples = voice(4.0), 48 * ms
    encode, playout = OpusEncoder("useinbandfec=1"), Playout(OPUS)
    sent = [encode(pcm[start : start + samples]) for start in range(0, len(pcm) - samples, samples)]
    lost = {number for number in range(20, len(sent)) if number % 10 == 0}
    playout._delay.reserve(1e9)
    for tick in range(200):
        now = tick * TICK_S
        for number in range(len(sent)):
            if now - TICK_S < number * ms / 1000 + 0.007 <= now and number not in lost:
                playout.receive(number * samples, sent[number], now)
        playout.tick(now)
    assert playout.dropped.total() == 0 and len(lost) > 3
    assert playout.recovered > 0 or ms == 10  # 20 ms of the lost ones at most, so that the rest is invented
    assert len(playout.tick(4.0).pcm) == len(silence(960))
