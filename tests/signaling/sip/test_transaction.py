"""transaction.py: every cell of every table, and the timers with a made-up clock."""

from __future__ import annotations

import pytest

from signaling.sip.message import Request, Response, respond
from signaling.sip.transaction import (
    CLIENT,
    INVITE_CLIENT,
    INVITE_SERVER,
    SERVER,
    T1,
    T2,
    T4,
    TIMERS,
    Do,
    Input,
    State,
    Table,
    Transaction,
    acknowledgement,
    cancellation,
    client,
    invite_key,
    invite_server,
    key,
    response_input,
    response_key,
    server,
)
from signaling.sip.wire import parse

TABLES = {"invite server": INVITE_SERVER, "server": SERVER, "client": CLIENT, "invite client": INVITE_CLIENT}
CELLS = [(name, state, what) for name in TABLES for state in State for what in Input]
NEW, OLD = b"new", b"old"


def request(method: str = "OPTIONS", via: str = "SIP/2.0/UDP h;branch=z9hG4bK1", **changed: str) -> Request:
    fields = {"Via": via, "From": "<sip:a@b>;tag=f", "To": "<sip:c@d>", "Call-ID": "1", "CSeq": f"1 {method}"}
    fields |= {name.replace("_", "-"): value for name, value in changed.items()}
    lines = [f"{method} sip:c@d SIP/2.0", *(f"{name}: {value}" for name, value in fields.items())]
    message = parse("\r\n".join([*lines, "", ""]).encode())
    assert isinstance(message, Request)
    return message


def respond_to(method: str, code: int) -> Response:
    return respond(request(method), code)


def run(transaction: Transaction, until: float) -> list[float]:
    """Let time pass; when something was sent."""
    sent = []
    transaction.outbox.clear()
    while (at := transaction.next_at) is not None and at <= until:
        transaction.fire(at)
        sent += [at] * len(transaction.outbox)
        transaction.outbox.clear()
    return sent


# --- the tables ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "state", "what"), CELLS, ids=str)
def test_every_cell(name: str, state: State, what: Input) -> None:
    """What is in the table happens as it says; what is not has no effect at all."""
    table: Table = TABLES[name]
    transaction = Transaction(table, state, reliable=False, last=OLD)
    if (state, what) not in table:
        assert not transaction.handle(what, 10.0, NEW)
        assert (transaction.state, transaction.outbox, transaction.next_at) == (state, [], None)
        return
    after, actions = table[state, what]
    assert transaction.handle(what, 10.0, NEW)
    assert transaction.state is after
    assert transaction.outbox == [NEW] * (Do.SEND in actions) + [OLD] * (Do.RESEND in actions)
    started = [TIMERS[action.name] for action in actions if action.name in TIMERS]
    assert transaction.next_at == min((10.0 + timer.seconds for timer in started), default=None)


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_closed(name: str) -> None:
    """Every state that can be reached can be left for TERMINATED by timers alone, except where the user must act."""
    table = TABLES[name]
    assert not [cell for cell in table if cell[0] is State.TERMINATED]
    reached = {state for state, _ in table.values()} | {cell[0] for cell in table}
    waits_for_user = {State.TRYING, State.PROCEEDING} if "server" in name else set()
    waits_for_user |= {State.PROCEEDING} if name == "invite client" else set()
    for state in reached - {State.TERMINATED} - waits_for_user:
        timers = {what for at, what in table if at is state and what.name in TIMERS}
        assert timers, f"{name}: nothing ends {state}"


def test_the_figures_of_the_timers() -> None:
    assert (T1, T2, T4) == (0.5, 4.0, 5.0)
    assert {name[-1]: timer.seconds for name, timer in TIMERS.items()} == {
        **{"A": T1, "B": 32.0, "D": 32.0, "M": 32.0},
        **{"E": T1, "F": 32.0, "G": T1, "H": 32.0, "I": T4, "J": 32.0, "K": T4, "L": 32.0},
    }


@pytest.mark.parametrize(
    ("code", "what"),
    [(100, Input.PROVISIONAL), (199, Input.PROVISIONAL), (200, Input.SUCCESS), (299, Input.SUCCESS)]
    + [(300, Input.FAILURE), (699, Input.FAILURE)],
)
def test_responses_as_inputs(code: int, what: Input) -> None:
    assert response_input(code) is what


# --- INVITE server -------------------------------------------------------------------------------------------------


def test_a_failure_is_repeated_until_its_ack() -> None:
    """Timer G doubles up to T2 and runs until H, 32 s."""
    transaction = invite_server(reliable=False)
    assert transaction.answer(respond_to("INVITE", 486), 0.0)
    assert run(transaction, 31.9) == [0.5, 1.5, 3.5, 7.5, 11.5, 15.5, 19.5, 23.5, 27.5, 31.5]
    assert run(transaction, 100.0) == []
    assert transaction.state is State.TERMINATED


def test_an_ack_ends_the_repetition_and_is_absorbed() -> None:
    transaction = invite_server(reliable=False)
    transaction.answer(respond_to("INVITE", 486), 0.0)
    assert run(transaction, 2.0) == [0.5, 1.5]
    assert transaction.handle(Input.ACK, 2.0)
    assert not transaction.handle(Input.ACK, 2.1)
    assert (transaction.state, transaction.next_at) == (State.CONFIRMED, 2.0 + T4)
    assert run(transaction, 7.0) == []
    assert transaction.state is State.TERMINATED


def test_nothing_is_repeated_on_a_reliable_transport() -> None:
    transaction = invite_server(reliable=True)
    transaction.answer(respond_to("INVITE", 486), 0.0)
    assert transaction.next_at == 32.0
    transaction.handle(Input.ACK, 1.0)
    transaction.fire(1.0)
    assert transaction.state is State.TERMINATED


def test_a_repeated_invite_gets_the_last_provisional() -> None:
    transaction = invite_server(reliable=False)
    assert transaction.handle(Input.REQUEST, 0.0)
    assert transaction.outbox == []
    transaction.answer(respond_to("INVITE", 100), 0.0)
    transaction.answer(respond_to("INVITE", 180), 0.0)
    transaction.handle(Input.REQUEST, 0.5)
    assert [data.split()[1] for data in transaction.outbox] == [b"100", b"180", b"180"]


@pytest.mark.parametrize("reliable", [False, True])
def test_accepted_absorbs_repeated_invites_for_32_s(reliable: bool) -> None:
    """RFC 6026: the transaction lives on after a 2xx, and does not repeat it."""
    transaction = invite_server(reliable)
    transaction.answer(respond_to("INVITE", 200), 0.0)
    transaction.outbox.clear()
    assert transaction.handle(Input.REQUEST, 0.5)
    assert transaction.outbox == []
    assert not transaction.handle(Input.ACK, 0.6)  # the dialog's, which takes it from here
    assert not transaction.answer(respond_to("INVITE", 486), 0.7)  # one final answer
    assert run(transaction, 31.9) == []
    assert transaction.next_at == 32.0
    transaction.fire(32.0)
    assert transaction.state is State.TERMINATED


# --- other servers -------------------------------------------------------------------------------------------------


def test_a_repeated_request_gets_the_same_answer_for_32_s() -> None:
    transaction = server(reliable=False)
    assert not transaction.handle(Input.REQUEST, 0.0)
    transaction.answer(respond_to("BYE", 200), 0.0)
    first = transaction.outbox.pop()
    transaction.handle(Input.REQUEST, 31.0)
    assert transaction.outbox == [first]
    assert not transaction.answer(respond_to("BYE", 481), 31.0)
    transaction.fire(32.0)
    assert transaction.state is State.TERMINATED


def test_on_a_reliable_transport_it_is_over_at_once() -> None:
    transaction = server(reliable=True)
    transaction.answer(respond_to("BYE", 200), 0.0)
    transaction.fire(0.0)
    assert transaction.state is State.TERMINATED


# --- client --------------------------------------------------------------------------------------------------------


def test_a_request_is_repeated_until_it_times_out() -> None:
    transaction = client(request("BYE"), False, 0.0)
    assert len(transaction.outbox) == 1
    assert run(transaction, 100.0) == [0.5, 1.5, 3.5, 7.5, 11.5, 15.5, 19.5, 23.5, 27.5, 31.5]
    assert transaction.state is State.TERMINATED


def test_after_a_provisional_it_is_repeated_each_t2() -> None:
    transaction = client(request("BYE"), False, 0.0)
    transaction.handle(Input.PROVISIONAL, 0.1)
    assert run(transaction, 12.0) == [0.5, 4.5, 8.5]
    transaction.handle(Input.SUCCESS, 12.0)
    assert run(transaction, 16.9) == []
    transaction.fire(12.0 + T4)
    assert transaction.state is State.TERMINATED


def test_a_reliable_client_waits_without_repeating() -> None:
    transaction = client(request("BYE"), True, 0.0)
    assert run(transaction, 31.9) == []
    transaction.fire(32.0)
    assert transaction.state is State.TERMINATED


def test_a_stalled_clock_fires_what_is_due_in_order() -> None:
    transaction = client(request("BYE"), False, 0.0)
    transaction.fire(40.0)  # E was due first, then F
    assert transaction.state is State.TERMINATED
    assert len(transaction.outbox) == 2


# --- keys ----------------------------------------------------------------------------------------------------------


def test_a_repetition_has_the_key_of_the_first() -> None:
    assert key(request()) == key(request(From="<sip:other@b>;tag=g"))


@pytest.mark.parametrize(
    "other",
    [
        request(via="SIP/2.0/UDP h;branch=z9hG4bK2"),
        request(via="SIP/2.0/UDP i;branch=z9hG4bK1"),
        request(via="SIP/2.0/UDP h:5070;branch=z9hG4bK1"),
        request("INFO"),
    ],
)
def test_what_tells_transactions_apart(other: Request) -> None:
    assert key(request()) != key(other)


def test_hosts_compare_without_case_and_5060_is_the_default() -> None:
    assert key(request(via="SIP/2.0/UDP H:5060;branch=z9hG4bK1")) == key(request())


@pytest.mark.parametrize("branch", ["", ";branch=1", ";branch=z9hG4bK"])
def test_ack_and_cancel_find_their_invite(branch: str) -> None:
    """With the cookie and, RFC 2543, without; a branch of nothing but the cookie is no branch."""
    via = f"SIP/2.0/UDP h{branch}"
    invite = request("INVITE", via)
    assert key(request("ACK", via, To="<sip:c@d>;tag=ours")) == key(invite)
    assert invite_key(request("CANCEL", via)) == key(invite)
    assert key(request("CANCEL", via)) != key(invite)


def test_without_cookie_the_call_tells_transactions_apart() -> None:
    via = "SIP/2.0/UDP h"
    assert key(request(via=via)) == key(request(via=via))
    assert key(request(via=via)) != key(request(via=via, Call_ID="2"))
    assert key(request(via=via)) != key(request(via=via, CSeq="2 OPTIONS"))


def test_a_response_finds_its_request_by_branch_and_method() -> None:
    bye = request("BYE")
    assert response_key(respond(bye, 200)) == ("z9hG4bK1", "BYE")


# --- INVITE client -------------------------------------------------------------------------------------------------


def test_an_invite_is_repeated_at_doubling_intervals_and_given_up() -> None:
    transaction = client(request("INVITE"), False, 0.0)
    assert run(transaction, 100.0) == [0.5, 1.5, 3.5, 7.5, 15.5, 31.5]
    assert transaction.state is State.TERMINATED


def test_an_invite_that_rings_is_not_given_up() -> None:
    transaction = client(request("INVITE"), False, 0.0)
    transaction.handle(Input.PROVISIONAL, 0.2)
    assert (run(transaction, 1000.0), transaction.state, transaction.next_at) == ([], State.PROCEEDING, None)


@pytest.mark.parametrize("reliable", [True, False])
def test_each_refusal_of_an_invite_is_acknowledged(reliable: bool) -> None:
    transaction = client(request("INVITE"), reliable, 0.0)
    transaction.outbox.clear()
    for _ in range(1 if reliable else 3):
        assert transaction.handle(Input.FAILURE, 1.0, b"ACK")
    assert transaction.outbox == [b"ACK"] * (1 if reliable else 3)
    assert transaction.next_at == (1.0 if reliable else 33.0)


@pytest.mark.parametrize("reliable", [True, False])
def test_each_2xx_to_an_invite_is_for_who_called(reliable: bool) -> None:
    """RFC 6026, section 7.2: 64 T1 long, on every transport."""
    transaction = client(request("INVITE"), reliable, 0.0)
    transaction.outbox.clear()
    assert all(transaction.handle(Input.SUCCESS, 1.0) for _ in range(3))
    assert not transaction.handle(Input.FAILURE, 1.0)
    assert (transaction.outbox, transaction.next_at) == ([], 33.0)


def test_ack_and_cancel_of_an_invite_of_ours() -> None:
    invite = request("INVITE", Route="<sip:p1;lr>, <sip:p2;lr>", Contact="<sip:me@here>")
    refusal = respond(invite, 486, to_tag="theirs")
    ack, cancel = acknowledgement(invite, refusal), cancellation(invite)
    assert ack.to_tag == "theirs" and cancel.to_tag == ""
    for made in (ack, cancel):
        assert parse(bytes(made)) == made
        assert (made.uri, made.via, made.from_, made.call_id) == (invite.uri, invite.via, invite.from_, invite.call_id)
        assert made.cseq == (1, made.method)
        assert made.headers.values("Route") == ("<sip:p1;lr>", "<sip:p2;lr>")
        assert not made.headers.get("Contact")
