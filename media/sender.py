"""The sending half of a stream: blocks of sound, keys and keep-alives into RTP packets of one source. Pure."""

from __future__ import annotations

import secrets

from aiortc.rtp import RtpPacket

from media.codec import Codec
from media.dtmf import EventPacket
from media.leg import Pcm
from media.stream import Stream


class Sender:
    """Numbers, times and markers. All of them begin at random (RFC 3550, s. 5.1); they go on through every change.

    The first number is in the lower half: who misses the first packets could else miss that it wrapped, which a far
    end that decrypts must know (RFC 3711, section 3.3.1).
    """

    def __init__(self) -> None:
        self.ssrc = secrets.randbits(32)
        self.sequence = secrets.randbits(15)
        self.timestamp = secrets.randbits(32)
        self.packets = self.octets = 0
        self._fresh = True  # the next audio begins a talkspurt
        self._bytes = b""  # waiting for a whole packet; a byte a timestamp unit
        self._began = 0  # the timestamp of these
        self._codec: Codec | None = None

    def adopt(self, stream: Stream, codec: Codec) -> list[bytes]:
        """From now on send as agreed; what must leave before that, if it is another codec, or nothing at all."""
        rest = self.pause() if stream.held or codec is not self._codec else []
        if codec is not self._codec:
            self._codec, self._encode = codec, codec.make_encoder()
        self._stream, self._step = stream, codec.timestamp_step
        self._packet_bytes = stream.ptime_ms * codec.clock_rate // 1000
        return rest

    def audio(self, block: Pcm) -> list[bytes]:
        """Append one tick's sound at the codec's rate; the packets that are full."""
        if not self._bytes:
            self._began = self.timestamp
        self._bytes += self._encode(block)
        packets = []
        while len(self._bytes) >= self._packet_bytes:
            packets.append(self._audio_packet(self._packet_bytes, self._fresh))
            self._fresh = False
        return packets

    def pause(self) -> list[bytes]:
        """No audio at this tick. What waits for a whole packet leaves in a shorter one: it counts as played."""
        rest = [self._audio_packet(len(self._bytes), False)] if self._bytes else []
        self._fresh = True
        return rest

    def advance(self) -> None:
        """A tick is over, sent or not."""
        self.timestamp = (self.timestamp + self._step) & 0xFFFFFFFF

    def event(self, event: EventPacket) -> bytes:
        """A packet of a key that is pressed."""
        assert self._stream.event_type is not None
        return self._packet(self._stream.event_type, event.payload, event.timestamp, event.marker)

    def keep_alive(self) -> bytes:
        """A packet of a type that was not agreed: it is counted there and not played (RFC 6263, section 4.6)."""
        agreed = self._stream.payload_types | self._stream.event_types
        return self._packet(next(kind for kind in range(127, 95, -1) if kind not in agreed), b"", self.timestamp)

    def _audio_packet(self, count: int, marker: bool) -> bytes:
        payload, self._bytes = self._bytes[:count], self._bytes[count:]
        began, self._began = self._began, (self._began + count) & 0xFFFFFFFF
        return self._packet(self._stream.payload_type, payload, began, marker)

    def _packet(self, payload_type: int, payload: bytes, timestamp: int, marker: bool = False) -> bytes:
        packet = RtpPacket(payload_type, int(marker), self.sequence, timestamp, self.ssrc, payload)
        self.sequence = (self.sequence + 1) & 0xFFFF
        self.packets += 1
        self.octets += len(payload)
        return packet.serialize()
