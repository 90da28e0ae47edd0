"""What https is made of: a certificate that was given, or one that we sign ourselves, once, and keep."""

from __future__ import annotations

import logging
import os
import socket
import ssl
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from voipagent.http import HttpSettings
from voipagent.web.api import HttpError

logger = logging.getLogger(__name__)

LASTS = timedelta(days=397)
"""The longest that browsers take from anybody."""

RENEWED = timedelta(days=30)
"""Before its end a certificate is made anew, at a start of ours."""

FILE = "self-signed.pem"


class CertificateError(HttpError):
    """There can be no https; the message names the file or the folder, and what would be right."""


@dataclass(frozen=True)
class Https:
    """A certificate in use. `reload` has connections from now on use the files as they are then."""

    context: ssl.SSLContext
    certificate: Path
    key: Path | None = None

    def reload(self) -> None:
        """Raises CertificateError; the certificate of before then stays."""
        load(self.context, self.certificate, self.key)


def open_https(http: HttpSettings, advertised: Iterable[str] = ()) -> Https | None:
    """What the settings have, None for plain HTTP. Raises CertificateError."""
    if not http.is_https:
        return None
    if http.tls_cert is not None:
        return Https(server_context(http.tls_cert, http.tls_key), http.tls_cert, http.tls_key)
    path = self_signed(http.tls_dir, names_of(http.host, advertised))
    logger.info("- our own certificate has the SHA-256 fingerprint %s", fingerprint(path))
    return Https(server_context(path), path)


def server_context(certificate: Path, key: Path | None = None) -> ssl.SSLContext:
    """TLS for a server, with PEM files; `key` may stand in the certificate's. Raises CertificateError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    load(context, certificate, key)
    return context


def load(context: ssl.SSLContext, certificate: Path, key: Path | None = None) -> None:
    """Have connections from now on use these files, as they are now. Raises CertificateError; the old ones stay."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password=lambda: b"")
        context.load_cert_chain(certificate, key, password=lambda: b"")
    except ssl.SSLError as error:
        where = f"{certificate}" + (f" and {key}" if key else "")
        what = "a certificate and its key in plain PEM are wanted, in one file or in two"
        if error.reason == "KEY_VALUES_MISMATCH":
            what = "the key is not that of the certificate"
        raise CertificateError(f"the TLS certificate {where} cannot be used: {what}") from None
    except OSError as error:
        files = [path for path in (certificate, key) if path is not None]
        which = next((path for path in files if not os.access(path, os.R_OK)), certificate)
        raise CertificateError(f"the TLS certificate or key {which} cannot be read: {error.strerror}") from None


def self_signed(folder: Path, names: Iterable[str]) -> Path:
    """A certificate of our own for these names and addresses, with its key, readable by us alone: made, or kept.

    The one that is there stays as long as it names all of them and lasts for a while. Raises CertificateError.
    """
    path, wanted = folder / FILE, tuple(dict.fromkeys(names))
    try:
        if not _is_good(path, wanted):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _write(path, _made(wanted))
            logger.info("- made the TLS certificate %s for %s", path, ", ".join(wanted))
    except OSError as error:
        raise CertificateError(
            f"VOIPAGENT_HTTP__TLS_DIR: no certificate can be kept in {str(folder)!r}: {error.strerror or error}"
        ) from None
    return path


def fingerprint(path: Path) -> str:
    """SHA-256 of a PEM file's first certificate, as browsers show it."""
    digest = x509.load_pem_x509_certificate(path.read_bytes()).fingerprint(SHA256())
    return digest.hex(":").upper()


def names_of(host: str, advertised: Iterable[str] = ()) -> tuple[str, ...]:
    """What a browser may call us by: this machine, the address that we listen on, and what is told to others.

    Where we listen on all addresses, those are meant by which others reach us: the machine's name, and what it is.
    """
    names = ["localhost", "127.0.0.1", "::1", *advertised]
    try:
        everywhere = ip_address(host).is_unspecified
    except ValueError:
        everywhere = False
    return tuple(dict.fromkeys([*names, *(_own_names() if everywhere else [host])]))


def _own_names() -> list[str]:
    name = socket.gethostname()
    return [
        *([name] if name.isascii() else []),
        *filter(None, (_way_out(family) for family in (socket.AF_INET, socket.AF_INET6))),
    ]


def _way_out(family: socket.AddressFamily) -> str:
    """Our address on the way to others; nothing is sent. "" where there is no way."""
    far = "192.0.2.1" if family is socket.AF_INET else "2001:db8::1"  # RFC 5737, RFC 3849: nobody's
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.connect((far, 9))
            return str(sock.getsockname()[0])
    except OSError:
        return ""


def _is_good(path: Path, names: Iterable[str]) -> bool:
    """Whether the file has a certificate for all the names that lasts, and is readable by nobody else."""
    try:
        if path.stat().st_mode & 0o077:
            return False
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        alternative = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), path)
    except (FileNotFoundError, ValueError, CertificateError, x509.ExtensionNotFound):
        return False
    lasts = certificate.not_valid_after_utc - datetime.now(UTC) > RENEWED
    return lasts and {_general(name) for name in names} <= set(alternative)


def _made(names: Iterable[str]) -> bytes:
    """Key and certificate in PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "voipagent")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))  # clocks differ
        .not_valid_after(now + LASTS)
        .add_extension(x509.SubjectAlternativeName([_general(each) for each in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, SHA256())
    )
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return secret + certificate.public_bytes(Encoding.PEM)


def _general(name: str) -> x509.GeneralName:
    try:
        address: IPv4Address | IPv6Address = ip_address(name)
    except ValueError:
        return x509.DNSName(name)
    return x509.IPAddress(address)


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all; `mkstemp` makes files that only we can read."""
    descriptor, name = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        os.replace(name, path)
    except OSError:
        os.unlink(name)
        raise
