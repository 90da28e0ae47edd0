"""The coders against libavcodec's and against the standard's numbers."""

from __future__ import annotations

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from media.codec import G722, PCMA, PCMU, Codec
from media.leg import Pcm
from media.pcm import from_s16, silence, to_s16

CLASSIC = (G722, PCMU, PCMA)
"""Those of a byte for each tick of their clock."""

G711 = [(PCMU, "pcm_mulaw"), (PCMA, "pcm_alaw")]
ALL_CODES = bytes(range(256))


def by_name(codec: Codec) -> str:
    return codec.name


def tone(codec: Codec, seconds: float, level: float = 0.5) -> Pcm:
    at = np.arange(round(seconds * codec.sample_rate)) / codec.sample_rate
    return (level * np.sin(2 * np.pi * 440 * at)).astype(np.float32)


def values_of(codec: Codec) -> NDArray[np.int32]:
    """What the 256 codes stand for, in 16 bit."""
    return to_s16(codec.make_decoder()(ALL_CODES)).astype(np.int32)


@pytest.mark.parametrize(("codec", "name"), G711)
def test_all_256_codes_decode_as_libavcodec_has_them(codec: Codec, name: str) -> None:
    context = av.CodecContext.create(name, "r")
    assert isinstance(context, av.AudioCodecContext)
    context.sample_rate, context.layout = 8_000, "mono"
    (frame,) = context.decode(av.Packet(ALL_CODES))
    assert np.array_equal(values_of(codec), frame.to_ndarray()[0])


@pytest.mark.parametrize("codec", [PCMU, PCMA], ids=by_name)
def test_each_sample_gets_the_nearest_code(codec: Codec) -> None:
    """All 65535 of them: no code is nearer than the one that is sent."""
    samples = np.arange(-32767, 32768, dtype=np.int32)
    sent = np.frombuffer(codec.make_encoder()(from_s16(samples.astype(np.int16))), np.uint8)
    values = values_of(codec)
    levels = np.unique(values)
    above = np.clip(np.searchsorted(levels, samples), 1, len(levels) - 1)
    nearest = np.minimum(np.abs(levels[above] - samples), np.abs(levels[above - 1] - samples))
    assert np.array_equal(np.abs(values[sent] - samples), nearest)


@pytest.mark.parametrize(("codec", "byte"), [(PCMU, 0xFF), (PCMA, 0xD5)], ids=["PCMU", "PCMA"])
def test_silence_is_the_byte_that_everybody_sends(codec: Codec, byte: int) -> None:
    assert codec.make_encoder()(silence(160)) == bytes([byte]) * 160


def test_codes_of_the_standard() -> None:
    """G.711: the loudest codes, and the first step on each side of zero."""
    assert values_of(PCMU)[[0x00, 0x80, 0x7F, 0xFE, 0x7E]].tolist() == [-32124, 32124, 0, 8, -8]
    assert values_of(PCMA)[[0x2A, 0xAA, 0xD5, 0x55]].tolist() == [-32256, 32256, 8, -8]


@pytest.mark.parametrize(
    ("codec", "payload_type", "clock_rate", "sample_rate", "block_samples", "step"),
    [(PCMU, 0, 8_000, 8_000, 160, 160), (PCMA, 8, 8_000, 8_000, 160, 160), (G722, 9, 8_000, 16_000, 320, 160)],
    ids=["PCMU", "PCMA", "G722"],
)
def test_numbers_of_rfc_3551(
    codec: Codec, payload_type: int, clock_rate: int, sample_rate: int, block_samples: int, step: int
) -> None:
    assert (codec.payload_type, codec.clock_rate, codec.sample_rate) == (payload_type, clock_rate, sample_rate)
    assert (codec.block_samples, codec.timestamp_step) == (block_samples, step)


@pytest.mark.parametrize("codec", CLASSIC, ids=by_name)
def test_a_block_is_160_bytes_from_the_first_on(codec: Codec) -> None:
    encode, decode = codec.make_encoder(), codec.make_decoder()
    for _ in range(3):
        payload = encode(tone(codec, 0.02))
        assert len(payload) == 160 and codec.duration(payload) == codec.timestamp_step
        assert len(decode(payload)) == codec.block_samples


@pytest.mark.parametrize("codec", CLASSIC, ids=by_name)
def test_a_tone_comes_through_without_a_block_of_delay(codec: Codec) -> None:
    """Within 2 ms (G.722's filters), and 30 dB above what the codec adds."""
    encode, decode = codec.make_encoder(), codec.make_decoder()
    pcm = tone(codec, 0.4)
    out = np.concatenate([decode(encode(block)) for block in pcm.reshape(-1, codec.block_samples)])
    middle = slice(len(pcm) // 4, len(pcm) // 2)
    errors = [np.mean((np.roll(out, -shift)[middle] - pcm[middle]) ** 2) for shift in range(codec.sample_rate // 500)]
    assert min(errors) < 1e-3 * np.mean(pcm[middle] ** 2)


@pytest.mark.parametrize("codec", CLASSIC, ids=by_name)
@pytest.mark.parametrize("blocks", [0.5, 1, 1.5, 2, 3])
def test_packets_of_10_to_60_ms_decode_to_the_same_stream(codec: Codec, blocks: float) -> None:
    encode = codec.make_encoder()
    payload = b"".join(encode(block) for block in tone(codec, 0.24).reshape(-1, codec.block_samples))
    whole, decode, size = codec.make_decoder()(payload), codec.make_decoder(), round(160 * blocks)
    parts = [decode(payload[start : start + size]) for start in range(0, len(payload), size)]
    assert len(parts[0]) == round(codec.block_samples * blocks)
    assert np.array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize("codec", CLASSIC, ids=by_name)
def test_an_empty_packet_is_nothing_and_breaks_nothing(codec: Codec) -> None:
    decode = codec.make_decoder()
    assert len(decode(b"")) == 0
    assert len(decode(bytes(160))) == codec.block_samples


@pytest.mark.parametrize("codec", CLASSIC, ids=by_name)
def test_two_calls_do_not_share_state(codec: Codec) -> None:
    one, other = codec.make_encoder(), codec.make_encoder()
    loud, fresh = tone(codec, 0.02, 0.9), codec.make_encoder()(silence(codec.block_samples))
    one(loud)
    assert other(silence(codec.block_samples)) == fresh
