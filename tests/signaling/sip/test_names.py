"""names.py, and resolve.py on top of it, against a name server on loopback that is made here."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest

from signaling.sip import names
from signaling.sip.names import Dns
from signaling.sip.resolve import Found, LookUpFailed, Naptr, Resolver, Srv, Unresolved

ZONE = {
    ("example.test.", "NAPTR"): [
        '20 0 "s" "SIP+D2U" "" _sip._udp.example.test.',
        '10 0 "s" "SIPS+D2T" "" _sips._tcp.example.test.',
    ],
    ("_sips._tcp.example.test.", "SRV"): ["1 0 5061 sip1.example.test.", "2 0 5061 sip2.example.test."],
    ("_sip._udp.example.test.", "SRV"): ["1 0 5060 sip1.example.test."],
    ("sip1.example.test.", "A"): ["192.0.2.1"],
    ("sip1.example.test.", "AAAA"): ["2001:db8::1"],
    ("sip2.example.test.", "A"): ["192.0.2.2"],
}


class NameServer(asyncio.DatagramProtocol):
    """Serves ZONE; `rcode` is what it says instead, and `mute` that it says nothing."""

    rcode = dns.rcode.NOERROR
    mute = False

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)  # it is one by its verbs, not by its class

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        query = dns.message.from_wire(data)
        (question,) = query.question
        name, kind = question.name.to_text().lower(), dns.rdatatype.to_text(question.rdtype)
        self.asked.append((name, kind))
        answer = dns.message.make_response(query)
        answer.flags |= dns.flags.RA
        if records := ZONE.get((name, kind)):
            answer.answer.append(dns.rrset.from_text(question.name, 77, "IN", kind, *records))
        elif not any(known == name for known, _ in ZONE):
            answer.set_rcode(dns.rcode.NXDOMAIN)
        if self.rcode != dns.rcode.NOERROR:
            answer.set_rcode(self.rcode)
        if not self.mute:
            self.transport.sendto(answer.to_wire(), addr)


@contextlib.asynccontextmanager
async def name_server(hosts: Path = Path("/nonexistent")) -> AsyncIterator[tuple[NameServer, Dns]]:
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(NameServer, local_addr=("127.0.0.1", 0))
    try:
        yield server, Dns(("127.0.0.1",), transport.get_extra_info("sockname")[1], hosts)
    finally:
        transport.close()
        await asyncio.sleep(0)


async def test_records_of_each_kind() -> None:
    async with name_server() as (_, dns_):
        services = await dns_.look_up("example.test", "NAPTR")
        assert services.ttl_s == 77.0
        assert set(services.records) == {  # in any order, as they come from a name server
            Naptr(20, 0, "s", "SIP+D2U", "_sip._udp.example.test"),
            Naptr(10, 0, "s", "SIPS+D2T", "_sips._tcp.example.test"),
        }
        found = await dns_.look_up("_sips._tcp.example.test", "SRV")
        assert set(found.records) == {Srv(1, 0, 5061, "sip1.example.test"), Srv(2, 0, 5061, "sip2.example.test")}
        assert await dns_.look_up("sip1.example.test", "A") == Found(("192.0.2.1",), 77.0)
        assert await dns_.look_up("sip1.example.test", "AAAA") == Found(("2001:db8::1",), 77.0)


async def test_what_is_not_there_is_an_answer() -> None:
    async with name_server() as (_, dns_):
        assert (await dns_.look_up("sip2.example.test", "AAAA")).records == ()
        assert (await dns_.look_up("nowhere.test", "A")).records == ()


async def test_a_server_that_fails_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "PATIENCE_S", 0.3)
    async with name_server() as (server, dns_):
        server.rcode = dns.rcode.SERVFAIL
        with pytest.raises(LookUpFailed, match=r"no A of sip1\.example\.test: no name server"):
            await dns_.look_up("sip1.example.test", "A")
        server.mute = True
        with pytest.raises(LookUpFailed, match=r"no name server answered within 0\.3 s"):
            await dns_.look_up("sip1.example.test", "A")
        with pytest.raises(LookUpFailed, match="no A of"):
            await dns_.look_up(f"{'x' * 70}.test", "A")  # no label is so long


async def test_the_hosts_file_comes_first(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 localhost\n10.0.0.5\tpbx PBX.example.test # ours\nfe80::g bad\n2001:db8::5 pbx bad\n")
    async with name_server(hosts) as (server, dns_):
        assert (await dns_.look_up("pbx", "A")).records == ("10.0.0.5",)
        assert (await dns_.look_up("PBX", "AAAA")).records == ("2001:db8::5",)
        assert (await dns_.look_up("pbx.example.test", "SRV")).records == ()
        assert (await dns_.look_up("bad", "AAAA")).records == ("2001:db8::5",)
        assert server.asked == []


async def test_a_domain_from_its_name_to_its_addresses() -> None:
    async with name_server() as (server, dns_):
        ways = Resolver(dns_, time=asyncio.get_running_loop().time, chance=random.random)
        expected = [
            "example.test (192.0.2.1:5061 over TLS)",
            "example.test ([2001:db8::1]:5061 over TLS)",
            "example.test (192.0.2.2:5061 over TLS)",
            "example.test (192.0.2.1:5060 over UDP)",
            "example.test ([2001:db8::1]:5060 over UDP)",
        ]
        assert [str(target) for target in await ways.resolve("sip:a@example.test")] == expected
        asked = len(server.asked)
        assert [str(target) for target in await ways.resolve("sip:b@example.test")] == expected
        assert len(server.asked) == asked  # all of it is remembered
        with pytest.raises(Unresolved, match=r"nowhere\.test has no address"):
            await ways.resolve("sip:nowhere.test")
