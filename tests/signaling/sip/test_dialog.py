"""dialog.py: every cell of the tables, what our requests look like, and what a dialog waits for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from signaling.sip.dialog import (
    CALL,
    GLARE,
    RING_S,
    Alarm,
    Dialog,
    Do,
    Input,
    Negotiation,
    State,
    contact,
)
from signaling.sip.digest import Authenticator, Login, parse_credentials
from signaling.sip.message import Request, respond
from signaling.sip.sessiontimer import SessionTimer
from signaling.sip.transaction import Flow
from signaling.sip.wire import parse

UDP = Flow("UDP", ("192.0.2.7", 5070), ("198.51.100.1", 5060))
TCP = Flow("TCP", ("2001:db8::7", 40000), ("2001:db8::1", 5060), serial=3)


def request(*extra: str, method: str = "INVITE", body: str = "", **changed: str) -> Request:
    fields = {
        "Via": "SIP/2.0/UDP 192.0.2.7:5070;branch=z9hG4bK1",
        "From": '"Alice" <sip:alice@example.com>;tag=theirs',
        "To": "<sip:agent@example.org>",
        "Call-ID": "1@example.com",
        "CSeq": f"7 {method}",
        "Contact": "<sip:alice@192.0.2.7:5070>",
    }
    fields |= {name.replace("_", "-"): value for name, value in changed.items()}
    lines = [f"{method} sip:agent@example.org SIP/2.0", *(f"{name}: {value}" for name, value in fields.items())]
    message = parse("\r\n".join([*lines, *extra, "", body]).encode())
    assert isinstance(message, Request)
    return message


def dialog(*extra: str, flow: Flow = UDP, **changed: str) -> Dialog:
    return Dialog.invited(request(*extra, **changed), flow, "ours", 0.0)


# --- the tables ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", Input)
@pytest.mark.parametrize("state", State)
def test_every_cell(state: State, what: Input) -> None:
    call = dialog()
    call.state = state
    if (state, what) in CALL:
        after, actions = CALL[state, what]
        assert call.handle(what) == actions
        assert call.state is after
    else:
        assert call.handle(what) is None
        assert call.state is state


def test_nothing_comes_after_the_end_and_every_call_can_get_there() -> None:
    assert not [cell for cell in CALL if cell[0] is State.TERMINATED]
    assert CALL[State.PLACED, Input.DROPPED][0] is State.TERMINATED
    for state in (State.EARLY, State.ACCEPTED, State.CONFIRMED):
        assert (state, Input.HANG_UP) in CALL
        assert (state, Input.BYE) in CALL
    alone = {State.EARLY: Input.UNANSWERED, State.ACCEPTED: Input.NO_ACK, State.ENDING: Input.NO_ACK}
    for state, alarm in alone.items():
        assert CALL[state, alarm][0] is State.TERMINATED


def test_no_bye_before_the_ack() -> None:
    """RFC 3261, section 15: unless we gave up waiting for it."""
    byes = {cell for cell, (_, actions) in CALL.items() if Do.BYE in actions}
    assert {what for state, what in byes if state is not State.CONFIRMED} == {Input.ACK, Input.NO_ACK}


def test_only_an_unanswered_invite_is_refused() -> None:
    assert {state for (state, _), (_, actions) in CALL.items() if Do.REFUSE in actions} == {State.EARLY}


@pytest.mark.parametrize("method", ["INVITE", "UPDATE"])
@pytest.mark.parametrize("negotiation", Negotiation)
def test_every_cell_of_glare(negotiation: Negotiation, method: str) -> None:
    expected = None if negotiation is Negotiation.STABLE else 500
    if (negotiation, method) == (Negotiation.OFFERING, "UPDATE") or negotiation is Negotiation.ASKING:
        expected = 491  # RFC 3311, section 5.2; RFC 3261, section 14.2
    assert GLARE.get((negotiation, method)) == expected


# --- the dialog an INVITE of ours begins ---------------------------------------------------------------------------


def placed(*extra: tuple[str, str], body: str = "", authenticator: Authenticator | None = None) -> Dialog:
    fields = (("Record-Route", "<sip:p1;lr>, <sip:p2;lr>"), ("Record-Route", "<sip:p3;lr>"), *extra)
    response = respond(request(body=body), 180, *fields, to_tag="far")
    return Dialog.placed(request(body=body), response, UDP, authenticator)


def test_what_a_response_to_an_invite_of_ours_says() -> None:
    call = placed(("Contact", "<sip:bob@192.0.2.9>"), body="our offer")
    assert call.id == ("1@example.com", "theirs", "far")
    assert (call.local, call.remote) == (
        '"Alice" <sip:alice@example.com>;tag=theirs',
        "<sip:agent@example.org>;tag=far",
    )
    assert (call.target, call.routes) == ("sip:bob@192.0.2.9", ("<sip:p3;lr>", "<sip:p2;lr>", "<sip:p1;lr>"))
    assert (call.state, call.negotiation, call.local_media) == (State.PLACED, Negotiation.ASKING, "our offer")
    assert (call.peer, call.local_cseq, call.alarms) == ("callee", 7, {})
    assert call.in_order(request(CSeq="0 INVITE"))


def test_without_a_contact_the_call_goes_on_to_where_it_went() -> None:
    assert placed().target == "sip:agent@example.org"
    assert placed().negotiation is Negotiation.STABLE


def test_a_way_back_that_nobody_can_read_is_none() -> None:
    assert placed(("Record-Route", "<<")).routes == ()


def test_the_ack_of_a_2xx_has_the_number_of_its_invite_whatever_was_asked_meanwhile() -> None:
    call = placed()
    assert call.request("PRACK", "b1").cseq == (8, "PRACK")
    ack = call.ack(7, "b2", "our answer")
    assert parse(bytes(ack)) == ack
    assert (ack.cseq, ack.media, ack.content_type) == ((7, "ACK"), "our answer", "application/sdp")
    assert call.request("BYE", "b3").cseq == (9, "BYE")


def test_what_was_asked_of_us_once_is_told_at_once() -> None:
    authenticator = Authenticator(Login("ada", "secret"), lambda: "cnonce")
    fields = ("Proxy-Authenticate", 'Digest realm="r", nonce="n", qop="auth"')
    challenge = respond(request(), 407, fields, phrase="Proxy Authentication Required")
    authenticator.learn(challenge)
    bye = placed(authenticator=authenticator).request("BYE", "b1")
    credentials = parse_credentials(bye.headers.get("Proxy-Authorization"))
    assert credentials.response == credentials.expected("secret", "BYE")
    assert (credentials.uri, credentials.nc) == (bye.uri, "00000001")


# --- the dialog an INVITE begins -----------------------------------------------------------------------------------


def test_what_an_invite_says() -> None:
    call = dialog("Record-Route: <sip:p2;lr>, <sip:p1;lr>", "Record-Route: <sip:p0;lr>", body="v=0")
    assert call.id == ("1@example.com", "ours", "theirs")
    assert call.local == "<sip:agent@example.org>;tag=ours"
    assert call.remote == '"Alice" <sip:alice@example.com>;tag=theirs'
    assert call.target == "sip:alice@192.0.2.7:5070"
    assert call.routes == ("<sip:p2;lr>", "<sip:p1;lr>", "<sip:p0;lr>")
    assert (call.remote_cseq, call.remote_media, call.state) == (7, "v=0", State.EARLY)
    assert not call.natted


def test_without_a_contact_that_can_be_read_from_is_the_target() -> None:
    assert dialog(Contact="*").target == "sip:alice@example.com"


@pytest.mark.parametrize(
    ("via", "contact_host", "natted"),
    [
        ("192.0.2.7", "192.0.2.7", False),
        ("10.0.0.5", "10.0.0.5", True),
        ("10.0.0.5", "192.0.2.7", False),
        ("10.0.0.5", "10.0.0.50", False),
        ("192.0.2.7", "10.0.0.5", False),
    ],
)
def test_a_peer_that_names_an_address_it_does_not_come_from(via: str, contact_host: str, natted: bool) -> None:
    call = dialog(Via=f"SIP/2.0/UDP {via};branch=z9hG4bK1", Contact=f"<sip:a@{contact_host}:5070>")
    assert call.natted is natted


def test_older_requests_are_out_of_order() -> None:
    call = dialog()
    assert not call.in_order(request(method="BYE", CSeq="6 BYE"))
    assert call.in_order(request(method="INFO", CSeq="9 INFO"))
    assert not call.in_order(request(method="BYE", CSeq="8 BYE"))


def test_a_target_refresh() -> None:
    call = dialog()
    call.retarget(request(Contact="<sip:new@192.0.2.8>"))
    assert call.target == "sip:new@192.0.2.8"
    call.retarget(request(Contact="*"))
    assert call.target == "sip:new@192.0.2.8"


# --- our requests --------------------------------------------------------------------------------------------------


def test_a_request_of_ours() -> None:
    call = dialog()
    bye = call.request("BYE", "b1", ("Reason", "SIP"))
    assert parse(bytes(bye)) == bye
    assert bytes(bye).decode().split("\r\n")[:8] == [
        "BYE sip:alice@192.0.2.7:5070 SIP/2.0",
        "Via: SIP/2.0/UDP 198.51.100.1:5060;rport;branch=z9hG4bKb1",
        "Max-Forwards: 70",
        "From: <sip:agent@example.org>;tag=ours",
        'To: "Alice" <sip:alice@example.com>;tag=theirs',
        "Call-ID: 1@example.com",
        "CSeq: 1 BYE",
        "Reason: SIP",
    ]
    assert call.request("BYE", "b2").cseq == (2, "BYE")


@pytest.mark.parametrize("lr", ["lr", "lr=on", "r2=on;LR", "lr;ftag=x"])
def test_loose_routes_are_followed(lr: str) -> None:
    """`lr=on` is how proxies humour agents that cannot read a parameter without a value."""
    call = dialog(f"Record-Route: <sip:p1;{lr}>, <sip:p0;lr>")
    bye = call.request("BYE", "b")
    assert bye.uri == "sip:alice@192.0.2.7:5070"
    assert bye.headers.getlist("Route") == (f"<sip:p1;{lr}>", "<sip:p0;lr>")
    assert call.next_hop == f"sip:p1;{lr}"


def test_a_strict_router_gets_its_own_uri() -> None:
    """RFC 3261, section 12.2.1.1."""
    call = dialog("Record-Route: <sip:p1>, <sip:p0;lr>")
    bye = call.request("BYE", "b")
    assert bye.uri == "sip:p1"
    assert bye.headers.getlist("Route") == ("<sip:p0;lr>", "<sip:alice@192.0.2.7:5070>")


@pytest.mark.parametrize(
    ("uri", "route", "place", "scheme"),
    [
        ("sip:agent@example.org", "", "sip:a@192.0.2.7;transport=tls", "sip"),
        ("sips:agent@example.org", "", "sip:a@192.0.2.7", "sips"),
        ("sip:agent@example.org", "", "SIPS:a@192.0.2.7", "sips"),
        ("sip:agent@example.org", "<sips:192.0.2.9;lr>", "sip:a@192.0.2.7", "sips"),
        ("sip:agent@example.org", "<sip:192.0.2.9;lr>", "sips:a@192.0.2.7", "sip"),
    ],
)
def test_our_contact_is_secure_where_the_way_to_us_was(uri: str, route: str, place: str, scheme: str) -> None:
    """RFC 3261, section 12.1.1."""
    extra = [f"Record-Route: {route}"] if route else []
    invite = replace(request(*extra, Contact=f"<{place}>"), uri=uri)
    local = "198.51.100.1:5061"
    over_tls = Flow("TLS", ("192.0.2.7", 40000), ("198.51.100.1", 5061), serial=1)
    tls = Dialog.invited(invite, over_tls, "ours", 0.0)
    assert tls.contact == (f"<sips:{local}>" if scheme == "sips" else f"<sip:{local};transport=tls>")
    assert Dialog.invited(invite, UDP, "ours", 0.0).contact == "<sip:198.51.100.1:5060>"  # not said of what is not TLS


def test_our_contact() -> None:
    assert contact(UDP) == "<sip:198.51.100.1:5060>"
    assert contact(TCP) == "<sip:[2001:db8::1]:5060;transport=tcp>"
    assert "Via: SIP/2.0/TCP [2001:db8::1]:5060;" in bytes(dialog(flow=TCP).request("BYE", "b")).decode()


# --- what it waits for ---------------------------------------------------------------------------------------------


def wait(call: Dialog, until: float) -> list[tuple[float, Alarm]]:
    """Let time pass; what was due when."""
    heard = []
    while (at := call.next_at) is not None and at <= until:
        heard += [(at, alarm) for alarm in call.due(at)]
    return heard


def test_it_does_not_ring_for_ever() -> None:
    call = dialog()
    assert wait(call, 1000.0) == [(RING_S, Alarm.UNANSWERED)]
    assert call.next_at is None


def test_a_2xx_is_repeated_and_given_up() -> None:
    """T1, doubling to T2, for 64 T1, on every transport (RFC 3261, section 13.3.1.4)."""
    call = dialog(flow=TCP)
    call.handle(Input.ACCEPT)
    call.accepted(request(body="v=0"), b"200", TCP, 100.0)
    heard = wait(call, 132.0)
    assert [at - 100 for at, alarm in heard if alarm is Alarm.REPEAT] == [
        *(0.5, 1.5, 3.5, 7.5, 11.5, 15.5, 19.5, 23.5, 27.5, 31.5)
    ]
    assert heard[-1] == (132.0, Alarm.NO_ACK)
    assert call.handle(Input.NO_ACK) == (Do.BYE,)
    assert call.next_at is None


@pytest.mark.parametrize(("body", "negotiation"), [("v=0", Negotiation.ANSWERED), ("", Negotiation.OFFERING)])
def test_the_ack_silences_it(body: str, negotiation: Negotiation) -> None:
    call = dialog()
    call.handle(Input.ACCEPT)
    call.accepted(request(body=body), b"200", UDP, 0.0)
    assert (call.negotiation, call.accepted_cseq) == (negotiation, 7)
    assert call.handle(Input.ACK) == ()
    assert call.next_at is None


def test_hung_up_it_still_waits_for_the_ack() -> None:
    call = dialog()
    call.handle(Input.ACCEPT)
    call.accepted(request(body="v=0"), b"200", UDP, 0.0)
    call.refreshed(SessionTimer(90), 0.0)
    call.handle(Input.HANG_UP)
    assert set(call.alarms) == {Alarm.REPEAT, Alarm.NO_ACK}


@pytest.mark.parametrize(("interval", "at"), [(90, 60.0), (96, 64.0), (1800, 1768.0)])
def test_it_ends_shortly_before_the_session_expires(interval: int, at: float) -> None:
    """RFC 4028, section 10: the lesser of 32 s and a third of the interval before."""
    call = dialog()
    call.alarms.clear()
    call.refreshed(SessionTimer(interval), 0.0)
    assert wait(call, 2000.0) == [(at, Alarm.EXPIRED)]
    call.refreshed(SessionTimer(interval, ours=True), 0.0)
    assert wait(call, 2000.0) == [(interval / 2, Alarm.REFRESH), (at, Alarm.EXPIRED)]
    call.refreshed(SessionTimer(interval, ours=True), 0.0)
    call.refreshed(None, 1.0)
    assert call.next_at is None
