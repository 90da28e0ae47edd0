"""The far end of a call has a whole agent call somebody else: only where its trunk may, and the patterns allow it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from signaling.sip.message import Response
from tests.signaling.sip.answering import ANSWER, desk, leave
from tests.signaling.sip.peer import Peer, udp_peer
from voipagent.lab.serving import serving_agent


async def refer(caller: Peer, target: str, code: int) -> Response:
    caller.ask("REFER", f"Refer-To: <{target}>")
    return await caller.response(code)


def records(tmp_path: Path) -> list[dict[str, Any]]:
    return [json.loads(file.read_text()) for file in sorted((tmp_path / "calls").glob("*/call.json"))]


def environ(tmp_path: Path, port: int, **more: str) -> dict[str, str]:
    trunk = {"HOST": "127.0.0.1", "PORT": str(port), "REFER_IN": "true"} | more
    return {
        "VOIPAGENT_ENGINE__MODEL": "echo",
        "VOIPAGENT_CALLS__DIR": str(tmp_path / "calls"),
        **{f"VOIPAGENT_TRUNKS__PBX__{name}": value for name, value in trunk.items()},
    }


async def test_a_trunk_that_may_has_somebody_called_and_hears_of_it(tmp_path: Path) -> None:
    """By whoever answered, though another's section is called as this one is."""
    personas = {
        "VOIPAGENT_PERSONAS__ONE__NAME": "two",
        "VOIPAGENT_PERSONAS__ONE__TRUNKS": "pbx",
        "VOIPAGENT_PERSONAS__TWO__NAME": "one",
        "VOIPAGENT_PERSONAS__TWO__NUMBERS": "4711",
    }
    async with (
        asyncio.timeout(60),
        desk(leave) as bob,
        serving_agent(environ(tmp_path, bob.port, OUTBOUND="bob") | personas) as agent,
        udp_peer(agent.sip_port) as caller,
    ):
        await caller.call()
        await refer(caller, f"sip:bob@127.0.0.1:{bob.port}", 202)
        first = await caller.request("NOTIFY")
        caller.answer(first)
        assert b"100" in first.body
        call = await bob.next_call()
        await call.accept(ANSWER)
        told = await caller.request("NOTIFY")
        caller.answer(told)
        assert b"SIP/2.0 200" in told.body
        await caller.hang_up()
        await call.hang_up("enough")
        assert await agent.stop() == 0
    incoming, outgoing = sorted(records(tmp_path), key=lambda record: str(record["direction"]))
    assert (incoming["direction"], outgoing["direction"]) == ("in", "out")
    assert (incoming["persona"], outgoing["persona"]) == ("two", "two")
    assert (outgoing["trunk"], outgoing["callee"], outgoing["reason"]) == ("pbx", "bob", "enough")


@pytest.mark.parametrize(
    ("more", "code", "outcome"),
    [({"OUTBOUND": "bob", "REFER_IN": "false"}, 603, b""), ({"OUTBOUND": "carol"}, 202, b"SIP/2.0 603")],
    ids=["the trunk may not", "no pattern allows it"],
)
async def test_what_is_not_allowed_is_not_called(
    tmp_path: Path, more: dict[str, str], code: int, outcome: bytes
) -> None:
    async with (
        asyncio.timeout(60),
        desk(leave) as bob,
        serving_agent(environ(tmp_path, bob.port, **more)) as agent,
        udp_peer(agent.sip_port) as caller,
    ):
        await caller.call()
        await refer(caller, f"sip:bob@127.0.0.1:{bob.port}", code)
        while outcome:
            told = await caller.request("NOTIFY")
            caller.answer(told)
            if b"SIP/2.0 100" not in told.body:
                assert outcome in told.body
                break
        await caller.hang_up()
        assert await agent.stop() == 0
    (record,) = records(tmp_path)
    assert record["ended_by"] == "caller"
