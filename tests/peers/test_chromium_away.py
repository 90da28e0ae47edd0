"""Visitors on another machine, as far as addresses go: https, a relay, servers that are dead, a wire that is cut."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import signal
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.peers.chromium import Chromium, Page, chromium
from tests.peers.folders import read
from tests.peers.netns import Namespace, namespace
from tests.peers.test_chromium import (
    ANSWER,
    FINAL,
    GREETING,
    RECORD,
    RELAYED,
    agent_of,
    ask_and_hear,
    begin,
    end,
    fault,
    hears_itself,
    question,
)
from voipagent.lab.serving import ServingAgent

pytestmark = [pytest.mark.peer("chromium", "ip"), pytest.mark.acceptance]

WAY = """
  connection.getStats().then((stats) => {
    const pair = [...stats.values()].find((each) => each.type === 'candidate-pair' && each.nominated);
    return stats.get(pair.localCandidateId).candidateType;
  })
"""


PATCHED = "performance.getEntriesByType('resource').some(({ name }) => /\\/duplex\\/./.test(name))"


def trusted(certificate: Path) -> str:
    """The flag by which Chromium takes this certificate, and no other that nobody vouches for."""
    key = x509.load_pem_x509_certificate(certificate.read_bytes()).public_key()
    spki = hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()
    return f"--ignore-certificate-errors-spki-list={base64.b64encode(spki).decode()}"


@asynccontextmanager
async def visited(
    folder: Path, microphone: Path, net: Namespace, environ: Mapping[str, str], again: bool = True
) -> AsyncIterator[tuple[ServingAgent, Chromium, str]]:
    """An agent on https at our end of the wire, and a browser at the other."""
    settings = {"HTTP__HOST": net.here, "HTTP__TLS": "self-signed", "HTTP__TLS_DIR": str(folder / "tls")}
    async with agent_of(folder, **settings, **({"WEBRTC__OPEN": "true"} | dict(environ))) as agent:
        flag = trusted(folder / "tls" / "self-signed.pem")
        async with chromium(microphone, again=again, flags=[flag], netns=net.name) as browser:
            yield agent, browser, f"https://{net.here}:{agent.http_port}/"


async def test_a_visitor_from_elsewhere_asks_over_https_and_is_answered(tmp_path: Path) -> None:
    """The embedded model. Needs a machine that is not busy with something else."""
    microphone = question(tmp_path, 8.0, 40.0)
    async with (
        asyncio.timeout(150),
        namespace() as net,
        visited(tmp_path, microphone, net, {}, again=False) as (_, browser, url),
    ):
        page = await browser.open(url)
        await begin(page)
        assert await ask_and_hear(page, tmp_path) == ANSWER
        await end(page)
        assert page.faults == []
    (left,) = read(tmp_path / "calls")
    assert [line.text for line in left.lines if line.role == "agent"] == [GREETING, ANSWER]
    assert left.record["source"].startswith(net.there)


async def test_without_https_the_page_says_why_it_is_mute(tmp_path: Path) -> None:
    async with asyncio.timeout(60), namespace() as net:
        async with (
            agent_of(tmp_path, ENGINE__MODEL="echo", HTTP__HOST=net.here, WEBRTC__OPEN="true") as agent,
            chromium(netns=net.name) as browser,
        ):
            page = await browser.open(f"http://{net.here}:{agent.http_port}/")
            told = await fault(page)
            assert "VOIPAGENT_HTTP__TLS=self-signed" in told and f"https://{net.here}:{agent.http_port}/" in told
            assert await page.run("document.getElementById('call').disabled")


@asynccontextmanager
async def relay(host: str, log: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """coturn, for the user agent with the password sekret."""
    with open(log, "wb") as output:
        process = await asyncio.create_subprocess_exec(
            *("turnserver", "-n", f"--listening-ip={host}", f"--relay-ip={host}", "--listening-port=3478"),
            *("--min-port=49160", "--max-port=49260", "--lt-cred-mech", "--user=agent:sekret", "--realm=test"),
            *("--no-tls", "--no-dtls", "--no-cli", "--fingerprint", "--verbose", "--simple-log"),
            *("--log-file=stdout", f"--pidfile={log.with_suffix('.pid')}", f"--userdb={log.with_suffix('.db')}"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        async with asyncio.timeout(10):
            while f"UDP listener opened on: {host}:3478" not in log.read_text():
                await asyncio.sleep(0.05)
        yield process
    finally:
        process.terminate()
        await process.wait()


@pytest.mark.peer("turnserver")
@pytest.mark.parametrize(("transport", "late"), [("udp", False), ("tcp", False), ("udp", True)])
async def test_a_visitor_who_has_but_a_relay(tmp_path: Path, transport: str, late: bool) -> None:
    """No candidates but the relay's: the page is told of it in Link, and the sound goes that way.

    `late`: the relay wakes up once the offer has gone, without a candidate; what it says then follows by PATCH.
    """
    microphone, log = question(tmp_path, 4.0, 0.0), tmp_path / "turn.log"
    async with asyncio.timeout(90), namespace() as net, relay(net.here, log) as turn:
        servers = {
            "WEBRTC__ICE_SERVERS": f"turn:{net.here}:3478?transport={transport}",
            "WEBRTC__TURN_USERNAME": "agent",
            "WEBRTC__TURN_PASSWORD": "sekret",
        }
        async with visited(tmp_path, microphone, net, {"ENGINE__MODEL": "echo"} | servers) as (agent, browser, url):
            page = await browser.open(url, first=RELAYED)
            if late:
                turn.send_signal(signal.SIGSTOP)
            await page.click("#call")
            while not any("call to duplex" in line for line in agent.log):
                await asyncio.sleep(0.02)
            turn.send_signal(signal.SIGCONT)
            await page.until("document.body.dataset.state === 'live'")
            await page.run(RECORD)
            await hears_itself(page, tmp_path)
            assert await page.run(WAY) == "relay"
            assert await page.run(PATCHED) or not late
            await end(page)
    assert "CHANNEL_BIND processed, success" in log.read_text()


async def begun_s(page: Page) -> float:
    """Seconds from the button to the line."""
    began = time.monotonic()
    await begin(page)
    return time.monotonic() - began


async def test_servers_that_are_dead_cost_less_than_a_second(tmp_path: Path) -> None:
    """STUN that answers nothing: the call is on as if it were not there, within a second."""
    microphone, took = question(tmp_path, 1.0, 0.0), {}
    async with asyncio.timeout(150), namespace() as net:
        for servers in ("", f"stun:{net.here[:-1]}99:3478"):
            settings = {"ENGINE__MODEL": "echo", "WEBRTC__ICE_SERVERS": servers}
            async with visited(tmp_path, microphone, net, settings) as (_, browser, url):
                times = []
                for _ in range(3):
                    page = await browser.open(url)
                    times.append(await begun_s(page))
                    await end(page)
                took[servers] = min(times)
    without, dead = took.values()
    assert dead - without < 1.0, f"{dead:.2f} s instead of {without:.2f} s"


async def test_a_wire_that_is_cut_does_not_end_the_conversation(tmp_path: Path) -> None:
    """15 s without a packet: the page looks for another way, finds it, and it is the same call, from both ends."""
    microphone = question(tmp_path, 4.0, 0.0)
    async with asyncio.timeout(150), namespace() as net:
        settings = {"ENGINE__MODEL": "echo", "PERSONA__GREETING": "Good day."}
        async with visited(tmp_path, microphone, net, settings) as (_, browser, url):
            page = await browser.open(url)
            await begin(page)
            await page.until(f"{FINAL % 'agent'} === 'Good day.'")
            await net.cut()
            await page.until("document.body.dataset.state === 'away'", 30)
            assert "Looking for another way" in await page.text("#status")
            await asyncio.sleep(5)  # the wire stays cut for so long: there is nothing to wait for
            await net.mend()
            await page.until("document.body.dataset.state === 'live'", 40)
            assert await page.run(FINAL % "agent") == "Good day."
            await page.run(RECORD)
            await hears_itself(page, tmp_path)
            await end(page)
    (left,) = read(tmp_path / "calls")
    assert left.record["ended_by"] == "caller"
