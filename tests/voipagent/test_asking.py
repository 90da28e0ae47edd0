"""asking.py: `voipagent dial` of a phone of our own, by the agent that serves."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import httpx2
import pytest
from pydantic import SecretStr

from signaling.call import SignalingError
from signaling.sip.message import Request
from tests.signaling.sip.peer import udp_peer
from tests.signaling.sip.test_forked import say
from tests.signaling.sip.test_phones import authorize
from tests.voipagent.test_dial import dial, in_folder, records
from voipagent.asking import ask_to_call
from voipagent.http import HttpSettings
from voipagent.lab.serving import serving_agent
from voipagent.outbound import Wanted

ALICE = Wanted("alice")
USERS = {
    "VOIPAGENT_SIP__USERS__ALICE__PASSWORD": "wonderland",
    "VOIPAGENT_SIP__CHALLENGE": "127.0.0.0/8",
    "VOIPAGENT_SIP__ALLOW": "192.0.2.0/24",
    "VOIPAGENT_HTTP__TOKEN": "s3cret",
}


async def test_a_phone_that_registered_rings_and_is_busy(tmp_path: Path) -> None:
    async with asyncio.timeout(90), serving_agent(in_folder(tmp_path, **USERS)) as agent:
        here = in_folder(tmp_path, **USERS, VOIPAGENT_HTTP__PORT=str(agent.http_port))
        code, _, log = await dial(here, "alice")
        assert code == 1 and "voipagent: alice has no phone that is registered now" in log
        async with udp_peer(agent.sip_port) as phone:
            said = {"To": "<sip:alice@voipagent>", "Contact": "<sip:one@192.0.2.9>;expires=60"}
            phone.ask("REGISTER", **said)
            phone.ask("REGISTER", authorize(phone, await phone.response(401), "REGISTER"), **said)
            await phone.response(200)
            calling = asyncio.create_task(dial(here, "Alice"))
            async with asyncio.timeout(60):  # a process has to begin
                invite = await phone.heard.get()
            assert isinstance(invite, Request)
            say(phone, invite, 486)
            code, printed, log = await calling
            assert code == 0 and printed.startswith("begun: "), log
            while not records(tmp_path):
                await asyncio.sleep(0.05)
    (record,) = records(tmp_path)
    assert (record["id"], record["outcome"]) == (printed.split()[1], "busy")


def test_without_a_token_nobody_is_asked() -> None:
    with pytest.raises(SignalingError, match="alice is a phone of our own; it takes VOIPAGENT_HTTP__TOKEN"):
        ask_to_call(HttpSettings(), ALICE)


def test_nobody_serves() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(SignalingError, match=f"no agent serves at http://127.0.0.1:{port}/api/v1/calls"):
        ask_to_call(HttpSettings(port=port, token=SecretStr("s3cret")), ALICE)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (httpx2.Response(401, json={"detail": "a token is wanted"}), "a token is wanted"),
        (httpx2.Response(404, text="no such page"), "the agent that serves says 404"),
        (httpx2.Response(503, json=[]), "the agent that serves says 503"),
    ],
)
def test_what_it_refuses_is_told(answer: httpx2.Response, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def post(url: str, **more: object) -> httpx2.Response:
        asked.append(url)
        return answer

    monkeypatch.setattr(httpx2, "post", post)
    with pytest.raises(SignalingError, match=said):
        ask_to_call(HttpSettings(host="::", token=SecretStr("s3cret"), tls="self-signed"), ALICE)
    assert asked == ["https://[::1]:8998/api/v1/calls"]
