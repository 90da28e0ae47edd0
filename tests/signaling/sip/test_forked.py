"""forked.py and dialer.py: phones that have registered with us ring, all at once, and the first has the call."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from ipaddress import ip_network

import pytest

from signaling.call import Call, CallEnded, CallOffer, NotAllowed, Outcome, OutgoingCall, Rejection, SignalingError
from signaling.sip.dialer import SipDialer
from signaling.sip.message import Request
from signaling.sip.outbound import Limits, Outbound
from signaling.sip.outgoing import OutgoingSipCall
from tests.signaling.sip.answering import ANSWER, Desk, desk
from tests.signaling.sip.peer import OFFER, Peer, tcp_peer, udp_peer
from tests.signaling.sip.test_phones import authorize

NOBODY = (ip_network("192.0.2.0/24"),)
LOOPBACK = (ip_network("127.0.0.0/8"),)
USERS = {"alice": "wonderland", "bob": "sponge"}


class Office:
    """A desk with users, and whoever calls them."""

    def __init__(self, agent: Desk, policy: Outbound) -> None:
        self.agent, self.policy = agent, policy
        self.dialer = SipDialer(agent.sip, policy, ring_s=30)

    async def register(self, phone: Peer, name: str = "one", expires: int = 120) -> Peer:
        """A phone comes up, as alice; its Contact is a place where nobody is, as behind a NAT."""
        contact = f"<sip:{name}@192.0.2.9:5060>;expires={expires}"
        said = {"To": "<sip:alice@voipagent>", "Contact": contact}
        phone.call_id, phone.to_tag = f"{name}-registers", ""
        phone.ask("REGISTER", **said)
        credentials = authorize(phone, await phone.response(401), "REGISTER")
        phone.ask("REGISTER", credentials, **said)
        await phone.response(200)
        return phone

    async def ring(self, *phones: Peer) -> tuple[OutgoingCall, list[Request]]:
        """Call alice; gives what each phone is asked."""
        call = await self.dialer.dial("alice")
        await call.invite(OFFER)
        return call, [await phone.request("INVITE") for phone in phones]

    def calls(self) -> int:
        """How many are not over."""
        return len(self.agent.sip.outgoing)


@contextlib.asynccontextmanager
async def office(limits: Limits | None = None) -> AsyncIterator[Office]:
    async with asyncio.timeout(30), desk(allow=NOBODY, challenge=LOOPBACK, users=USERS) as agent:
        yield Office(agent, Outbound((), limits, phones=USERS))


def say(phone: Peer, request: Request, code: int, body: str = "") -> None:
    """Answer, with a tag and a Contact where one belongs."""
    to = request.headers.get("To")
    copied = [f"{name}: {request.headers.get(name)}" for name in ("Via", "From", "Call-ID", "CSeq")]
    copied.append(f"To: {to}" if "tag=" in to else f"To: {to};tag={phone.from_tag}")
    described = ["Contact: <sip:one@192.0.2.9:5060>", *(["Content-Type: application/sdp"] if body else [])]
    length = f"Content-Length: {len(body.encode())}"
    phone.send("\r\n".join([f"SIP/2.0 {code} Fine", *copied, *described, length, "", body]).encode())


def listen(call: OutgoingCall) -> list[str]:
    media: list[str] = []

    async def answered(text: str) -> None:
        media.append(text)

    call.answered = answered
    return media


async def soon(what: Call) -> CallEnded:
    async with asyncio.timeout(5):
        return await what.wait_ended()


async def answered(call: OutgoingCall) -> None:
    async with asyncio.timeout(5):
        await call.wait_answered()


@pytest.mark.parametrize("protocol", ["UDP", "TCP"])
async def test_one_phone_is_called_by_the_way_that_it_came(protocol: str) -> None:
    """Be its Contact in a network that we trust."""
    peer = tcp_peer if protocol == "TCP" else udp_peer
    async with office() as house, peer(house.agent.port) as phone:
        await house.register(phone)
        call, (invite,) = await house.ring(phone)
        assert isinstance(call, OutgoingSipCall)
        assert (invite.uri, call.offer.callee, call.offer.source) == (
            "sip:one@192.0.2.9:5060",
            "alice",
            phone.local[:2],
        )
        media = listen(call)
        say(phone, invite, 200, ANSWER)
        await answered(call)
        assert media == [ANSWER]
        await phone.request("ACK")
        await call.hang_up("done")
        say(phone, await phone.request("BYE"), 200)
        assert (await soon(call)).reason == "done"


async def test_all_ring_and_the_first_has_the_call() -> None:
    async with office() as house, udp_peer(house.agent.port, "127.0.0.2") as one, tcp_peer(house.agent.port) as two:
        await house.register(one, "one")
        await house.register(two, "two")
        call, (first, second) = await house.ring(one, two)
        assert first.call_id != second.call_id
        assert {call.offer.source[0], *call.offer.also} == {"127.0.0.1", "127.0.0.2"}
        media = listen(call)
        say(one, first, 183, "v=0 one's own tone")
        say(two, second, 180)
        async with asyncio.timeout(5):
            await call.wait_ringing()
        say(two, second, 200, ANSWER)
        await answered(call)
        assert media == [ANSWER], "what was said before the answer is heard by nobody"
        await two.request("ACK")
        cancel = await one.request("CANCEL")
        assert cancel.headers.get("Reason") == 'SIP;cause=200;text="Call completed elsewhere"'
        say(one, cancel, 200)
        say(one, first, 487)
        await one.request("ACK")
        two.ask("BYE", **in_dialog(second, two))
        await two.response(200)
        assert await soon(call) == CallEnded("callee", "hung up")
        async with asyncio.timeout(5):
            while house.calls():
                await asyncio.sleep(0.01)


def in_dialog(invite: Request, phone: Peer) -> dict[str, str]:
    """What makes a request of a phone that was called one of that call."""
    theirs = f"{invite.headers.get('To')};tag={phone.from_tag}"
    return {"From": theirs, "To": invite.headers.get("From"), "Call_ID": invite.call_id}


async def test_two_that_answer_at_once() -> None:
    """The second gets its ACK and a BYE: it is nobody's call."""
    async with office() as house, udp_peer(house.agent.port) as one, udp_peer(house.agent.port) as two:
        await house.register(one, "one")
        await house.register(two, "two")
        call, (first, second) = await house.ring(one, two)
        listen(call)
        say(one, first, 180)
        say(two, second, 180)
        async with asyncio.timeout(5):
            await call.wait_ringing()
        say(one, first, 200, ANSWER)
        say(two, second, 200, ANSWER)
        await answered(call)
        await one.request("ACK")
        heard: list[str] = []
        while "BYE" not in heard:
            message = await two.hear()
            assert isinstance(message, Request)
            heard.append(message.method)
        assert [method for method in heard if method != "CANCEL"] == ["ACK", "BYE"], "a CANCEL may have crossed its 200"
        await call.hang_up()
        say(one, await one.request("BYE"), 200)
        assert (await soon(call)).by == "agent"


@pytest.mark.parametrize(
    ("codes", "outcome"),
    [((486, 480), Outcome.BUSY), ((480, 603), Outcome.DECLINED), ((404, 480), Outcome.NO_ANSWER)],
)
async def test_nobody_takes_it(codes: tuple[int, int], outcome: Outcome) -> None:
    async with office() as house, udp_peer(house.agent.port) as one, udp_peer(house.agent.port) as two:
        await house.register(one, "one")
        await house.register(two, "two")
        call, invites = await house.ring(one, two)
        say(one, invites[0], codes[0])
        await one.request("ACK")
        say(two, invites[1], codes[1])
        assert (await soon(call)).outcome is outcome


async def test_hung_up_while_they_ring() -> None:
    async with office() as house, udp_peer(house.agent.port) as one, udp_peer(house.agent.port) as two:
        await house.register(one, "one")
        await house.register(two, "two")
        call, invites = await house.ring(one, two)
        for phone, invite in zip((one, two), invites, strict=True):
            say(phone, invite, 180)
        async with asyncio.timeout(5):
            await call.wait_ringing()
        await call.hang_up("not wanted")
        for phone, invite in zip((one, two), invites, strict=True):
            async with asyncio.timeout(5):
                cancel = await phone.hear()
            assert isinstance(cancel, Request) and cancel.method == "CANCEL" and not cancel.headers.get("Reason")
            say(phone, cancel, 200)
            say(phone, invite, 487)
        assert (await soon(call)).outcome is Outcome.CANCELLED
        with pytest.raises(SignalingError, match="not answered yet"):
            await call.transfer("sip:x@y")


async def test_hung_up_before_it_began() -> None:
    async with office(Limits(calls_a_day=1)) as house, udp_peer(house.agent.port) as one:
        await house.register(one, "one")
        await house.register(one, "two")
        call = await house.dialer.dial("alice")
        await call.hang_up()
        await call.invite(OFFER)
        assert (await soon(call)).outcome is Outcome.CANCELLED
        await one.silence()


async def test_what_can_be_done_with_the_one_that_has_it() -> None:
    async with office() as house, udp_peer(house.agent.port) as one, udp_peer(house.agent.port) as two:
        await house.register(one, "one")
        await house.register(two, "two")
        call, (first, second) = await house.ring(one, two)
        listen(call)
        say(one, first, 200, ANSWER)
        await answered(call)
        await one.request("ACK")
        pressed = asyncio.ensure_future(anext(aiter(call.digits())))
        one.ask(
            "INFO",
            "Content-Type: application/dtmf-relay",
            body="Signal=5\r\n",
            Content_Type="-",
            **in_dialog(first, one),
        )
        await one.response(200)
        async with asyncio.timeout(5):
            assert await pressed == "5"

        async def renegotiate(offer: str | None) -> str | Rejection:
            return f"answer to {offer}"

        call.renegotiate = renegotiate
        held = asyncio.create_task(call.propose("hold"))
        change = await one.request("INVITE")
        assert change.body == b"hold"
        say(one, change, 200, "held")
        assert await held == "held"
        await one.request("ACK")


async def test_who_has_no_phone_there_and_who_is_no_user() -> None:
    async with office() as house:
        with pytest.raises(SignalingError, match="alice has no phone that is registered now"):
            await house.dialer.dial("Alice")
        with pytest.raises(NotAllowed, match="'carl' is neither a number"):
            await house.dialer.dial("carl")
        with pytest.raises(NotAllowed):
            await house.dialer.dial("alice", "house")
        assert house.policy.allows("alice", 0.0) is None
        offer = CallOffer("1", "sip", "x", "y", ("192.0.2.1", 5060))
        assert house.dialer.why_not_refer(offer, "alice") == "alice is a phone of our own"
        assert "no pattern allows calls to +49301" in house.dialer.why_not_refer(offer, "+49301")


async def test_a_phone_whose_connection_is_gone_is_not_rung() -> None:
    async with office() as house:
        async with tcp_peer(house.agent.port) as phone:
            await house.register(phone)
            assert len(house.agent.sip.phones("alice")) == 1
        async with asyncio.timeout(5):
            while house.agent.sip.phones("alice"):
                await asyncio.sleep(0.01)
        with pytest.raises(SignalingError, match="no phone that is registered"):
            await house.dialer.dial("alice")


async def test_caps_hold_for_phones_too() -> None:
    async with office(Limits(calls_a_day=1)) as house, udp_peer(house.agent.port) as one:
        await house.register(one)
        call, (invite,) = await house.ring(one)
        with pytest.raises(NotAllowed, match="1 calls were made today"):
            await house.dialer.dial("alice")
        say(one, invite, 486)
        assert (await soon(call)).outcome is Outcome.BUSY


async def test_a_phone_that_only_rings_has_nothing_of_the_call_yet() -> None:
    """What it offers before it is answered (RFC 3311) is nobody's, and the others ring on."""
    async with office() as house, udp_peer(house.agent.port, "127.0.0.2") as one, udp_peer(house.agent.port) as two:
        await house.register(one, "one")
        await house.register(two, "two")
        call, (first, second) = await house.ring(one, two)

        async def renegotiate(offer: str | None) -> str | Rejection:
            return f"answer to {offer}"

        call.renegotiate = renegotiate
        media = listen(call)
        say(two, second, 180)
        copied = [f"{name}: {first.headers.get(name)}" for name in ("Via", "From", "Call-ID", "CSeq")]
        copied += [f"To: {first.headers.get('To')};tag={one.from_tag}", "Contact: <sip:one@192.0.2.9:5060>"]
        copied += ["Require: 100rel", "RSeq: 1", "Content-Type: application/sdp", f"Content-Length: {len(ANSWER)}"]
        one.send("\r\n".join(["SIP/2.0 183 Progress", *copied, "", ANSWER]).encode())
        say(one, await one.request("PRACK"), 200)
        one.ask("UPDATE", body="v=0 another offer", **in_dialog(first, one))
        assert (await one.response(488)).cseq[1] == "UPDATE"
        say(two, second, 200, ANSWER)
        await answered(call)
        assert media == [ANSWER]
        await two.request("ACK")
        await one.request("CANCEL")
        await call.hang_up("done")
        say(two, await two.request("BYE"), 200)
        await soon(call)


@pytest.mark.parametrize("name", ["?x", "a?b"])
async def test_a_phone_whose_name_has_a_question_mark_in_it(name: str) -> None:
    """It may (RFC 3261, section 25.1), and is no beginning of header fields."""
    async with office() as house, udp_peer(house.agent.port) as phone:
        await house.register(phone, name)
        call, (invite,) = await house.ring(phone)
        assert invite.uri == f"sip:{name}@192.0.2.9:5060"
        await call.hang_up("enough")


async def test_a_call_that_cannot_be_placed_takes_nobody_down(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with office() as house, udp_peer(house.agent.port) as phone:
        await house.register(phone)
        with monkeypatch.context() as broken:
            broken.setattr("signaling.sip.outgoing.Way.invitation", lambda way, flow: 1 / 0)
            call = await house.dialer.dial("alice")
            await call.invite(OFFER)
            assert (await soon(call)).outcome is Outcome.FAILED
        assert "cannot be placed" in caplog.text
        again, _ = await house.ring(phone)
        await again.hang_up("enough")


async def test_a_call_whose_placing_fails_later_does_not_ring_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    async with office() as house, udp_peer(house.agent.port) as phone:
        await house.register(phone)
        call, (invite,) = await house.ring(phone)
        monkeypatch.setattr(house.agent.sip.resolver, "worked", broken)
        say(phone, invite, 180)
        await phone.request("CANCEL")
        say(phone, invite, 487)
        assert (await soon(call)).outcome is Outcome.FAILED
        assert "cannot be placed" in caplog.text
