"""Trunks over real sockets on loopback: a registrar that the test plays, and calls that come from it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator
from ipaddress import ip_network
from pathlib import Path
from typing import Any, cast

import pytest

from signaling.call import SignalingError
from signaling.sip.digest import parse_credentials
from signaling.sip.message import Request, received_from, respond
from signaling.sip.resolve import Found, Kind
from signaling.sip.tls import Tls
from signaling.sip.trunk import Lines, Trunk, TrunkState
from signaling.sip.wire import parse
from tests.signaling.sip.answering import ANSWER, Desk, desk, leave
from tests.signaling.sip.certificates import Authority
from tests.signaling.sip.peer import OFFER, Peer, tcp_peer, udp_peer

CHALLENGE = ("WWW-Authenticate", 'Digest realm="house", nonce="n1", qop="auth", algorithm=MD5')
PASSWORD = "wonderland"
NOBODY = (ip_network("192.0.2.0/24"),)
"""Who else is heard: nobody on loopback."""


class Registrar:
    """A peer at a port of its own, to which an agent registers."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer

    def trunk(self, user: str = "1000", **more: Any) -> Trunk:
        host, port = self.peer.local
        fields: dict[str, Any] = {"name": "house", "user": user, "password": PASSWORD, "register": True}
        fields |= {"host": host, "port": port} | more
        return Trunk(**fields)

    async def register(self) -> Request:
        """Ask for the password, look at it, and let it in; gives the REGISTER."""
        self.answer(await self.request(), 401, CHALLENGE)
        request = await self.request()
        sent = parse_credentials(request.headers.get("Authorization"))
        right = sent.response == sent.expected(PASSWORD, "REGISTER")
        self.answer(request, 200 if right else 403)
        assert right, "the password is wrong"
        return request

    async def request(self, method: str = "REGISTER") -> Request:
        return await self.peer.request(method)

    def answer(self, request: Request, code: int, *fields: tuple[str, str]) -> None:
        self.peer.agent = request.via.host, request.via.port or 5060
        self.peer.send(bytes(respond(request, code, *fields, to_tag="theirs", phrase="Fine")))


@contextlib.asynccontextmanager
async def registrar(host: str = "127.0.0.1") -> AsyncIterator[Registrar]:
    async with udp_peer(0, host) as peer:
        yield Registrar(peer)


def state(agent: Desk, number: int = 0) -> TrunkState:
    return agent.sip.trunks.states[number][0]


async def until(agent: Desk, registered: bool, number: int = 0) -> TrunkState:
    async with asyncio.timeout(5):
        while state(agent, number).registered is not registered:
            await asyncio.sleep(0)
    return state(agent, number)


# --- registering ---------------------------------------------------------------------------------------------------


async def test_it_registers_where_its_calls_come_to_and_leaves() -> None:
    async with registrar() as house:
        async with asyncio.TaskGroup() as group:
            async with desk(allow=NOBODY, trunks=[house.trunk()]) as agent:
                request = await house.register()
                assert request.headers.get("Contact") == f"<sip:1000@127.0.0.1:{agent.port}>"
                await until(agent, True)
                leaving = group.create_task(house.register())
        last = await leaving
        assert (last.headers.get("Expires"), last.call_id) == ("0", request.call_id)


@pytest.mark.parametrize("advertised", [(), ("198.51.100.1",)])
async def test_behind_a_nat_it_registers_where_it_is_seen(advertised: tuple[str, ...]) -> None:
    """The place where our requests come from, as the registrar tells in Via; unless the settings know better."""
    async with registrar() as house, desk(allow=NOBODY, trunks=[house.trunk()], advertised=advertised) as agent:
        seen = ("203.0.113.7", 41_000)

        def answer(request: Request, code: int, *fields: tuple[str, str]) -> None:
            house.peer.send(
                bytes(respond(received_from(request, *seen), code, *fields, to_tag="theirs", phrase="Fine"))
            )

        first = await house.request()
        house.peer.agent = ("127.0.0.1", agent.port)
        answer(first, 401, CHALLENGE)
        if advertised:
            again = await house.request()
            assert again.contact == first.contact == f"sip:1000@198.51.100.1:{agent.port}"
            answer(again, 200)
            await until(agent, True)
            assert house.peer.heard.empty()
        else:
            assert first.contact == f"sip:1000@127.0.0.1:{agent.port}"
            while (request := await house.request()).contact != "sip:1000@203.0.113.7:41000":
                answer(request, 200)
            answer(request, 200)
            await until(agent, True)
        agent.sip.act(lambda core, now: core.keeper.stop(now))
        answer(await house.request(), 200)


async def test_over_tcp_the_same_contact_and_one_connection() -> None:
    heard: asyncio.Queue[Request] = asyncio.Queue()
    closed = asyncio.Event()
    connections = 0

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                request = cast(Request, parse(await reader.readuntil(b"\r\n\r\n")))
                heard.put_nowait(request)
                writer.write(bytes(respond(request, 200, to_tag="theirs")))
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        closed.set()

    server = await asyncio.start_server(listen, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    trunks = [Trunk(n, "127.0.0.1", port, "tcp", n, PASSWORD, register=True) for n in ("first", "second")]
    async with asyncio.timeout(10), server:
        async with desk(allow=NOBODY, trunks=trunks) as agent:
            asked = [await heard.get() for _ in trunks]
            assert {request.headers.get("Contact") for request in asked} == {
                f"<sip:{name}@127.0.0.1:{agent.port};transport=tcp>" for name in ("first", "second")
            }
            for number in range(2):
                await until(agent, True, number)
            assert connections == 1
        assert {(await heard.get()).headers.get("Expires") for _ in trunks} == {"0"}
        await closed.wait()


async def test_a_wrong_password_is_told_and_the_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with registrar() as house, registrar() as other:
        wrong = house.trunk(password="guess")
        async with desk(allow=NOBODY, trunks=[wrong, other.trunk(name="other")]) as agent:
            house.answer(await house.request(), 401, CHALLENGE)
            house.answer(await house.request(), 401, CHALLENGE)
            answered = asyncio.create_task(other.register())
            failed = await until(agent, False)
            await answered
            await until(agent, True, 1)
            assert failed.why == "cannot register: user name or password refused by 'house'"
            assert agent.sip.counts.trunk_failures == {("house", "login"): 1}
            leave_ = asyncio.create_task(other.register())
        await leave_
    lines = [record.getMessage() for record in caplog.records if "trunk house" in record.getMessage()]
    assert len(lines) == 2 and lines[0].startswith("x trunk house not registered at 127.0.0.1: cannot register: ")
    assert "; again in " in lines[0]
    assert "guess" not in caplog.text and PASSWORD not in caplog.text


async def test_a_registrar_that_is_dead_is_told_and_calls_go_on(caplog: pytest.LogCaptureFixture) -> None:
    async with registrar() as house:
        trunk = house.trunk()
    async with desk(trunks=[trunk]) as agent, udp_peer(agent.port) as phone:
        async with asyncio.timeout(5):
            while not agent.sip._agent.keeper.next_at:
                await asyncio.sleep(0)
        agent.pass_time(33)
        assert (await until(agent, False)).why == "cannot register: nobody answered"
        assert agent.sip.counts.trunk_failures == {("house", "no answer"): 1}
        await phone.call()
        await phone.hang_up()
    assert "x trunk house not registered at 127.0.0.1: cannot register: nobody answered; again in " in caplog.text


async def test_a_registrar_that_takes_no_connection_is_told_at_once(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        trunk = Trunk("house", "127.0.0.1", closed.getsockname()[1], "tcp", "1000", PASSWORD, register=True)
        async with desk(allow=NOBODY, trunks=[trunk]) as agent:
            told = await until(agent, False)
            assert agent.sip.counts.trunk_failures == {("house", "unreachable"): 1}
    assert f"127.0.0.1:{trunk.port} over TCP cannot be reached" in told.why
    assert "x trunk house not registered at 127.0.0.1: " in caplog.text


@pytest.mark.parametrize("days", [1, -1])
async def test_over_tls_with_one_of_us_whose_certificate_is_looked_at(days: int, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate = authority.sign("127.0.0.1", days=days)
    async with desk(users={"1000": PASSWORD}, tls=Tls(certificate, port=0)) as house:
        port = house.sip.flows.tls_port
        trunk = Trunk("house", "127.0.0.1", port, "tls", "1000", PASSWORD, register=True)
        async with desk(allow=NOBODY, trunks=[trunk], tls=Tls(authorities=authority.path)) as agent:
            told = await until(agent, days > 0)
            assert ("expired" in told.why) == (days < 0)
            assert agent.sip.counts.trunk_failures == ({} if days > 0 else {("house", "certificate"): 1})


async def test_a_peer_is_asked_whether_it_lives() -> None:
    async with registrar() as house:
        trunk = house.trunk(register=False, probe_s=30)
        async with desk(allow=NOBODY, trunks=[trunk]) as agent:
            request = await house.request("OPTIONS")
            house.answer(request, 200)
            async with asyncio.timeout(5):
                while state(agent).up is not True:
                    await asyncio.sleep(0)


# --- calls ---------------------------------------------------------------------------------------------------------


async def test_a_call_from_a_registrar_is_told_by_its_trunk() -> None:
    """Nobody else on loopback is heard: its address is known by its name alone."""
    async with registrar() as house, desk(allow=NOBODY, trunks=[house.trunk()]) as agent:
        contact = (await house.register()).contact
        house.peer.agent, house.peer.target = ("127.0.0.1", agent.port), contact
        answer = await house.peer.call()
        assert answer.body.decode() == ANSWER
        call = await agent.next_call()
        assert (call.offer.trunk, call.offer.callee) == ("house", "1000")
        assert agent.sip.trunks.states[0][1] == 1
        await house.peer.hang_up()
        assert (await call.wait_ended()).by == "caller"
        assert agent.sip.trunks.states[0][1] == 0
        leaving = asyncio.create_task(house.register())
        agent.sip.act(lambda core, now: core.keeper.stop(now))
        await leaving


async def test_a_call_from_its_networks_and_one_from_a_stranger() -> None:
    trunk = Trunk("carrier", "sip.carrier.example", peers=(ip_network("127.0.0.2/32"),))
    async with desk(leave, trunks=[trunk], names=NoNames()) as agent:
        async with udp_peer(agent.port, "127.0.0.2") as peer, udp_peer(agent.port, "127.0.0.3") as stranger:
            async with udp_peer(agent.port) as phone:
                for who in (peer, stranger, phone):
                    who.ask("INVITE", body=OFFER)
                assert {(await agent.next_call()).offer.trunk for _ in range(2)} == {"carrier", ""}
                await stranger.silence()


class NoNames:
    """A name service that knows nothing."""

    async def look_up(self, name: str, kind: Kind) -> Found:
        return Found((), 60)


async def test_a_trunk_has_so_many_calls_and_then_is_busy() -> None:
    trunk = Trunk("carrier", "127.0.0.1", max_calls=1)
    lines = Lines()
    async with desk(allow=NOBODY, trunks=[trunk], lines=lines) as agent:
        await known(agent)
        async with udp_peer(agent.port) as first, tcp_peer(agent.port) as second:
            await first.call()
            second.ask("INVITE", body=OFFER)
            refused = await second.response(486)
            second.ack(refused)
            assert lines["carrier"] == 1
            await first.hang_up()
            second.to_tag = ""
            await second.call()
            await second.hang_up()
        assert len(agent.calls) == 2, "what was refused was offered to nobody"
        assert lines["carrier"] == 0


async def test_a_trunk_may_ask_who_we_are_also_in_a_call_that_it_made() -> None:
    """Else our BYE comes to nothing, and the provider's side of the call goes on."""
    trunk = Trunk("carrier", "127.0.0.1", user="1000", password=PASSWORD)
    async with desk(allow=NOBODY, trunks=[trunk]) as agent:
        await known(agent)
        async with udp_peer(agent.port) as peer:
            await peer.call()
            leaving = asyncio.create_task((await agent.next_call()).hang_up("enough"))
            challenge = ("Proxy-Authenticate", CHALLENGE[1])
            peer.send(bytes(respond(await peer.request("BYE"), 407, challenge, to_tag="theirs", phrase="Fine")))
            again = await peer.request("BYE")
            sent = parse_credentials(again.headers.get("Proxy-Authorization"))
            assert sent.response == sent.expected(PASSWORD, "BYE")
            peer.send(bytes(respond(again, 200, to_tag="theirs", phrase="Fine")))
            await leaving


async def test_numbers_and_rates(caplog: pytest.LogCaptureFixture) -> None:
    trunk = Trunk("carrier", "127.0.0.1", numbers=("+4930123*",), cps=1.0)
    async with desk(leave, allow=NOBODY, trunks=[trunk]) as agent:
        await known(agent)
        for uri, code in (("sip:112@agent", 404), ("sip:+49301234@agent", 100), ("sip:+49301235@agent", 486)):
            async with udp_peer(agent.port) as peer:
                peer.ask("INVITE", body=OFFER, uri=uri)
                assert (await peer.response(code, skip=() if code == 100 else (100,))).code == code
        assert agent.sip.counts.trunk_refusals == {("carrier", 404): 1, ("carrier", 486): 1}
    assert "x 127.0.0.1: call from trunk carrier refused, 112 is none of its numbers" in caplog.text


@pytest.mark.parametrize("allowed", [True, False])
async def test_transfers_are_rights_of_a_trunk(allowed: bool) -> None:
    asked: asyncio.Queue[str] = asyncio.Queue()
    trunk = Trunk("carrier", "127.0.0.1", refer_in=allowed, refer_out=allowed)
    async with desk(allow=NOBODY, trunks=[trunk]) as agent:
        await known(agent)
        async with udp_peer(agent.port) as peer:
            await peer.call()
            call = await agent.next_call()
            call.referred = asked.put
            peer.ask("REFER", "Refer-To: <sip:bob@127.0.0.1>")
            await peer.response(202 if allowed else 603)
            if allowed:
                for _ in range(2):
                    peer.answer(await peer.request("NOTIFY"))
                assert await asked.get() == "sip:bob@127.0.0.1"
                transfer = asyncio.create_task(call.transfer("sip:bob@127.0.0.1"))
                peer.answer(await peer.request("REFER"), 603)
                with pytest.raises(SignalingError, match="603"):
                    await transfer
            else:
                with pytest.raises(SignalingError, match="trunk carrier is asked for no transfers"):
                    await call.transfer("sip:bob@127.0.0.1")
            await peer.hang_up()


async def known(agent: Desk) -> None:
    """Wait until the trunk's address is."""
    async with asyncio.timeout(5):
        while not agent.sip.trunks.admission.knows("127.0.0.1"):
            await asyncio.sleep(0)
