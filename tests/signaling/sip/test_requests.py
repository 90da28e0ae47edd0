"""requests.py: what we send within a dialog, by which way, and a BYE that is asked for a password."""

from __future__ import annotations

from dataclasses import replace

import pytest

from signaling.sip.dialog import LINGER_S, Alarm, Dialog
from signaling.sip.digest import parse_credentials
from signaling.sip.message import Request, Response, respond
from signaling.sip.requests import Requests
from signaling.sip.transaction import Flow, cancellation
from signaling.sip.transactions import Transactions
from signaling.sip.wire import parse
from tests.signaling.sip.test_dialog import TCP, UDP, dialog
from tests.signaling.sip.test_digest import authenticator, challenged, numbered


class Sending:
    """Requests of ours on a bench. `roused` are the dialogs whose alarms were said to be others, in order."""

    def __init__(self) -> None:
        self.transactions = Transactions()
        self.roused: list[Dialog] = []
        self.requests = Requests(self.transactions, lambda host: False, numbered(), self.roused.append)

    def sent(self) -> list[tuple[Request, Flow]]:
        """What left since the last look, and by which way."""
        outgoing, self.transactions.outgoing = self.transactions.outgoing, []
        found = []
        for data, flow in outgoing:
            message = parse(data)
            assert isinstance(message, Request)
            found.append((message, flow))
        return found

    def answer(self, request: Request, code: int, *fields: tuple[str, str]) -> bool:
        return self.transactions.answered(respond(request, code, *fields, phrase="As said"), 1.0)


@pytest.fixture
def sending() -> Sending:
    return Sending()


@pytest.mark.parametrize("flow", [UDP, TCP], ids=["UDP", "TCP"])
def test_a_request_goes_the_dialogs_way_and_its_answer_is_told(sending: Sending, flow: Flow) -> None:
    told: list[tuple[int, float]] = []
    call = dialog(flow=flow)

    def note(response: Response | None, now: float) -> None:
        assert response is not None
        told.append((response.code, now))

    asked = sending.requests.ask(call, "UPDATE", 0.0, ("Subject", "hold"), told=note, media="v=0")
    [(request, way)] = sending.sent()
    assert bytes(request) == bytes(asked)
    assert way == sending.requests.way_to(call)
    assert (request.cseq, request.media, request.headers.get("Subject")) == ((1, "UPDATE"), "v=0", "hold")
    assert sending.answer(request, 200)
    assert told == [(200, 1.0)]


def test_a_body_that_is_no_description(sending: Sending) -> None:
    sending.requests.ask(dialog(), "NOTIFY", 0.0, ("Content-Type", "message/sipfrag"), body=b"SIP/2.0 100 Trying")
    [(request, _)] = sending.sent()
    assert (request.content_type, request.body) == ("message/sipfrag", b"SIP/2.0 100 Trying")


def test_a_request_that_is_made_already(sending: Sending) -> None:
    call = dialog()
    invite = sending.requests.ask(call, "INVITE", 0.0)
    sending.sent()
    sending.requests.send(call, cancellation(invite), 0.0)
    [(cancel, way)] = sending.sent()
    assert (cancel.cseq, cancel.via.parameters["branch"]) == ((1, "CANCEL"), invite.via.parameters["branch"])
    assert way == UDP


def test_who_is_waited_for_no_more(sending: Sending) -> None:
    invite = sending.requests.ask(dialog(), "INVITE", 0.0)
    assert sending.transactions.asking
    sending.requests.abandon(invite)
    assert not sending.transactions.asking and sending.transactions.next_at is None


def test_an_ack_is_no_transaction(sending: Sending) -> None:
    call = dialog()
    sending.requests.acknowledge(call, 4)
    sending.requests.acknowledge(call, 4)
    acks = [request for request, _ in sending.sent()]
    assert [ack.cseq for ack in acks] == [(4, "ACK")] * 2
    assert acks[0].via.parameters["branch"] != acks[1].via.parameters["branch"]
    assert len(sending.transactions) == 0


def test_a_bye_says_why_and_the_dialog_lingers(sending: Sending) -> None:
    call = dialog()
    call.farewell = 'a "reason"'
    sending.requests.bye(call, 10.0)
    [(bye, way)] = sending.sent()
    assert (bye.method, bye.headers.get("Reason"), way) == ("BYE", "SIP;text=\"a 'reason'\"", UDP)
    assert call.alarms[Alarm.FORGET] == 10.0 + LINGER_S
    assert sending.roused == [], "whoever has it sent sets the alarm"
    assert sending.answer(bye, 200)
    assert sending.sent() == []


def test_a_bye_that_is_asked_for_a_password_is_sent_again_with_it(sending: Sending) -> None:
    call = replace(dialog(), authenticator=authenticator())
    sending.requests.bye(call, 0.0)
    [(bare, _)] = sending.sent()
    assert sending.answer(bare, 407, challenged(proxy=True))
    [(bye, _)] = sending.sent()
    credentials = parse_credentials(bye.headers.get("Proxy-Authorization"))
    assert credentials.response == credentials.expected("wonderland", "BYE")
    assert bye.cseq[0] == bare.cseq[0] + 1
    assert sending.roused == [call]
    assert call.alarms[Alarm.FORGET] == 1.0 + LINGER_S


def test_who_refuses_the_password_is_not_told_it_again(sending: Sending) -> None:
    call = replace(dialog(), authenticator=authenticator())
    sending.requests.bye(call, 0.0)
    for nonce in ("n1", "n2"):
        [(bye, _)] = sending.sent()
        assert sending.answer(bye, 407, challenged(proxy=True, nonce=nonce))
    assert sending.sent() == []


@pytest.mark.parametrize("code", [401, 407, 481, 503])
def test_without_a_password_a_bye_is_sent_once(sending: Sending, code: int) -> None:
    call = dialog()
    sending.requests.bye(call, 0.0)
    [(bye, _)] = sending.sent()
    assert sending.answer(bye, code, challenged())
    assert sending.sent() == [] and sending.roused == []
