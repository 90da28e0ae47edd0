"""From replies to the wire: the lead, what an underrun costs, and how it is paid for."""

from __future__ import annotations

import numpy as np
import pytest

from media.leg import AudioFormat, Pcm
from media.outgoing import Outgoing, Sent

MOSHI = AudioFormat(24_000, 1_920)
BLOCK = 480


def frame(level: float = 0.0) -> Pcm:
    return np.full(1_920, level, np.float32)


def noise(frames: int, seed: int = 1) -> Pcm:
    """Never quiet, but smooth enough that a click would stand out."""
    white = np.random.default_rng(seed).normal(0, 1, frames * 1_920 + 16)
    return (0.1 * np.convolve(white, np.hanning(17), "valid")).astype(np.float32)


def steepest(pcm: Pcm) -> float:
    return float(np.abs(np.diff(pcm)).max())


def played(sent: list[Sent]) -> Pcm:
    return np.concatenate([block.played for block in sent])


class Talk:
    """An outgoing queue whose replies come with every fourth tick, just before it, but for `late` ticks."""

    def __init__(self, source: Pcm | None = None, rate: int = 8_000) -> None:
        self.outgoing = Outgoing(MOSHI, rate)
        self.sent: list[Sent] = []
        self._frames = iter((noise(200) if source is None else source).reshape(-1, 1_920))

    def replies(self, count: int) -> None:
        for _ in range(count):
            self.outgoing.play(next(self._frames))

    def tick(self, count: int) -> list[Sent]:
        new = [self.outgoing.tick() for _ in range(count)]
        self.sent += new
        return new

    def go_on(self, frames: int) -> list[Sent]:
        first = len(self.sent)
        for _ in range(frames):
            self.replies(1)
            self.tick(4)
        return self.sent[first:]

    def stall(self, ticks: int) -> None:
        """The next reply is late by so many ticks; what came to wait meanwhile, 3 frames at most, follows at once."""
        self.tick(ticks)
        self.replies(1 + min(3, ticks // 4))
        self.tick(4 - ticks % 4)


@pytest.mark.parametrize("rate", [8_000, 16_000, 48_000])
def test_a_frame_leaves_as_four_blocks_at_the_codecs_rate(rate: int) -> None:
    talk = Talk(rate=rate)
    talk.go_on(5)
    assert {len(block.pcm) for block in talk.sent} == {rate // 50}
    assert {len(block.played) for block in talk.sent} == {BLOCK}


@pytest.mark.parametrize("rate", [8_000, 16_000, 48_000])
def test_what_is_sent_is_what_was_said_one_lead_later(rate: int) -> None:
    """20 ms of lead; the wire has the same, later by the resampler's 2 ms at most."""
    tone = (0.3 * np.sin(2 * np.pi * 500 * np.arange(1_920 * 10) / 24_000)).astype(np.float32)
    talk = Talk(tone, rate)
    talk.go_on(10)
    assert np.array_equal(played(talk.sent)[BLOCK:], tone[:-BLOCK])
    wire = np.concatenate([block.pcm for block in talk.sent])
    spectrum = np.abs(np.fft.rfft(wire[rate // 10 : rate // 10 + rate // 5]))
    assert int(np.argmax(spectrum)) == 100  # 500 Hz in 0.2 s
    assert np.flatnonzero(np.abs(wire) > 0.02)[0] <= rate * 0.023


def test_before_the_first_reply_silence_is_no_underrun() -> None:
    talk = Talk()
    blocks = talk.tick(20)
    assert not played(blocks).any() and sum(block.padded for block in blocks) == 0
    talk.go_on(3)
    assert (talk.outgoing.underruns, talk.outgoing.padded) == (0, 0)


def test_a_reply_may_be_late_by_the_lead() -> None:
    talk = Talk()
    talk.go_on(10)
    talk.tick(1)
    talk.go_on(10)
    assert talk.outgoing.padded == 0


def test_an_underrun_is_silence_that_is_counted_and_makes_the_lead_longer() -> None:
    talk = Talk()
    talk.go_on(10)
    late = talk.tick(3)
    assert [block.padded for block in late] == [0, BLOCK, BLOCK]
    assert not late[-1].played.any()
    assert talk.outgoing.padded == 2 * BLOCK and talk.outgoing.underruns == 1
    assert talk.outgoing.lead_s == pytest.approx(0.04)


def test_a_reply_that_ends_in_mid_block_is_padded_to_the_block() -> None:
    outgoing = Outgoing(MOSHI, 8_000)
    outgoing.play(np.full(700, 0.5, np.float32))
    blocks = [outgoing.tick() for _ in range(3)]
    assert [block.padded for block in blocks] == [0, 0, 260]
    assert blocks[2].played[219] == pytest.approx(0.5)
    assert blocks[2].played[220 + 96 :].tolist() == [0.0] * (260 - 96)


def test_the_lead_grows_to_80_ms_and_no_further() -> None:
    talk = Talk()
    for _ in range(6):
        talk.go_on(8)
        talk.stall(8)
    assert talk.outgoing.underruns == 6 and talk.outgoing.lead_s == pytest.approx(0.08)


def test_after_ten_calm_seconds_the_lead_is_shorter_and_the_queue_with_it() -> None:
    talk = Talk(noise(400))
    talk.go_on(10)
    talk.stall(3)
    talk.go_on(115)  # 9.2 s
    assert talk.outgoing.lead_s == pytest.approx(0.04)
    before, cut_before = talk.outgoing.waiting_s, talk.outgoing.cut
    talk.go_on(20)
    assert talk.outgoing.lead_s == pytest.approx(0.02)
    assert talk.outgoing.waiting_s == pytest.approx(before - 0.02)
    assert talk.outgoing.cut - cut_before == BLOCK
    talk.go_on(140)
    assert talk.outgoing.lead_s == pytest.approx(0.02)  # the least


@pytest.mark.parametrize("ticks", [3, 4, 5, 8, 15])
def test_a_debt_is_paid_within_half_a_second_but_for_the_growth_of_the_lead(ticks: int) -> None:
    talk = Talk()
    talk.go_on(20)
    before = talk.outgoing.waiting_s
    talk.stall(ticks)
    talk.go_on(7)
    assert talk.outgoing.padded == (ticks - 1) * BLOCK
    assert talk.outgoing.cut == talk.outgoing.padded - BLOCK
    assert sum(block.cut for block in talk.sent) == talk.outgoing.cut
    assert talk.outgoing.waiting_s == pytest.approx(before + 0.02)


def test_where_there_is_silence_it_is_cut_first_and_at_once() -> None:
    """The reply after a stall has a pause in it: the pause pays, and no sample that is not quiet is lost."""
    source = noise(30)
    pause = slice(12 * 1_920, 15 * 1_920)
    source[pause] = 0
    talk = Talk(source)
    talk.go_on(11)
    talk.stall(8)
    first = len(talk.sent)
    talk.go_on(10)
    assert talk.outgoing.cut == 6 * BLOCK
    loud = played(talk.sent[first - 4 :])
    assert all(block.cut == 0 for block in talk.sent[first + 6 :])
    tail = source[pause.stop : pause.stop + 1_920]
    places = np.flatnonzero(loud == tail[100])
    assert any(np.array_equal(loud[place : place + 1_000], tail[100:1_100]) for place in places)


def test_cuts_and_silence_do_not_click() -> None:
    source = noise(120)
    talk = Talk(source)
    for ticks in (3, 5, 9, 15):
        talk.go_on(12)
        talk.stall(ticks)
    assert talk.outgoing.cut and talk.outgoing.padded
    whole = played(talk.sent)
    assert steepest(whole[BLOCK:]) <= 1.3 * steepest(source)


def test_padding_begins_where_the_sound_ended_and_fades() -> None:
    talk = Talk(np.full(20 * 1_920, 0.5, np.float32))
    talk.go_on(5)
    padded = talk.tick(2)[1].played
    assert padded[0] == pytest.approx(0.5) and steepest(padded) < 0.01 and not padded[96:].any()
    talk.replies(1)
    resumed = talk.tick(1)[0].played
    assert resumed[0] == 0 and steepest(resumed) < 0.01 and resumed[96:] == pytest.approx(0.5)


def test_no_more_is_cut_than_what_comes_back() -> None:
    """One second without a reply: nine frames were skipped, four come back; the delay is what it was, and 20 ms."""
    talk = Talk()
    talk.go_on(20)
    before = talk.outgoing.waiting_s
    talk.stall(50)
    talk.go_on(8)
    assert talk.outgoing.waiting_s == pytest.approx(before + 0.02)
    assert talk.outgoing.padded == 49 * BLOCK
    talk.go_on(130)
    assert talk.outgoing.underruns == 1  # the rest of the debt never made it run dry


def test_an_engine_that_is_later_from_now_on_is_not_cut() -> None:
    """Each reply comes 60 ms later than before: there is nothing to pay with, and nothing runs dry again."""
    talk = Talk()
    talk.go_on(10)
    talk.tick(3)
    talk.go_on(50)
    assert talk.outgoing.cut == 0 and talk.outgoing.underruns <= 2


def test_it_is_bounded_and_the_oldest_goes() -> None:
    outgoing = Outgoing(MOSHI, 8_000)
    for number in range(1, 21):
        outgoing.play(frame(number / 100))
    assert outgoing.waiting_s == pytest.approx(1.0)
    assert outgoing.dropped == 20 * 1_920 + BLOCK - 24_000
    assert outgoing.tick().played[-1] == pytest.approx(0.08)


def test_on_hold_nothing_waits_and_nothing_is_owed() -> None:
    talk = Talk()
    talk.go_on(5)
    talk.tick(3)
    talk.go_on(2)
    padded = talk.outgoing.padded
    talk.outgoing.clear()
    resumed = talk.tick(50)
    assert not played(resumed).any() and not any(block.pcm.any() for block in resumed)  # no rest of a filter or a fade
    assert talk.outgoing.padded == padded > 0
    talk.go_on(10)
    assert talk.outgoing.cut == 0 and talk.outgoing.padded == padded


def test_a_change_of_codec_keeps_what_waits() -> None:
    talk = Talk()
    talk.go_on(3)
    waiting = talk.outgoing.waiting_s
    talk.outgoing.change_rate(16_000)
    assert talk.outgoing.waiting_s == waiting
    assert {len(block.pcm) for block in talk.go_on(2)} == {320}
    assert talk.outgoing.padded == 0


def test_what_is_no_number_is_silence_and_does_no_lasting_harm() -> None:
    """A NaN would stay in the resampler's filter for ever."""
    outgoing = Outgoing(MOSHI, 8_000)
    outgoing.play(np.full(1_920, np.nan, np.float32))
    outgoing.play(np.full(1_920, -np.inf, np.float32))
    outgoing.play(frame(0.25))
    blocks = [outgoing.tick() for _ in range(12)]
    assert all(np.isfinite(block.pcm).all() for block in blocks)
    assert blocks[-1].pcm == pytest.approx(0.25, abs=1e-3)


def test_the_users_frame_is_not_written_to() -> None:
    outgoing = Outgoing(MOSHI, 8_000)
    outgoing.play(frame(0.5))
    for _ in range(7):
        outgoing.tick()
    reply = frame(0.5)
    reply.setflags(write=False)
    outgoing.play(reply)
    outgoing.tick()
    assert reply[0] == 0.5
