"""useragent.py: what is answered outside of calls, where answers go, and how much is taken on."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from pathlib import Path

import pytest

from signaling.sip import transactions
from signaling.sip.alarms import SLACK
from signaling.sip.capabilities import ALLOW, SUPPORTED
from signaling.sip.transaction import Flow
from signaling.sip.useragent import BURST, UserAgent
from tests.signaling.sip.bench import TCP, UDP, Bench, is_empty
from tests.signaling.sip.peer import OFFER

TORTURE = Path(__file__).parents[2] / "data" / "rfc4475"


@pytest.fixture
def bench() -> Bench:
    return Bench()


# --- repetition ----------------------------------------------------------------------------------------------------


def test_an_invite_that_is_repeated_is_one_call(bench: Bench) -> None:
    peer = bench.peer()
    invite = peer.ask("INVITE", body=OFFER)
    peer.send(invite)
    bench.ring(bench.invited())
    peer.send(invite)
    bench.accept(bench.invited())
    peer.send(invite)
    assert bench.heard() == ["100", "100", "180", "180", "200"]
    assert bench.told() == ["invited"]


def test_a_bye_that_is_repeated_gets_the_same_answer(bench: Bench) -> None:
    peer = bench.peer()
    bench.call(peer)
    bye = peer.ask("BYE")
    first = bench.last()
    bench.wait(4)
    peer.send(bye)
    assert bench.last() == first
    bench.wait(32)
    peer.send(bye)
    assert bench.last().code == 481


def test_a_refusal_is_repeated_until_its_ack(bench: Bench) -> None:
    peer = bench.peer()
    peer.ask("INVITE", body=OFFER)
    bench.reject(bench.invited())
    refusal = bench.last()
    bench.wait(4)
    assert bench.heard() == ["100", "486", "486", "486", "486"]
    peer.ack(refusal)
    bench.wait(60)
    assert bench.heard() == []
    assert bench.told() == ["invited", "ended by agent: no"]
    assert is_empty(bench)


def test_a_request_that_comes_by_two_ways_is_merged(bench: Bench) -> None:
    """RFC 3261, section 8.2.2.2."""
    peer = bench.peer()
    peer.ask("INVITE", body=OFFER)
    peer.send(peer.build("INVITE", body=OFFER))  # another branch, all else the same
    assert bench.heard() == ["100", "482"]
    assert bench.told() == ["invited"]
    peer.ask("OPTIONS")
    peer.send(peer.build("OPTIONS"))
    assert bench.heard() == ["200", "482"]


def test_the_same_number_again_is_a_new_call_later(bench: Bench) -> None:
    peer = bench.peer()
    peer.ask("OPTIONS")
    bench.wait(33)
    peer.send(peer.build("OPTIONS"))
    assert bench.heard() == ["200", "200"]


# --- methods and header fields -------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["REGISTER", "SUBSCRIBE", "PUBLISH", "MESSAGE"])
@pytest.mark.parametrize("inside", [False, True])
def test_methods_that_we_know_and_do_not_serve(bench: Bench, method: str, inside: bool) -> None:
    peer = bench.peer()
    if inside:
        bench.call(peer)
    peer.ask(method)
    assert (bench.last().code, bench.last().headers.get("Allow")) == (405, ALLOW)


def test_a_method_that_nobody_knows(bench: Bench) -> None:
    bench.peer().ask("DANCE")
    assert bench.last().code == 501


@pytest.mark.parametrize("method", ["BYE", "UPDATE", "INFO", "PRACK"])
@pytest.mark.parametrize("tag", ["", "unknown"])
def test_requests_for_no_dialog(bench: Bench, method: str, tag: str) -> None:
    peer = bench.peer()
    peer.to_tag = tag
    peer.ask(method)
    assert bench.heard() == ["481"]


def test_an_invite_for_no_dialog(bench: Bench) -> None:
    peer = bench.peer()
    peer.to_tag = "unknown"
    peer.ask("INVITE", body=OFFER)
    assert bench.heard() == ["481"]


@pytest.mark.parametrize("inside", [False, True])
def test_options(bench: Bench, inside: bool) -> None:
    peer = bench.peer()
    if inside:
        bench.call(peer)
    peer.ask("OPTIONS")
    answer = bench.last()
    assert answer.code == 200
    assert answer.to_tag
    wanted = {"Allow": ALLOW, "Accept": "application/sdp", "Supported": SUPPORTED, "Contact": "<sip:198.51.100.1:5060>"}
    assert {name: answer.headers.get(name) for name in wanted} == wanted


def test_while_no_calls_are_taken() -> None:
    open_for_calls = True
    bench = Bench(available=lambda: open_for_calls)
    talking, new = bench.peer(), bench.peer()
    bench.call(talking)
    open_for_calls = False
    for method in ("OPTIONS", "INVITE"):
        new.ask(method)
        assert (bench.last().code, bench.last().headers.get("Retry-After")) == (503, "10")
    talking.ask("OPTIONS")
    assert bench.last().code == 200
    assert bench.told() == ["shed: no calls are taken now"] * 2


@pytest.mark.parametrize("method", ["INVITE", "OPTIONS"])
def test_an_extension_we_lack(bench: Bench, method: str) -> None:
    bench.peer().ask(method, "Require: timer, path", "Require: fancy")
    assert (bench.last().code, bench.last().headers.get("Unsupported")) == (420, "path, fancy")
    assert bench.told() == []


def test_require_in_a_cancel_is_ignored(bench: Bench) -> None:
    """RFC 3261, section 20.32."""
    peer = bench.peer()
    invite = peer.ask("INVITE", body=OFFER)
    via = invite.split(b"Via: ")[1].split(b"\r\n")[0].decode()
    peer.send(peer.build("CANCEL", "Require: fancy", cseq=1, Via=via))
    assert bench.heard() == ["100", "200", "487"]


@pytest.mark.parametrize(
    "changed",
    [
        {"Content_Type": "application/isup"},
        {"Content_Type": "multipart/mixed;boundary=x"},
        {"Content_Type": "-"},
        {"Content_Encoding": "gzip"},
    ],
    ids=str,
)
def test_content_that_we_do_not_read(bench: Bench, changed: dict[str, str]) -> None:
    bench.peer().ask("INVITE", body=OFFER, **changed)
    assert (bench.last().code, bench.last().headers.get("Accept")) == (415, "application/sdp")
    assert bench.told() == []


def test_sdp_may_have_parameters_and_capitals(bench: Bench) -> None:
    bench.peer().ask("INVITE", body=OFFER, Content_Type="Application/SDP ; charset=UTF-8", Content_Encoding="identity")
    assert bench.told() == ["invited"]


def test_max_forwards_0_is_for_proxies(bench: Bench) -> None:
    bench.peer().ask("INVITE", body=OFFER, Max_Forwards="0")
    assert bench.told() == ["invited"]


def test_a_route_that_cannot_be_followed(bench: Bench) -> None:
    peer = bench.peer()
    peer.ask("INVITE", "Record-Route: <nowhere>", body=OFFER)
    peer.ack(bench.last())
    assert (bench.heard(), bench.told()) == (["400"], [])
    bench.wait(64)
    assert is_empty(bench)


def test_requests_out_of_order(bench: Bench) -> None:
    peer = bench.peer()
    bench.call(peer)
    peer.cseq = 10
    peer.ask("INFO")
    peer.cseq = 5
    peer.ask("BYE")
    assert bench.heard() == ["200", "500"]
    assert bench.told() == []


def test_a_digit(bench: Bench) -> None:
    peer = bench.peer()
    bench.call(peer)
    peer.ask("INFO", body="Signal=5\r\nDuration=160\r\n", Content_Type="Application/DTMF-relay; x=1")
    assert bench.heard() == ["200"]
    assert bench.told() == ["pressed 5"]


@pytest.mark.parametrize(
    ("kind", "body", "code"),
    [
        ("application/dtmf-relay", "Signal=", 400),
        ("application/dtmf-relay", "Signal=12x", 400),
        ("application/dtmf-relay", "nothing", 400),
        ("application/dtmf", "\u0663", 400),
        ("text/plain", "5", 415),
        ("-", "", 200),
    ],
)
def test_infos_that_are_no_digit(bench: Bench, kind: str, body: str, code: int) -> None:
    peer = bench.peer()
    bench.call(peer)
    peer.ask("INFO", body=body, Content_Type=kind)
    assert bench.last().code == code
    assert bench.told() == []


# --- where things go -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("via", "port"),
    [
        ("SIP/2.0/UDP 192.0.2.7:5070;rport;branch=z9hG4bKx", 40000),
        ("SIP/2.0/UDP 192.0.2.7:5070;branch=z9hG4bKx", 5070),
        ("SIP/2.0/UDP 10.0.0.1;branch=z9hG4bKx", 5060),
    ],
)
def test_responses_go_where_the_via_says(bench: Bench, via: str, port: int) -> None:
    """RFC 3261, section 18.2.2; RFC 3581."""
    peer = bench.peer(Flow("UDP", ("192.0.2.7", 40000), UDP.local))
    peer.ask("OPTIONS", Via=via)
    assert bench.sent[-1][2].remote == ("192.0.2.7", port)


@pytest.mark.parametrize(
    ("contact", "route", "remote"),
    [
        ("<sip:a@192.0.2.7:5071>", "", ("192.0.2.7", 5071)),
        ("<sip:a@192.0.2.7>", "", ("192.0.2.7", 5060)),
        ("<sip:a@192.0.2.99:5071>", "", ("192.0.2.99", 5071)),  # another address of the trunk's
        ("<sip:a@203.0.113.9:5071>", "", UDP.remote),  # somebody who never asked for our packets
        ("<sip:a@phone.example.com>", "", UDP.remote),
        ("<sip:a@[2001:db8::7]>", "", UDP.remote),  # trusted, but out of reach of a socket for IPv4
        ("<sip:a@10.0.0.1>", "<sip:192.0.2.8;lr>", ("192.0.2.8", 5060)),
        ("<tel:+15550100>", "", UDP.remote),
    ],
)
def test_requests_go_to_hosts_we_trust(contact: str, route: str, remote: tuple[str, int]) -> None:
    bench = Bench(trusted=lambda host: host.startswith(("192.0.2.", "2001:db8:")))
    peer = bench.peer()
    routes = [f"Record-Route: {route}"] if route else []
    peer.ask("INVITE", *routes, body=OFFER, Contact=contact)
    dialog = bench.invited()
    bench.accept(dialog)
    peer.to_tag = dialog.id[1]
    peer.ack(bench.last())
    bench.hang_up(dialog)
    assert bench.sent[-1][2].remote == remote


def test_behind_a_nat_requests_go_back_by_the_same_way() -> None:
    bench = Bench(trusted=lambda host: True)
    peer = bench.peer()
    peer.ask("INVITE", body=OFFER, Contact="<sip:a@10.0.0.1>", Via="SIP/2.0/UDP 10.0.0.1;rport;branch=z9hG4bKnat")
    dialog = bench.invited()
    bench.accept(dialog)
    bench.agent.calls.close("over", bench.now)
    bench.collect()
    assert bench.last_request().method == "BYE"
    assert bench.sent[-1][2].remote == UDP.remote


def test_on_a_connection_everything_goes_by_it(bench: Bench) -> None:
    peer = bench.peer(TCP)
    dialog = bench.call(peer)
    assert bench.agent.calls.uses(TCP)
    bench.hang_up(dialog)
    assert bench.sent[-1][2] == TCP
    assert bench.sent[-1][2].spare == ("192.0.2.7", 40000)  # which the Contact names


@pytest.mark.parametrize(("protocol", "port"), [("TCP", 5060), ("TLS", 5061)])
def test_where_to_connect_anew_if_the_contact_names_no_port(bench: Bench, protocol: str, port: int) -> None:
    peer = bench.peer(replace(TCP, protocol=protocol, name="far.example.com"))
    peer.ask("INVITE", body=OFFER, Contact="<sip:a@192.0.2.7>")
    dialog = bench.invited()
    bench.accept(dialog)
    bench.agent.calls.close("over", bench.now)
    bench.collect()
    assert bench.last_request().method == "BYE"
    assert (bench.sent[-1][2].spare, bench.sent[-1][2].name) == (("192.0.2.7", port), "far.example.com")


def test_a_new_connection_takes_over(bench: Bench) -> None:
    peer = bench.peer(TCP)
    dialog = bench.call(peer)
    peer.flow = Flow("TCP", ("192.0.2.7", 40001), TCP.local, 2)
    peer.ask("INFO")
    bench.hang_up(dialog)
    assert bench.sent[-1][2].serial == 2
    assert not bench.agent.calls.uses(TCP)


# --- floods --------------------------------------------------------------------------------------------------------


def test_a_source_that_asks_too_much_is_not_heard() -> None:
    bench = Bench(rate=10.0, burst=30)
    peer = bench.peer()
    for _ in range(40):
        peer.ask("OPTIONS")
    assert bench.heard() == ["200"] * 30
    assert bench.told() == ["shed: too many requests a second"] * 10
    assert bench.agent.dropped["too many requests a second"] == 10
    bench.peer(Flow("UDP", ("192.0.2.8", 5060), UDP.local)).ask("OPTIONS")
    bench.wait(0.1)
    peer.ask("OPTIONS")
    assert bench.heard() == ["200", "200"]


def test_on_a_connection_a_shed_request_is_told_so() -> None:
    """Nothing is sent again there."""
    bench = Bench(rate=0.0, burst=0)
    bench.peer(TCP).ask("INVITE", body=OFFER)
    assert (bench.last().code, bench.last().headers.get("Retry-After"), bench.last().to_tag) == (503, "10", "shed")
    assert bench.told() == ["shed: too many requests a second"]
    assert is_empty(bench)


def test_requests_within_a_call_are_no_flood() -> None:
    bench = Bench(rate=0.0, burst=1)
    peer = bench.peer()
    bench.call(peer)
    for _ in range(20):
        peer.ask("INFO")
    peer.ask("BYE")
    assert bench.heard() == ["200"] * 21


def test_one_call_cannot_take_all_transactions(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transactions, "MAX_SERVED", 4 * BURST)
    storming, other = bench.peer(), bench.peer()
    bench.call(storming)
    for _ in range(5 * BURST):
        storming.ask("INFO")
    assert bench.heard() == ["200"] * BURST
    assert bench.told()[:1] == ["shed: too many requests a second"]
    other.ask("INVITE", body=OFFER)
    assert bench.heard() == ["100"]
    bench.wait(1)
    storming.ask("BYE")
    assert "200" in bench.heard()


def test_20_calls_a_second_from_one_trunk_are_no_flood(bench: Bench) -> None:
    for _ in range(150):
        peer = bench.peer()
        bench.call(peer)
        peer.ask("BYE")
        bench.wait(0.05)
    assert not bench.agent.dropped


def test_garbage_counts_as_something_new() -> None:
    bench = Bench(rate=0.0, burst=2)
    for _ in range(5):
        bench.receive(bench.peer().build("OPTIONS", cseq=1, Max_Forwards="x"))
    assert bench.heard() == ["400", "400"]
    assert bench.agent.dropped["unreadable"] == 5


def test_there_is_a_limit_to_what_is_kept(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transactions, "MAX_SERVED", 3)
    for _ in range(5):
        bench.peer().ask("OPTIONS")
    assert bench.heard() == ["200"] * 3
    assert bench.told() == ["shed: too many transactions"] * 2
    bench.wait(32)
    bench.peer().ask("OPTIONS")
    assert bench.heard() == ["200"]


def test_responses_to_nothing_are_dropped(bench: Bench) -> None:
    bench.receive((TORTURE / "bcast.dat").read_bytes())
    assert bench.heard() == []
    assert bench.agent.dropped["response to nothing"] == 1


def test_calls_that_are_over_are_not_kept_by_their_session_timers(bench: Bench) -> None:
    bench.call(bench.peer(), "Supported: timer", "Session-Expires: 1800")  # which goes on
    dialogs = []
    for _ in range(200):
        peer = bench.peer()
        dialogs.append(weakref.ref(bench.call(peer, "Supported: timer", "Session-Expires: 1800")))
        peer.ask("BYE")
        bench.wait(1)
    bench.wait(64)
    bench.told()
    gc.collect()
    assert sum(dialog() is not None for dialog in dialogs) <= SLACK


# --- RFC 4475 ------------------------------------------------------------------------------------------------------

# What a user agent answers to the messages of RFC 4475 that can be read; see test_wire.py for all the others.
ANSWERS = {
    "wsinv": "481",  # its To has a tag that names no dialog of ours
    "intmeth": "501",
    "esc01": "100",
    "escnull": "405",
    "esc02": "501",
    "lwsdisp": "200",
    "longreq": "100",
    "dblreq": "405",
    "semiuri": "200",
    "transports": "200",
    "mpart01": "405",
    "unreason": "",
    "noreason": "",
    "trws": "200",
    "baddate": "100",
    "regbadct": "405",
    "badaspec": "200",
    "baddn": "200",
    "badbranch": "200",
    "unksm2": "405",
    "bext01": "420",
    "invut": "415",
    "regaut01": "405",
    "bcast": "",
    "zeromf": "200",
    "cparam01": "405",
    "cparam02": "405",
    "regescrt": "405",
    "sdp01": "100",  # its Accept refuses SDP: choice, because an answer in SDP is what it offers in
    "inv2543": "100",
}


@pytest.mark.parametrize("name", ANSWERS)
def test_torture(bench: Bench, name: str) -> None:
    bench.receive((TORTURE / f"{name}.dat").read_bytes())
    assert " ".join(bench.heard()) == ANSWERS[name]
    bench.receive(bench.peer().build("OPTIONS", cseq=1))
    assert bench.heard() == ["200"]


def test_tokens_are_not_guessed() -> None:
    """Without a test's own token, tags are random."""
    agents = [UserAgent(), UserAgent()]
    tags = set()
    for agent in agents:
        bench = Bench()
        bench.agent = agent
        bench.peer().ask("INVITE", body=OFFER)
        tags.add(bench.invited().id[1])
    assert len(tags) == 2
    assert all(len(tag) == 16 for tag in tags)
