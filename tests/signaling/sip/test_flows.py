"""flows.py, connections.py, stream.py: TLS, connections that are used again and kept alive, and our own addresses."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from signaling.call import SignalingError
from signaling.sip import connections, flows, stream
from signaling.sip.connections import MAX_PER_SOURCE, Unreachable
from signaling.sip.flows import Flows, aliased, goes_on
from signaling.sip.resolve import Target
from signaling.sip.tls import Tls, server_context
from signaling.sip.transaction import Flow
from signaling.sip.transport import EXPECTED_S, MAX_EXPECTED, Addresses, Gate
from signaling.sip.wire import Framer
from tests.signaling.sip.certificates import Authority

LOOPBACK = (ip_network("127.0.0.0/8"), ip_network("::1/128"))

OPTIONS = (
    b"OPTIONS sip:a@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/TLS 127.0.0.1:5071;branch=z9hG4bK1;alias\r\n"
    b"From: <sip:b@b>;tag=1\r\nTo: <sip:a@a>\r\nCall-ID: 1\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n"
)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


class House:
    """Flows that are open, and what came by them."""

    def __init__(self, host: str = "127.0.0.1", allow: tuple[Any, ...] = LOOPBACK, **more: Any) -> None:
        self.heard: asyncio.Queue[tuple[bytes, Flow]] = asyncio.Queue()
        self.used: set[int] = set()
        self.gate = Gate(allow)
        self.flows = Flows(
            host, 0, self.gate, lambda *it: self.heard.put_nowait(it), lambda flow: flow.serial in self.used, **more
        )

    async def hear(self) -> tuple[bytes, Flow]:
        async with asyncio.timeout(5):
            return await self.heard.get()

    def target(self, protocol: str, name: str = "", host: str = "127.0.0.1") -> Target:
        port = self.flows.tls_port if protocol == "TLS" else self.flows.port
        return Target(protocol, host, port, name or host)


@contextlib.asynccontextmanager
async def house(**more: Any) -> AsyncIterator[House]:
    made = House(**more)
    async with made.flows:
        yield made


def tls(authority: Authority, *names: str, **more: Any) -> Tls:
    """With a certificate for these names, and trust in the authority."""
    certificate = authority.sign(*names) if names else None
    return Tls(certificate, authorities=authority.path, port=0, **more)


async def until(done: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not done():
            await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def peer(talk: Callable[[bytes], bytes]) -> AsyncIterator[Target]:
    """Listens for one connection over TCP, and answers what it reads from it."""
    over = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1000):
                writer.write(talk(data))
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        over.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield Target("TCP", "127.0.0.1", server.sockets[0].getsockname()[1], "a")
        async with asyncio.timeout(5):
            await over.wait()


# --- TLS -----------------------------------------------------------------------------------------------------------


async def test_two_of_us_over_tls(authority: Authority) -> None:
    async with (
        house(tls=tls(authority, "sip:far.example.com", demand=True)) as far,
        house(tls=tls(authority, "near.example.com")) as near,
    ):
        flow = await near.flows.connect(far.target("TLS", "far.example.com"))
        assert (flow.protocol, flow.remote) == ("TLS", ("127.0.0.1", far.flows.tls_port))
        assert flow.local == ("127.0.0.1", near.flows.tls_port)
        near.flows.send(OPTIONS, flow)
        data, back = await far.hear()
        assert (data, back.protocol, back.name) == (OPTIONS, "TLS", "near.example.com")
        far.flows.send(b"SIP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n", back)
        assert (await near.hear())[1] == flow


async def test_tls_is_1_2_at_least(authority: Authority) -> None:
    async with house(tls=tls(authority, "a")) as far:
        for version, good in ((ssl.TLSVersion.TLSv1_2, True), (ssl.TLSVersion.TLSv1_3, True)):
            context = ssl.create_default_context(cafile=authority.path)
            context.check_hostname = False
            context.minimum_version = context.maximum_version = version
            reader, writer = await asyncio.open_connection("127.0.0.1", far.flows.tls_port, ssl=context)
            writer.write(b"\r\n\r\n")
            async with asyncio.timeout(5):
                assert (await reader.readexactly(2) == b"\r\n") is good
            writer.close()
            await writer.wait_closed()
        assert far.flows._server is not None
        assert far.flows._server.minimum_version is ssl.TLSVersion.TLSv1_2


@pytest.mark.parametrize(
    ("names", "days", "known", "why"),
    [
        (("other.example.com",), 1, True, "its certificate is for other.example.com, not for far.example.com"),
        (("far.example.com",), -1, True, "its certificate has expired"),
        (
            ("far.example.com",),
            1,
            False,
            "its certificate is by an authority that we do not know; VOIPAGENT_SIP__TLS_CA",
        ),
    ],
)
async def test_whom_we_do_not_take(
    names: tuple[str, ...], days: int, known: bool, why: str, tmp_path: Path, authority: Authority
) -> None:
    stranger = Authority(tmp_path, "stranger")
    async with (
        house(tls=Tls(authority.sign(*names, days=days), port=0)) as far,
        house(tls=tls(authority if known else stranger)) as near,
    ):
        with pytest.raises(Unreachable) as error:
            await near.flows.connect(far.target("TLS", "far.example.com"))
        assert str(error.value).startswith(f"far.example.com (127.0.0.1:{far.flows.tls_port} over TLS) cannot be ")
        assert why in str(error.value)
        assert list(near.flows.connections) == []
        await until(lambda: list(far.flows.connections) == [])


async def test_who_shows_no_certificate_where_one_is_demanded(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    async with house(tls=tls(authority, "a", demand=True)) as far, house(tls=tls(authority)) as near:
        await near.flows.connect(far.target("TLS", "a"))  # in TLS 1.3 a client is in until it hears otherwise
        await until(lambda: "x 127.0.0.1 failed to agree on TLS: it shows no certificate" in caplog.text)
        await until(lambda: not list(near.flows.connections))
        assert list(far.flows.connections) == []


async def test_a_peer_that_demands_ours_is_understood(authority: Authority, caplog: pytest.LogCaptureFixture) -> None:
    lost: asyncio.Queue[str] = asyncio.Queue()
    context = server_context(tls(authority, "a", demand=True))

    def refuse(listener: socket.socket) -> None:
        sock, _ = listener.accept()
        with sock, contextlib.suppress(ssl.SSLError):
            context.wrap_socket(sock, server_side=True).close()  # and says why not, unlike asyncio's

    with socket.create_server(("127.0.0.1", 0)) as listener:
        async with house(tls=tls(authority)) as near, asyncio.timeout(5):
            refusing = asyncio.create_task(asyncio.to_thread(refuse, listener))
            flow = await near.flows.connect(Target("TLS", "127.0.0.1", listener.getsockname()[1], "a"))
            assert near.flows.keep(flow, lost.put_nowait)
            assert await lost.get() == "it wants a certificate of ours; VOIPAGENT_SIP__TLS_CERT names one"
            await refusing
    assert "over TLS) lost: it wants a certificate of ours" in caplog.text


async def test_who_shows_a_strange_certificate_is_not_let_in(
    authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Even where none is demanded: one that is shown must be good."""
    other = Authority(tmp_path, "other")
    theirs = Tls(other.sign("b"), authorities=authority.path, port=0)
    async with house(tls=tls(authority, "a")) as far, house(tls=theirs) as near:
        flow = await near.flows.connect(far.target("TLS", "a"))
        near.flows.send(OPTIONS, flow)
        await until(lambda: "x 127.0.0.1 failed to agree on TLS: its certificate is by an authority" in caplog.text)
        assert far.heard.empty()


async def test_who_speaks_no_tls(
    authority: Authority, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HANDSHAKE_S", 0.5)
    async with house(tls=tls(authority, "a")) as far, house(tls=tls(authority)) as near:
        reader, writer = await asyncio.open_connection("127.0.0.1", far.flows.tls_port)
        writer.write(OPTIONS)
        with contextlib.suppress(ConnectionError):
            while await reader.read(100):
                pass
        writer.close()
        await until(lambda: "x 127.0.0.1 failed to agree on TLS: " in caplog.text)
        plain = Target("TLS", "127.0.0.1", far.flows.port, "a")  # the port of UDP and TCP
        with pytest.raises(Unreachable):
            async with asyncio.timeout(10):
                await near.flows.connect(plain)
        assert far.heard.empty()


async def test_slow_handshakes_hold_no_place_and_end(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HANDSHAKE_S", 0.3)
    async with house(tls=tls(authority, "a")) as far, house(tls=tls(authority)) as near, asyncio.timeout(20):
        slow = [await asyncio.open_connection("127.0.0.1", far.flows.tls_port) for _ in range(3)]
        await until(lambda: far.flows.connections._handshakes["127.0.0.1"] == 3)
        assert list(far.flows.connections) == []
        monkeypatch.setattr(connections, "HANDSHAKE_S", 5.0)
        await near.flows.connect(far.target("TLS", "a"))
        for reader, writer in slow:
            assert await reader.read() == b""
            writer.close()
        await until(lambda: not far.flows.connections._handshakes)


async def test_more_handshakes_than_one_source_may_have_are_refused(authority: Authority) -> None:
    async with house(tls=tls(authority, "a")) as far, asyncio.timeout(20):
        slow = [await asyncio.open_connection("127.0.0.1", far.flows.tls_port) for _ in range(MAX_PER_SOURCE)]
        await until(lambda: far.flows.connections._handshakes["127.0.0.1"] == MAX_PER_SOURCE)
        reader, writer = await asyncio.open_connection("127.0.0.1", far.flows.tls_port)
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        assert far.gate.crowded == 1
        writer.close()
        for _, peer in slow:
            peer.close()


async def test_a_stranger_gets_no_handshake(authority: Authority, caplog: pytest.LogCaptureFixture) -> None:
    async with house(tls=tls(authority, "a"), allow=(ip_network("192.0.2.0/24"),)) as far:
        with pytest.raises((ConnectionError, ssl.SSLError)):
            async with asyncio.timeout(5):
                await asyncio.open_connection("127.0.0.1", far.flows.tls_port, ssl=ssl.create_default_context())
        await until(lambda: "x 127.0.0.1 is not allowed to call" in caplog.text)
        assert far.gate.turned_away == 1


async def test_certificates_are_read_anew(authority: Authority, tmp_path: Path) -> None:
    used = tmp_path / "used.pem"
    used.write_bytes(authority.sign("old").read_bytes())
    async with house(tls=Tls(used, port=0)) as far, house(tls=tls(authority)) as near:
        old = await near.flows.connect(far.target("TLS", "old"))
        used.write_bytes(authority.sign("new").read_bytes())
        far.flows.reload()
        await near.flows.connect(far.target("TLS", "new"))
        near.flows.send(OPTIONS, old)
        assert (await far.hear())[0] == OPTIONS
        used.write_text("nonsense")
        with pytest.raises(SignalingError, match="cannot be used"):
            far.flows.reload()
        assert await near.flows.connect(far.target("TLS", "new")) is not None
    with pytest.raises(SignalingError, match="cannot be used"):
        async with house(tls=Tls(used, port=0)):
            raise AssertionError("opened without a certificate")


async def test_without_tls_it_is_not_spoken(authority: Authority) -> None:
    async with house() as near:
        assert (near.flows.protocols, near.flows.tls_port) == (("UDP", "TCP"), 0)
        with pytest.raises(Unreachable, match="we speak UDP, TCP"):
            await near.flows.connect(Target("TLS", "127.0.0.1", 5061, "a"))


async def test_a_busy_tls_port_is_one_clear_line(authority: Authority) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SignalingError, match=f"cannot listen for SIP on TLS 127.0.0.1 port {port}: .*another"):
            async with house(tls=Tls(authority.sign("a"), port=port)):
                raise AssertionError("bound twice")


# --- connections that are used again -------------------------------------------------------------------------------


async def test_one_connection_for_all_who_ask_at_once() -> None:
    async with house() as far, house() as near:
        made = await asyncio.gather(*(near.flows.connect(far.target("TCP")) for _ in range(10)))
        assert len(set(made)) == 1
        assert len(list(near.flows.connections)) == 1
        assert (made[0].local, made[0].spare) == (("127.0.0.1", near.flows.port), ("127.0.0.1", far.flows.port))


async def test_all_who_ask_at_once_fail_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other, each with its own time-out, would take an hour where a hundred calls end."""
    dialled: list[Target] = []

    async def dial(target: Target) -> Flow:
        dialled.append(target)
        await asyncio.sleep(0.01)
        raise Unreachable("no answer")

    async with house() as near:
        monkeypatch.setattr(near.flows.connections, "_dial", dial)
        target = Target("TCP", "192.0.2.1", 5060, "a")
        failed = await asyncio.gather(*(near.flows.connect(target) for _ in range(10)), return_exceptions=True)
        assert [str(error) for error in failed] == ["no answer"] * 10
        assert dialled == [target]
        with pytest.raises(Unreachable):
            await near.flows.connect(target)
        assert dialled == [target, target]  # whoever comes later tries anew


async def test_another_name_at_the_same_place_takes_another_connection(authority: Authority) -> None:
    async with house(tls=tls(authority, "a", "b")) as far, house(tls=tls(authority)) as near:
        first = await near.flows.connect(far.target("TLS", "a"))
        assert await near.flows.connect(far.target("TLS", "b")) == first  # that certificate is for both
        with pytest.raises(Unreachable, match="its certificate is for a, b, not for c"):
            await near.flows.connect(far.target("TLS", "c"))
        assert len(list(near.flows.connections)) == 1


async def test_a_lost_connection_is_made_again_for_what_is_sent() -> None:
    async with house() as near:
        async with house() as far:
            flow = await near.flows.connect(far.target("TCP"))
            for connection in list(near.flows.connections):
                connection.abort()
            await until(lambda: not list(near.flows.connections))
            near.flows.send(OPTIONS, flow)
            assert (await far.hear())[0] == OPTIONS
            assert await near.flows.connect(far.target("TCP")) != flow


async def test_a_peer_that_has_shown_who_it_is_may_offer_its_connection(authority: Authority) -> None:
    """RFC 5923, section 5: requests to where it listens go by the connection that it opened."""
    async with house(tls=tls(authority, "far", demand=True)) as far, house(tls=tls(authority, "near")) as near:
        flow = await near.flows.connect(far.target("TLS", "far"))
        near.flows.send(OPTIONS, flow)
        back = (await far.hear())[1]
        assert await far.flows.connect(Target("TLS", "127.0.0.1", 5071, "near")) == back
        with pytest.raises(Unreachable):
            await far.flows.connect(Target("TLS", "127.0.0.1", 5071, "elsewhere"))


async def test_nobody_else_may(authority: Authority) -> None:
    async with house(tls=tls(authority, "far")) as far, house(tls=tls(authority)) as near:
        near.flows.send(OPTIONS, await near.flows.connect(far.target("TLS", "far")))
        near.flows.send(OPTIONS, await near.flows.connect(far.target("TCP")))
        for _ in range(2):
            await far.hear()
        for protocol in ("TLS", "TCP"):
            with pytest.raises(Unreachable):
                await far.flows.connect(Target(protocol, "127.0.0.1", 5071, "near"))


def test_an_alias_is_read_from_the_topmost_via() -> None:
    assert aliased(OPTIONS) == 5071
    assert aliased(OPTIONS.replace(b":5071", b"")) == 5061
    assert aliased(OPTIONS.replace(b";alias", b"")) == 0
    assert aliased(OPTIONS.replace(b"CSeq", b"Alias")) == 0
    assert aliased(b"SIP/2.0 200 OK\r\n" + OPTIONS.partition(b"\r\n")[2]) == 0


async def test_what_is_too_large_for_a_datagram_goes_over_tcp_where_that_is_taken() -> None:
    async with house() as far, house() as near:
        small, large = [await near.flows.connect(far.target("UDP"), octets) for octets in (1300, 1301)]
        assert (small.protocol, large.protocol, large.remote) == ("UDP", "TCP", ("127.0.0.1", far.flows.port))


async def test_and_over_udp_where_it_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[Target] = []

    async def refuse(target: Target) -> Flow:
        tried.append(target)
        raise Unreachable("no")

    async with house() as near:
        monkeypatch.setattr(near.flows.connections, "connect", refuse)
        target = Target("UDP", "127.0.0.1", 9, "a")
        for _ in range(2):
            assert (await near.flows.connect(target, 5000)).protocol == "UDP"
        assert [one.protocol for one in tried] == ["TCP"]  # and that is not tried again at once


# --- connections that are kept -------------------------------------------------------------------------------------


async def test_a_kept_connection_is_pinged_and_outlives_an_idle_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "PING_S", 0.02)
    monkeypatch.setattr(stream, "IDLE_S", 0.1)
    lost: asyncio.Queue[str] = asyncio.Queue()
    async with house() as far, house() as near, asyncio.timeout(10):
        flow = await near.flows.connect(far.target("TCP"))
        (opened,) = near.flows.connections
        assert near.flows.keep(flow, lost.put_nowait)
        await until(lambda: opened._answers_pings)
        started = asyncio.get_running_loop().time()
        while asyncio.get_running_loop().time() < started + 0.3:
            await asyncio.sleep(0.01)
        assert list(near.flows.connections) == [opened]
        near.flows.let_go(flow)
        await until(lambda: not list(near.flows.connections))  # idle, like any other
        assert lost.empty()
        assert not near.flows.keep(flow, lost.put_nowait)


async def test_a_peer_that_answers_pings_no_more_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "PING_S", 0.05)
    monkeypatch.setattr(stream, "PONG_S", 0.02)
    lost: asyncio.Queue[str] = asyncio.Queue()
    answers = [b"\r\n"] * 3
    async with peer(lambda data: answers.pop() if answers else b"") as target, house() as near, asyncio.timeout(10):
        assert near.flows.keep(await near.flows.connect(target), lost.put_nowait)
        assert await lost.get() == "a ping was not answered"
        assert answers == []


async def test_a_peer_that_never_answered_a_ping_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "PING_S", 0.02)
    monkeypatch.setattr(stream, "PONG_S", 0.01)
    lost: asyncio.Queue[str] = asyncio.Queue()
    pings: list[bytes] = []

    def listen(data: bytes) -> bytes:
        pings.append(data)
        return b""

    async with peer(listen) as target, house() as near:
        assert near.flows.keep(await near.flows.connect(target), lost.put_nowait)
        await until(lambda: len(b"".join(pings)) >= 20)
        assert lost.empty()


async def test_who_keeps_it_is_told_when_the_peer_closes_it() -> None:
    lost: asyncio.Queue[str] = asyncio.Queue()
    async with house() as near, asyncio.timeout(10):
        async with house() as far:
            flow = await near.flows.connect(far.target("TCP"))
            near.flows.keep(flow, lost.put_nowait)
        assert await lost.get() in ("the peer closed the connection", "connection reset by peer")


async def test_over_udp_a_kept_way_is_used_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flows, "UDP_PING_S", (0.01, 0.02))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.bind(("127.0.0.1", 0))
        peer.setblocking(False)
        loop = asyncio.get_running_loop()
        async with house() as near, asyncio.timeout(10):
            flow = await near.flows.connect(Target("UDP", "127.0.0.1", peer.getsockname()[1], "a"))
            assert flow == Flow("UDP", peer.getsockname(), ("127.0.0.1", near.flows.port))
            assert near.flows.keep(flow, lambda why: None)
            for _ in range(3):
                assert await loop.sock_recv(peer, 100) == b"\r\n\r\n"
            near.flows.let_go(flow)
            assert near.flows._beats == {}


def test_the_answer_to_a_ping_does_not_become_half_of_one() -> None:
    framer = Framer()
    for _ in range(3):
        assert list(framer.feed(b"\r\n")) == []
        assert framer.take_pong()
        assert not framer.take_pong()
    assert list(framer.feed(b"\r\n" + OPTIONS)) == [OPTIONS]


# --- who is heard --------------------------------------------------------------------------------------------------


async def test_whom_we_called_may_answer_and_go_on_but_begin_nothing() -> None:
    answer = b"SIP/2.0 200 OK\r\n" + OPTIONS.partition(b"\r\n")[2].replace(b";alias", b"")
    bye = OPTIONS.replace(b"OPTIONS", b"BYE").replace(b"To: <sip:a@a>", b"To: <sip:a@a>;tag=2")
    async with house() as far, house(allow=(ip_network("192.0.2.0/24"),)) as near:
        for protocol in ("UDP", "TCP"):
            flow = await near.flows.connect(far.target(protocol))
            near.flows.send(OPTIONS, flow)
            back = (await far.hear())[1]
            for data in (OPTIONS, answer, OPTIONS, bye, b"\x00" * 30 + b"\r\n\r\n"):
                far.flows.send(data, back)
            assert [(await near.hear())[0], (await near.hear())[0]] == [answer, bye]
        assert near.heard.empty()
    assert goes_on(answer) and goes_on(bye) and not goes_on(OPTIONS) and not goes_on(b"junk")


@pytest.mark.parametrize("protocol", ["TCP", "TLS"])
async def test_whom_we_called_may_go_on_by_a_connection_of_its_own(protocol: str, authority: Authority) -> None:
    """libre hangs up like that, where we have called it over TCP."""
    bye = OPTIONS.replace(b"OPTIONS", b"BYE").replace(b"To: <sip:a@a>", b"To: <sip:a@a>;tag=2")
    nobody = (ip_network("192.0.2.0/24"),)
    async with house(tls=tls(authority, "far")) as far, house(tls=tls(authority, "near"), allow=nobody) as near:
        await near.flows.connect(far.target(protocol, "far"))
        back = await far.flows.connect(near.target(protocol, "near"))
        for data in (OPTIONS, bye):
            far.flows.send(data, back)
        assert (await near.hear())[0] == bye
        assert near.heard.empty()


def test_only_so_many_are_expected_and_not_for_ever() -> None:
    gate = Gate(())
    for number in range(MAX_EXPECTED + 1):
        gate.expect(f"h{number}", 0.0)
    assert len(gate._expected) == MAX_EXPECTED
    assert not gate.expects("h0", 1.0)
    assert gate.expects("h1", 1.0)
    assert not gate.expects("h1", EXPECTED_S)


# --- our own addresses ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("advertised", "bound", "remote", "told"),
    [
        (("203.0.113.7", "2001:db8::7"), "::", "192.0.2.1", "203.0.113.7"),
        (("203.0.113.7", "2001:db8::7"), "::", "2001:db8::1", "2001:db8::7"),
        (("203.0.113.7",), "::", "::1", "::1"),
        (("pbx.example.com", "2001:db8::7"), "0.0.0.0", "192.0.2.1", "pbx.example.com"),
        (("pbx.example.com", "2001:db8::7"), "::", "2001:db8::1", "2001:db8::7"),
        ((), "192.0.2.9", "192.0.2.1", "192.0.2.9"),
        ((), "0.0.0.0", "127.0.0.1", "127.0.0.1"),
    ],
)
def test_which_address_a_peer_is_told(advertised: tuple[str, ...], bound: str, remote: str, told: str) -> None:
    assert Addresses(advertised, bound).towards(remote) == told


async def test_what_is_advertised_holds_for_every_protocol(authority: Authority) -> None:
    async with house(tls=tls(authority, "far")) as far, house(tls=tls(authority), advertised=("203.0.113.7",)) as near:
        told = {
            protocol: (await near.flows.connect(far.target(protocol, "far"))).local for protocol in near.flows.protocols
        }
        assert {host for host, _ in told.values()} == {"203.0.113.7"}
        assert told["UDP"][1] == told["TCP"][1] == near.flows.port
        (secure,) = [made for made in near.flows.connections if made.protocol == "TLS"]
        assert secure._transport is not None
        assert told["TLS"][1] == secure._transport.get_extra_info("sockname")[1]  # nobody could call us at another port


# --- IPv6 ----------------------------------------------------------------------------------------------------------


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this kernel has no IPv6 loopback")


@needs_ipv6
@pytest.mark.parametrize("protocol", ["UDP", "TCP", "TLS"])
async def test_ipv6_over_every_protocol(protocol: str, authority: Authority) -> None:
    async with (
        house(host="::1", tls=tls(authority, "::1")) as far,
        house(host="::", tls=tls(authority, "::1")) as near,
    ):
        assert (far.flows.versions, near.flows.versions) == ((6,), (4, 6))
        flow = await near.flows.connect(far.target(protocol, host="::1"))
        port = near.flows.tls_port if protocol == "TLS" else near.flows.port
        assert flow.local == ("::1", port)
        near.flows.send(OPTIONS, flow)
        data, back = await far.hear()
        assert (data, back.remote[0], back.local[0]) == (OPTIONS, "::1", "::1")


@needs_ipv6
async def test_one_socket_for_both_versions_or_for_ipv6_alone() -> None:
    async with house(host="::") as both, house(host="127.0.0.1") as old:
        for protocol in ("UDP", "TCP"):
            flow = await both.flows.connect(old.target(protocol))
            both.flows.send(OPTIONS, flow)
            _, back = await old.hear()
            assert (flow.local[0], back.remote[0]) == ("127.0.0.1", "127.0.0.1")
            old.flows.send(OPTIONS, await old.flows.connect(both.target(protocol)))
            assert (await both.hear())[1].remote[0] == "127.0.0.1"
    async with house(host="::", v6_only=True) as new, house(host="127.0.0.1") as old:
        assert new.flows.versions == (6,)
        with pytest.raises(Unreachable, match="connection refused"):
            await old.flows.connect(new.target("TCP"))
