"""The HTTP server's settings, and https over real sockets."""

from __future__ import annotations

import asyncio
import signal
import ssl
from pathlib import Path

import pytest

from tests.voipagent.test_settings import fault
from voipagent.http import HttpSettings
from voipagent.lab.serving import serving_agent
from voipagent.settings import Settings
from voipagent.web.api import create_api, serve_http
from voipagent.web.certificate import CertificateError, open_https, self_signed


def test_https_is_off_unless_there_is_a_certificate() -> None:
    assert not Settings.load({}).http.is_https and open_https(HttpSettings()) is None
    assert Settings.load({"VOIPAGENT_HTTP__TLS": "self-signed"}).http.is_https
    assert Settings.load({"VOIPAGENT_HTTP__TLS_CERT": "cert.pem"}).http.is_https


def test_what_contradicts_itself_is_refused() -> None:
    assert "there is a key, but no certificate; VOIPAGENT_HTTP__TLS_CERT names one" in fault(HTTP__TLS_KEY="key.pem")
    assert "set one of the two" in fault(HTTP__TLS="self-signed", HTTP__TLS_CERT="cert.pem")
    assert "'off' or 'self-signed'" in fault(HTTP__TLS="on")


async def get(port: int, trusted: Path, path: str = "/healthz") -> bytes:
    async with asyncio.timeout(5):
        context = ssl.create_default_context(cafile=trusted)
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
    return answer


async def test_https_with_our_own_certificate_then_with_another(tmp_path: Path) -> None:
    """Who trusts the certificate gets through; once the file is another, it is shown from the next connection on."""
    https = open_https(HttpSettings(tls="self-signed", tls_dir=tmp_path))
    assert https is not None and https.certificate.parent == tmp_path
    async with serve_http(create_api(lambda: True), "127.0.0.1", 0, https.context) as port:
        old = tmp_path / "old.pem"
        old.write_bytes(https.certificate.read_bytes())
        assert (await get(port, old)).startswith(b"HTTP/1.1 200")
        https.certificate.unlink()
        new = open_https(HttpSettings(tls="self-signed", tls_dir=tmp_path))
        assert new is not None
        https.reload()
        with pytest.raises(ssl.SSLCertVerificationError):
            await get(port, old)
        assert (await get(port, new.certificate)).startswith(b"HTTP/1.1 200")


async def test_files_of_ones_own(tmp_path: Path) -> None:
    made = open_https(HttpSettings(tls="self-signed", tls_dir=tmp_path))
    assert made is not None
    https = open_https(HttpSettings(tls_cert=made.certificate))
    assert https is not None
    async with serve_http(create_api(lambda: True), "127.0.0.1", 0, https.context) as port:
        assert (await get(port, made.certificate)).startswith(b"HTTP/1.1 200")
    with pytest.raises(CertificateError, match="cannot be read: No such file"):
        open_https(HttpSettings(tls_cert=tmp_path / "none.pem"))


async def shown(port: int) -> bytes:
    """The certificate that whoever connects is shown."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    async with asyncio.timeout(5):
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        certificate: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.close()
        await writer.wait_closed()
    return certificate


async def test_the_agent_serves_its_page_over_https_and_reads_the_certificate_anew_on_sighup(tmp_path: Path) -> None:
    environ = {
        "VOIPAGENT_ENGINE__MODEL": "echo",
        "VOIPAGENT_CALLS__DIR": str(tmp_path / "calls"),
        "VOIPAGENT_HTTP__TLS": "self-signed",
        "VOIPAGENT_HTTP__TLS_DIR": str(tmp_path / "tls"),
    }
    async with asyncio.timeout(60), serving_agent(environ) as agent:
        path, port = tmp_path / "tls" / "self-signed.pem", agent.http_port
        page = await get(port, path, "/")
        assert page.startswith(b"HTTP/1.1 200") and b"<title>Talk to the agent</title>" in page
        assert any(f"talk to it at https://localhost:{port}/" in line for line in agent.log)
        before = await shown(port)
        path.unlink()
        assert self_signed(tmp_path / "tls", ["localhost", "127.0.0.1"]) == path
        agent.process.send_signal(signal.SIGHUP)
        while not any("certificates were read again" in line for line in agent.log):
            await asyncio.sleep(0.02)
        assert await shown(port) != before
        assert (await get(port, path, "/healthz")).startswith(b"HTTP/1.1 200")
        path.write_text("torn")
        agent.process.send_signal(signal.SIGHUP)
        while not any("the certificates of before stay" in line for line in agent.log):
            await asyncio.sleep(0.02)
        assert await agent.stop() == 0
