"""Opus by libopus: what we make, what we read, and what a packet tells of the one before it."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from media import opus
from media.codec import OPUS, named
from media.leg import Pcm
from media.opus import FMTP, OpusDecoder, OpusEncoder, Parameters, told_samples
from media.pcm import silence
from tests.media.path import voice


def packets(encode: OpusEncoder, pcm: Pcm, block: int = 960) -> list[bytes]:
    return [encode(pcm[start : start + block]) for start in range(0, len(pcm), block)]


def test_numbers_of_rfc_7587() -> None:
    assert (OPUS.rtpmap, OPUS.timestamp_step, OPUS.block_samples) == ("opus/48000/2", 960, 960)
    assert named("Opus") is OPUS
    with pytest.raises(ValueError, match="'speex' is no codec that this agent speaks: opus, G722, PCMU, PCMA"):
        named("speex")


@pytest.mark.parametrize(("wanted_ms", "ms"), [(5, 10), (10, 10), (20, 20), (30, 20), (40, 40), (50, 40), (60, 60)])
def test_packets_have_the_lengths_that_opus_has(wanted_ms: int, ms: int) -> None:
    assert OPUS.packet_ms(wanted_ms) == ms
    payload = OpusEncoder()(silence(OPUS.packet_samples(wanted_ms)))
    assert OPUS.duration(payload) == 48 * ms
    assert len(OpusDecoder()(payload)) == 48 * ms


def test_a_voice_comes_through_after_the_codecs_own_delay() -> None:
    pcm = voice(1.0)
    decode = OpusDecoder()
    out = np.concatenate([decode(payload) for payload in packets(OpusEncoder(), pcm)])
    said, heard = pcm[4_800:38_400], out[4_800:]
    likeness = np.correlate(heard[: len(said) + 960], said, "valid")
    assert int(np.argmax(likeness)) == pytest.approx(312, abs=10)  # 6.5 ms
    assert np.corrcoef(said, heard[312 : 312 + len(said)])[0, 1] > 0.75


def test_stereo_is_heard_as_mono() -> None:
    """A packet that says it is stereo; what is in it is whatever these bytes are."""
    payload = bytes([OpusEncoder()(silence(960))[0] | 4]) + bytes(range(60))
    assert len(OpusDecoder()(payload)) == 960


def library() -> ctypes.PyDLL:
    found = opus._library()
    assert found is not None
    return found


@given(st.binary(max_size=80))
def test_any_bytes_have_the_duration_that_libopus_says_and_break_nothing(payload: bytes) -> None:
    samples = library().opus_packet_get_nb_samples(payload, len(payload), opus.RATE) if payload else 0
    assert opus.duration(payload) == max(0, samples)
    try:
        assert len(OpusDecoder()(payload)) <= opus.MAX_SAMPLES
    except ValueError as error:
        assert "no Opus packet" in str(error)


@given(st.binary(min_size=2, max_size=80))
def test_what_a_packet_tells_is_what_libopus_finds_in_it(payload: bytes) -> None:
    """One that is torn may seem to tell of something; to decode that is an error then."""
    found = library().opus_packet_has_lbrr(payload, len(payload))
    told = told_samples(payload)
    if found == 1 or payload[0] & 3 == 0:
        assert (told > 0) is (found == 1)
    if told:
        try:
            assert len(OpusDecoder().recover(payload)) == told
        except ValueError as error:
            assert found < 1 and "no Opus packet" in str(error)


@pytest.mark.parametrize("ms", [20, 40, 60])
def test_packets_of_every_length_tell_of_20_ms_before_them(ms: int) -> None:
    sent = packets(OpusEncoder("useinbandfec=1"), voice(3.0), 48 * ms)[:-1]
    told = [told_samples(payload) for payload in sent]
    assert [samples > 0 for samples in told] == [
        library().opus_packet_has_lbrr(payload, len(payload)) == 1 for payload in sent
    ]
    assert set(told) == {0, 960} and sum(told) > 0


# --- what a description says of it ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fmtp", "said"),
    [
        ("", Parameters()),
        (FMTP, Parameters(playback_rate=24_000, fec=True)),
        ("maxaveragebitrate=20000; useinbandfec=1; stereo=1", Parameters(bitrate=20_000, fec=True)),
        ("maxaveragebitrate=510000;cbr=1;usedtx=1", Parameters(constant=True)),
        ("maxaveragebitrate=1;maxplaybackrate=8000", Parameters(bitrate=6_000, playback_rate=8_000)),
        ("maxaveragebitrate=x;useinbandfec;=;maxplaybackrate=-1;;", Parameters()),
    ],
)
def test_parameters(fmtp: str, said: Parameters) -> None:
    assert Parameters.parse(fmtp) == said


@given(st.text(max_size=100))
def test_any_parameters_make_an_encoder(fmtp: str) -> None:
    assert 1 <= len(OpusEncoder(fmtp)(silence(960))) <= opus.MAX_PAYLOAD


@pytest.mark.parametrize(("fmtp", "most"), [("", 32_000), ("maxaveragebitrate=16000", 16_000)])
def test_no_more_is_sent_than_they_want(fmtp: str, most: int) -> None:
    sent = packets(OpusEncoder(fmtp), voice(4.0))
    assert most / 2 < 8 * sum(map(len, sent)) / 4.0 < 1.1 * most


@pytest.mark.parametrize(("rate", "configs"), [(8_000, range(0, 4)), (16_000, range(8, 12)), (48_000, range(12, 14))])
def test_no_more_is_sent_than_they_play(rate: int, configs: range) -> None:
    """By the first five bits of each packet (RFC 6716, table 2): narrow, wide, and hybrid of 12 kHz."""
    sent = packets(OpusEncoder(f"maxplaybackrate={rate}"), voice(1.0))[10:]
    assert {payload[0] >> 3 for payload in sent} <= set(configs)


# --- what a packet tells of the one before it ----------------------------------------------------------------------


def test_fec_is_sent_only_to_who_wants_it() -> None:
    pcm = voice(2.0)
    assert not any(map(told_samples, packets(OpusEncoder(), pcm)))
    told = [told_samples(payload) for payload in packets(OpusEncoder("useinbandfec=1"), pcm)]
    assert sum(samples == 960 for samples in told) > len(told) / 2


def test_what_was_lost_is_recovered_from_the_next_packet() -> None:
    sent = packets(OpusEncoder("useinbandfec=1"), voice(2.0))
    whole, without, decode = OpusDecoder(), OpusDecoder(), OpusDecoder()
    apart = in_all = 0.0
    for number, payload in enumerate(sent):
        right = whole(payload)
        if number % 7 == 5 and told_samples(sent[number + 1]):
            recovered = decode.recover(sent[number + 1])
            assert len(recovered) == decode.told(sent[number + 1]) == 960
            apart += float(np.sum(np.square(recovered - right)))
            in_all += float(np.sum(np.square(right)))
        else:
            decode(payload)
        without(payload)
    assert in_all > 0 and apart < 0.35 * in_all  # nothing in its place would be 1


def test_the_more_they_lose_the_more_bits_are_for_that() -> None:
    """Within the same bitrate: the packets stay as long, and more of them tell of the one before."""
    counts = []
    for loss in (0.0, 0.3, 1.0):
        encode = OpusEncoder("useinbandfec=1;maxaveragebitrate=20000")
        encode.expect_loss(loss)
        counts.append(sum(map(bool, map(told_samples, packets(encode, voice(2.0))))))
    assert counts[0] <= counts[1] == counts[2]


def test_silence_of_a_sender_that_pauses_is_known() -> None:
    assert opus.is_silence(b"\x78") and opus.is_silence(b"\x78\x00")
    assert not opus.is_silence(b"") and not opus.is_silence(OpusEncoder()(voice(0.02)))
