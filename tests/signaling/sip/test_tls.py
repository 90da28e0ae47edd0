"""tls.py: whom a certificate is for, and files that cannot be used."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from signaling.call import SignalingError
from signaling.sip.tls import Tls, client_context, identities, is_for, server_context, why
from tests.signaling.sip.certificates import PEM, PKCS8, Authority


def shown(*names: tuple[str, str], common_name: str = "") -> dict[str, object]:
    """A certificate as `getpeercert` gives it."""
    subject = ((("commonName", common_name),),) if common_name else ()
    return {"subject": subject, "subjectAltName": names} if names else {"subject": subject}


@pytest.mark.parametrize(
    ("certificate", "name", "good"),
    [
        (shown(("DNS", "sip.Example.com")), "SIP.example.com.", True),
        (shown(("DNS", "sip.example.com")), "example.com", False),
        (shown(("DNS", "other"), ("URI", "sip:example.com")), "example.com", True),
        # RFC 5922, section 7.1: DNS names count only where there is no SIP URI
        (shown(("DNS", "other.com"), ("URI", "sip:example.com")), "other.com", False),
        (shown(("DNS", "other.com"), ("URI", "http://example.com/")), "other.com", True),
        (shown(("DNS", "other.com"), ("URI", "sip:alice@example.com")), "example.com", False),
        (shown(("URI", "sips:example.com")), "example.com", False),
        (shown(("URI", "sip:EXAMPLE.com")), "example.com", True),
        (shown(("DNS", "a"), ("IP Address", "192.0.2.1")), "192.0.2.1", True),
        (shown(("URI", "sip:example.com"), ("IP Address", "192.0.2.1")), "192.0.2.1", True),
        (shown(("IP Address", "2001:DB8:0:0:0:0:0:1")), "2001:db8::1", True),
        (shown(("IP Address", "2001:DB8:0:0:0:0:0:1\n")), "[2001:db8::1]", True),
        (shown(("DNS", "*.example.com")), "a.example.com", True),
        (shown(("DNS", "*.example.com")), "a.b.example.com", False),
        (shown(("DNS", "*.example.com")), "example.com", False),
        (shown(("DNS", "*.com")), "example.com", False),
        (shown(("DNS", "a*.example.com")), "ab.example.com", False),
        (shown(("DNS", "a.example.com"), common_name="b.example.com"), "b.example.com", False),
        (shown(common_name="Example.com"), "example.com", True),
        (shown(), "example.com", False),
        ({}, "", False),
    ],
)
def test_whom_a_certificate_is_for(certificate: dict[str, object], name: str, good: bool) -> None:
    assert is_for(certificate, name) is good


def test_each_identity_once_and_in_order() -> None:
    assert identities(shown(("DNS", "b"), ("DNS", "a"), ("DNS", "B"))) == ("b", "a")


def test_files_that_can_be_used(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    both = authority.sign("example.com")
    tls = Tls(both, authorities=authority.path)
    assert server_context(tls).verify_mode is ssl.CERT_OPTIONAL
    assert server_context(Tls(both)).verify_mode is ssl.CERT_NONE
    assert server_context(Tls(both, authorities=authority.path, demand=True)).verify_mode is ssl.CERT_REQUIRED
    for context in (server_context(tls), client_context(tls), client_context(Tls())):
        assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert client_context(Tls()).verify_mode is ssl.CERT_REQUIRED  # by the system's authorities


def test_files_that_cannot_be_used_are_one_clear_line(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    both, other = authority.sign("a"), authority.sign("b")
    text = tmp_path / "text.pem"
    text.write_text("hello")
    secret = tmp_path / "secret.pem"
    loaded = serialization.load_pem_private_key(_key_of(both), None)
    sealed = loaded.private_bytes(PEM, PKCS8, serialization.BestAvailableEncryption(b"x"))
    secret.write_bytes(_certificate_of(both) + sealed)
    for tls, message in (
        (Tls(tmp_path / "none.pem"), r"none\.pem cannot be read: No such file"),
        (Tls(both, tmp_path / "no.key"), r"no\.key cannot be read: No such file"),
        (Tls(both, other), "the key is not that of the certificate"),
        (Tls(text), "cannot be used: a certificate and its key in PEM are wanted"),
        (Tls(secret), "is encrypted; it must be in plain PEM"),
        (Tls(both, authorities=text), r"authorities .*text\.pem cannot be used: it has no PEM certificate"),
        (Tls(both, authorities=tmp_path / "none"), "authorities .*none cannot be read: No such file"),
    ):
        for make in (server_context, client_context):
            with pytest.raises(SignalingError, match=message):
                make(tls)


def _key_of(path: Path) -> bytes:
    return b"-----BEGIN PRIVATE" + path.read_bytes().partition(b"-----BEGIN PRIVATE")[2]


def _certificate_of(path: Path) -> bytes:
    return path.read_bytes().partition(b"-----BEGIN PRIVATE")[0]


def test_why_in_words() -> None:
    assert why(TimeoutError()) == "no answer"
    assert why(ConnectionRefusedError(111, "Connect call failed")) == "connection refused"
    assert why(None) == "the connection was closed"
    assert "\x07" not in why(ssl.SSLError(1, "odd \x07 thing"))
