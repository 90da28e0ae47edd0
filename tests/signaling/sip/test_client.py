"""client.py: calls of ours, with a made-up clock and no socket: each state, each race."""

from __future__ import annotations

import pytest

from signaling.sip.changes import Change
from signaling.sip.client import MAX_RAISED
from signaling.sip.digest import parse_credentials
from signaling.sip.events import Failed
from signaling.sip.message import Request
from signaling.sip.placed import PLACING, Do, Input, Invitation, State
from signaling.sip.transaction import Flow
from tests.signaling.sip.bench import TCP, TLS, UDP, Bench, is_empty
from tests.signaling.sip.far import LOGIN, THEM, US, Far

CHALLENGE = 'Digest realm="r", nonce="n{}", qop="auth", algorithm={}'
RELIABLE = "Require: 100rel"


@pytest.fixture
def bench() -> Bench:
    return Bench()


def sent(bench: Bench, method: str) -> list[Request]:
    return [m for _, m, _ in bench.sent if isinstance(m, Request) and m.method == method]


def established(bench: Bench, *extra: str, **changed: object) -> Far:
    """A call that both are in."""
    far = Far(bench, **changed)  # type: ignore[arg-type]  # a test's own
    far.say(200, *extra, body="answer")
    bench.heard()
    return far


# --- the table -----------------------------------------------------------------------------------------------------

OPEN = (State.CALLING, State.RINGING, State.PAUSED)


def test_a_call_is_told_of_once() -> None:
    """What leaves the open states tells of it, by one action; what comes later does not."""
    for (state, _), (after, actions) in PLACING.items():
        told = sum(action in (Do.TAKE, Do.FAIL) for action in actions)
        assert told == (state in OPEN and after not in OPEN)


def test_no_cancel_before_a_provisional_response() -> None:
    cancelled = {cell for cell, (_, actions) in PLACING.items() if Do.CANCEL in actions}
    assert cancelled == {(State.RINGING, Input.GIVE_UP), (State.HASTY, Input.PROVISIONAL)}


def test_every_2xx_is_acknowledged_and_only_the_first_of_a_call_that_is_wanted_is_kept() -> None:
    for (state, what), (_, actions) in PLACING.items():
        if what in (Input.SUCCESS, Input.HOLLOW, Input.REPEATED):
            (answer, *_) = actions
            kept = what is Input.SUCCESS and state in OPEN
            assert answer is (Do.TAKE if kept else Do.ACK if what is Input.REPEATED else Do.RELEASE)
    may_be_taken = {State.CALLING, State.RINGING, State.HASTY, State.CANCELLING, State.TAKEN, State.LEAVING}
    assert {state for state, what in PLACING if what is Input.SUCCESS} == may_be_taken
    assert {state for state, what in PLACING if what is Input.HOLLOW} == may_be_taken


def test_every_state_has_an_end() -> None:
    """Of itself or by the ring alarm; and nothing comes after it."""
    ends = {(state, what) for (state, what), (after, _) in PLACING.items() if after is not state}
    for state in set(State) - {State.OVER}:
        assert {what for at, what in ends if at is state} & {Input.GIVE_UP, Input.FORGET, Input.NOBODY}
    assert not [state for state, _ in PLACING if state is State.OVER]


# --- calls ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flow", [UDP, TCP])
def test_a_call(bench: Bench, flow: Flow) -> None:
    far = Far(bench, flow=flow)
    invite = far.invite
    assert (invite.uri, str(invite.from_.uri), str(invite.to.uri)) == (THEM, US, THEM)
    assert (invite.cseq, invite.media, invite.content_type) == ((1, "INVITE"), "offer", "application/sdp")
    assert invite.headers.options("Supported") == ("100rel", "timer")
    assert invite.headers.get("Session-Expires") == "1800;refresher=uac"
    assert invite.contact.startswith("sip:198.51.100.1:5060")
    far.say(100, tag="")
    far.say(180)
    far.say(200, body="answer")
    ack = far.last()
    assert isinstance(ack, Request)
    assert (ack.method, ack.uri, ack.cseq, ack.to_tag, ack.body) == (
        *("ACK", "sip:far@192.0.2.7:5070", (1, "ACK"), "far"),
        b"",
    )
    assert ack.via.parameters["branch"] != invite.via.parameters["branch"]
    assert bench.heard() == ["INVITE", "ACK"]
    assert bench.told() == ["progress 180", "taken: answer"]
    far.ask("BYE", "Reason: SIP;text=done")
    assert bench.heard() == ["200"]
    assert bench.told() == ["ended by callee: done"]
    bench.wait(64)
    assert bench.heard() == [] and bench.told() == []
    assert is_empty(bench)


def test_a_bye_of_ours(bench: Bench) -> None:
    far = Far(bench)
    far.say(200, body="answer")
    bench.hang_up(far.taken(), "goodbye")
    bye = far.asked("BYE")
    assert (bye.uri, bye.cseq) == ("sip:far@192.0.2.7:5070", (2, "BYE"))
    far.say(200, to=bye)
    assert bench.told() == ["taken: answer", "ended by agent: goodbye"]
    assert bench.agent.idle
    bench.wait(64)
    assert is_empty(bench)


def test_a_2xx_is_acknowledged_each_time_it_comes(bench: Bench) -> None:
    far = Far(bench)
    for _ in range(3):
        far.say(200, body="answer")
    acks = sent(bench, "ACK")
    assert len(acks) == 3 and len(set(map(bytes, acks))) == 1
    assert bench.told() == ["taken: answer"]


def test_the_route_there_and_back(bench: Bench) -> None:
    far = Far(bench, routes=("<sip:edge.example.com;lr>",))
    assert far.invite.headers.getlist("Route") == ("<sip:edge.example.com;lr>",)
    routes = ("Record-Route: <sip:p2;lr>, <sip:p1;lr>", "Contact: <sip:b@10.0.0.9>")
    far.say(180, "Record-Route: <sip:other;lr>")
    far.say(200, *routes, body="answer")
    ack = far.asked("ACK")
    assert (ack.uri, ack.headers.getlist("Route")) == ("sip:b@10.0.0.9", ("<sip:p1;lr>", "<sip:p2;lr>"))
    assert bench.sent[-1][2].remote == UDP.remote, "whoever is named there is not one we trust"


def test_nobody_answers(bench: Bench) -> None:
    began = bench.now
    Far(bench)
    bench.wait(31.9)
    assert [at - began for at, _, _ in bench.sent] == [0.0, 0.5, 1.5, 3.5, 7.5, 15.5, 31.5]
    bench.wait(1)
    assert bench.told() == ["failed by network, unreachable: no answer from 192.0.2.7:5070"]
    assert is_empty(bench)


@pytest.mark.parametrize("late", [200, 180])
def test_what_comes_after_the_end_is_for_nobody(bench: Bench, late: int) -> None:
    far = Far(bench)
    bench.wait(33)
    bench.heard()
    far.say(late, body="answer")
    assert bench.heard() == []
    assert is_empty(bench)


REFUSED = [
    (300, "network, failed: the far end has moved, and calls are not forwarded: 300 Fine"),
    (302, "network, failed: the far end has moved, and calls are not forwarded: 302 Fine"),
    (401, "network, forbidden: the far end asks for a user name and a password: 401 Fine (and we have none for it)"),
    (403, "network, forbidden: the far end does not allow this call: 403 Fine"),
    (404, "network, not found: the far end knows no such number: 404 Fine"),
    (480, "network, no answer: the far end says that nobody is there now: 480 Fine"),
    (486, "callee, busy: the far end is busy: 486 Fine"),
    (488, "network, not acceptable: the far end speaks none of what we offered: 488 Fine"),
    (503, "network, unreachable: the far end takes no calls now: 503 Fine"),
    (599, "network, failed: the far end did not put the call through: 599 Fine"),
    (603, "callee, declined: the far end declined: 603 Fine"),
]


@pytest.mark.parametrize(("code", "told"), REFUSED, ids=[str(code) for code, _ in REFUSED])
@pytest.mark.parametrize("rings", [True, False])
def test_a_call_that_is_refused(bench: Bench, rings: bool, code: int, told: str) -> None:
    far = Far(bench)
    if rings:
        far.say(180)
        bench.told()
    for _ in range(2):
        far.say(code)
    assert bench.told() == [f"failed by {told}"]
    acks = sent(bench, "ACK")
    assert len(acks) == 2, "the transaction acknowledges it, again if it comes again"
    assert {ack.via.parameters["branch"] for ack in acks} == {far.invite.via.parameters["branch"]}
    assert bench.agent.idle
    bench.wait(64)
    assert is_empty(bench)


def test_how_long_to_wait_after_a_503(bench: Bench) -> None:
    far = Far(bench)
    far.say(503, "Retry-After: 18;duration=5", "Reason: Q.850;cause=42;text=congestion")
    why = next(event.why for event in bench.events if isinstance(event, Failed))
    assert (why.retry_s, why.code) == (18.0, 503)
    assert why.reason == "the far end takes no calls now: 503 congestion"


# --- given up ------------------------------------------------------------------------------------------------------


def test_it_does_not_ring_for_ever(bench: Bench) -> None:
    far = Far(bench, ring_s=45)
    far.say(180)
    bench.wait(44.9)
    assert bench.told() == ["progress 180"]
    bench.wait(0.2)
    assert bench.told() == ["failed by agent, no answer: nobody took the call within 45 s"]
    cancel = far.asked("CANCEL")
    assert (cancel.via, cancel.cseq, cancel.to_tag) == (far.invite.via, (1, "CANCEL"), "")
    far.say(200, to=cancel)
    assert not bench.agent.idle
    far.say(487)
    assert bench.agent.idle
    assert bench.heard() == ["INVITE", "CANCEL", "ACK"]
    bench.wait(64)
    assert bench.told() == [] and is_empty(bench)


def test_a_cancel_waits_for_a_provisional_response(bench: Bench) -> None:
    far = Far(bench)
    far.give_up()
    assert bench.told() == ["failed by agent, cancelled: enough"]
    assert bench.heard() == ["INVITE"]
    far.say(100, tag="")
    far.say(180)
    assert bench.heard() == ["CANCEL"]
    assert bench.told() == []
    far.say(487)
    bench.wait(64)
    assert is_empty(bench)


@pytest.mark.parametrize("answer", ["answer", ""])
@pytest.mark.parametrize("rings", [True, False])
def test_a_2xx_that_crosses_our_giving_up_is_acknowledged_and_ended(bench: Bench, rings: bool, answer: str) -> None:
    far = Far(bench)
    if rings:
        far.say(180)
    far.give_up()
    bench.told()
    bench.heard()
    far.say(200, body=answer)
    assert bench.heard() == ["ACK", "BYE"]
    far.say(200, body=answer)
    assert bench.heard() == ["ACK"]
    bench.wait(64)
    assert bench.told() == [] and is_empty(bench)


@pytest.mark.parametrize("code", [401, 422, 486, 491])
@pytest.mark.parametrize("rings", [True, False])
def test_whatever_a_call_is_refused_with_after_it_was_given_up_is_its_end(bench: Bench, rings: bool, code: int) -> None:
    far = Far(bench, login=LOGIN)
    if rings:
        far.say(180)
    far.give_up()
    bench.heard()
    fields = {401: "WWW-Authenticate: " + CHALLENGE.format(1, "MD5"), 422: "Min-SE: 3600"}.get(code, "X: y")
    far.say(code, fields)
    assert bench.heard() == ["ACK"]
    bench.wait(64)
    assert is_empty(bench)


def test_a_cancel_that_nobody_heeds(bench: Bench) -> None:
    """RFC 3261, section 9.1: after 64 T1 the call counts as cancelled."""
    far = Far(bench)
    far.say(180)
    far.give_up()
    bench.wait(32.1)
    assert is_empty(bench)


def test_nobody_answers_a_call_that_was_given_up(bench: Bench) -> None:
    Far(bench).give_up()
    bench.wait(33)
    assert bench.told() == ["failed by agent, cancelled: enough"]
    assert is_empty(bench)


def test_giving_up_twice_or_after_the_answer_has_no_effect(bench: Bench) -> None:
    far = Far(bench)
    far.give_up()
    far.give_up("again")
    assert bench.told() == ["failed by agent, cancelled: enough"]
    far = established(bench)
    bench.told()
    far.give_up()
    assert bench.told() == [] and bench.heard() == []


# --- forks ---------------------------------------------------------------------------------------------------------


def test_the_first_fork_that_takes_it_has_the_call(bench: Bench) -> None:
    far = Far(bench)
    far.say(180, tag="a")
    far.say(183, tag="b", body="early b")
    far.say(200, tag="b", body="answer b")
    far.say(200, tag="a", body="answer a")
    far.say(200, tag="c", body="answer c")
    assert bench.told() == ["progress 180", "progress 183 with early b", "taken: answer b"]
    acks, byes = sent(bench, "ACK"), sent(bench, "BYE")
    assert [ack.to_tag for ack in acks] == ["b", "a", "c"]
    assert [bye.to_tag for bye in byes] == ["a", "c"]
    assert [ack.uri for ack in acks] == [f"sip:{tag}@192.0.2.7:5070" for tag in "bac"]
    bench.heard()
    for tag in "abc":
        far.say(200, tag=tag, body="answer")
    assert bench.heard() == ["ACK", "ACK", "ACK"]
    for bye in byes:
        far.say(200, to=bye)
    far.ask("BYE", tag="b")
    assert bench.told() == ["ended by callee: hung up"]
    bench.wait(64)
    assert is_empty(bench)


def test_a_bye_of_a_fork_that_was_not_wanted_says_nothing_of_the_call(bench: Bench) -> None:
    far = established(bench)
    far.say(200, tag="other", body="answer")
    bench.told()
    far.ask("BYE", tag="other")
    assert bench.told() == []
    far.ask("BYE")
    assert bench.told() == ["ended by callee: hung up"]


def test_there_is_a_limit_to_forks(bench: Bench) -> None:
    far = Far(bench)
    for number in range(40):
        far.say(180, tag=f"t{number}")
    assert len(bench.told()) == 16
    far.say(486)
    bench.wait(64)
    assert is_empty(bench)


# --- asked for something -------------------------------------------------------------------------------------------

ASKED = [(401, "WWW-Authenticate", "Authorization"), (407, "Proxy-Authenticate", "Proxy-Authorization")]


@pytest.mark.parametrize("algorithm", ["MD5", "SHA-256"])
@pytest.mark.parametrize(("code", "asks", "answers"), ASKED)
def test_a_password(bench: Bench, code: int, asks: str, answers: str, algorithm: str) -> None:
    far = Far(bench, login=LOGIN)
    first = far.invite
    far.say(code, f"{asks}: {CHALLENGE.format(1, algorithm)}")
    second = far.invite
    assert second.cseq == (2, "INVITE")
    assert (second.call_id, second.from_tag, second.media) == (first.call_id, first.from_tag, first.media)
    assert second.via.parameters["branch"] != first.via.parameters["branch"]
    told = parse_credentials(second.headers.get(answers))
    assert told.response == told.expected("secret", "INVITE")
    assert (told.uri, told.algorithm, told.nc) == (second.uri, algorithm, "00000001")
    far.say(180)
    far.say(200, body="answer")
    assert far.asked("ACK").cseq == (2, "ACK")
    bench.hang_up(far.taken())
    bye = parse_credentials(far.asked("BYE").headers.get(answers))
    assert (bye.response, bye.nc) == (bye.expected("secret", "BYE"), "00000003")
    assert bench.told() == ["progress 180", "taken: answer", "ended by agent: enough"]


def test_a_proxy_and_the_far_end_may_both_ask(bench: Bench) -> None:
    far = Far(bench, login=LOGIN)
    far.say(407, "Proxy-Authenticate: " + CHALLENGE.format(1, "MD5"))
    far.say(401, "WWW-Authenticate: " + CHALLENGE.format(2, "MD5"))
    assert far.invite.cseq == (3, "INVITE")
    assert far.invite.headers.get("Authorization") and far.invite.headers.get("Proxy-Authorization")


def test_without_qop(bench: Bench) -> None:
    far = Far(bench, login=LOGIN)
    far.say(401, 'WWW-Authenticate: Digest realm="r", nonce="n"')
    told = parse_credentials(far.invite.headers.get("Authorization"))
    assert (told.qop, told.response) == ("", told.expected("secret", "INVITE"))


def test_a_cancel_carries_what_its_invite_does(bench: Bench) -> None:
    far = Far(bench, login=LOGIN)
    far.say(407, "Proxy-Authenticate: " + CHALLENGE.format(1, "MD5"))
    far.say(180)
    far.give_up()
    cancel = far.asked("CANCEL")
    assert cancel.headers.get("Proxy-Authorization") == far.invite.headers.get("Proxy-Authorization") != ""
    assert cancel.cseq == (2, "CANCEL")


def test_a_wrong_password_is_told_once_and_not_again(bench: Bench) -> None:
    far = Far(bench, login=LOGIN)
    far.say(401, "WWW-Authenticate: " + CHALLENGE.format(1, "MD5"))
    far.say(401, "WWW-Authenticate: " + CHALLENGE.format(2, "MD5"))
    assert len(sent(bench, "INVITE")) == 2
    said = "the far end asks for a user name and a password: 401 Fine (user name or password refused by 'r')"
    assert bench.told() == [f"failed by network, forbidden: {said}"]


def test_a_stale_nonce_is_no_wrong_password(bench: Bench) -> None:
    far = Far(bench, login=LOGIN)
    far.say(401, "WWW-Authenticate: " + CHALLENGE.format(1, "MD5"))
    far.say(401, "WWW-Authenticate: " + CHALLENGE.format(2, "MD5") + ", stale=true")
    assert parse_credentials(far.invite.headers.get("Authorization")).nonce == "n2"
    assert bench.told() == []


@pytest.mark.parametrize("right", [True, False])
def test_a_bye_is_asked_for_a_password_too(bench: Bench, right: bool) -> None:
    far = Far(bench, login=LOGIN)
    far.say(407, "Proxy-Authenticate: " + CHALLENGE.format(1, "MD5"))
    far.say(200, body="answer")
    bench.hang_up(far.taken())
    for nonce in (2, 3):
        far.say(407, "Proxy-Authenticate: " + CHALLENGE.format(nonce, "MD5"), to=far.asked("BYE"))
        if right:
            break
    assert parse_credentials(far.asked("BYE").headers.get("Proxy-Authorization")).nonce == "n2"
    assert len(sent(bench, "BYE")) == 2, "and no third time"
    if right:
        far.say(200, to=far.asked("BYE"))
    bench.wait(64)
    assert bench.told() == ["taken: answer", "ended by agent: enough"]
    assert is_empty(bench)


def test_a_change_is_asked_for_a_password_too(bench: Bench) -> None:
    far = Far(bench, login=LOGIN)
    far.say(407, "Proxy-Authenticate: " + CHALLENGE.format(1, "MD5"))
    far.say(200, body="answer")
    change = Change(far.taken(), "hold")
    bench.agent.changes.want(change, bench.now)
    bench.collect()
    far.say(407, "Proxy-Authenticate: " + CHALLENGE.format(2, "MD5"), to=far.asked("INVITE"))
    again = far.asked("INVITE")
    assert parse_credentials(again.headers.get("Proxy-Authorization")).nonce == "n2"
    far.say(200, to=again, body="held")
    assert change.answer == "held"


def test_a_challenge_that_nobody_can_answer(bench: Bench) -> None:
    far = Far(bench, login=LOGIN)
    far.say(401, "WWW-Authenticate: " + CHALLENGE.format(1, "SHA-512"))
    (told,) = bench.told()
    assert "no Digest challenge that we can answer; algorithms offered: SHA-512" in told


def test_a_longer_session_interval(bench: Bench) -> None:
    far = Far(bench)
    far.say(422, "Min-SE: 3600")
    assert far.invite.headers.get("Session-Expires") == "3600;refresher=uac"
    assert far.invite.headers.get("Min-SE") == "3600"
    far.say(422, "Min-SE: 3600")
    assert [told.partition(":")[0] for told in bench.told()] == ["failed by network, failed"]


def test_a_far_end_that_always_wants_a_longer_one(bench: Bench) -> None:
    far = Far(bench)
    for seconds in range(1_000, 1_010):
        far.say(422, f"Min-SE: {seconds}")
    assert len(sent(bench, "INVITE")) == 1 + MAX_RAISED
    assert [told.partition(":")[0] for told in bench.told()] == ["failed by network, failed"]


def test_what_rang_before_a_challenge_is_gone(bench: Bench) -> None:
    """With its final response ended what it had begun, be it that the next attempt's tags are the same."""
    far = Far(bench, login=LOGIN)
    far.say(183, RELIABLE, "RSeq: 7", tag="e", body="early")
    far.say(401, "WWW-Authenticate: " + CHALLENGE.format(1, "MD5"), tag="e")
    assert far.placed.dialogs == {}
    far.say(183, RELIABLE, "RSeq: 1", tag="e", body="early")
    assert far.asked("PRACK").headers.get("RAck") == "1 2 INVITE"
    far.say(200, tag="e")
    bench.hang_up(far.taken())
    assert far.asked("BYE").cseq[0] > far.invite.cseq[0]


def test_a_call_by_sips_stays_one(bench: Bench) -> None:
    """RFC 3261, section 12.1.2: each Contact of ours in it is a SIPS URI."""
    far = Far(bench, flow=TLS, uri="sips:bob@example.com")
    far.say(200, body="answer")
    bench.agent.changes.want(Change(far.taken(), "our new offer"), bench.now)
    bench.collect()
    contacts = [request.headers.get("Contact") for request in sent(bench, "INVITE")]
    assert len(contacts) == 2 and all(contact.startswith("<sips:") for contact in contacts)


@pytest.mark.parametrize("least", ["", "x", "10", "100000000", "90"])
def test_a_422_that_makes_no_sense(bench: Bench, least: str) -> None:
    far = Far(bench)
    far.say(422, f"Min-SE: {least}")
    assert len(sent(bench, "INVITE")) == 1
    assert len(bench.told()) == 1


def test_the_session_timer_that_is_granted(bench: Bench) -> None:
    far = established(bench, "Session-Expires: 600;refresher=uac", "Require: timer", "Allow: INVITE, UPDATE")
    bench.wait(300.1)
    assert far.asked("UPDATE").headers.get("Session-Expires") == "600;refresher=uac"


def test_a_collision(bench: Bench) -> None:
    far = Far(bench)
    far.say(180)
    far.say(491)
    bench.wait(2.0)
    assert len(sent(bench, "INVITE")) == 1
    bench.wait(2.1)
    assert far.invite.cseq == (2, "INVITE")
    far.say(491)
    assert [told.partition(":")[0] for told in bench.told()] == ["progress 180", "failed by network, failed"]
    bench.wait(64)
    assert is_empty(bench)


def test_given_up_between_two_attempts(bench: Bench) -> None:
    far = Far(bench)
    far.say(491)
    far.give_up()
    bench.wait(64)
    assert bench.heard() == ["INVITE", "ACK"]
    assert bench.told() == ["failed by agent, cancelled: enough"]
    assert is_empty(bench)


def test_what_answers_an_earlier_attempt_is_not_heard(bench: Bench) -> None:
    far = Far(bench, login=LOGIN)
    late = far.response(183, body="late")
    far.say(401, "WWW-Authenticate: " + CHALLENGE.format(1, "MD5"))
    bench.receive(late)
    assert bench.told() == []


# --- early media, and provisional responses that are to be acknowledged --------------------------------------------


def test_early_media(bench: Bench) -> None:
    far = Far(bench)
    far.say(183, body="early")
    far.say(180)
    far.say(200, body="answer")
    assert bench.told() == ["progress 183 with early", "progress 180", "taken: answer"]


def test_what_was_answered_early_need_not_be_said_again(bench: Bench) -> None:
    far = Far(bench)
    far.say(183, body="early")
    far.say(200)
    assert bench.told() == ["progress 183 with early", "taken: early"]


def test_a_call_that_is_taken_without_an_answer_to_our_offer(bench: Bench) -> None:
    far = Far(bench)
    far.say(200)
    assert bench.heard() == ["INVITE", "ACK", "BYE"]
    assert bench.told() == [
        "failed by network, failed: the far end took the call without saying what it sends and where"
    ]
    bench.wait(64)
    assert is_empty(bench)


def test_provisional_responses_are_acknowledged_in_order(bench: Bench) -> None:
    far = Far(bench)
    far.say(183, RELIABLE, "RSeq: 7", body="early")
    prack = far.asked("PRACK")
    assert (prack.headers.get("RAck"), prack.cseq, prack.uri) == ("7 1 INVITE", (2, "PRACK"), "sip:far@192.0.2.7:5070")
    far.say(200, to=prack)
    bench.heard()
    for number in (7, 9, 6):  # again, too early, too late
        far.say(180, RELIABLE, f"RSeq: {number}")
    assert bench.heard() == []
    far.say(180, RELIABLE, "RSeq: 8")
    assert far.asked("PRACK").headers.get("RAck") == "8 1 INVITE"
    far.say(200)
    assert far.asked("ACK").cseq == (1, "ACK")
    assert bench.told() == ["progress 183 with early", "progress 180", "taken: early"]


def test_each_fork_counts_by_itself(bench: Bench) -> None:
    far = Far(bench)
    far.say(183, RELIABLE, "RSeq: 7", tag="a")
    far.say(183, RELIABLE, "RSeq: 70", tag="b")
    assert [prack.to_tag for prack in sent(bench, "PRACK")] == ["a", "b"]


@pytest.mark.parametrize("number", ["", "x", "-1", "9" * 40])
def test_a_provisional_response_without_a_number_is_like_any_other(bench: Bench, number: str) -> None:
    far = Far(bench)
    far.say(180, RELIABLE, f"RSeq: {number}")
    assert sent(bench, "PRACK") == []
    assert bench.told() == ["progress 180"]


def test_a_change_before_the_answer(bench: Bench) -> None:
    """UPDATE in an early dialog (RFC 3311, section 5.2): not while our offer waits for its answer."""
    far = Far(bench)
    far.say(183, tag="far")
    bench.heard()
    far.ask("UPDATE", body="their offer")
    assert bench.heard() == ["491"]
    far.say(183, RELIABLE, "RSeq: 1", body="early")
    bench.told()
    far.ask("UPDATE", body="their offer")
    assert bench.told() == ["changed: their offer"]
    dialog = next(iter(far.placed.dialogs.values()))
    assert dialog.negotiation.name == "OFFERED"
    far.say(486)
    bench.wait(64)
    assert is_empty(bench)


def test_a_change_before_the_answer_is_agreed_to(bench: Bench) -> None:
    far = Far(bench)
    far.say(183, RELIABLE, "RSeq: 1", body="early")
    far.ask("UPDATE", body="their offer")
    bench.change(bench.changed(), "our answer")
    answer = bench.last()
    assert (answer.code, answer.media) == (200, "our answer")
    far.say(200, body="early again")  # what was agreed since stands (RFC 6337, section 3.1.1)
    assert "taken: None" in bench.told()
    assert far.asked("ACK").media is None


def test_an_invite_of_theirs_before_the_answer_to_ours(bench: Bench) -> None:
    """RFC 3261, section 14.2; early media has settled what ours offered."""
    far = Far(bench)
    far.say(183, RELIABLE, "RSeq: 1", body="early")
    bench.told()
    far.ask("INVITE", body="their offer")
    refusal = bench.last()
    assert (refusal.cseq[1], refusal.code) == ("INVITE", 491)
    assert bench.told() == []
    far.say(200, body="early")
    assert "taken: early" in bench.told()


def test_a_bye_before_the_answer_changes_nothing(bench: Bench) -> None:
    far = Far(bench)
    far.say(180)
    far.ask("BYE")
    assert bench.last().code == 200
    far.say(200, body="answer")
    assert bench.told() == ["progress 180", "taken: answer"]


# --- the far end makes the offer -----------------------------------------------------------------------------------


def test_a_call_without_an_offer_of_ours(bench: Bench) -> None:
    far = Far(bench, media=None)
    assert (far.invite.body, far.invite.headers.options("Supported")) == (b"", ("timer",))
    far.say(200, body="their offer")
    far.say(200, body="their offer")
    assert bench.heard() == ["INVITE"], "the ACK waits for our answer"
    dialog = far.taken()
    assert bench.told() == ["taken: their offer"]
    far.answer("our answer")
    ack = far.last()
    assert isinstance(ack, Request) and (ack.method, ack.media) == ("ACK", "our answer")
    far.say(200, body="their offer")
    assert bench.heard() == ["ACK", "ACK"]
    far.answer("another")
    assert bench.heard() == []
    bench.hang_up(dialog)
    assert bench.heard() == ["BYE"]
    bench.wait(64)
    assert is_empty(bench)


def test_an_offer_that_cannot_be_taken(bench: Bench) -> None:
    far = Far(bench, media=None)
    far.say(200, body="their offer")
    dialog = far.taken()
    far.answer("")
    bench.hang_up(dialog, "no common codec")
    assert bench.heard() == ["INVITE", "ACK", "BYE"]


def test_our_own_side_has_no_answer(bench: Bench) -> None:
    far = Far(bench, media=None)
    far.say(200, body="their offer")
    bench.told()
    bench.wait(33)
    assert bench.heard() == ["INVITE", "ACK", "BYE", "BYE"]
    assert bench.told() == ["ended by agent: we had no answer to the far end's offer"]
    bench.wait(64)
    assert is_empty(bench)


# --- the end of everything -----------------------------------------------------------------------------------------


def test_shutting_down(bench: Bench) -> None:
    hasty, ringing, paused = Far(bench), Far(bench), Far(bench)
    ringing.say(180)
    paused.say(491)
    bench.told()
    bench.agent.client.close("the agent is shutting down", bench.now)
    bench.collect()
    assert bench.told() == ["failed by agent, cancelled: the agent is shutting down"] * 3
    assert not bench.agent.idle
    ringing.say(487)
    hasty.say(100, tag="")
    hasty.say(487)
    for cancel in sent(bench, "CANCEL"):
        ringing.say(200, to=cancel)
    assert bench.agent.idle


@pytest.mark.parametrize(
    "wrong", [{"uri": "tel:+4930"}, {"uri": "bob"}, {"address": "mailto:a@b"}, {"routes": ("<sip:",)}]
)
def test_nobody_is_called_by_what_is_no_sip_uri(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        Invitation(**{"uri": THEM, "address": US} | wrong)  # type: ignore[arg-type]  # that is the point
