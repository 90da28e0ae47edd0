"""Through Kamailio: the agent registers there, is called through it, and both sides hang up along its Record-Route."""

from __future__ import annotations

import asyncio
import json
import re
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from signaling.sip.dialer import SipDialer
from signaling.sip.outbound import Outbound
from signaling.sip.trunk import Lines, Trunk
from tests.peers.folders import read
from tests.peers.kamailio import PASSWORD, Kamailio, kamailio
from tests.peers.libre import hears_itself, talk, telephone
from tests.signaling.sip.answering import ANSWER, desk, leave
from tests.signaling.sip.peer import OFFER
from tests.voipagent.test_serve_transfer import post
from voipagent.lab.bursts import make_bursts
from voipagent.lab.serving import ServingAgent, serving_agent

pytestmark = pytest.mark.peer("kamailio", "baresip")


def environ(tmp_path: Path, **more: str) -> dict[str, str]:
    """An agent that nobody on loopback may call, but for its trunks."""
    ours = {"VOIPAGENT_ENGINE__MODEL": "echo", "VOIPAGENT_CALLS__DIR": str(tmp_path / "calls")}
    return ours | {"VOIPAGENT_SIP__ALLOW": "192.0.2.0/24"} | more


async def trunks(agent: ServingAgent) -> dict[str, dict[str, Any]]:
    """What the API says of them, by name."""
    reader, writer = await asyncio.open_connection("127.0.0.1", agent.http_port)
    writer.write(b"GET /api/v1/health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    _, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    return {trunk["name"]: trunk for trunk in json.loads(body)["trunks"]}


async def registered(agent: ServingAgent, *names: str) -> None:
    """Wait until those are, by their own account."""
    while True:
        states = await trunks(agent)
        if all(states[name]["registered"] for name in names):
            return
        await asyncio.sleep(0.05)


async def call(proxy: Kamailio, user: str, phone: Any) -> Any:
    line = await phone.dial(f"sip:{user}@127.0.0.1:{proxy.port}")
    await line.wait_established(timeout=15)
    return line


@pytest.mark.parametrize("transport", ["udp", "tcp"])
async def test_it_registers_and_is_called_and_the_caller_hangs_up(transport: str, tmp_path: Path) -> None:
    (burst,) = make_bursts(1, 8_000, seed=11, first_s=0.0)
    async with asyncio.timeout(90), kamailio() as proxy:
        trunk = proxy.trunk("1000", TRANSPORT=transport, PROBE="30")
        async with serving_agent(environ(tmp_path, **trunk)) as agent, telephone("pcmu") as phone:
            await registered(agent, "house")
            line = await call(proxy, "1000", phone)
            assert (await trunks(agent))["house"]["calls"] == 1
            await talk(line, np.zeros(0, np.float32), 8_000, 1.0)
            assert await hears_itself(line, burst, 8_000)
            await line.hangup()
            await proxy.said("loose BYE libre")
            while (state := (await trunks(agent))["house"])["calls"]:
                await asyncio.sleep(0.05)
            assert (state["registered"], state["up"], state["why"]) == (True, True, "")
            assert await agent.stop() == 0
        await proxy.said("saved 1000 0")
    (left,) = read(tmp_path / "calls")
    assert (left.record["trunk"], left.record["callee"], left.record["ended_by"]) == ("house", "1000", "caller")
    assert np.abs(left.caller).max() > 0.2


async def test_the_agent_hangs_up_along_the_route_that_was_recorded(tmp_path: Path) -> None:
    """The caller holds for longer than it may: our BYE goes through the proxy, and ends the call there.

    Meanwhile the registration is refreshed: this registrar grants 6 s where 60 were asked for.
    """
    from baresip import CallState

    async with asyncio.timeout(90), kamailio(expires=6) as proxy:
        hold = {"VOIPAGENT_CALLS__MAX_HOLD": "0.5", "VOIPAGENT_TRUNKS__HOUSE__EXPIRES": "60"}
        async with serving_agent(environ(tmp_path, **proxy.trunk("1000"), **hold)) as agent, telephone("pcmu") as phone:
            await registered(agent, "house")
            line = await call(proxy, "1000", phone)
            await talk(line, np.zeros(0, np.float32), 8_000, 0.5)
            await line.hold()
            await proxy.said("loose BYE 1000")
            while line.state is not CallState.CLOSED:
                await asyncio.sleep(0.05)
            await proxy.said("saved 1000 60", times=2)
            assert (await trunks(agent))["house"]["registered"] is True
            assert len([told for told in agent.log if "trunk house" in told]) == 2, "the call, and no refresh"
            assert await agent.stop() == 0
    (left,) = read(tmp_path / "calls")
    assert (left.record["ended_by"], left.record["reason"]) == ("agent", "on hold for more than 0.5 s")


async def test_a_caller_is_transferred_along_that_route(tmp_path: Path) -> None:
    """Our REFER and its NOTIFYs pass the proxy; to whom it is put through, it need not go that way."""
    more = {"VOIPAGENT_HTTP__TOKEN": "s3cret", "VOIPAGENT_OUTBOUND__DIRECT": "bob@127.0.0.1:*"}
    accepting: list[asyncio.Future[Any]] = []
    async with asyncio.timeout(90), kamailio() as proxy, desk(leave) as bob:
        trunk = proxy.trunk("1000")
        async with serving_agent(environ(tmp_path, **trunk, **more)) as agent, telephone("pcmu") as phone:
            await registered(agent, "house")
            line = await call(proxy, "1000", phone)
            line.on_transfer_request(lambda request: accepting.append(asyncio.ensure_future(line.accept_transfer())))
            (number,) = (match[1] for told in agent.log if (match := re.search(r"< (\w+) call to 1000", told)))
            target = {"target": f"sip:bob@127.0.0.1:{bob.port}"}
            posting = asyncio.create_task(post(agent.http_port, f"{number}/transfer", target))
            other = await bob.next_call()
            await other.accept(ANSWER)
            assert await posting == (200, {"how": "transferred"})
            await proxy.said("loose REFER 1000")
            await proxy.said("loose NOTIFY libre")
            await other.hang_up()
            assert await agent.stop() == 0
    (record,) = (tmp_path / "calls").glob("*/call.json")  # it may be too short for a recording
    assert [noted["how"] for noted in json.loads(record.read_text())["transfers"]] == ["transferred"]


async def test_several_accounts_are_told_apart_and_one_is_wrong(tmp_path: Path) -> None:
    async with asyncio.timeout(90), kamailio() as proxy:
        names = proxy.trunk("1000", "first") | proxy.trunk("2000", "second", MAX_CALLS="1")
        wrong = proxy.trunk("3000", "wrong", PASSWORD="guess")
        async with serving_agent(environ(tmp_path, **names, **wrong)) as agent, telephone("pcmu") as phone:
            await registered(agent, "first", "second")
            while (state := (await trunks(agent))["wrong"])["registered"] is None:
                await asyncio.sleep(0.05)
            assert (state["registered"], state["why"]) == (
                False,
                "cannot register: user name or password refused by '127.0.0.1'",
            )
            (told,) = [line for line in agent.log if "trunk wrong" in line]
            assert "x trunk wrong not registered at 127.0.0.1: cannot register: " in told and "guess" not in told
            line = await call(proxy, "2000", phone)
            assert {name: trunk["calls"] for name, trunk in (await trunks(agent)).items()} == {
                "first": 0,
                "second": 1,
                "wrong": 0,
            }
            await line.hangup()
            assert await agent.stop() == 0
        await proxy.said("saved 1000 0")
        await proxy.said("saved 2000 0")
    (record,) = (tmp_path / "calls").glob("*/call.json")
    assert json.loads(record.read_text())["trunk"] == "second"


@pytest.mark.parametrize("by", ["caller", "callee"])
async def test_two_of_us_call_each_other_through_it(by: str) -> None:
    """One registers as 2000, the other calls that number: it is asked for its password (407), and each may hang up."""
    nobody = (ip_network("192.0.2.0/24"),)
    async with asyncio.timeout(60), kamailio(asks=True) as proxy:
        names: dict[str, Any] = {"host": "127.0.0.1", "port": proxy.port, "register": True}
        first, second = (
            Trunk("house", user=user, password=PASSWORD.format(user=user), outbound=("2???",), **names)
            for user in ("1000", "2000")
        )
        async with desk(allow=nobody, trunks=[second]) as theirs, desk(allow=nobody, trunks=[first]) as ours:
            while not all(side.sip.trunks.states[0][0].registered for side in (theirs, ours)):
                await asyncio.sleep(0.01)
            lines = Lines()
            dialer = SipDialer(ours.sip, Outbound([first], lines=lines), routes=ours.sip.trunks.keeper.routes)
            call, answers = await dialer.dial("2000"), list[str]()

            async def answered(media: str) -> None:
                answers.append(media)

            call.answered = answered
            await call.invite(OFFER)
            await call.wait_answered()
            assert answers == [ANSWER]
            taken = await theirs.next_call()
            assert (taken.offer.trunk, taken.offer.caller, taken.offer.callee) == ("house", "1000", "2000")
            assert (lines["house"], theirs.sip.trunks.states[0][1]) == (1, 1)
            await (call if by == "caller" else taken).hang_up("enough")
            assert (await call.wait_ended()).by == ("agent" if by == "caller" else "callee")
            assert (await taken.wait_ended()).by == ("caller" if by == "caller" else "agent")
            await proxy.said(f"loose BYE {'1000' if by == 'caller' else '2000'}")
            assert (lines["house"], theirs.sip.trunks.states[0][1]) == (0, 0)
