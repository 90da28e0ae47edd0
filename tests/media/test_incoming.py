"""Blocks become exchanges: equally long, aligned, at most three waiting."""

from __future__ import annotations

import numpy as np
import pytest

from media.incoming import MAX_WAITING_S, Incoming
from media.leg import AudioFormat, Pcm
from media.outgoing import Sent
from media.playout import Heard

MOSHI = AudioFormat(24_000, 1_920)
RATES = (8_000, 16_000, 48_000)


def heard(rate: int, level: float = 0.0, concealed: int = 0) -> Heard:
    return Heard(np.full(rate // 50, level, np.float32), concealed)


def sent(level: float = 0.0, padded: int = 0, cut: int = 0) -> Sent:
    return Sent(np.zeros(160, np.float32), np.full(480, level, np.float32), padded, cut)


def put_frames(incoming: Incoming, levels: list[float], rate: int = 8_000) -> None:
    for level in levels:
        for _ in range(4):
            incoming.put(heard(rate, level), sent(level))


@pytest.mark.parametrize("rate", RATES)
def test_the_fourth_packet_completes_a_frame(rate: int) -> None:
    """From the very first frame on, whatever the resampler holds back."""
    incoming = Incoming(MOSHI, rate)
    for number in range(1, 41):
        incoming.put(heard(rate), sent())
        exchange = incoming.take()
        assert (exchange is not None) == (number % 4 == 0)
        if exchange is not None:
            assert exchange.heard.shape == exchange.played.shape == (1_920,)
            assert exchange.heard.dtype == exchange.played.dtype == np.float32


@pytest.mark.parametrize("rate", RATES)
def test_it_is_the_same_sound_at_another_rate_and_two_milliseconds_later(rate: int) -> None:
    incoming, frames = Incoming(MOSHI, rate), []
    tone = tone_of(rate, 0.8)
    for block in tone.reshape(-1, rate // 50):
        incoming.put(Heard(block), sent())
        if exchange := incoming.take():
            frames.append(exchange.heard)
    got, want = np.concatenate(frames), tone_of(24_000, 0.8)
    errors = [float(np.abs(got[shift + 4_800 : 14_400] - want[4_800 : 14_400 - shift]).max()) for shift in range(49)]
    assert min(errors) < 2e-3


def tone_of(rate: int, seconds: float) -> Pcm:
    return (0.4 * np.sin(2 * np.pi * 700 * np.arange(round(rate * seconds)) / rate)).astype(np.float32)


def test_both_sides_are_of_the_same_ticks() -> None:
    """A step in the same tick on both sides is at the same place in the exchange, but for the resampler's 2 ms."""
    incoming = Incoming(MOSHI, 8_000)
    for level in (0.0, 0.0, 0.5, 0.5):
        incoming.put(heard(8_000, level), sent(level))
    exchange = incoming.take()
    assert exchange is not None
    rises = [int(np.flatnonzero(side > 0.25)[0]) for side in (exchange.heard, exchange.played)]
    assert rises[1] == 960 and 0 <= rises[0] - 960 <= 50


def test_counts_are_of_the_exchange_at_the_users_rate() -> None:
    incoming = Incoming(MOSHI, 8_000)
    incoming.put(heard(8_000, concealed=160), sent(padded=480))
    incoming.put(heard(8_000, concealed=40), sent(padded=20, cut=5))
    incoming.put(heard(8_000), sent(cut=7))
    incoming.put(heard(8_000), sent())
    put_frames(incoming, [0.0])
    first, second = incoming.take(), incoming.take()
    assert first is not None and second is not None
    assert (first.concealed, first.padded, first.cut, first.skipped) == (600, 500, 12, 0)
    assert (second.concealed, second.padded, second.cut, second.skipped) == (0, 0, 0, 0)


def test_three_wait_and_the_oldest_is_skipped_but_its_counts_are_not() -> None:
    incoming = Incoming(MOSHI, 8_000)
    for _ in range(4):
        incoming.put(heard(8_000, 0.1, concealed=160), sent(0.1, padded=480, cut=3))
    put_frames(incoming, [0.2, 0.3, 0.4, 0.5])
    assert incoming.waiting == round(MAX_WAITING_S / MOSHI.frame_s) == 3
    exchange = incoming.take()
    assert exchange is not None
    assert exchange.played[0] == pytest.approx(0.3) and exchange.skipped == 2 * 1_920
    assert (exchange.concealed, exchange.padded, exchange.cut) == (4 * 480, 4 * 480, 12)
    rest = [incoming.take(), incoming.take()]
    assert [round(float(after.played[0]), 1) for after in rest if after] == [0.4, 0.5]
    assert all(after and after.skipped == 0 and after.padded == 0 for after in rest)
    assert incoming.take() is None


def test_what_was_skipped_while_nobody_took_is_told_once() -> None:
    incoming = Incoming(MOSHI, 8_000)
    put_frames(incoming, [0.1] * 10)
    taken = [incoming.take() for _ in range(3)]
    assert [exchange.skipped for exchange in taken if exchange] == [7 * 1_920, 0, 0]


def test_the_last_tick_says_whether_it_is_held() -> None:
    """The first frame after a resume is stepped, though the hold ended within it."""
    incoming = Incoming(MOSHI, 8_000)
    for held in (False, True, True, True, True, True, True, False):
        incoming.put(heard(8_000), sent(), held)
    first, second = incoming.take(), incoming.take()
    assert first is not None and first.held
    assert second is not None and not second.held


def test_a_change_of_codec_within_a_frame_keeps_frames_whole() -> None:
    incoming = Incoming(MOSHI, 8_000)
    for _ in range(10):
        for _ in range(2):
            incoming.put(heard(8_000, 0.2), sent())
        incoming.change_rate(16_000)
        for _ in range(2):
            incoming.put(heard(16_000, 0.2), sent())
        incoming.change_rate(8_000)
        exchange = incoming.take()
        assert exchange is not None and exchange.heard.shape == (1_920,)


def test_other_frames_than_80_ms() -> None:
    incoming = Incoming(AudioFormat(16_000, 640), 8_000)
    incoming.put(heard(8_000), Sent(np.zeros(160, np.float32), np.zeros(320, np.float32)))
    assert incoming.take() is None
    incoming.put(heard(8_000), Sent(np.zeros(160, np.float32), np.zeros(320, np.float32)))
    exchange = incoming.take()
    assert exchange is not None and exchange.heard.shape == exchange.played.shape == (640,)
    with pytest.raises(ValueError, match="multiple of 20 ms, not 30 ms"):
        Incoming(AudioFormat(24_000, 720), 8_000)


def test_short_frames_wait_as_long_as_long_ones() -> None:
    incoming = Incoming(AudioFormat(24_000, 480), 24_000)
    for _ in range(20):
        incoming.put(heard(24_000), sent())
    exchange = incoming.take()
    assert exchange is not None and exchange.skipped == 8 * 480
    assert incoming.waiting == round(MAX_WAITING_S / 0.02) - 1 == 11


def test_time_that_was_never_put_in_is_skipped() -> None:
    incoming = Incoming(MOSHI, 8_000)
    incoming.skip(960)
    put_frames(incoming, [0.1, 0.2])
    exchanges = [incoming.take(), incoming.take()]
    assert [each.skipped for each in exchanges if each] == [960, 0]


def test_the_last_tick_of_a_frame_says_who_speaks() -> None:
    incoming = Incoming(MOSHI, 8_000)
    for speakers in ((), ("ada",), ("bob", "ada"), ("bob",)):
        incoming.put(heard(8_000), sent(), speakers=speakers)
    put_frames(incoming, [0.1])
    exchanges = [incoming.take(), incoming.take()]
    assert [each.speakers for each in exchanges if each] == [("bob",), ()]
