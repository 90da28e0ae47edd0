"""endpoint.py and transport.py: calls over real sockets on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from ipaddress import ip_network
from typing import cast

import pytest

from signaling.call import CallEnded, Rejection, Renegotiate, SignalingError
from signaling.sip import asked, endpoint, sipcall
from signaling.sip.endpoint import SipEndpoint
from signaling.sip.message import Request, respond
from signaling.sip.wire import parse
from tests.signaling.sip.answering import ANSWER, LOOPBACK, desk, leave
from tests.signaling.sip.peer import OFFER, tcp_peer, udp_peer


@pytest.mark.parametrize("connect", [udp_peer, tcp_peer])
async def test_a_call_from_its_offer_to_its_end(connect: object) -> None:
    assert callable(connect)
    async with desk() as agent, connect(agent.port) as peer:
        answer = await peer.call("Subject: a\ttest", uri=f"sip:4711@127.0.0.1:{agent.port}")
        assert answer.body.decode() == ANSWER
        assert answer.headers.get("Contact").startswith(f"<sip:127.0.0.1:{agent.port}")
        call = await agent.next_call()
        offer = call.offer
        assert (offer.kind, offer.caller, offer.callee, offer.media) == ("sip", "peer", "4711", OFFER)
        assert offer.source == peer.local
        assert offer.headers == {"Subject": "a test", "Call-ID": peer.call_id}
        assert offer.id == answer.to_tag
        await peer.hang_up()
        assert await call.wait_ended() == CallEnded("caller", "hung up")
        assert await call.wait_ended() == CallEnded("caller", "hung up")


async def test_we_hang_up() -> None:
    async with desk() as agent, udp_peer(agent.port) as peer:
        await peer.call()
        call = await agent.next_call()
        await call.hang_up('the engine "failed"\r\n')
        assert await call.wait_ended() == CallEnded("agent", 'the engine "failed"\r\n')
        bye = await peer.request("BYE")
        assert bye.headers.get("Reason") == "SIP;text=\"the engine 'failed'\""
        assert (bye.uri, bye.to_tag) == (f"sip:peer@127.0.0.1:{peer.local[1]}", peer.from_tag)
        peer.answer(bye)
        await call.hang_up("again")
        await peer.silence()


async def test_a_bye_finds_the_peer_though_its_connection_is_gone() -> None:
    """Proxies close a connection that was silent for some minutes; the call goes on."""
    heard: asyncio.Queue[bytes] = asyncio.Queue()
    closed = asyncio.Event()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        bye = await reader.readuntil(b"\r\n\r\n")
        writer.write(bytes(respond(cast(Request, parse(bye)), 200)))
        heard.put_nowait(bye)
        await reader.read()
        writer.close()
        await writer.wait_closed()
        closed.set()

    server = await asyncio.start_server(listen, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with asyncio.timeout(5), server:
        async with desk() as agent:
            async with tcp_peer(agent.port) as peer:
                await peer.call(Contact=f"<sip:peer@127.0.0.1:{port};transport=tcp>")
            while list(agent.sip.flows.connections):
                await asyncio.sleep(0)
            await (await agent.next_call()).hang_up("bored")
            assert (await heard.get()).startswith(f"BYE sip:peer@127.0.0.1:{port};transport=tcp SIP/2.0\r\n".encode())
            while not agent.sip._agent.idle:
                await asyncio.sleep(0)
        await closed.wait()


async def test_an_answer_finds_the_peer_though_its_connection_is_gone() -> None:
    """RFC 3261, section 18.2.2: by a new one, to where its Via says that it listens."""
    heard: asyncio.Queue[bytes] = asyncio.Queue()
    closed = asyncio.Event()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.put_nowait(await reader.readuntil(b"\r\n\r\n"))
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        closed.set()

    server = await asyncio.start_server(listen, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with asyncio.timeout(10), server:
        async with desk(leave) as agent:
            async with tcp_peer(agent.port) as peer:
                peer.ask("INVITE", body=OFFER, Via=f"SIP/2.0/TCP 127.0.0.1:{port};branch=z9hG4bKgone")
                call = await agent.next_call()
            while list(agent.sip.flows.connections):
                await asyncio.sleep(0)
            await call.reject(Rejection.BUSY)
            assert (await heard.get()).startswith(b"SIP/2.0 486 ")
        await closed.wait()


async def test_a_bye_that_finds_nobody_is_logged(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint, "CLOSE_S", 0.1)
    async with desk() as agent:
        async with tcp_peer(agent.port) as peer:
            await peer.call(Contact="<sip:peer@127.0.0.1:1>")
        while list(agent.sip.flows.connections):
            await asyncio.sleep(0)
        call = await agent.next_call()
        await call.hang_up()
        async with asyncio.timeout(5):
            while "x 127.0.0.1:1 over TCP cannot be reached: connection refused" not in caplog.text:
                await asyncio.sleep(0)
    assert (await call.wait_ended()).by == "agent"


async def test_a_busy_port_is_one_clear_line() -> None:
    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
        with socket.socket(socket.AF_INET, kind) as taken:
            taken.bind(("127.0.0.1", 0))
            if kind == socket.SOCK_STREAM:
                taken.listen()
            port = taken.getsockname()[1]
            with pytest.raises(SignalingError, match=f"cannot listen for SIP on .* port {port}: .*another program"):
                async with SipEndpoint("127.0.0.1", port, allow=LOOPBACK):
                    raise AssertionError("bound twice")


async def test_an_address_that_is_not_ours_is_one_clear_line() -> None:
    with pytest.raises(SignalingError, match=r"cannot listen for SIP on UDP 192\.0\.2\.1 port 5060"):
        async with SipEndpoint("192.0.2.1", 5060, allow=LOOPBACK):
            raise AssertionError("bound to somebody else's address")


async def test_nothing_is_left_when_it_closes() -> None:
    before = asyncio.all_tasks()
    async with udp_peer(0) as peer:
        async with SipEndpoint("127.0.0.1", 0, allow=LOOPBACK) as sip:
            peer.agent = ("127.0.0.1", sip.port)
            peer.ask("INVITE", body=OFFER, uri="sip:agent@127.0.0.1")
            await peer.response(100, skip=())
        await peer.response(480)
        assert asyncio.all_tasks() == before
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", sip.port))


async def test_a_stranger_hears_nothing_and_the_log_says_how_to_let_it_in(caplog: pytest.LogCaptureFixture) -> None:
    async with desk(leave) as agent, udp_peer(agent.port, "127.0.0.2") as stranger:
        for _ in range(3):
            stranger.ask("OPTIONS")
        await stranger.silence()
    (line,) = [record.getMessage() for record in caplog.records if "not allowed" in record.getMessage()]
    assert line.startswith("x 127.0.0.2 ")
    assert "VOIPAGENT_SIP__ALLOW=127.0.0.1/32,127.0.0.2 " in line


async def test_200_calls_in_a_row_leave_nothing_behind() -> None:
    async with desk(rate=1000.0) as agent:
        before = asyncio.all_tasks()
        for number in range(200):
            async with (udp_peer, tcp_peer)[number % 2](agent.port) as peer:
                await peer.call()
                await peer.hang_up()
                assert (await agent.calls[-1].wait_ended()).by == "caller"
        agent.pass_time(64)
        assert len(agent.calls) == 200
        assert agent.kept() == 0
        while asyncio.all_tasks() - before:  # those of the test's own peers and of `take` have yet to return
            await asyncio.sleep(0)
        assert agent.sip._calls == {}
        assert agent.sip._timer is None


# --- what a call can do --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rejection", "code"),
    [
        (Rejection.BUSY, 486),
        (Rejection.OVERLOADED, 503),
        (Rejection.NOT_FOUND, 404),
        (Rejection.NOT_ACCEPTABLE, 488),
    ],
)
async def test_rejections(rejection: Rejection, code: int) -> None:
    async with desk(leave) as agent, udp_peer(agent.port) as peer:
        peer.ask("INVITE", body=OFFER)
        call = await agent.next_call()
        await call.reject(rejection)
        answer = await peer.response(code)
        assert answer.headers.get("Retry-After") == ("10" if code == 503 else "")
        peer.ack(answer)
        assert await call.wait_ended() == CallEnded("agent", rejection.value)
        await call.ring()  # and nothing else raises, or is heard
        await call.accept(ANSWER)
        await call.hang_up()
        await peer.silence()


async def test_delayed_offer_and_its_answer() -> None:
    answers: asyncio.Queue[str] = asyncio.Queue()
    async with desk(leave) as agent, udp_peer(agent.port) as peer:
        peer.ask("INVITE")
        call = await agent.next_call()
        assert call.offer.media is None
        call.answered = answers.put
        await call.accept("our offer")
        peer.ack(await peer.response(200), body=OFFER)
        async with asyncio.timeout(5):
            assert await answers.get() == OFFER
        await peer.hang_up()


async def test_an_answer_that_cannot_be_used_ends_the_call() -> None:
    async def refuse(answer: str) -> None:
        raise ValueError("no codec in it")

    async with desk(leave) as agent, udp_peer(agent.port) as peer:
        peer.ask("INVITE")
        call = await agent.next_call()
        call.answered = refuse
        await call.accept("our offer")
        peer.ack(await peer.response(200), body=OFFER)
        bye = await peer.request("BYE")
        peer.answer(bye)
        assert await call.wait_ended() == CallEnded("agent", "no codec in it")


async def test_a_change_is_negotiated_by_the_session() -> None:
    async def renegotiate(offer: str | None) -> str | Rejection:
        return f"answer to {offer}"

    async with desk() as agent, udp_peer(agent.port) as peer:
        await peer.call()
        (await agent.next_call()).renegotiate = renegotiate
        peer.ask("INVITE", body="hold")
        answer = await peer.response(200)
        assert answer.body == b"answer to hold"
        peer.ack(answer)
        await peer.hang_up()


async def _slow(offer: str | None) -> str:
    await asyncio.Event().wait()
    raise AssertionError


async def _raising(offer: str | None) -> str:
    raise RuntimeError("a bug")


async def _refusing(offer: str | None) -> Rejection:
    return Rejection.NOT_ACCEPTABLE


@pytest.mark.parametrize("renegotiate", [None, _slow, _raising, _refusing])
async def test_a_change_that_fails_leaves_the_call(
    renegotiate: Renegotiate | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asked, "CHANGE_S", 0.05)
    async with desk() as agent, udp_peer(agent.port) as peer:
        await peer.call()
        (await agent.next_call()).renegotiate = renegotiate
        peer.ask("INVITE", body="hold")
        peer.ack(await peer.response(488))
        await peer.hang_up()


async def test_a_change_that_was_cancelled_does_not_outlast_the_next() -> None:
    """Or the media would be left as an offer says that the peer took back."""
    log: asyncio.Queue[str] = asyncio.Queue()

    async def renegotiate(offer: str | None) -> str:
        log.put_nowait(f"begun {offer}")
        try:
            if offer == "slow":
                await asyncio.Event().wait()
        finally:
            log.put_nowait(f"over {offer}")
        return "answer"

    async with asyncio.timeout(5), desk() as agent, udp_peer(agent.port) as peer:
        await peer.call()
        (await agent.next_call()).renegotiate = renegotiate
        peer.ask("INVITE", body="slow")
        assert await log.get() == "begun slow"
        peer.cancel()
        await peer.response(200)
        peer.ack(await peer.response(487))
        peer.ask("INVITE", body="quick")
        peer.ack(await peer.response(200))
        assert [log.get_nowait() for _ in range(3)] == ["over slow", "begun quick", "over quick"]
        await peer.hang_up()


async def test_what_is_negotiated_when_the_call_ends_is_cancelled() -> None:
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def renegotiate(offer: str | None) -> str:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        raise AssertionError

    async with desk() as agent, udp_peer(agent.port) as peer:
        await peer.call()
        (await agent.next_call()).renegotiate = renegotiate
        peer.ask("INVITE", body="hold")
        async with asyncio.timeout(5):
            await begun.wait()
            peer.ask("BYE")
            await cancelled.wait()
        assert {(await peer.response(200, 487)).code for _ in range(2)} == {200, 487}


async def test_digits_come_in_order_and_the_oldest_are_lost_when_nobody_reads() -> None:
    async with desk() as agent, udp_peer(agent.port) as peer:
        await peer.call()
        call = await agent.next_call()
        keys = ["1"] * 5 + [str(number % 10) for number in range(sipcall.MAX_DIGITS)]
        for key in keys:
            peer.ask("INFO", body=f"Signal={key}", Content_Type="application/dtmf-relay")
            await peer.response(200)
        digits = call.digits()
        async with asyncio.timeout(5):
            assert [await anext(digits) for _ in range(sipcall.MAX_DIGITS)] == keys[5:]
        await peer.hang_up()


async def test_the_offer_is_text_that_can_be_shown() -> None:
    async with desk(leave) as agent, udp_peer(agent.port) as peer:
        peer.ask(
            "INVITE",
            f"Subject: {'x' * 500}",
            "User-Agent: Phone\t1.0",
            "P-Asserted-Identity: <sip:+15550100@trunk>",
            "Authorization: Digest secret",
            body=OFFER,
            From='"boss <sip:boss@evil>" <sip:%00real%0A@pbx>;tag=1',
            uri="tel:+15550199",
        )
        offer = (await agent.next_call()).offer
        assert (offer.caller, offer.callee) == ("real", "+15550199")
        assert offer.headers == {
            "Call-ID": peer.call_id,
            "Subject": "x" * 200,
            "User-Agent": "Phone 1.0",
            "P-Asserted-Identity": "<sip:+15550100@trunk>",
        }


async def test_without_a_user_part_the_uri_is_the_name() -> None:
    async with desk(leave) as agent, udp_peer(agent.port) as peer:
        peer.ask("INVITE", body=OFFER, From="<sip:pbx.example.com>;tag=1", uri="sip:agent.example.com")
        offer = (await agent.next_call()).offer
        assert (offer.caller, offer.callee) == ("sip:pbx.example.com", "sip:agent.example.com")


# --- the endpoint --------------------------------------------------------------------------------------------------


async def test_while_no_calls_are_taken() -> None:
    async with desk() as agent, udp_peer(agent.port) as talking, udp_peer(agent.port) as new:
        await talking.call()
        agent.sip.available = lambda: False
        new.ask("OPTIONS")
        await new.response(503)
        new.ask("INVITE", body=OFFER)
        await new.response(503)
        await talking.hang_up()


async def test_what_is_advertised_is_what_peers_are_told() -> None:
    async with desk(advertised=("agent.example.com",)) as agent, udp_peer(agent.port) as peer:
        answer = await peer.call()
        assert answer.headers.get("Contact") == f"<sip:agent.example.com:{agent.port}>"
        await (await agent.next_call()).hang_up()
        bye = await peer.request("BYE")
        assert (bye.via.host, bye.via.port) == ("agent.example.com", agent.port)
        peer.answer(bye)


async def test_on_all_addresses_the_contact_is_the_one_that_routes_to_the_peer() -> None:
    async with SipEndpoint("0.0.0.0", 0, allow=LOOPBACK) as sip, udp_peer(sip.port) as peer:
        peer.ask("OPTIONS")
        assert (await peer.response(200)).headers.get("Contact") == f"<sip:127.0.0.1:{sip.port}>"


async def test_ipv6() -> None:
    if not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")
    try:
        probe = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        probe.bind(("::1", 0))
        probe.close()
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    allow = (*LOOPBACK, ip_network("::1/128"))
    async with SipEndpoint("::", 0, allow=allow) as sip:
        async with udp_peer(sip.port) as peer:  # IPv4 through the same socket
            peer.ask("OPTIONS")
            assert (await peer.response(200)).headers.get("Contact") == f"<sip:127.0.0.1:{sip.port}>"
        async with udp_peer(sip.port, "::1") as peer:
            peer.agent = ("::1", sip.port)
            peer.local = ("[::1]", peer.local[1])
            peer.ask("OPTIONS")
            assert (await peer.response(200)).headers.get("Contact") == f"<sip:[::1]:{sip.port}>"


async def test_more_calls_than_anybody_takes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "MAX_WAITING", 2)
    async with SipEndpoint("127.0.0.1", 0, allow=LOOPBACK) as sip, udp_peer(sip.port) as peer:
        for _ in range(3):
            peer.call_id += "x"
            peer.ask("INVITE", body=OFFER)
        peer.ack(await peer.response(503))


async def test_a_flood_is_shed_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    async with desk(rate=0.001, burst=2) as agent, udp_peer(agent.port) as peer:
        for _ in range(5):
            peer.ask("OPTIONS")
        for _ in range(2):
            await peer.response(200)
        await peer.silence()
    lines = [record.getMessage() for record in caplog.records if "turned away" in record.getMessage()]
    assert lines == ["x 127.0.0.1: request turned away, too many requests a second"]


async def test_a_fault_in_one_call_leaves_the_others_their_timers(monkeypatch: pytest.MonkeyPatch) -> None:
    faults = [ZeroDivisionError("a bug")]
    async with desk() as agent, udp_peer(agent.port) as peer:
        calls = agent.sip._agent.calls
        fire = calls.fire

        def faulty(now: float) -> None:
            if faults:
                raise faults.pop()
            fire(now)

        peer.ask("INVITE", body=OFFER)
        first = await peer.response(200, skip=(100, 180))
        monkeypatch.setattr(calls, "fire", faulty)
        assert await peer.response(200) == first
        assert not faults
        peer.ack(first)
        await peer.hang_up()


async def test_noise_hurts_nobody() -> None:
    async with desk() as agent, udp_peer(agent.port) as peer:
        for number in range(100):
            peer.send(bytes((number * step) % 256 for step in range(1, 3 * number)))
        await peer.call()
        await peer.hang_up()


async def test_what_a_peer_says_is_no_line_of_our_log(caplog: pytest.LogCaptureFixture) -> None:
    """It can neither be taken for one, nor steer the terminal of who reads it."""
    caplog.set_level(logging.DEBUG, "signaling.sip")
    async with desk(leave) as agent, udp_peer(agent.port) as peer:
        peer.ask("INVITE", "Subject: \u202e\x1b[2J\rgone \x9b", body="v=0\r\n2026-01-01 INFO - forged\r\n")
        async with asyncio.timeout(5):
            while "forged" not in caplog.text:
                await asyncio.sleep(0.01)
    (said,) = [record.getMessage() for record in caplog.records if "forged" in record.getMessage()]
    first, *lines = said.split("\n")
    assert first.startswith("< UDP 127.0.0.1:")
    assert all(line.startswith("  ") for line in lines if line.strip())
    assert "  Subject: ??[2J?gone ?\r" in lines


async def test_keys_are_masked_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "signaling.sip")
    key = "WVNfX19zZW1jdGwgKCkgewkyMjA7fQp9CnVubGVz"
    lines = f"a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:{key}|2^20|1:4;inline:{key}|2^20|2:4 FEC\r\n"
    offer = f"{OFFER}{lines}a=crypto:2 AES_CM_128_HMAC_SHA1_32 INLINE:{key}\r\n"
    async with desk() as agent, udp_peer(agent.port) as peer:
        await peer.call(body=offer)
        await peer.hang_up()
        assert key not in repr(agent.calls[0].offer)
    text = caplog.text
    assert key not in text
    assert "inline:***|2^20|1:4;inline:***|2^20|2:4" in text
    assert "INLINE:***" in text
    assert "< UDP 127.0.0.1:" in text
    assert "> UDP 127.0.0.1:" in text


async def test_while_it_closes_no_call_is_taken() -> None:
    async with udp_peer(0) as peer, udp_peer(0) as new, asyncio.TaskGroup() as group:
        async with SipEndpoint("127.0.0.1", 0, allow=LOOPBACK) as sip:
            peer.agent = new.agent = ("127.0.0.1", sip.port)
            peer.ask("INVITE", body=OFFER, uri="sip:agent@127.0.0.1")
            await (await anext(sip.calls())).accept(ANSWER)
            peer.ack(await peer.response(200))

            async def call_late() -> None:
                bye = await peer.request("BYE")
                new.ask("INVITE", body=OFFER, uri="sip:agent@127.0.0.1")
                await new.response(503)
                peer.answer(bye)

            group.create_task(call_late())


async def test_where_no_session_calls_for_others_a_transfer_is_declined_at_once() -> None:
    """Rather than agreed to, and told of as failed."""
    async with desk() as agent, udp_peer(agent.port) as peer:
        agent.sip.may_refer = lambda host: True
        await peer.call()
        peer.ask("REFER", "Refer-To: <sip:bob@example.com>")
        await peer.response(603)
        await peer.hang_up()
