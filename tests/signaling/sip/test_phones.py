"""Phones of our own: they register and call from anywhere that is challenged, and strangers there do not."""

from __future__ import annotations

import itertools
import logging
from dataclasses import replace
from ipaddress import ip_network

import pytest

from signaling.sip.digest import Authenticator, Challenge, Login, answer
from signaling.sip.guard import BAN_S, FAILURES, Guard
from signaling.sip.message import Response
from signaling.sip.registrar import Registrar
from signaling.sip.transport import Gate
from signaling.sip.useragent import BANNED
from tests.signaling.sip.answering import ANSWER, desk
from tests.signaling.sip.bench import TCP, UDP, Bench, BenchPeer, is_empty
from tests.signaling.sip.peer import OFFER, Peer, tcp_peer, udp_peer

USERS = {"alice": "wonderland", "bob": "sponge"}
ELSEWHERE = (ip_network("192.0.2.0/24"),)
LOOPBACK = (ip_network("127.0.0.0/8"),)


def office(trusted: bool = False) -> Bench:
    """A user agent with two users, that trusts everybody or nobody."""
    numbers = itertools.count(1)
    registrar = Registrar(Guard("house", USERS, b"key", lambda: f"n{next(numbers)}"))
    return Bench(registrar=registrar, trusted=lambda host: trusted)


def authorize(peer: Peer, refused: Response, method: str, password: str = "wonderland") -> str:
    """The header that answers a 401."""
    assert refused.code == 401
    numbers = itertools.count(1)
    ours = Authenticator(Login("alice", password), lambda: f"c{next(numbers)}")
    ours.learn(refused)
    ((name, value),) = ours.fields(method, peer.target)
    return f"{name}: {value}"


def ask(bench: Bench, peer: BenchPeer, method: str, *extra: str, password: str = "wonderland", body: str = "") -> None:
    """Ask, be asked for a password, say it."""
    to = {"To": "<sip:alice@house>"} if method == "REGISTER" else {}
    peer.ask(method, *extra, body=body, **to)
    credentials = authorize(peer, bench.last(), method, password)
    peer.ask(method, *extra, credentials, body=body, **to)


@pytest.mark.parametrize("flow", [UDP, TCP], ids=["UDP", "TCP"])
def test_a_phone_registers_calls_and_hangs_up(flow: object) -> None:
    bench = office()
    peer = bench.peer(TCP if flow is TCP else UDP)
    ask(bench, peer, "REGISTER", "Expires: 120")
    assert bench.heard() == ["401", "200"]
    ask(bench, peer, "INVITE", body=OFFER)
    assert bench.heard() == ["401", "100"]
    assert bench.told() == ["invited"]


def test_a_connection_is_in_use_while_a_phone_is_reached_by_it() -> None:
    bench = office()
    peer = bench.peer(TCP)
    assert not bench.agent.uses(TCP, bench.now)
    ask(bench, peer, "REGISTER", "Expires: 120")
    assert bench.agent.uses(TCP, bench.now + 119)
    assert not bench.agent.uses(TCP, bench.now + 120)
    assert not bench.agent.uses(UDP, bench.now)


def test_what_is_in_a_dialog_needs_no_password() -> None:
    bench = office()
    peer = bench.peer()
    ask(bench, peer, "INVITE", body=OFFER)
    dialog = bench.invited()
    bench.accept(dialog)
    peer.to_tag = dialog.id[1]
    peer.ack(bench.last())
    peer.ask("BYE")
    assert bench.heard() == ["401", "100", "200", "200"]
    bench.wait(40)
    assert is_empty(bench)


@pytest.mark.parametrize("method", ["INVITE", "OPTIONS", "BYE", "INFO"])
def test_a_stranger_is_asked_whatever_it_wants(method: str) -> None:
    bench = office()
    bench.peer().ask(method)
    last = bench.last()
    assert (last.code, last.phrase) == (401, "Unauthorized")
    assert len(last.headers.getlist("WWW-Authenticate")) == 2
    assert bench.told() == []


def test_who_is_trusted_is_asked_only_for_a_place_at_the_registrar() -> None:
    bench = office(trusted=True)
    peer = bench.peer()
    peer.ask("OPTIONS")
    peer.ask("REGISTER")
    assert bench.heard() == ["200", "401"]


def test_without_users_there_is_no_registrar() -> None:
    bench = Bench()
    bench.peer().ask("REGISTER")
    assert bench.heard() == ["405"]


def test_a_password_opens_only_what_it_was_said_for() -> None:
    bench = office()
    peer = bench.peer()
    peer.ask("OPTIONS")
    credentials = authorize(peer, bench.last(), "OPTIONS")
    peer.ask("INVITE", credentials, body=OFFER)
    assert bench.heard() == ["401", "401"]
    assert bench.told() == ["shed: wrong user name or password"]


def test_a_cancel_needs_no_password() -> None:
    bench = office()
    peer = bench.peer()
    ask(bench, peer, "INVITE", body=OFFER)
    peer.cancel()
    assert bench.heard() == ["401", "100", "200", "487"]


@pytest.mark.parametrize("method", ["REGISTER", "INVITE"])
def test_who_guesses_too_often_is_not_heard_for_a_while(method: str) -> None:
    bench = office()
    peer = bench.peer()
    for _ in range(FAILURES):
        ask(bench, peer, method, password="guess")
    assert bench.heard() == ["401"] * 2 * FAILURES
    assert bench.told() == ["shed: wrong user name or password"] * FAILURES
    peer.ask(method)
    assert bench.heard() == []
    assert bench.told() == [f"shed: {BANNED}"]
    assert bench.agent.dropped[BANNED] == 1
    bench.wait(BAN_S + 1)
    bench.heard()  # a 401 that nobody acknowledges is repeated
    peer.ask(method)
    assert bench.heard() == ["401"]


@pytest.mark.parametrize("method", ["INVITE", "REGISTER", "OPTIONS", "DANCE"])
def test_who_has_shown_nothing_is_asked_once_and_not_remembered(method: str) -> None:
    """RFC 3261, section 26.3.2.4. Its address may be forged: nothing is kept or repeated for it, little is sent."""
    bench = office()
    peer = bench.peer()
    for _ in range(3):
        asked = peer.ask(method)
        peer.send(asked)
        assert len(bytes(bench.last())) < len(asked) + 300
    assert bench.heard() == ["401"] * 6
    assert is_empty(bench)
    peer.ask(method, f"Authorization: {made_up()}")
    assert bench.last().headers.get("WWW-Authenticate").endswith("stale=true")  # it knows the realm, not the nonce
    assert is_empty(bench)


def made_up() -> str:
    """Credentials for a nonce that we never sent."""
    return str(
        answer(Challenge("house", "0.n1.f", "MD5", ("auth",)), Login("alice", "wonderland"), "x", "sip:y", 1, "c")
    )


def test_what_is_overheard_of_a_call_is_no_way_into_it() -> None:
    """Its tags and its Call-ID are not enough from another host, unless that host knows a password."""
    bench = office()
    peer = bench.peer()
    ask(bench, peer, "INVITE", body=OFFER)
    bench.accept(bench.invited())
    peer.to_tag = bench.invited().id[1]
    peer.send(peer.build("ACK", cseq=peer.cseq))
    thief = bench.peer(replace(UDP, remote=("203.0.113.9", 5060)))
    thief.call_id, thief.from_tag, thief.to_tag, thief.cseq = peer.call_id, peer.from_tag, peer.to_tag, peer.cseq
    bench.heard(), bench.told()
    for method in ("BYE", "INFO", "INVITE", "UPDATE"):
        thief.ask(method, body="")
        assert bench.heard() == ["401"]
    thief.send(thief.build("ACK", cseq=peer.cseq))
    assert bench.told() == []
    bench.hang_up(dialog := bench.agent.calls._dialogs[peer.call_id, peer.to_tag, peer.from_tag])
    assert bench.sent[-1][2].remote == peer.flow.remote
    assert dialog.flow.remote == peer.flow.remote


def test_a_phone_that_moves_within_its_call_shows_its_password_again() -> None:
    bench = office()
    peer = bench.peer()
    ask(bench, peer, "INVITE", body=OFFER)
    bench.accept(bench.invited())
    peer.to_tag = bench.invited().id[1]
    peer.send(peer.build("ACK", cseq=peer.cseq))
    peer.flow = replace(UDP, remote=("203.0.113.9", 5060))
    bench.heard()
    ask(bench, peer, "BYE")
    assert bench.heard() == ["401", "200"]


def test_one_subscriber_is_banned_whatever_its_address_ends_in() -> None:
    bench = office()
    for number in range(FAILURES):
        peer = bench.peer(replace(UDP, remote=(f"2001:db8::{number + 1:x}", 5060), local=("2001:db8:f::1", 5060)))
        peer.local = (f"[{peer.flow.remote[0]}]", 5060)
        ask(bench, peer, "REGISTER", password="guess")
    bench.heard()
    for host, heard in (("2001:db8::ff", []), ("2001:db8:0:1::1", ["401"])):
        peer = bench.peer(replace(UDP, remote=(host, 5060)))
        peer.local = (f"[{host}]", 5060)
        peer.ask("REGISTER")
        assert bench.heard() == heard


def test_a_proxy_that_we_trust_still_brings_calls() -> None:
    bench = office(trusted=True)
    peer = bench.peer()
    for _ in range(FAILURES):
        ask(bench, peer, "REGISTER", password="guess")
    bench.heard()
    peer.ask("REGISTER")
    peer.ask("INVITE", body=OFFER)
    assert bench.heard() == ["100"]


def test_the_gate_hears_who_is_challenged_and_trusts_only_who_is_allowed(caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate(LOOPBACK, ELSEWHERE)
    assert [gate.admit(host, 0.0) for host in ("127.0.0.1", "192.0.2.7", "198.51.100.1")] == [True, True, False]
    assert [gate.allows(host) for host in ("127.0.0.1", "192.0.2.7", "198.51.100.1")] == [True, False, False]
    assert "x 198.51.100.1 is not allowed to call and hears nothing" in caplog.text


# --- over real sockets ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("connect", [udp_peer, tcp_peer])
async def test_a_phone_on_a_socket(connect: object, caplog: pytest.LogCaptureFixture) -> None:
    assert callable(connect)
    caplog.set_level(logging.DEBUG, "signaling.sip.endpoint")
    async with desk(allow=ELSEWHERE, challenge=LOOPBACK, users=USERS) as agent, connect(agent.port) as peer:
        to = {"To": "<sip:alice@house>"}
        peer.ask("REGISTER", **to)
        peer.ask("REGISTER", authorize(peer, await peer.response(401), "REGISTER"), "Expires: 90", **to)
        contact = f"<sip:peer@127.0.0.1:{peer.local[1]}>;expires=90"
        assert (await peer.response(200)).headers.get("Contact") == contact
        peer.ask("INVITE", body=OFFER)
        refused = await peer.response(401)
        peer.ack(refused)
        answer = await peer.call(authorize(peer, refused, "INVITE"))
        assert answer.body.decode() == ANSWER
        await agent.next_call()
        await peer.hang_up()
    assert caplog.text.count('response="***"') == 2


@pytest.mark.parametrize("users", [{}, None])
async def test_where_nobody_could_show_who_they_are_all_are_strangers(users: dict[str, str] | None) -> None:
    async with desk(allow=ELSEWHERE, challenge=LOOPBACK, users=users) as agent, udp_peer(agent.port) as peer:
        peer.ask("REGISTER")
        await peer.silence()


@pytest.mark.parametrize("trusted", [True, False])
def test_a_cancel_of_nothing_is_answered_and_nothing_is_kept_of_it(trusted: bool) -> None:
    """It is never asked who it is (RFC 3261, section 22.1); of others there must be room for what calls need."""
    bench = office(trusted)
    peer = bench.peer()
    peer.ask("CANCEL", body="")
    assert bench.last().code == 481 and is_empty(bench)
