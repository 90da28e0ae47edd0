"""https: files that are given, and a certificate that is made once."""

from __future__ import annotations

import socket
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from voipagent.web import certificate
from voipagent.web.certificate import CertificateError, fingerprint, load, names_of, self_signed, server_context

NAMES = ("localhost", "127.0.0.1", "agent.example")


def named(path: Path) -> list[str]:
    found = x509.load_pem_x509_certificate(path.read_bytes())
    return [str(each.value) for each in found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value]


def test_it_is_made_once_for_all_names_and_is_ours_alone(tmp_path: Path) -> None:
    path = self_signed(tmp_path / "new" / "tls", NAMES)
    assert named(path) == list(NAMES)
    assert path.stat().st_mode & 0o777 == 0o600 and path.parent.stat().st_mode & 0o777 == 0o700
    made = path.read_bytes()
    assert self_signed(path.parent, NAMES[:1]) == path and path.read_bytes() == made, "it names more than is asked"
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    assert server_context(path).minimum_version == ssl.TLSVersion.TLSv1_2


@pytest.mark.parametrize("why", ["a new name", "nearly over", "others may read it", "torn", "without a key"])
def test_it_is_made_anew_where_it_will_not_do(why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if why == "nearly over":
        with monkeypatch.context() as patched:
            patched.setattr(certificate, "LASTS", timedelta(days=29))
            self_signed(tmp_path, NAMES)
    path = self_signed(tmp_path, NAMES) if why != "nearly over" else tmp_path / certificate.FILE
    before = fingerprint(path)
    if why == "others may read it":
        path.chmod(0o644)
    elif why == "torn":
        path.write_bytes(path.read_bytes()[:300])
    elif why == "without a key":
        path.write_text(path.read_text()[path.read_text().index("-----BEGIN CERTIFICATE") :])
    wanted = (*NAMES, "new.example") if why == "a new name" else NAMES
    self_signed(tmp_path, wanted)
    assert fingerprint(path) != before
    assert named(path) == list(wanted) and path.stat().st_mode & 0o777 == 0o600
    found = x509.load_pem_x509_certificate(path.read_bytes())
    assert found.not_valid_after_utc - datetime.now(UTC) > timedelta(days=390)


def test_names_are_those_that_a_browser_may_use() -> None:
    assert names_of("127.0.0.1", ["agent.example"]) == ("localhost", "127.0.0.1", "::1", "agent.example")
    assert names_of("192.0.2.7") == ("localhost", "127.0.0.1", "::1", "192.0.2.7")
    everywhere = names_of("0.0.0.0")
    assert "0.0.0.0" not in everywhere and socket.gethostname() in everywhere
    assert everywhere[:3] == ("localhost", "127.0.0.1", "::1")


def test_what_cannot_be_used_is_named_with_what_would_be_right(tmp_path: Path) -> None:
    mine, other = self_signed(tmp_path / "a", NAMES), self_signed(tmp_path / "b", NAMES)
    with pytest.raises(CertificateError, match=r"none\.pem cannot be read: No such file"):
        server_context(tmp_path / "none.pem")
    with pytest.raises(CertificateError, match="the key is not that of the certificate"):
        server_context(mine, other)
    (tmp_path / "text").write_text("hello")
    with pytest.raises(CertificateError, match="in plain PEM are wanted"):
        server_context(tmp_path / "text")
    with pytest.raises(CertificateError, match="VOIPAGENT_HTTP__TLS_DIR: no certificate can be kept in '.*text"):
        self_signed(tmp_path / "text", NAMES)


def shown(context: ssl.SSLContext) -> bytes:
    """The certificate that a client is shown, in DER: a handshake in memory."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    ours = context.wrap_bio(to_server, to_client, server_side=True)
    theirs = client.wrap_bio(to_client, to_server)
    for side in (theirs, ours, theirs):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    return theirs.getpeercert(binary_form=True) or b""


def test_files_are_read_anew_and_a_bad_one_leaves_the_old_in_use(tmp_path: Path) -> None:
    path = self_signed(tmp_path, NAMES)
    context = server_context(path)
    before = shown(context)
    path.chmod(0o644)
    load(context, self_signed(tmp_path, NAMES))
    after = shown(context)
    assert before and after and before != after
    path.write_text("hello")
    with pytest.raises(CertificateError):
        load(context, path)
    assert shown(context) == after
