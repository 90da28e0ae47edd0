"""A call's whole audio path on a made-up clock: packets -> Playout -> Incoming -> an engine -> Outgoing -> packets."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from media.codec import Codec
from media.incoming import Incoming
from media.leg import AudioFormat, Exchange, Pcm
from media.outgoing import Outgoing
from media.playout import Playout

MOSHI = AudioFormat(24_000, 1_920)
TICK_S = 0.02


@dataclass(frozen=True)
class Packet:
    """`sent` is when it left the far end, `arrival` when it is here."""

    sent: float
    arrival: float
    timestamp: int
    payload: bytes


def packets(codec: Codec, pcm: Pcm, phase_s: float = 0.007) -> list[Packet]:
    """`pcm` as a caller would send it, without a network in between."""
    encode = codec.make_encoder()
    blocks = pcm[: len(pcm) // codec.block_samples * codec.block_samples].reshape(-1, codec.block_samples)
    times = [phase_s + TICK_S * k for k in range(len(blocks))]
    first = 2**32 - 8_000  # wraps in the first second
    stamps = [(first + codec.timestamp_step * k) % 2**32 for k in range(len(blocks))]
    return [Packet(t, t, stamp, encode(block)) for t, stamp, block in zip(times, stamps, blocks, strict=True)]


def network(sent: Iterable[Packet], jitter_s: float = 0.0, loss: float = 0.0, seed: int = 1) -> list[Packet]:
    """A first-in, first-out network: delays of half a normal distribution, random loss."""
    chance, last, arrived = random.Random(seed), 0.0, []
    for packet in sent:
        last = max(last, packet.sent + abs(chance.gauss(0.0, jitter_s)))
        if chance.random() >= loss:
            arrived.append(Packet(packet.sent, last, packet.timestamp, packet.payload))
    return arrived


@dataclass
class Line:
    """Runs the path; afterwards `sent` is every block that left, one a tick, and `exchanges` what the user took.

    The engine says back what it hears after `step_s` seconds, or later: `stall(number)` adds to a step. One step at
    a time; frames that come meanwhile wait in `Incoming`, by its rules.
    """

    codec: Codec
    step_s: float = 0.002
    stall: Callable[[int], float] = lambda number: 0.0
    sent: list[Pcm] = field(default_factory=list)
    exchanges: list[Exchange] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.playout = Playout(self.codec)
        self.incoming = Incoming(MOSHI, self.codec.sample_rate)
        self.outgoing = Outgoing(MOSHI, self.codec.sample_rate)
        self._stepping: Pcm | None = None
        self._done_at = 0.0

    def run(self, arrivals: list[Packet], seconds: float) -> None:
        """Ticks from 0 to `seconds`."""
        waiting = sorted(arrivals, key=lambda packet: packet.arrival)[::-1]
        for number in range(round(seconds / TICK_S)):
            now = number * TICK_S
            while waiting and waiting[-1].arrival <= now:
                packet = waiting.pop()
                self.playout.receive(packet.timestamp, packet.payload, packet.arrival)
            while self._stepping is not None and self._done_at <= now:
                self.outgoing.play(self._stepping)
                self._stepping = None
                self._step(self._done_at)
            sent = self.outgoing.tick()
            self.sent.append(sent.pcm)
            self.incoming.put(self.playout.tick(now), sent)
            if self._stepping is None:
                self._step(now)

    def _step(self, now: float) -> None:
        exchange = self.incoming.take()
        if exchange is not None:
            self.exchanges.append(exchange)
            self._stepping = exchange.heard
            self._done_at = now + self.step_s + self.stall(len(self.exchanges) - 1)

    @property
    def output(self) -> Pcm:
        return np.concatenate(self.sent)


def bursts(codec: Codec, seconds: float, every_s: float = 0.43, length_s: float = 0.1) -> Pcm:
    """Tones of 1 kHz with silence between; their onsets fall on all parts of a frame."""
    at = np.arange(round(seconds * codec.sample_rate)) / codec.sample_rate
    return np.where(at % every_s < length_s, 0.3 * np.sin(2000 * np.pi * at), 0.0).astype(np.float32)


def noise(codec: Codec, seconds: float, seed: int = 3) -> Pcm:
    """Never quiet, and unlike itself at every other place: its delay can be read off at any time."""
    white = np.random.default_rng(seed).normal(0.0, 0.2, round(seconds * codec.sample_rate) + 8)
    return np.convolve(white, np.ones(4) / 2, "same")[: round(seconds * codec.sample_rate)].astype(np.float32)


def voice(seconds: float, rate: int = 48_000) -> Pcm:
    """Something like a voice: a pitch that moves, its overtones, syllables and breath."""
    at = np.arange(round(seconds * rate)) / rate
    phase = np.cumsum(120 + 30 * np.sin(2 * np.pi * 0.7 * at)) / rate
    overtones = sum(np.sin(2 * np.pi * k * phase) / k for k in range(1, 25))
    syllables = np.maximum(0.05, 0.5 + 0.5 * np.sin(6 * np.pi * at))
    breath = np.random.default_rng(1).normal(0.0, 0.003, len(at))
    return (0.12 * overtones * syllables + breath).astype(np.float32)


def onsets(blocks: Iterable[Pcm], codec: Codec) -> list[int]:
    """Numbers of the blocks in which sound begins after 60 ms or more without."""
    loud = [float(np.abs(block).max()) > 0.05 for block in blocks]
    return [number for number, here in enumerate(loud) if here and not any(loud[max(0, number - 3) : number])]


def delay_s(codec: Codec, source: Pcm, output: Pcm, at_s: float, window_s: float = 0.16) -> float:
    """How late `output` is against `source` at `at_s` on the output's clock, by the best match."""
    start, length = round(at_s * codec.sample_rate), round(window_s * codec.sample_rate)
    here = output[start : start + length].astype(np.float64)
    first = max(0, start - round(1.5 * codec.sample_rate))
    there = source[first : start + length].astype(np.float64)
    energy = np.convolve(np.square(there), np.ones(length), "valid")
    likeness = np.correlate(there, here, "valid") / np.sqrt(energy * np.dot(here, here) + 1e-9)
    best = int(np.argmax(likeness))
    assert likeness[best] > 0.7, f"at {at_s} s the output is like nothing that was sent ({likeness[best]:.2f})"
    return (start - first - best) / codec.sample_rate
