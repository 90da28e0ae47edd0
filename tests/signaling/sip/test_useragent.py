"""useragent.py: whole conversations with a made-up clock and no socket."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from pathlib import Path

import pytest

from signaling.sip import transactions
from signaling.sip.alarms import SLACK
from signaling.sip.calls import ALLOW
from signaling.sip.dialog import RING_S, State
from signaling.sip.message import Response
from signaling.sip.transaction import Flow
from signaling.sip.useragent import UserAgent
from tests.signaling.sip.bench import TCP, UDP, Bench
from tests.signaling.sip.peer import OFFER

TORTURE = Path(__file__).parents[2] / "data" / "rfc4475"
REPEATS = [0.5, 1.5, 3.5, 7.5, 11.5, 15.5, 19.5, 23.5, 27.5, 31.5]


@pytest.fixture
def bench() -> Bench:
    return Bench()


def times(bench: Bench, since: float, what: str) -> list[float]:
    """When that was sent, in seconds after `since`."""
    named = [(at, str(m.code) if isinstance(m, Response) else m.method) for at, m, _ in bench.sent]
    return [at - since for at, name in named if name == what]


def is_empty(bench: Bench) -> bool:
    """Whether nothing is kept and nothing is awaited."""
    return bench.agent.left_over() == 0 and bench.agent.next_at is None


# --- calls ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flow", [UDP, TCP])
def test_a_call(bench: Bench, flow: Flow) -> None:
    peer = bench.peer(flow)
    peer.ask("INVITE", "Record-Route: <sip:p1;lr>, <sip:p0;lr>", body=OFFER)
    assert bench.heard() == ["100"]
    dialog = bench.invited()
    bench.ring(dialog)
    ringing = bench.last()
    bench.accept(dialog, "v=0 answer")
    answer = bench.last()
    assert bench.heard() == ["180", "200"]
    for response in (ringing, answer):
        assert response.to_tag == dialog.id[1]
        assert response.headers.getlist("Record-Route") == ("<sip:p1;lr>, <sip:p0;lr>",)
        suffix = "" if flow is UDP else ";transport=tcp"
        assert response.headers.get("Contact") == f"<sip:198.51.100.1:5060{suffix}>"
    assert (answer.body, answer.headers.get("Content-Type")) == (b"v=0 answer", "application/sdp")
    assert answer.headers.get("Allow") == ALLOW
    peer.to_tag = dialog.id[1]
    peer.ack(answer)
    peer.ask("BYE")
    assert bench.heard() == ["200"]
    assert bench.told() == ["invited", "ended by caller: hung up"]
    assert bench.agent.idle
    bench.wait(64)
    assert bench.heard() == []
    assert is_empty(bench)


def test_early_media(bench: Bench) -> None:
    bench.peer().ask("INVITE", body=OFFER)
    bench.ring(bench.invited(), "v=0 early")
    assert (bench.last().code, bench.last().body) == (183, b"v=0 early")


def test_a_bye_of_ours(bench: Bench) -> None:
    peer = bench.peer()
    dialog = bench.call(peer)
    bench.hang_up(dialog, 'a "reason"')
    bye = bench.last_request()
    assert bye.headers.get("Reason") == "SIP;text=\"a 'reason'\""
    assert bench.told() == ['ended by agent: a "reason"']
    bench.wait(1.9)
    assert times(bench, bench.now - 1.9, "BYE") == [0.0, 0.5, 1.5]
    peer.answer(bye)
    assert bench.agent.idle
    bench.wait(64)
    assert len(bench.heard()) == 3
    assert is_empty(bench)


def test_a_bye_that_nobody_answers_ends_by_itself(bench: Bench) -> None:
    dialog = bench.call(bench.peer())
    start = bench.now
    bench.hang_up(dialog)
    bench.wait(64)
    assert times(bench, start, "BYE") == [0.0, *REPEATS]
    assert is_empty(bench)


def test_byes_that_cross(bench: Bench) -> None:
    peer = bench.peer()
    dialog = bench.call(peer)
    bench.hang_up(dialog)
    peer.ask("BYE")
    assert bench.heard() == ["BYE", "200"]
    assert bench.told() == ["ended by agent: enough"]
    for method in ("INVITE", "UPDATE", "INFO"):
        peer.ask(method)
        assert bench.last().code == 481


def test_200_calls_leave_nothing_behind(bench: Bench) -> None:
    for number in range(200):
        peer = bench.peer((UDP, TCP)[number % 2])
        dialog = bench.call(peer)
        if number % 3:
            peer.ask("BYE")
        else:
            bench.hang_up(dialog)
            peer.answer(bench.last_request())
        bench.wait(0.1)
    bench.wait(64)
    assert is_empty(bench)


# --- 2xx, ACK and their loss ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("flow", [UDP, TCP])
def test_a_200_is_repeated_for_32_s_then_bye(bench: Bench, flow: Flow) -> None:
    peer = bench.peer(flow)
    peer.ask("INVITE", body=OFFER)
    start = bench.now
    bench.accept(bench.invited())
    bench.wait(40)
    assert times(bench, start, "200") == [0.0, *REPEATS]
    assert times(bench, start, "BYE")[0] == 32.0
    assert bench.told() == ["invited", "ended by network: our answer was never acknowledged"]
    bench.wait(64)
    assert is_empty(bench)


def test_a_200_is_repeated_to_where_the_invite_came_from(bench: Bench) -> None:
    """Its topmost Via is that sender's, though the next request may come by another way (section 18.2.2)."""
    peer = bench.peer()
    peer.ask("INVITE", body=OFFER)
    bench.accept(bench.invited())
    peer.to_tag = bench.invited().id[1]
    peer.flow = Flow("UDP", ("192.0.2.8", 5080), UDP.local)
    peer.ask("INFO")
    assert bench.sent[-1][2] == peer.flow
    bench.wait(0.5)
    assert (bench.last().code, bench.sent[-1][2]) == (200, UDP)
    bench.hang_up(bench.invited())
    peer.ack(bench.last())
    assert bench.sent[-1][2] == peer.flow


def test_an_ack_that_comes_late(bench: Bench) -> None:
    peer = bench.peer()
    peer.ask("INVITE", body=OFFER)
    bench.accept(bench.invited())
    answer = bench.last()
    bench.wait(2.0)
    assert bench.heard() == ["100", "200", "200", "200"]
    peer.to_tag = answer.to_tag
    peer.ack(answer)
    peer.ack(answer)
    bench.wait(60)
    assert bench.heard() == []
    assert bench.invited().state is State.CONFIRMED


def test_an_ack_for_another_invite_is_none(bench: Bench) -> None:
    peer = bench.peer()
    peer.ask("INVITE", body=OFFER)
    dialog = bench.invited()
    bench.accept(dialog)
    peer.to_tag = dialog.id[1]
    peer.send(peer.build("ACK", cseq=9))
    peer.to_tag = "another"
    peer.send(peer.build("ACK", cseq=1))
    assert bench.agent.dropped["ACK for nothing"] == 2
    assert dialog.state is State.ACCEPTED


def test_an_ack_with_the_branch_of_its_invite(bench: Bench) -> None:
    """As RFC 2543 had it, and some phones still do."""
    peer = bench.peer()
    invite = peer.ask("INVITE", body=OFFER)
    dialog = bench.invited()
    bench.accept(dialog)
    peer.to_tag = dialog.id[1]
    branch = invite.split(b"Via: ")[1].split(b"\r\n")[0].decode()
    peer.send(peer.build("ACK", cseq=1, Via=branch))
    assert dialog.state is State.CONFIRMED


def test_hung_up_before_the_ack_bye_waits_for_it(bench: Bench) -> None:
    """RFC 3261, section 15."""
    peer = bench.peer()
    peer.ask("INVITE", body=OFFER)
    dialog = bench.invited()
    bench.accept(dialog)
    answer = bench.last()
    bench.hang_up(dialog)
    assert bench.told() == ["invited", "ended by agent: enough"]
    bench.wait(1.0)
    assert bench.heard() == ["100", "200", "200"]
    peer.to_tag = answer.to_tag
    peer.ack(answer)
    assert bench.heard() == ["BYE"]
    assert bench.told() == []


def test_hung_up_and_never_acknowledged(bench: Bench) -> None:
    bench.peer().ask("INVITE", body=OFFER)
    start = bench.now
    bench.accept(bench.invited())
    bench.hang_up(bench.invited())
    bench.wait(33)
    assert times(bench, start, "BYE")[0] == 32.0
    assert bench.told() == ["invited", "ended by agent: enough"]


def test_the_caller_may_bye_without_ack(bench: Bench) -> None:
    peer = bench.peer()
    peer.ask("INVITE", body=OFFER)
    bench.accept(bench.invited())
    peer.to_tag = bench.invited().id[1]
    peer.ask("BYE", 'Reason: Q.850;cause=16;text="bored\tstiff"')
    bench.wait(64)
    assert bench.heard() == ["100", "200", "200"]
    assert bench.told() == ["invited", "ended by caller: bored stiff"]
    assert is_empty(bench)


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


# --- before the answer ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("code", "retry"), [(486, ""), (503, "10"), (404, ""), (488, "")])
def test_a_call_is_declined(bench: Bench, code: int, retry: str) -> None:
    bench.peer().ask("INVITE", body=OFFER)
    bench.reject(bench.invited(), code)
    assert (bench.last().code, bench.last().headers.get("Retry-After")) == (code, retry)


def test_hung_up_while_it_rings(bench: Bench) -> None:
    bench.peer().ask("INVITE", body=OFFER)
    bench.ring(bench.invited())
    bench.hang_up(bench.invited())
    assert bench.heard() == ["100", "180", "480"]


def test_what_comes_too_late_has_no_effect(bench: Bench) -> None:
    bench.peer().ask("INVITE", body=OFFER)
    dialog = bench.invited()
    bench.reject(dialog)
    bench.ring(dialog)
    bench.accept(dialog)
    bench.reject(dialog, 404)
    bench.hang_up(dialog)
    assert bench.heard() == ["100", "486"]
    assert bench.told() == ["invited", "ended by agent: no"]


def test_it_does_not_ring_for_ever(bench: Bench) -> None:
    peer = bench.peer()
    peer.ask("INVITE", body=OFFER)
    bench.ring(bench.invited())
    bench.wait(RING_S)
    assert bench.last().code == 480
    assert bench.told() == ["invited", "ended by agent: nobody answered"]


def test_cancel(bench: Bench) -> None:
    peer = bench.peer()
    peer.ask("INVITE", body=OFFER)
    dialog = bench.invited()
    bench.ring(dialog)
    peer.cancel()
    cancelled, terminated = bench.sent[-2][1], bench.last()
    assert isinstance(cancelled, Response)
    assert (cancelled.code, cancelled.cseq[1]) == (200, "CANCEL")
    assert (terminated.code, terminated.cseq[1]) == (487, "INVITE")
    assert cancelled.to_tag == terminated.to_tag == dialog.id[1]
    assert bench.told() == ["invited", "ended by caller: cancelled"]
    bench.heard()
    bench.accept(dialog)
    assert bench.heard() == []
    bench.wait(1.6)
    assert bench.heard() == ["487", "487"]
    peer.ack(terminated)
    bench.wait(64)
    assert bench.heard() == []
    assert is_empty(bench)


def test_cancel_that_comes_after_the_answer_has_no_effect(bench: Bench) -> None:
    peer = bench.peer()
    peer.ask("INVITE", body=OFFER)
    bench.accept(bench.invited())
    peer.cancel()
    assert bench.heard() == ["100", "200", "200"]
    assert bench.told() == ["invited"]


def test_cancel_of_nothing(bench: Bench) -> None:
    peer = bench.peer()
    peer.invite = peer.build("INVITE", cseq=1)
    peer.cancel()
    assert bench.heard() == ["481"]


def test_bye_while_it_rings(bench: Bench) -> None:
    """RFC 3261, section 15.1.2."""
    peer = bench.peer()
    peer.ask("INVITE", body=OFFER)
    bench.ring(bench.invited())
    peer.to_tag = bench.invited().id[1]
    peer.ask("BYE")
    assert bench.heard() == ["100", "180", "200", "487"]
    assert bench.told() == ["invited", "ended by caller: hung up"]


# --- offers --------------------------------------------------------------------------------------------------------


def test_delayed_offer(bench: Bench) -> None:
    peer = bench.peer()
    peer.ask("INVITE")
    dialog = bench.invited()
    assert dialog.remote_media is None
    bench.accept(dialog, "our offer")
    assert bench.last().body == b"our offer"
    peer.to_tag = dialog.id[1]
    peer.ack(bench.last(), body="their answer")
    peer.ack(bench.last(), body="their answer")
    assert bench.told() == ["invited", "answered: their answer"]


@pytest.mark.parametrize("ack", [{}, {"body": "hello", "Content_Type": "text/plain"}], ids=["empty", "no SDP"])
def test_delayed_offer_without_an_answer_ends_the_call(bench: Bench, ack: dict[str, str]) -> None:
    peer = bench.peer()
    peer.ask("INVITE")
    dialog = bench.invited()
    bench.accept(dialog, "our offer")
    peer.to_tag = dialog.id[1]
    peer.send(peer.build("ACK", cseq=1, body=ack.get("body", ""), **{k: v for k, v in ack.items() if k != "body"}))
    assert bench.heard() == ["100", "200", "BYE"]
    assert bench.told() == ["invited", "ended by agent: the ACK brought no answer to our offer"]


@pytest.mark.parametrize("method", ["INVITE", "UPDATE"])
def test_hold_and_resume(bench: Bench, method: str) -> None:
    peer = bench.peer()
    dialog = bench.call(peer)
    for offer in ("hold", "resume"):
        peer.ask(method, body=offer, Contact="<sip:moved@192.0.2.7:5071>")
        changed = bench.changed()
        assert bench.told() == [f"changed: {offer}"]
        bench.change(changed, f"answer to {offer}")
        assert (bench.last().code, bench.last().body) == (200, f"answer to {offer}".encode())
        if method == "INVITE":
            peer.ack(bench.last())
    assert dialog.target == "sip:moved@192.0.2.7:5071"
    assert dialog.state is State.CONFIRMED
    bench.wait(64)
    assert bench.heard() == (["100", "200"] if method == "INVITE" else ["200"]) * 2


@pytest.mark.parametrize("method", ["INVITE", "UPDATE"])
def test_an_unchanged_body_gets_the_same_answer(bench: Bench, method: str) -> None:
    peer = bench.peer()
    bench.call(peer)
    peer.ask(method, body=OFFER)
    assert bench.told() == []
    assert (bench.last().code, bench.last().body) == (200, b"answer")


def test_a_reinvite_without_sdp_gets_our_offer(bench: Bench) -> None:
    peer = bench.peer()
    bench.call(peer)
    peer.ask("INVITE")
    changed = bench.changed()
    assert changed.offer is None
    bench.change(changed, "our offer")
    peer.ack(bench.last(), body="their answer")
    assert bench.told() == ["changed: None", "answered: their answer"]
    peer.ask("INVITE", body="their answer")  # an offer now: ours cannot stand as its answer
    assert bench.told() == ["changed: their answer"]


@pytest.mark.parametrize("outcome", [488, None], ids=["refused", "too late"])
def test_a_refused_change_leaves_the_session_as_it_was(bench: Bench, outcome: int | None) -> None:
    peer = bench.peer()
    dialog = bench.call(peer)
    peer.ask("INVITE", body="codec we lack", Contact="<sip:moved@h>")
    changed = bench.changed()
    if outcome is None:
        bench.wait(4.9)
        assert bench.heard() == ["100"]
        bench.wait(0.1)
    else:
        bench.change(changed, outcome)
    refusal = bench.last()
    assert refusal.code == 488
    peer.ack(refusal)
    bench.change(changed, "too late")
    bench.wait(64)
    assert bench.last() == refusal
    assert (dialog.state, dialog.target) == (State.CONFIRMED, f"sip:peer@{UDP.remote[0]}:{UDP.remote[1]}")
    peer.ask("INVITE", body=OFFER)
    assert (bench.last().code, bench.last().body) == (200, b"answer")


def test_an_answer_to_one_change_is_none_to_the_next(bench: Bench) -> None:
    peer = bench.peer()
    bench.call(peer)
    peer.ask("UPDATE", body="one")
    first = bench.changed()
    bench.wait(5)
    peer.ask("UPDATE", body="two")
    bench.heard()
    bench.change(first, "answer to one")
    assert bench.heard() == []
    bench.change(bench.changed(), "answer to two")
    assert bench.last().body == b"answer to two"


def test_a_change_that_is_cancelled(bench: Bench) -> None:
    peer = bench.peer()
    dialog = bench.call(peer)
    peer.ask("INVITE", body="hold")
    peer.cancel()
    assert bench.heard() == ["100", "200", "487"]
    bench.change(bench.changed(), "answer")
    assert bench.heard() == []
    assert dialog.state is State.CONFIRMED


@pytest.mark.parametrize("ours", [True, False])
def test_the_call_ends_while_a_change_is_pending(bench: Bench, ours: bool) -> None:
    peer = bench.peer()
    dialog = bench.call(peer)
    peer.ask("INVITE", body="hold")
    if ours:
        bench.hang_up(dialog)
        assert bench.heard() == ["100", "487", "BYE"]
    else:
        peer.ask("BYE")
        assert sorted(bench.heard()) == ["100", "200", "487"]
    bench.wait(64)
    assert is_empty(bench)


def test_glare(bench: Bench) -> None:
    """RFC 3261, section 14.2 and RFC 3311, section 5.2."""
    peer = bench.peer()
    peer.ask("INVITE")
    dialog = bench.invited()
    peer.to_tag = dialog.id[1]
    peer.ask("UPDATE", body="while it rings")
    assert bench.last().code == 500
    bench.accept(dialog, "our offer")
    answer = bench.last()
    for method, code in (("INVITE", 500), ("UPDATE", 491)):
        peer.ask(method, body="while our offer is open")
        assert bench.last().code == code
        assert 0 <= int(bench.last().headers.get("Retry-After")) <= 10
    peer.ack(answer, body="their answer")
    peer.ask("INVITE", body="hold")
    for method in ("INVITE", "UPDATE"):
        peer.ask(method, body="while an offer of theirs is open")
        assert bench.last().code == 500
    bench.change(bench.changed(), "answer to hold")
    for method in ("INVITE", "UPDATE"):
        peer.ask(method, body="while our 2xx is not acknowledged")
        assert bench.last().code == 500
    assert bench.told() == ["invited", "answered: their answer", "changed: hold"]


def test_a_reinvite_is_given_up_like_an_invite(bench: Bench) -> None:
    peer = bench.peer()
    bench.call(peer)
    peer.ask("INVITE", body="hold")
    bench.change(bench.changed(), "answer")
    bench.heard()
    bench.wait(33)
    assert bench.told() == ["changed: hold", "ended by network: our answer was never acknowledged"]
    assert bench.heard().count("200") == 10


def test_storms_of_changes_are_refused(bench: Bench) -> None:
    peer = bench.peer()
    bench.call(peer)
    for number in range(7):
        peer.ask("UPDATE", body=f"offer {number}")
        if number < 5:
            bench.change(bench.changed(), "answer")
    assert bench.heard() == ["200"] * 5 + ["500"] * 2
    bench.wait(2)
    peer.ask("UPDATE", body="later")
    bench.change(bench.changed(), "answer")
    assert bench.heard() == ["200"]


# --- session timer -------------------------------------------------------------------------------------------------


def test_the_session_timer_is_answered(bench: Bench) -> None:
    """RFC 4028, section 9: the peer refreshes."""
    peer = bench.peer()
    peer.ask("INVITE", "Supported: timer", "Session-Expires: 1800", body=OFFER)
    bench.accept(bench.invited())
    answer = bench.last()
    assert answer.headers.get("Session-Expires") == "1800;refresher=uac"
    assert (answer.headers.get("Require"), answer.headers.get("Supported")) == ("timer", "timer")


@pytest.mark.parametrize("fields", [["Session-Expires: 1800"], ["Supported: timer"], []])
def test_without_a_session_timer(bench: Bench, fields: list[str]) -> None:
    bench.call(bench.peer(), *fields)
    bench.wait(86_400)
    assert bench.heard() == []


def test_a_session_that_is_not_refreshed_ends(bench: Bench) -> None:
    bench.call(bench.peer(), "Supported: timer", "Session-Expires: 90")
    bench.wait(59.9)
    assert bench.heard() == []
    bench.wait(0.2)
    assert bench.heard() == ["BYE"]
    assert bench.told() == ["ended by network: the session was not refreshed in time"]


@pytest.mark.parametrize("method", ["INVITE", "UPDATE"])
def test_a_session_that_is_refreshed_lives_on(bench: Bench, method: str) -> None:
    peer = bench.peer()
    bench.call(peer, "Supported: timer", "Session-Expires: 90")
    for _ in range(20):
        bench.wait(45)
        peer.ask(method, "Supported: timer", "Session-Expires: 90", body=OFFER if method == "INVITE" else "")
        assert bench.last().headers.get("Session-Expires") == "90;refresher=uac"
        if method == "INVITE":
            peer.ack(bench.last())
    assert bench.told() == []
    peer.ask(method, body=OFFER if method == "INVITE" else "")  # a refresh without the timer switches it off
    if method == "INVITE":
        peer.ack(bench.last())
    bench.wait(10_000)
    assert bench.told() == []


@pytest.mark.parametrize("method", ["INVITE", "UPDATE"])
def test_an_interval_that_is_too_small(bench: Bench, method: str) -> None:
    peer = bench.peer()
    if method == "UPDATE":
        bench.call(peer)
    peer.ask(method, "Supported: timer", "Session-Expires: 60")
    assert (bench.last().code, bench.last().headers.get("Min-SE")) == (422, "90")
    assert bench.told() == []


# --- methods and header fields -------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["REGISTER", "SUBSCRIBE", "NOTIFY", "PUBLISH", "MESSAGE", "REFER", "PRACK"])
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


@pytest.mark.parametrize("method", ["BYE", "UPDATE", "INFO"])
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
    wanted = {"Allow": ALLOW, "Accept": "application/sdp", "Supported": "timer", "Contact": "<sip:198.51.100.1:5060>"}
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
    bench.peer().ask(method, "Require: timer, 100rel", "Require: fancy")
    assert (bench.last().code, bench.last().headers.get("Unsupported")) == (420, "100rel, fancy")
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
    bench.peer().ask("INVITE", "Record-Route: <nowhere>", body=OFFER)
    assert bench.heard() == ["400"]


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
    assert bench.sent[-1][2] == replace(TCP, spare=("192.0.2.7", 40000))  # which the Contact names


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


# --- closing -------------------------------------------------------------------------------------------------------


def test_closing_ends_everything_at_once(bench: Bench) -> None:
    ringing, unacknowledged, talking = (bench.peer() for _ in range(3))
    ringing.ask("INVITE", body=OFFER)
    unacknowledged.ask("INVITE", body=OFFER)
    bench.accept(bench.invited())
    bench.call(talking)
    bench.events.clear()
    bench.heard()
    bench.agent.calls.close("shutting down", bench.now)
    bench.collect()
    assert bench.heard() == ["480", "BYE", "BYE"]
    assert bench.told() == ["ended by agent: shutting down"] * 3
    assert not bench.agent.idle


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
