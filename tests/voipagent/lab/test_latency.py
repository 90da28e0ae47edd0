"""The stop-watch itself: a made-up wire with a known delay."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from voipagent.lab.bursts import Burst, make_bursts, render
from voipagent.lab.latency import Echo, Report, Wire, write_csv
from voipagent.lab.phone import PACKET_S, PhoneError, Target, Timed

RATE, PACKET = 8_000, 160
BURSTS = make_bursts(5, RATE, seed=0, first_s=0.4)


def decode(payload: bytes) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return np.frombuffer(payload, np.float32)


def echoed(delay_packets: int, base: int = 0, lost: frozenset[int] = frozenset()) -> tuple[list[Timed], list[float]]:
    """What comes back from an echo that takes that long, and when each packet was sent. It also speaks before us."""
    stream = np.concatenate([np.zeros(delay_packets * PACKET, np.float32), render(BURSTS, RATE)])
    blocks = np.split(stream, range(PACKET, len(stream), PACKET))
    received = [
        Timed(100.0 + number * PACKET_S, (base + number * PACKET) % 2**32, block.tobytes())
        for number, block in enumerate(blocks)
        if number not in lost
    ]
    return received, [100.0 + number * PACKET_S for number in range(len(blocks))]


def trips(received: list[Timed], sent: list[float], bursts: tuple[Burst, ...] = BURSTS) -> list[float | None]:
    wire = Wire(received, PACKET, decode, RATE)
    return [wire.echo(burst, sent).round_trip_s for burst in bursts]


@pytest.mark.parametrize("delay_packets", [0, 1, 6, 20])
def test_the_delay_is_measured_exactly(delay_packets: int) -> None:
    received, sent = echoed(delay_packets)
    assert trips(received, sent) == [pytest.approx(delay_packets * PACKET_S)] * 5


def test_a_timestamp_that_wraps_and_lost_packets_change_nothing() -> None:
    first = BURSTS[1].start // PACKET + 6
    received, sent = echoed(6, base=2**32 - 40 * PACKET, lost=frozenset({first, first + 1, 3}))
    del received[0]
    assert trips(received, sent)[0] == pytest.approx(0.12)
    assert trips(received, sent)[2:] == [pytest.approx(0.12)] * 3


def test_a_burst_that_does_not_come_back_is_missing() -> None:
    first, packets = BURSTS[2].start // PACKET + 6, len(BURSTS[2].noise) // PACKET
    received, sent = echoed(6, lost=frozenset(range(first, first + packets)))
    assert [trip is None for trip in trips(received, sent)] == [False, False, True, False, False]
    assert trips([], sent) == [None] * 5


def test_the_report_counts_and_writes_each_burst(tmp_path: Path) -> None:
    report = Report("pcmu", 0.02, (Echo(6.0, 0.1), Echo(7.0, None), Echo(8.0, 0.12)))
    assert report.missing == 1
    assert report.percentile(0.5) == pytest.approx(0.11)
    assert "n=3 missing=1 round trip p50 110 ms" in str(report)
    write_csv(report, tmp_path / "trips.csv")
    rows = list(csv.reader((tmp_path / "trips.csv").read_text().splitlines()))
    assert rows == [
        ["codec", "loss", "sent_s", "round_trip_s"],
        ["pcmu", "0.02", "6.0", "0.100000"],
        ["pcmu", "0.02", "7.0", ""],
        ["pcmu", "0.02", "8.0", "0.120000"],
    ]


def test_a_report_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(PhoneError, match="cannot write .*gone"):
        write_csv(Report("pcmu", 0.0, ()), tmp_path / "gone" / "trips.csv")


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("sip:bob@127.0.0.1:5070", Target("bob", "127.0.0.1", 5070)),
        ("sip:127.0.0.1", Target("agent", "127.0.0.1", 5060)),
        ("sip:a@[::1]:5062", Target("a", "::1", 5062)),
    ],
)
def test_targets_are_read_and_said_again(text: str, target: Target) -> None:
    assert Target.parse(text) == target
    assert Target.parse(str(target)) == target


@pytest.mark.parametrize("text", ["bob", "sips:bob@host", "sip:bob@host:0", "sip:bob@host:x", "sip:a b@host", ""])
def test_a_bad_target_says_what_one_looks_like(text: str) -> None:
    with pytest.raises(PhoneError, match="sip:agent@127.0.0.1:5060"):
        Target.parse(text)
