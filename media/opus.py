"""Opus (RFC 6716) by libopus itself, mono at 48 kHz, and its parameters in the session description (RFC 7587).

libavcodec's wrapper conceals nothing and cannot reach what a packet tells of the one before it (in-band FEC), so the
library that PyAV brings is called directly; a PyAV of the system's own has the system's. Without one, `is_available`
is False and nothing else in here is to be called.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import av
import numpy as np

from media.leg import Pcm

RATE = 48_000
"""Of its RTP clock always (RFC 7587, section 4.1), and of our samples."""

BITRATE = 32_000
"""What we send at most: speech of 12 kHz is transparent with it, and there is room for FEC."""

MIN_BITRATE, MAX_BITRATE = 6_000, 510_000

FMTP = "useinbandfec=1;maxplaybackrate=24000;stereo=0;sprop-stereo=0"
"""What we like to receive: FEC, and nothing above 12 kHz, where neither a model hears nor FEC exists."""

LEAST_LOSS, MOST_LOSS = 0.05, 0.3
"""The share of packets that FEC is made for: some before the first report, for it tells of a loss too late."""

COMPLEXITY = 5
"""Of 10: 0.2 ms a packet and not 0.3, with nothing to hear between them in speech."""

MAX_PAYLOAD = 1275
MAX_SAMPLES = RATE * 120 // 1000

_APPLICATION_VOIP = 2048
_SET_BITRATE, _SET_BANDWIDTH, _SET_VBR, _SET_COMPLEXITY = 4002, 4004, 4006, 4010
_SET_FEC, _SET_LOSS, _SET_SIGNAL = 4012, 4014, 4024
_SIGNAL_VOICE = 3001
_BANDWIDTHS = ((8_000, 1101), (12_000, 1102), (16_000, 1103), (24_000, 1104))
"""Sample rate a far end plays at most -> what is worth sending (RFC 7587, table 2)."""


@dataclass(frozen=True, slots=True)
class Parameters:
    """What the far end likes to receive (RFC 7587, section 6.1). What is no number there is as if absent."""

    bitrate: int = BITRATE
    playback_rate: int = RATE
    fec: bool = False
    constant: bool = False

    @classmethod
    def parse(cls, fmtp: str) -> Parameters:
        """Read what follows `a=fmtp:96 `."""
        words = (word.partition("=") for word in fmtp.split(";"))
        values = {name.strip().lower(): value.strip() for name, _, value in words}
        most = max(MIN_BITRATE, _number(values.get("maxaveragebitrate")) or MAX_BITRATE)
        playback_rate = _number(values.get("maxplaybackrate")) or RATE
        return cls(min(BITRATE, most), playback_rate, values.get("useinbandfec") == "1", values.get("cbr") == "1")

    @property
    def bandwidth(self) -> int:
        """libopus's word for the widest sound that is worth sending; ours is 12 kHz."""
        return next((code for rate, code in _BANDWIDTHS if self.playback_rate <= rate), _BANDWIDTHS[-1][1])


def _number(text: str | None) -> int:
    return int(text) if text and re.fullmatch(r"\d{1,7}", text, re.ASCII) else 0


def duration(payload: bytes) -> int:
    """How long a packet lasts at 48 kHz, by its first bytes (RFC 6716, section 3.1); 0 for what is none."""
    if not payload:
        return 0
    frame, code = _frame_samples(payload[0]), payload[0] & 3
    count = (1, 2, 2, payload[1] & 0x3F if len(payload) > 1 else 0)[code]
    return frame * count if frame * count <= MAX_SAMPLES else 0


def _frame_samples(toc: int) -> int:
    config = toc >> 3
    if config < 12:
        return (480, 960, 1920, 2880)[config & 3]
    return (480, 960)[config & 1] if config < 16 else (120, 240, 480, 960)[config & 3]


def is_silence(payload: bytes) -> bool:
    """Whether that is what an encoder makes of silence (DTX): no sound, and a pause may follow (section 2.1.9)."""
    return 1 <= len(payload) <= 2


def told_samples(payload: bytes) -> int:
    """How many samples right before it a packet tells of; 0 is none (RFC 6716, sections 4.2.3 and 4.2.4).

    Its first frame begins with a bit of voice activity for each 20 ms in it, then one that says FEC is there; the same
    again for the side of stereo.
    """
    if len(payload) < 2 or payload[0] >> 3 >= 16:
        return 0  # no linear prediction in it
    frame, first = _frame_samples(payload[0]), payload[_first_frame(payload) :][:1]
    if not first:
        return 0
    pieces = max(1, frame // 960)
    flags = first[0] >> 7 - pieces & 1
    if payload[0] & 4:
        flags |= first[0] >> 6 - 2 * pieces & 1
    return frame if flags else 0


def _first_frame(payload: bytes) -> int:
    """Where it begins, after what says how many there are and how long (RFC 6716, section 3.2)."""
    code, at = payload[0] & 3, 1
    if code == 3:
        count, at = payload[1], 2
        if count & 0x40:  # the length of padding, 255 for more of it
            while payload[at : at + 1] == b"\xff":
                at += 1
            at += 1
        lengths = (count & 0x3F) - 1 if count & 0x80 else 0
    else:
        lengths = 1 if code == 2 else 0
    for _ in range(lengths):
        at += 1 if payload[at : at + 1] < b"\xfc" else 2
    return at


# --- the library ---------------------------------------------------------------------------------------------------

_Samples = ctypes.POINTER(ctypes.c_float)


def is_available() -> bool:
    """Whether there is a libopus."""
    return _library() is not None


@cache
def _library() -> ctypes.PyDLL | None:
    """Called with the interpreter locked: to have it back after 0.2 ms would often take longer than that."""
    bundled = sorted((Path(av.__file__).parent.parent / "av.libs").glob("libopus[-.]*"))
    bundled += sorted((Path(av.__file__).parent / ".dylibs").glob("libopus.*"))
    for name in (*map(str, bundled), ctypes.util.find_library("opus")):
        try:
            library = ctypes.PyDLL(name) if name else None
        except OSError:
            continue
        if library is not None:
            return _typed(library)
    return None


def _typed(library: ctypes.PyDLL) -> ctypes.PyDLL:
    integer, pointer, error = ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(ctypes.c_int)
    signatures = {
        "opus_encoder_create": (pointer, [ctypes.c_int32, integer, integer, error]),
        "opus_decoder_create": (pointer, [ctypes.c_int32, integer, error]),
        "opus_encoder_destroy": (None, [pointer]),
        "opus_decoder_destroy": (None, [pointer]),
        "opus_encode_float": (ctypes.c_int32, [pointer, _Samples, integer, ctypes.c_char_p, ctypes.c_int32]),
        "opus_decode_float": (integer, [pointer, ctypes.c_char_p, ctypes.c_int32, _Samples, integer, integer]),
        "opus_strerror": (ctypes.c_char_p, [integer]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    library.opus_encoder_ctl.restype = integer  # takes what the request asks for
    return library


def _pointer(pcm: Pcm) -> object:
    return pcm.ctypes.data_as(_Samples)


class OpusEncoder:
    """Speech of 12 kHz at 32 kbit/s, or less where the far end wants that; 0.2 ms of CPU a packet.

    Blocks are of 10, 20, 40 or 60 ms. It looks 6.5 ms ahead.
    """

    def __init__(self, fmtp: str = "") -> None:
        library, parameters = _library(), Parameters.parse(fmtp)
        assert library is not None
        self._library, self._fec = library, parameters.fec
        self._state = library.opus_encoder_create(RATE, 1, _APPLICATION_VOIP, None)
        self._out = ctypes.create_string_buffer(MAX_PAYLOAD)
        self._set(_SET_BITRATE, parameters.bitrate)
        self._set(_SET_BANDWIDTH, parameters.bandwidth)
        self._set(_SET_VBR, not parameters.constant)
        self._set(_SET_COMPLEXITY, COMPLEXITY)
        self._set(_SET_SIGNAL, _SIGNAL_VOICE)
        self._set(_SET_FEC, parameters.fec)
        self.expect_loss(0.0)

    def __del__(self) -> None:
        if state := getattr(self, "_state", None):
            self._library.opus_encoder_destroy(state)

    def __call__(self, block: Pcm) -> bytes:
        block = np.ascontiguousarray(block, np.float32)
        size = self._library.opus_encode_float(self._state, _pointer(block), len(block), self._out, MAX_PAYLOAD)
        if size < 0:
            raise ValueError(f"{len(block)} samples cannot be encoded: {self._reason(size)}")
        return self._out.raw[:size]

    def expect_loss(self, fraction: float) -> None:
        """The share of packets that the far end loses: FEC takes its bits from the sound, so it is as much as needed.

        Without effect where the far end does not want any.
        """
        if self._fec:
            self._set(_SET_LOSS, round(100 * min(max(fraction, LEAST_LOSS), MOST_LOSS)))

    def _set(self, request: int, value: int) -> None:
        """Raises ValueError for what it does not take."""
        pointer, request_, value_ = ctypes.c_void_p(self._state), ctypes.c_int(request), ctypes.c_int32(value)
        if error := self._library.opus_encoder_ctl(pointer, request_, value_):
            raise ValueError(f"libopus request {request} with {value}: {self._reason(error)}")

    def _reason(self, error: int) -> str:
        return str(self._library.opus_strerror(error), "ascii")


class OpusDecoder:
    """Whatever a far end sends, stereo too, as mono; 0.05 ms of CPU a packet."""

    def __init__(self) -> None:
        library = _library()
        assert library is not None
        self._library = library
        self._state = library.opus_decoder_create(RATE, 1, None)
        self._out = np.zeros(MAX_SAMPLES, np.float32)

    def __del__(self) -> None:
        if state := getattr(self, "_state", None):
            self._library.opus_decoder_destroy(state)

    def __call__(self, payload: bytes) -> Pcm:
        return self._decode(payload, MAX_SAMPLES, fec=False)

    def told(self, payload: bytes) -> int:
        """How many samples right before this packet it tells of."""
        return told_samples(payload)

    def recover(self, payload: bytes) -> Pcm:
        """These samples, where their own packet was lost. The packet itself is decoded after that."""
        return self._decode(payload, told_samples(payload), fec=True)

    def _decode(self, payload: bytes, samples: int, fec: bool) -> Pcm:
        if not payload:  # to libopus the loss of a packet
            return self._out[:0].copy()
        out = _pointer(self._out)
        size = self._library.opus_decode_float(self._state, payload, len(payload), out, samples, fec)
        if size < 0:
            raise ValueError(f"no Opus packet: {str(self._library.opus_strerror(size), 'ascii')}")
        return self._out[:size].copy()
