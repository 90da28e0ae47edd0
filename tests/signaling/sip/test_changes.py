"""changes.py: every cell of the table, then changes and refreshes of our own with a made-up clock."""

from __future__ import annotations

import pytest

from signaling.sip.changes import CHANGE, GIVE_UP_S, LAST_TRY_S, Change, Do, Input, State
from signaling.sip.dialog import Dialog, Negotiation
from signaling.sip.dialog import State as CallState
from signaling.sip.message import Request
from tests.signaling.sip.bench import TCP, Bench, BenchPeer, is_empty
from tests.signaling.sip.peer import OFFER

ANSWER = "v=0 their answer"
TIMER = ("Supported: timer", "Session-Expires: 100;refresher=uas")
ALLOW = "Allow: INVITE, ACK, BYE, UPDATE"


class Talk:
    """A call that both are in, and what we want to change in it."""

    def __init__(self, *extra: str, chance: float = 0.5) -> None:
        self.bench = Bench(chance=lambda: chance)
        self.peer: BenchPeer = self.bench.peer()
        self.dialog: Dialog = self.bench.call(self.peer, *extra)

    def want(self, media: str = "hold") -> Change:
        change = Change(self.dialog, media)
        self.bench.agent.changes.want(change, self.bench.now)
        self.bench.collect()
        return change

    def asked(self) -> Request:
        return self.bench.last_request()

    def answer(self, request: Request, code: int = 200, *extra: str, body: str = ANSWER) -> None:
        self.peer.answer(request, code, *extra, body=body)


# --- the table -----------------------------------------------------------------------------------------------------


def test_nothing_comes_after_the_end() -> None:
    assert not [cell for cell in CHANGE if cell[0] is State.OVER]


@pytest.mark.parametrize("what", [Input.SUCCESS, Input.REFUSED, Input.GONE, Input.DUE, Input.AGAIN, Input.COLLIDED])
@pytest.mark.parametrize("state", [State.ASKING, State.CANCELLING])
def test_every_answer_means_something(state: State, what: Input) -> None:
    assert (state, what) in CHANGE


def test_each_way_to_the_end_settles_once() -> None:
    settling = {Do.ADOPT, Do.REFUSE, Do.END}
    for after, actions in CHANGE.values():
        assert len(settling & set(actions)) == (after is State.OVER)


def test_only_what_was_not_answered_is_sent_again() -> None:
    assert {state for (state, _), (_, actions) in CHANGE.items() if Do.SEND in actions} == {
        *(State.NEW, State.WAITING, State.ASKING)
    }


# --- offers --------------------------------------------------------------------------------------------------------


def test_a_change_of_ours() -> None:
    talk = Talk()
    talk.want("hold")
    invite = talk.asked()
    assert (invite.method, invite.body, invite.content_type) == ("INVITE", b"hold", "application/sdp")
    assert invite.contact and "UPDATE" in invite.headers.values("Allow")
    talk.answer(invite, 200, "Contact: <sip:moved@192.0.2.7:5071>")
    ack = talk.asked()
    assert (ack.method, ack.cseq, ack.uri) == ("ACK", (invite.cseq[0], "ACK"), "sip:moved@192.0.2.7:5071")
    assert ack.via.parameters["branch"] != invite.via.parameters["branch"]
    assert talk.bench.told() == [f"settled: {ANSWER}"]
    assert (talk.dialog.negotiation, talk.dialog.local_media) == (Negotiation.STABLE, "hold")
    talk.answer(invite)
    assert talk.bench.heard() == ["INVITE", "ACK", "ACK"]  # each 2xx
    assert talk.bench.told() == []
    talk.peer.ask("BYE")
    talk.bench.wait(64)
    assert is_empty(talk.bench)


def test_after_it_the_peer_may_offer_and_refresh() -> None:
    talk = Talk()
    talk.want("hold")
    talk.answer(talk.asked())
    talk.peer.ask("INVITE", body=OFFER)
    assert talk.bench.changed().offer == OFFER  # no repetition of an offer that stands
    talk.bench.change(talk.bench.changed(), "answer")
    assert talk.bench.last().code == 200


@pytest.mark.parametrize("code", [488, 603])
def test_a_refusal_leaves_the_session_as_it_was(code: int) -> None:
    talk = Talk()
    talk.want("hold")
    talk.answer(talk.asked(), code, body="")
    assert talk.bench.heard() == ["INVITE", "ACK"]
    assert talk.bench.told() == [f"settled: {code} Fine"]
    assert (talk.dialog.state, talk.dialog.local_media) == (CallState.CONFIRMED, "answer")
    talk.peer.ask("INVITE", body=OFFER)
    assert (talk.bench.last().code, talk.bench.last().body) == (200, b"answer")


def test_a_2xx_without_an_answer_is_acknowledged_and_refused() -> None:
    talk = Talk()
    talk.want("hold")
    talk.answer(talk.asked(), 200, body="")
    assert talk.bench.heard() == ["INVITE", "ACK"]
    assert talk.bench.told() == ["settled: no answer to our offer is in the response"]


@pytest.mark.parametrize("code", [408, 481, None])
def test_a_peer_that_knows_nothing_of_the_call_ends_it(code: int | None) -> None:
    """RFC 3261, section 12.2.1.2."""
    talk = Talk()
    talk.want("hold")
    if code:
        talk.answer(talk.asked(), code, body="")
    else:
        talk.bench.wait(32)
    assert talk.bench.heard()[-1] == "BYE"
    settled, ended = talk.bench.told()
    assert settled.startswith("settled: ") and ended.startswith("ended by network: the far end knows nothing")
    talk.bench.wait(64)
    assert is_empty(talk.bench)


@pytest.mark.parametrize(("chance", "wait"), [(0.0, 0.0), (0.5, 1.0), (0.999, 2.0)])
def test_a_collision_is_tried_again_after_a_random_time(chance: float, wait: float) -> None:
    """RFC 3261, section 14.1: between 0 and 2 s for who did not make the Call-ID."""
    talk = Talk(chance=chance)
    talk.want("hold")
    talk.answer(talk.asked(), 491, body="")
    assert talk.dialog.negotiation is Negotiation.STABLE
    talk.bench.heard()
    if wait:
        talk.bench.wait(wait - 0.01)
        assert talk.bench.heard() == []
    talk.bench.wait(0.02)
    assert talk.bench.heard() == ["INVITE"]


def test_who_made_the_call_waits_longer() -> None:
    talk = Talk(chance=0.0)
    talk.dialog.peer = "callee"
    talk.want("hold")
    talk.answer(talk.asked(), 491, body="")
    talk.bench.heard()
    talk.bench.wait(2.09)
    assert talk.bench.heard() == []
    talk.bench.wait(0.02)
    assert talk.bench.heard() == ["INVITE"]


def test_glare_both_ways() -> None:
    """Both offer at once: each refuses the other's, and theirs comes through while ours waits."""
    talk = Talk()
    talk.want("hold")
    ours = talk.asked()
    talk.peer.ask("INVITE", body="their offer")
    assert talk.bench.last().code == 491
    talk.peer.ack(talk.bench.last())
    talk.answer(ours, 491, body="")
    talk.peer.ask("INVITE", body="their offer")
    talk.bench.change(talk.bench.changed(), "answer")
    answer = talk.bench.last()
    talk.bench.heard()
    talk.bench.wait(1.1)
    assert talk.bench.heard() == ["200"]  # ours waits for their ACK
    talk.peer.ack(answer)
    talk.bench.wait(1.1)
    assert talk.bench.heard() == ["INVITE"]


def test_five_collisions_are_a_refusal() -> None:
    talk = Talk()
    talk.want("hold")
    for _ in range(5):
        talk.answer(talk.asked(), 491, body="")
        talk.bench.wait(1.1)
    assert talk.bench.told() == ["settled: 491 Fine"]
    assert talk.bench.heard() == ["INVITE", "ACK"] * 5


@pytest.mark.parametrize(("retry", "wait"), [("3", 3.0), ("3 (busy);duration=9", 3.0), ("3600", 10.0), ("soon", 10.0)])
def test_a_peer_that_is_not_ready_says_when(retry: str, wait: float) -> None:
    talk = Talk()
    talk.want("hold")
    talk.answer(talk.asked(), 500, f"Retry-After: {retry}", body="")
    talk.bench.heard()
    talk.bench.wait(wait - 0.1)
    assert talk.bench.heard() == []
    talk.bench.wait(0.2)
    assert talk.bench.heard() == ["INVITE"]


def test_a_change_that_is_never_answered_is_taken_back() -> None:
    talk = Talk()
    talk.want("hold")
    invite = talk.asked()
    talk.answer(invite, 100, body="")
    talk.bench.heard()
    talk.bench.wait(GIVE_UP_S + 0.1)
    cancel = talk.asked()
    assert (cancel.method, cancel.via, cancel.cseq[0]) == ("CANCEL", invite.via, invite.cseq[0])
    talk.peer.answer(cancel)
    talk.answer(invite, 487, body="")
    assert talk.bench.told() == ["settled: 487 Fine"]
    assert talk.dialog.state is CallState.CONFIRMED


def test_a_2xx_that_crosses_the_cancel_counts() -> None:
    talk = Talk()
    talk.want("hold")
    invite = talk.asked()
    talk.answer(invite, 100, body="")
    talk.bench.wait(GIVE_UP_S + 0.1)
    talk.answer(invite)
    assert talk.bench.told() == [f"settled: {ANSWER}"]
    assert talk.dialog.local_media == "hold"


def test_after_the_cancel_it_does_not_wait_for_ever() -> None:
    talk = Talk()
    talk.want("hold")
    talk.answer(talk.asked(), 100, body="")
    talk.bench.wait(2 * GIVE_UP_S + 0.1)
    assert talk.bench.told()[-1].startswith("ended by network")
    talk.bench.wait(64)
    assert is_empty(talk.bench)


def test_changes_of_one_call_wait_for_each_other() -> None:
    talk = Talk()
    wanted = [talk.want(f"offer {number}") for number in range(5)]
    assert talk.bench.told() == ["settled: too many changes of this call wait already"]
    for number in range(4):
        assert talk.asked().body == f"offer {number}".encode()
        talk.answer(talk.asked())
    assert talk.bench.heard() == ["INVITE", "ACK"] * 4
    assert all(change.state is State.OVER for change in wanted)


@pytest.mark.parametrize("answered", [False, True])
def test_the_call_ends_while_ours_is_asked(answered: bool) -> None:
    talk = Talk()
    talk.want("hold")
    invite = talk.asked()
    talk.answer(invite, 100, body="")
    talk.bench.hang_up(talk.dialog)
    assert talk.bench.told() == ["settled: the call is over", "ended by agent: enough"]
    assert talk.bench.heard() == ["INVITE", "BYE"]
    if answered:
        talk.answer(invite)
        assert talk.bench.heard() == ["ACK"]
    talk.bench.wait(100)
    assert is_empty(talk.bench)


def test_a_refresh_that_nobody_answers_is_forgotten_with_the_call() -> None:
    """Hung up before the ACK of another 2xx, the call is over long before its BYE."""
    talk = Talk(*TIMER, ALLOW)
    talk.bench.wait(50)
    assert talk.asked().method == "UPDATE"
    talk.peer.ask("INVITE", body=OFFER)
    talk.bench.hang_up(talk.dialog)
    talk.bench.wait(100)
    assert talk.bench.heard()[-1] == "BYE"
    assert is_empty(talk.bench)


def test_a_call_that_is_not_answered_or_over_changes_nothing() -> None:
    bench = Bench()
    bench.peer().ask("INVITE", body=OFFER)
    dialog = bench.invited()
    bench.told()
    for _ in range(2):
        bench.agent.changes.want(Change(dialog, "hold"), bench.now)
        bench.collect()
        bench.hang_up(dialog)
    assert bench.told() == [
        *("settled: the call is not answered yet", "ended by agent: enough", "settled: the call is over")
    ]


# --- the session timer ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["UPDATE", "INVITE"])
def test_we_refresh_where_the_peer_leaves_it_to_us(method: str) -> None:
    """RFC 4028, section 7.4: by UPDATE where the peer serves it, else by what our own side offers."""
    talk = Talk(*TIMER, *([ALLOW] if method == "UPDATE" else []))
    for _ in range(20):
        talk.bench.wait(49.9)
        assert talk.bench.heard() == talk.bench.told() == []
        talk.bench.wait(0.2)
        if method == "INVITE":
            assert talk.bench.told() == ["refresh"]
            talk.want("as it is")
        refresh = talk.asked()
        assert (refresh.method, refresh.body) == (method, b"as it is" if method == "INVITE" else b"")
        assert refresh.headers.get("Session-Expires") == "100;refresher=uac"
        talk.answer(refresh, 200, "Session-Expires: 100;refresher=uac", body=ANSWER if refresh.body else "")
        talk.bench.heard()
        assert talk.bench.told() == ([f"settled: {ANSWER}"] if method == "INVITE" else [])


def test_what_our_own_side_is_asked_to_refresh_it_is_asked_again_while_there_is_time() -> None:
    talk = Talk(*TIMER)
    talk.bench.wait(67.9)  # until 32 s before it expires
    told = talk.bench.told()
    assert len(told) > 1 and set(told) == {"refresh"} and talk.bench.heard() == []
    talk.bench.wait(0.2)
    assert talk.bench.told() == ["ended by network: the session was not refreshed in time"]


def test_a_peer_may_take_the_refreshing_over() -> None:
    talk = Talk(*TIMER, ALLOW)
    talk.bench.wait(50)
    talk.answer(talk.asked(), 200, "Session-Expires: 100;refresher=uas", body="")
    talk.bench.heard()
    talk.bench.wait(60)
    assert talk.bench.heard() == []
    talk.bench.wait(10)
    assert talk.bench.told() == ["ended by network: the session was not refreshed in time"]


def test_a_peer_may_end_the_timer() -> None:
    talk = Talk(*TIMER, ALLOW)
    talk.bench.wait(50)
    talk.answer(talk.asked(), 200, body="")
    talk.bench.heard()
    talk.bench.wait(86_400)
    assert (talk.bench.heard(), talk.bench.told()) == ([], [])


@pytest.mark.parametrize("code", [405, 488, 501])
def test_where_update_is_refused_our_own_side_is_asked_for_an_offer(code: int) -> None:
    talk = Talk(*TIMER, ALLOW)
    talk.bench.wait(50)
    talk.answer(talk.asked(), code, body="")
    assert talk.bench.told() == ["refresh"]
    talk.want("as it is")
    assert talk.bench.heard() == ["UPDATE", "INVITE"]


def test_a_422_raises_the_interval() -> None:
    talk = Talk(*TIMER, ALLOW)
    talk.bench.wait(50)
    talk.answer(talk.asked(), 422, "Min-SE: 300", body="")
    again = talk.asked()
    assert (again.headers.get("Session-Expires"), again.headers.get("Min-SE")) == ("300;refresher=uac", "300")
    talk.answer(again, 422, "Min-SE: 300", body="")  # which makes no sense, twice
    assert talk.bench.heard() == ["UPDATE", "UPDATE"] and talk.bench.told() == ["refresh"]


def test_a_refresh_that_never_succeeds_ends_the_call_in_time() -> None:
    talk = Talk(*TIMER)
    talk.bench.wait(50)
    talk.want("as it is")
    talk.answer(talk.asked(), 488, body="")
    talk.bench.wait(17.9)  # until 32 s before it expires
    assert not any(told.startswith("ended") for told in talk.bench.told())
    talk.bench.wait(0.2)
    assert talk.bench.told() == ["ended by network: the session was not refreshed in time"]
    assert talk.bench.heard()[-1] == "BYE"


def test_a_refresh_that_is_refused_once_is_tried_again() -> None:
    """A proxy that was busy for a moment is no reason to end a call a quarter of an hour later."""
    talk = Talk(*TIMER, ALLOW)
    talk.bench.wait(50)
    talk.answer(talk.asked(), 500, body="")
    talk.want("as it is")
    talk.answer(talk.asked(), 500, body="")  # also as a re-INVITE
    talk.bench.heard()
    talk.bench.wait(LAST_TRY_S + 0.1)
    talk.answer(talk.asked(), 200, "Session-Expires: 100;refresher=uac", body="")
    talk.bench.wait(45)
    assert not any(told.startswith("ended") for told in talk.bench.told())


def test_a_refresh_that_a_change_was_in_the_way_of_is_tried_again() -> None:
    talk = Talk(*TIMER, ALLOW)
    talk.bench.wait(49)
    talk.want("hold")
    hold = talk.asked()
    talk.bench.wait(1.5)
    talk.answer(hold, 488, body="")
    talk.bench.heard()
    talk.bench.wait(LAST_TRY_S - 0.3)
    assert talk.bench.heard() == ["UPDATE"]


def test_a_change_refreshes_the_session() -> None:
    talk = Talk(*TIMER, ALLOW)
    talk.bench.wait(40)
    talk.want("hold")
    assert talk.asked().headers.get("Session-Expires") == "100;refresher=uac"
    talk.answer(talk.asked(), 200, "Session-Expires: 100;refresher=uac")
    talk.bench.heard()
    talk.bench.wait(49)
    assert talk.bench.heard() == []
    talk.bench.wait(1.2)
    assert talk.bench.heard() == ["UPDATE"]


def test_over_a_connection_too() -> None:
    bench = Bench()
    peer = bench.peer(TCP)
    dialog = bench.call(peer)
    bench.agent.changes.want(Change(dialog, "hold"), bench.now)
    bench.collect()
    peer.answer(bench.last_request(), body=ANSWER)
    assert bench.heard() == ["INVITE", "ACK"]
    assert bench.told() == [f"settled: {ANSWER}"]
