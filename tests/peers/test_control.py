"""Call control with other people's telephones: session timer, reliable ringing, hold by us, transfers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from media.answer import Legs
from media.codec import PCMU
from media.leg import AudioFormat, Leg
from media.sdp import parse
from signaling.call import Call, CallEnded, SignalingError
from tests.peers import sipp
from tests.peers.folders import read
from tests.peers.libre import Phone, hears_itself, talk, telephone, telephones
from tests.peers.test_sipp import talk_file
from tests.signaling.sip.answering import Desk, desk, leave, refuse
from voipagent.lab.bursts import make_bursts
from voipagent.lab.serving import serving_agent

FORMAT = AudioFormat(24_000, 1_920)

DESCRIBED = (
    "v=0\r\no=- 9 9 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
    "m=audio 50000 RTP/AVP 0\r\na=rtpmap:0 PCMU/8000\r\n"
)
"""An answer that leads nowhere."""

Then = Callable[[Call, Leg], Coroutine[Any, Any, None]]


@contextlib.asynccontextmanager
async def echoing(then: Then) -> AsyncIterator[tuple[Desk, asyncio.Future[CallEnded]]]:
    """An endpoint that takes its first call, says back what it hears, and does `then` meanwhile; how the call ended."""
    over: asyncio.Future[CallEnded] = asyncio.get_running_loop().create_future()
    async with Legs(FORMAT, ports=(31_000, 31_400)) as legs:

        async def serve(call: Call) -> None:
            leg = legs.open_leg(call.offer.media, call.offer.source[0])
            try:
                await call.ring()
                call.renegotiate, call.answered = _renegotiate(leg), leg.accepted
                await call.accept(await leg.answer(call.offer.media or ""))
                await during(call, leg)
                over.set_result(await call.wait_ended())
            except Exception as error:
                over.set_exception(error)
            finally:
                await leg.close()

        async def during(call: Call, leg: Leg) -> None:
            async def echo() -> None:
                while True:
                    leg.play((await leg.exchange()).heard)

            async with asyncio.TaskGroup() as group:
                echoing = group.create_task(echo())
                await then(call, leg)
                await call.wait_ended()
                echoing.cancel()

        async with desk(serve) as opened:
            yield opened, over


def _renegotiate(leg: Leg) -> Callable[[str | None], Coroutine[Any, Any, str]]:
    async def renegotiate(offer: str | None) -> str:
        return await leg.offer() if offer is None else await leg.answer(offer)

    return renegotiate


async def nothing(call: Call, leg: Leg) -> None:
    """Just talk."""


# --- SIPp ----------------------------------------------------------------------------------------------------------


def inviting(talk: sipp.Talk, *fields: str) -> str:
    """An INVITE with more header fields."""
    text = sipp.INVITE.replace("Max-Forwards: 70\n", "Max-Forwards: 70\n" + "".join(f"{field}\n" for field in fields))
    return sipp.send(text.format(offer=talk.offer()))


def expecting(code: int, field: str = "", value: str = "") -> str:
    """A response; SIPp fails where a header field of it is not like that."""
    if not field:
        return f'<recv response="{code}" rrs="true"/>'
    search = f'<ereg regexp="{value}" search_in="hdr" header="{field}:" check_it="true" assign_to="seen"/>'
    log = '<nop><action><log message="[$seen]"/></action></nop>'  # or SIPp says that nobody reads it
    return f'<recv response="{code}" rrs="true"><action>{search}</action></recv>{log}'


def asking(method: str, number: int, *fields: str) -> str:
    rest = "".join(f"{field}\n" for field in fields) + "Content-Length: 0\n"
    return sipp.send(sipp.IN_DIALOG.format(method=method, number=number, rest=rest))


def replying(code: int, phrase: str, *fields: str) -> str:
    """The answer to the request that came last."""
    copied = "".join(f"[last_{name}:]\n" for name in ("Via", "From", "To", "Call-ID", "CSeq"))
    head = f"SIP/2.0 {code} {phrase}\n{copied}Contact: <sip:load@[local_ip]:[local_port]>\n"
    return sipp.send(f"\n{head}{''.join(f'{field}{chr(10)}' for field in fields)}Content-Length: 0\n\n", False)


def notifying(number: int, line: str, state: str = "active") -> str:
    body = f"SIP/2.0 {line}\n"
    rest = f"Event: refer\nSubscription-State: {state}\nContent-Type: message/sipfrag\nContent-Length: [len]\n\n{body}"
    return sipp.send(sipp.IN_DIALOG.format(method="NOTIFY", number=number, rest=rest)) + '<recv response="200"/>'


@pytest.fixture
def silence(tmp_path: Path) -> sipp.Talk:
    return talk_file(tmp_path, PCMU, np.zeros(1_600, np.float32))


@pytest.mark.peer("sipp")
async def test_sipp_refreshes_and_an_interval_that_is_too_small(silence: sipp.Talk, tmp_path: Path) -> None:
    async with echoing(nothing) as (opened, over):
        await sipp.run(
            tmp_path,
            inviting(silence, "Supported: timer", "Session-Expires: 30"),
            '<recv response="100" optional="true"/>',
            expecting(422, "Min-SE", "90"),
            sipp.ack(1),
            inviting(silence, "Supported: timer", "Session-Expires: 90;refresher=uac").replace("1 INVITE", "2 INVITE"),
            '<recv response="100" optional="true"/><recv response="180" optional="true"/>',
            expecting(200, "Session-Expires", "90;refresher=uac"),
            sipp.ack(2),
            asking("UPDATE", 3, "Supported: timer", "Session-Expires: 120;refresher=uac"),
            expecting(200, "Session-Expires", "120;refresher=uac"),
            sipp.bye(4),
            port=opened.port,
        )
        async with asyncio.timeout(5):
            assert (await over).by == "caller"


@pytest.mark.acceptance
@pytest.mark.peer("sipp")
async def test_we_refresh_for_sipp(silence: sipp.Talk, tmp_path: Path) -> None:
    """At half of the shortest interval there is, 45 s into the call."""
    async with echoing(nothing) as (opened, over):
        await sipp.run(
            tmp_path,
            inviting(silence, "Supported: timer", "Session-Expires: 90;refresher=uas", "Allow: UPDATE"),
            '<recv response="100" optional="true"/><recv response="180" optional="true"/>',
            expecting(200, "Session-Expires", "90;refresher=uas"),
            sipp.ack(1),
            silence.stream,
            '<recv request="UPDATE" timeout="50000"/>',
            replying(200, "OK", "Session-Expires: 90;refresher=uac"),
            sipp.pause(500),
            sipp.bye(2),
            port=opened.port,
        )
        async with asyncio.timeout(5):
            assert (await over).by == "caller"


@pytest.mark.peer("sipp")
async def test_reliable_ringing_for_sipp(silence: sipp.Talk, tmp_path: Path) -> None:
    """SIPp takes any 200 for the one it waits for: first the PRACK's, then the INVITE's."""
    async with echoing(nothing) as (opened, over):
        await sipp.run(
            tmp_path,
            inviting(silence, "Require: 100rel"),
            '<recv response="100" optional="true"/>',
            expecting(180, "RSeq", "1"),
            asking("PRACK", 2, "RAck: 1 1 INVITE"),
            '<recv response="180" optional="true"/>',  # sent again before the PRACK was there
            '<recv response="200" rrs="true"/><recv response="200" rrs="true"/>',
            sipp.ack(1),
            sipp.bye(3),
            port=opened.port,
        )
        async with asyncio.timeout(5):
            assert (await over).by == "caller"


@pytest.mark.peer("sipp")
@pytest.mark.parametrize("line", ["200 OK", "486 Busy Here"])
async def test_sipp_is_transferred(line: str, silence: sipp.Talk, tmp_path: Path) -> None:
    said: list[str] = []

    async def transfer(call: Call, leg: Leg) -> None:
        try:
            await call.transfer("sip:bob@127.0.0.1:5")
        except SignalingError as error:
            said.append(str(error))
        else:
            said.append("transferred")

    async with echoing(transfer) as (opened, over):
        await sipp.run(
            tmp_path,
            sipp.invite(silence),
            '<recv request="REFER"/>',
            replying(202, "Accepted"),
            notifying(2, "100 Trying"),
            notifying(3, line, "terminated;reason=noresource"),
            sipp.bye(4),
            port=opened.port,
        )
        async with asyncio.timeout(5):
            assert (await over).by == "caller"
    assert said == ["transferred" if line == "200 OK" else line]


@pytest.mark.peer("sipp")
async def test_sipp_refuses_to_be_transferred(silence: sipp.Talk, tmp_path: Path) -> None:
    said: list[str] = []

    async def transfer(call: Call, leg: Leg) -> None:
        try:
            await call.transfer("sip:bob@127.0.0.1:5")
        except SignalingError as error:
            said.append(str(error))

    async with echoing(transfer) as (opened, over):
        refusal = replying(603, "Decline")
        await sipp.run(
            tmp_path, sipp.invite(silence), '<recv request="REFER"/>', refusal, sipp.bye(2), port=opened.port
        )
        async with asyncio.timeout(5):
            assert (await over).by == "caller"
    assert said == ["603 Decline"]


@pytest.mark.peer("sipp")
async def test_what_a_caller_says_of_itself_is_in_the_record(silence: sipp.Talk, tmp_path: Path) -> None:
    said = {"Diversion": "<sip:boss@example.com>;reason=no-answer", "P-Asserted-Identity": '"A" <sip:a@example.com>'}
    environ = {"VOIPAGENT_ENGINE__MODEL": "echo", "VOIPAGENT_CALLS__DIR": str(tmp_path / "calls")}
    async with serving_agent(environ) as agent:
        await sipp.run(
            tmp_path,
            inviting(silence, *(f"{name}: {value}" for name, value in said.items())),
            '<recv response="100" optional="true"/><recv response="180" optional="true"/>',
            '<recv response="200" rrs="true"/>',
            sipp.ack(1),
            silence.stream,
            sipp.pause(500),
            sipp.bye(2),
            port=agent.sip_port,
        )
        assert await agent.stop() == 0
    (left,) = read(tmp_path / "calls")
    assert left.record["headers"].items() >= said.items()


# --- libre ---------------------------------------------------------------------------------------------------------


@pytest.mark.peer("baresip")
async def test_we_hold_libre_and_resume() -> None:
    (burst,) = make_bursts(1, 8_000, seed=11, first_s=0.0)
    directions: list[str] = []

    async def hold(call: Call, leg: Leg) -> None:
        for held in (True, False):
            answer = await call.propose(await leg.offer(hold=held))
            await leg.accepted(answer)
            directions.append(parse(answer).media[0].direction)

    async with asyncio.timeout(60), echoing(hold) as (opened, over), telephone("pcmu") as caller:
        line = await caller.dial(f"sip:agent@127.0.0.1:{opened.port}")
        await line.wait_established(timeout=10)
        await talk(line, np.zeros(0, np.float32), 8_000, 1.5)
        assert await hears_itself(line, burst, 8_000)
        await line.hangup()
        assert (await over).by == "caller"
    assert directions[0] in ("recvonly", "inactive") and directions[1] == "sendrecv"


@pytest.mark.peer("baresip")
@pytest.mark.parametrize("there", [True, False])
async def test_libre_is_transferred(there: bool) -> None:
    """To another endpoint of ours, which takes the call, or declines it."""
    said: list[str] = []
    accepting: list[asyncio.Future[Any]] = []
    listening = asyncio.Event()
    async with (
        asyncio.timeout(60),
        desk(leave if there else refuse) as bob,
    ):

        async def transfer(call: Call, leg: Leg) -> None:
            await listening.wait()
            try:
                await call.transfer(f"sip:bob@127.0.0.1:{bob.port}")
            except SignalingError as error:
                said.append(str(error))
            else:
                said.append("transferred")

        async with echoing(transfer) as (opened, over), telephone("pcmu") as caller:
            line = await caller.dial(f"sip:agent@127.0.0.1:{opened.port}")
            await line.wait_established(timeout=10)
            line.on_transfer_request(lambda request: accepting.append(asyncio.ensure_future(line.accept_transfer())))
            listening.set()
            other = await bob.next_call()
            if there:
                assert other.offer.callee == "bob"
                await other.ring()
                await other.accept(DESCRIBED)
                ended = await over
                assert (ended.by, said) in [("caller", ["transferred"]), ("agent", ["transferred"])]
                await other.hang_up()
            else:
                while not said:
                    await asyncio.sleep(0.02)
                assert said[0].startswith("488")
                await line.hangup()
                assert (await over).by == "caller"


@pytest.mark.peer("baresip")
async def test_two_libres_are_put_together() -> None:
    """Attended: the first takes our place in the call with the second, which it names by Replaces."""
    calls: list[Call] = []
    ready = asyncio.Event()
    said: list[str] = []

    async def serve(call: Call) -> None:
        calls.append(call)
        await call.ring()
        await call.accept(DESCRIBED)
        if len(calls) == 1:
            await ready.wait()
            try:
                await call.transfer(calls[1])
            except SignalingError as error:
                said.append(str(error))
            else:
                said.append("transferred")
        await call.wait_ended()

    accepting: list[asyncio.Future[Any]] = []
    async with (
        asyncio.timeout(30),
        desk(serve) as opened,
        telephones(Phone(user="first"), Phone(user="second")) as phones,
    ):
        phones[1].on_incoming(lambda line: accepting.append(asyncio.ensure_future(line.answer())))
        for phone in phones:
            line = await phone.dial(f"sip:agent@127.0.0.1:{opened.port}")
            await line.wait_established(timeout=10)
            line.on_transfer_request(
                lambda request, line=line: accepting.append(asyncio.ensure_future(line.accept_transfer()))
            )
        ready.set()
        while not said:
            await asyncio.sleep(0.02)
        assert said == ["transferred"]
