"""counts.py: what an endpoint has counted; what becomes of trunks is in test_trunk_calls."""

from __future__ import annotations

import asyncio
from ipaddress import ip_network
from pathlib import Path

import pytest

from signaling.sip.counts import Counts, kind_of
from signaling.sip.guard import FAILURES
from signaling.sip.tls import Tls
from signaling.sip.trunk import Trunk
from signaling.sip.useragent import BANNED
from tests.signaling.sip.answering import desk
from tests.signaling.sip.certificates import Authority
from tests.signaling.sip.peer import udp_peer
from tests.signaling.sip.test_phones import authorize

LOOPBACK = (ip_network("127.0.0.0/8"),)
NOBODY = (ip_network("192.0.2.0/24"),)


@pytest.mark.parametrize(
    ("code", "kind"), [(401, "login"), (407, "login"), (408, "no answer"), (503, "unreachable"), (500, "refused")]
)
def test_a_code_is_one_of_few_kinds(code: int, kind: str) -> None:
    assert kind_of(code) == kind


async def test_nonsense_and_strangers() -> None:
    async with desk() as agent, udp_peer(agent.port) as peer, udp_peer(agent.port, "127.0.0.2") as stranger:
        stranger.ask("OPTIONS")
        peer.send(b"nonsense that is longer than any keep-alive\r\n\r\n")
        peer.ask("OPTIONS")
        await peer.response(200)
        counts = agent.sip.counts
    assert (counts.dropped, counts.strangers, counts.bans) == ({"unreadable": 1}, 1, 0)


async def test_what_was_counted_stays_what_it_was() -> None:
    async with desk() as agent, udp_peer(agent.port) as peer:
        before = agent.sip.counts
        peer.send(b"nonsense that is longer than any keep-alive\r\n\r\n")
        peer.ask("OPTIONS")
        await peer.response(200)
        assert before == Counts() != agent.sip.counts


async def test_wrong_passwords_and_the_ban_that_follows() -> None:
    async with desk(allow=NOBODY, challenge=LOOPBACK, users={"alice": "wonderland"}) as agent:
        async with udp_peer(agent.port) as peer:
            for _ in range(FAILURES):
                peer.ask("OPTIONS")
                wrong = authorize(peer, await peer.response(401), "OPTIONS", "guess")
                peer.ask("OPTIONS", wrong)
                await peer.response(401)
            peer.ask("OPTIONS")
            await peer.silence()
            counts = agent.sip.counts
    assert (counts.wrong_passwords, counts.bans, counts.dropped[BANNED]) == (FAILURES, 1, 1)


async def test_a_certificate_for_somebody_else(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    async with desk(tls=Tls(authority.sign("pbx.example"), port=0)) as house:
        port = house.sip.flows.tls_port
        trunk = Trunk("house", "127.0.0.1", port, "tls", "1000", "sesame", register=True)
        async with desk(allow=NOBODY, trunks=[trunk], tls=Tls(authorities=authority.path)) as agent:
            async with asyncio.timeout(5):
                while agent.sip.trunks.states[0][0].registered is not False:
                    await asyncio.sleep(0)
            assert agent.sip.counts.trunk_failures == {("house", "certificate"): 1}
