"""transport.py: who is heard, and what a connection may do."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator
from ipaddress import ip_network

import pytest

from signaling.sip import stream
from signaling.sip.connections import MAX_PER_SOURCE
from signaling.sip.transport import LOG_S, MAX_LOGGED, Gate, bind, local_host, plain_host
from tests.signaling.sip.answering import Desk, desk, leave
from tests.signaling.sip.peer import OFFER, tcp_peer

# --- the gate ------------------------------------------------------------------------------------------------------


@pytest.fixture
def gate() -> Gate:
    return Gate((ip_network("10.0.0.0/8"), ip_network("2001:db8::/32")))


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("10.1.2.3", True),
        ("11.1.2.3", False),
        ("::ffff:10.1.2.3", True),
        ("2001:db8::7", True),
        ("2001:db9::7", False),
        ("fe80::1%eth0", False),
        ("pbx.example.com", False),
        ("", False),
    ],
)
def test_who_is_on_the_list(gate: Gate, host: str, allowed: bool) -> None:
    assert gate.allows(host) is allowed
    assert gate.admit(host, 0.0) is allowed
    assert gate.turned_away == (not allowed)


def test_addresses_of_trunks_are_as_good_as_those_on_the_list() -> None:
    gate = Gate((ip_network("10.0.0.0/8"),), knows={"192.0.2.7"}.__contains__)
    assert gate.allows("192.0.2.7") and gate.hears("192.0.2.7") and gate.admit("192.0.2.7", 0.0)
    assert not gate.admit("192.0.2.8", 0.0)


def test_a_stranger_is_named_once_a_minute(gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    for now in (0.0, 1.0, LOG_S - 0.1, LOG_S, LOG_S + 1):
        gate.admit("192.0.2.1", now)
    gate.admit("192.0.2.2", LOG_S)
    lines = [record.getMessage() for record in caplog.records]
    assert [line.split()[1] for line in lines] == ["192.0.2.1", "192.0.2.1", "192.0.2.2"]
    assert "VOIPAGENT_SIP__ALLOW=10.0.0.0/8,2001:db8::/32,192.0.2.1 lets it in" in lines[0]
    assert gate.turned_away == 6


def test_a_thousand_strangers_are_remembered_and_no_more(gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(2 * MAX_LOGGED):
        gate.admit(f"192.0.{number // 256}.{number % 256}", 0.0)
    assert len(caplog.records) == MAX_LOGGED
    gate.admit("192.1.0.1", LOG_S)
    assert len(caplog.records) == MAX_LOGGED + 1


def test_a_flood_from_ever_new_strangers_costs_little(gate: Gate) -> None:
    """Their addresses may be forged: what is remembered must not be searched for each of them."""
    started = time.process_time()
    for number in range(30_000):
        gate.log(f"stranger {number}", 0.0, "x %s")
    assert time.process_time() - started < 0.5


# --- addresses -----------------------------------------------------------------------------------------------------


def test_addresses_as_peers_write_them() -> None:
    assert plain_host("::ffff:192.0.2.1") == "192.0.2.1"
    assert plain_host("2001:db8::1") == "2001:db8::1"
    assert plain_host("::ffff:c000:201") == "::ffff:c000:201"


def test_our_address_is_the_one_that_routes_there() -> None:
    assert local_host("127.0.0.1") == "127.0.0.1"
    assert local_host("::1") in ("::1", "127.0.0.1")


def test_port_0_is_one_port_for_both() -> None:
    udp, tcp = bind("127.0.0.1", 0)
    with udp, tcp:
        assert udp.getsockname()[1] == tcp.getsockname()[1] > 0


# --- connections ---------------------------------------------------------------------------------------------------


async def closed(peer: object) -> None:
    """Wait until the far end has closed the connection."""
    async with asyncio.timeout(5):
        await peer.closed.wait()  # type: ignore[attr-defined]  # a Peer


async def test_a_ping_is_answered() -> None:
    async with desk() as agent, tcp_peer(agent.port) as peer:
        peer.send(b"\r\n\r\n")
        async with asyncio.timeout(5):
            assert await peer.torn.get() == b"\r\n"
        peer.ask("OPTIONS")
        await peer.response(200)


async def test_what_cannot_be_framed_is_closed() -> None:
    async with desk() as agent, tcp_peer(agent.port) as peer:
        peer.send(peer.build("OPTIONS", cseq=1) + b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await peer.response(200)).cseq == (1, "OPTIONS")  # what came before is served
        await closed(peer)


async def test_a_header_that_does_not_end_in_time_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "HEADER_S", 0.05)
    async with desk() as agent, tcp_peer(agent.port) as peer:
        peer.ask("OPTIONS")
        await peer.response(200)
        peer.send(b"OPTIONS sip:a SIP/2.0\r\n")
        await closed(peer)


async def test_a_silent_connection_is_closed_unless_a_call_goes_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "IDLE_S", 0.05)
    async with desk() as agent, tcp_peer(agent.port) as talking:
        await talking.call()
        async with tcp_peer(agent.port) as silent:
            await closed(silent)
        await talking.hang_up()
        await closed(talking)


async def test_there_is_a_limit_for_each_source(caplog: pytest.LogCaptureFixture) -> None:
    async with desk() as agent:
        writers = []
        try:
            for _ in range(MAX_PER_SOURCE):
                reader, writer = await asyncio.open_connection("127.0.0.1", agent.port)
                writer.write(b"\r\n\r\n")
                async with asyncio.timeout(5):
                    assert await reader.readexactly(2) == b"\r\n"
                writers.append(writer)
            reader, writer = await asyncio.open_connection("127.0.0.1", agent.port)
            writers.append(writer)
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                async with asyncio.timeout(5):
                    await reader.readexactly(1)
            assert agent.sip.counts.connections_refused == 1
            assert "x 127.0.0.1 has too many connections open" in caplog.text
            writers[0].close()
            await writers[0].wait_closed()
            async with tcp_peer(agent.port) as peer:
                peer.ask("OPTIONS")
                await peer.response(200)
        finally:
            for writer in writers:
                writer.close()


async def test_a_stranger_is_cut_off(caplog: pytest.LogCaptureFixture) -> None:
    async with desk(leave) as agent:
        with socket.socket() as stranger:
            stranger.bind(("127.0.0.2", 0))
            stranger.setblocking(False)
            loop = asyncio.get_running_loop()
            async with asyncio.timeout(5):
                await loop.sock_connect(stranger, ("127.0.0.1", agent.port))
                try:
                    assert await loop.sock_recv(stranger, 1) == b""
                except ConnectionResetError:
                    pass
    assert any("VOIPAGENT_SIP__ALLOW=127.0.0.1/32,127.0.0.2 " in record.getMessage() for record in caplog.records)


async def test_a_peer_that_reads_nothing_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    async with asyncio.timeout(20), desk(leave, rate=1e6, burst=1e6) as agent:
        async with deaf_peer(agent, monkeypatch) as deaf:
            monkeypatch.setattr(stream, "MAX_UNSENT", 1000)
            with pytest.raises(ConnectionError):
                while True:
                    await asyncio.get_running_loop().sock_sendall(deaf, _options(0))


@contextlib.asynccontextmanager
async def deaf_peer(agent: Desk, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[socket.socket]:
    """A peer that asks until the agent has answers queued for it, none of which it reads."""
    monkeypatch.setattr(stream, "MAX_UNSENT", 100_000_000)
    loop = asyncio.get_running_loop()
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.setblocking(False)
        await loop.sock_connect(deaf, ("127.0.0.1", agent.port))
        while not (opened := list(agent.sip.flows.connections)):
            await asyncio.sleep(0)
        connection = opened[0]._transport
        assert connection is not None
        connection.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        number = 0
        while not connection.get_write_buffer_size():
            await loop.sock_sendall(deaf, _options(number := number + 1))
            await asyncio.sleep(0)
        yield deaf


async def test_a_peer_that_reads_nothing_cannot_keep_a_connection_that_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stream, "IDLE_S", 0.2)
    async with asyncio.timeout(20), desk(leave, rate=1e6, burst=1e6) as agent:
        async with deaf_peer(agent, monkeypatch) as deaf:
            with pytest.raises(ConnectionError):
                while True:
                    await asyncio.get_running_loop().sock_sendall(deaf, b"GET / HTTP/1.1\r\n\r\n" + bytes(100_000))


async def test_a_peer_that_reads_nothing_does_not_outlive_the_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    async with asyncio.timeout(20), contextlib.AsyncExitStack() as stack:
        agent = await stack.enter_async_context(desk(leave, rate=1e6, burst=1e6))
        async with deaf_peer(agent, monkeypatch):
            assert len(list(agent.sip.flows.connections)) == 1
            await stack.aclose()
            assert list(agent.sip.flows.connections) == []


def _options(number: int) -> bytes:
    fields = (
        f"Via: SIP/2.0/TCP 127.0.0.1;branch=z9hG4bKdeaf{number}",
        "From: <sip:a@b>;tag=1",
        "To: <sip:c@d>",
        f"Call-ID: {number}{'x' * 4000}",  # comes back in the answer, which nobody reads
        "CSeq: 1 OPTIONS",
        "Content-Length: 0",
    )
    return "\r\n".join(["OPTIONS sip:c@d SIP/2.0", *fields, "", ""]).encode()


async def test_a_message_that_comes_while_another_waits_to_be_whole() -> None:
    async with desk() as agent, tcp_peer(agent.port) as peer:
        peer.cseq = 1
        invite = peer.invite = peer.build("INVITE", body=OFFER)
        options = peer.build("OPTIONS", cseq=1)
        peer.send(options + invite[:100])
        await peer.response(200)
        peer.send(invite[100:])
        peer.ack(await peer.response(200, skip=(100, 180)))
        await peer.hang_up()
