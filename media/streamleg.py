"""A Leg on an agreed stream of RTP, by whatever way its packets go: a call's parts, joined and turned by the wheel.

The call's time begins when the user first asks for an exchange and both sides have agreed on a stream; before that
nothing is sent and nothing is kept. From then on every tick of the wheel sends 20 ms, plays 20 ms, and a frame's
time of ticks is one `Exchange`, whatever comes in.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from ipaddress import IPv6Address, ip_address
from typing import Protocol

from media.clock import TICK_S, Clock
from media.codec import PCMU
from media.crypto import Policy
from media.describer import Describer
from media.dtls import is_dtls
from media.dtmf import TONE_MS, check_digits
from media.incoming import Incoming
from media.keypad import Keypad
from media.latch import Address, Network
from media.leg import AudioFormat, Digit, Exchange, Leg, LegError, LegStats, Pcm
from media.negotiation import Codecs
from media.outgoing import Outgoing, Sent
from media.pcm import BLOCKS_PER_S, silence
from media.playout import Heard
from media.receiver import Receiver
from media.rtcp import Reports
from media.secure import Security
from media.sender import Sender
from media.stream import Stream
from media.tones import tone

KEEP_ALIVE_S = 15.0
"""While held, a packet that nobody plays keeps address translation open (RFC 6263, sections 4.6 and 7)."""

MAX_MISSED_TICKS = 100
"""Ticks that a stalled wheel left out are made up for, 2 s of them. They cost as much as others, so a longer stall of
many legs would become one of its own; what is beyond is left out of the call's time."""


class Way(Protocol):
    """How packets go to the far end and come from it."""

    @property
    def is_open(self) -> bool:
        """Whether packets could go it."""

    def read(self, rtcp: bool, now: float) -> bool:
        """Take one datagram that the loop has not read yet, if there is one."""

    def read_all(self, now: float) -> None:
        """Take all of them."""

    def send(self, data: bytes, target: Address, rtcp: bool = False) -> bool:
        """Whether it left."""


class StreamLeg(ABC):
    """One party over RTP: what all ways have in common. How it is agreed on is for who knows the way.

    `srtp` says whether it may be encrypted, or must be; `codecs` which ones it speaks, and in which order. Empty: all,
    and the order of an offer decides. Media may come from `networks` besides the addresses that the far end names.
    """

    def __init__(
        self,
        audio_format: AudioFormat,
        clock: Clock,
        host: str,
        when_closed: Callable[[Leg], None] | None = None,
        srtp: Policy = "accept",
        codecs: Codecs = (),
        networks: tuple[Network, ...] = (),
    ) -> None:
        host = self._host = _plain(host)
        self._format, self._clock, self._when_closed = audio_format, clock, when_closed
        self._describer = Describer(secrets.randbits(62), srtp, codecs)
        self._srtp: Policy = srtp
        self._codecs, self._hold = codecs, False
        self._offered, self._holding = "", False
        self._stream: Stream | None = None

        self._sender, self._security = Sender(), Security()
        self._reports = Reports(self._sender.ssrc, time.time() - clock.time())
        self._receiver = Receiver(host, self._reports, self._security, networks)
        self._incoming = Incoming(audio_format, PCMU.sample_rate)
        self._outgoing = Outgoing(audio_format, PCMU.sample_rate)
        self._keypad = Keypad()

        self._wanted = self._running = self._closed = self._silent = False
        self._number: int | None = None  # of the last tick
        self._next_keep_alive = 0.0
        self._arrived = asyncio.Event()
        self._lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._stats = LegStats()
        self._not_sent = 0

    # --- Leg: descriptions ---

    @property
    def held(self) -> bool:
        """Whether the far end holds."""
        return self._stream is not None and self._stream.held

    @property
    def ready(self) -> bool:
        """Whether what is played reaches the far end: its way is found, and the keys are agreed on."""
        return self._stream is not None and self._may_send(self._clock.time())

    @abstractmethod
    async def offer(self, hold: bool | None = None) -> str:
        """Our offer. Raises LegError."""

    @abstractmethod
    async def answer(self, offer: str) -> str:
        """Agree to what is offered. Raises LegError."""

    @abstractmethod
    async def accepted(self, answer: str) -> None:
        """Take an answer to our offer. Raises LegError."""

    @property
    def _is_client(self) -> bool:
        """Our part in DTLS stays what it is through all changes; at first we begin, which opens address translation."""
        return self._stream is None or self._stream.dtls is None or self._stream.dtls.client

    def _check_open(self) -> None:
        if self._closed:
            raise LegError("the leg is closed")

    def _adopt(self, stream: Stream) -> None:
        """Go on with what is agreed now. Nothing in here fails."""
        now, before, self._stream = self._clock.time(), self._stream, stream
        self._send_rtp(self._sender.adopt(stream))  # what is left, under the key of before
        self._security.adopt(stream, self._describer.crypto, self._describer.identity, now)
        self._note_encryption()
        self._receiver.adopt(stream, now)
        if self._silent:  # before the answer, say, where nobody has to say anything
            self._silent, self._lost = False, asyncio.get_running_loop().create_future()
        self._outgoing.change_rate(stream.codec.sample_rate)
        self._reports.clock_rate = stream.codec.clock_rate
        if before is not None and before.held != stream.held:
            self._outgoing.clear()
            self._next_keep_alive = now
        self._start()

    def _note_encryption(self) -> None:
        """For the record: also that a call was plain for a while."""
        name = self._security.suite
        if name and self._stats.encryption[-1:] != (name,):
            self._stats.encryption += (name,)

    # --- Leg: audio ---

    def begin(self) -> None:
        """Start the call's time, once a stream is agreed; for who only plays, and never asks for an exchange."""
        self._wanted = True
        self._start()

    async def exchange(self) -> Exchange:
        """The next frame's time. The first call starts the call's time. Raises LegError once closed."""
        self.begin()
        while (exchange := self._incoming.take()) is None:
            self._check_open()
            self._arrived.clear()
            await self._arrived.wait()
        self._stats.frames_concealed += exchange.concealed > 0
        self._stats.frames_skipped += exchange.skipped // self._format.frame_samples
        return exchange

    def play(self, pcm: Pcm) -> None:
        """Queue audio to be sent; what is played while the far end holds is not kept."""
        if not self.held:
            self._outgoing.play(pcm)

    def _start(self) -> None:
        if self._wanted and self._stream is not None and not self._running and not self._closed:
            self._running = True
            self._reports.begin(self._clock.time())
            self._receiver.begin(self._clock.time())
            self._clock.add(self)

    # --- Leg: digits ---

    def digits(self) -> AsyncIterator[Digit]:
        """The far end's digits."""
        return self._keypad.digits()

    async def send_digits(self, digits: str) -> None:
        """Press keys; returns when the last has left, which is after a hold if there is one. Raises LegError."""
        self._check_open()
        check_digits(digits)
        if self._stream is None:
            raise LegError("digits can be sent once a stream is agreed")
        await self._keypad.press(digits)

    # --- Leg: the end ---

    async def lost(self) -> str:
        """Wait until the media is lost for good; the reason. A new agreement forgives a silence before it."""
        return await asyncio.shield(self._lost)

    @property
    def is_lost(self) -> bool:
        """Whether `lost` has a reason."""
        return self._lost.done()

    async def close(self) -> None:
        """Stop, and give the ports back. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._clock.remove(self)
        for data, rtcp, source in self._security.close():
            self._send_to(data, source, rtcp)
        await self._leave()
        self._keypad.stop("the leg was closed before all keys were pressed")
        self._arrived.set()
        if self._when_closed is not None:
            self._when_closed(self)

    @abstractmethod
    async def _leave(self) -> None:
        """Give back what the way has taken. Idempotent."""

    @abstractmethod
    def _give_up(self) -> None:
        """The wheel turns no longer; `close` is still to come."""

    def failed(self, error: Exception) -> None:
        """The wheel gave us up."""
        reason = f"the media path failed: {type(error).__name__}: {error}"
        self._give_up()
        self._keypad.stop(reason)
        self._lose(reason)

    def _lose(self, reason: str) -> None:
        if not self._lost.done():
            self._lost.set_result(reason)

    @property
    @abstractmethod
    def _way(self) -> Way:
        """As it is now."""

    @property
    def stats(self) -> LegStats:
        """Counters so far."""
        stats, receiver, reports = self._stats, self._receiver, self._reports
        stats.codec = self._stream.codec.name if self._stream else ""
        stats.remote = receiver.remote
        stats.packets_received = receiver.packets
        stats.packets_lost = reports.lost
        stats.packets_late = receiver.playout.late
        stats.packets_recovered = receiver.playout.recovered
        stats.packets_duplicate = receiver.playout.duplicate
        ours = Counter({"digit nobody read": self._keypad.dropped, "not sent": self._not_sent})
        dropped = receiver.dropped + receiver.playout.dropped + ours
        stats.packets_dropped = dropped.total()
        stats.dropped_by_reason = dict(dropped)
        stats.samples_padded = self._outgoing.padded
        stats.samples_cut = self._outgoing.cut
        stats.samples_dropped = self._outgoing.dropped
        stats.jitter_s = reports.jitter_s
        stats.round_trip_s = reports.round_trip_s
        stats.far_packets_lost, stats.far_jitter_s = reports.far_lost, reports.far_jitter_s
        stats.reports_sent, stats.reports_received = reports.sent, reports.received
        stats.playout_delay_s = receiver.playout.delay_s
        return stats

    # --- the wheel ---

    def tick(self, number: int, now: float) -> None:
        """20 ms of both directions, and before it what a stalled loop left out: its time has passed all the same."""
        stream = self._stream
        if stream is None or not self._way.is_open:
            return
        missed = 0 if self._number is None else min(number - self._number - 1, MAX_MISSED_TICKS)
        self._number = number
        for ago in range(missed, 0, -1):
            then = now - ago * TICK_S
            self._way.read(False, then)  # one packet a tick, as the network will have brought them
            self._turn(stream, then, on_time=False)
        self._way.read_all(now)
        self._turn(stream, now, on_time=True)
        self._keypad.hear(self._receiver.poll(now))
        self._shake(stream, now)
        self._report(stream, now)
        if reason := self._why_lost(now):
            self._silent = not self._lost.done() or self._silent
            self._lose(reason)

    def _turn(self, stream: Stream, now: float, on_time: bool) -> None:
        """One tick of audio: first out, then in."""
        codec = self._receiver.codec
        if stream.held:
            block = silence(codec.block_samples)
            sent, heard = Sent(block, self._silence), Heard(block)
            self._keep_alive(stream, now)
        else:
            sent, heard = self._send(stream, now, on_time), self._receiver.tick(now)
        self._sender.advance()
        self._incoming.change_rate(codec.sample_rate)
        self._incoming.put(heard, sent, stream.held)
        if self._incoming.waiting:
            self._arrived.set()

    def _why_lost(self, now: float) -> str | None:
        """Why the far end is gone for good; None while it is not."""
        return self._receiver.why_lost(now)

    def _may_send(self, now: float) -> bool:
        """Whether audio would reach somebody who wants it."""
        return self._receiver.may_send(now) and self._security.ready

    def _may_begin(self, now: float) -> bool:
        """Whether handshakes and reports may go where a description says: it may have named anybody."""
        return self._receiver.may_send(now)

    @property
    def _silence(self) -> Pcm:
        return silence(self._format.sample_rate // BLOCKS_PER_S)

    def _send(self, stream: Stream, now: float, on_time: bool) -> Sent:
        """Take the next 20 ms and send them, unless a key is pressed or the tick was missed. Says what really left."""
        sent, pressed = self._outgoing.tick(), self._keypad.pressed
        may_press = on_time and self._security.ready  # without its key, a press would leave for nobody
        pressing, event = self._keypad.step(self._sender.timestamp, stream.event_rate) if may_press else (False, None)
        if pressed and pressing and stream.event_type is None:
            pressing, event, sent = False, None, self._toned(sent, *pressed, stream.codec.sample_rate)
        if pressing or not on_time or not self._may_send(now):
            self._send_rtp(self._sender.pause())
            if not stream.is_fetched:
                sent = replace(sent, played=self._silence)
        else:
            self._send_rtp(self._sender.audio(sent.pcm))
        if event is not None:
            self._send_rtp([self._sender.event(event)])
        return sent

    def _toned(self, sent: Sent, key: str, since_s: float, sample_rate: int) -> Sent:
        """A key in the place of audio."""
        pcm, played = (
            tone(key, since_s, TICK_S, TONE_MS / 1000, rate) for rate in (sample_rate, self._format.sample_rate)
        )
        return replace(sent, pcm=pcm, played=played)

    def _keep_alive(self, stream: Stream, now: float) -> None:
        if now >= self._next_keep_alive and self._security.ready:
            self._next_keep_alive = now + KEEP_ALIVE_S
            if not stream.is_hole:  # "neither RTP nor RTCP" (RFC 3264, section 8.4)
                self._send_rtp(self._sender.keep_alive())

    def _report(self, stream: Stream, now: float) -> None:
        if self._reports.is_due(now):
            sender = self._sender
            others = self._receiver.blocks(now)
            report = self._reports.say(sender.packets, sender.octets, sender.timestamp, now, others)
            sender.expect_loss(self._reports.far_loss)
            if not stream.is_hole and self._may_begin(now):
                if (data := self._security.rtcp(report)) is not None:
                    self._send_to(data, self._receiver.rtcp_target, rtcp=not stream.mux)

    def _send_rtp(self, packets: list[bytes]) -> None:
        for data in packets:
            if (protected := self._security.rtp(data)) is None:
                self._not_sent += 1
            else:
                self._stats.packets_sent += self._send_to(protected, self._receiver.target)

    def _send_to(self, data: bytes, target: Address, rtcp: bool = False) -> bool:
        left = self._way.send(data, target, rtcp)
        self._not_sent += not left
        return left

    # --- packets in ---

    def _shake(self, stream: Stream, now: float) -> None:
        """What is due in handshakes. One that cannot succeed ends the call: there will be no audio."""
        if not stream.is_hole:
            for data, rtcp, source in self._security.poll(now):
                if source is None and not self._may_begin(now):
                    continue
                self._send_to(data, source or (self._receiver.rtcp_target if rtcp else self._receiver.target), rtcp)
        self._note_encryption()
        if self._security.failure:
            self._lose(f"no encrypted audio: {self._security.failure}")

    def _receive(self, data: bytes, source: Address, rtcp: bool, now: float) -> None:
        """By port, or where both share one by the type (RFC 5761, section 4; RFC 7983, section 7)."""
        if is_dtls(data) and self._security.expects(rtcp) and self._receiver.may_come_from(source):
            for answer in self._security.receive(data, source, rtcp, now):
                self._send_to(answer, source, rtcp)
        elif rtcp or (len(data) > 1 and 192 <= data[1] <= 223):
            self._receiver.receive_rtcp(data, source, now)
        else:
            self._keypad.hear(self._receiver.receive_rtp(data, source, now))


def _plain(host: str) -> str:
    """An address as the socket and the descriptions write it: no zone, no IPv4 within IPv6."""
    address = ip_address(host.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)
