"""Calls that we make to SIPp and to libre: passwords, early media, forks, busy, no answer, and a whole conversation."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from signaling.call import CallEnded, Outcome, OutgoingCall
from signaling.sip.dialer import SipDialer
from signaling.sip.endpoint import SipEndpoint
from signaling.sip.outbound import Outbound
from signaling.sip.outgoing import OutgoingSipCall
from signaling.sip.trunk import Trunk
from tests.peers.folders import read
from tests.peers.libre import hears_itself, ringing, talk
from tests.peers.uas import REMEMBER, Called, called, expect, say
from tests.signaling.sip.peer import OFFER
from voipagent.lab.bursts import make_bursts

sipp_peer = pytest.mark.peer("sipp")
libre_peer = pytest.mark.peer("baresip")

CHALLENGE = 'Digest realm="sipp", nonce="47ebe028cda119c35d4877b383027d28da013815", algorithm=MD5, qop="auth"'
VERIFY = (
    '<recv request="INVITE"><action>'
    '<verifyauth assign_to="ours" username="ada" password="{password}"/>'
    '</action></recv><nop test="ours" next="1"/>'
)
"""SIPp checks our answer itself, and goes on at label 1 if it is right."""


@contextlib.asynccontextmanager
async def dialing(there: Called, **settings: Any) -> AsyncIterator[OutgoingCall]:
    """A call of ours, that is about to begin; what `answered` is told is in `media`."""
    trunk = Trunk("sipp", "127.0.0.1", there.port, user="ada", password="secret", outbound=("*",))
    async with asyncio.timeout(40), SipEndpoint("127.0.0.1", 0, allow=()) as sip:
        call = await SipDialer(sip, Outbound((trunk,)), **settings).dial("1000")
        yield call


def listen(call: OutgoingCall) -> list[str]:
    """The audio ports of the descriptions that come, in order."""
    ports: list[str] = []

    async def answered(media: str) -> None:
        ports.append(media.partition("m=audio ")[2].partition(" ")[0])

    call.answered = answered
    return ports


@sipp_peer
async def test_a_proxy_asks_for_a_password(tmp_path: Path) -> None:
    """SIPp checks no Proxy-Authorization; that it is there, and for this user, it sees."""
    looks = (
        '<recv request="INVITE"><action><ereg regexp="username=.ada.,.*uri=.sip:1000@" search_in="hdr" '
        'header="Proxy-Authorization:" check_it="true" assign_to="1"/></action></recv><Reference variables="1"/>'
    )
    asks = (expect("INVITE"), say(407, fields=f"Proxy-Authenticate: {CHALLENGE}"), expect("ACK"))
    async with called(tmp_path, *asks, looks, say(486), expect("ACK")) as there, dialing(there) as call:
        await call.invite(OFFER)
        assert (await call.wait_ended()).outcome is Outcome.BUSY
        await there.over()


@sipp_peer
async def test_a_password_and_early_media(tmp_path: Path) -> None:
    steps = (
        *(expect("INVITE"), say(401, fields=f"WWW-Authenticate: {CHALLENGE}"), expect("ACK")),
        *(VERIFY.format(password="secret"), say(403, tag="no"), expect("ACK"), '<label id="1"/>'),
        *(say(100, tag=""), say(183, media=40000), say(180), say(200, media=40002), expect("ACK")),
        *(expect("BYE"), say(200, tag="")),
    )
    async with called(tmp_path, *steps) as there, dialing(there) as call:
        ports = listen(call)
        await call.invite(OFFER)
        await call.wait_ringing()
        await call.wait_answered()
        assert ports == ["40000", "40002"]
        await call.hang_up("done")
        assert await call.wait_ended() == CallEnded("agent", "done")
        await there.over()


@sipp_peer
async def test_a_wrong_password(tmp_path: Path) -> None:
    steps = (
        *(expect("INVITE"), say(401, fields=f"WWW-Authenticate: {CHALLENGE}"), expect("ACK")),
        *(VERIFY.format(password="another"), say(401, fields=f"WWW-Authenticate: {CHALLENGE}"), expect("ACK")),
        *('<nop next="2"/>', '<label id="1"/>', say(200, media=40000), '<label id="2"/>'),
    )
    async with called(tmp_path, *steps) as there, dialing(there) as call:
        await call.invite(OFFER)
        ended = await call.wait_ended()
        assert (ended.outcome, ended.by) == (Outcome.FORBIDDEN, "network")
        assert "user name or password refused by 'sipp'" in ended.reason
        await there.over()


@sipp_peer
async def test_two_forks_that_both_answer(tmp_path: Path) -> None:
    steps = (
        *(REMEMBER, say(180, tag="a"), say(180, tag="b"), say(200, tag="b", media=40002), expect("ACK")),
        *(say(200, tag="a", media=40000, late=True), expect("ACK"), expect("BYE"), say(200, tag="")),
        *(expect("BYE"), say(200, tag="")),
    )
    async with called(tmp_path, *steps) as there, dialing(there) as call:
        ports = listen(call)
        await call.invite(OFFER)
        await call.wait_answered()
        assert isinstance(call, OutgoingSipCall) and call._placed is not None
        while len(call._placed.acks) < 2:  # until the other fork has answered, too
            await asyncio.sleep(0.01)
        assert ports == ["40002"]
        await call.hang_up()
        await there.over()


@sipp_peer
@pytest.mark.parametrize(("code", "outcome"), [(486, Outcome.BUSY), (603, Outcome.DECLINED), (404, Outcome.NOT_FOUND)])
async def test_nobody_takes_it(code: int, outcome: Outcome, tmp_path: Path) -> None:
    async with called(tmp_path, expect("INVITE"), say(180), say(code), expect("ACK")) as there, dialing(there) as call:
        await call.invite(OFFER)
        ended = await call.wait_ended()
        assert (ended.outcome, str(code) in ended.reason) == (outcome, True)
        await there.over()


@sipp_peer
async def test_it_rings_and_rings(tmp_path: Path) -> None:
    steps = (
        *(expect("INVITE"), say(180), expect("CANCEL"), say(200, tag="sipp")),
        *(say(487, cseq="CSeq: 1 INVITE"), expect("ACK")),
    )
    async with called(tmp_path, *steps) as there, dialing(there, ring_s=1.0) as call:
        await call.invite(OFFER)
        assert await call.wait_ended() == CallEnded("agent", "nobody took the call within 1 s", Outcome.NO_ANSWER)
        await there.over()


# --- libre ---------------------------------------------------------------------------------------------------------


@libre_peer
async def test_a_conversation_with_a_telephone(tmp_path: Path) -> None:
    """`voipagent dial` rings it; it takes our digits, hears its own voice back, and hangs up."""
    (burst,) = make_bursts(1, 8_000, seed=11, first_s=0.0)
    environ = {
        **os.environ,
        **{"VOIPAGENT_ENGINE__MODEL": "echo", "VOIPAGENT_CALLS__DIR": str(tmp_path / "calls")},
        **{"VOIPAGENT_SIP__HOST": "127.0.0.1", "VOIPAGENT_SIP__PORT": "0", "VOIPAGENT_OUTBOUND__DIRECT": "libre@*"},
    }
    async with asyncio.timeout(90), ringing() as (uri, calls):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "voipagent", "dial", uri, "--digits", "15#"),
            env=environ,
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            line, pressed = await calls.get(), list[str]()
            line.on_dtmf(lambda event: pressed.append(event.digit))
            await line.answer()
            await line.wait_established(timeout=10)
            await talk(line, burst.noise[:0], 8_000, 1.0)
            assert await hears_itself(line, burst, 8_000)
            assert pressed == ["1", "5", "#"]
            await line.hangup()
            printed, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    assert (process.returncode, printed) == (0, b"over: hung up\n")
    (left,) = read(tmp_path / "calls")
    assert (left.record["direction"], left.record["ended_by"], left.record["callee"]) == ("out", "callee", "libre")
    assert left.record["media"]["codec"] == "PCMU"
    assert left.record["media"]["packets_received"] > 50
