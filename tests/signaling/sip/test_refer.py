"""refer.py: every cell of the table, then transfers out and in with a made-up clock."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from signaling.sip.dialog import Dialog
from signaling.sip.dialog import State as CallState
from signaling.sip.digest import Authenticator, Login
from signaling.sip.events import Referred
from signaling.sip.message import Request
from signaling.sip.refer import LEAVE_S, REFERRAL, TRANSFER_S, Do, Input, Referral, State, target_uri
from signaling.sip.replaces import Replaces
from tests.signaling.sip.bench import UDP, Bench, BenchPeer, is_empty
from tests.signaling.sip.peer import OFFER

BOB = "sip:bob@192.0.2.9"


class Transfer:
    """A call that both are in, and the peer is to call Bob."""

    def __init__(self, may_refer: Callable[[Dialog], bool] = lambda dialog: False) -> None:
        self.bench = Bench(may_refer=may_refer)
        self.peer: BenchPeer = self.bench.peer()
        self.dialog: Dialog = self.bench.call(self.peer)

    def refer(self, target: str = BOB, taking: Dialog | None = None) -> Request:
        self.bench.agent.referrals.refer(Referral(self.dialog, target, taking), self.bench.now)
        self.bench.collect()
        return self.bench.last_request()

    def notify(self, line: str, *extra: str, event: str = "refer", state: str = "active;expires=60") -> int:
        """The peer says how far it is; what we answer."""
        body = f"SIP/2.0 {line}\r\n" if line else ""
        kind = {"Content_Type": "message/sipfrag;version=2.0"} if line else {}
        self.peer.ask("NOTIFY", f"Event: {event}", f"Subscription-State: {state}", *extra, body=body, **kind)
        return self.bench.last().code

    def told(self) -> list[str]:
        return self.bench.told()


# --- the table -----------------------------------------------------------------------------------------------------


def test_nothing_comes_after_the_end() -> None:
    assert not [cell for cell in REFERRAL if cell[0] is State.OVER]


def test_our_side_is_told_once() -> None:
    """On the way out of ASKED and TRYING, and never again."""
    for (state, what), (after, actions) in REFERRAL.items():
        open_ = after in (State.ASKED, State.TRYING)
        told = len({Do.TELL, Do.FAIL} & set(actions))
        assert told == (state is not State.DONE and not open_), (state, what)


@pytest.mark.parametrize("state", [State.ASKED, State.TRYING, State.DONE])
@pytest.mark.parametrize("end", [Input.LEFT, Input.LOST])
def test_a_call_that_ends_ends_its_transfer(state: State, end: Input) -> None:
    assert REFERRAL[state, end][0] is State.OVER


def test_every_wait_ends_by_itself() -> None:
    """ASKED by its transaction."""
    assert (State.TRYING, Input.LATE) in REFERRAL and (State.DONE, Input.LATE) in REFERRAL
    assert (State.ASKED, Input.REFUSED) in REFERRAL


# --- ours ----------------------------------------------------------------------------------------------------------


def test_a_blind_transfer() -> None:
    transfer = Transfer()
    refer = transfer.refer()
    assert refer.headers.get("Refer-To") == "<sip:bob@192.0.2.9>"
    assert refer.headers.get("Referred-By") == "<sip:agent@127.0.0.1>"
    assert refer.contact
    transfer.peer.answer(refer, 202)
    assert transfer.notify("100 Trying") == 200
    assert transfer.notify("180 Ringing", event=f"refer;id={refer.cseq[0]}") == 200
    assert transfer.told() == []
    assert transfer.notify("200 OK", state="terminated;reason=noresource") == 200
    assert transfer.told() == ["settled: 200 OK"]
    assert transfer.dialog.state is CallState.CONFIRMED
    transfer.peer.ask("BYE")
    transfer.bench.wait(64)
    assert is_empty(transfer.bench)
    assert transfer.told() == ["ended by caller: hung up"]


def test_a_peer_that_does_not_leave_is_left() -> None:
    transfer = Transfer()
    transfer.peer.answer(transfer.refer(), 202)
    transfer.notify("200 OK")
    transfer.bench.heard()
    transfer.bench.wait(LEAVE_S - 0.1)
    assert transfer.bench.heard() == []
    transfer.bench.wait(0.2)
    assert transfer.bench.heard() == ["BYE"]
    assert transfer.told() == ["settled: 200 OK", "ended by agent: transferred"]


@pytest.mark.parametrize("code", [403, 405, 501, 603])
def test_a_peer_that_refuses(code: int) -> None:
    transfer = Transfer()
    transfer.peer.answer(transfer.refer(), code)
    assert transfer.told() == [f"settled: {code} Fine"]
    transfer.bench.wait(300)
    assert transfer.dialog.state is CallState.CONFIRMED
    refer = transfer.refer("sip:carol@192.0.2.9")  # and somebody else may be tried
    assert refer.headers.get("Refer-To") == "<sip:carol@192.0.2.9>"


@pytest.mark.parametrize("state", ["active", "terminated;reason=noresource"])
def test_nobody_there(state: str) -> None:
    transfer = Transfer()
    transfer.peer.answer(transfer.refer(), 202)
    transfer.notify("100 Trying")
    transfer.notify("486 Busy\x08 Here", state=state)
    assert transfer.told() == ["settled: 486 Busy Here"]
    transfer.bench.wait(300)
    assert transfer.dialog.state is CallState.CONFIRMED


def test_a_notify_that_overtakes_the_202() -> None:
    transfer = Transfer()
    refer = transfer.refer()
    assert transfer.notify("200 OK") == 200
    transfer.peer.answer(refer, 202)
    assert transfer.told() == ["settled: 200 OK"]


def test_a_subscription_that_ends_without_an_outcome() -> None:
    transfer = Transfer()
    transfer.peer.answer(transfer.refer(), 202)
    transfer.notify("180 Ringing")
    transfer.notify("", state="terminated;reason=timeout")
    assert transfer.told() == ["settled: the far end told no more of it than 180 Ringing"]


def test_a_peer_that_tells_nothing() -> None:
    transfer = Transfer()
    transfer.peer.answer(transfer.refer(), 202)
    transfer.bench.wait(31.9)
    assert transfer.told() == []
    transfer.bench.wait(0.2)
    assert transfer.told() == ["settled: nothing final was told of it in time; last: nothing"]


def test_a_phone_that_rings_for_ever() -> None:
    transfer = Transfer()
    transfer.peer.answer(transfer.refer(), 202)
    for _ in range(6):
        transfer.notify("180 Ringing")
        transfer.bench.wait(TRANSFER_S / 6 - 0.1)
    assert transfer.told() == []
    transfer.bench.wait(1)
    assert transfer.told() == ["settled: nothing final was told of it in time; last: 180 Ringing"]


def test_a_peer_that_tells_nothing_by_agreement() -> None:
    """RFC 4488."""
    transfer = Transfer()
    transfer.peer.answer(transfer.refer(), 202, "Refer-Sub: false")
    assert transfer.told() == ["settled: transferred"]


@pytest.mark.parametrize("again", [False, True])
def test_a_proxy_that_asks_for_a_password(again: bool) -> None:
    transfer = Transfer()
    transfer.dialog.authenticator = Authenticator(Login("ada", "secret"), lambda: "random")
    challenge = 'Proxy-Authenticate: Digest realm="r", nonce="n", qop="auth"'
    transfer.peer.answer(transfer.refer(), 407, challenge)
    refer = transfer.bench.last_request()
    assert (refer.method, refer.cseq[0]) == ("REFER", 2)
    assert 'username="ada"' in refer.headers.get("Proxy-Authorization")
    transfer.peer.answer(refer, *((407, challenge) if again else (202,)))
    if again:
        assert transfer.told() == ["settled: user name or password refused by 'r'"]
    else:
        transfer.notify("200 OK", event="refer;id=2")
        assert transfer.told() == ["settled: 200 OK"]


def test_nobody_answers_the_refer() -> None:
    transfer = Transfer()
    transfer.refer()
    transfer.bench.wait(33)
    assert transfer.told() == ["settled: no answer to the transfer"]
    assert transfer.dialog.state is CallState.CONFIRMED


def test_a_peer_that_knows_nothing_of_the_call() -> None:
    transfer = Transfer()
    transfer.peer.answer(transfer.refer(), 481)
    assert transfer.told() == [
        *("settled: 481 Fine", "ended by network: the far end knows nothing of the call any more (481 Fine)")
    ]


@pytest.mark.parametrize(("agreed", "told"), [(True, "settled: transferred"), (False, "settled: the call is over")])
def test_a_peer_that_hangs_up_meanwhile(agreed: bool, told: str) -> None:
    transfer = Transfer()
    refer = transfer.refer()
    if agreed:
        transfer.peer.answer(refer, 202)
    transfer.peer.ask("BYE")
    assert transfer.told() == [told, "ended by caller: hung up"]
    transfer.bench.wait(64)
    assert is_empty(transfer.bench)


@pytest.mark.parametrize("lost", [True, False])
def test_a_call_that_does_not_end_by_the_peer_was_not_transferred(lost: bool) -> None:
    """Nobody knows whether the other was reached: only a peer that hangs up itself is taken to be there."""
    transfer = Transfer()
    transfer.peer.answer(transfer.refer(), 202)
    transfer.notify("180 Ringing")
    calls, now = transfer.bench.agent.calls, transfer.bench.now
    if lost:
        calls.lose(transfer.dialog, "nothing was heard", now)
    else:
        calls.hang_up(transfer.dialog, "the call lasted 60 s", now)
    transfer.bench.collect()
    end = "network: nothing was heard" if lost else "agent: the call lasted 60 s"
    assert transfer.told() == ["settled: the call is over", f"ended by {end}"]


def test_one_transfer_at_a_time_and_only_in_a_call() -> None:
    transfer = Transfer()
    transfer.refer()
    transfer.refer()
    assert transfer.told() == ["settled: a transfer of this call is under way already"]
    transfer.peer.ask("BYE")
    transfer.told()
    transfer.bench.agent.referrals.refer(Referral(transfer.dialog, BOB), transfer.bench.now)
    transfer.bench.collect()
    assert transfer.told() == ["settled: the call is over"]


@pytest.mark.parametrize(
    ("extra", "code"),
    [({"event": "message-summary"}, 489), ({"event": "refer;id=99"}, 481), ({"event": "refer;id=1"}, 200)],
)
def test_notifies_that_are_for_something_else(extra: dict[str, str], code: int) -> None:
    transfer = Transfer()
    transfer.refer()
    assert transfer.notify("200 OK", **extra) == code


def test_a_notify_without_a_transfer_or_a_call() -> None:
    transfer = Transfer()
    assert transfer.notify("200 OK") == 481
    transfer.peer.to_tag = ""
    assert transfer.notify("200 OK") == 481


def test_an_attended_transfer_names_the_other_call() -> None:
    """The tags as the target sees them: its own is the to-tag (RFC 3891, section 3)."""
    transfer = Transfer()
    other = transfer.bench.call(transfer.bench.peer())
    refer = transfer.refer("", other)
    value = refer.headers.get("Refer-To")
    call_id, ours, theirs = other.id
    assert value.startswith(f"<{other.target}?Replaces=")
    assert f"{call_id.replace('@', '%40')}%3Bto-tag%3D{theirs}%3Bfrom-tag%3D{ours}>" in value


@pytest.mark.parametrize(
    ("target", "uri"),
    [
        ("sip:bob@example.com", "sip:bob@example.com"),
        ("tel:+4930123", "tel:+4930123"),
        ("+4930123", "sip:+4930123@192.0.2.7:5070"),
        ("100", "sip:100@192.0.2.7:5070"),
    ],
)
def test_targets(target: str, uri: str) -> None:
    assert target_uri(target, Transfer().dialog) == uri


@pytest.mark.parametrize(
    "remote", ['"Anonymous" <sip:anonymous@anonymous.invalid>;tag=1', "<tel:+4930123>;tag=1", "<sip:a@x.INVALID:5060>"]
)
def test_a_number_of_who_hides_is_called_where_it_is(remote: str) -> None:
    """RFC 3323, section 4.1.1.3: what it calls itself is nowhere."""
    dialog = Transfer().dialog
    dialog.remote, dialog.target = remote, "sip:+4930123@192.0.2.7:5070;transport=tcp?X=y"
    assert target_uri("100", dialog) == "sip:100@192.0.2.7:5070"


@pytest.mark.parametrize("target", ["", "sip:", "bob smith", "sip:a@b>\r\nX: y", "sip:a@b?Replaces=x", "sip:a@b:0"])
def test_targets_that_are_none(target: str) -> None:
    with pytest.raises(ValueError, match="transfer target"):
        target_uri(target, Transfer().dialog)


# --- theirs --------------------------------------------------------------------------------------------------------


def ask(transfer: Transfer, *extra: str, to: str = f"<{BOB}>") -> int:
    """The peer wants us to call Bob; what we answer at once."""
    transfer.bench.heard()
    transfer.peer.ask("REFER", f"Refer-To: {to}", *extra)
    return next(m.code for _, m, _ in transfer.bench.sent if not isinstance(m, Request))


def test_nobody_may_have_us_call_others_by_default() -> None:
    transfer = Transfer()
    assert ask(transfer) == 603
    transfer.peer.to_tag = ""
    assert ask(transfer) == 603
    assert transfer.told() == []


@pytest.mark.parametrize(("code", "line"), [(200, "SIP/2.0 200 OK"), (603, "SIP/2.0 603 Decline")])
def test_a_peer_that_may(code: int, line: str) -> None:
    transfer = Transfer(may_refer=lambda dialog: dialog.flow == UDP)
    assert ask(transfer) == 202
    first = transfer.bench.last_request()
    assert (first.method, first.body) == ("NOTIFY", b"SIP/2.0 100 Trying\r\n")
    assert first.headers.get("Subscription-State").startswith("active")
    (event,) = (e for e in transfer.bench.events if isinstance(e, Referred))
    assert event.target == BOB
    assert ask(transfer) == 603  # one at a time
    for _ in range(2):
        transfer.bench.agent.referrals.report(event.order, code, transfer.bench.now)
    transfer.bench.collect()
    last = transfer.bench.last_request()
    assert last.body.decode().strip() == line
    assert last.headers.get("Subscription-State") == "terminated;reason=noresource"
    assert last.headers.get("Event") == first.headers.get("Event")
    assert len(transfer.bench.heard()) == 2


def test_a_peer_that_wants_to_be_told_nothing() -> None:
    transfer = Transfer(may_refer=lambda dialog: True)
    assert ask(transfer, "Refer-Sub: false") == 202
    assert transfer.bench.last().headers.get("Refer-Sub") == "false"


@pytest.mark.parametrize("to", ["mailto:bob@example.com", "<<", "<sip:a@b>, <sip:c@d>"])
def test_a_target_that_nobody_can_call(to: str) -> None:
    assert ask(Transfer(may_refer=lambda dialog: True), to=to) == 400


def test_an_attended_transfer_is_refused_and_nobody_is_called_beside_the_call_that_there_is() -> None:
    transfer = Transfer(may_refer=lambda dialog: True)
    assert ask(transfer, to=f"<{BOB}?Replaces=a%3Bto-tag%3Db%3Bfrom-tag%3Dc>") == 603
    assert "no attended transfer" in transfer.bench.last().phrase
    assert transfer.told() == []


def test_the_call_ends_before_we_know() -> None:
    transfer = Transfer(may_refer=lambda dialog: True)
    ask(transfer)
    (event,) = (e for e in transfer.bench.events if isinstance(e, Referred))
    transfer.peer.answer(transfer.bench.last_request())
    transfer.peer.ask("BYE")
    transfer.bench.heard()
    transfer.bench.agent.referrals.report(event.order, 200, transfer.bench.now)
    transfer.bench.collect()
    assert transfer.bench.heard() == []
    transfer.bench.wait(64)
    assert is_empty(transfer.bench)


# --- a call that takes another's place -----------------------------------------------------------------------------


def replacing(bench: Bench, old: Dialog, host: str = "192.0.2.7", early: str = "", **settings: str) -> BenchPeer:
    """Somebody calls in place of an old call."""
    call_id, ours, theirs = old.id
    peer = bench.peer(UDP if host == "192.0.2.7" else type(UDP)("UDP", (host, 5070), UDP.local))
    value = settings.get("value", f"{call_id};to-tag={ours};from-tag={theirs}{early}")
    peer.ask("INVITE", f"Replaces: {value}", "Require: replaces", body=OFFER)
    return peer


def test_a_call_that_takes_anothers_place() -> None:
    bench = Bench()
    old = bench.call(bench.peer())
    peer = replacing(bench, old)
    new = bench.invited()
    assert new is not old
    bench.heard()
    bench.accept(new)
    assert bench.heard() == ["200", "BYE"]
    assert bench.told() == ["invited", "ended by agent: another call took its place"]
    peer.to_tag = new.id[1]
    peer.ask("BYE")
    bench.wait(64)
    assert is_empty(bench)


def test_one_that_is_refused_leaves_the_old_one_alone() -> None:
    bench = Bench()
    old = bench.call(bench.peer())
    replacing(bench, old)
    bench.reject(bench.invited())
    assert old.state is CallState.CONFIRMED
    bench.hang_up(old)
    bench.wait(64)
    assert is_empty(bench)


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"value": "another;to-tag=a;from-tag=b"}, 481),
        ({"value": "another"}, 400),
        ({"value": "another;to-tag=a;to-tag=b;from-tag=c"}, 400),
        ({"value": "a;to-tag=b;from-tag=c\r\nReplaces: d;to-tag=e;from-tag=f"}, 400),
        ({"early": ";early-only"}, 486),
        ({"host": "203.0.113.9"}, 603),
    ],
)
def test_places_that_nobody_can_take(settings: dict[str, str], code: int) -> None:
    bench = Bench()
    old = bench.call(bench.peer())
    replacing(bench, old, **settings)
    assert bench.last().code == code
    assert bench.told() == []
    assert old.state is CallState.CONFIRMED


def test_a_place_that_is_not_taken_yet_or_no_more() -> None:
    bench = Bench()
    bench.peer().ask("INVITE", body=OFFER)
    old = bench.invited()
    bench.heard()
    replacing(bench, old)
    assert bench.last().code == 481
    ended = bench.call(bench.peer())
    bench.hang_up(ended)
    replacing(bench, ended)
    assert bench.last().code == 603


def test_a_trusted_host_may_take_any_place() -> None:
    bench = Bench(trusted=lambda host: True)
    replacing(bench, bench.call(bench.peer()), host="203.0.113.9")
    assert bench.told() == ["invited"]


def test_replaces_round_trip() -> None:
    for text in ("a@b;to-tag=1;from-tag=2", "a;to-tag=1;from-tag=2;early-only"):
        assert str(Replaces.parse(text)) == text
