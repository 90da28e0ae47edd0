"""A whole agent that has a trunk: what the trunk may, what it may not, and settings that could not work."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from tests.signaling.sip.peer import OFFER, udp_peer
from voipagent.lab.serving import ServingError, serving_agent

G722 = OFFER.replace("RTP/AVP 0 8", "RTP/AVP 9").replace("a=rtpmap:0 PCMU/8000\r\na=rtpmap:8 PCMA", "a=rtpmap:9 G722")
ENVIRON = {
    "VOIPAGENT_ENGINE__MODEL": "echo",
    "VOIPAGENT_SIP__ALLOW": "192.0.2.0/24",
    "VOIPAGENT_TRUNKS__CARRIER__HOST": "127.0.0.1",
    "VOIPAGENT_TRUNKS__CARRIER__CODECS": "g722",
    "VOIPAGENT_TRUNKS__CARRIER__NUMBERS": "+4930123*",
    "VOIPAGENT_TRUNKS__CARRIER__MAX_CALLS": "1",
}


async def test_codecs_numbers_and_calls_at_once(tmp_path: Path) -> None:
    environ = ENVIRON | {"VOIPAGENT_CALLS__DIR": str(tmp_path)}
    async with asyncio.timeout(60), serving_agent(environ) as agent:
        asked = ["sip:+49301234@agent", "sip:112@agent", "sip:+49301234@agent"]
        for uri, offer, code in zip(asked, (OFFER, G722, G722), (488, 404, 200), strict=True):
            async with udp_peer(agent.sip_port) as peer:
                peer.ask("INVITE", body=offer, uri=uri)
                answer = await peer.response(code, skip=(100, 180))
                peer.ack(answer)
                if code == 200:
                    async with udp_peer(agent.sip_port) as second:
                        second.ask("INVITE", body=G722, uri=uri)
                        second.ack(await second.response(486))
                    await peer.hang_up()
        async with udp_peer(agent.sip_port, "127.0.0.2") as stranger:
            stranger.ask("INVITE", body=G722)
            await stranger.silence()
        assert await agent.stop() == 0
    records = sorted(
        (json.loads(path.read_text()) for path in tmp_path.glob("*/call.json")), key=lambda r: r["started"]
    )
    assert [(record["trunk"], bool(record["answered"])) for record in records] == [
        ("carrier", False),
        ("carrier", True),
    ]


async def test_a_trunk_that_could_not_work_is_one_clear_line(tmp_path: Path) -> None:
    wrong = {"VOIPAGENT_TRUNKS__CARRIER__PASSWORD": "sesame", "VOIPAGENT_CALLS__DIR": str(tmp_path)}
    with pytest.raises(ServingError) as error:
        async with asyncio.timeout(60), serving_agent(ENVIRON | wrong):
            raise AssertionError("it started")
    assert "voipagent: VOIPAGENT_TRUNKS__CARRIER: there is a password, but no user" in str(error.value)
    assert "sesame" not in str(error.value) and "Traceback" not in str(error.value)
