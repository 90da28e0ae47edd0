"""transactions.py: what is told of requests of ours, and how often."""

from __future__ import annotations

from dataclasses import replace

import pytest

from signaling.sip.message import Request, Response, respond
from signaling.sip.transaction import Flow
from signaling.sip.transactions import Transactions
from signaling.sip.wire import parse
from tests.signaling.sip.bench import TCP, UDP
from tests.signaling.sip.test_transaction import request


class Asking:
    """A layer of transactions, and what one request of ours is told."""

    def __init__(self, method: str, flow: Flow = UDP, **fields: str) -> None:
        self.layer, self.heard = Transactions(), list[tuple[int, float]]()
        self.request = request(method, **fields)
        self.layer.ask(self.request, flow, 0.0, lambda response, now: self.heard.append((_code(response), now)))

    def answer(self, code: int, now: float = 1.0) -> bool:
        return self.layer.answered(respond(self.request, code, to_tag="theirs"), now)

    def sent(self) -> list[str]:
        sent, self.layer.outgoing = [parse(data) for data, _ in self.layer.outgoing], []
        return [message.method for message in sent if isinstance(message, Request)]

    def wait(self) -> None:
        while (at := self.layer.next_at) is not None:
            self.layer.fire(at)


def _code(response: Response | None) -> int:
    return response.code if response else 0


def test_an_invite_is_told_of_everything_but_repeated_refusals() -> None:
    asking = Asking("INVITE")
    assert [asking.answer(code) for code in (100, 180, 486, 486, 200)] == [True, True, True, True, False]
    assert [code for code, _ in asking.heard] == [100, 180, 486]
    assert asking.sent() == ["INVITE", "ACK", "ACK"]
    asking.wait()
    assert len(asking.layer) == 0 and len(asking.heard) == 3


def test_an_invite_is_told_of_each_2xx_and_acknowledges_none() -> None:
    asking = Asking("INVITE")
    assert [asking.answer(code) for code in (200, 200, 486)] == [True, True, False]
    assert [code for code, _ in asking.heard] == [200, 200]
    assert asking.sent() == ["INVITE"]
    assert not asking.layer.asking


def test_another_request_is_told_of_one_final_response() -> None:
    asking = Asking("OPTIONS")
    assert [asking.answer(code) for code in (100, 404, 404, 200)] == [True, True, False, False]
    assert [code for code, _ in asking.heard] == [100, 404]


@pytest.mark.parametrize("method", ["INVITE", "OPTIONS"])
def test_nobody_answers(method: str) -> None:
    asking = Asking(method)
    assert asking.layer.asking
    asking.wait()
    assert asking.heard == [(0, 32.0)]
    assert len(asking.layer) == 0


def test_an_invite_that_nobody_answered_is_over_with_its_connection() -> None:
    asking = Asking("INVITE", TCP)
    asking.layer.lost(replace(TCP, serial=TCP.serial + 1), 1.0)
    assert asking.heard == []
    asking.layer.lost(TCP, 2.0)
    assert asking.heard == [(0, 2.0)]
    assert len(asking.layer) == 0 and not asking.answer(200)


@pytest.mark.parametrize("method", ["OPTIONS", "INVITE"])
def test_what_can_still_be_answered_outlives_its_connection(method: str) -> None:
    """By another one: a server that finds the request's gone opens one of its own (RFC 3261, section 18.2.2)."""
    asking = Asking(method, TCP)
    assert asking.answer(100)
    asking.layer.lost(TCP, 1.0)
    assert asking.answer(200)
    assert [code for code, _ in asking.heard] == [100, 200]


def test_a_request_within_a_call_outlives_its_connection() -> None:
    asking = Asking("INVITE", TCP, To="<sip:bob@example.org>;tag=theirs")
    asking.layer.lost(TCP, 1.0)
    assert asking.answer(200)


def test_a_request_without_anybody_to_tell() -> None:
    layer = Transactions()
    ours = request("BYE")
    layer.ask(ours, TCP, 0.0)
    assert layer.answered(respond(ours, 200), 1.0)
    assert not layer.asking
