"""Audio codecs of the phone network: a block of samples at the codec's own rate <-> the payload of a packet.

No coder here delays a block. aiortc's have a resampler with a frame size inside, which holds back 20 ms (and then
sends what is longer in one burst with one timestamp), so ours get samples at the codec's own rate.

Opus is one more `Codec`, whose clock and samples are 48 kHz and whose packets say themselves how long they last. It is
there where libopus is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import av
import numpy as np
from numpy.typing import NDArray

from media import opus
from media.leg import Pcm
from media.pcm import BLOCKS_PER_S, from_s16, silence, to_s16


class Encoder(Protocol):
    """One direction of one call."""

    def __call__(self, block: Pcm) -> bytes:
        """The payload of one packet: as many samples as `Codec.packet_ms` allows."""

    def expect_loss(self, fraction: float) -> None:
        """The share of packets that the far end loses, as its reports say. Without effect where nothing helps."""
        return None


class Decoder(Protocol):
    """One direction of one call."""

    def __call__(self, payload: bytes) -> Pcm:
        """The samples of one packet of any length. Raises ValueError for bytes that are no such payload."""


@runtime_checkable
class Recovering(Decoder, Protocol):
    """One whose packets may tell of the one before them."""

    def told(self, payload: bytes) -> int:
        """How many samples right before this packet it tells of; 0 is none."""

    def recover(self, payload: bytes) -> Pcm:
        """These samples, where their own packet was lost. Raises ValueError."""


class EncoderMaker(Protocol):
    """Makes the encoder of a call."""

    def __call__(self, fmtp: str = "") -> Encoder:
        """`fmtp` is what the far end's description says of the codec."""


@dataclass(frozen=True, slots=True)
class Codec:
    """What SDP and RTP need to know of a codec. `name` and `clock_rate` are those of its rtpmap (RFC 8866, s. 6.6).

    `payload_type` is the static one (RFC 3551, table 4), or what our offers call it. `duration` is how long a packet
    lasts, on the RTP clock: a byte of payload moves it by one, if nothing else is said. `is_silence` tells packets
    that have no sound in them. `fmtp` is what our descriptions say of it.

    `warm_up_bytes` is for codecs that adapt: after a loss the decoder is given so much of the next packet once more
    in advance, its sound thrown away.
    """

    name: str
    payload_type: int
    clock_rate: int
    sample_rate: int
    make_encoder: EncoderMaker
    make_decoder: Callable[[], Decoder]
    warm_up_bytes: int = 0
    channels: int = 1
    lengths_ms: tuple[int, ...] = (10, 20, 30, 40, 50, 60)
    duration: Callable[[bytes], int] = len
    is_silence: Callable[[bytes], bool] = lambda payload: False
    fmtp: str = ""

    @property
    def rtpmap(self) -> str:
        """Such as PCMU/8000 or opus/48000/2."""
        return f"{self.name}/{self.clock_rate}" + (f"/{self.channels}" if self.channels > 1 else "")

    @property
    def block_samples(self) -> int:
        """Samples in 20 ms."""
        return self.sample_rate // BLOCKS_PER_S

    @property
    def timestamp_step(self) -> int:
        """How far the RTP timestamp moves in 20 ms."""
        return self.clock_rate // BLOCKS_PER_S

    def packet_ms(self, wanted_ms: int) -> int:
        """The longest packet that is not longer than that, or the shortest there is."""
        return max((length for length in self.lengths_ms if length <= wanted_ms), default=self.lengths_ms[0])

    def packet_samples(self, wanted_ms: int) -> int:
        """The same in samples."""
        return self.packet_ms(wanted_ms) * self.sample_rate // 1000


def _mu_law() -> NDArray[np.int16]:
    """ITU-T G.711, table 2: the 16-bit value of each of the 256 codes, whose bits are sent inverted."""
    code = ~np.arange(256, dtype=np.uint8)
    segment, step = code >> 4 & 7, (code & 15).astype(np.int32)
    magnitude = ((step << 3) + 0x84 << segment) - 0x84
    return np.where(code & 0x80, -magnitude, magnitude).astype(np.int16)


def _a_law() -> NDArray[np.int16]:
    """ITU-T G.711, table 1: the 16-bit value of each of the 256 codes, whose even bits are sent inverted."""
    code = np.arange(256, dtype=np.uint8) ^ 0x55
    segment, step = (code >> 4 & 7).astype(np.int32), (code & 15).astype(np.int32)
    magnitude = np.where(segment == 0, (step << 4) + 8, (step << 4) + 0x108 << np.maximum(segment - 1, 0))
    return np.where(code & 0x80, magnitude, -magnitude).astype(np.int16)


def _nearest(values: NDArray[np.int16]) -> NDArray[np.uint8]:
    """For each 16-bit sample, taken as unsigned index, the code whose value is nearest; of two, the louder.

    That is the standard's decision value half way between two outputs. 64 kB a law.
    """
    order = np.argsort(values, kind="stable")
    levels = values[order].astype(np.int32)
    samples = np.arange(65536, dtype=np.uint16).view(np.int16).astype(np.int32)
    above = np.clip(np.searchsorted(levels, samples, side="right"), 1, 255)  # 0 is the positive zero of the two, 0xFF
    low, high = levels[above - 1], levels[above]
    twice = 2 * samples - low - high
    return order[np.where((twice > 0) | ((twice == 0) & (samples >= 0)), above, above - 1)].astype(np.uint8)


class G711Encoder(Encoder):
    """A table look-up: 8 us a block, as fast as libavcodec's and without a frame object."""

    def __init__(self, codes: NDArray[np.uint8]) -> None:
        self._codes = codes

    def __call__(self, block: Pcm) -> bytes:
        return self._codes[to_s16(block).view(np.uint16)].tobytes()


class G711Decoder:
    """A table look-up: 4 us a packet, a quarter of libavcodec's, since the table holds floats."""

    def __init__(self, values: NDArray[np.int16]) -> None:
        self._values = from_s16(values)

    def __call__(self, payload: bytes) -> Pcm:
        return self._values[np.frombuffer(payload, np.uint8)]


class G722Encoder(Encoder):
    """libavcodec's: 16 kHz in, 64 kbit/s out, 35 us a block."""

    def __init__(self) -> None:
        self._context = _open_g722("w")

    def __call__(self, block: Pcm) -> bytes:
        frame = av.AudioFrame("s16", "mono", len(block))
        frame.sample_rate = self._context.sample_rate
        frame.planes[0].update(to_s16(block).tobytes())
        return b"".join(bytes(packet) for packet in self._context.encode(frame))


class G722Decoder:
    """libavcodec's, 15 us a packet. Both ways together delay by 22 samples, the standard's own filters."""

    def __init__(self) -> None:
        self._context = _open_g722("r")

    def __call__(self, payload: bytes) -> Pcm:
        if not payload:  # to libavcodec an empty packet is the end of the stream, for good
            return silence(0)
        frames = self._context.decode(av.Packet(payload))
        parts = [np.frombuffer(bytes(frame.planes[0]), np.int16, frame.samples) for frame in frames]
        return from_s16(np.concatenate(parts))


def _open_g722(mode: Literal["r", "w"]) -> av.AudioCodecContext:
    context = av.CodecContext.create("g722", mode)
    context.sample_rate = 16_000
    context.layout = "mono"
    context.format = "s16"
    context.open()
    return context


_MU_VALUES, _A_VALUES = _mu_law(), _a_law()
_MU_CODES, _A_CODES = _nearest(_MU_VALUES), _nearest(_A_VALUES)

PCMU = Codec("PCMU", 0, 8_000, 8_000, lambda fmtp="": G711Encoder(_MU_CODES), lambda: G711Decoder(_MU_VALUES))
PCMA = Codec("PCMA", 8, 8_000, 8_000, lambda fmtp="": G711Encoder(_A_CODES), lambda: G711Decoder(_A_VALUES))
G722 = Codec(
    name="G722",
    payload_type=9,
    clock_rate=8_000,
    sample_rate=16_000,
    make_encoder=lambda fmtp="": G722Encoder(),
    make_decoder=G722Decoder,
    warm_up_bytes=80,
    lengths_ms=(20, 40, 60),  # libavcodec encodes 20 ms at a time, and keeps the rest
)
"""Its rtpmap says 8000 by an old mistake that RFC 3551, s. 4.5.2 keeps: samples are 16 kHz, the clock steps by 160.

10 ms of warm-up: after a lost onset the next packet is 5 to 10 dB less quiet (of 17 to 27), and the error after any
loss is about half; more of it leads the decoder further on than the far end is.
"""

OPUS = Codec(
    name="opus",
    payload_type=96,
    clock_rate=opus.RATE,
    sample_rate=opus.RATE,
    make_encoder=opus.OpusEncoder,
    make_decoder=opus.OpusDecoder,
    channels=2,  # whatever is sent (RFC 7587, section 7)
    lengths_ms=(10, 20, 40, 60),
    duration=opus.duration,
    is_silence=opus.is_silence,
    fmtp=opus.FMTP,
)

CODECS: tuple[Codec, ...] = (*((OPUS,) if opus.is_available() else ()), G722, PCMU, PCMA)
"""What we speak, in the order we prefer it."""


def named(name: str) -> Codec:
    """The one of that name, capitals or not. Raises ValueError."""
    for codec in CODECS:
        if codec.name.lower() == name.lower():
            return codec
    raise ValueError(f"{name!r} is no codec that this agent speaks: {', '.join(codec.name for codec in CODECS)}")
