"""The playout buffer of a stream: packets in as they come, 20 ms of sound out with each tick, always.

Packets are kept encoded under their RTP timestamp, not their sequence number: packets of any length, pauses of the
sender and gaps for digits are then nothing special. What is due is decoded at its tick. What is lost is concealed for
120 ms at most; after that it is silence, and a stream that comes back with another timing starts anew.

The delay follows the network, as `delay` says: a step of it is one block, into a stretch of quiet if there is one
soon, else where the seam is least heard.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from math import ceil

import numpy as np

from media.codec import Codec, Decoder, Recovering
from media.concealment import Concealment
from media.delay import BLOCK_S, Delay, Step
from media.leg import Pcm
from media.pcm import FADE_S, best_cut, cut, is_quiet, silence

CONCEAL_S = 0.12
"""Seconds without a packet after which nothing more is invented."""

MAX_AHEAD_S = 0.3
"""A packet that is due later than this belongs to a stream that jumped, or our ticks stood still."""

MAX_BEHIND_S = 1.0
"""So does one that was due longer ago than this."""

MAX_MISSES = 3
"""Ticks in a row that a packet may miss. One is jitter, which the delay follows; more is a path that has changed."""

MAX_PACKETS = 128
"""What may wait: more than MAX_AHEAD_S in packets of 10 ms. Full: the oldest goes and is counted as overflow."""


@dataclass(frozen=True, slots=True)
class Heard:
    """One block of 20 ms at the codec's rate; `concealed` samples of it were invented where no packet came in time."""

    pcm: Pcm
    concealed: int = 0


@dataclass(frozen=True, slots=True)
class _Packet:
    """`payload` None is deliberate silence. `units` is how long it lasts on the RTP clock."""

    payload: bytes | None
    units: int
    arrival: float


class Playout:
    """One stream's buffer. `now` is any monotonic clock in seconds, the same for `receive` and `tick`.

    Counters: `late`, `duplicate` and `dropped` are packets that were not played, the last by reason: empty,
    undecodable, stray (its timestamp is far from what is played, and it is alone with that), overflow, and backlog
    (came before the first tick, or all at once after a pause). `concealed` is blocks with invented sound in them,
    `recovered` is packets that were lost, and told by the one after them; `grown` and `shrunk` are steps of one block
    of the delay.
    """

    def __init__(self, codec: Codec) -> None:
        self.late = self.duplicate = 0
        self.dropped: Counter[str] = Counter()
        self.concealed = self.recovered = self.grown = self.shrunk = 0
        self.change(codec)

    @property
    def delay_s(self) -> float:
        """Seconds from a packet's arrival to its tick, smoothed."""
        return self._delay.wait

    def change(self, codec: Codec) -> None:
        """Forget everything but the counters; the packets to come are of this codec."""
        self._codec = codec
        self._step = codec.timestamp_step
        self._samples_a_unit = codec.sample_rate // codec.clock_rate
        self._fade = round(FADE_S * codec.sample_rate)
        self._conceal_samples = round(CONCEAL_S * codec.sample_rate)
        self._concealment = Concealment(codec.sample_rate)
        self.reset()

    def reset(self) -> None:
        """Another source begins: forget stream and timing. What was played fades out meanwhile."""
        self._decode: Decoder = self._codec.make_decoder()
        self._recovering = self._decode if isinstance(self._decode, Recovering) else None
        self._delay = Delay()
        self._packets: dict[int, _Packet] = {}
        self._done: deque[int] = deque(maxlen=MAX_PACKETS)  # timestamps that were played
        self._torn = False  # something that should have been decoded was not
        self._stray_timestamp: int | None = None
        self._last_tick = 0.0
        self._stop()

    def _stop(self) -> None:
        """Until the stream starts (again), there is no timing."""
        self._head: int | None = None  # timestamp of what the next tick plays, unwrapped
        self._starved = 0  # how far the ticks went on without moving the head, on the RTP clock
        self._ready = silence(0)  # decoded, not yet played; its first sample is at the head
        self._misses = 0  # ticks in a row for which all packets came too late
        self._deliberate = True  # no packets, no loss
        self._invented = 0  # samples in the place of lost ones, yet to be told of

    # Packets in

    def receive(self, timestamp: int, payload: bytes | None, now: float) -> None:
        """A packet arrived. None says that from here on the sender is silent on purpose.

        That is a comfort noise packet (RFC 3389), or the start of a telephone-event: the gap is then not concealed.
        """
        units = self._step if payload is None else self._codec.duration(payload)
        if units <= 0:
            self.dropped["empty"] += 1
            return
        at = self._unwrap(timestamp)
        if at is None:
            if payload is not None:
                self.dropped["stray"] += 1
        elif self._has(at):
            self.duplicate += payload is not None  # silence beside audio is none: some send keys beside it
        elif payload is None and self._head is not None and self._cursor <= at <= self._due:
            self._deliberate = True  # the ticks are there already, so this needs no place in the buffer
        else:
            self._place(at, _Packet(payload, units, now))

    def _has(self, at: int) -> bool:
        """Whether this timestamp was played, or waits as what it should be: silence gives way to sound."""
        waiting = self._packets.get(at)
        return at in self._done or (waiting is not None and waiting.payload is not None)

    def _place(self, at: int, packet: _Packet) -> None:
        """Measure when a packet came, and keep it until its time."""
        self._delay.arrived(at / self._codec.clock_rate, packet.arrival)
        if self._head is not None:
            blocks = (at - self._due) // self._step
            self._delay.waits(self._last_tick + (1 + blocks) * BLOCK_S - packet.arrival)
        if self._is_late(at, packet.units):
            self.late += 1
            return
        if len(self._packets) >= MAX_PACKETS:
            del self._packets[min(self._packets)]
            self.dropped["overflow"] += 1
        self._packets[at] = packet

    def _unwrap(self, timestamp: int) -> int | None:
        """The timestamp without its wrap at 32 bits, or None for a stray one. A second stray beside it is a jump."""
        reference = self._due if self._head is not None else max(self._packets, default=timestamp)
        at = reference + _signed(timestamp - reference)
        if -MAX_BEHIND_S <= (at - reference) / self._codec.clock_rate <= MAX_AHEAD_S:
            self._stray_timestamp = None
            return at
        stray, self._stray_timestamp = self._stray_timestamp, timestamp
        if stray is None or abs(_signed(timestamp - stray)) > MAX_AHEAD_S * self._codec.clock_rate:
            return None
        self._packets.clear()
        self._done.clear()
        self._stop()
        self._stray_timestamp = None
        return timestamp

    @property
    def _due(self) -> int:
        """The timestamp that the next tick should play."""
        assert self._head is not None
        return self._head + self._starved

    @property
    def _cursor(self) -> int:
        """The timestamp that is decoded next."""
        assert self._head is not None
        return self._head + len(self._ready) // self._samples_a_unit

    def _is_late(self, at: int, units: int) -> bool:
        """Whether a packet can no longer be played.

        While nothing comes the head stands still, and the next tick decides. Where the pause was long, what comes late
        tells another timing: the stream starts anew with it.
        """
        if self._head is None:
            return False
        if self._starved > CONCEAL_S * self._codec.clock_rate and at < self._due:
            self._stop()
            return False
        return at + units <= self._cursor

    # Sound out

    def tick(self, now: float) -> Heard:
        """The next 20 ms."""
        self._last_tick = now
        if self._head is None:
            self._start(now)
        if self._head is None:
            return Heard(self._invent(self._codec.block_samples))
        if self._starved and self._packets:
            self._resume(now)
        if self._head is None:
            return self._heard(self._invent(self._codec.block_samples))
        self._adapt(now)
        return self._block()

    def _start(self, now: float) -> None:
        """Begin once there are two blocks, or more if the network needs it; what is older is backlog."""
        if not self._packets:
            return
        newest = max(self._packets)
        packet = self._packets[newest]
        ready_units = self._step * (1 + max(1, ceil(self._delay.least / BLOCK_S)))
        starts = [at for at in self._packets if newest + packet.units - at >= ready_units]
        if not starts:
            return
        self._head = max(starts)
        if backlog := self._drop_before(self._head):
            self.dropped["backlog"] += backlog
        self._delay.begin(now + (newest - self._head) // self._step * BLOCK_S - packet.arrival, now)

    def _resume(self, now: float) -> None:
        """Packets again, after ticks without. The head moves on to where it should be by now, or one block less.

        Once all that comes is too late for that, tick after tick, the path has become slower: the stream starts anew.
        """
        assert self._head is not None
        self._misses = 0 if self._ends_after(self._due) else self._misses + 1
        self._reserve_if_told(now)
        if self._misses == MAX_MISSES:
            self._stop()
            self._start(now)
            return
        late = self._due - min(self._packets)
        kept = 0
        if late > 0 and self._delay.wanted(now) is Step.LONGER:
            kept = min(late, self._step)
            self._grown(now)
        self._head += self._starved - kept
        self._starved = 0
        self.late += self._drop_before(self._head)

    def _reserve_if_told(self, now: float) -> None:
        """Wait longer from now on, if the packet that is here now could have told of the one that is missing."""
        first = min(self._packets)
        if first > self._cursor and self._told(first):
            self._delay.reserve(now)

    def _ends_after(self, head: int) -> bool:
        """Whether any packet has something to play from `head` on."""
        return any(at + packet.units > head for at, packet in self._packets.items())

    def _drop_before(self, head: int) -> int:
        """Forget packets that end before `head`; how many."""
        past = [at for at, packet in self._packets.items() if at + packet.units <= head]
        for at in past:
            del self._packets[at]
        return len(past)

    def _block(self) -> Heard:
        """Take a block, decoding what it needs."""
        assert self._head is not None
        count = self._codec.block_samples
        while len(self._ready) < count and self._packets:
            self._extend(count)
        pcm, self._ready = self._ready[:count], self._ready[count:]
        self._head += len(pcm) // self._samples_a_unit
        missing = count - len(pcm)
        if missing:
            self._starved += missing // self._samples_a_unit
            pcm = np.concatenate([pcm, self._invent(missing)])
        return self._heard(pcm)

    def _heard(self, pcm: Pcm) -> Heard:
        """A block, and how much of it was invented: a long packet may have been for several."""
        concealed = min(self._invented, len(pcm))
        self._invented -= concealed
        self.concealed += concealed > 0
        return Heard(pcm, concealed)

    def _extend(self, count: int) -> None:
        """Append to what is ready: the next packet, or up to `count` samples in the place of lost ones."""
        at = min(self._packets)
        hole = (at - self._cursor) * self._samples_a_unit
        pcm = self._decoded(at) if hole <= 0 else self._filled(at, hole, count - len(self._ready))
        self._ready = np.concatenate([self._ready, pcm]) if len(self._ready) else pcm

    def _filled(self, at: int, hole: int, wanted: int) -> Pcm:
        """What belongs into a hole before the packet at `at`: what that tells of it, else `wanted` samples at most."""
        told = self._told(at)
        if hole > told:
            return self._invent(min(hole - told, wanted))
        payload = self._packets[at].payload
        assert payload is not None and self._recovering is not None
        try:
            pcm = self._recovering.recover(payload)
        except ValueError:
            return self._invent(min(hole, wanted))
        self.recovered += 1
        return self._concealment.remember(pcm[-hole:])

    def _told(self, at: int) -> int:
        """How many samples before it the packet at `at` tells of, if anything is missing there."""
        payload = self._packets[at].payload
        if self._recovering is None or payload is None or self._deliberate:
            return 0
        return self._recovering.told(payload)

    def _decoded(self, at: int) -> Pcm:
        """The packet at `at`, which begins at the cursor or before it. One that cannot be decoded is as if lost."""
        packet = self._packets.pop(at)
        self._done.append(at)
        samples = packet.units * self._samples_a_unit
        skip = (self._cursor - at) * self._samples_a_unit
        self._deliberate = packet.payload is None or self._codec.is_silence(packet.payload)
        if packet.payload is None:
            return self._invent(max(0, samples - skip))
        try:
            if self._torn and self._codec.warm_up_bytes:
                self._decode(packet.payload[: self._codec.warm_up_bytes])
            self._torn = False
            pcm = self._decode(packet.payload)
        except ValueError:
            self.dropped["undecodable"] += 1
            return self._invent(max(0, samples - skip))
        return self._concealment.remember(pcm[skip:])

    def _invent(self, count: int) -> Pcm:
        """Sound, or in the end silence, where there is no packet. It is counted where one was lost."""
        if not self._deliberate:
            self._torn = True
            self._invented += max(0, min(count, self._conceal_samples - self._concealment.invented))
        return self._concealment.invent(count)

    # The delay

    def _adapt(self, now: float) -> None:
        """Make one step towards the right delay, if it is time for one and a good place."""
        step = self._delay.wanted(now)
        if step is Step.LONGER:
            self._grow(now)
        elif step is Step.SHORTER:
            self._shrink(now)

    def _grow(self, now: float) -> None:
        """Put a block more in front of what is decoded next."""
        assert self._head is not None
        if self._delay.is_patient(now) and not is_quiet(self._concealment.recent):
            return
        self._ready = np.concatenate([self._ready, self._concealment.invent(self._codec.block_samples)])
        self._head -= self._step
        self._grown(now)

    def _grown(self, now: float) -> None:
        self.grown += 1
        self._delay.stepped(Step.LONGER, now)

    def _shrink(self, now: float) -> None:
        """Take a block out of the next two, if they are there."""
        assert self._head is not None
        count = self._codec.block_samples
        while len(self._ready) < 2 * count and self._packets and min(self._packets) <= self._cursor:
            self._extend(2 * count)
        if len(self._ready) < 2 * count or (self._delay.is_patient(now) and not is_quiet(self._ready[: 2 * count])):
            return
        self._ready = cut(self._ready, best_cut(self._ready[: 2 * count], count, self._fade), count, self._fade)
        self._head += self._step
        self.shrunk += 1
        self._delay.stepped(Step.SHORTER, now)


def _signed(difference: int) -> int:
    """A difference of two RTP timestamps, taken the short way round."""
    return (difference + 2**31) % 2**32 - 2**31
