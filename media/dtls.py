"""Keys for SRTP by DTLS (RFC 5763, 5764): a handshake on the audio's own port, and who it was with. Sans-I/O.

What the session description says of it is a fingerprint of the certificate that each side will show, and who begins.
OpenSSL does the rest; datagrams go in and out of it here.
"""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass
from typing import ClassVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from OpenSSL import SSL

from media.crypto import SUITES, Crypto
from media.leg import LegError

HASHES: dict[str, hashes.HashAlgorithm] = {
    "sha-256": hashes.SHA256(),
    "sha-384": hashes.SHA384(),
    "sha-512": hashes.SHA512(),
}

MTU = 1200
"""Of a datagram: what gets through every tunnel."""

LIFETIME = datetime.timedelta(days=2)
"""Of a certificate, which is one call's. Nobody looks at its dates: its fingerprint came with the signalling."""

_PROFILES = {
    "SRTP_AEAD_AES_256_GCM": ("AEAD_AES_256_GCM", 32),
    "SRTP_AEAD_AES_128_GCM": ("AEAD_AES_128_GCM", 16),
    "SRTP_AES128_CM_SHA1_80": ("AES_CM_128_HMAC_SHA1_80", 16),
    "SRTP_AES128_CM_SHA1_32": ("AES_CM_128_HMAC_SHA1_32", 16),
}
"""OpenSSL's names (RFC 5764, section 4.1.2; RFC 7714, section 14.2), best first -> ours, and the bytes of a key."""

_HEADER = 13
"""Bytes before each record; the last two of them are its length (RFC 6347, section 4.1)."""


class DtlsError(Exception):
    """A handshake that failed; the message says on what."""


@dataclass(frozen=True, slots=True)
class Dtls:
    """What was agreed: the fingerprints of the far end's certificate, any of which will do, and if we begin."""

    fingerprints: frozenset[tuple[str, bytes]]
    client: bool

    @classmethod
    def parse(cls, fingerprints: list[str], setup: str, client: bool) -> Dtls:
        """Read the values of a=fingerprint and of a=setup; where it leaves the choice to us, we begin if `client`.

        Raises LegError.
        """
        found = frozenset(filter(None, map(_fingerprint, fingerprints)))
        if not found:
            raise LegError(f"without an a=fingerprint of {', '.join(HASHES)}")
        if setup not in ("actpass", "active", "passive"):
            raise LegError("without an a=setup of actpass, active or passive")
        return cls(found, client if setup == "actpass" else setup == "passive")

    @property
    def setup(self) -> str:
        """Our side of it, in an answer."""
        return "active" if self.client else "passive"


def _fingerprint(value: str) -> tuple[str, bytes] | None:
    """`sha-256 0A:1B:…`; None for what is none, or of a hash that nobody should rely on."""
    name, _, digest = value.lower().partition(" ")
    if name not in HASHES or not re.fullmatch(r"[0-9a-f]{2}(:[0-9a-f]{2})*", digest.strip(), re.ASCII):
        return None
    found = bytes.fromhex(digest.strip().replace(":", ""))
    return (name, found) if len(found) == HASHES[name].digest_size else None


class Identity:
    """A key and its certificate, of one call: nobody can tell two calls of ours by it."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "anonymous")])
        now = datetime.datetime.now(datetime.UTC)
        builder = x509.CertificateBuilder(name, name, self.key.public_key(), x509.random_serial_number())
        builder = builder.not_valid_before(now - LIFETIME).not_valid_after(now + LIFETIME)
        self.certificate = builder.sign(self.key, hashes.SHA256())

    @property
    def fingerprint(self) -> str:
        """What follows `a=fingerprint:`."""
        return f"sha-256 {self.certificate.fingerprint(hashes.SHA256()).hex(':').upper()}"


class Handshake:
    """One, until its keys are there: then `ours` is how we send, and `theirs` how the far end does.

    Datagrams to be sent are what `poll` and `receive` give.
    """

    ours: Crypto | None = None
    theirs: Crypto | None = None
    _CIPHERS: ClassVar[bytes] = b"ECDHE+AESGCM:ECDHE+CHACHA20:ECDHE+AES"

    def __init__(self, identity: Identity, dtls: Dtls) -> None:
        context = SSL.Context(SSL.DTLS_METHOD)
        context.set_options(SSL.OP_NO_TICKET | SSL.OP_NO_QUERY_MTU)
        # Who signed a certificate says nothing here: its fingerprint decides, once the handshake is done.
        context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, lambda *_: True)
        context.use_certificate(identity.certificate)
        context.use_privatekey(identity.key)
        context.set_cipher_list(self._CIPHERS)
        context.set_tlsext_use_srtp(":".join(_PROFILES).encode())
        self.dtls = dtls
        self._connection = SSL.Connection(context)
        self._connection.set_ciphertext_mtu(MTU)
        if dtls.client:
            self._connection.set_connect_state()
        else:
            self._connection.set_accept_state()

    @property
    def done(self) -> bool:
        """Whether there are keys."""
        return self.ours is not None

    def poll(self) -> list[bytes]:
        """What is due: the first flight, and those that were not answered in time. Raises DtlsError."""
        return self._step(due=not self.done)

    def receive(self, datagram: bytes) -> list[bytes]:
        """Take one; what it asks for. Raises DtlsError."""
        self._connection.bio_write(datagram)
        return self._step()

    def close(self) -> list[bytes]:
        """The alert that nothing more will come (RFC 5246, section 7.2.1), where there is somebody to tell."""
        if not self.done:
            return []
        try:
            self._connection.shutdown()
        except SSL.Error:
            return []
        return self._datagrams()

    def _step(self, due: bool = False) -> list[bytes]:
        try:
            if due:
                self._connection.DTLSv1_handle_timeout()  # which gives up at the 13th, after eight minutes
            if self.done:
                self._read_out()
            else:
                self._connection.do_handshake()
                self._export()
        except (SSL.WantReadError, SSL.ZeroReturnError):
            pass
        except SSL.Error as error:
            raise DtlsError(f"the DTLS handshake failed: {_reason(error)}") from None
        return self._datagrams()

    def _read_out(self) -> None:
        """The last flight again, for who has missed ours. Data is for nobody; unread, it would be kept."""
        while True:
            self._connection.recv(1 << 16)

    def _export(self) -> None:
        """Take the keys, if that is the far end of the session description (RFC 5764, section 4.2)."""
        certificate = self._connection.get_peer_certificate(as_cryptography=True)
        if certificate is None or not any(
            certificate.fingerprint(HASHES[name]) == digest for name, digest in self.dtls.fingerprints
        ):
            raise DtlsError("the certificate in the DTLS handshake is not the one whose fingerprint its SDP has")
        profile = self._connection.get_selected_srtp_profile().decode()
        if profile not in _PROFILES:
            raise DtlsError("the far end's DTLS knows no SRTP that we speak")
        suite, size = _PROFILES[profile]
        salt = SUITES[suite] - size
        material = self._connection.export_keying_material(b"EXTRACTOR-dtls_srtp", 2 * SUITES[suite])
        keys, salts = material[: 2 * size], material[2 * size :]
        client = Crypto(0, suite, keys[:size] + salts[:salt])
        server = Crypto(0, suite, keys[size:] + salts[salt:])
        self.ours, self.theirs = (client, server) if self.dtls.client else (server, client)

    def _datagrams(self) -> list[bytes]:
        """What OpenSSL wrote: whole records, as many to a datagram as fit."""
        written = b""
        try:
            while True:
                written += self._connection.bio_read(1 << 16)
        except SSL.Error:
            pass
        datagrams: list[bytes] = []
        while written:
            length = _HEADER + int.from_bytes(written[_HEADER - 2 : _HEADER])
            record, written = written[:length], written[length:]
            if datagrams and len(datagrams[-1]) + length <= MTU:
                datagrams[-1] += record
            else:
                datagrams.append(record)
        return datagrams


def is_dtls(datagram: bytes) -> bool:
    """Whether that is DTLS, and neither RTP nor RTCP (RFC 7983, section 7)."""
    return bool(datagram) and 20 <= datagram[0] <= 63


def _reason(error: SSL.Error) -> str:
    """OpenSSL's words."""
    reasons = [reason for *_, reason in error.args[0]] if error.args and isinstance(error.args[0], list) else []
    return ", ".join(map(str, reasons)) or "no reason given"
