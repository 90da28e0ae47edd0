"""Certificates made for one test: an authority, and whatever it is to vouch for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

PEM, PKCS8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8


def _san(text: str) -> x509.GeneralName:
    """A URI where there is a scheme, an address where it is one, else a DNS name."""
    if text.startswith(("sip:", "sips:", "http:")):
        return x509.UniformResourceIdentifier(text)
    try:
        return x509.IPAddress(ip_address(text))
    except ValueError:
        return x509.DNSName(text)


class Authority:
    """Signs certificates. `path` is its own, in PEM."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self.folder, self.path = folder, folder / f"{name}.pem"
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = self._builder(self._name, self._key, days=1)
        certificate = builder.add_extension(x509.BasicConstraints(True, None), critical=True).sign(
            self._key, hashes.SHA256()
        )
        self.path.write_bytes(certificate.public_bytes(PEM))

    def _builder(self, name: x509.Name, key: ec.EllipticCurvePrivateKey, days: int) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + timedelta(days=min(0, days) - 1))
            .not_valid_after(now + timedelta(days=days))
        )

    def sign(self, *names: str, days: int = 1, common_name: str = "") -> Path:
        """A certificate for these names, and its key, in one file; one of -1 days has expired."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else [])
        builder = self._builder(subject, key, days)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName([_san(name) for name in names]), critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        path = self.folder / f"{certificate.serial_number:x}.pem"
        secret = key.private_bytes(PEM, PKCS8, serialization.NoEncryption())
        path.write_bytes(certificate.public_bytes(PEM) + secret)
        return path
