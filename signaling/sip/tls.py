"""TLS for SIP: certificates as files, and whom a certificate is for (RFC 5922).

One deviation: a name such as *.example.com stands for one label in front, which RFC 5922, section 7.2, forbids, since
large providers have such certificates and no others.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any, TypeAlias

from signaling.call import SignalingError
from signaling.sip.grammar import clean, parse_uri

Certificate: TypeAlias = Mapping[str, Any]
"""As `ssl.SSLSocket.getpeercert` gives it; empty where the peer showed none, or none was asked for."""


@dataclass(frozen=True)
class Tls:
    """PEM files, and what is asked of peers. Without a `certificate` we can call over TLS, but not be called.

    `key` may stand in the certificate's file. `authorities` vouch for peers, instead of the system's. With `demand`
    everybody who connects must have a certificate by one of them.
    """

    certificate: Path | None = None
    key: Path | None = None
    authorities: Path | None = None
    demand: bool = False
    port: int = 5061


def server_context(tls: Tls) -> ssl.SSLContext:
    """For who connects to us. Raises SignalingError where a file cannot be used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _prepare(context, tls)
    if tls.authorities is not None:
        _trust(context, tls.authorities)  # a certificate that is shown must be good, or the handshake ends
        context.verify_mode = ssl.CERT_REQUIRED if tls.demand else ssl.CERT_OPTIONAL
    return context


def client_context(tls: Tls) -> ssl.SSLContext:
    """For whom we connect to. Raises SignalingError where a file cannot be used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # `is_for` does: names of SIP domains are more than host names
    _prepare(context, tls)
    if tls.authorities is not None:
        _trust(context, tls.authorities)
    else:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    return context


def _prepare(context: ssl.SSLContext, tls: Tls) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if tls.certificate is None:
        return
    try:
        context.load_cert_chain(tls.certificate, tls.key, password=_no_password)
    except ssl.SSLError as error:
        where = f"{tls.certificate}" + (f" and {tls.key}" if tls.key else "")
        mismatch = error.reason == "KEY_VALUES_MISMATCH"
        wanted = "a certificate and its key in PEM are wanted, in one file or in two"
        what = "the key is not that of the certificate" if mismatch else wanted
        raise SignalingError(f"TLS certificate {where} cannot be used: {what}") from None
    except OSError as error:
        files = [path for path in (tls.certificate, tls.key) if path is not None]
        which = next((path for path in files if not _is_readable(path)), tls.certificate)
        raise SignalingError(f"TLS certificate or key {which} cannot be read: {error.strerror}") from None
    except _Encrypted:
        raise SignalingError(f"the TLS key of {tls.certificate} is encrypted; it must be in plain PEM") from None


class _Encrypted(Exception):
    """A password was asked for."""


def _no_password() -> str:
    raise _Encrypted


def _trust(context: ssl.SSLContext, authorities: Path) -> None:
    try:
        context.load_verify_locations(authorities)
    except ssl.SSLError:
        raise SignalingError(f"TLS authorities {authorities} cannot be used: it has no PEM certificate") from None
    except OSError as error:
        raise SignalingError(f"TLS authorities {authorities} cannot be read: {error.strerror}") from None


def _is_readable(path: Path) -> bool:
    try:
        with open(path, "rb"):
            return True
    except OSError:
        return False


# --- whom a certificate is for -------------------------------------------------------------------------------------


def identities(certificate: Certificate) -> tuple[str, ...]:
    """The domains and addresses that it is for (RFC 5922, section 7.1): SIP URIs, or DNS names if there are none.

    Addresses count beside them; the common name counts where there is no subjectAltName at all.
    """
    names = [(kind, str(value)) for kind, value in certificate.get("subjectAltName", ())]
    if not names:
        return tuple(_common_names(certificate))
    uris = list(filter(None, (_domain(value) for kind, value in names if kind == "URI")))
    hosts = [value.lower() for kind, value in names if kind == "DNS"]
    addresses = [_address(value) for kind, value in names if kind == "IP Address"]
    return tuple(dict.fromkeys((*(uris or hosts), *addresses)))


def is_for(certificate: Certificate, name: str) -> bool:
    """Whether it is for that domain or address."""
    name = _address(name.strip("[]").rstrip(".").lower())
    return any(identity == name or _covers(identity, name) for identity in identities(certificate))


def _covers(identity: str, name: str) -> bool:
    """Whether `*.example.com` stands for the name."""
    label, dot, rest = name.partition(".")
    return identity.startswith("*.") and bool(label and dot) and "." in rest and identity[2:] == rest


def _domain(uri: str) -> str:
    """The host of a SIP URI that names a domain; "" for one with a user in it, and for any other URI."""
    try:
        parsed = parse_uri(uri)
    except ValueError:
        return ""
    return _address(parsed.host.strip("[]").lower()) if parsed.scheme == "sip" and not parsed.user else ""


def _address(text: str) -> str:
    """An address in one of the ways in which it can be written, any other text as it is."""
    try:
        return str(ip_address(text.strip()))
    except ValueError:
        return text


def _common_names(certificate: Certificate) -> Iterable[str]:
    for fields in certificate.get("subject", ()):
        for name, value in fields:
            if name == "commonName":
                yield _address(str(value).lower())


# --- what went wrong -----------------------------------------------------------------------------------------------

_VERIFY = {
    9: "its certificate is not valid yet",
    10: "its certificate has expired",
    18: "its certificate is signed by itself; VOIPAGENT_SIP__TLS_CA may name it",
    19: "its certificate is by an authority that we do not know; VOIPAGENT_SIP__TLS_CA may name it",
    20: "its certificate is by an authority that we do not know; VOIPAGENT_SIP__TLS_CA may name it",
    21: "its certificate is by an authority that we do not know; VOIPAGENT_SIP__TLS_CA may name it",
    23: "its certificate was revoked",
    26: "its certificate is not made for that use (extendedKeyUsage)",
}
"""By the number of OpenSSL's X509_V_ERR_…"""

_REASONS = {
    "TLSV1_ALERT_UNKNOWN_CA": "it does not know the authority of our certificate",
    "SSLV3_ALERT_BAD_CERTIFICATE": "it does not take our certificate",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "it does not take our certificate",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "it says that our certificate has expired",
    "TLSV1_ALERT_ACCESS_DENIED": "it does not let us in",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "it wants a certificate of ours; VOIPAGENT_SIP__TLS_CERT names one",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "it shows no certificate, as VOIPAGENT_SIP__TLS_VERIFY=demand has it",
    "WRONG_VERSION_NUMBER": "it speaks no TLS on that port",
    "HTTP_REQUEST": "it speaks no TLS on that port",
    "UNSUPPORTED_PROTOCOL": "it speaks no TLS of 1.2 or later",
    "TLSV1_ALERT_PROTOCOL_VERSION": "it speaks no TLS of 1.2 or later",
    "NO_SHARED_CIPHER": "it has no cipher in common with us",
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "it refused the handshake",
}


def why(error: OSError | None) -> str:
    """Why a connection failed, for a person."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _VERIFY.get(error.verify_code) or f"its certificate is not good: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        reason = getattr(error, "reason", None) or ""  # missing where OpenSSL has none
        return _REASONS.get(reason) or f"TLS failed: {clean(reason or str(error))}"
    if isinstance(error, TimeoutError):
        return "no answer"
    if error is not None and error.errno:
        return os.strerror(error.errno).lower()
    return str(error or "the connection was closed")
