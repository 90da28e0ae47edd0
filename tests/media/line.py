"""What the tests of a leg share: time that a test moves, and a telephone of raw UDP sockets at the other end."""

from __future__ import annotations

import asyncio
import itertools
import select
import socket
from collections.abc import Callable, Iterator

import numpy as np
from aiortc.rtp import RtpPacket
from pylibsrtp import Error, Policy

from media import crypto
from media.clock import TICK_S, Clock
from media.codec import PCMU, Codec
from media.crypto import Crypto
from media.leg import AudioFormat, Exchange, Pcm
from media.ports import Ports
from media.rtp import RtpLeg
from media.sdp import parse
from media.srtp import session

FORMAT = AudioFormat(24_000, 1_920)
FRAME_S = 0.08
THERE = "198.51.100.7"


def sdp(*media: str, host: str = THERE, session: tuple[str, ...] = ()) -> str:
    """A peer's description; `media` are its lines from the first m= on."""
    version = 6 if ":" in host else 4
    head = ["v=0", f"o=- 1 1 IN IP{version} {host}", "s=-", f"c=IN IP{version} {host}", "t=0 0", *session]
    return "\r\n".join([*head, *media, ""])


class Timers:
    """Time that a test moves. A callback may be made late by moving past it in one go."""

    def __init__(self) -> None:
        self.now = 100.0
        self.due: dict[Handle, tuple[float, Callable[[], object]]] = {}

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[], object]) -> Handle:
        handle = Handle(self)
        self.due[handle] = (when, callback)
        return handle

    def jump(self, seconds: float) -> None:
        """Let time pass with nobody awake, then run what is due once."""
        self.now += seconds
        for handle, (when, callback) in list(self.due.items()):
            if when <= self.now + 1e-9 and handle in self.due:
                del self.due[handle]
                callback()

    def run(self, seconds: float) -> None:
        """Let time pass, everything on time."""
        end = self.now + seconds
        while self.due and min(when for when, _ in self.due.values()) <= end + 1e-9:
            self.jump(max(0.0, min(when for when, _ in self.due.values()) - self.now))
        self.now = end


class Handle:
    def __init__(self, timers: Timers) -> None:
        self._timers = timers

    def cancel(self) -> None:
        self._timers.due.pop(self, None)


class Phone:
    """The far end: an RTP and an RTCP socket, one stream out, and whatever comes in."""

    def __init__(self, codec: Codec = PCMU, host: str = "127.0.0.1") -> None:
        self.codec, self.host = codec, host
        self.rtp, self.rtcp = self._bind(), self._bind()
        self.port, self.rtcp_port = self.rtp.getsockname()[1], self.rtcp.getsockname()[1]
        self.target = self.rtcp_target = ("", 0)
        self.encode, self.decode = codec.make_encoder(), codec.make_decoder()
        self.ssrc, self.sequence, self.timestamp = 0xABCD, 65_530, 2**32 - 1_000

    def _bind(self) -> socket.socket:
        udp = socket.socket(socket.AF_INET6 if ":" in self.host else socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind((self.host, 0))
        return udp

    def sdp(self, *lines: str, formats: str = "", port: int | None = None, address: str = "") -> str:
        """A description of this phone; `lines` follow its m= line."""
        formats = formats or f"{self.codec.payload_type} 101"
        rate = self.codec.clock_rate
        host = address or self.host
        return "\r\n".join(
            [
                "v=0",
                f"o=- 1 1 IN IP4 {self.host}",
                "s=-",
                f"c=IN IP{6 if ':' in host else 4} {host}",
                "t=0 0",
                f"m=audio {self.port if port is None else port} RTP/AVP {formats}",
                f"a=rtpmap:{self.codec.payload_type} {self.codec.rtpmap}",
                f"a=rtpmap:101 telephone-event/{rate}",
                f"a=rtcp:{self.rtcp_port}",
                *lines,
                "",
            ]
        )

    def read(self, description: str) -> None:
        """Send where that says."""
        media = parse(description).media[0]
        self.target, self.rtcp_target = (media.host, media.port), (media.host, media.port + 1)

    def send(self, payload: bytes, kind: int | None = None, marker: bool = False, advance: bool = True) -> None:
        """A packet; its time moves on by its length."""
        kind = self.codec.payload_type if kind is None else kind
        packet = RtpPacket(kind, int(marker), self.sequence, self.timestamp, self.ssrc, payload)
        self.raw(self.protect(packet.serialize()))
        self.sequence = (self.sequence + 1) & 0xFFFF
        if advance:
            self.timestamp = (self.timestamp + self.codec.duration(payload)) & 0xFFFFFFFF

    def say(self, block: Pcm) -> None:
        """20 ms of sound at the codec's rate."""
        self.send(self.encode(block))

    def protect(self, packet: bytes) -> bytes:
        return packet

    def raw(self, data: bytes) -> None:
        self.rtp.sendto(data, self.target)

    def packets(self, at_least: int = 0) -> list[RtpPacket]:
        """What has come by now; waits for `at_least`."""
        return [RtpPacket.parse(data) for data in drain(self.rtp, at_least)]

    def reports(self, at_least: int = 0) -> list[bytes]:
        return drain(self.rtcp, at_least)

    def hear(self, packets: list[RtpPacket]) -> Pcm:
        """The sound of audio packets, one after the other."""
        return np.concatenate(
            [self.decode(packet.payload) for packet in packets if packet.payload_type in (0, 8, 9, 96)]
        )

    def close(self) -> None:
        self.rtp.close()
        self.rtcp.close()


class SecurePhone(Phone):
    """A phone that encrypts: what it sends by `crypto`, what it hears by the key of the last description it read.

    It knows no other, as strict as a phone can be; `deaf` counts the packets that it does not understand.
    """

    def __init__(self, suite: str, codec: Codec = PCMU, profile: str = "RTP/SAVP") -> None:
        super().__init__(codec)
        self.profile, self.deaf = profile, 0
        self.theirs: Crypto | None = None
        self.change(suite)

    def change(self, suite: str, tag: int = 1) -> None:
        """Send under a new key from now on; `sdp` tells it."""
        self.crypto = Crypto.generate(tag, suite)
        self._out = session(self.crypto, Policy.SSRC_ANY_OUTBOUND)

    def sdp(self, *lines: str, formats: str = "", port: int | None = None, address: str = "") -> str:
        plain = super().sdp(f"a=crypto:{self.crypto.attribute()}", *lines, formats=formats, port=port, address=address)
        return plain.replace("RTP/AVP", self.profile)

    def read(self, description: str) -> None:
        super().read(description)
        theirs = Crypto.parse(parse(description).media[0].attribute("crypto") or "")
        if self.theirs is None or theirs.key != self.theirs.key:
            self._in = session(theirs, Policy.SSRC_ANY_INBOUND)
        self.theirs = theirs

    def protect(self, packet: bytes) -> bytes:
        return self._out.protect(packet)

    def report(self, packet: bytes) -> None:
        """An RTCP packet."""
        self.rtcp.sendto(self._out.protect_rtcp(packet), self.rtcp_target)

    def packets(self, at_least: int = 0) -> list[RtpPacket]:
        understood = []
        for data in drain(self.rtp, at_least):
            try:
                understood.append(RtpPacket.parse(self._in.unprotect(data)))
            except Error:
                self.deaf += 1
        return understood

    def reports(self, at_least: int = 0) -> list[bytes]:
        return [self._in.unprotect_rtcp(data) for data in drain(self.rtcp, at_least)]


def drain(udp: socket.socket, at_least: int = 0) -> list[bytes]:
    """Every datagram that waits; up to two seconds for the first `at_least`."""
    found: list[bytes] = []
    while select.select([udp], [], [], 2.0 if len(found) < at_least else 0.0)[0]:
        found.append(udp.recv(65_536))
    assert len(found) >= at_least, f"{len(found)} packets came, not {at_least}"
    return found


def tone(codec: Codec, hertz: float = 440.0) -> Iterator[Pcm]:
    """Blocks of an even tone at -12 dBFS."""
    for number in itertools.count():
        at = (number * codec.block_samples + np.arange(codec.block_samples)) / codec.sample_rate
        yield (0.25 * np.sin(2 * np.pi * hertz * at)).astype(np.float32)


def loudness(pcm: Pcm) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean(np.square(pcm))))


class Line:
    """A leg and a phone under one made-up clock."""

    def __init__(
        self,
        codec: Codec = PCMU,
        ports: Ports | None = None,
        host: str = "127.0.0.1",
        phone: Phone | None = None,
        srtp: crypto.Policy = "accept",
    ) -> None:
        self.timers = Timers()
        self.clock = Clock(self.timers)
        self.ports = ports or Ports(30_000, 31_999, self.timers.time)
        self.phone = phone or Phone(codec, host)
        self.leg = RtpLeg(FORMAT, self.clock, self.ports, host, srtp=srtp)
        self.each_tick: Callable[[], None] = lambda: None

    async def __aenter__(self) -> Line:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.leg.close()
        self.phone.close()

    async def connect(self, *lines: str, formats: str = "") -> str:
        """The phone offers, the leg answers."""
        answer = await self.leg.answer(self.phone.sdp(*lines, formats=formats))
        self.phone.read(answer)
        return answer

    def talk(self, hertz: float = 440.0) -> None:
        """Say a tone with each tick from now on."""
        blocks = tone(self.phone.codec, hertz)
        self.each_tick = lambda: self.phone.say(next(blocks))

    def hush(self) -> None:
        """Send nothing from now on."""
        self.each_tick = lambda: None

    def run(self, ticks: int) -> None:
        """Tick by tick; the phone's packets come in the middle between two."""
        for _ in range(ticks):
            self.timers.run(TICK_S / 2)
            self.each_tick()
            self.timers.run(TICK_S / 2)

    async def frame(self, echo: bool = False) -> Exchange:
        """The next frame's time."""
        pending = asyncio.ensure_future(self.leg.exchange())
        await asyncio.sleep(0)
        for _ in range(4):
            if not pending.done() and not self.leg._incoming.waiting:
                self.run(1)
        exchange = await asyncio.wait_for(pending, 2)
        if echo:
            self.leg.play(exchange.heard)
        return exchange

    async def frames(self, count: int, echo: bool = False) -> list[Exchange]:
        return [await self.frame(echo) for _ in range(count)]
