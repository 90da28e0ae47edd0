"""The whole audio path on a made-up clock: how late it is, what a stall leaves behind, and what it costs."""

from __future__ import annotations

import time

import numpy as np
import pytest

from media.codec import CODECS, G722, PCMU, Codec
from tests.media.path import TICK_S, Line, bursts, delay_s, network, noise, onsets, packets

PHASES_S = (0.001, 0.005, 0.009, 0.013, 0.017, 0.0199)
"""When in a tick the packets come: on the edge of two, between, and in the middle."""

SETTLED_S = 10.0


def by_name(codec: Codec) -> str:
    return codec.name


def round_trips(codec: Codec, phase_s: float, loss: float, seconds: float) -> list[float]:
    """Seconds from a burst's first packet to its first packet back, once settled. Each burst must come back."""
    source = bursts(codec, seconds)
    sent = packets(codec, source, phase_s)
    line = Line(codec)
    line.run(network(sent, 0.002, loss, seed=round(phase_s * 1e4)), seconds)
    assert line.outgoing.underruns == 0 and line.playout.late == 0
    there = onsets(source.reshape(-1, codec.block_samples), codec)
    back = np.array(onsets(line.sent, codec)) * TICK_S
    trips = []
    for number in there:
        began = sent[number].sent
        if SETTLED_S < began < seconds - 0.5:
            answers = back[(back > began) & (back < began + 0.3)]
            assert len(answers) == 1, f"the burst sent at {began:.3f} s came back {len(answers)} times"
            trips.append(float(answers[0]) - began)
    return trips


@pytest.mark.parametrize("codec", CODECS, ids=by_name)
@pytest.mark.parametrize("phase_s", PHASES_S)
def test_the_round_trip_is_within_140_ms(codec: Codec, phase_s: float) -> None:
    trips = round_trips(codec, phase_s, loss=0.0, seconds=24.0)
    assert len(trips) >= 30
    assert max(trips) <= 0.140


@pytest.mark.parametrize("codec", CODECS, ids=by_name)
@pytest.mark.parametrize("phase_s", PHASES_S[::2])
def test_with_two_percent_loss_it_is_within_180_ms_and_no_burst_is_missing(codec: Codec, phase_s: float) -> None:
    trips = round_trips(codec, phase_s, loss=0.02, seconds=40.0)
    assert len(trips) >= 60
    assert max(trips) <= 0.180 and float(np.median(trips)) <= 0.140


@pytest.mark.parametrize("stall_s", [0.06, 0.3, 1.0])
@pytest.mark.parametrize("step_s", [0.002, 0.03, 0.055])
@pytest.mark.parametrize("codec", [PCMU, G722], ids=by_name)
def test_two_seconds_after_a_stall_the_delay_is_what_it_was(codec: Codec, step_s: float, stall_s: float) -> None:
    """Within 20 ms, though nothing that is said is ever quiet; and everything is counted."""
    stalled_frame, seconds = 60, 10.0
    source = noise(codec, seconds)
    line = Line(codec, step_s, lambda number: stall_s if number == stalled_frame else 0.0)
    line.run(network(packets(codec, source), 0.002), seconds)
    over = (stalled_frame + 1) * 0.08 + stall_s
    before = delay_s(codec, source, line.output, 4.3)
    for later in (2.0, 2.4, 3.0):
        assert abs(delay_s(codec, source, line.output, over + later) - before) <= 0.0201
    assert line.outgoing.underruns == 1
    assert sum(exchange.padded for exchange in line.exchanges) == line.outgoing.padded >= (stall_s - 0.04) * 24_000
    assert sum(exchange.cut for exchange in line.exchanges) == line.outgoing.cut
    skipped = sum(exchange.skipped for exchange in line.exchanges)
    assert skipped + len(line.exchanges) * 1_920 >= (seconds - 0.17) * 24_000
    assert (skipped > 0) == (stall_s + step_s > 0.32)


def test_the_exchanges_are_the_whole_call_and_hold_what_left() -> None:
    """Both sides are as long as the call; `played` is what was sent, at the user's rate."""
    source = noise(PCMU, 6.0)
    line = Line(PCMU)
    line.run(packets(PCMU, source), 6.0)
    played = np.concatenate([exchange.played for exchange in line.exchanges])
    heard = np.concatenate([exchange.heard for exchange in line.exchanges])
    assert len(played) == len(heard) == 75 * 1_920
    sent = line.output[16:]  # the resampler's 2 ms
    likeness = np.corrcoef(played[::3][8_000:40_000], sent[8_000:40_000])[0, 1]
    assert likeness > 0.97


def test_the_processor_time_of_a_call() -> None:
    """15 ms a second of call at most, on any machine; 5 ms where this was written."""
    source = noise(PCMU, 20.0)
    arrivals = network(packets(PCMU, source), 0.002, 0.02)
    line = Line(PCMU)
    encode = PCMU.make_encoder()
    began = time.process_time()
    line.run(arrivals, 20.0)
    for block in line.sent:
        encode(block)
    assert (time.process_time() - began) / 20.0 < 0.015
