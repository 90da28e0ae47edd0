"""The sending half of a stream: blocks of sound, keys and keep-alives into RTP packets of one source. Pure."""

from __future__ import annotations

import secrets

import numpy as np
from aiortc.rtp import RtpPacket

from media.dtmf import EventPacket
from media.leg import Pcm
from media.pcm import silence
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
        self._waiting = silence(0)  # for a whole packet
        self._began = 0  # the timestamp of these
        self._step = 0
        self._stream: Stream | None = None

    def adopt(self, stream: Stream) -> list[bytes]:
        """From now on send as agreed; what must leave before that, if it is another codec, or nothing at all."""
        before, codec = self._stream, stream.codec
        changed = before is None or (codec, stream.fmtp) != (before.codec, before.fmtp)
        rest = self.pause() if stream.held or changed else []
        if changed:
            self._encode = codec.make_encoder(stream.fmtp)
        self._stream, self._step = stream, codec.timestamp_step
        self._packet_samples = codec.packet_samples(stream.ptime_ms)
        return rest

    def expect_loss(self, fraction: float) -> None:
        """The share of our packets that the far end loses, as it reports."""
        self._encode.expect_loss(fraction)

    def audio(self, block: Pcm) -> list[bytes]:
        """Append one tick's sound at the codec's rate; the packets that are full."""
        if not len(self._waiting):
            self._began = self.timestamp
        self._waiting = np.concatenate([self._waiting, block])
        packets = []
        while len(self._waiting) >= self._packet_samples:
            packets.append(self._audio_packet(self._packet_samples, self._fresh))
            self._fresh = False
        return packets

    def pause(self) -> list[bytes]:
        """No audio at this tick. What waits for a whole packet leaves in a shorter one: it counts as played."""
        rest = [self._audio_packet(len(self._waiting), False)] if len(self._waiting) else []
        self._fresh = True
        return rest

    def advance(self) -> None:
        """A tick is over, sent or not."""
        self.timestamp = (self.timestamp + self._step) & 0xFFFFFFFF

    def event(self, event: EventPacket) -> bytes:
        """A packet of a key that is pressed."""
        assert self._stream is not None and self._stream.event_type is not None
        return self._packet(self._stream.event_type, event.payload, event.timestamp, event.marker)

    def keep_alive(self) -> list[bytes]:
        """A packet of a type that was not agreed: it is counted there and not played (RFC 6263, section 4.6).

        Nothing where all were.
        """
        assert self._stream is not None
        agreed = self._stream.payload_types | self._stream.event_types | self._stream.noise_types
        kind = next((kind for kind in range(127, 95, -1) if kind not in agreed), None)
        return [] if kind is None else [self._packet(kind, b"", self.timestamp)]

    def _audio_packet(self, samples: int, marker: bool) -> bytes:
        assert self._stream is not None
        block, self._waiting = self._waiting[:samples], self._waiting[samples:]
        units = samples * self._step // self._stream.codec.block_samples
        began, self._began = self._began, (self._began + units) & 0xFFFFFFFF
        return self._packet(self._stream.payload_type, self._encode(block), began, marker)

    def _packet(self, payload_type: int, payload: bytes, timestamp: int, marker: bool = False) -> bytes:
        packet = RtpPacket(payload_type, int(marker), self.sequence, timestamp, self.ssrc, payload)
        self.sequence = (self.sequence + 1) & 0xFFFF
        self.packets += 1
        self.octets += len(payload)
        return packet.serialize()
