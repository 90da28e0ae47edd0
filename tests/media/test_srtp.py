"""SRTP: against the specification written a second time, whose own vectors it passes; then changes of keys."""

from __future__ import annotations

import hashlib
import hmac

import pytest
from aiortc.rtp import RtpPacket
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pylibsrtp import Policy

from media.crypto import SUITES, Crypto
from media.srtp import MOST_SOURCES, OVERLAP_S, TAIL_S, Protector, SrtpError, Unprotector, session

CM_80 = "AES_CM_128_HMAC_SHA1_80"


# --- the specification, as plainly as it can be written ------------------------------------------------------------


def keystream(key: bytes, block: int, length: int) -> bytes:
    """AES in counter mode from `block` on (RFC 3711, section 4.1.1)."""
    encryptor = Cipher(algorithms.AES(key), modes.CTR(block.to_bytes(16, "big"))).encryptor()
    return encryptor.update(bytes(length))


def xor(one: bytes, other: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(one, other, strict=True))


def derive(master: bytes, salt: bytes, label: int, length: int) -> bytes:
    """A session key (RFC 3711, section 4.3.1); a salt of 96 bits is filled up from the right (RFC 7714, s. 11)."""
    return keystream(master, (int.from_bytes(salt.ljust(14, b"\0"), "big") ^ (label << 48)) << 16, length)


def counter(salt: bytes, ssrc: int, index: int) -> int:
    return (int.from_bytes(salt, "big") << 16) ^ (ssrc << 64) ^ (index << 16)


def gcm_iv(salt: bytes, ssrc: int, index: int) -> bytes:
    """RFC 7714, section 8.1."""
    return xor(salt, b"\0\0" + ssrc.to_bytes(4, "big") + index.to_bytes(6, "big"))


def protect(crypto: Crypto, packet: bytes, rollovers: int) -> bytes:
    """An RTP packet with a header of 12 bytes."""
    header, payload = packet[:12], packet[12:]
    ssrc, index = int.from_bytes(packet[8:12], "big"), (rollovers << 16) | int.from_bytes(packet[2:4], "big")
    if crypto.suite.startswith("AEAD"):
        master, salt = crypto.key[:-12], crypto.key[-12:]
        key, session_salt = derive(master, salt, 0, len(master)), derive(master, salt, 2, 12)
        return header + AESGCM(key).encrypt(gcm_iv(session_salt, ssrc, index), payload, header)
    master, salt = crypto.key[:-14], crypto.key[-14:]
    key, session_salt = derive(master, salt, 0, len(master)), derive(master, salt, 2, 14)
    sealed = header + xor(payload, keystream(key, counter(session_salt, ssrc, index), len(payload)))
    tag = hmac.digest(derive(master, salt, 1, 20), sealed + rollovers.to_bytes(4, "big"), hashlib.sha1)
    return sealed + tag[: 10 if crypto.suite.endswith("80") else 4]


def protect_report(crypto: Crypto, report: bytes, number: int) -> bytes:
    """An RTCP packet under a suite of AES_CM: its tag is long even where RTP's is short (RFC 4568, section 6.2.2)."""
    master, salt, ssrc = crypto.key[:-14], crypto.key[-14:], int.from_bytes(report[4:8], "big")
    key, session_salt = derive(master, salt, 3, 16), derive(master, salt, 5, 14)
    body = xor(report[8:], keystream(key, counter(session_salt, ssrc, number), len(report) - 8))
    sealed = report[:8] + body + (0x80000000 | number).to_bytes(4, "big")
    return sealed + hmac.digest(derive(master, salt, 4, 20), sealed, hashlib.sha1)[:10]


def test_the_vectors_of_rfc_3711() -> None:
    """Appendix B.2, keystream; B.3, key derivation."""
    key, salt = bytes.fromhex("2B7E151628AED2A6ABF7158809CF4F3C"), bytes.fromhex("F0F1F2F3F4F5F6F7F8F9FAFBFCFD")
    assert keystream(key, counter(salt, 0, 0), 32).hex() == (
        "e03ead0935c95e80e166b16dd92b4eb4d23513162b02d0f72a43a2fe4a5f97ab"
    )
    master, salt = bytes.fromhex("E1F97A0D3E018BE0D64FA32C06DE4139"), bytes.fromhex("0EC675AD498AFEEBB6960B3AABE6")
    assert derive(master, salt, 0, 16).hex() == "c61e7a93744f39ee10734afe3ff7a087"
    assert derive(master, salt, 2, 14).hex() == "30cbbc08863d8c85d49db34a9ae1"
    assert derive(master, salt, 1, 20).hex() == "cebe321f6ff7716b6fd4ab49af256a156d38baa4"


def test_the_vectors_of_rfc_6188() -> None:
    """Section 7.2: key derivation under a key of 256 bits."""
    master = bytes.fromhex("f0f04914b513f2763a1b1fa130f10e2998f6f6e43e4309d1e622a0e332b9f1b6")
    salt = bytes.fromhex("3b04803de51ee7c96423ab5b78d2")
    assert derive(master, salt, 0, 32).hex() == "5ba1064e30ec51613cad926c5a28ef731ec7fb397f70a960653caf06554cd8c4"
    assert derive(master, salt, 2, 14).hex() == "fa31791685ca444a9e07c6c64e93"
    assert derive(master, salt, 1, 20).hex() == "fd9c32d39ed5fbb5a9dc96b30818454d1313dc05"


def test_the_vector_of_rfc_7714() -> None:
    """Section 16.1.1: a packet under AEAD_AES_128_GCM, from session key and salt."""
    packet = bytes.fromhex("8040f17b8041f8d35501a0b2") + b"Gallia est omnis divisa in partes tres"
    iv = gcm_iv(bytes.fromhex("517569642070726f2071756f"), 0x5501A0B2, 0xF17B)
    assert iv.hex() == "51753c6580c2726f20718414"
    assert AESGCM(bytes(range(16))).encrypt(iv, packet[12:], packet[:12]).hex() == (
        "f24de3a3fb34de6cacba861c9d7e4bcabe633bd50d294e6f42a5f47a51c7d19b36de3adf8833899d7f27beb16a9152cf765ee4390cce"
    )


# --- what we make of it --------------------------------------------------------------------------------------------


def rtp(sequence: int, ssrc: int = 0xABCD) -> bytes:
    return RtpPacket(0, 0, sequence & 0xFFFF, sequence * 160 & 0xFFFFFFFF, ssrc, bytes(range(160))).serialize()


REPORT = bytes.fromhex("80c90001") + (0xABCD).to_bytes(4, "big") + bytes.fromhex("81ca000200000001010161ff")


@pytest.mark.parametrize("suite", SUITES)
def test_what_leaves_is_what_the_specification_says_through_a_wrap(suite: str) -> None:
    crypto, protector = Crypto.generate(1, suite), Protector()
    protector.adopt(crypto)
    for sequence in range(65_530, 65_550):
        assert protector.rtp(rtp(sequence)) == protect(crypto, rtp(sequence), sequence >> 16)


@pytest.mark.parametrize("suite", SUITES)
def test_what_the_specification_says_is_read_through_a_wrap(suite: str) -> None:
    crypto, unprotector = Crypto.generate(1, suite), Unprotector()
    unprotector.adopt(crypto, 0.0)
    for sequence in range(65_530, 65_550):
        assert unprotector.rtp(protect(crypto, rtp(sequence), sequence >> 16), 0.0) == rtp(sequence)


@pytest.mark.parametrize("suite", [suite for suite in SUITES if suite.startswith("AES_CM")])
def test_reports_are_what_the_specification_says(suite: str) -> None:
    crypto, protector, unprotector = Crypto.generate(1, suite), Protector(), Unprotector()
    protector.adopt(crypto)
    unprotector.adopt(crypto, 0.0)
    assert [protector.rtcp(REPORT) for _ in range(3)] == [protect_report(crypto, REPORT, n) for n in (1, 2, 3)]
    assert unprotector.rtcp(protect_report(crypto, REPORT, 1), 0.0) == REPORT


@pytest.mark.parametrize("suite", SUITES)
def test_reports_come_through(suite: str) -> None:
    crypto, protector, unprotector = Crypto.generate(1, suite), Protector(), Unprotector()
    protector.adopt(crypto)
    unprotector.adopt(crypto, 0.0)
    sealed = protector.rtcp(REPORT)
    assert REPORT[8:] not in sealed
    assert unprotector.rtcp(sealed, 0.0) == REPORT
    with pytest.raises(SrtpError, match="SRTP replayed"):
        unprotector.rtcp(sealed, 0.0)
    with pytest.raises(SrtpError, match="SRTP not authentic"):
        unprotector.rtcp(REPORT, 0.0)


def test_without_keys_packets_pass_as_they_are() -> None:
    assert Protector().rtp(rtp(1)) == Unprotector().rtp(rtp(1), 0.0) == rtp(1)
    assert Protector().rtcp(REPORT) == Unprotector().rtcp(REPORT, 0.0) == REPORT


@pytest.mark.parametrize("suite", SUITES)
def test_every_changed_byte_is_seen(suite: str) -> None:
    crypto, unprotector = Crypto.generate(1, suite), Unprotector()
    unprotector.adopt(crypto, 0.0)
    sealed = protect(crypto, rtp(7), 0)
    for place in range(len(sealed)):
        with pytest.raises(SrtpError, match="SRTP not authentic"):
            unprotector.rtp(sealed[:place] + bytes([sealed[place] ^ 1]) + sealed[place + 1 :], 0.0)
    assert unprotector.rtp(sealed, 0.0) == rtp(7)


@pytest.mark.parametrize("data", [b"", b"\x80", bytes(12), rtp(1), rtp(1)[:20], b"\x80" * 1_500, b"\x9f" * 4_096])
def test_what_is_no_srtp_is_not_authentic(data: bytes) -> None:
    unprotector = Unprotector()
    unprotector.adopt(Crypto.generate(1, CM_80), 0.0)
    with pytest.raises(SrtpError, match="SRTP not authentic"):
        unprotector.rtp(data, 0.0)


def test_a_packet_counts_once_in_any_order_within_the_window() -> None:
    crypto, unprotector = Crypto.generate(1, CM_80), Unprotector()
    unprotector.adopt(crypto, 0.0)
    for sequence in (200, 203, 201, 140):  # 64 at least (RFC 3711, section 3.3.2)
        assert unprotector.rtp(protect(crypto, rtp(sequence), 0), 0.0) == rtp(sequence)
    for sequence in (200, 203, 201, 140, 3):
        with pytest.raises(SrtpError, match="SRTP replayed"):
            unprotector.rtp(protect(crypto, rtp(sequence), 0), 0.0)


# --- another key ---------------------------------------------------------------------------------------------------


def test_the_same_key_goes_on_under_another_tag() -> None:
    crypto, protector, unprotector = Crypto.generate(1, CM_80), Protector(), Unprotector()
    protector.adopt(crypto)
    unprotector.adopt(crypto, 0.0)
    for sequence in range(65_534, 65_540):
        again = Crypto(sequence, crypto.suite, crypto.key)
        protector.adopt(again)
        unprotector.adopt(again, 0.0)
        sealed = protector.rtp(rtp(sequence))
        assert sealed == protect(crypto, rtp(sequence), sequence >> 16)
        assert unprotector.rtp(sealed, 0.0) == rtp(sequence)
        with pytest.raises(SrtpError, match="SRTP replayed"):
            unprotector.rtp(sealed, 0.0)


def test_after_a_change_both_keys_count_until_the_new_one_came() -> None:
    before, after, unprotector = Crypto.generate(1, CM_80), Crypto.generate(1, "AEAD_AES_128_GCM"), Unprotector()
    unprotector.adopt(before, 0.0)
    assert unprotector.rtp(protect(before, rtp(10), 0), 0.0) == rtp(10)
    unprotector.adopt(after, 1.0)
    assert unprotector.rtp(protect(before, rtp(11), 0), 2.0) == rtp(11)
    assert unprotector.rtp(protect(after, rtp(13), 0), 2.1) == rtp(13)
    assert unprotector.rtp(protect(before, rtp(12), 0), 2.1 + TAIL_S / 2) == rtp(12)  # overtaken
    assert unprotector.rtp(protect(after, rtp(14), 0), 2.1 + TAIL_S / 2) == rtp(14)
    with pytest.raises(SrtpError, match="SRTP not authentic"):
        unprotector.rtp(protect(before, rtp(15), 0), 2.1 + TAIL_S)


def test_the_key_of_before_does_not_count_for_ever_if_the_new_one_never_comes() -> None:
    before, after, unprotector = Crypto.generate(1, CM_80), Crypto.generate(1, CM_80), Unprotector()
    unprotector.adopt(before, 0.0)
    unprotector.adopt(after, 1.0)
    assert unprotector.rtp(protect(before, rtp(1), 0), OVERLAP_S) == rtp(1)
    with pytest.raises(SrtpError, match="SRTP not authentic"):
        unprotector.rtp(protect(before, rtp(2), 0), 1.0 + OVERLAP_S)


def test_from_plain_to_encrypted_nothing_plain_counts_any_more() -> None:
    crypto, unprotector = Crypto.generate(1, CM_80), Unprotector()
    unprotector.adopt(None, 0.0)
    unprotector.adopt(crypto, 1.0)
    with pytest.raises(SrtpError, match="SRTP not authentic"):
        unprotector.rtp(rtp(1), 1.0)


def test_from_encrypted_to_plain_what_is_on_its_way_is_no_noise() -> None:
    crypto, unprotector = Crypto.generate(1, CM_80), Unprotector()
    unprotector.adopt(crypto, 0.0)
    unprotector.adopt(None, 1.0)
    assert unprotector.rtp(protect(crypto, rtp(1), 0), 1.1) == rtp(1)
    assert unprotector.rtp(rtp(2), 1.2) == rtp(2)


def test_each_source_has_its_own_count_of_rollovers() -> None:
    crypto = Crypto.generate(1, CM_80)
    far, unprotector = session(crypto, Policy.SSRC_ANY_OUTBOUND), Unprotector()
    unprotector.adopt(crypto, 0.0)
    for sequence in (65_535, 65_536, 65_537):
        assert unprotector.rtp(far.protect(rtp(sequence)), 0.0) == rtp(sequence)
    assert unprotector.rtp(protect(crypto, rtp(5, ssrc=2), 0), 0.0) == rtp(5, ssrc=2)


@pytest.mark.parametrize("suite", ["AEAD_AES_128_GCM", CM_80])
def test_of_sources_without_number_only_the_latest_are_known(suite: str) -> None:
    """Each has the key; libsrtp would look through all of them for every packet."""
    far, unprotector = Protector(), Unprotector()
    crypto = Crypto.generate(1, suite)
    far.adopt(crypto)
    unprotector.adopt(crypto, 0.0)
    for ssrc in range(1, 5 * MOST_SOURCES):
        assert unprotector.rtp(protect(crypto, rtp(ssrc, ssrc=ssrc), 0), 0.0) == rtp(ssrc, ssrc=ssrc)
        assert unprotector.rtp(protect(crypto, rtp(ssrc), 0), 0.0) == rtp(ssrc)  # who goes on is not forgotten
    assert len(unprotector._sources) == MOST_SOURCES
    with pytest.raises(SrtpError, match="SRTP replayed"):
        unprotector.rtp(protect(crypto, rtp(ssrc), 0), 0.0)
    unprotector.adopt(Crypto.generate(1, suite), 0.0)
    assert not unprotector._sources
