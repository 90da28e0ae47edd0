"""outgoing.py: calls of ours over real sockets, to a desk of ours and to a far end that does what a test says."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from signaling.call import Call, CallEnded, NotAllowed, Outcome, OutgoingCall, Rejection, SignalingError
from signaling.sip.dialer import SipDialer
from signaling.sip.endpoint import SipEndpoint
from signaling.sip.message import Request
from signaling.sip.outbound import Limits, Outbound
from signaling.sip.outgoing import OutgoingSipCall, Way
from signaling.sip.placed import Invitation
from signaling.sip.resolve import Found, Kind, Srv, Target
from signaling.sip.transaction import Flow
from signaling.sip.trunk import Trunk
from signaling.sip.wire import parse
from tests.signaling.sip.answering import ANSWER, desk
from tests.signaling.sip.peer import OFFER

ANY = Limits(direct=("*",))


class Names:
    """Two names, one for each transport, that lead to the ports that it is given, in order."""

    def __init__(self, *ports: int) -> None:
        self._ports = ports

    async def look_up(self, name: str, kind: Kind) -> Found:
        if kind == "SRV" and name in ("_sip._udp.pbx.test", "_sip._tcp.stream.test"):
            return Found(tuple(Srv(at, 1, port, "host.test") for at, port in enumerate(self._ports)), 60)
        if kind == "A" and name == "host.test":
            return Found(("127.0.0.1",), 60)
        return Found((), 60)


class Phone(asyncio.DatagramProtocol):
    """A far end: what it hears is in `asked`; it says only what a test lets it."""

    def __init__(self) -> None:
        self.asked: asyncio.Queue[Request] = asyncio.Queue()
        self.port, self.source = 0, ("", 0)
        self.transport: asyncio.DatagramTransport | None = None

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        message, self.source = parse(data), addr
        if isinstance(message, Request):
            self.asked.put_nowait(message)

    async def hear(self, *methods: str) -> Request:
        """The next request, which has one of these methods."""
        async with asyncio.timeout(5):
            request = await self.asked.get()
        assert request.method in methods, request
        return request

    def say(self, request: Request, code: int, *extra: str, body: str = "", tag: str = "phone") -> None:
        lines = [f"SIP/2.0 {code} Fine"]
        for name in ("Via", "From", "To", "Call-ID", "CSeq"):
            value = request.headers.get(name)
            lines.append(f"{name}: {value}" + (f";tag={tag}" if name == "To" and "tag=" not in value else ""))
        lines += [f"Contact: <sip:phone@127.0.0.1:{self.port}>", *["Content-Type: application/sdp"] * bool(body)]
        text = "\r\n".join([*lines, *extra, f"Content-Length: {len(body)}", "", body])
        assert self.transport is not None
        self.transport.sendto(text.encode(), self.source)


@contextlib.asynccontextmanager
async def phone() -> AsyncIterator[Phone]:
    loop = asyncio.get_running_loop()
    transport, opened = await loop.create_datagram_endpoint(Phone, local_addr=("127.0.0.1", 0))
    opened.transport, opened.port = transport, transport.get_extra_info("sockname")[1]
    try:
        yield opened
    finally:
        transport.close()
        await asyncio.sleep(0)


class Told:
    """What a call's user is told of the far end's descriptions."""

    def __init__(self, call: OutgoingCall, fail: str = "") -> None:
        self.media: list[str] = []
        self._fail = fail
        call.answered = self.hear

    async def hear(self, media: str) -> None:
        self.media.append(media)
        if media == self._fail:
            raise ValueError(f"{media} cannot be used")


@contextlib.asynccontextmanager
async def dialer(**settings: Any) -> AsyncIterator[tuple[SipDialer, Outbound, SipEndpoint]]:
    names = settings.pop("names", None)
    policy = Outbound(settings.pop("trunks", ()), settings.pop("limits", ANY))
    async with SipEndpoint("127.0.0.1", 0, allow=settings.pop("allow", ()), names=names) as sip:
        yield SipDialer(sip, policy, **settings), policy, sip


async def ended(call: Call) -> CallEnded:
    async with asyncio.timeout(5):
        return await call.wait_ended()


async def answered(call: OutgoingCall) -> None:
    async with asyncio.timeout(5):
        await call.wait_answered()


async def until_empty(sip: SipEndpoint) -> None:
    """Nothing of a call is kept, but in the user agent for as long as the protocol wants."""
    async with asyncio.timeout(5):
        while sip.outgoing or sip.placed or sip._calls:
            await asyncio.sleep(0.01)


# --- calls ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transport", ["", ";transport=tcp"])
@pytest.mark.parametrize("they", [True, False])
async def test_we_call_another_agent_of_ours(transport: str, they: bool) -> None:
    """Whoever hangs up. It is on no list of ours: who is called may answer."""
    async with desk() as there, dialer() as (dial, _, sip):
        call = await dial.dial(f"sip:agent@127.0.0.1:{there.port}{transport}")
        assert (call.offer.callee, call.offer.caller, call.offer.source) == (
            *("agent", "voipagent"),
            ("127.0.0.1", there.port),
        )
        told = Told(call)
        await call.invite(OFFER)
        await answered(call)
        theirs = await there.next_call()
        assert (theirs.offer.caller, theirs.offer.callee, theirs.offer.media) == ("voipagent", "agent", OFFER)
        assert told.media == [ANSWER]
        await (theirs if they else call).hang_up("goodbye")
        assert await ended(call) == CallEnded("callee" if they else "agent", "goodbye")
        assert (await ended(theirs)).by == ("agent" if they else "caller")
        await until_empty(sip)


async def test_a_change_by_either_side() -> None:
    async with desk() as there, dialer() as (dial, _, _):
        call = await dial.dial(f"sip:agent@127.0.0.1:{there.port}")

        async def renegotiate(offer: str | None) -> str | Rejection:
            return f"answer to {offer}"

        call.renegotiate = renegotiate
        await call.invite(OFFER)
        await answered(call)
        theirs = await there.next_call()
        theirs.renegotiate = renegotiate
        async with asyncio.timeout(5):
            assert await theirs.propose("their change") == "answer to their change"
            assert await call.propose("our change") == "answer to our change"


@pytest.mark.parametrize(
    ("code", "outcome"),
    [(486, Outcome.BUSY), (603, Outcome.DECLINED), (404, Outcome.NOT_FOUND), (480, Outcome.NO_ANSWER)],
)
async def test_what_a_far_end_refuses_with(code: int, outcome: Outcome) -> None:
    async with phone() as far, dialer() as (dial, _, sip):
        call = await dial.dial(f"sip:bob@127.0.0.1:{far.port}")
        await call.invite(OFFER)
        far.say(await far.hear("INVITE"), code)
        await far.hear("ACK")
        over = await ended(call)
        assert (over.outcome, str(code) in over.reason) == (outcome, True)
        await until_empty(sip)


async def test_early_media_and_then_the_answer_in_order() -> None:
    async with phone() as far, dialer() as (dial, _, _):
        call = await dial.dial(f"sip:bob@127.0.0.1:{far.port}")
        told = Told(call, fail="useless")
        await call.invite(OFFER)
        invite = await far.hear("INVITE")
        for media in ("early", "early", "useless"):
            far.say(invite, 183, body=media)
        far.say(invite, 200, body="answer")
        async with asyncio.timeout(5):
            await call.wait_ringing()
        await answered(call)
        assert told.media == ["early", "useless", "answer"]
        await far.hear("ACK")


async def test_an_answer_like_the_early_media_is_told_again() -> None:
    """Whoever has waited for sound meanwhile has to begin to count anew."""
    async with phone() as far, dialer() as (dial, _, _):
        call = await dial.dial(f"sip:bob@127.0.0.1:{far.port}")
        told = Told(call)
        await call.invite(OFFER)
        invite = await far.hear("INVITE")
        far.say(invite, 180)
        async with asyncio.timeout(5):
            await call.wait_ringing()
        early = asyncio.create_task(call.wait_early())
        await asyncio.sleep(0)
        assert not early.done(), "it rings, without sound"
        far.say(invite, 183, body="same")
        async with asyncio.timeout(5):
            await early
        assert told.media == ["same"]
        far.say(invite, 200, body="same")
        await answered(call)
        assert told.media == ["same", "same"]


async def test_an_answer_that_cannot_be_used_ends_the_call() -> None:
    async with phone() as far, dialer() as (dial, _, _):
        call = await dial.dial(f"sip:bob@127.0.0.1:{far.port}")
        Told(call, fail="answer")
        await call.invite(OFFER)
        far.say(await far.hear("INVITE"), 200, body="answer")
        await far.hear("ACK")
        far.say(await far.hear("BYE"), 200)
        assert await ended(call) == CallEnded("agent", "answer cannot be used")


@pytest.mark.parametrize("fails", [True, False])
async def test_the_far_end_makes_the_offer(fails: bool) -> None:
    async with phone() as far, dialer() as (dial, _, _):
        call = await dial.dial(f"sip:bob@127.0.0.1:{far.port}")

        async def renegotiate(offer: str | None) -> str | Rejection:
            return Rejection.NOT_ACCEPTABLE if fails else f"answer to {offer}"

        call.renegotiate = renegotiate
        await call.invite(None)
        far.say(await far.hear("INVITE"), 200, body="their offer")
        ack = await far.hear("ACK")
        if fails:
            assert ack.body == b""
            await far.hear("BYE")
            assert (await ended(call)).reason == "not acceptable"
        else:
            await answered(call)
            assert ack.media == "answer to their offer"


# --- given up ------------------------------------------------------------------------------------------------------


async def test_hung_up_while_it_rings() -> None:
    async with phone() as far, dialer() as (dial, _, sip):
        call = await dial.dial(f"sip:bob@127.0.0.1:{far.port}")
        await call.invite(OFFER)
        invite = await far.hear("INVITE")
        far.say(invite, 180)
        async with asyncio.timeout(5):
            await call.wait_ringing()
        await call.hang_up("not wanted")
        assert await ended(call) == CallEnded("agent", "not wanted", Outcome.CANCELLED)
        far.say(await far.hear("CANCEL"), 200)
        far.say(invite, 487)
        await far.hear("ACK")
        await until_empty(sip)


async def test_hung_up_before_anybody_said_anything() -> None:
    async with phone() as far, dialer() as (dial, _, sip):
        call = await dial.dial(f"sip:bob@127.0.0.1:{far.port}")
        await call.invite(OFFER)
        invite = await far.hear("INVITE")
        await call.hang_up()
        assert (await ended(call)).outcome is Outcome.CANCELLED
        assert far.asked.empty()
        far.say(invite, 100)
        await far.hear("CANCEL")
        far.say(invite, 200, body="answer")
        await far.hear("ACK")
        await far.hear("BYE")
        await until_empty(sip)


async def test_hung_up_before_it_began() -> None:
    async with phone() as far, dialer() as (dial, policy, sip):
        call = await dial.dial(f"sip:bob@127.0.0.1:{far.port}")
        await call.hang_up()
        await call.invite(OFFER)
        assert (await ended(call)).outcome is Outcome.CANCELLED
        assert far.asked.empty()
        await until_empty(sip)


async def test_it_rings_for_as_long_as_we_say() -> None:
    async with phone() as far, dialer(ring_s=0.2) as (dial, _, _):
        call = await dial.dial(f"sip:bob@127.0.0.1:{far.port}")
        await call.invite(OFFER)
        far.say(await far.hear("INVITE"), 180)
        assert await ended(call) == CallEnded("agent", "nobody took the call within 0.2 s", Outcome.NO_ANSWER)
        await far.hear("CANCEL")


async def test_it_rings_for_as_long_as_its_trunk_has_it() -> None:
    async with phone() as far:
        trunk = Trunk("house", "127.0.0.1", far.port, outbound=("12*",), ring_s=0.2)
        async with dialer(trunks=[trunk], ring_s=50) as (dial, _, _):
            call = await dial.dial("123")
            await call.invite(OFFER)
            far.say(await far.hear("INVITE"), 183, body="early")
            assert (await ended(call)).reason == "nobody took the call within 0.2 s"
            await far.hear("CANCEL")


async def test_no_call_is_longer_than_it_may_be() -> None:
    async with desk() as there, dialer(limits=Limits(direct=("*",), longest_s=0.3)) as (dial, _, _):
        call = await dial.dial(f"sip:agent@127.0.0.1:{there.port}")
        await call.invite(OFFER)
        await answered(call)
        assert await ended(call) == CallEnded("agent", "the call lasted 0.3 s, which is the longest allowed")


async def test_an_endpoint_that_closes_gives_up_what_rings_and_ends_what_goes_on() -> None:
    async with desk() as there, phone() as far:
        async with dialer() as (dial, _, _):
            talking = await dial.dial(f"sip:agent@127.0.0.1:{there.port}")
            await talking.invite(OFFER)
            await answered(talking)
            ringing = await dial.dial(f"sip:bob@127.0.0.1:{far.port}")
            await ringing.invite(OFFER)
            invite = await far.hear("INVITE")
            far.say(invite, 180)
            async with asyncio.timeout(5):
                await ringing.wait_ringing()

            async def end() -> None:
                far.say(await far.hear("CANCEL"), 200)
                far.say(invite, 487)

            ending = asyncio.create_task(end())
        await ending
        assert (await ended(talking)).reason == (await ended(ringing)).reason == "the agent is shutting down"
        assert (await ended(await there.next_call())).by == "caller"


# --- ways there ----------------------------------------------------------------------------------------------------


async def test_the_next_target_where_one_takes_no_calls() -> None:
    """A new call by every attempt: a proxy that both lead through must not take the second for a repetition."""
    async with phone() as full, desk() as there:
        async with dialer(names=Names(full.port, there.port)) as (dial, _, sip):
            call = await dial.dial("sip:agent@pbx.test")
            await call.invite(OFFER)
            first = await full.hear("INVITE")
            full.say(first, 503, "Retry-After: 20")
            await answered(call)
            theirs = await there.next_call()
            assert theirs.offer.headers["Call-ID"] != first.call_id
            targets = await sip.resolver.resolve("sip:agent@pbx.test")
            assert [target.port for target in targets] == [there.port, full.port]


@pytest.mark.parametrize("code", [486, 503])
async def test_no_other_target_once_it_rang_or_was_refused(code: int) -> None:
    async with phone() as first, phone() as second, dialer(names=Names(first.port, second.port)) as (dial, _, _):
        call = await dial.dial("sip:agent@pbx.test")
        await call.invite(OFFER)
        invite = await first.hear("INVITE")
        if code == 503:
            first.say(invite, 180)
        first.say(invite, code)
        assert str(code) in (await ended(call)).reason
        assert second.asked.empty()


async def test_the_next_target_where_one_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first word then is too late; but who is the only one is waited for."""
    monkeypatch.setattr("signaling.sip.outgoing.SILENT_S", 0.2)
    async with phone() as mute, desk() as there, dialer(names=Names(mute.port, there.port)) as (dial, _, sip):
        call = await dial.dial("sip:agent@pbx.test")
        await call.invite(OFFER)
        await answered(call)
        late = await mute.hear("INVITE")
        mute.say(late, 180)
        while (request := await mute.hear("INVITE", "CANCEL")).method != "CANCEL":
            pass  # it was sent again meanwhile
        assert request.call_id == late.call_id
        targets = await sip.resolver.resolve("sip:agent@pbx.test")
        assert [target.port for target in targets] == [there.port, mute.port]
    async with phone() as only, dialer() as (dial, _, _):
        call = await dial.dial(f"sip:bob@127.0.0.1:{only.port}")
        await call.invite(OFFER)
        await only.hear("INVITE")
        only.say(await only.hear("INVITE"), 486)  # sent again after 0.5 s
        assert "486" in (await ended(call)).reason


@pytest.mark.parametrize("code", [100, 407])
async def test_who_says_anything_is_waited_for(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A 100 is followed by silence while the far end looks for the callee; a challenge, by an INVITE with an answer."""
    monkeypatch.setattr("signaling.sip.outgoing.SILENT_S", 0.2)
    trunk = Trunk("pbx", "pbx.test", user="ada", password="secret", outbound=("*",))
    async with phone() as slow, phone() as other:
        async with dialer(trunks=(trunk,), names=Names(slow.port, other.port)) as (dial, _, sip):
            call = await dial.dial("1")
            await call.invite(OFFER)
            invite = await slow.hear("INVITE")
            slow.say(invite, code, 'Proxy-Authenticate: Digest realm="pbx", nonce="1"')
            if code == 407:
                await slow.hear("ACK")
                invite = await slow.hear("INVITE")
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(other.asked.get(), 0.4)
            slow.say(invite, 180)
            await asyncio.wait_for(call.wait_ringing(), 5)
            targets = await sip.resolver.resolve("sip:pbx.test")
            assert [target.port for target in targets] == [slow.port, other.port]


async def test_the_next_target_at_once_where_the_connection_is_lost_before_an_answer() -> None:
    heard: list[bytes] = []

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.readline())
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    broken = server.sockets[0].getsockname()[1]
    async with server, desk() as there, dialer(names=Names(broken, there.port)) as (dial, _, _):
        call = await dial.dial("sip:agent@stream.test;transport=tcp")
        await call.invite(OFFER)
        await answered(call)  # within 5 s: without any answer a target is given up after 32
        assert [line.split()[0] for line in heard] == [b"INVITE"]


async def test_where_nothing_listens_over_tcp() -> None:
    async with phone() as nothing, dialer() as (dial, policy, sip):
        call = await dial.dial(f"sip:bob@127.0.0.1:{nothing.port};transport=tcp")
        await call.invite(OFFER)
        over = await ended(call)
        assert (over.by, over.outcome) == ("network", Outcome.UNREACHABLE)
        assert str(nothing.port) in over.reason
        await until_empty(sip)


async def test_a_name_that_leads_nowhere() -> None:
    async with dialer(names=Names()) as (dial, policy, sip):
        with pytest.raises(SignalingError, match="nowhere.test has no address"):
            await dial.dial("sip:bob@nowhere.test")
        assert not policy._running
        assert not sip.outgoing


async def test_a_trunk_with_a_password() -> None:
    async with phone() as far:
        trunk = Trunk(
            "pbx", "127.0.0.1", far.port, user="ada", password="secret", outbound=("+49*",), caller_id="+4930"
        )
        async with dialer(trunks=(trunk,)) as (dial, policy, sip):
            call = await dial.dial("+49 (30) 1234")
            assert (call.offer.caller, call.offer.callee, call.offer.trunk) == ("+4930", "+49301234", "pbx")
            await call.invite(OFFER)
            first = await far.hear("INVITE")
            assert first.uri == f"sip:+49301234@127.0.0.1:{far.port}"
            assert (first.from_.uri.user, first.from_.uri.host) == ("+4930", "127.0.0.1")
            far.say(first, 401, 'WWW-Authenticate: Digest realm="r", nonce="n"')
            await far.hear("ACK")
            assert 'username="ada"' in (await far.hear("INVITE")).headers.get("Authorization")


async def test_the_proxies_that_a_trunk_wants() -> None:
    async with phone() as far:
        proxied = Trunk("a", "a.test", proxy=f"127.0.0.1:{far.port}", outbound=("1*",))
        registered = Trunk("b", "b.test", proxy=f"127.0.0.1:{far.port}", outbound=("2*",))
        ways = {"a": (), "b": ("<sip:far.test;lr>",)}
        async with dialer(trunks=(proxied, registered), routes=ways.__getitem__) as (dial, _, _):
            for number, route in (("1", f"<sip:127.0.0.1:{far.port};lr>"), ("2", "<sip:far.test;lr>")):
                call = await dial.dial(number)
                await call.invite(OFFER)
                invite = await far.hear("INVITE")
                assert invite.headers.getlist("Route") == (route,)
                far.say(invite, 486)
                await far.hear("ACK")


# --- policy --------------------------------------------------------------------------------------------------------


async def test_nobody_is_called_whom_no_pattern_allows() -> None:
    async with phone() as far, dialer(limits=Limits()) as (dial, _, sip):
        with pytest.raises(NotAllowed, match="no pattern allows calls to bob@127.0.0.1") as denied:
            await dial.dial(f"sip:bob@127.0.0.1:{far.port}")
        assert denied.value.setting == ("outbound", "direct")
        assert far.asked.empty() and not sip.outgoing


async def test_a_line_is_free_again_however_a_call_ends() -> None:
    async with phone() as far:
        trunk = Trunk("pbx", "127.0.0.1", far.port, max_calls=1, outbound=("*",))
        async with dialer(trunks=(trunk,)) as (dial, _, _):
            for code in (486, 404):
                call = await dial.dial("1")
                with pytest.raises(NotAllowed, match="trunk pbx has its 1 calls"):
                    await dial.dial("2")
                await call.invite(OFFER)
                far.say(await far.hear("INVITE"), code)
                await far.hear("ACK")
                await ended(call)
            call = await dial.dial("1")
            await call.hang_up()
            await dial.dial("1")


async def test_whom_we_call_may_answer_and_do_no_more() -> None:
    """Beside that call, it is a stranger."""
    async with phone() as far, dialer() as (dial, _, sip):
        call = await dial.dial(f"sip:bob@127.0.0.1:{far.port}")
        await call.invite(OFFER)
        invite = await far.hear("INVITE")
        text = bytes(invite).replace(b"From: ", b"X: ").replace(b"To: ", b"From: ").replace(b"X: ", b"To: ")
        text = text.replace(b"Call-ID: ", b"Call-ID: other").replace(b"branch=", b"branch=z9hG4bKother")
        assert far.transport is not None
        far.transport.sendto(text, ("127.0.0.1", sip.port))
        far.say(invite, 486)
        await ended(call)
        await far.hear("ACK")
        assert far.asked.empty()


@contextlib.contextmanager
def connecting_late(
    sip: SipEndpoint, target: int, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[asyncio.Event, asyncio.Event]]:
    """A way to that port is sought once the first event is set; there is none until the second is."""
    connect, sought, may = sip.flows.connect, asyncio.Event(), asyncio.Event()

    async def late(to: Target, octets: int = 0) -> Flow:
        if to.port == target:
            sought.set()
            await may.wait()
        return await connect(to, octets)

    with monkeypatch.context() as patch:
        patch.setattr(sip.flows, "connect", late)
        yield sought, may


async def nobody_called(dial: SipDialer, far: Phone) -> None:
    """What that telephone hears next is a call that is made now: none came before."""
    assert far.asked.empty()
    call = await dial.dial(f"sip:carol@127.0.0.1:{far.port}")
    await call.invite(OFFER)
    invite = await far.hear("INVITE")
    assert "carol@" in invite.uri
    far.say(invite, 486)
    await ended(call)


async def test_hung_up_while_the_way_is_sought_nobody_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    async with asyncio.timeout(10), phone() as far, dialer() as (dial, _, sip):
        with connecting_late(sip, far.port, monkeypatch) as (sought, may):
            call = await dial.dial(f"sip:bob@127.0.0.1:{far.port}")
            await call.invite(OFFER)
            await sought.wait()
            await call.hang_up("not wanted")
            assert await ended(call) == CallEnded("agent", "not wanted", Outcome.CANCELLED)
            may.set()
            await until_empty(sip)
        await nobody_called(dial, far)


async def test_hung_up_between_two_targets_the_next_is_not_called(monkeypatch: pytest.MonkeyPatch) -> None:
    async with asyncio.timeout(10), phone() as full, phone() as other:
        async with dialer(names=Names(full.port, other.port)) as (dial, _, sip):
            with connecting_late(sip, other.port, monkeypatch) as (sought, may):
                call = await dial.dial("sip:agent@pbx.test")
                await call.invite(OFFER)
                full.say(await full.hear("INVITE"), 503)
                await full.hear("ACK")
                await sought.wait()
                await call.hang_up("not wanted")
                assert await ended(call) == CallEnded("agent", "not wanted", Outcome.CANCELLED)
                may.set()
                await until_empty(sip)
            await nobody_called(dial, other)


async def test_a_fault_in_placing_one_call_is_not_everybodys(monkeypatch: pytest.MonkeyPatch) -> None:
    def faulty(way: Way, flow: Flow) -> Invitation:
        raise ZeroDivisionError("a bug")

    async with desk() as there, dialer() as (dial, _, sip):
        with monkeypatch.context() as patch:
            patch.setattr(Way, "invitation", faulty)
            broken = await dial.dial(f"sip:agent@127.0.0.1:{there.port}")
            await broken.invite(OFFER)
            assert await ended(broken) == CallEnded("agent", "the call cannot be placed", Outcome.FAILED)
        call = await dial.dial(f"sip:agent@127.0.0.1:{there.port}")
        await call.invite(OFFER)
        await answered(call)


async def test_what_is_too_large_for_a_datagram_goes_by_a_connection() -> None:
    async with desk() as there, dialer() as (dial, _, _):
        for more, connections in (("", 0), ("a=x\r\n" * 100, 1)):
            call = await dial.dial(f"sip:agent@127.0.0.1:{there.port}")
            await call.invite(OFFER + more)
            await answered(call)
            assert len(list(there.sip.flows.connections)) == connections


async def test_it_is_placed_once() -> None:
    async with asyncio.timeout(10), phone() as far, dialer() as (dial, _, _):
        call = await dial.dial(f"sip:bob@127.0.0.1:{far.port}")
        await call.invite(OFFER)
        await call.invite(OFFER)
        far.say(await far.hear("INVITE"), 486)
        await far.hear("ACK")
        await ended(call)
        await nobody_called(dial, far)


async def test_an_answer_waits_for_what_is_still_done_about_early_media() -> None:
    told, may = list[str](), asyncio.Event()

    async def hear(media: str) -> None:
        if media == "early":
            await may.wait()
        told.append(media)

    async with phone() as far, dialer() as (dial, _, _):
        call = await dial.dial(f"sip:bob@127.0.0.1:{far.port}")
        call.answered = hear
        await call.invite(OFFER)
        invite = await far.hear("INVITE")
        far.say(invite, 183, body="early")
        far.say(invite, 200, body="answer")
        await far.hear("ACK")
        assert not told
        may.set()
        await answered(call)
        assert told == ["early", "answer"]


@pytest.mark.parametrize("slow", [True, False])
async def test_who_has_no_answer_to_their_offer_leaves(slow: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("signaling.sip.outgoing.CHANGE_S", 0.05)

    async def renegotiate(offer: str | None) -> str:
        if slow:
            await asyncio.Event().wait()
        raise ZeroDivisionError("a bug")

    async with phone() as far, dialer() as (dial, _, _):
        call = await dial.dial(f"sip:bob@127.0.0.1:{far.port}")
        call.renegotiate = renegotiate
        await call.invite(None)
        far.say(await far.hear("INVITE"), 200, body="their offer")
        assert (await far.hear("ACK")).body == b""
        far.say(await far.hear("BYE"), 200)
        why = "TimeoutError" if slow else "a bug"
        assert await ended(call) == CallEnded("agent", f"no answer to the far end's offer: {why}")


async def test_a_target_that_rings_again_is_no_longer_the_last_resort() -> None:
    async with phone() as first, phone() as second, dialer(names=Names(first.port, second.port)) as (dial, _, sip):
        targets = await sip.resolver.resolve("sip:bob@pbx.test")
        for target in targets:
            sip.resolver.failed(target)
        call = await dial.dial("sip:bob@pbx.test")
        await call.invite(OFFER)
        first.say(await first.hear("INVITE"), 503)
        await first.hear("ACK")
        second.say(await second.hear("INVITE"), 180)
        async with asyncio.timeout(5):
            await call.wait_ringing()
        assert [target.port for target in await sip.resolver.resolve("sip:bob@pbx.test")] == [second.port, first.port]


async def test_the_longest_time_is_that_of_a_call_and_no_longer() -> None:
    """Whoever has hung up is not hung up on."""
    async with phone() as far, dialer() as (dial, _, sip):
        call = await dial.dial(f"sip:bob@127.0.0.1:{far.port}")
        await call.invite(OFFER)
        far.say(await far.hear("INVITE"), 200, body="answer")
        await answered(call)
        assert isinstance(call, OutgoingSipCall) and call._timer is not None
        await call.hang_up()
        await ended(call)
        assert call._timer.cancelled()


async def test_a_trunk_that_is_asked_for_no_transfers() -> None:
    async with phone() as far:
        trunk = Trunk("pbx", "127.0.0.1", far.port, outbound=("*",), refer_out=False)
        async with dialer(trunks=(trunk,)) as (dial, _, _):
            call = await dial.dial("1")
            await call.invite(OFFER)
            far.say(await far.hear("INVITE"), 200, body="answer")
            await answered(call)
            with pytest.raises(SignalingError, match=r"trunk pbx is asked for no transfers \(refer_out\)"):
                await call.transfer("2")
