"""A whole agent whose trunks fail, each in its way: an event, a line in the log and a number; the rest goes on."""

from __future__ import annotations

import asyncio
import urllib.request
from pathlib import Path

from signaling.sip.tls import Tls
from tests.signaling.sip.answering import desk
from tests.signaling.sip.certificates import Authority
from tests.signaling.sip.peer import OFFER, udp_peer
from tests.signaling.sip.test_trunk_calls import CHALLENGE, registrar
from voipagent.lab.serving import serving_agent

AMR = OFFER.replace("RTP/AVP 0 8", "RTP/AVP 96").replace(
    "a=rtpmap:0 PCMU/8000\r\na=rtpmap:8 PCMA/8000", "a=rtpmap:96 AMR/8000"
)


def trunk(name: str, port: int, **more: str) -> dict[str, str]:
    fields = {"HOST": "127.0.0.1", "PORT": str(port), "USER": "1000", "PASSWORD": "guess"} | more
    return {f"VOIPAGENT_TRUNKS__{name}__{field}": value for field, value in fields.items()}


def read(port: int) -> list[str]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        return list(answer.read().decode().splitlines())


async def test_each_fault_is_a_line_and_a_number_and_calls_go_on(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    expired = authority.sign("127.0.0.1", days=-1)
    async with (
        asyncio.timeout(60),
        registrar() as strict,
        desk(users={"1000": "guess"}, tls=Tls(expired, port=0)) as old,
    ):
        environ = {
            "VOIPAGENT_ENGINE__MODEL": "echo",
            "VOIPAGENT_CALLS__DIR": str(tmp_path / "calls"),
            "VOIPAGENT_SIP__TLS_CA": str(authority.path),
            **trunk("CLOSED", 9, TRANSPORT="tcp"),
            **trunk("STRICT", strict.peer.local[1]),
            **trunk("OLD", old.sip.flows.tls_port, TRANSPORT="tls"),
        }
        async with serving_agent(environ) as agent:
            for _ in range(2):
                strict.answer(await strict.request(), 401, CHALLENGE)
            wanted = {
                'voipagent_trunk_failures_total{reason="unreachable",trunk="closed"}',
                'voipagent_trunk_failures_total{reason="login",trunk="strict"}',
                'voipagent_trunk_failures_total{reason="certificate",trunk="old"}',
                'voipagent_trunk_registered{trunk="old"} 0.0',
            }
            while not all(any(line.startswith(start) for line in read(agent.http_port)) for start in wanted):
                await asyncio.sleep(0.05)
            async with udp_peer(agent.sip_port) as without, udp_peer(agent.sip_port) as phone:
                without.ask("INVITE", body=AMR)
                without.ack(await without.response(488, skip=(100, 180)))
                await phone.call()
                assert any('calls_active{direction="in",kind="sip"} 1.0' in line for line in read(agent.http_port))
                await phone.hang_up()
            done = 'outcome="answered"'
            while not any(done in line for line in read(agent.http_port)):
                await asyncio.sleep(0.05)
            lines = read(agent.http_port)
            assert any('outcome="not acceptable"' in line and line.endswith(" 1.0") for line in lines)
            assert await agent.stop() == 0
    told = "\n".join(agent.log)
    for part in (
        "x trunk closed not registered at 127.0.0.1: 127.0.0.1:9 over TCP cannot be reached: connection refused",
        "x trunk strict not registered at 127.0.0.1: cannot register: user name or password refused",
        "x trunk old not registered at 127.0.0.1:",
        "expired",
        "no common codec: the offer has AMR/8000",
    ):
        assert part in told
    assert told.count("; again in ") >= 3
    assert "Traceback" not in told and "guess" not in told
