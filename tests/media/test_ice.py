"""The way of a WebRTC leg: who is listened to, what servers tell, and what is given back."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from aioice import Candidate, stun

from media.candidates import host_candidates, own_addresses, read_candidate
from media.ice import GATHER_S, IceWay
from media.icesdp import MAX_CANDIDATES, Remote
from media.iceservers import IceServer
from media.leg import LegError, NoPort
from media.ports import Ports

HERE = "127.0.0.1"


@pytest.fixture(autouse=True)
def only_the_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("media.candidates.get_host_addresses", lambda use_ipv4, use_ipv6: [])


class Side:
    """One end, and what came to it."""

    def __init__(self, ports: Ports, controlling: bool = False, servers: tuple[IceServer, ...] = ()) -> None:
        self.got: list[bytes] = []
        self.way = IceWay(ports, HERE, {}, servers, self._take, time.monotonic, controlling)

    def _take(self, data: bytes, now: float) -> None:
        self.got.append(data)

    def remote(self) -> Remote:
        return Remote("1", self.way.ufrag, self.way.password, self.way.candidates)


def all_ports() -> Ports:
    return Ports(33_000, 33_199, time.monotonic)


async def until(what: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not what():
            await asyncio.sleep(0.005)


async def meet(ports: Ports) -> tuple[Side, Side]:
    one, other = Side(ports, controlling=True), Side(ports)
    for side in (one, other):
        await side.way.gather()
    one.way.connect(other.remote())
    other.way.connect(one.remote())
    await until(lambda: one.way.connected and other.way.connected)
    return one, other


async def test_packets_go_both_ways_and_ports_come_back() -> None:
    ports = all_ports()
    one, other = await meet(ports)
    assert one.way.send(b"\x80one", ("", 0)) and other.way.send(b"\x80other", ("", 0))
    await until(lambda: one.got and other.got)
    assert (one.got, other.got) == ([b"\x80other"], [b"\x80one"])
    assert other.way.remote == f"{HERE}:{one.way.default[1]}"
    for side in (one, other):
        await side.way.close()
        await side.way.close()
        assert not side.way.is_open and not side.way.send(b"\x80late", ("", 0))
    assert not ports._taken and len(asyncio.all_tasks()) == 1


async def test_a_tick_reads_what_the_loop_has_not_read() -> None:
    one, other = await meet(all_ports())
    for number in range(5):
        one.way.send(bytes([128, number]), ("", 0))
    assert other.way.read(False, 100.0) and other.got == [b"\x80\x00"] and other.way.heard_at == 100.0
    other.way.read_all(101.0)
    assert len(other.got) == 5 and not other.way.read(False, 102.0) and not other.way.read(True, 102.0)
    for side in (one, other):
        await side.way.close()


async def test_nothing_is_sent_once_aioice_has_let_go_of_the_socket() -> None:
    """As it does by itself where the far end consents no more."""
    one, other = await meet(all_ports())
    assert one.way._connection.way is not None
    one.way._connection.way.protocol.transport.close()
    assert not one.way.send(b"\x80late", ("", 0))
    for side in (one, other):
        await side.way.close()


async def test_strangers_are_not_listened_to() -> None:
    one, other = await meet(all_ports())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        request = stun.Message(stun.Method.BINDING, stun.Class.REQUEST)
        request.attributes["USERNAME"] = f"{other.way.ufrag}:x"
        request.add_message_integrity(b"wrong")
        for data in (b"\x80media", b"\x16\xfe\xfd" + bytes(20), bytes(request), bytes(30), b"", b"\x00\x01"):
            stranger.sendto(data, other.way.default)
        heard_at = other.way.heard_at
        other.way.read_all(heard_at + 1)
        assert not other.got and other.way.heard_at == heard_at
        assert other.way.spoilt >= 5 and other.way._connection._queue.empty()  # aioice's, which nobody reads
    one.way.send(b"\x80media", ("", 0))
    await until(lambda: other.got)
    for side in (one, other):
        await side.way.close()


async def test_where_there_is_no_way_that_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("media.ice.CONNECT_S", 0.3)
    side = Side(all_ports())
    await side.way.gather()
    side.way.connect(Remote("1", "abcd", "p" * 22))
    await until(lambda: side.way.failure)
    assert side.way.failure == "ICE found no way to the far end in 0.3 s" and side.way.is_open
    await side.way.close()


async def test_without_a_port_or_an_address_it_does_not_begin() -> None:
    ports = Ports(33_300, 33_301, time.monotonic)
    one, other = Side(ports), Side(ports)
    await one.way.gather()
    with pytest.raises(NoPort):
        await other.way.gather()
    await one.way.close()
    lonely = IceWay(ports, "192.0.2.1", {}, (), lambda data, now: None, time.monotonic)
    with pytest.raises(LegError, match="this machine has no address"):
        await lonely.gather()
    assert not ports._taken and len(asyncio.all_tasks()) == 1


@contextmanager
def stun_server(answers: bool) -> Iterator[IceServer]:
    """One that tells everybody that they are 203.0.113.5:4444, or nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((HERE, 0))
        server.settimeout(5)

        def answer() -> None:
            data, source = server.recvfrom(2048)
            asked = stun.parse_message(data)
            told = stun.Message(stun.Method.BINDING, stun.Class.RESPONSE, asked.transaction_id)
            told.attributes["XOR-MAPPED-ADDRESS"] = ("203.0.113.5", 4444)
            server.sendto(bytes(told), source)

        thread = threading.Thread(target=answer)
        if answers:
            thread.start()
        yield IceServer.parse(f"stun:{HERE}:{server.getsockname()[1]}")
        if answers:
            thread.join()


async def test_a_stun_server_tells_another_address_of_ours() -> None:
    with stun_server(answers=True) as server:
        side = Side(all_ports(), servers=(server,))
        await side.way.gather()
    assert any("203.0.113.5 4444 typ srflx" in candidate for candidate in side.way.candidates)
    await side.way.close()


async def test_a_dead_server_costs_less_than_a_second(caplog: pytest.LogCaptureFixture) -> None:
    with stun_server(answers=False) as server:
        turn = IceServer.parse(f"turn:{HERE}:{server.port}", "ada", "pass")
        side = Side(all_ports(), servers=(server, turn))
        began = time.monotonic()
        await side.way.gather()
        took = time.monotonic() - began
    assert len(side.way.candidates) == 1 and "2 of 2 STUN and TURN servers did not answer" in caplog.text
    assert GATHER_S <= took < 3 * GATHER_S  # 0.7 s where nobody else computes
    await side.way.close()
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == 1


async def test_a_relay_is_given_back_if_nobody_waits_for_it_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hung up while servers are asked: one has given an address, another has not answered."""
    asked = [asyncio.Event(), asyncio.Event()]
    stopped: list[str] = []

    class Relay:
        closed = False

        async def close(self) -> None:
            self.closed = True

    relay = Relay()

    async def allocate(**_: object) -> tuple[Candidate, Relay]:
        asked[0].set()
        return host_candidates([HERE], 9)[0], relay

    async def nothing(*_: object) -> None:
        asked[1].set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.append("asking")

    monkeypatch.setattr("media.ice.relayed_candidate", allocate)
    monkeypatch.setattr("media.ice.server_reflexive_candidate", nothing)
    side = Side(all_ports(), servers=(IceServer.parse(f"turn:{HERE}:9", "u", "p"), IceServer.parse(f"stun:{HERE}:9")))
    gathering = asyncio.create_task(side.way.gather())
    for event in asked:
        await asyncio.wait_for(event.wait(), 5)
    gathering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gathering
    assert relay.closed
    await asyncio.sleep(0)
    assert stopped == ["asking"]


async def test_a_relay_that_has_died_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """aioice waits for its answer for a minute, in which the call would keep its ports, and its row."""
    monkeypatch.setattr("media.ice.CLOSE_S", 0.05)
    ports = all_ports()
    late, hurried = Side(ports), Side(ports)
    for side in (late, hurried):
        await side.way.gather()
        monkeypatch.setattr(side.way._connection, "close", asyncio.Event().wait)
    async with asyncio.timeout(5):
        await late.way.close()
    closing = asyncio.create_task(hurried.way.close())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait([closing])
    assert closing.cancelled() and not ports._taken


# --- candidates


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1 1 udp 1 192.0.2.9",
        "1 1 tcp 1 192.0.2.9 9 typ host tcptype active",
        "1 2 udp 1 192.0.2.9 5000 typ host",
        "1 1 udp 1 192.0.2.9 0 typ host",
        "1 1 udp 1 192.0.2.9 99999 typ host",
        "1 1 udp x 192.0.2.9 5000 typ host",
        "1 1 udp 1 0d1c2b3a.local 5000 typ host",
        "1 1 udp 1 224.0.0.1 5000 typ host",
        "1 1 udp 1 0.0.0.0 5000 typ host",
        "1 1 udp 1 127.0.0.1 5000 typ host",
        "1 1 udp 1 fe80::1%lo 5000 typ host",
        "1 1 udp 1 fe80::1%\0 5000 typ host",
        "1 1 udp 1 192.0.2.9 5000 typ other",
    ],
)
async def test_what_is_no_use_is_left_out(text: str) -> None:
    assert read_candidate(text, "198.51.100.7") is None
    assert read_candidate("1 1 UDP 1 192.0.2.9 5000 typ srflx raddr 10.0.0.1 rport 9", "198.51.100.7") is not None
    assert read_candidate("1 1 udp 1 127.0.0.1 5000 typ host", HERE) is not None


async def test_nobody_has_us_knock_at_any_number_of_doors() -> None:
    side = Side(all_ports())
    await side.way.gather()
    await side.way.add([f"1 1 udp 1 192.0.2.9 {5000 + number} typ host" for number in range(500)])
    await side.way.add(["1 1 udp 1 192.0.2.9 5000 typ host"])
    assert len(side.way._connection.remote_candidates) == MAX_CANDIDATES
    await side.way.close()


def test_the_advertised_address_takes_the_place_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = {(True, False): ["192.0.2.1", "10.0.0.1"], (False, True): ["2001:db8::1"]}
    monkeypatch.setattr("media.candidates.get_host_addresses", lambda use_ipv4, use_ipv6: ours[use_ipv4, use_ipv6])
    there = "198.51.100.7"
    assert own_addresses(there, {}) == {4: ["192.0.2.1", "10.0.0.1"], 6: ["2001:db8::1"]}
    assert own_addresses(there, {4: "203.0.113.1"}) == {4: ["203.0.113.1"], 6: ["2001:db8::1"]}
    assert own_addresses(HERE, {4: "203.0.113.1"}) == {4: ["203.0.113.1", HERE], 6: ["2001:db8::1", "::1"]}
