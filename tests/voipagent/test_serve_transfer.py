"""A caller of a whole agent is put through over the API, though its phone will not transfer: by a bridge."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from tests.signaling.sip.answering import ANSWER, desk, leave
from tests.signaling.sip.peer import udp_peer
from voipagent.lab.serving import serving_agent


async def post(port: int, path: str, body: dict[str, str]) -> tuple[int, Any]:
    data = json.dumps(body)
    head = [
        *(f"POST /api/v1/calls/{path} HTTP/1.1", "Host: x", "Connection: close", "Content-Type: application/json"),
        *("Authorization: Bearer s3cret", f"Content-Length: {len(data)}"),
    ]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write("\r\n".join([*head, "", data]).encode())
    answer, _, said = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    return int(answer.split()[1]), json.loads(said)


def environ(tmp_path: Path, **more: str) -> dict[str, str]:
    return {
        "VOIPAGENT_ENGINE__MODEL": "echo",
        "VOIPAGENT_CALLS__DIR": str(tmp_path / "calls"),
        "VOIPAGENT_HTTP__TOKEN": "s3cret",
        **{f"VOIPAGENT_{name}": value for name, value in more.items()},
    }


async def test_a_refused_transfer_is_bridged(tmp_path: Path) -> None:
    """And whoever is called for it hears of the recording first."""
    settings = environ(tmp_path, OUTBOUND__DIRECT="bob@127.0.0.1:*", CALLS__CONSENT="tone")
    async with (
        asyncio.timeout(60),
        desk(leave) as bob,
        serving_agent(settings) as agent,
        udp_peer(agent.sip_port) as caller,
    ):
        await caller.call()
        path = f"{caller.to_tag}/transfer"
        assert (await post(agent.http_port, "nobody/transfer", {"target": "100"}))[0] == 404
        posting = asyncio.create_task(post(agent.http_port, path, {"target": f"sip:bob@127.0.0.1:{bob.port}"}))
        caller.answer(await caller.request("REFER"), 603)
        call = await bob.next_call()
        await call.ring()
        await call.accept(ANSWER)
        assert await posting == (200, {"how": "bridged"})
        await call.hang_up("enough")
        bye = await caller.request("BYE")
        assert bye.headers.get("Reason") == 'SIP;text="enough"'
        caller.answer(bye)
        assert await agent.stop() == 0
    (file,) = (tmp_path / "calls").glob("*/call.json")
    record = json.loads(file.read_text())
    (noted,) = record["transfers"]
    assert (noted["to"], noted["how"]) == (f"sip:bob@127.0.0.1:{bob.port}", "bridged")
    assert noted["consent"]["heard"] == "tone"
    assert (record["ended_by"], record["reason"]) == ("agent", "enough")


async def test_the_far_end_is_not_asked_to_call_whom_no_pattern_allows(tmp_path: Path) -> None:
    settings = environ(tmp_path, TRUNKS__PBX__HOST="127.0.0.1", TRUNKS__PBX__OUTBOUND="+4930*")
    async with asyncio.timeout(60), serving_agent(settings) as agent, udp_peer(agent.sip_port) as caller:
        await caller.call()
        assert (await post(agent.http_port, f"{caller.to_tag}/transfer", {"target": "+49900123"}))[0] == 403
        await caller.hang_up()  # the next that it hears, so there was no REFER
        assert await agent.stop() == 0
