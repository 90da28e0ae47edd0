"""The round trip that the transport adds: bursts out, bursts back, timed at the wire.

A burst's time is that of the packet in which it begins, on the way out and on the way back; what the caller's own
telephone would buffer is not in it. The agent has to echo (VOIPAGENT_ENGINE__MODEL=echo).
"""

from __future__ import annotations

import asyncio
import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from media.codec import CODECS
from voipagent.lab.bursts import LONGEST_S, Burst, find, make_bursts, render
from voipagent.lab.phone import PACKET_S, Codec, PhoneError, Target, Timed, call

SETTLE_S = 6.0
"""Silence before the first burst: playout starts deep and comes down."""

Samples = NDArray[np.float32]


@dataclass(frozen=True)
class Echo:
    """One burst: seconds into the call, and its round trip; None where it did not come back."""

    sent_s: float
    round_trip_s: float | None


@dataclass(frozen=True)
class Report:
    """All bursts of one run."""

    codec: str
    loss: float
    echoes: tuple[Echo, ...]

    @property
    def round_trips_s(self) -> list[float]:
        """Of those that came back, shortest first."""
        return sorted(echo.round_trip_s for echo in self.echoes if echo.round_trip_s is not None)

    @property
    def missing(self) -> int:
        """How many did not come back."""
        return len(self.echoes) - len(self.round_trips_s)

    def percentile(self, share: float) -> float:
        """Seconds within which that share of the bursts was back; NaN if none was."""
        times = self.round_trips_s
        return float(np.quantile(times, share)) if times else float("nan")

    def __str__(self) -> str:
        p50, p95, worst = (1000 * self.percentile(share) for share in (0.5, 0.95, 1.0))
        return (
            f"{self.codec} {self.loss:.0%} loss: n={len(self.echoes)} missing={self.missing} "
            f"round trip p50 {p50:.0f} ms, p95 {p95:.0f} ms, max {worst:.0f} ms"
        )


def measure(target: str, codec: str, *, bursts: int, loss: float, seed: int) -> Report:
    """Call `target` and send it `bursts` bursts. Raises PhoneError."""
    return asyncio.run(measure_call(target, codec, bursts=bursts, loss=loss, seed=seed))


async def measure_call(target: str, name: str, *, bursts: int, loss: float, seed: int) -> Report:
    """The same, inside a loop that runs."""
    name, callee = name.lower(), Target.parse(target)
    codec = next((codec for codec in CODECS if codec.name.lower() == name), None)
    if codec is None:
        raise PhoneError(f"{name!r} is no codec of ours: {', '.join(codec.name.lower() for codec in CODECS)}")
    train = make_bursts(bursts, codec.sample_rate, seed, SETTLE_S)
    stream = render(train, codec.sample_rate)
    size = round(PACKET_S * codec.sample_rate)
    encode = codec.make_encoder()
    payloads = [encode(block) for block in np.split(stream, range(size, len(stream), size))]
    async with call(callee, Codec(codec.payload_type, codec.name), loss, seed) as phone:
        sent = await phone.send(payloads)
    wire = Wire(phone.received, codec.timestamp_step, codec.make_decoder(), codec.sample_rate)
    return Report(name, loss, tuple(wire.echo(burst, sent) for burst in train))


class Wire:
    """What came back, as one stretch of samples that knows when each of them passed the socket."""

    def __init__(
        self, packets: Sequence[Timed], step: int, decode: Callable[[bytes], Samples], sample_rate: int
    ) -> None:
        self._sample_rate = sample_rate
        self._size = round(PACKET_S * sample_rate)
        base = packets[0].timestamp if packets else 0
        self._at: dict[int, float] = {}
        blocks: dict[int, Samples] = {}
        for packet in sorted(packets, key=lambda packet: _since(packet.timestamp, base)):
            index = round(_since(packet.timestamp, base) / step)
            self._at.setdefault(index, packet.at)
            blocks.setdefault(index, decode(packet.payload))
        first, last = min(blocks, default=0), max(blocks, default=-1)
        silence = np.zeros(self._size, np.float32)
        self._first = first
        self._heard = np.concatenate([silence, *(blocks.get(index, silence) for index in range(first, last + 1))])
        self._known = np.array(sorted(self._at))

    def echo(self, burst: Burst, sent: Sequence[float]) -> Echo:
        """Look for `burst` from when it was sent until LONGEST_S later."""
        sent_at = sent[burst.start // self._size]
        begin = self._sample_at(sent_at)
        end = begin + round(LONGEST_S * self._sample_rate) + len(burst.noise)
        place = find(burst.noise, self._heard[max(0, begin) : end])
        round_trip_s = None if place is None else self._time_of(max(0, begin) + place) - sent_at
        return Echo(round(sent_at - sent[0], 6), round_trip_s)

    def _time_of(self, sample: int) -> float:
        """When that sample passed: its packet's time, or for a lost one the nearest packet's, and its place in it."""
        index, offset = divmod(sample - self._size, self._size)
        near = self._near(index + self._first)
        return self._at[near] + (index + self._first - near) * PACKET_S + offset / self._sample_rate

    def _sample_at(self, at: float) -> int:
        """The sample that passed at that time, a packet early to be on the safe side."""
        if not self._at:
            return 0
        near = min(self._at, key=lambda index: abs(self._at[index] - at))
        return (near - self._first) * self._size + round((at - self._at[near]) * self._sample_rate)

    def _near(self, index: int) -> int:
        return int(self._known[np.argmin(np.abs(self._known - index))])


def _since(timestamp: int, base: int) -> int:
    """The signed distance of two RTP timestamps (RFC 3550, section 5.1: they wrap)."""
    return (timestamp - base + 2**31) % 2**32 - 2**31


def write_csv(report: Report, path: Path) -> None:
    """One line a burst. Raises PhoneError where the file cannot be written."""
    try:
        file = path.open("w", newline="")
    except OSError as error:
        raise PhoneError(f"cannot write {str(path)!r}: {error.strerror}") from None
    with file:
        rows = csv.writer(file)
        rows.writerow(["codec", "loss", "sent_s", "round_trip_s"])
        for echo in report.echoes:
            trip = "" if echo.round_trip_s is None else f"{echo.round_trip_s:.6f}"
            rows.writerow([report.codec, report.loss, echo.sent_s, trip])
