"""calls.py: whole calls with a made-up clock and no socket."""

from __future__ import annotations

import pytest

from signaling.sip.capabilities import ALLOW
from signaling.sip.dialog import RING_S, State
from signaling.sip.message import Response
from signaling.sip.transaction import Flow
from tests.signaling.sip.bench import TCP, UDP, Bench, is_empty
from tests.signaling.sip.peer import OFFER

REPEATS = [0.5, 1.5, 3.5, 7.5, 11.5, 15.5, 19.5, 23.5, 27.5, 31.5]


@pytest.fixture
def bench() -> Bench:
    return Bench()


def times(bench: Bench, since: float, what: str) -> list[float]:
    """When that was sent, in seconds after `since`."""
    named = [(at, str(m.code) if isinstance(m, Response) else m.method) for at, m, _ in bench.sent]
    return [at - since for at, name in named if name == what]


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
    assert answer.headers.get("Require") == "timer"
    assert "timer" in answer.headers.options("Supported")


@pytest.mark.parametrize("fields", [["Session-Expires: 10"], ["Supported: timer"], []])
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
