"""A Leg on plain RTP (RFC 3550, RFC 3551): sockets, who may send, packets out on the wheel, reports, digits.

The call's time begins when the user first asks for an exchange and both sides have agreed on a stream; before that
nothing is sent and nothing is kept. From then on every tick of the wheel sends 20 ms, plays 20 ms, and a frame's
time of ticks is one `Exchange`, whatever comes in.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
import struct
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from ipaddress import IPv6Address, ip_address

from aiortc.rtp import RtpPacket

from media.clock import TICK_S, Clock
from media.codec import CODECS, PCMU, Codec
from media.dtmf import DigitReceiver, DigitSender, check_digits
from media.incoming import Incoming
from media.latch import Latch
from media.leg import AudioFormat, Digit, Exchange, LegError, LegStats, Pcm
from media.outgoing import Outgoing, Sent
from media.pcm import BLOCKS_PER_S, silence
from media.playout import Heard, Playout
from media.ports import Pair, Ports, local_address
from media.rtcp import Reports
from media.sdp import COMFORT_NOISE, Describer, Stream, choose, confirm, is_loopback, parse

logger = logging.getLogger(__name__)

FIRST_PACKET_S = 30.0
"""No packet for so long from the beginning: there is no way through."""

SILENT_S = 15.0
"""No packet for so long after there were some: the far end has gone."""

KEEP_ALIVE_S = 15.0
"""While held, a packet that nobody plays keeps address translation open (RFC 6263, sections 4.6 and 7)."""

UNCONFIRMED_S = 10.0
"""Media goes to a described address for so long; then only once something came from there. Anybody could be named."""

MAX_MISSED_TICKS = 100
"""Ticks that a stalled wheel left out are made up for, 2 s of them. They cost as much as others, so a longer stall of
many legs would become one of its own; what is beyond is left out of the call's time."""

MAX_READS = 64
"""Datagrams read in one tick: a second's worth. A flood waits, and is dropped by the kernel; the others' tick comes."""

MAX_DATAGRAM = 4096
MAX_DIGITS = 64
"""Digits that wait for a reader. Full: the oldest is dropped and counted."""


class Sender:
    """Payloads -> packets of one source: numbers, times, markers. All of them begin at random (RFC 3550, s. 5.1)."""

    def __init__(self) -> None:
        self.ssrc = secrets.randbits(32)
        self.sequence = secrets.randbits(16)
        self.timestamp = secrets.randbits(32)
        self.packets = self.octets = 0
        self._fresh = True  # the next audio begins a talkspurt
        self._bytes = b""  # waiting for a whole packet
        self._payload_type = self._began = 0  # the type and timestamp of these

    def audio(self, payload_type: int, payload: bytes, packet_bytes: int) -> list[bytes]:
        """Append one tick's payload, a byte a timestamp unit; give the packets that are full."""
        if not self._bytes:
            self._payload_type, self._began = payload_type, self.timestamp
        self._bytes += payload
        packets = []
        while len(self._bytes) >= packet_bytes:
            packets.append(self.packet(payload_type, self._bytes[:packet_bytes], self._began, self._fresh))
            self._bytes = self._bytes[packet_bytes:]
            self._began = (self._began + packet_bytes) & 0xFFFFFFFF
            self._fresh = False
        return packets

    def pause(self) -> list[bytes]:
        """No audio at this tick. What waits for a whole packet leaves in a shorter one: it counts as played."""
        rest, self._bytes, self._fresh = self._bytes, b"", True
        return [self.packet(self._payload_type, rest, self._began)] if rest else []

    def advance(self, units: int) -> None:
        """A tick is over, sent or not."""
        self.timestamp = (self.timestamp + units) & 0xFFFFFFFF

    def packet(self, payload_type: int, payload: bytes, timestamp: int, marker: bool = False) -> bytes:
        """The next packet."""
        packet = RtpPacket(payload_type, int(marker), self.sequence, timestamp, self.ssrc, payload)
        self.sequence = (self.sequence + 1) & 0xFFFF
        self.packets += 1
        self.octets += len(payload)
        return packet.serialize()


class RtpLeg:
    """One party over RTP/AVP. `host` is where its signalling comes from; `advertised` replaces our own address."""

    def __init__(
        self,
        audio_format: AudioFormat,
        clock: Clock,
        ports: Ports,
        host: str,
        advertised: str | None = None,
        when_closed: Callable[[RtpLeg], None] | None = None,
    ) -> None:
        self._format, self._clock, self._ports = audio_format, clock, ports
        self._host, self._advertised, self._when_closed = _plain(host), advertised, when_closed
        self._loop = asyncio.get_running_loop()
        self._pair: Pair | None = None
        self._describer = Describer(secrets.randbits(62))
        self._local = ""  # our address, as the far end is told
        self._offered = ""
        self._stream: Stream | None = None

        self._codec: Codec = PCMU
        self._encode = PCMU.make_encoder()
        self._heard_codec: Codec = PCMU
        self._heard_types: frozenset[int] = frozenset()  # payload types of it
        self._playout = Playout(PCMU)
        self._incoming = Incoming(audio_format, PCMU.sample_rate)
        self._outgoing = Outgoing(audio_format, PCMU.sample_rate)

        self._latch = Latch()
        self._sender = Sender()
        self._reports = Reports(self._sender.ssrc, time.time() - clock.time())
        self._rtcp_source: tuple[str, int] | None = None
        self._keys_in, self._keys_out = DigitReceiver(), DigitSender()
        self._event_timestamp: int | None = None
        self._digits: asyncio.Queue[Digit] = asyncio.Queue(MAX_DIGITS)
        self._pressed: list[asyncio.Future[None]] = []

        self._confirmed = False  # something came from where we send
        self._described_at = 0.0
        self._wanted = self._running = self._closed = False
        self._number: int | None = None  # of the last tick
        self._silent_since = self._next_keep_alive = 0.0
        self._arrived = asyncio.Event()
        self._lost: asyncio.Future[str] = self._loop.create_future()
        self._stats = LegStats()
        self._dropped: Counter[str] = Counter()

    # --- Leg: descriptions ---

    @property
    def held(self) -> bool:
        """Whether the far end holds."""
        return self._stream is not None and self._stream.held

    async def offer(self) -> str:
        """Our offer: everything we speak. Raises LegError."""
        self._check_open()
        self._settle(None)
        self._offered = self._describer.offer(self._local, self._port)
        return self._offered

    async def answer(self, offer: str) -> str:
        """Agree to what is offered, now or anew. Raises LegError; what was agreed before then stands."""
        self._check_open()
        description = parse(offer)
        stream = choose(description, self._host)
        self._settle(stream)
        self._offered = ""
        self._adopt(stream)
        return self._describer.answer(description, stream, self._local, self._port)

    async def accepted(self, answer: str) -> None:
        """Take the answer to our offer. Raises LegError; what was agreed before then stands."""
        self._check_open()
        if not self._offered:
            raise LegError("an answer came, but nothing was offered")
        description = parse(answer)
        stream = confirm(parse(self._offered), description, self._host)
        if not _is_hole(stream) and ip_address(stream.remote[0]).version != ip_address(self._local).version:
            raise LegError(f"the answer names {stream.remote[0]}, which {self._local}, as we offered, cannot reach")
        self._offered = ""
        self._describer.accepted(description, stream)
        self._adopt(stream)

    def _check_open(self) -> None:
        if self._closed:
            raise LegError("the leg is closed")

    def _settle(self, stream: Stream | None) -> None:
        """Have sockets, and know which of our addresses to name. Raises LegError, and then nothing has changed.

        The route to the signalling decides: the media's address may be a private one behind address translation.
        Where signalling comes through a proxy on this very machine, or over the other IP version, the media decides.
        """
        towards = self._host
        if stream is not None and not _is_hole(stream):
            media = stream.remote[0]
            if is_loopback(towards) or ip_address(media).version != ip_address(towards).version:
                towards = media
        elif self._pair is not None:
            return
        version = ip_address(towards).version
        local = self._advertised
        if local is None or ip_address(local).version != version:
            local = local_address(towards)
        if self._pair is None or self._pair.version != version:
            pair = self._ports.open(version)
            self._close_ports()
            self._pair = pair
            self._loop.add_reader(pair.rtp, self._readable, pair.rtp)
            self._loop.add_reader(pair.rtcp, self._readable, pair.rtcp)
        self._local = local

    @property
    def _port(self) -> int:
        assert self._pair is not None
        return self._pair.port

    def _close_ports(self) -> None:
        if self._pair is not None:
            self._loop.remove_reader(self._pair.rtp)
            self._loop.remove_reader(self._pair.rtcp)
            self._ports.close(self._pair)
            self._pair = None

    def _adopt(self, stream: Stream) -> None:
        """Go on with what is agreed now. Nothing in here fails."""
        now, before = self._clock.time(), self._stream
        self._stream = stream
        codec = next(codec for codec in CODECS if codec.name == stream.codec)
        if codec is not self._codec or stream.held:
            self._pause()
        if codec is not self._codec:
            self._codec, self._encode = codec, codec.make_encoder()
            self._outgoing.change_rate(codec.sample_rate)
        if before is None or stream.held:
            self._listen_for(stream)
        if not _is_hole(stream):  # old-style hold says nothing about where the far end is
            target = self._latch.target
            self._latch.arm(stream.remote, {self._host}, now)
            self._confirmed = self._confirmed and target == self._latch.target
        if before is not None and before.held != stream.held:
            self._playout.change(self._heard_codec)
            self._outgoing.clear()
            self._next_keep_alive = now
        if before is not None and before.remote_rtcp != stream.remote_rtcp:
            self._rtcp_source = None
        if stream.event_type is None:
            self._stop_pressing("the far end takes no digits any more")
        self._silent_since = self._described_at = now
        self._start()

    def _listen_for(self, stream: Stream) -> None:
        """From now on what comes is in the codec that was agreed last."""
        self._heard_types = stream.payload_types
        if self._heard_codec is not self._codec:
            self._heard_codec = self._codec
            self._playout.change(self._codec)
            self._incoming.change_rate(self._codec.sample_rate)

    # --- Leg: audio ---

    async def exchange(self) -> Exchange:
        """The next frame's time. The first call starts the call's time. Raises LegError once closed."""
        self._wanted = True
        self._start()
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
            now = self._clock.time()
            self._silent_since = self._described_at = now
            self._reports.begin(now)
            self._playout.reset()
            self._clock.add(self)

    # --- Leg: digits ---

    async def digits(self) -> AsyncIterator[Digit]:
        """The far end's digits."""
        while True:
            yield await self._digits.get()

    async def send_digits(self, digits: str) -> None:
        """Press keys; returns when the last has left. Raises LegError."""
        self._check_open()
        check_digits(digits)
        if self._stream is None or self._stream.event_type is None:
            raise LegError("the far end takes no digits: its description has no telephone-event/8000")
        if not digits:
            return
        self._keys_out.press(digits)
        pressed = self._loop.create_future()
        self._pressed.append(pressed)
        await pressed

    def _stop_pressing(self, reason: str) -> None:
        self._keys_out.stop()
        for pressed in self._pressed:
            if not pressed.done():
                pressed.set_exception(LegError(reason))
        self._pressed.clear()

    # --- Leg: the end ---

    async def lost(self) -> str:
        """Wait until the media is lost for good; the reason."""
        return await asyncio.shield(self._lost)

    async def close(self) -> None:
        """Stop, and give the ports back. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._clock.remove(self)
        self._close_ports()
        self._stop_pressing("the leg was closed before all keys were pressed")
        self._arrived.set()
        if self._when_closed is not None:
            self._when_closed(self)

    def failed(self, error: Exception) -> None:
        """The wheel gave us up."""
        reason = f"the media path failed: {type(error).__name__}: {error}"
        self._close_ports()
        self._stop_pressing(reason)
        self._lose(reason)

    def _lose(self, reason: str) -> None:
        if not self._lost.done():
            self._lost.set_result(reason)

    @property
    def stats(self) -> LegStats:
        """Counters so far."""
        stats = self._stats
        stats.codec = self._stream.codec if self._stream else ""
        stats.remote = _shown(self._latch.target) if self._latch.target[0] else ""
        stats.packets_lost = self._reports.lost
        stats.packets_late = self._playout.late
        stats.packets_duplicate = self._playout.duplicate
        dropped = self._dropped + self._playout.dropped
        stats.packets_dropped = dropped.total()
        stats.dropped_by_reason = dict(dropped)
        stats.samples_padded = self._outgoing.padded
        stats.samples_cut = self._outgoing.cut
        stats.samples_dropped = self._outgoing.dropped
        stats.jitter_s = self._reports.jitter_s
        stats.round_trip_s = self._reports.round_trip_s
        stats.playout_delay_s = self._playout.delay_s
        return stats

    # --- the wheel ---

    def tick(self, number: int, now: float) -> None:
        """20 ms of both directions, and before it what a stalled loop left out: its time has passed all the same."""
        if self._pair is None or self._stream is None:
            return
        missed = 0 if self._number is None else min(number - self._number - 1, MAX_MISSED_TICKS)
        self._number = number
        for ago in range(missed, 0, -1):
            then = now - ago * TICK_S
            self._read(self._pair.rtp, then)  # one packet a tick, as the network will have brought them
            self._turn(self._stream, then, on_time=False)
        for udp in (self._pair.rtp, self._pair.rtcp):  # what the loop has not read yet is not late for that
            for _ in range(MAX_READS):
                if not self._read(udp, now):
                    break
        self._turn(self._stream, now, on_time=True)
        self._hand_out(self._keys_in.poll(now))
        self._report(self._stream, now)
        self._watch(self._stream, now)

    def _turn(self, stream: Stream, now: float, on_time: bool) -> None:
        """One tick of audio: first out, then in."""
        if stream.held:
            block = silence(self._heard_codec.block_samples)
            sent, heard = Sent(block, self._user_block), Heard(block)
            if now >= self._next_keep_alive:
                self._next_keep_alive = now + KEEP_ALIVE_S
                self._keep_alive(stream)
        else:
            sent, heard = self._send(stream, now, on_time), self._playout.tick(now)
        self._sender.advance(self._codec.timestamp_step)
        self._incoming.put(heard, sent, stream.held)
        if self._incoming.waiting:
            self._arrived.set()

    @property
    def _user_block(self) -> Pcm:
        return silence(self._format.sample_rate // BLOCKS_PER_S)

    def _send(self, stream: Stream, now: float, on_time: bool) -> Sent:
        """Take the next 20 ms and send them, unless a key is pressed or the tick was missed. Says what really left."""
        sent = self._outgoing.tick()
        pressing = on_time and self._press_keys(stream)
        if pressing or not on_time or not self._may_send(now):
            self._pause()
            return replace(sent, played=self._user_block)
        payload = self._encode(sent.pcm)
        packet_bytes = stream.ptime_ms * self._codec.clock_rate // 1000
        for data in self._sender.audio(stream.payload_type, payload, packet_bytes):
            self._send_rtp(data)
        return sent

    def _pause(self) -> None:
        for data in self._sender.pause():
            self._send_rtp(data)

    def _may_send(self, now: float) -> bool:
        return self._confirmed or now - self._described_at < UNCONFIRMED_S

    def _press_keys(self, stream: Stream) -> bool:
        """Go on pressing; whether this tick belongs to a key and not to audio."""
        if not self._keys_out.busy or stream.event_type is None:
            return False
        pressing = self._keys_out.suppresses_audio
        packet = self._keys_out.step(self._sender.timestamp)
        if packet is not None:
            self._send_rtp(self._sender.packet(stream.event_type, packet.payload, packet.timestamp, packet.marker))
        if not self._keys_out.busy:
            for pressed in self._pressed:
                if not pressed.done():
                    pressed.set_result(None)
            self._pressed.clear()
        return pressing

    def _keep_alive(self, stream: Stream) -> None:
        """A packet of a type that was not agreed: it is counted there and not played."""
        if not _is_hole(stream):  # "neither RTP nor RTCP" (RFC 3264, section 8.4)
            unused = next(kind for kind in range(127, 95, -1) if kind not in stream.payload_types | stream.event_types)
            self._send_rtp(self._sender.packet(unused, b"", self._sender.timestamp))

    def _send_rtp(self, data: bytes) -> None:
        assert self._pair is not None
        self._stats.packets_sent += self._send_to(self._pair.rtp, data, self._latch.target)

    def _send_to(self, udp: socket.socket, data: bytes, target: tuple[str, int]) -> bool:
        """Full or unreachable: the packet is dropped and counted; the next one tries again."""
        try:
            udp.sendto(data, target)
        except OSError:
            self._dropped["not sent"] += 1
            return False
        return True

    def _watch(self, stream: Stream, now: float) -> None:
        """Whether the far end can still be heard."""
        if stream.held or not stream.receives:
            self._silent_since = now
            return
        limit = FIRST_PACKET_S if self._reports.source is None else SILENT_S
        if now - self._silent_since >= limit:
            foreign = self._dropped["foreign source"]
            self._lose(
                f"signalling is fine, but no RTP came from {_shown(self._latch.target)} in {limit:g} s; "
                f"the far end's SDP said {_shown(stream.remote)}, its signalling comes from {self._host}"
                + (f"; {foreign} packets from other addresses were dropped" if foreign else "")
            )

    # --- packets in ---

    def _readable(self, udp: socket.socket) -> None:
        """One datagram: if there are more, the loop asks again, and the next tick takes what is left."""
        try:
            self._read(udp, self._clock.time())
        except Exception as error:  # as in the wheel: the fault of one leg is not everybody's
            self._clock.fail(self, error)

    def _read(self, udp: socket.socket, now: float) -> bool:
        """Take one datagram, if there is one."""
        try:
            data, source = udp.recvfrom(MAX_DATAGRAM)
        except OSError:
            return False
        assert self._pair is not None
        if udp is self._pair.rtcp or (len(data) > 1 and 192 <= data[1] <= 223):
            self._receive_rtcp(data, source[:2], now)
        else:
            self._receive_rtp(data, source[:2], now)
        return True

    def _receive_rtp(self, data: bytes, source: tuple[str, int], now: float) -> None:
        stream = self._stream
        if stream is None:
            self._dropped["before the answer"] += 1
            return
        try:
            packet = RtpPacket.parse(data)
        except (ValueError, struct.error):
            self._dropped["not RTP"] += 1
            return
        kind = packet.payload_type
        if kind not in stream.payload_types | self._heard_types | stream.event_types | {COMFORT_NOISE}:
            self._dropped["unknown payload type"] += 1
        elif not self._latch.admit(source, packet.ssrc, packet.sequence_number, now):
            self._dropped["foreign source"] += 1
        else:
            self._take(stream, packet, now)

    def _take(self, stream: Stream, packet: RtpPacket, now: float) -> None:
        """A packet of the call."""
        self._stats.packets_received += 1
        self._silent_since, self._confirmed = now, True
        is_event = packet.payload_type in stream.event_types
        if is_event and self._reports.source not in (None, packet.ssrc):  # some give digits a source of their own
            self._take_event(packet, now)
            return
        timestamp = None if is_event else packet.timestamp  # a digit's does not tell when it was sent
        if self._reports.heard(packet.ssrc, packet.sequence_number, timestamp, now):
            self._start_over()
        if is_event:
            self._take_event(packet, now)
        if stream.held or not self._running:
            return
        if packet.payload_type in stream.payload_types - self._heard_types:
            self._listen_for(stream)
        if packet.payload_type in self._heard_types:
            self._playout.receive(packet.timestamp, packet.payload, now)
        elif not is_event or packet.timestamp != self._event_timestamp:
            self._playout.receive(packet.timestamp, None, now)
        if is_event:
            self._event_timestamp = packet.timestamp

    def _start_over(self) -> None:
        """Another source speaks: after a transfer, or music on hold. Everything about the old one ends here."""
        logger.info("- RTP from %s has a new source", _shown(self._latch.target))
        self._playout.reset()
        self._event_timestamp = None

    def _take_event(self, packet: RtpPacket, now: float) -> None:
        try:
            self._hand_out(self._keys_in.receive(packet.payload, packet.timestamp, packet.ssrc, now))
        except ValueError:
            self._dropped["torn telephone-event"] += 1

    def _hand_out(self, digits: list[Digit]) -> None:
        for digit in digits:
            if self._digits.full():
                self._digits.get_nowait()
                self._dropped["digit nobody read"] += 1
            self._digits.put_nowait(digit)

    # --- reports ---

    def _report(self, stream: Stream, now: float) -> None:
        if not self._reports.is_due(now):
            return
        sender = self._sender
        report = self._reports.say(sender.packets, sender.octets, sender.timestamp, now)
        if not _is_hole(stream):
            assert self._pair is not None
            self._send_to(self._pair.rtp if stream.mux else self._pair.rtcp, report, self._rtcp_target(stream))

    def _rtcp_target(self, stream: Stream) -> tuple[str, int]:
        """Where reports came from; else, behind address translation, the described port where the audio comes from."""
        if stream.mux:
            return self._latch.target
        if self._rtcp_source is not None:
            return self._rtcp_source
        host, port = stream.remote_rtcp
        return (self._latch.target[0] if host == stream.remote[0] else host), port

    def _receive_rtcp(self, data: bytes, source: tuple[str, int], now: float) -> None:
        stream = self._stream
        if stream is None or source[0] not in (self._latch.target[0], self._host, stream.remote_rtcp[0]):
            self._dropped["foreign RTCP"] += 1
            return
        try:
            self._reports.read(data, now)
        except ValueError:
            self._dropped["not RTCP"] += 1
            return
        self._rtcp_source = source
        self._confirmed = self._confirmed or source[0] == self._latch.target[0]
        if self._reports.source is not None:
            self._silent_since = now  # a far end that sends no silence is there all the same


def _is_hole(stream: Stream) -> bool:
    """Whether the far end is nowhere: its address is 0.0.0.0, which must not be sent to."""
    return ip_address(stream.remote[0]).is_unspecified


def _plain(host: str) -> str:
    """An address as the socket and the descriptions write it: no zone, no IPv4 within IPv6."""
    address = ip_address(host.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)


def _shown(address: tuple[str, int]) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
